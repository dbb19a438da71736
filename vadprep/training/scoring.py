"""Features become scores, by a trained head."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vadprep.core.errors import CheckpointError, FeaturesError, SettingError
from vadprep.core.presets import fill_unknown
from vadprep.core.spec import UNKNOWN
from vadprep.evaluation.metrics import VideoScores, listed
from vadprep.evaluation.scores import Origin, Scores
from vadprep.features import (
    Features,
    VideoFeatures,
    open_features,
    read_snippets,
    streams_of,
)
from vadprep.heads import Head
from vadprep.training.checkpoint import Checkpoint, check_features, load_run
from vadprep.training.results import TrainingRun


def score_features(
    run: TrainingRun | str | Path | Checkpoint | Sequence[Checkpoint],
    features: Features | str | Path,
    *,
    ids: Sequence[str] | None = None,
    device: str = "cpu",
    accept: Collection[str] = (),
    preset: str | None = None,
) -> Scores:
    """Scores of videos by a trained head: by id, a score in [0, 1] for each snippet.

    ``run`` is what ``train`` or ``load_run`` returned, a run folder or the folder of one of its
    seeds; a run of several seeds gives the mean of their scores. ``features`` is an opened feature
    folder, or its path or URL. ``ids`` are the videos, all by default, in that order. The default
    device gives the same scores on every machine.

    Raises CheckpointError for a run that has not ended or is damaged, and for features of another
    spec or dimension than it was trained on (``accept`` names spec fields that may differ,
    ``preset`` fills in unknown ones); SettingError for a preset that fills in nothing;
    FeaturesError for an unknown id.
    """
    with ExitStack() as stack:
        if isinstance(features, str | Path):
            features = stack.enter_context(open_features(features))
        chosen = list(features if ids is None else ids)
        by_seed, checkpoints = [], load_run(run)
        origin, from_preset = _origin(checkpoints[0], features, preset)
        for checkpoint in checkpoints:
            check_features(checkpoint, features.specs, "scoring", accept, preset)
            if unknown := [video_id for video_id in chosen if video_id not in features]:
                raise FeaturesError(f"no features of {listed(unknown)}: extract them first")
            streams = streams_of(checkpoint.streams, features.streams)
            by_seed.append(score_videos(checkpoint.head.to(device), features, chosen, streams))
    means = by_seed[0] if len(by_seed) == 1 else {each: _mean(by_seed, each) for each in chosen}
    return Scores(means, origin, from_preset)


def _origin(
    run: Checkpoint, features: Features, preset: str | None
) -> tuple[Origin, dict[str, dict[str, Any]]]:
    """What scores of ``run`` on ``features`` come from, and the fields that ``preset`` fills in.

    The fields are those that the spec of the run or of the features leaves unknown, by stream.
    """
    if preset is None:
        return run.origin, {}
    weights, filled = dict(run.origin.weights), dict[str, dict[str, Any]]()
    for stream in run.specs.keys() & features.specs.keys():
        specs = run.specs[stream], features.specs[stream]
        if weights[stream] == UNKNOWN:
            weights[stream] = specs[1].weights
        try:
            pairs = [(spec, fill_unknown(spec, preset).identity()) for spec in specs]
        except ValueError as error:
            raise SettingError(str(error)) from error
        filled[stream] = {
            name: values[name]
            for spec, values in pairs
            for name, value in spec.identity().items()
            if value == UNKNOWN != values[name]
        }
    if not any(filled.values()):
        raise SettingError(f"preset {preset}: no field is unknown that it could fill in")
    return replace(run.origin, weights=weights, preset=preset), filled


def _mean(by_seed: Sequence[Mapping[str, VideoScores]], video_id: str) -> VideoScores:
    """Scores of a video, the mean over seeds."""
    found = [scores[video_id] for scores in by_seed]
    overall = [each.overall for each in found if each.overall is not None]
    return replace(
        found[0],
        snippets=np.mean([each.snippets for each in found], axis=0),
        overall=float(np.mean(overall)) if overall else None,
    )


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
