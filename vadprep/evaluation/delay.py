"""How late scores are: the delay of alarms, false alarms an hour, and average precision delay.

A snippet is known when its last frame was seen: its alarm is raised at the stop of its span. The
time that a computer needs comes on top and is not in here.

    event     [a, b): an unbroken run of anomalous frames
    alarm     the snippets of a video in a row that score theta or more
    delay     d = stop - a, of the first snippet that shows a frame of the event and scores theta or
              more. Without one the event is missed. An alarm that lasts from before counts, too
    false     an alarm that starts with a snippet of normal frames alone; an hour of normal frames
              that were scored has so many

Average precision delay (APD) is the area under precision against the delay as a share of the
longest possible one (Doshi and Yilmaz, WACV 2022: integral of P(alpha) over alpha from 0 to 1):

    APD = sum over n of (R_n - R_n-1) P_n        thresholds theta_n falling over all scores, R_0 = 0
    R_n = mean over events of 1 - min(d / (b - a), 1), and 0 for a missed one
    P_n = share of anomalous frames among those of the snippets that score theta_n or more

It is the step-wise average precision with recall replaced by the share of an event that is still
to come at its alarm. The paper leaves open what a false alarm is and what the longest delay is:
here every frame of an alarm counts, as in ``frame_ap``, and the longest delay is the length of the
event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import frame_labels, runs
from vadprep.evaluation.metrics import ALARM, Truth, VideoScores, abnormal_frames, listed

RATES = {"1/h": 1.0, "0.5/h": 0.5}
"""Operating points: the lowest threshold with at most so many false alarms an hour."""
FIXED = f"score {ALARM}"
"""The operating point of a threshold that nobody has to choose."""
POINTS = (*RATES, FIXED)
PER_POINT = ("threshold", "false_alarms_an_hour", "detected", "delay_frames", "delay_seconds")
"""What is known of an operating point; the last two are means over the detected events."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Delays:
    """Delay metrics of one set of scores. A value that is None has a reason."""

    apd: float | None
    """Average precision delay, 0 to 1."""
    points: Mapping[str, Mapping[str, float | None]]
    """``PER_POINT`` of each of ``POINTS``."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a value is None, by its name as in ``flat``."""
    num_events: int = 0
    hours: float | None = None
    """Of normal frames that were scored."""

    def flat(self) -> dict[str, float | None]:
        """All values, by names for a table, such as ``delay_frames at 1/h``."""
        found = {"apd": self.apd}
        for name in PER_POINT:
            found |= {f"{name} at {point}": self.points[point][name] for point in POINTS}
        return found

    def as_json(self) -> dict[str, Any]:
        """The part of metrics.json."""
        points = {point: dict(values) for point, values in self.points.items()}
        counts = {"num_events": self.num_events, "hours_normal": self.hours}
        return {"apd": self.apd, "alarms": points, "undefined": dict(self.reasons), **counts}


@dataclass(frozen=True)
class _Event:
    """The snippets that show frames of an event, in order."""

    scores: Floats
    delays: Floats
    """In frames, and the same in seconds, NaN without a frame rate."""
    seconds: Floats
    length: int


def compute_delays(scores: Mapping[str, VideoScores], truth: Mapping[str, Truth]) -> Delays:
    """Delay metrics of ``scores`` against the ``truth`` of the same ids.

    All are undefined when the intervals of a video are unknown or there is no event. Rates and
    seconds need the frame rate of every video; delays in frames at a threshold do not.
    """
    if reason := _why_not(scores, truth):
        values = dict.fromkeys(PER_POINT)
        found = Delays(None, dict.fromkeys(POINTS, values))
        return Delays(None, found.points, dict.fromkeys(found.flat(), reason))
    events, reasons = list[_Event](), dict[str, str]()
    snippets, frames, abnormal = (
        list[Floats](),
        list[NDArray[np.int64]](),
        list[NDArray[np.int64]](),
    )
    highs, lows, hours = list[Floats](), list[Floats](), 0.0
    for video_id, video in ((each, video.seen()) for each, video in scores.items()):
        labels = frame_labels(truth[video_id].intervals or (), video.num_frames)
        inside = abnormal_frames(labels, video.spans)
        snippets.append(video.snippets)
        frames.append(video.spans[:, 1] - video.spans[:, 0])
        abnormal.append(inside)
        before = np.concatenate([[-np.inf], video.snippets[:-1]])[: len(video.snippets)]
        is_start = (inside == 0) & (video.snippets > before)
        highs.append(video.snippets[is_start])
        lows.append(before[is_start])
        hours += _hours_normal(video, labels)
        events += _events(video, labels)
    known, rate = (
        np.concatenate(snippets),
        _Rate(np.concatenate(highs), np.concatenate(lows), hours),
    )
    thresholds: dict[str, float | None] = {FIXED: ALARM}
    for point, most in RATES.items():
        thresholds[point] = None if np.isnan(hours) else rate.threshold(known, most)
    points = {point: _at(thresholds[point], events, rate) for point in POINTS}
    if np.isnan(hours):
        unknown = [each for each, video in scores.items() if video.clock is None]
        why = f"frame rate unknown for {listed(unknown)}"
        names = [f"{name} at {point}" for point in RATES for name in PER_POINT]
        names += [f"{name} at {FIXED}" for name in ("false_alarms_an_hour", "delay_seconds")]
        points |= {point: dict.fromkeys(PER_POINT) for point in RATES}
        reasons |= dict.fromkeys(names, why)
    for point, values in points.items():
        if values["delay_frames"] is None and f"delay_frames at {point}" not in reasons:
            names = [n for n in PER_POINT if n.startswith("delay") and values[n] is None]
            reasons |= {f"{n} at {point}": "no event is detected" for n in names}
        if values["threshold"] is None and f"threshold at {point}" not in reasons:
            reasons[f"threshold at {point}"] = "the highest score is a false alarm"
    apd = _precision_delay(events, known, np.concatenate(frames), np.concatenate(abnormal))
    found = Delays(apd, points, {}, len(events), None if np.isnan(hours) else hours)
    undefined = {name for name, value in found.flat().items() if value is None}
    return replace(found, reasons={n: why for n, why in reasons.items() if n in undefined})


