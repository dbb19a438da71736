"""The glance loss of UR-DMU against loops, and a training on clicks."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.naive import LENGTHS, assert_same, random_bags
from support.stopped import stopped_after
from support.tiny_features import tiny_set
from support.training import train

from vadprep.core.errors import ManifestError, SettingError
from vadprep.core.signals import Stopped
from vadprep.heads import HEADS, HeadConfig
from vadprep.heads.sampling import sampler
from vadprep.heads.urdmu import GLANCE, URDMU, URDMUConfig, glance_loss, kernels, mined
from vadprep.training.bags import TrainingBags

CLICKS = ([3, 20], [0], [16], [0, 1], [32])
"""Of bags of ``LENGTHS`` snippets."""


def clicked(mask):
    found = torch.zeros_like(mask)
    for row, clicks in zip(found, CLICKS, strict=True):
        row[clicks] = True
    return found


def naive_kernel(length, clicks, sigma):
    def stretched(values):
        low, high = min(values), max(values)
        return [(v - low) / (high - low) if high > low else 1.0 for v in values]

    rows = []
    for click in clicks:
        apart = [2 * (t - click) / max(length - 1, 1) for t in range(length)]
        rows.append(stretched([math.exp(-d * d / (2 * sigma * sigma)) for d in apart]))
    return stretched([max(each) for each in zip(*rows, strict=True)])


def naive_loss(scores, sigma):
    terms = []
    for row, length, clicks in zip(scores, LENGTHS, CLICKS, strict=True):
        for p, t in zip(row, naive_kernel(length, clicks, sigma), strict=False):
            terms.append(-t * torch.log(p) - (1 - t) * torch.log(1 - p))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_glance_loss_equals_a_loop_whatever_the_padding(sigma):
    bags = random_bags()
    for each in (bags, bags.padded()):
        found = glance_loss(each.scores, clicked(each.mask), each.mask, sigma)
        assert_same(found, naive_loss(bags.scores, sigma), bags.scores)


def naive_mined(row, length, clicks, ratio):
    found = set(clicks)
    for click in clicks:
        for t in range(click + 1, length):
            if t in clicks or row[t] < ratio * row[click]:
                break
            found.add(t)
        for t in range(click - 1, -1, -1):
            if t in clicks or row[t] < ratio * row[click]:
                break
            found.add(t)
    return sorted(found)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_mining_equals_a_loop_and_stops_at_padding(ratio):
    bags = random_bags().padded()
    found = mined(bags.scores, clicked(bags.mask), bags.mask, ratio)
    for n, (length, clicks) in enumerate(zip(LENGTHS, CLICKS, strict=True)):
        expected = naive_mined(bags.scores[n].tolist(), length, clicks, ratio)
        assert found[n].nonzero().flatten().tolist() == expected


def test_a_snippet_of_just_the_share_of_the_click_is_mined():
    scores = torch.tensor([[0.24, 0.25, 0.5, 0.25, 0.24]])
    clicks = torch.arange(5)[None] == 2
    found = mined(scores, clicks, torch.ones(1, 5, dtype=torch.bool), 0.5)
    assert found.tolist() == [[False, True, True, True, False]]


def test_kernels_are_highest_at_clicks_and_constant_for_one_snippet():
    mask = torch.arange(9) < torch.tensor([[9], [1]])
    clicks = torch.zeros_like(mask)
    clicks[0, [2, 6]] = clicks[1, 0] = True
    found = kernels(clicks, mask, 0.1)
    assert found[0, 2] == found[0, 6] == 1 and found[0].min() == 0 and (found <= 1).all()
    assert found[1].tolist() == [1.0] + [0.0] * 8


SMALL = URDMUConfig(
    glance=True, glance_steps=2, width=8, heads=2, head_width=4, patterns=20, hidden=6, dropout=0.0
)


def test_bags_with_a_click_are_left_out_of_the_classification_and_mined_later():
    torch.manual_seed(0)
    network = URDMU(6, SMALL).double().train()
    mask, labels = torch.ones(3, 20, dtype=torch.bool), torch.tensor([1.0, 0.0, 1.0])
    clicks = torch.zeros_like(mask)
    clicks[0, 5] = True
    output = network(torch.randn(3, 1, 20, 6, dtype=torch.float64), mask)
    own, score = (clicks[:1], mask[:1]), output.scores[:1]
    first, second = (network.loss(output, labels, mask, clicks) for _ in range(2))
    assert first["glance"] == glance_loss(score, *own, 0.1)
    grown = mined(score, *own, 0.9)
    assert grown.sum() > 1 and second["glance"] == glance_loss(score, grown, mask[:1], 0.1)
    others = [1, 2]
    plain = URDMU(6, replace(SMALL, glance=False)).double().train()
    part = type(output)(**{
        name: None if value is None else value[others] for name, value in vars(output).items()
    })  # fmt: skip
    expected = plain.loss(part, labels[others], mask[others])["classification"]
    assert first["classification"].item() == pytest.approx(expected.item(), abs=1e-12)
    network.eval().loss(output, labels, mask, clicks)  # is no step
    assert network.state_dict()["steps"] == 2 and "steps" not in plain.state_dict()


@pytest.mark.parametrize(
    "name, length, rows, expected",
    [
        ("segments-4", 8, [0, 1, 2, 7], [0, 0, 1, 3]),
        ("segments-4", 2, [0, 1], [0, 2]),
        ("segments-9", 3, [0, 1, 2], [1, 4, 7]),
        ("segments-200", 25, [0, 24], [3, 195]),
        ("uniform-4", 10, [0, 2, 3, 9], [0, 0, 1, 3]),
        ("uniform-20", 10, [0, 9], [0, 9]),
    ],
)
def test_clicks_have_a_place_in_the_bag(name, length, rows, expected):
    assert sampler(name).places(length, np.array(rows)).tolist() == expected


def test_a_clicked_frame_is_in_its_snippet_and_after_all_of_them_in_the_last():
    features, _ = tiny_set(num_train=2, num_test=0)
    clicked, other = features  # 4 and 5 snippets of 16 frames
    labels, frames = {clicked: 1, other: 0}, {clicked: (0, 15, 16, 68)}
    bags = TrainingBags(features, labels, ("rgb",), HeadConfig(), glances=frames)
    (batch,) = bags.batches(0, 0)
    rows = dict(zip(batch.video_ids, batch.glances.tolist(), strict=True))
    assert rows == {clicked: [True, True, False, True, False], other: [False] * 5}


def test_random_samplers_have_no_place_for_clicks():
    with pytest.raises(SettingError, match="glances need sampling segments-N or uniform-N"):
        sampler("jitter-300").places(400, np.array([3]))


def with_clicks():
    features, manifest = tiny_set()
    videos = [
        replace(v, glances=(v.intervals[0][0] + 3,)) if v.intervals else v for v in manifest.videos
    ]
    return features, replace(manifest, videos=tuple(videos))


SETTINGS = {
    "glance": True, "glance_steps": 3, "epochs": 3, "steps_per_epoch": 2, "batch_size": 4,
    "width": 8, "heads": 2, "head_width": 4,
}  # fmt: skip
CONFIG = dict(head="urdmu", schedule="small", settings=SETTINGS, seeds=(0,), snapshots=0)


def test_a_training_on_clicks_logs_the_loss_and_goes_on_to_the_same_bytes(tmp_path):
    """Stopped between the steps without and with mining."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*with_clicks(), CONFIG, whole)
    rows = list(csv.DictReader((whole / "log.csv").read_text().splitlines()))
    assert len(rows) == 6 and all(float(row["glance"]) > 0 for row in rows)
    with pytest.raises(Stopped), stopped_after(3):
        train(*with_clicks(), CONFIG, parts)
    train(*with_clicks(), CONFIG | dict(resume=True), parts)
    for name in ("log.csv", "checkpoint-last.safetensors", "scores-last.h5", "metrics.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_a_manifest_without_glances_is_named(tmp_path):
    with pytest.raises(ManifestError, match="tiny.csv: column 'glances': no abnormal training"):
        train(*tiny_set(), CONFIG, tmp_path / "r")


def test_published_settings_of_glances():
    assert GLANCE.epochs * GLANCE.steps_per_epoch == 1500 and GLANCE.glance
    assert (GLANCE.glance_sigma, GLANCE.glance_ratio, GLANCE.glance_steps) == (0.1, 0.9, 50)
    assert (GLANCE.learning_rate, GLANCE.weight_decay, GLANCE.batch_size) == (1e-4, 5e-5, 128)
    assert (GLANCE.sampling, GLANCE.batches, GLANCE.seed) == ("segments-200", "balanced", 0)
    assert not any(config.glance for config in HEADS["urdmu"].published.values())
