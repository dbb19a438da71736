"""A run without the future: its metrics and delays beside those of whole videos."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.small_heads import SMALL
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core.errors import FeaturesError, SettingError
from vadprep.data import Manifest
from vadprep.evaluation.metrics import METRICS, compute_metrics
from vadprep.evaluation.scores import read_scores
from vadprep.evaluation.truth import truth_of
from vadprep.training import evaluate_online, load_run, score_features
from vadprep.training.online import ONLINE_SCORES, write_online

EXACT = ("arnet", "csltal")


@pytest.fixture(scope="module")
def data():
    return tiny_set(crops=2)


def trained(data, folder, name="ddl", seeds=(0,)):
    options = {"head": name, "settings": {**vars(SMALL[name]), "epochs": 1}, "snapshots": 0}
    if SMALL[name].batches != "shuffled":
        options["settings"]["steps_per_epoch"] = 2
    train(*data, {**options, "seeds": seeds}, folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=[] if each in ("arnet", "ddl") else pytest.mark.slow)
        for each in SMALL
    ],
)
def test_offline_figures_are_those_of_the_run_and_exact_heads_lose_nothing(tmp_path, data, name):
    run = trained(data, tmp_path / "r", name)
    found = evaluate_online(run, data[0], manifest=data[1])
    assert found.window == load_run(run)[0].head.online_window
    offline, online = (found.metrics["r"][form] for form in ("offline", "online"))
    last = json.loads((run / "metrics.json").read_text())["last"]
    assert {**offline.values, "video_auc": 0, "video_ap": 0} == {
        **{name: last[name] for name in offline.values},
        **{"video_auc": 0, "video_ap": 0},
    }
    if name in EXACT:
        frames = [each for each in METRICS if not each.startswith("video")]
        assert [online.values[n] for n in frames] == [offline.values[n] for n in frames]
        assert found.delays["r"]["online"] == found.delays["r"]["offline"]


def test_entries_of_metrics_json_and_the_scores_of_each_seed(tmp_path, data):
    run = trained(data, tmp_path / "r", seeds=(0, 1))
    before = json.loads((run / "metrics.json").read_text())
    found = evaluate_online(run, data[0], manifest=data[1], window=3)
    assert json.loads((run / "metrics.json").read_text()) == before
    write_online(run, found)
    after = json.loads((run / "metrics.json").read_text())
    entry = after.pop("online")
    assert after == before and entry["window"] == 3
    aucs = []
    for seed, checkpoint in zip(("seed-0", "seed-1"), load_run(run), strict=True):
        own = json.loads((run / seed / "metrics.json").read_text())["online"]
        scores = read_scores(run / seed / ONLINE_SCORES)
        ids = list(scores)
        expected = score_features(checkpoint, data[0], ids=ids, online=True, window=3)
        for video_id in ids:
            np.testing.assert_array_equal(scores[video_id].snippets, expected[video_id].snippets)
        metrics = compute_metrics(scores, truth_of(scores, data[1]))
        assert own["online"]["frame_auc"] == metrics.values["frame_auc"]
        assert own["online"]["delay"] == found.delays[seed]["online"].as_json()
        assert own["online"]["delay"]["num_events"] == 3
        aucs.append(metrics.values["frame_auc"])
    assert entry["online"]["frame_auc"] == pytest.approx(np.mean(aucs))
    assert entry["online"]["spread"]["frame_auc"] == pytest.approx(np.std(aucs, ddof=1))
    columns = found.columns(METRICS)
    assert list(columns) == ["offline, mean", "offline, spread", "online, mean", "online, spread"]
    assert columns["online, mean"]["apd"] == pytest.approx(entry["online"]["apd"])


def test_the_manifest_states_a_frame_rate_that_features_do_not(tmp_path):
    features, manifest = tiny_set(crops=1)
    for video in features.values():
        video.fps = None
    run = trained((features, manifest), tmp_path / "r")
    unknown = evaluate_online(run, features, manifest=manifest).delays["r"]["online"]
    assert unknown.hours is None and unknown.points["1/h"]["threshold"] is None
    assert unknown.reasons["threshold at 1/h"].startswith("frame rate unknown for 6 (")
    rows = tuple(replace(video, fps=25.0) for video in manifest.videos)
    stated = Manifest(manifest.path, rows)
    known = evaluate_online(run, features, manifest=stated).delays["r"]["online"]
    assert known.hours > 0 and known.apd == unknown.apd


def test_what_cannot_be_evaluated(tmp_path, data):
    run = trained(data, tmp_path / "r")
    features, manifest = tiny_set(crops=2)
    gone = next(video.video_id for video in manifest.in_split("test"))
    del features[gone]
    with pytest.raises(FeaturesError, match="test videos without features: 1 "):
        evaluate_online(run, features, manifest=manifest)
    with pytest.raises(SettingError, match="window = 0"):
        evaluate_online(run, data[0], manifest=data[1], window=0)
    with pytest.raises(SettingError, match="device = 'gpu'"):
        evaluate_online(run, data[0], manifest=data[1], device="gpu")
