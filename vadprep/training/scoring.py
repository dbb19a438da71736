"""Features become scores, by a trained head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch

from vadprep.core.errors import CheckpointError, FeaturesError
from vadprep.evaluation.metrics import VideoScores, listed
from vadprep.features.reader import Features, VideoFeatures, read_snippets, streams_of
from vadprep.heads import Head
from vadprep.training.checkpoint import Run, check_features


def score_features(
    run: Run,
    features: Features,
    ids: Sequence[str] | None = None,
    device: str = "cpu",
    accept: Collection[str] = (),
    preset: str | None = None,
) -> dict[str, VideoScores]:
    """Scores of the videos ``ids`` (all by default), in that order.

    Raises CheckpointError when the features are of another spec or dimension than the run was
    trained on (``accept`` names spec fields that may differ, ``preset`` stands in for unknown
    ones), FeaturesError for an unknown id.
    """
    check_features(run, features.specs, "scoring", accept, preset)
    chosen = list(features if ids is None else ids)
    unknown = [video_id for video_id in chosen if video_id not in features]
    if unknown:
        raise FeaturesError(f"no features of {listed(unknown)}: extract them first")
    streams = streams_of(run.streams, features.streams)
    return score_videos(run.head.to(device), features, chosen, streams)


def score_videos(
    head: Head, features: Features, ids: Sequence[str], streams: Sequence[str]
) -> dict[str, VideoScores]:
    """Scores of whole videos in eval mode, each the mean over the scores of its crops.

    Every crop goes through the head alone and at full length, so a score depends neither on
    other videos nor on the other crops. Raises CheckpointError for features of another
    dimension than the head's.
    """
    with scoring_mode(head):
        return {video_id: _score_video(head, features[video_id], streams) for video_id in ids}


@contextmanager
def scoring_mode(head: Head) -> Iterator[None]:
    """The head in eval mode, without gradients and with exact arithmetic, inside the block."""
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode(), exact_arithmetic():
            yield
    finally:
        head.train(was_training)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Convolutions of a GPU in full float32 and always in the same order, inside the block."""
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        yield


def _score_video(head: Head, video: VideoFeatures, streams: Sequence[str]) -> VideoScores:
    snippets = torch.from_numpy(read_snippets(video, streams))
    num_clips, _, dim = snippets.shape
    if dim != head.dim:
        raise CheckpointError(
            f"{video.video_id}: features of dimension {dim}, but the head was trained on "
            f"{head.dim}: use the features it was trained on"
        )
    scores, overall = torch.zeros(num_clips, dtype=torch.float64), None
    if num_clips:
        device = next(head.parameters()).device
        scores, overall = head.score(snippets.to(device).float().transpose(0, 1))
    return VideoScores(scores.cpu().numpy(), video.spans, video.num_frames, video.fps, overall)
