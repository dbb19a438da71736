"""CSL-TAL's own protocol, ``csl_tal_subsampled``: its numbers compare with nobody else's.

Every crop is a video of its own, only every third snippet is fed in, and only their frames are
scored. Frame scores are a cubic spline through the snippet scores, small ones set to zero; the
proposals are the runs above a threshold, each with its mean score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, frame_labels, runs
from vadprep.evaluation.figures import average_precision, one_class, roc_auc
from vadprep.evaluation.metrics import Truth, abnormal_frames
from vadprep.features.reader import Features, VideoFeatures, read_snippets
from vadprep.heads import Head
from vadprep.heads.csltal import CSLTALConfig
from vadprep.training.scoring import exact_arithmetic

NAME = "csl_tal_subsampled"
STEP = 3
"""Snippets from one that is fed in to the next."""
FLOOR = 0.05
"""Frame scores below it are set to 0."""
PROPOSAL = 0.35
"""Frame score that a proposal lies above."""


def subsampled_rows(num_snippets: int) -> NDArray[np.int64]:
    """Rows that are fed in: 0, 3, 6, ... of whole blocks of three, int64.

    Of 6 or fewer all but the last, as the code has it; the only one where there is one.
    """
    if num_snippets <= 2 * STEP:
        return np.arange(max(num_snippets - 1, 1))
    return STEP * np.arange(num_snippets // STEP)


def spline(values: NDArray[np.floating], factor: int = CLIP_LENGTH) -> NDArray[np.float64]:
    """Cubic spline through ``values`` [n], at factor * n points: float64 [factor * n].

    The first and the last point lie at the first and the last value, and beyond them the values
    are mirrored: ``scipy.ndimage.zoom`` of order 3.
    """
    count = len(values)
    if count == 1:
        return np.full(factor, float(values[0]))
    at = np.arange(factor * count) * ((count - 1) / (factor * count - 1))
    first = np.minimum(at.astype(np.int64), count - 2)
    t = at - first
    weights = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    coefficients = np.pad(_spline_coefficients(values), 1, mode="reflect")
    return sum((w * coefficients[first + k] / 6 for k, w in enumerate(weights)), np.zeros(()))


def _spline_coefficients(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """c with (c_i-1 + 4 c_i + c_i+1) / 6 = values_i, mirrored at both ends: float64 [n]."""
    count = len(values)
    right, upper = 6.0 * values.astype(np.float64), np.ones(count)
    upper[0] = 2.0
    for i in range(count):  # elimination of the lower diagonal (1, ..., 1, 2)
        lower = 0.0 if i == 0 else 2.0 if i == count - 1 else 1.0
        pivot = 4.0 - lower * upper[i - 1]
        upper[i] /= pivot
        right[i] = (right[i] - lower * right[i - 1]) / pivot
    for i in range(count - 2, -1, -1):
        right[i] -= upper[i] * right[i + 1]
    return right


def frame_curve(snippets: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores of the 16 frames of each snippet: float64 [16 n] in {0} and [0.05, 1]."""
    curve = spline(snippets)
    return np.where(curve < FLOOR, 0.0, np.minimum(curve, 1.0))


