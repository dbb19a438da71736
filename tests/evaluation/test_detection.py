"""Temporal detection by class against naive loops, and class scores from file to file."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.attacks import within
from support.scored import TRAINED, video_scores, with_classes

from vadprep.core.errors import CheckpointError
from vadprep.evaluation.detection import IOUS, detections, temporal_ap
from vadprep.evaluation.metrics import TEMPORAL, Truth, VideoScores, compute_metrics
from vadprep.evaluation.plots import write_alarms
from vadprep.evaluation.scores import Scores, mean_scores, read_scores, write_scores

NAMES = ("fight", "fire", "theft")


def naive_detections(curve: list[float]) -> list[tuple[int, int, float]]:
    level = max(curve) - 0.6 * (max(curve) - min(curve))
    top = sorted(curve, reverse=True)[: max(1, len(curve) // 16)]
    found, start = [], None
    for frame, value in enumerate([*curve, float("-inf")]):
        if value > level and start is None:
            start = frame
        if value <= level and start is not None:
            if frame - start >= 2:
                highest = max(curve[start:frame])
                found.append((start, frame, highest + 0.7 * sum(top) / len(top)))
            start = None
    return found


def naive_ap(found: dict[str, Any], events: dict[str, Any], iou: float) -> float:
    """A loop over all thresholds of the confidence, each of which matches anew."""
    count = sum(len(each) for each in events.values())
    confidences = {each[2] for own in found.values() for each in own}
    area, recall_before = 0.0, 0.0
    for threshold in sorted(confidences, reverse=True):
        kept = [
            (confidence, video_id, start, stop)
            for video_id, own in found.items()
            for start, stop, confidence in own
            if confidence >= threshold
        ]
        kept.sort(key=lambda each: (-each[0], each[1], each[2]))
        taken, hits = set(), 0
        for _, video_id, start, stop in kept:
            best, best_iou = None, 0.0
            for place, (begin, end) in enumerate(events.get(video_id, [])):
                both = len(set(range(start, stop)) & set(range(begin, end)))
                either = len(set(range(start, stop)) | set(range(begin, end)))
                share = both / either
                if (video_id, place) in taken or share < iou:
                    continue
                if best is None or share > best_iou:
                    best, best_iou = place, share
            if best is not None:
                taken.add((video_id, best))
                hits += 1
        recall = hits / count
        area += (recall - recall_before) * hits / len(kept)
        recall_before = recall
    return area


def random_case(rng: np.random.Generator) -> tuple[dict[str, VideoScores], dict[str, Truth]]:
    """Few levels, so that confidences tie; videos of several categories, and of none."""
    scores, truth = {}, {}
    for number in range(rng.integers(1, 5)):
        values = rng.integers(0, 4, size=(rng.integers(1, 9), len(NAMES))) / 4
        scores[f"v{number}"] = with_classes(values, NAMES, length=5)
        edges = np.unique(rng.integers(0, 5 * len(values) + 1, 4)).tolist()
        intervals = tuple(zip(edges[::2], edges[1::2], strict=False))
        own = rng.permutation([*NAMES, "other"])[: rng.integers(1, 3)]
        truth[f"v{number}"] = Truth(intervals, int(bool(intervals)), "|".join(own))
    return scores, truth


def test_map_equals_a_loop_over_all_thresholds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores, truth = random_case(rng)
        metrics = compute_metrics(scores, truth)
        expected: dict[str, list[float]] = {}
        for category in (*NAMES, "other"):
            events = {
                each: known.intervals
                for each, known in truth.items()
                if known.intervals and category in known.category.split("|")
            }
            if not events:
                continue
            found: dict[str, Any] = {}
            for each, video in scores.items() if category in NAMES else ():
                found[each] = naive_detections(
                    np.repeat(video.classes[:, NAMES.index(category)], 5).tolist()
                )
            expected[category] = [naive_ap(found, events, iou) for iou in IOUS]
            entry = metrics.per_category[category]
            values = [entry[f"temporal_ap@{iou}"] for iou in IOUS]
            assert values == pytest.approx(expected[category], abs=1e-12)
            assert entry["temporal_ap"] == pytest.approx(np.mean(expected[category]), abs=1e-12)
            assert entry["num_events"] == sum(map(len, events.values()))
        means = np.mean(list(expected.values()), axis=0)
        assert [metrics.values[name] for name in TEMPORAL] == pytest.approx(
            [means.mean(), *means], abs=1e-12
        )


def test_worked_example() -> None:
    """A right event, a double that finds the event taken, and a miss."""
    found = {"a": [(0, 10, 0.9), (1, 10, 0.8)], "b": [(50, 60, 0.5)]}
    events = {"a": [(0, 12)], "b": [(0, 10)]}
    assert temporal_ap(found, events, 0.5) == pytest.approx(1 / 2)
    assert temporal_ap({}, events, 0.5) == 0.0
    assert detections(np.array([0.3] * 20)) == [] == detections(np.empty(0))
    assert detections(np.array([0.0, 1.0, 0.0, 1.0, 1.0])) == [(3, 5, pytest.approx(1.7))]


@pytest.mark.parametrize("coverage, found", [("cut", 0.0), ("hold", 1.0)])
def test_frames_after_the_last_clip_have_its_class_scores_where_asked(coverage, found) -> None:
    video = replace(with_classes([[0.1], [0.1], [0.1], [0.9]], ["fire"]), num_frames=96)
    metrics = compute_metrics({"a": video}, {"a": Truth(((48, 96),), 1, "fire")}, coverage)
    assert metrics.values["temporal_map@0.5"] == found


def test_heads_without_classes_have_no_such_metrics() -> None:
    truth = {"a": Truth(((0, 16),), 1, "fire")}
    metrics = compute_metrics({"a": video_scores([0.9, 0.1])}, truth)
    assert not set(TEMPORAL) & metrics.as_json().keys()
    assert "num_events" not in metrics.per_category["fire"]
    known = compute_metrics({"a": with_classes([[0.1, 0.9, 0], [0, 0.1, 0]], NAMES)}, truth)
    assert known.as_json()["temporal_map"] == 1.0
    unknown = compute_metrics(
        {"a": with_classes([[0.1, 0.9, 0]], NAMES)}, {"a": Truth(None, 1, "fire")}
    )
    assert unknown.values["temporal_map"] is None and "unknown" in unknown.reasons["temporal_map"]


def test_class_scores_are_stored_averaged_and_exported(tmp_path: Path) -> None:
    one, other = (
        with_classes([[0.1, 0.9, 0], [0.5, 0.2, 0]], NAMES),
        with_classes([[0.3, 0.7, 0]] * 2, NAMES),
    )
    write_scores(tmp_path / "s.h5", {"a": one}, TRAINED, "checkpoint-last")
    read = read_scores(tmp_path / "s.h5")
    assert read["a"].class_names == NAMES and (read["a"].classes == one.classes).all()
    mean = mean_scores([read, replace(read, by_id={"a": other})])
    assert mean["a"].classes == pytest.approx((one.classes + other.classes) / 2)
    renamed = replace(read, by_id={"a": replace(other, class_names=("x", "y", "z"))})
    with pytest.raises(CheckpointError, match="the seeds have other classes: fight"):
        mean_scores([read, renamed])
    named = replace(one, class_names=("fight", 'a, "b"', "c"))
    (alarm,) = write_alarms(tmp_path, Scores({"a": named}, TRAINED), 0.9, {}, plots=False)["a"]
    assert alarm["class"] == 'a, "b"'
    rows = list(csv.reader((tmp_path / "a.scores.csv").read_text().splitlines()))
    assert rows[0] == ["frame", "seconds", "score", "fight", 'a, "b"', "c"]
    assert rows[17] == ["16", "0.640", "0.500000", "0.500000", "0.200000", "0.000000"]


@pytest.mark.parametrize(
    "kind", ["NaN", "too few names", "no names", "twice", "number", "missing", "link", "not JSON"]
)
def test_class_scores_that_mean_harm_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.h5"
    write_scores(path, {"a": with_classes([[0.1, 0.9, 0]], NAMES)}, TRAINED, "last")
    names = {
        "too few names": ["x"], "no names": [], "twice": ["x", "x", "y"], "number": [1, 2, 3],
    }  # fmt: skip
    with h5py.File(path, "a") as file:
        if kind in names:
            file.attrs["classes"] = json.dumps({"names": names[kind]})
        elif kind == "not JSON":
            file.attrs["classes"] = "{"
        elif kind == "NaN":
            file["000000/classes"][0, 0] = np.nan
        else:
            del file["000000/classes"]
            if kind == "link":
                file["000000/classes"] = h5py.ExternalLink("other.h5", "/x")
    with within(), pytest.raises(CheckpointError, match="s.h5: .*(damaged|missing)"):
        read_scores(path)
