"""Class scores through a run: names from the manifest, targets, checkpoint, scores, metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core.errors import CheckpointError
from vadprep.evaluation.scores import read_scores
from vadprep.heads import HeadConfig
from vadprep.training import load_checkpoint, score_features
from vadprep.training.bags import TrainingBags

CATEGORIES = ("fire", "fire|theft", "")


SETTINGS = {"epochs": 2, "batch_size": 4, "hidden": 8, "length": 16, "window": 4}
CONFIG = {"head": "vadclip", "settings": SETTINGS, "dataset": "ucf"}


@pytest.fixture
def classified():
    """Videos of several categories, of one and of none."""
    features, manifest = tiny_set(num_train=12, num_test=6)
    videos = [
        replace(video, category=CATEGORIES[n // 2 % 3] if video.label else "normal")
        for n, video in enumerate(manifest.videos)
    ]
    return features, replace(manifest, videos=tuple(videos))


def test_bags_know_the_classes_of_abnormal_videos(classified):
    features, manifest = classified
    labels = {video.video_id: video.label for video in manifest.videos}
    kinds = {video.video_id: video.category for video in manifest.videos}
    bags = TrainingBags(features, labels, ("rgb",), HeadConfig(), categories=kinds)
    (batch,) = bags.batches(0, 0)
    assert bags.classes == ("fire", "theft")
    for video_id, row in zip(batch.video_ids, batch.classes.tolist(), strict=True):
        own = kinds[video_id].split("|")
        assert row == [float(name in own) for name in bags.classes]
    (dealt,) = bags.relabelled({each: 1 - label for each, label in labels.items()}).batches(0, 0)
    assert dealt.classes.tolist() == [[1 - label] * 2 for label in batch.labels.tolist()]


def test_a_run_keeps_classes_from_manifest_to_metrics(classified, tmp_path):
    features, manifest = classified
    report = train(features, manifest, CONFIG | dict(seeds=(0, 1)), tmp_path)
    run = load_checkpoint(tmp_path / "seed-0")
    assert run.head.classes == ("fire", "theft")
    assert json.loads((tmp_path / "seed-0/config.json").read_text())["classes"] == ["fire", "theft"]
    scores = read_scores(tmp_path / "seed-0/scores-last.h5")
    again = score_features(run, features, ids=list(scores))
    for video_id, video in scores.items():
        assert video.class_names == ("fire", "theft")
        assert video.classes.shape == (len(video.spans), 2)
        assert (again[video_id].classes == video.classes).all()
    record = json.loads((tmp_path / "metrics.json").read_text())
    values = [seed["last"]["temporal_map"] for seed in record["seeds"]]
    assert record["last"]["temporal_map"] == pytest.approx(sum(values) / 2)
    assert record["last"]["per_category"]["theft"]["num_events"] == 1
    assert "temporal_map@0.5" in report.columns()["mean"]
    assert report.settings.startswith("ucf, class embeddings learnt from random numbers, ")


def test_prompts_of_classes_are_frozen_in_the_checkpoint(classified, tmp_path):
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    names = ("normal", "fire", "theft")
    np.savez(tmp_path / "p.npz", **dict(zip(names, rows, strict=True)))
    report = train(*classified, CONFIG | dict(prompts=tmp_path / "p.npz"), tmp_path / "run")
    (tmp_path / "p.npz").unlink()
    head = load_checkpoint(tmp_path / "run").head
    assert (head.anchors.numpy() == rows).all() and head.offsets.any()
    assert report.settings.startswith("ucf, with prompts, ")


@pytest.mark.parametrize(
    "damage", [["fire"], "fire", ["fire", "fire"], [1, 2], ["fire", "\ud800"], None]
)
def test_a_checkpoint_with_other_classes_is_damaged(classified, tmp_path, damage):
    train(*classified, CONFIG, tmp_path)
    path = tmp_path / "checkpoint-last.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": damage}))
    with pytest.raises(CheckpointError, match="checkpoint-last"):
        load_checkpoint(tmp_path)


def test_a_run_goes_on_only_with_the_same_categories(classified, tmp_path):
    features, manifest = classified
    train(features, manifest, CONFIG, tmp_path)
    train(features, manifest, CONFIG | dict(resume=True), tmp_path)
    others = {"fire": "fire|theft", "fire|theft": "fire"}
    videos = [replace(each, category=others.get(each.category, "")) for each in manifest.videos]
    with pytest.raises(CheckpointError, match="categories_sha256: "):
        train(
            features, replace(manifest, videos=tuple(videos)), CONFIG | dict(resume=True), tmp_path
        )
