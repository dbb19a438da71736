"""How good scores are, in the figures of this field, keyed by video id and met through spans.

Frames of all videos are pooled (micro average), as every paper of the field does. Ties between
scores are exact: a snippet score is repeated over its span, so ties are the rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.clips import frame_labels, frame_scores
from vadprep.records import Interval

NUM_LISTED = 10
"""How many ids an error message lists before it says how many more there are."""


@dataclass(frozen=True)
class VideoScores:
    """Snippet scores of one video and the source frames they answer for."""

    snippets: NDArray[np.float64]
    """Anomaly probability of each snippet: float64 [num_clips]."""
    spans: NDArray[np.int64]
    """Source frames [start, stop) of each snippet: int64 [num_clips, 2]."""
    num_frames: int
    """Decoded source frames."""
    fps: float | None = None
    """Source frames a second; None where unknown."""
    overall: float | None = None
    """Anomaly probability of the whole video, from heads that have one of their own."""

    def frames(self, coverage: str = "cut") -> NDArray[np.float64]:
        """Scores of the source frames, see ``clips.frame_scores``."""
        return frame_scores(self.snippets, self.spans, self.num_frames, coverage)


def roc_auc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Probability that an abnormal frame scores above a normal one, ties counting half.

    The Mann-Whitney statistic in integers, so exact: ``labels`` bool [N], ``scores`` float [N].
    Raises ValueError when only one class is there or a score is not finite.
    """
    hits, misses = _counts_by_score(labels, scores)
    below = misses.sum() - np.cumsum(misses)
    doubled = int(np.sum(hits * (2 * below + misses)))
    return doubled / (2 * int(hits.sum()) * int(misses.sum()))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Step-wise area under precision-recall, sum of (R_n - R_n-1) P_n: sklearn's estimator.

    Arguments and errors as in ``roc_auc``.
    """
    precision, recall = _precision_recall(labels, scores)
    return float(np.sum(np.diff(recall) * precision[1:]))


def average_precision_trapezoid(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under straight lines between precision-recall points: the "AP" of most papers here.

    XDVioDet and its descendants compute ``auc(recall, precision)``. It interpolates linearly,
    which is optimistic, so it is never the same number as ``average_precision``.
    Arguments and errors as in ``roc_auc``.
    """
    precision, recall = _precision_recall(labels, scores)
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))


FRAME_FIGURES: dict[str, Callable[[NDArray[np.bool_], NDArray[np.floating]], float]] = {
    "frame_auc": roc_auc,
    "frame_ap": average_precision,
    "frame_ap_trapezoid": average_precision_trapezoid,
}
"""Figures over the pooled frames, by their names in metrics.json."""


@dataclass(frozen=True)
class Metrics:
    """Figures of one set of scores, fractions of 1. A figure that is None has a reason."""

    figures: Mapping[str, float | None]
    """By name, in the order of metrics.json."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a figure is None, by the name of the figure."""
    num_videos: int = 0
    num_frames: int = 0
    """Frames that were scored."""
    num_abnormal_frames: int = 0
    coverage: str = "cut"
    """What frames after the last span score (``clips.COVERAGES``)."""

    def as_json(self) -> dict[str, Any]:
        """The entry of metrics.json."""
        return {
            **self.figures,
            "undefined": dict(self.reasons),
            "num_videos": self.num_videos,
            "num_frames": self.num_frames,
            "num_abnormal_frames": self.num_abnormal_frames,
            "coverage": self.coverage,
        }


def undefined(reason: str, coverage: str = "cut") -> Metrics:
    """Metrics without a single figure, all for the same reason."""
    return Metrics(
        dict.fromkeys(FRAME_FIGURES), dict.fromkeys(FRAME_FIGURES, reason), coverage=coverage
    )


def evaluate(
    scores: Mapping[str, VideoScores],
    intervals: Mapping[str, Sequence[Interval]],
    coverage: str = "cut",
) -> Metrics:
    """Figures of ``scores`` against the anomalous ``intervals`` of the same ids.

    Intervals are half-open decoded source frames; ``()`` is a video without an anomaly. The
    order of either mapping does not matter. Raises ValueError when the ids differ.
    """
    _check_ids(scores, intervals)
    pooled = [scores[video_id].frames(coverage) for video_id in scores]
    truth = [
        frame_labels(tuple(intervals[video_id]), scores[video_id].num_frames)[: len(frames)]
        for video_id, frames in zip(scores, pooled, strict=True)
    ]
    if not any(len(frames) for frames in pooled):
        return undefined("no frame was scored", coverage)
    labels, values = np.concatenate(truth), np.concatenate(pooled)
    reason = _one_class(labels)
    if reason:
        empty = undefined(reason, coverage)
        figures, reasons = empty.figures, empty.reasons
    else:
        figures = {name: figure(labels, values) for name, figure in FRAME_FIGURES.items()}
        reasons = {}
    return Metrics(
        figures, reasons, len(scores), len(labels), int(np.count_nonzero(labels)), coverage
    )


def listed(ids: Iterable[str]) -> str:
    """``3 (a, b, c)``: how many ids, and the first of them sorted."""
    names = sorted(ids)
    more = f", and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return f"{len(names)} ({', '.join(names[:NUM_LISTED])}{more})"


def _check_ids(scores: Mapping[str, Any], intervals: Mapping[str, Any]) -> None:
    without_truth = scores.keys() - intervals.keys()
    without_scores = intervals.keys() - scores.keys()
    problems = []
    if without_truth:
        problems.append(f"scored but without ground truth: {listed(without_truth)}")
    if without_scores:
        problems.append(f"with ground truth but not scored: {listed(without_scores)}")
    if problems:
        raise ValueError("videos do not match: " + "; ".join(problems))


def _one_class(labels: NDArray[np.bool_]) -> str:
    """Why ROC and precision-recall are not defined for ``labels``, or an empty string."""
    if labels.all():
        return "every scored frame is abnormal"
    return "" if labels.any() else "no scored frame is abnormal"


def _counts_by_score(
    labels: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Abnormal and normal frames at each distinct score, highest first: int64 [num_scores]."""
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"{labels.shape = }, {scores.shape = }: expected two equal [N]")
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")
    reason = _one_class(labels)
    if reason:
        raise ValueError(f"{reason}: the figure needs both classes")
    values, group = np.unique(-scores, return_inverse=True)
    total = np.bincount(group, minlength=len(values))
    hits = np.bincount(group[labels], minlength=len(values))
    return hits.astype(np.int64), (total - hits).astype(np.int64)


def _precision_recall(
    labels: NDArray[np.bool_], scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve from (precision 1, recall 0) down through every distinct score."""
    hits, misses = _counts_by_score(labels, scores)
    true, false = np.cumsum(hits), np.cumsum(misses)
    precision = np.concatenate([[1.0], true / (true + false)])
    recall = np.concatenate([[0.0], true / true[-1]])
    return precision, recall
