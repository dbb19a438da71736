"""AR-Net: losses against loops and closed forms."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from support.naive import assert_same, entropy, largest, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.arnet import (
    ARNet,
    ARNetConfig,
    center_loss,
    dynamic_mil_loss,
)
from vadprep.heads.base import HeadOutput

masked_center_loss = partial(center_loss, form="masked")
padded_center_loss = partial(center_loss, form="padded")


def naive_dynamic_mil(rows, alpha, selection):
    videos = []
    for row, label in rows:
        videos.append([entropy(s, label) for s in largest(row, math.ceil(len(row) / alpha))])
    if selection == "video":
        return mean([mean(video) for video in videos])
    return mean([each for video in videos for each in video])


def naive_variance(row, shared):
    middle = mean(row)
    return sum((s - middle) ** 2 for s in row) / shared


@pytest.mark.parametrize("selection", ["batch", "video"])
@pytest.mark.parametrize("alpha", [1, 4, 64])
def test_dynamic_mil_equals_a_loop(alpha, selection):
    bags = random_bags()
    found = dynamic_mil_loss(bags.scores, bags.labels, bags.mask, alpha, selection)
    assert_same(found, naive_dynamic_mil(bags.rows, alpha, selection), bags.scores)


def test_center_of_the_paper_equals_a_loop():
    bags = random_bags()
    found = masked_center_loss(bags.scores, bags.labels, bags.mask)
    normal = [row for row, label in bags.rows if not label]
    assert_same(found, mean([naive_variance(row, len(row)) for row in normal]), bags.scores)


def test_center_of_the_code_counts_padding_and_is_unbiased():
    bags = random_bags()
    found = padded_center_loss(bags.scores, bags.labels, bags.mask)
    normal = [list(row) for row, label in zip(bags.scores, bags.labels, strict=True) if not label]
    assert_same(found, mean([naive_variance(row, len(row) - 1) for row in normal]), bags.scores)


@pytest.mark.parametrize("selection", ["batch", "video"])
def test_more_padding_changes_nothing_that_is_masked(selection):
    bags = random_bags()
    more = bags.padded()
    for loss in (
        lambda b: dynamic_mil_loss(b.scores, b.labels, b.mask, 4, selection),
        lambda b: masked_center_loss(b.scores, b.labels, b.mask),
    ):
        assert loss(more).item() == pytest.approx(loss(bags).item(), abs=1e-12)


def test_padding_adds_to_the_center_of_the_code():
    head = ARNet(4, ARNetConfig(center_weight=1.0)).double().eval()
    torch.nn.init.constant_(head.layers[3].bias, 3.0)  # what zeros score
    alone = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    alone[..., 0] = torch.tensor([-3.0, 5.0])
    label, terms = torch.zeros(1), []
    for padding in (0, 6):
        snippets = torch.nn.functional.pad(alone, (0, 0, 0, padding))
        mask = torch.arange(2 + padding)[None] < 2
        terms.append(head.loss(head(snippets, mask), label, mask)["center"].item())
    assert terms[0] != pytest.approx(terms[1], rel=1e-3)


@pytest.mark.parametrize("selection", ["batch", "video"])
def test_closed_forms(selection):
    """Equal scores: the entropy of one, and no variance."""
    labels, mask = torch.tensor([1.0, 0.0]), torch.ones(2, 9, dtype=torch.bool)
    equal = torch.full((2, 9), 0.25)
    expected = -(math.log(0.25) + math.log(0.75)) / 2
    found = dynamic_mil_loss(equal, labels, mask, 4, selection)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert masked_center_loss(equal, labels, mask) == 0
    assert padded_center_loss(equal, labels, mask) == 0


def test_long_videos_weigh_more_in_the_code():
    scores = torch.tensor([[0.9] * 8, [0.2] * 8])
    mask = torch.arange(8) < torch.tensor([8, 1])[:, None]
    long, short = -math.log(0.9), -math.log(0.2)
    found = [
        dynamic_mil_loss(scores, torch.ones(2), mask, 4, how).item() for how in ("batch", "video")
    ]
    assert found == pytest.approx([(2 * long + short) / 3, (long + short) / 2], rel=1e-6)


@pytest.mark.parametrize("loss", [masked_center_loss, padded_center_loss])
def test_center_is_zero_without_a_normal_video(loss):
    bags = random_bags()
    found = loss(bags.scores, torch.ones_like(bags.labels), bags.mask)
    assert found == 0 and not torch.autograd.grad(found, bags.scores)[0].any()


def test_terms_carry_their_weights():
    bags = random_bags()
    head = ARNet(4, ARNetConfig(center="masked", center_weight=7.0, selection="video"))
    terms = head.loss(HeadOutput(scores=bags.scores), bags.labels, bags.mask)
    center = masked_center_loss(bags.scores, bags.labels, bags.mask)
    assert terms["center"].item() == pytest.approx(7 * center.item())
    expected = dynamic_mil_loss(bags.scores, bags.labels, bags.mask, 4, "video")
    assert terms["dmil"].item() == pytest.approx(expected.item())


def test_published_settings():
    config = HEADS["arnet"].published["shanghaitech"]
    assert config.epochs * config.steps_per_epoch == 4760
    assert (config.batch_size, config.batches, config.sampling) == (60, "drawn", "jitter-300")
    assert (config.learning_rate, config.weight_decay, config.dropout) == (1e-4, 5e-4, 0.7)
    assert (config.alpha, config.center_weight) == (4, 20)
    assert (config.selection, config.center) == ("batch", "padded")