def _why_not(scores: Mapping[str, VideoScores], truth: Mapping[str, Truth]) -> str:
    """Why no delay is defined, or an empty string."""
    if unknown := [each for each in scores if truth[each].intervals is None]:
        return f"anomalous intervals unknown for {listed(unknown)}"
    if not any(len(video.snippets) for video in scores.values()):
        return "no frame was scored"
    return "" if any(truth[each].intervals for each in scores) else "no anomalous interval"


def _hours_normal(video: VideoScores, labels: NDArray[np.bool_]) -> float:
    """Duration of the normal frames that were scored; NaN without a frame rate."""
    clock = video.clock
    if clock is None:
        return float("nan")
    normal = ~labels[: video.spans[-1, 1]] if len(video.spans) else np.zeros(0, dtype=bool)
    return sum(clock.seconds(stop) - clock.seconds(start) for start, stop in runs(normal)) / 3600


def _events(video: VideoScores, labels: NDArray[np.bool_]) -> list[_Event]:
    """The events of a video, with the snippets that show them."""
    clock, found = video.clock, list[_Event]()
    for start, stop in runs(labels):
        shows = (video.spans[:, 0] < stop) & (video.spans[:, 1] > start)
        ends = video.spans[shows, 1]
        seconds = [clock.seconds(end) - clock.seconds(start) if clock else np.nan for end in ends]
        delays = (ends - start).astype(float)
        found.append(_Event(video.snippets[shows], delays, np.array(seconds), stop - start))
    return found


@dataclass(frozen=True)
class _Rate:
    """False alarms: one starts at each theta with low < theta <= high."""

    highs: Floats
    lows: Floats
    hours: float

    def count(self, theta: NDArray[Any]) -> NDArray[np.int64]:
        """How many there are at each threshold."""
        after = [
            len(each) - np.searchsorted(np.sort(each), theta) for each in (self.highs, self.lows)
        ]
        return np.asarray(after[0] - after[1])

    def threshold(self, scores: Floats, most: float) -> float | None:
        """The lowest score such that it and every higher one has at most ``most`` an hour.

        None where even the highest has more. Alarms that grow together are fewer, so a still
        lower one may have few again: it would be an alarm that never ends.
        """
        falling = np.unique(scores)[::-1]
        is_fine = np.minimum.accumulate(self.count(falling) <= most * self.hours)
        return float(falling[is_fine][-1]) if is_fine.any() else None


def _at(theta: float | None, events: list[_Event], rate: _Rate) -> dict[str, float | None]:
    """``PER_POINT`` at a threshold; None is one that no score reaches."""
    reached = np.inf if theta is None else theta
    first = [np.flatnonzero(event.scores >= reached)[:1] for event in events]
    pairs = [(each, at[0]) for each, at in zip(events, first, strict=True) if len(at)]
    delays, seconds = [e.delays[at] for e, at in pairs], [e.seconds[at] for e, at in pairs]
    is_timed = bool(pairs) and not np.isnan(seconds).any()
    count = int(rate.count(np.array([reached]))[0])
    hourly = 0.0 if count == 0 else count / rate.hours if rate.hours else None
    return {
        "threshold": theta,
        "false_alarms_an_hour": None if np.isnan(rate.hours) else hourly,
        "detected": len(pairs) / len(events),
        "delay_frames": float(np.mean(delays)) if pairs else None,
        "delay_seconds": float(np.mean(seconds)) if is_timed else None,
    }


def _precision_delay(
    events: list[_Event], scores: Floats, frames: NDArray[np.int64], abnormal: NDArray[np.int64]
) -> float:
    """APD, from the snippets of events, and scores, frames and anomalous frames of all snippets."""
    order = np.argsort(-scores, kind="stable")
    shown, right = np.cumsum(frames[order]), np.cumsum(abnormal[order])
    total = 0.0
    for event in events:
        left, highest = 1 - np.minimum(event.delays / event.length, 1), -np.inf
        firsts = list[tuple[float, float]]()  # theta up to which it is the first, R there
        for score, share in zip(event.scores, left, strict=True):
            if score > highest:
                highest = score
                firsts.append((score, share))
        gained = 0.0
        for score, share in reversed(firsts):  # theta falls: the first is found earlier
            last = np.searchsorted(-scores[order], -score, side="right") - 1
            total += (share - gained) * right[last] / shown[last]
            gained = share
    return float(total / len(events))
