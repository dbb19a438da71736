"""How good scores are, in the figures of this field, keyed by video id and met through spans.

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import frame_labels, frame_scores
from vadprep.core.records import Interval
from vadprep.evaluation.figures import (
    Figure,
    average_precision,
    average_precision_trapezoid,
    false_alarm_rate,
    one_class,
    roc_auc,
)

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

    def of_video(self) -> float:
        """The score of the video as a whole: the head's own, else the highest of its snippets."""
        return float(self.snippets.max()) if self.overall is None else self.overall


FRAME_FIGURES: dict[str, Figure] = {
    "frame_auc": roc_auc,
    "frame_ap": average_precision,
    "frame_ap_trapezoid": average_precision_trapezoid,
}
"""Figures over the pooled frames, by their names in metrics.json."""

FIGURES = (
    *FRAME_FIGURES,
    "far",
    "frame_auc_abnormal",
    "segment_auc",
    "segment_ap",
    "video_auc",
    "video_ap",
)
"""All figures, in the order of metrics.json."""

OF_FRAMES = FIGURES[:-2]
"""Figures that need intervals; the others need labels of videos."""


@dataclass(frozen=True)
class Truth:
    """What is known of a scored video."""

    intervals: tuple[Interval, ...] | None
    """Anomalous half-open decoded frames; ``()`` has none, None is unknown."""
    label: int | None
    """1 abnormal, 0 normal, None unknown."""
    category: str = ""
    """Several are separated by ``|``."""


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
    per_category: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """By category of the abnormal videos, see ``category_figures``."""
    protocols: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """Figures under protocols of single papers, which compare with nothing else, by name."""

    def as_json(self) -> dict[str, Any]:
        """The entry of metrics.json."""
        return {
            **self.figures,
            "undefined": dict(self.reasons),
            "per_category": {name: dict(each) for name, each in self.per_category.items()},
            "protocols": {name: dict(each) for name, each in self.protocols.items()},
            "num_videos": self.num_videos,
            "num_frames": self.num_frames,
            "num_abnormal_frames": self.num_abnormal_frames,
            "coverage": self.coverage,
        }


def undefined(reason: str, coverage: str = "cut") -> Metrics:
    """Metrics without a single figure, all for the same reason."""
    return Metrics(dict.fromkeys(FIGURES), dict.fromkeys(FIGURES, reason), coverage=coverage)


@dataclass(frozen=True)
class _Frames:
    """Scored frames of one video, and the same per snippet."""

    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    segment_labels: NDArray[np.bool_]
    segment_scores: NDArray[np.float64]
    truth: Truth


def evaluate(
    scores: Mapping[str, VideoScores], truth: Mapping[str, Truth], coverage: str = "cut"
) -> Metrics:
    """Figures of ``scores`` against the ``truth`` of the same ids.

    The order of either mapping does not matter. Figures of frames are undefined when the
    intervals of a video are unknown, all when there is no video. Raises ValueError when the ids
    differ.
    """
    _check_ids(scores, truth)
    if not scores:
        return undefined("no test video", coverage)
    found: dict[str, float | str] = _video_figures(scores, truth)
    unknown = [video_id for video_id in scores if truth[video_id].intervals is None]
    known = [video_id for video_id in scores if truth[video_id].intervals is not None]
    videos = [_frames(scores[each], truth[each], coverage) for each in known]
    if unknown:
        reason = f"anomalous intervals unknown for {listed(unknown)}"
        found |= dict.fromkeys(OF_FRAMES, reason)
    else:
        found |= _frame_figures(videos)
    labels = np.concatenate([each.labels for each in videos]) if videos else np.zeros(0, bool)
    return Metrics(
        figures={n: v if isinstance(v := found[n], float) else None for n in FIGURES},
        reasons={n: v for n in FIGURES if isinstance(v := found[n], str)},
        num_videos=len(scores),
        num_frames=len(labels),
        num_abnormal_frames=int(np.count_nonzero(labels)),
        coverage=coverage,
        per_category={} if unknown else category_figures(videos),
    )


def _frames(scores: VideoScores, truth: Truth, coverage: str) -> _Frames:
    values = scores.frames(coverage)
    labels = frame_labels(truth.intervals or (), scores.num_frames)
    return _Frames(
        labels[: len(values)], values, segment_labels(labels, scores.spans), scores.snippets, truth
    )