def proposals(curve: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Runs of frames above 0.35, half-open [start, stop)."""
    return runs(curve > PROPOSAL)


def proposal_scores(
    curve: NDArray[np.float64], form: Literal["runs", "largest"] = "runs"
) -> NDArray[np.float64]:
    """The score of its run for each frame of a proposal, 0 for the others: float64 [n].

    ``runs``: all runs count, each with its mean, as in the code. ``largest``: the longest alone,
    the first of equal ones, with its sum over end - start - 1 of its first and last frame, as in
    eq. 7; where that is below 1, a run of one or two frames, over 1.
    """
    scores, found, fewer = np.zeros_like(curve), proposals(curve), 0
    if form == "largest" and found:
        found, fewer = [max(found, key=lambda run: run[1] - run[0])], 2
    for start, stop in found:
        scores[start:stop] = curve[start:stop].sum() / max(stop - start - fewer, 1)
    return scores


@dataclass(frozen=True)
class _Item:
    """What one crop of a video adds to the pools: labels and scores by level."""

    frames: NDArray[np.bool_]
    curve: NDArray[np.float64]
    proposals: NDArray[np.float64]
    segments: NDArray[np.bool_]
    snippets: NDArray[np.float64]
    label: bool
    overall: float


def evaluate_subsampled(
    head: Head, features: Features, truth: Mapping[str, Truth], streams: Sequence[str]
) -> dict[str, float | None]:
    """Figures under the protocol of the videos in ``truth``, by name.

    ``frame`` is the spline, ``proposal`` the runs (``CSLTALConfig.proposals``), ``segment`` the
    snippets, of which one with a single abnormal frame is abnormal, as in the published labels
    (``segment_labels.txt``), and ``video`` the head's own score (else the highest snippet), each
    as AUC and step-wise AP. None where a class or the intervals of a video are missing.
    """
    names = [f"{level}_{kind}" for level in _LEVELS for kind in ("auc", "ap")]
    if any(known.intervals is None for known in truth.values()):
        return dict.fromkeys(names)
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode(), exact_arithmetic():
            items = [
                item
                for video_id, known in truth.items()
                for item in _items(head, features[video_id], known, streams)
            ]
    finally:
        head.train(was_training)
    pools = [_pool(items, level) for level in _LEVELS.values()]
    found = [
        figure(*pool) if len(pool[0]) and not one_class(pool[0]) else None
        for pool in pools
        for figure in (roc_auc, average_precision)
    ]
    return dict(zip(names, found, strict=True))


Level = Callable[[_Item], tuple[object, object]]

_LEVELS: dict[str, Level] = {
    "frame": lambda item: (item.frames, item.curve),
    "proposal": lambda item: (item.frames, item.proposals),
    "segment": lambda item: (item.segments, item.snippets),
    "video": lambda item: ([item.label], [item.overall]),
}


def _pool(items: Sequence[_Item], level: Level) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    pairs = [level(item) for item in items]
    labels = np.concatenate([np.asarray(each, bool) for each, _ in pairs] or [np.zeros(0, bool)])
    return labels, np.concatenate([np.asarray(each, float) for _, each in pairs] or [np.zeros(0)])


def _items(head: Head, video: VideoFeatures, truth: Truth, streams: Sequence[str]) -> list[_Item]:
    """One item for each crop; none for a video without a snippet."""
    snippets = torch.from_numpy(read_snippets(video, streams))
    if not len(snippets):
        return []
    rows = subsampled_rows(len(snippets))
    labels = frame_labels(truth.intervals or (), video.num_frames)
    spans = video.spans[rows]
    device = next(head.parameters()).device
    chosen = snippets[rows].to(device).float().transpose(0, 1)
    found = [head.score(crop[None]) for crop in chosen]
    curves = [frame_curve(scores.cpu().numpy()) for scores, _ in found]
    form = head.config.proposals if isinstance(head.config, CSLTALConfig) else "runs"
    return [
        _Item(
            frames=labels[_frames_of(spans)],
            curve=curve,
            proposals=proposal_scores(curve, form),
            segments=abnormal_frames(labels, spans) > 0,
            snippets=scores.cpu().numpy(),
            label=truth.label == 1,
            overall=float(scores.max()) if overall is None else overall,
        )
        for (scores, overall), curve in zip(found, curves, strict=True)
    ]


def _frames_of(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """16 frames of each span, all of them where it has 16: int64 [16 n]."""
    steps = np.arange(CLIP_LENGTH)
    lengths = spans[:, 1] - spans[:, 0]
    return (spans[:, :1] + steps * lengths[:, None] // CLIP_LENGTH).ravel()
