"""How good scores are: the metrics of this field, as listed in the README of this folder.

Frames of all videos are pooled (micro average), as every paper of the field does. Ties between
scores are exact: a snippet score is repeated over its span, so ties are the rule here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.arguments import NUMBER, check_kind
from vadprep.core.clips import Clock, frame_labels, frame_scores, runs
from vadprep.core.errors import SettingError
from vadprep.core.records import Interval
from vadprep.evaluation.detection import IOUS, detections, temporal_ap
from vadprep.evaluation.smoothing import smoothed

NUM_LISTED = 10  # ids that an error message lists before it says how many more there are
SMOOTHED = "smoothed"  # with the rule, the name of the protocol of smoothed scores
ALARM = 0.5  # score from which on a frame is an alarm, in every paper with a false alarm rate


def check_threshold(threshold: float) -> None:
    """Raise SettingError for what no score can reach or miss: NaN, and what is no number."""
    check_kind("threshold", threshold, NUMBER)
    if math.isnan(threshold):
        raise SettingError("threshold = nan: expected a number")


Values = Mapping[str, float | None]
"""Metrics by name, as fractions of 1; None where one is undefined."""


# Every metric takes labels bool [N] and scores float [N]; both classes have to be there.


def roc_auc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Probability that an abnormal frame scores above a normal one; a tie counts half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Step-wise area under precision-recall, sum of (R_n - R_n-1) P_n."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def average_precision_trapezoid(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under straight lines between precision-recall points: the "AP" of most papers here.

    XDVioDet and its descendants compute ``auc(recall, precision)``. It interpolates linearly,
    which is optimistic, so it is never the same number as ``average_precision``.
    """
    from sklearn.metrics import auc, precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(auc(recall, precision))