def segment_labels(labels: NDArray[np.bool_], spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which snippets are abnormal, at least half of the frames of their span: bool [num_clips]."""
    inside = abnormal_frames(labels, spans)
    return (2 * inside >= spans[:, 1] - spans[:, 0]) & (inside > 0)


def abnormal_frames(labels: NDArray[np.bool_], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many frames of each span are abnormal: int64 [num_clips]."""
    before = np.concatenate([[0], np.cumsum(labels)])
    return before[spans[:, 1]] - before[spans[:, 0]]


def _frame_figures(videos: Sequence[_Frames]) -> dict[str, float | str]:
    """The figures of ``OF_FRAMES``, or why there is none."""
    if not any(len(video.scores) for video in videos):
        return dict.fromkeys(OF_FRAMES, "no frame was scored")
    abnormal = [video for video in videos if _is_abnormal(video)]
    normal = [video for video in videos if not _is_abnormal(video)]
    segments = [(video.segment_labels, video.segment_scores) for video in videos]
    found = {name: _pooled(figure, _pairs(videos)) for name, figure in FRAME_FIGURES.items()}
    found["far"] = _pooled(false_alarm_rate, _pairs(normal), "no normal video")
    found["frame_auc_abnormal"] = _pooled(roc_auc, _pairs(abnormal), "no abnormal video")
    found["segment_auc"] = _pooled(roc_auc, segments)
    found["segment_ap"] = _pooled(average_precision, segments)
    return found


def category_figures(videos: Sequence[_Frames]) -> dict[str, dict[str, float | None]]:
    """For each category of abnormal videos: its videos, alone and among all normal ones.

    ``num_videos``, ``frame_auc`` and ``frame_ap`` with all normal videos, ``frame_auc_abnormal``
    without any.
    """
    normal = [video for video in videos if not _is_abnormal(video)]
    members: dict[str, list[_Frames]] = {}
    for video in filter(_is_abnormal, videos):
        for category in filter(None, video.truth.category.split("|")):
            members.setdefault(category, []).append(video)
    return {
        category: {
            "num_videos": len(own),
            "frame_auc": _or_none(_pooled(roc_auc, _pairs([*own, *normal]))),
            "frame_ap": _or_none(_pooled(average_precision, _pairs([*own, *normal]))),
            "frame_auc_abnormal": _or_none(_pooled(roc_auc, _pairs(own))),
        }
        for category, own in sorted(members.items())
    }


def _video_figures(
    scores: Mapping[str, VideoScores], truth: Mapping[str, Truth]
) -> dict[str, float | str]:
    """``video_auc`` and ``video_ap``, or why there is none."""
    scored = [video_id for video_id in scores if len(scores[video_id].snippets)]
    unknown = [video_id for video_id in scored if truth[video_id].label is None]
    if unknown:
        return dict.fromkeys(FIGURES[-2:], f"label unknown for {listed(unknown)}")
    labels = np.array([truth[video_id].label == 1 for video_id in scored], dtype=bool)
    values = np.array([scores[video_id].of_video() for video_id in scored])
    return {
        "video_auc": _pooled(roc_auc, [(labels, values)], of="video"),
        "video_ap": _pooled(average_precision, [(labels, values)], of="video"),
    }


def _is_abnormal(video: _Frames) -> bool:
    return bool(video.truth.intervals) or video.truth.label == 1


Pair = tuple[NDArray[np.bool_], NDArray[np.floating]]


def _pairs(videos: Sequence[_Frames]) -> list[Pair]:
    return [(video.labels, video.scores) for video in videos]


def _pooled(
    figure: Figure, pairs: Sequence[Pair], empty: str = "", of: str = "frame"
) -> float | str:
    """The figure over all pairs joined, or in words why it is not defined."""
    if not sum(len(labels) for labels, _ in pairs):
        return empty or f"no {of} was scored"
    labels, scores = (np.concatenate(each) for each in zip(*pairs, strict=True))
    reason = "" if figure is false_alarm_rate and not labels.all() else one_class(labels, of)
    return reason or figure(labels, scores)


def _or_none(value: float | str) -> float | None:
    return value if isinstance(value, float) else None


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
