"""How good scores are: the metrics of this field, by video id and through spans.

Frames of all videos are pooled (micro average), as every paper of the field does. Ties between
scores are exact: a snippet score is repeated over its span, so ties are the rule here.

=================== =============================================================================
frame_auc           ROC AUC over the frames of all videos
frame_ap            average precision over them, step-wise (scikit-learn's; CSL-TAL)
frame_ap_trapezoid  the same with straight lines between points (XD-Violence and most papers)
far                 share of the frames of normal videos that score 0.5 or more (AR-Net)
frame_auc_abnormal  ROC AUC over the frames of abnormal videos only
segment_auc, _ap    over snippets; one is abnormal when at least half of its span is
video_auc, _ap      over videos; a score is the head's own, else the highest of its snippets
=================== =============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import frame_labels, frame_scores, runs
from vadprep.core.records import Interval

NUM_LISTED = 10
"""How many ids an error message lists before it says how many more there are."""

ALARM = 0.5
"""Score from which on a frame is an alarm, in every paper that gives a false alarm rate."""

Metric = Callable[[NDArray[np.bool_], NDArray[np.floating]], float]
"""Of labels bool [N] and scores float [N]."""


def roc_auc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Probability that an abnormal frame scores above a normal one; a tie counts half.

    ``labels`` bool [N], ``scores`` float [N]; scikit-learn's ``roc_auc_score``. Raises ValueError
    when only one class is there or a score is not finite.
    """
    from sklearn.metrics import roc_auc_score

    check_scores(labels, scores, both_classes=True)
    return float(roc_auc_score(labels, scores))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Step-wise area under precision-recall, sum of (R_n - R_n-1) P_n.

    scikit-learn's ``average_precision_score``. Arguments and errors as in ``roc_auc``.
    """
    from sklearn.metrics import average_precision_score

    check_scores(labels, scores, both_classes=True)
    return float(average_precision_score(labels, scores))


def average_precision_trapezoid(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under straight lines between precision-recall points: the "AP" of most papers here.

    XDVioDet and its descendants compute ``auc(recall, precision)``. It interpolates linearly,
    which is optimistic, so it is never the same number as ``average_precision``.
    Arguments and errors as in ``roc_auc``.
    """
    from sklearn.metrics import auc, precision_recall_curve

    check_scores(labels, scores, both_classes=True)
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(auc(recall, precision))


def false_alarm_rate(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """FP / (FP + TN) at ``ALARM``: alarms among the frames that are not abnormal.

    Raises ValueError when every frame is abnormal or a score is not finite.
    """
    check_scores(labels, scores)
    if labels.all():
        raise ValueError("every scored frame is abnormal: there is none to be a false alarm")
    return float(np.mean(scores[~labels] >= ALARM))


def one_class(labels: NDArray[np.bool_], of: str = "frame") -> str:
    """Why ROC and precision-recall are not defined for ``labels``, or an empty string."""
    if labels.all():
        return f"every scored {of} is abnormal"
    return "" if labels.any() else f"no scored {of} is abnormal"


def check_scores(
    labels: NDArray[np.bool_], scores: NDArray[np.floating], both_classes: bool = False
) -> None:
    """Raise ValueError unless both are [N], every score is finite, and both classes are there."""
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"{labels.shape = }, {scores.shape = }: expected two equal [N]")
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")
    if both_classes and (reason := one_class(labels)):
        raise ValueError(f"{reason}: the metric needs both classes")


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

    def alarms(self, threshold: float = ALARM) -> list[dict[str, Any]]:
        """Where the video scores ``threshold`` or more, see ``find_alarms``."""
        return find_alarms(self.frames(), threshold, self.fps)

    def of_video(self) -> float:
        """The score of the video as a whole: the head's own, else the highest of its snippets."""
        return float(self.snippets.max()) if self.overall is None else self.overall


def find_alarms(
    frames: NDArray[np.float64], threshold: float, fps: float | None
) -> list[dict[str, Any]]:
    """Runs of frame scores [n] of ``threshold`` or more, half-open, in order.

    Each has ``start_frame`` and ``stop_frame``, the same in seconds (None without ``fps``), and
    its ``highest`` score.
    """
    return [
        {
            "start_frame": start,
            "stop_frame": stop,
            "start_seconds": round(start / fps, 3) if fps else None,
            "stop_seconds": round(stop / fps, 3) if fps else None,
            "highest": float(frames[start:stop].max()),
        }
        for start, stop in runs(frames >= threshold)
    ]


