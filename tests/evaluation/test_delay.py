"""Delay, false alarms an hour and average precision delay, against loops over every threshold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from support.scored import video_scores

from vadprep.evaluation.delay import FIXED, PER_POINT, POINTS, RATES, Delays, compute_delays
from vadprep.evaluation.metrics import Truth, VideoScores


def events_of(truth):
    """Runs of anomalous frames: overlapping intervals are one."""
    frames = sorted({frame for start, stop in truth.intervals for frame in range(start, stop)})
    return [
        (start, next(f for f in range(start, 10**6) if f not in frames))
        for start in frames
        if start - 1 not in frames
    ]


def first_alarm(video, event, theta):
    for score, (start, stop) in zip(video.snippets, video.spans.tolist(), strict=True):
        shows = any(start <= frame < stop for frame in range(*event))
        if shows and score >= theta:
            return stop - event[0]
    return None


def false_alarms(video, truth, theta):
    count, was_on = 0, False
    for score, (start, stop) in zip(video.snippets, video.spans.tolist(), strict=True):
        is_on = score >= theta
        normal = not any(a < stop and start < b for a, b in truth.intervals)
        count += is_on and not was_on and normal
        was_on = is_on
    return count


def naive(scores, truth):
    """Everything by loops: APD, and the threshold of each rate."""
    seconds = 0.0
    for name, video in scores.items():
        for frame in range(video.spans[-1, 1]):
            if not any(a <= frame < b for a, b in truth[name].intervals):
                seconds += video.clock.seconds(frame + 1) - video.clock.seconds(frame)
    thresholds = sorted({s for v in scores.values() for s in v.snippets.tolist()}, reverse=True)
    events = [(name, event) for name in scores for event in events_of(truth[name])]
    apd, before, counts, delays = 0.0, 0.0, {}, {}
    for theta in thresholds:
        counts[theta] = sum(false_alarms(scores[n], truth[n], theta) for n in scores)
        shares, delays[theta] = [], []
        for name, (start, stop) in events:
            delay = first_alarm(scores[name], (start, stop), theta)
            delays[theta].append(delay)
            shares.append(0 if delay is None else 1 - min(delay / (stop - start), 1))
        right = shown = 0
        for name, video in scores.items():
            for score, (start, stop) in zip(video.snippets, video.spans.tolist(), strict=True):
                if score >= theta:
                    shown += stop - start
                    right += sum(
                        any(a <= f < b for a, b in truth[name].intervals)
                        for f in range(start, stop)
                    )
        reached = sum(shares) / len(shares)
        apd += (reached - before) * right / shown
        before = reached
    found = {}
    for point, most in RATES.items():
        for theta in thresholds:
            if counts[theta] > most * seconds / 3600:
                break
            found[point] = theta
    return apd, found, delays, counts, seconds / 3600


def random_set(seed, overlapping=False, hours_a_clip=1):
    """Videos whose clips last an hour, so that rates are whole; scores with many ties."""
    random = np.random.default_rng(seed)
    scores, truth = {}, {}
    for index in range(5):
        count = int(random.integers(1, 14))
        values = np.round(random.random(count), 1)
        video = video_scores(values, fps=4 / (3600 * hours_a_clip), length=4)
        if overlapping:
            starts = 2 * np.arange(count)
            spans = np.stack([starts, starts + 4], axis=1)
            video = replace(video, spans=spans, num_frames=int(spans[-1, 1]))
        rest = int(random.integers(0, 3))  # frames after the last clip, which have no score
        video = replace(video, num_frames=video.num_frames + rest)
        end, intervals = video.num_frames, []
        for _ in range(int(random.integers(0, 3))):
            start = int(random.integers(0, end))
            intervals.append((start, int(min(end, start + random.integers(1, 14)))))
        scores[f"v{index}"], truth[f"v{index}"] = video, Truth(tuple(intervals), None)
    truth["v0"] = Truth(((0, 3), *truth["v0"].intervals), 1)
    return scores, truth


@pytest.mark.parametrize("overlapping", [False, True])
def test_delay_rate_and_apd_equal_loops(overlapping):
    seen = set()
    for seed in range(30):
        hours_a_clip = (1, 2, 3, 0.01)[seed % 4]
        scores, truth = random_set(seed, overlapping, hours_a_clip)
        found = compute_delays(scores, truth)
        apd, thresholds, delays, counts, hours = naive(scores, truth)
        assert found.apd == pytest.approx(apd, abs=1e-12)
        assert found.hours == pytest.approx(hours, rel=1e-9)
        for point in RATES:
            values, theta = found.points[point], thresholds.get(point)
            seen.add(theta is None)
            assert values["threshold"] == theta
            if theta is None:
                assert values["detected"] == 0 and values["delay_frames"] is None
                assert values["false_alarms_an_hour"] == 0
                continue
            known = [each for each in delays[theta] if each is not None]
            assert values["detected"] == len(known) / len(delays[theta])
            assert values["false_alarms_an_hour"] == pytest.approx(counts[theta] / hours)
            expected = pytest.approx(np.mean(known)) if known else None
            assert values["delay_frames"] == expected
            if known:
                seconds = values["delay_frames"] * 900 * hours_a_clip
                assert values["delay_seconds"] == pytest.approx(seconds)
    assert seen == {True, False}


def test_a_detector_that_alarms_at_the_first_clip_of_each_event():
    """Clips of 16 frames at 25 fps; the event begins in the middle of the third clip."""
    video = video_scores([0.1, 0.1, 0.9, 0.9, 0.9, 0.1])
    found = compute_delays({"v": video}, {"v": Truth(((40, 80),), 1)})
    assert found.num_events == 1 and found.hours == pytest.approx(56 / 25 / 3600)
    assert found.apd == pytest.approx((1 - 8 / 40) * 40 / 48)
    for point in POINTS:
        values = found.points[point]
        assert (values["detected"], values["delay_frames"]) == (1, 8)
        assert values["delay_seconds"] == pytest.approx(8 / 25)
        assert values["false_alarms_an_hour"] == 0
    assert found.points["1/h"]["threshold"] == 0.9 and not found.reasons


def test_later_scores_have_a_lower_apd_at_the_same_frame_ap():
    """The same scores within an event, in another order."""
    truth = {"v": Truth(((16, 96),), 1)}
    early, late = (
        compute_delays({"v": video_scores([0.1, *own, 0.65])}, truth).apd
        for own in ([0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.6, 0.7, 0.8, 0.9])
    )
    assert early > late > 0


def test_an_event_that_no_clip_shows_or_whose_alarm_comes_at_its_end_counts_nothing():
    video = replace(video_scores([0.1, 0.9]), num_frames=64)
    found = compute_delays({"v": video}, {"v": Truth(((20, 32), (50, 60)), 1)})
    assert found.num_events == 2 and found.apd == 0
    assert found.points[FIXED]["detected"] == 0.5 and found.points[FIXED]["delay_frames"] == 12


def test_times_that_vary_are_the_time_base():
    times = np.cumsum([0.0, *([0.1] * 16), *([1.0] * 16), *([0.1] * 16)])
    video = replace(video_scores([0.1, 0.8, 0.9], fps=2.5), times=times)
    found = compute_delays({"v": video}, {"v": Truth(((20, 48),), 1)})
    assert found.points[FIXED]["delay_seconds"] == pytest.approx(12.0)
    assert found.hours == pytest.approx((1.6 + 4) / 3600)


def test_without_a_frame_rate_delays_at_a_threshold_are_in_frames():
    scores = {"v": video_scores([0.1, 0.8, 0.9], fps=None), "n": video_scores([0.7, 0.1])}
    found = compute_delays(scores, {"v": Truth(((20, 48),), 1), "n": Truth((), 0)})
    assert found.points[FIXED] == {
        **{"threshold": 0.5, "false_alarms_an_hour": None, "detected": 1.0},
        **{"delay_frames": 12.0, "delay_seconds": None},
    }
    assert found.hours is None and found.apd == pytest.approx((1 - 12 / 28) * 28 / 32)
    missing = {name for name, value in found.flat().items() if value is None}
    assert missing == found.reasons.keys()
    assert set(found.reasons.values()) == {"frame rate unknown for 1 (v)"}


def test_a_delay_that_is_known_has_no_reason_why_it_is_not():
    scores = {"v": video_scores([0.1, 0.8, 0.9]), "n": video_scores([0.7, 0.1], fps=None)}
    found = compute_delays(scores, {"v": Truth(((20, 48),), 1), "n": Truth((), 0)})
    assert found.points[FIXED]["delay_seconds"] == pytest.approx(12 / 25)
    missing = {name for name, value in found.flat().items() if value is None}
    assert missing == found.reasons.keys()


def test_snippets_of_no_frame_raise_no_alarm():
    """They stand for no frame, so their alarm would have no precision."""
    spans = np.array([[0, 1], [1, 1], [1, 2], [2, 2], [2, 3], [3, 4]])
    video = VideoScores(np.array([0.1, 0.95, 0.6, 0.9, 0.8, 0.2]), spans, 4, 1.0)
    seen = replace(video, snippets=video.snippets[[0, 2, 4, 5]], spans=spans[[0, 2, 4, 5]])
    truth = {"v": Truth(((1, 3),), 1)}
    assert compute_delays({"v": video}, truth) == compute_delays({"v": seen}, truth)
    assert compute_delays({"v": video}, truth).apd == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("intervals", "snippets", "reason"),
    [
        (None, [0.5], "anomalous intervals unknown for 1 (v)"),
        ((), [0.5], "no anomalous interval"),
        (((0, 1),), [], "no frame was scored"),
    ],
)
def test_why_there_is_no_delay(intervals, snippets, reason):
    found = compute_delays({"v": video_scores(snippets)}, {"v": Truth(intervals, None)})
    assert found.reasons == dict.fromkeys(found.flat(), reason)
    assert all(value is None for value in found.flat().values())


def test_every_value_that_is_none_has_a_reason_and_json_holds_all():
    """No event is detected, and the highest score is a false alarm."""
    scores = {"v": video_scores([0.9, 0.1])}
    found = compute_delays(scores, {"v": Truth(((16, 32),), 1)})
    assert found.points["1/h"] == {
        **{"threshold": None, "false_alarms_an_hour": 0.0, "detected": 0.0},
        **{"delay_frames": None, "delay_seconds": None},
    }
    missing = {name for name, value in found.flat().items() if value is None}
    assert missing == found.reasons.keys()
    record = found.as_json()
    assert record["alarms"].keys() == set(POINTS) and record["num_events"] == 1
    assert all(tuple(each) == PER_POINT for each in record["alarms"].values())
    assert isinstance(found, Delays) and math.isfinite(record["hours_normal"])
    assert isinstance(scores["v"], VideoScores)