def false_alarm_rate(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """FP / (FP + TN) at ``ALARM``: alarms among the frames that are not abnormal."""
    return float(np.mean(scores[~labels] >= ALARM))


def one_class(labels: NDArray[np.bool_], of: str = "frame") -> str:
    """Why ROC and precision-recall are not defined for ``labels``, or an empty string."""
    if labels.all():
        return f"every scored {of} is abnormal"
    return "" if labels.any() else f"no scored {of} is abnormal"


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
    times: NDArray[np.float64] | None = None
    """Seconds at which each frame begins, and the last one ends, where the frame rate varies."""
    class_names: tuple[str, ...] = ()
    """Classes of anomalies, from heads that tell them apart."""
    classes: NDArray[np.float64] | None = None
    """Probability of each class in each snippet: float64 [num_clips, num_classes]."""

    @property
    def clock(self) -> Clock | None:
        """The way between source frames and seconds; None without ``fps``."""
        return None if self.fps is None else Clock(self.fps, self.times)

    def frames(self, coverage: str = "cut") -> NDArray[np.float64]:
        """Scores of the source frames, see ``clips.frame_scores``."""
        return frame_scores(self.snippets, self.spans, self.num_frames, coverage)

    def class_frames(self, coverage: str = "cut") -> dict[str, NDArray[np.float64]]:
        """Scores of the source frames for each class; empty from heads without classes."""
        columns = () if self.classes is None else self.classes.T
        return {
            name: frame_scores(column, self.spans, self.num_frames, coverage)
            for name, column in zip(self.class_names, columns, strict=True)
        }

    def seen(self) -> VideoScores:
        """Without snippets that stand for no frame, as there are in a video of a low frame rate."""
        has_frames = self.spans[:, 1] > self.spans[:, 0]
        return replace(
            self,
            snippets=self.snippets[has_frames],
            spans=self.spans[has_frames],
            classes=None if self.classes is None else self.classes[has_frames],
        )

    def alarms(self, threshold: float = ALARM) -> list[dict[str, Any]]:
        """Runs of frames that score ``threshold`` or more, half-open, in order.

        Each has ``start_frame`` and ``stop_frame``, the same in seconds (None without ``fps``),
        its ``highest`` score and, from heads with classes, the ``class`` of the highest mean.
        Raises SettingError for a threshold that is no number.
        """
        check_threshold(threshold)
        frames, clock, classes = self.frames(), self.clock, self.class_frames()
        return [
            {
                "start_frame": start,
                "stop_frame": stop,
                "start_seconds": round(clock.seconds(start), 3) if clock else None,
                "stop_seconds": round(clock.seconds(stop), 3) if clock else None,
                "highest": float(frames[start:stop].max()),
                **(
                    {"class": max(classes, key=lambda name: classes[name][start:stop].mean())}
                    if classes
                    else {}
                ),
            }
            for start, stop in runs(frames >= threshold)
        ]

    def of_video(self) -> float:
        """The score of the video as a whole: the head's own, else the highest of its snippets."""
        return float(self.snippets.max()) if self.overall is None else self.overall


NEED_INTERVALS = (
    *("frame_auc", "frame_ap", "frame_ap_trapezoid", "far", "frame_auc_abnormal"),
    *("segment_auc", "segment_ap"),
)
NEED_LABELS = ("video_auc", "video_ap")
METRICS = (*NEED_INTERVALS, *NEED_LABELS)
"""All metrics, in the order of metrics.json, by what they need to know of every video."""
TEMPORAL = ("temporal_map", *(f"temporal_map@{iou}" for iou in IOUS))
"""Metrics of heads with classes, which come after all others and need intervals, too."""

LEGEND = {
    "frame_ap_trapezoid": "frame_ap by straight lines between the points, as in papers",
    "far": "share of the frames of normal videos that score 0.5 or more",
    "frame_auc_abnormal": "over the frames of abnormal videos alone",
    "segment_auc": "over snippets, abnormal where half of the frames are",
    "video_auc": "over videos, by the head's score of a video, else its highest snippet",
    "temporal_map": "AP of the events found of each class, mean over classes and IoU 0.1 to 0.5",
    "spread": "sample standard deviation over the seeds",
    "best on validation": "the epoch with the best video_auc on held-out training videos",
    "best on test": "the epoch that is best on the videos it is judged by: optimistic",
}
"""What names in a table of metrics mean, where they do not say it; a line each of 80 characters."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of a scored video."""

    intervals: tuple[Interval, ...] | None
    """Anomalous half-open decoded frames; ``()`` has none, None is unknown."""
    label: int | None
    """1 abnormal, 0 normal, None unknown."""
    category: str = ""
    """Several are separated by ``|``."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of scores, fractions of 1. A metric that is None has a reason."""

    values: Values
    """By name, in the order of metrics.json."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a metric is None, by its name."""
    per_category: Mapping[str, Values] = field(default_factory=dict)
    """By category of the abnormal videos: ``num_videos``, ``frame_auc`` and ``frame_ap`` together
    with all normal videos, ``frame_auc_abnormal`` without any. From heads with classes also
    ``num_events``, and ``temporal_ap`` at each IoU and in the mean."""
    protocols: Mapping[str, Values] = field(default_factory=dict)
    """Metrics under protocols of single papers by name, such as those of smoothed scores."""
    num_videos: int = 0
    num_frames: int = 0
    """Frames that were scored."""
    num_abnormal_frames: int = 0
    coverage: str = "cut"
    """What frames after the last span score (``clips.COVERAGES``)."""

    def as_json(self) -> dict[str, Any]:
        """The entry of metrics.json."""
        record = asdict(self)
        return {**record.pop("values"), "undefined": record.pop("reasons"), **record}


Pair = tuple[NDArray[np.bool_], NDArray[np.floating]]
"""Labels and scores of the frames or snippets of one video."""


def compute_metrics(
    scores: Mapping[str, VideoScores],
    truth: Mapping[str, Truth],
    coverage: str = "cut",
    smoothing: str = "",
) -> Metrics:
    """Metrics of ``scores`` against the ``truth`` of the same ids.

    With ``smoothing``, a rule such as ``slide-7``, the protocol ``smoothed slide-7`` has those of
    smoothed scores beside them.

    The order of either mapping does not matter. Metrics of frames are undefined when the
    intervals of a video are unknown, all when there is no video.
    """
    if not scores:
        reasons = dict.fromkeys(METRICS, "no test video")
        return Metrics(dict.fromkeys(METRICS), reasons, coverage=coverage)
    frames, segments, unknown = dict[str, Pair](), list[Pair](), list[str]()
    for video_id, video in scores.items():
        intervals = truth[video_id].intervals
        if intervals is None:
            unknown.append(video_id)
            continue
        labels, values = frame_labels(intervals, video.num_frames), video.frames(coverage)
        frames[video_id] = labels[: len(values)], values
        seen = video.seen()
        segments.append((segment_labels(labels, seen.spans), seen.snippets))
    found, by_category = _frame_metrics(frames, segments, truth)
    names: tuple[str, ...] = METRICS
    if any(video.class_names for video in scores.values()):
        names += TEMPORAL
        found |= _temporal_metrics(scores, truth, coverage, by_category)
    if unknown:
        reason = f"anomalous intervals unknown for {listed(unknown)}"
        found, by_category = dict.fromkeys((*NEED_INTERVALS, *TEMPORAL), reason), {}
    scored = [video_id for video_id in scores if len(scores[video_id].snippets)]
    if unknown := [video_id for video_id in scored if truth[video_id].label is None]:
        found |= dict.fromkeys(NEED_LABELS, f"label unknown for {listed(unknown)}")
    else:
        labels = np.array([truth[video_id].label == 1 for video_id in scored], dtype=bool)
        values = np.array([scores[video_id].of_video() for video_id in scored])
        found["video_auc"] = _pooled(roc_auc, [(labels, values)], of="video")
        found["video_ap"] = _pooled(average_precision, [(labels, values)], of="video")
    protocols = {}
    if smoothing:
        smooth = {  # without classes, whose scores are not smoothed
            each: replace(
                video, snippets=smoothed(video.snippets, smoothing), class_names=(), classes=None
            )
            for each, video in scores.items()
        }
        protocols[f"{SMOOTHED} {smoothing}"] = compute_metrics(smooth, truth, coverage).values
    return Metrics(
        values={n: v if isinstance(v := found[n], float) else None for n in names},
        reasons={n: v for n in names if isinstance(v := found[n], str)},
        num_videos=len(scores),
        num_frames=sum(len(labels) for labels, _ in frames.values()),
        num_abnormal_frames=sum(int(labels.sum()) for labels, _ in frames.values()),
        coverage=coverage,
        per_category=by_category,
        protocols=protocols,
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
) -> tuple[dict[str, float | str], dict[str, dict[str, float | None]]]:
    """The metrics of ``NEED_INTERVALS``, or why there is none, and ``Metrics.per_category``."""
    abnormal = {n: pair for n, pair in frames.items() if truth[n].intervals or truth[n].label == 1}
    normal = [pair for each, pair in frames.items() if each not in abnormal]
    members: dict[str, list[Pair]] = {}
    for video_id, pair in abnormal.items():
        for category in filter(None, truth[video_id].category.split("|")):
            members.setdefault(category, []).append(pair)
    by_category: dict[str, dict[str, float | None]] = {}
    for category, own in sorted(members.items()):
        among = [*own, *normal]
        metrics = {
            "num_videos": len(own),
            "frame_auc": _pooled(roc_auc, among),
            "frame_ap": _pooled(average_precision, among),
            "frame_auc_abnormal": _pooled(roc_auc, own),
        }
        by_category[category] = {n: None if isinstance(v, str) else v for n, v in metrics.items()}
    if not any(len(values) for _, values in frames.values()):
        return dict.fromkeys(NEED_INTERVALS, "no frame was scored"), by_category
    pooled = [*frames.values()]
    found = {
        "frame_auc": _pooled(roc_auc, pooled),
        "frame_ap": _pooled(average_precision, pooled),
        "frame_ap_trapezoid": _pooled(average_precision_trapezoid, pooled),
        "far": _pooled(false_alarm_rate, normal, "no normal video"),
        "frame_auc_abnormal": _pooled(roc_auc, [*abnormal.values()], "no abnormal video"),
        "segment_auc": _pooled(roc_auc, segments),
        "segment_ap": _pooled(average_precision, segments),
    }
    return found, by_category


def _temporal_metrics(
    scores: Mapping[str, VideoScores],
    truth: Mapping[str, Truth],
    coverage: str,
    by_category: dict[str, dict[str, float | None]],
) -> dict[str, float | str]:
    """The metrics of ``TEMPORAL``, or why there is none; those of a class go into ``by_category``.

    A category that the head has no class for was not found: its AP is 0.
    """
    events: dict[str, dict[str, tuple[Interval, ...]]] = {}
    for video_id in scores:
        known = truth[video_id]
        for category in filter(None, known.category.split("|")) if known.intervals else ():
            events.setdefault(category, {})[video_id] = known.intervals or ()
    if not events:
        return dict.fromkeys(TEMPORAL, "no anomalous interval with a category")
    found: dict[str, dict[str, Any]] = {category: {} for category in events}
    for video_id, video in scores.items():
        for name, frames in video.class_frames(coverage).items():
            if name in found:
                found[name][video_id] = detections(frames)
    for category, own in events.items():
        values = [temporal_ap(found[category], own, iou) for iou in IOUS]
        by_category[category] = {
            **by_category.get(category, {}),
            "num_events": sum(map(len, own.values())),
            "temporal_ap": statistics.fmean(values),
            **{f"temporal_ap@{iou}": value for iou, value in zip(IOUS, values, strict=True)},
        }
    ends = ["", *(f"@{iou}" for iou in IOUS)]
    return {
        f"temporal_map{end}": statistics.fmean(
            float(by_category[category][f"temporal_ap{end}"] or 0) for category in events
        )
        for end in ends
    }


def _pooled(
    metric: Callable[..., float], pairs: Sequence[Pair], empty: str = "", of: str = "frame"
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


def mean_and_spread(seeds: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Mean and sample standard deviation of each number that all seeds have, by name.

    None where it is None for a seed; the deviation of one seed, too. Mappings may hold others.
    """
    mean, spread = dict[str, Any](), dict[str, Any]()
    for name in seeds[0] if seeds else ():
        values = [each[name] for each in seeds if name in each]
        if len(values) < len(seeds):
            continue
        if isinstance(values[0], Mapping):
            mean[name], spread[name] = mean_and_spread(values)
        else:
            known = None not in values
            mean[name] = statistics.fmean(values) if known else None
            spread[name] = statistics.stdev(values) if known and len(values) > 1 else None
    return mean, spread


def with_mean(columns: Mapping[str, Values]) -> dict[str, Values]:
    """Columns of seeds, and where there are several their ``mean`` and ``spread``."""
    if len(columns) < 2:
        return dict(columns)
    mean, spread = mean_and_spread([*columns.values()])
    return {**columns, "mean": mean, "spread": spread}