FRAME_METRICS: dict[str, Metric] = {
    "frame_auc": roc_auc,
    "frame_ap": average_precision,
    "frame_ap_trapezoid": average_precision_trapezoid,
}
"""Metrics over the pooled frames, by their names in metrics.json."""

NEED_INTERVALS = (*FRAME_METRICS, "far", "frame_auc_abnormal", "segment_auc", "segment_ap")
"""Metrics that need the intervals of all videos."""

NEED_LABELS = ("video_auc", "video_ap")
"""Metrics that need the labels of all videos."""

METRICS = (*NEED_INTERVALS, *NEED_LABELS)
"""All metrics, in the order of metrics.json."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of a scored video."""

    intervals: tuple[Interval, ...] | None
    """Anomalous half-open decoded frames; ``()`` has none, None is unknown."""
    label: int | None
    """1 abnormal, 0 normal, None unknown."""
    category: str = ""
    """Several are separated by ``|``."""

    @property
    def is_abnormal(self) -> bool:
        """True for a video with an anomalous interval or with label 1."""
        return bool(self.intervals) or self.label == 1


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of scores, fractions of 1. A metric that is None has a reason."""

    values: Mapping[str, float | None]
    """By name, in the order of metrics.json."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a metric is None, by its name."""
    num_videos: int = 0
    num_frames: int = 0
    """Frames that were scored."""
    num_abnormal_frames: int = 0
    coverage: str = "cut"
    """What frames after the last span score (``clips.COVERAGES``)."""
    per_category: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """By category of the abnormal videos: ``num_videos``, ``frame_auc`` and ``frame_ap`` together
    with all normal videos, ``frame_auc_abnormal`` without any."""
    protocols: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """Metrics under protocols of single papers, which compare with nothing else, by name."""

    def as_json(self) -> dict[str, Any]:
        """The entry of metrics.json."""
        return {
            **self.values,
            "undefined": dict(self.reasons),
            "per_category": {name: dict(each) for name, each in self.per_category.items()},
            "protocols": {name: dict(each) for name, each in self.protocols.items()},
            "num_videos": self.num_videos,
            "num_frames": self.num_frames,
            "num_abnormal_frames": self.num_abnormal_frames,
            "coverage": self.coverage,
        }


def same_entry(one: object, other: object) -> bool:
    """True when two entries of metrics.json are equal, their numbers to 1e-9."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_entry(one[k], other[k]) for k in one)
    return one == other


Pair = tuple[NDArray[np.bool_], NDArray[np.floating]]
"""Labels and scores of the frames or snippets of one video."""


def compute_metrics(
    scores: Mapping[str, VideoScores], truth: Mapping[str, Truth], coverage: str = "cut"
) -> Metrics:
    """Metrics of ``scores`` against the ``truth`` of the same ids.

    The order of either mapping does not matter. Metrics of frames are undefined when the
    intervals of a video are unknown, all when there is no video. Raises ValueError when the ids
    differ.
    """
    _check_ids(scores, truth)
    if not scores:
        reasons = dict.fromkeys(METRICS, "no test video")
        return Metrics(dict.fromkeys(METRICS), reasons, coverage=coverage)
    unknown = {video_id for video_id in scores if truth[video_id].intervals is None}
    frames, segments = dict[str, Pair](), list[Pair]()
    for video_id in filter(lambda each: each not in unknown, scores):
        video, values = scores[video_id], scores[video_id].frames(coverage)
        labels = frame_labels(truth[video_id].intervals or (), video.num_frames)
        frames[video_id] = labels[: len(values)], values
        segments.append((segment_labels(labels, video.spans), video.snippets))
    found: dict[str, float | str] = _video_metrics(scores, truth)
    if unknown:
        reason = f"anomalous intervals unknown for {listed(unknown)}"
        found |= dict.fromkeys(NEED_INTERVALS, reason)
    else:
        found |= _frame_metrics(frames, segments, truth)
    labels = np.concatenate([each for each, _ in frames.values()] or [np.zeros(0, bool)])
    return Metrics(
        values={n: v if isinstance(v := found[n], float) else None for n in METRICS},
        reasons={n: v for n in METRICS if isinstance(v := found[n], str)},
        num_videos=len(scores),
        num_frames=len(labels),
        num_abnormal_frames=int(np.count_nonzero(labels)),
        coverage=coverage,
        per_category={} if unknown else _category_metrics(frames, truth),
    )


def segment_labels(labels: NDArray[np.bool_], spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which snippets are abnormal, at least half of the frames of their span: bool [num_clips]."""
    inside = abnormal_frames(labels, spans)
    return (2 * inside >= spans[:, 1] - spans[:, 0]) & (inside > 0)


