"""Smoothed scores against numpy's convolution and a loop; both results side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core.errors import SettingError
from vadprep.evaluation import evaluate, read_scores
from vadprep.evaluation.metrics import METRICS, Truth, VideoScores, compute_metrics
from vadprep.evaluation.smoothing import smoothed


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 23])
@pytest.mark.parametrize("width", [2, 7, 8])
def test_rules_equal_numpys_convolution_and_a_loop_ends_included(count, width):
    scores = np.random.default_rng(count).random(count)
    padded = np.concatenate([scores, np.zeros(2 * width)])
    slide = smoothed(scores, f"slide-{width}")
    valid = np.convolve(padded, np.ones(width) / width, mode="valid")
    np.testing.assert_allclose(slide, valid[:count], rtol=0, atol=1e-12)
    loop = [sum(padded[i : i + width]) / width for i in range(count)]
    np.testing.assert_allclose(slide, loop, rtol=0, atol=1e-12)
    blocks = [valid[i // width * width] for i in range(count)]
    np.testing.assert_allclose(smoothed(scores, f"fixed-{width}"), blocks, rtol=0, atol=1e-12)


def test_a_video_without_scores_stays_so():
    assert smoothed(np.zeros(0), "slide-7").shape == (0,)


@pytest.mark.parametrize("rule", ["", "slide", "slide-1", "fixed-0", "slide-99999", "mean-3"])
def test_other_rules_are_refused(rule):
    with pytest.raises(SettingError, match="allowed are slide-N and fixed-N"):
        smoothed(np.ones(3), rule)


SETTINGS = {"epochs": 1, "batch_size": 4, "width": 4, "hidden": 4, "embedding": 4}


def test_metrics_have_both_results_and_nothing_is_smoothed_unasked(tmp_path):
    config = dict(settings=SETTINGS, seeds=(0,))
    features, manifest = tiny_set()
    train(features, manifest, config, tmp_path / "raw")
    train(features, manifest, config | dict(smoothing="slide-3"), tmp_path / "both")
    raw, both = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("raw", "both")
    )
    assert raw["last"]["protocols"] == {}
    for choice in ("last", "best_on_test"):
        found = both[choice]["protocols"].pop("smoothed slide-3")
        assert both[choice] == raw[choice] and list(found) == list(METRICS)
        assert found["frame_auc"] != raw[choice]["frame_auc"]
    again = evaluate(tmp_path / "both", manifest=manifest)
    assert list(again.protocols) == ["smoothed slide-3"]
    other = evaluate(tmp_path / "raw", manifest=manifest, smoothing="fixed-2")
    by_hand = dict(read_scores(tmp_path / "raw/scores-last.h5"))
    for video in by_hand.values():
        video.snippets[:] = smoothed(video.snippets, "fixed-2")
    expected = evaluate(by_hand, manifest=manifest).values
    assert other.protocols == {"smoothed fixed-2": expected}
    assert other.values == evaluate(tmp_path / "raw", manifest=manifest).values
    held = evaluate(tmp_path / "both", manifest=manifest, coverage="hold")
    assert not held.protocols and held.reasons["smoothed slide-3"] == "ask for it by --smoothing"
    with pytest.raises(SettingError, match="smoothing = 'mean'"):
        train(features, manifest, config | dict(smoothing="mean"), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_scores_of_classes_have_no_smoothed_metrics():
    spans = np.arange(0, 64, 16)[:, None] + [0, 16]
    rows = np.linspace(0.1, 0.9, 4)
    video = VideoScores(rows, spans, 64, class_names=("fire",), classes=rows[:, None])
    truth = {"a": Truth(((32, 64),), 1, "fire")}
    found = compute_metrics({"a": video}, truth, smoothing="fixed-2")
    assert found.values["temporal_map"] == 1
    assert list(found.protocols["smoothed fixed-2"]) == list(METRICS)
