"""Class scores through a run: names from the manifest, targets, checkpoint, scores, metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch
from support.tiny_features import tiny_set
from support.training import train
from torch.nn import functional

from vadprep import heads
from vadprep.core.errors import CheckpointError
from vadprep.evaluation.scores import read_scores
from vadprep.heads import HeadKind
from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.training import load_checkpoint, score_features
from vadprep.training.bags import TrainingBags

CATEGORIES = ("fire", "fire|theft", "")


@dataclass(frozen=True)
class _Config(HeadConfig):
    epochs: int = 2
    learning_rate: float = 0.1


class _Linear(Head):
    """The least that has classes: a linear map and the mean over time."""

    def __init__(self, dim, config, classes):
        super().__init__(dim, config, classes)
        self.map = torch.nn.Linear(dim, 1 + len(classes))

    def respond(self, rows, valid):
        values = self.map(rows).sigmoid()
        return HeadOutput(scores=values[..., 0], classes=values[..., 1:])

    def loss(self, output, labels, mask, classes):
        means = (output.classes * mask[..., None]).sum(dim=1) / mask.sum(dim=1)[:, None]
        known = (labels == 0) | classes.any(dim=1)
        target = functional.binary_cross_entropy(means[known], classes[known])
        score = (output.scores * mask).sum(dim=1) / mask.sum(dim=1)
        return {"score": functional.binary_cross_entropy(score, labels), "classes": target}


@pytest.fixture
def classified(monkeypatch):
    """A head with classes, and videos of several categories, of one and of none."""
    monkeypatch.setitem(
        heads.HEADS, "linear", HeadKind(_Linear, _Config, {"mine": _Config()}, with_classes=True)
    )
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
    bags = TrainingBags(features, labels, ("rgb",), _Config(batch_size=99), categories=kinds)
    (batch,) = bags.batches(0, 0)
    assert bags.classes == ("fire", "theft")
    for video_id, row in zip(batch.video_ids, batch.classes.tolist(), strict=True):
        own = kinds[video_id].split("|")
        assert row == [float(name in own) for name in bags.classes]
    (dealt,) = bags.relabelled(labels).batches(0, 0)
    assert not dealt.classes.any() and dealt.classes.shape == batch.classes.shape


def test_a_run_keeps_classes_from_manifest_to_metrics(classified, tmp_path):
    features, manifest = classified
    report = train(features, manifest, {"head": "linear", "seeds": (0, 1)}, tmp_path)
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


@pytest.mark.parametrize("damage", [["fire"], "fire", ["fire", "fire"], [1, 2], None])
def test_a_checkpoint_with_other_classes_is_damaged(classified, tmp_path, damage):
    train(*classified, {"head": "linear", "settings": {"epochs": 1}}, tmp_path)
    path = tmp_path / "checkpoint-last.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": damage}))
    with pytest.raises(CheckpointError, match="checkpoint-last"):
        load_checkpoint(tmp_path)