def abnormal_frames(labels: NDArray[np.bool_], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many frames of each span are abnormal: int64 [num_clips]."""
    before = np.concatenate([[0], np.cumsum(labels)])
    return before[spans[:, 1]] - before[spans[:, 0]]


def _frame_metrics(
    frames: Mapping[str, Pair], segments: Sequence[Pair], truth: Mapping[str, Truth]
) -> dict[str, float | str]:
    """The metrics of ``NEED_INTERVALS``, or why there is none."""
    if not any(len(values) for _, values in frames.values()):
        return dict.fromkeys(NEED_INTERVALS, "no frame was scored")
    abnormal = [pair for video_id, pair in frames.items() if truth[video_id].is_abnormal]
    normal = [pair for video_id, pair in frames.items() if not truth[video_id].is_abnormal]
    return {
        **{name: _pooled(metric, [*frames.values()]) for name, metric in FRAME_METRICS.items()},
        "far": _pooled(false_alarm_rate, normal, "no normal video"),
        "frame_auc_abnormal": _pooled(roc_auc, abnormal, "no abnormal video"),
        "segment_auc": _pooled(roc_auc, segments),
        "segment_ap": _pooled(average_precision, segments),
    }


def _category_metrics(
    frames: Mapping[str, Pair], truth: Mapping[str, Truth]
) -> dict[str, dict[str, float | None]]:
    """``Metrics.per_category``."""
    normal = [pair for video_id, pair in frames.items() if not truth[video_id].is_abnormal]
    members: dict[str, list[Pair]] = {}
    for video_id, pair in frames.items():
        if truth[video_id].is_abnormal:
            for category in filter(None, truth[video_id].category.split("|")):
                members.setdefault(category, []).append(pair)
    found: dict[str, dict[str, float | None]] = {}
    for category, own in sorted(members.items()):
        metrics = {
            "frame_auc": _pooled(roc_auc, [*own, *normal]),
            "frame_ap": _pooled(average_precision, [*own, *normal]),
            "frame_auc_abnormal": _pooled(roc_auc, own),
        }
        numbers = {n: v if isinstance(v, float) else None for n, v in metrics.items()}
        found[category] = {"num_videos": len(own), **numbers}
    return found


def _video_metrics(
    scores: Mapping[str, VideoScores], truth: Mapping[str, Truth]
) -> dict[str, float | str]:
    """The metrics of ``NEED_LABELS``, or why there is none."""
    scored = [video_id for video_id in scores if len(scores[video_id].snippets)]
    unknown = [video_id for video_id in scored if truth[video_id].label is None]
    if unknown:
        return dict.fromkeys(NEED_LABELS, f"label unknown for {listed(unknown)}")
    labels = np.array([truth[video_id].label == 1 for video_id in scored], dtype=bool)
    values = np.array([scores[video_id].of_video() for video_id in scored])
    return {
        "video_auc": _pooled(roc_auc, [(labels, values)], of="video"),
        "video_ap": _pooled(average_precision, [(labels, values)], of="video"),
    }


def _pooled(
    metric: Metric, pairs: Sequence[Pair], empty: str = "", of: str = "frame"
) -> float | str:
    """The metric over all pairs joined, or in words why it is not defined."""
    if not sum(len(labels) for labels, _ in pairs):
        return empty or f"no {of} was scored"
    labels, scores = (np.concatenate(each) for each in zip(*pairs, strict=True))
    reason = "" if metric is false_alarm_rate and not labels.all() else one_class(labels, of)
    return reason or metric(labels, scores)


def listed(ids: Iterable[str]) -> str:
    """``3 (a, b, c)``: how many ids, and the first of them sorted."""
    names = sorted(ids)
    more = f", and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return f"{len(names)} ({', '.join(names[:NUM_LISTED])}{more})"


def _check_ids(scores: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
    problems = [
        f"{what}: {listed(ids)}"
        for ids, what in (
            (scores.keys() - truth.keys(), "scored but without ground truth"),
            (truth.keys() - scores.keys(), "with ground truth but not scored"),
        )
        if ids
    ]
    if problems:
        raise ValueError("videos do not match: " + "; ".join(problems))
