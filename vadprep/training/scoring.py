"""Features become scores, by a trained head."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.errors import CheckpointError, FeaturesError, SettingError
from vadprep.core.log import get_logger
from vadprep.core.presets import fill_unknown
from vadprep.core.spec import UNKNOWN
from vadprep.evaluation.metrics import VideoScores, listed
from vadprep.evaluation.scores import Scores, mean_scores
from vadprep.features import Features, open_features, read_snippets, streams_of
from vadprep.heads import Head
from vadprep.heads.base import HeadOutput
from vadprep.heads.online import online_scores, score_newest as newest
from vadprep.training.checkpoint import Checkpoint, Run, check_features, load_run, unknown_alike

_LOG = get_logger(__name__)


def score_features(
    run: Run,
    features: Features | str | Path,
    *,
    ids: Sequence[str] | None = None,
    device: str = "cpu",
    accept: Collection[str] = (),
    preset: str | None = None,
    online: bool = False,
    window: int | None = None,
) -> Scores:
    """Scores of videos by a trained head: by id, a score in [0, 1] for each snippet.

    A run of several seeds gives the mean of their scores. ``features`` is an opened feature
    folder, or its path or URL. ``ids`` are the videos, all by default, in that order. The default
    device gives the same scores on every machine. Raises CheckpointError for a run that has not
    ended or is damaged, and for features of another spec or dimension than it was trained on
    (``accept`` names spec fields that may differ, ``preset`` fills in unknown ones); SettingError
    for a preset that fills in nothing; FeaturesError for an unknown id.

    With ``online`` each snippet has the score of when it is the newest, and the head sees the last
    ``window`` snippets, ``Head.online_window`` by default: see ``heads.online``.
    """
    with ExitStack() as stack:
        if isinstance(features, str | Path):
            features = stack.enter_context(open_features(features))
        ids = list(features if ids is None else ids)
        if unknown := [video_id for video_id in ids if video_id not in features]:
            raise FeaturesError(f"no features of {listed(unknown)}: extract them first")
        seeds, checkpoints = [], load_run(run)
        origin, filled = checkpoints[0].origin, dict[str, dict[str, Any]]()
        if preset is not None:
            weights = dict(origin.weights)
            for stream in weights.keys() & features.specs.keys():
                both = checkpoints[0].specs[stream], features.specs[stream]
                if weights[stream] == UNKNOWN:
                    weights[stream] = both[1].weights
                filled[stream] = {}
                for spec in both:  # the fields that it leaves unknown and the preset knows
                    known, blank = fill_unknown(spec, preset).identity(), spec.identity()
                    names = [n for n in known if blank.get(n) == UNKNOWN and known[n] != UNKNOWN]
                    filled[stream] |= {name: known[name] for name in names}
            if not any(filled.values()):
                raise SettingError(f"preset {preset}: no field is unknown that it could fill in")
            origin = replace(origin, weights=weights, preset=preset)
        for checkpoint in checkpoints:
            check_features(checkpoint, features.specs, "scoring", accept, preset)
        for stream, spec in checkpoints[0].specs.items() if not preset else ():
            if names := sorted(unknown_alike(spec, features.specs[stream])):
                _LOG.info(
                    "%s: unknown of these features and of the run's: %s; both were imported with "
                    "the same settings and are taken to be made alike",
                    *(stream, ", ".join(names)),
                )
        for checkpoint in checkpoints:
            streams = streams_of(checkpoint.streams, features.streams)
            head = checkpoint.head.to(device)
            if online:
                seeds.append(score_videos_online(head, features, ids, streams, window))
            else:
                seeds.append(score_videos(head, features, ids, streams))
    return mean_scores([Scores(each, origin, filled) for each in seeds])


def score_videos(
    head: Head,
    features: Mapping[str, Any],
    ids: Sequence[str],
    streams: Sequence[str],
    most_rows: int | None = None,
) -> dict[str, VideoScores]:
    """Scores of whole videos, each the mean over its crops; leaves the head in eval mode.

    On a CPU every crop goes through the head alone and at full length, so a score depends neither
    on other videos nor on the other crops. On a GPU videos of similar length go through together,
    padded to the longest, in batches of up to ``most_rows`` snippets (``GPU_ROWS`` by default):
    the same within rounding. Raises CheckpointError for features of another dimension than the
    head's.
    """
    found, device = dict[str, VideoScores](), next(head.parameters()).device
    if most_rows is None:
        most_rows = 0 if device.type == "cpu" else GPU_ROWS
    order, waiting = list(ids), list[tuple[str, torch.Tensor]]()
    if most_rows:
        order.sort(key=lambda each: features[each].num_clips)

    def score_waiting() -> None:
        inputs = [snippets.to(device).float().transpose(0, 1) for _, snippets in waiting]
        outputs = [head.of_video(*inputs)] if len(inputs) == 1 else head.of_videos(inputs)
        for (video_id, _), output in zip(waiting, outputs, strict=True):
            found[video_id] = _scores_of(head, features[video_id], output)
        waiting.clear()

    head.eval()
    with torch.inference_mode(), exact_arithmetic():
        for video_id in order:
            snippets = _snippets_of(head, features, video_id, streams)
            if not len(snippets):
                found[video_id] = _scores_of(head, features[video_id], None)
                continue
            crops = snippets.shape[1] + sum(each.shape[1] for _, each in waiting)
            if waiting and crops * len(snippets) > most_rows:
                score_waiting()
            waiting.append((video_id, snippets))
        if waiting:
            score_waiting()
    return {video_id: found[video_id] for video_id in ids}


def score_videos_online(
    head: Head,
    features: Mapping[str, Any],
    ids: Sequence[str],
    streams: Sequence[str],
    window: int | None = None,
) -> dict[str, VideoScores]:
    """As ``score_videos``, of each snippet when it is the newest; videos have no score of their
    own."""
    found, device = dict[str, VideoScores](), next(head.parameters()).device
    head.eval()
    with torch.inference_mode(), exact_arithmetic():
        for video_id in ids:
            snippets = _snippets_of(head, features, video_id, streams)
            output = online_scores(head, snippets.to(device).float().transpose(0, 1), window)
            classes = None if output.classes is None else output.classes[None]
            output = HeadOutput(scores=output.scores[None], classes=classes)
            found[video_id] = _scores_of(head, features[video_id], output)
    return found


def _snippets_of(
    head: Head, features: Mapping[str, Any], video_id: str, streams: Sequence[str]
) -> torch.Tensor:
    """Features of a video [T, C, dim]; CheckpointError where the head has another dimension."""
    snippets = torch.from_numpy(read_snippets(features[video_id], streams))
    if snippets.shape[2] != head.dim:
        raise CheckpointError(
            f"{video_id}: features of dimension {snippets.shape[2]}, but the head was "
            f"trained on {head.dim}: use the features it was trained on"
        )
    return snippets


GPU_ROWS = 1 << 16
"""Snippets, of all crops and with their padding, that go through a head at once on a GPU."""


def score_newest(
    run: Sequence[Checkpoint], windows: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Scores of the newest snippet of each of N windows, the mean over the seeds of a run.

    A window [t, C, dim] holds features as they are stored (streams joined), the oldest snippet
    first; ``head.online_window`` snippets of it suffice. Windows may have other lengths and come
    from other videos. Returns float64 [N] and, from heads with classes, float64 [N, K]. On a CPU
    they equal those of ``online_scores`` to 1e-6.
    """
    scores, classes = list[torch.Tensor](), list[torch.Tensor]()
    with torch.inference_mode(), exact_arithmetic():
        for checkpoint in run:
            head = checkpoint.head.eval()
            device = next(head.parameters()).device
            seen = [torch.from_numpy(each).to(device).float().transpose(0, 1) for each in windows]
            output = newest(head, seen)
            scores.append(output.scores.cpu())
            classes += [] if output.classes is None else [output.classes.cpu()]
    mean = torch.stack(classes).mean(dim=0).numpy() if classes else None
    return torch.stack(scores).mean(dim=0).numpy(), mean


def _scores_of(head: Head, video: Any, output: HeadOutput | None) -> VideoScores:
    """A response in float64 as the scores of a video; none has zeros for each of no snippets."""
    values, overall = np.zeros(0), None
    classes = np.zeros((0, len(head.classes))) if head.classes else None
    if output is not None:
        values = output.scores[0].cpu().numpy()
        overall = None if output.video is None else float(output.video)
        classes = None if output.classes is None else output.classes[0].cpu().numpy()
    about = (video.spans, video.num_frames, video.fps, overall, video.times)
    return VideoScores(values, *about, head.classes, classes)


def exact_arithmetic() -> AbstractContextManager[None]:
    """Convolutions of a GPU in full float32 and always in the same order, inside the block."""
    return torch.backends.cudnn.flags(  # without ``enabled`` it would be off
        enabled=True, deterministic=True, benchmark=False, allow_tf32=False
    )
