"""RTFM: losses and network against loops, and what must not change a result."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from support.naive import assert_same, entropy, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.base import HeadOutput
from vadprep.heads.rtfm import (
    RTFM,
    NonLocal,
    RTFMConfig,
    active_norm,
    classification_loss,
    magnitude_loss,
    masked_norm,
    roughness,
    select,
)

squared_magnitude_loss = partial(magnitude_loss, form="squared")
hinge_magnitude_loss = partial(magnitude_loss, form="hinge")
cross_entropy_of_mean = partial(classification_loss, form="mean")
cross_entropy_each = partial(classification_loss, form="each")

LENGTHS, LABELS = (7, 2, 9, 1, 5), (1.0, 0.0, 0.0, 1.0, 1.0)


@pytest.fixture
def bags():
    return random_bags(LENGTHS, LABELS)


@pytest.fixture
def features():
    """Three crops of float64 [N, C, T, 4]."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(LENGTHS), 3, max(LENGTHS), 4)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.fixture
def chosen(bags, features):
    return select(features.norm(dim=3).mean(dim=1), bags.mask, 3)


def naive_rows(features):
    """The three snippets of largest mean magnitude of each video, or all of fewer."""
    chosen = []
    for video, length in zip(features, LENGTHS, strict=True):
        magnitude = [
            sum(math.sqrt(sum(v * v for v in video[c, t].tolist())) for c in range(3)) / 3
            for t in range(length)
        ]
        chosen.append(sorted(range(length), key=lambda t: -magnitude[t])[:3])
    return chosen


def test_selection_is_by_mean_magnitude_over_crops(features, chosen):
    rows, count = chosen
    found = [row[valid].tolist() for row, valid in zip(rows, count, strict=True)]
    assert found == naive_rows(features)


def naive_magnitude(features, margin, hinge):
    norms = {0.0: [], 1.0: []}
    for video, rows, label in zip(features, naive_rows(features), LABELS, strict=True):
        of_crops = []
        for crop in video:
            if hinge:
                of_crops.append(mean([crop[t].norm() for t in rows]))
            else:
                of_crops.append(mean([crop[t] for t in rows]).norm())
        norms[label].append(of_crops)
    terms = []
    for abnormal, normal in zip(norms[1.0], norms[0.0], strict=False):
        for a, n in zip(abnormal, normal, strict=True):
            terms.append(
                torch.clamp(margin - (a - n), min=0) if hinge else (abs(margin - a) + n) ** 2
            )
    return mean(terms)


@pytest.mark.parametrize("loss", [squared_magnitude_loss, hinge_magnitude_loss])
@pytest.mark.parametrize("margin", [0.5, 100.0])
def test_magnitude_equals_a_loop(loss, margin, bags, features, chosen):
    found = loss(features, *chosen, bags.labels, margin)
    hinge = loss is hinge_magnitude_loss
    assert_same(found, naive_magnitude(features, margin, hinge), features)


@pytest.mark.parametrize("loss", [cross_entropy_of_mean, cross_entropy_each])
def test_classification_equals_a_loop(loss, bags, features, chosen):
    found = loss(bags.scores, *chosen, bags.labels)
    videos = []
    for (row, label), rows in zip(bags.rows, naive_rows(features), strict=True):
        if loss is cross_entropy_of_mean:
            videos.append(entropy(mean([row[t] for t in rows]), label))
        else:
            videos.append(sum(entropy(row[t], label) for t in rows))
    assert_same(found, mean(videos), bags.scores)


@pytest.mark.parametrize("across", ["batch", "video"])
def test_smoothness_equals_a_loop(across, bags):
    rows = [row for row, label in bags.rows if label]
    if across == "batch":
        rows = [[score for row in rows for score in row]]
    expected = sum((row[t] - row[t + 1]) ** 2 for row in rows for t in range(len(row) - 1))
    abnormal = bags.labels > 0
    assert_same(
        roughness(bags.scores[abnormal], bags.mask[abnormal], across), expected, bags.scores
    )


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_sparsity_equals_a_loop(norm, bags):
    flat = [score for row, label in bags.rows if label for score in row]
    expected = sum(flat) if norm == "l1" else torch.sqrt(sum(score**2 for score in flat))
    abnormal = bags.labels > 0
    assert_same(
        active_norm(bags.scores[abnormal], bags.mask[abnormal], norm), expected, bags.scores
    )


def test_closed_forms():
    """Magnitudes at the margin and at zero: nothing is left. Equal bags: the hinge is m."""
    labels, mask = torch.tensor([1.0, 0.0]), torch.ones(2, 4, dtype=torch.bool)
    features = torch.zeros(2, 1, 4, 2)
    features[0, 0, :, 0] = 100.0
    chosen = select(features.norm(dim=3).mean(dim=1), mask, 3)
    for loss in (squared_magnitude_loss, hinge_magnitude_loss):
        assert loss(features, *chosen, labels, 100.0) == 0
    equal = torch.ones(2, 1, 4, 2)
    chosen = select(equal.norm(dim=3).mean(dim=1), mask, 3)
    assert hinge_magnitude_loss(equal, *chosen, labels, 100.0) == 100
    assert squared_magnitude_loss(equal, *chosen, labels, 100.0) == pytest.approx(100.0**2)


@pytest.mark.parametrize("length", [1, 2])
def test_fewer_snippets_than_k_are_all_chosen(length):
    """Equal scores: the cross-entropy of one, and of its sum over the snippets there are."""
    labels, mask = torch.tensor([1.0, 0.0]), torch.ones(2, length, dtype=torch.bool)
    scores, entropy = torch.full((2, length), 0.25), -(math.log(0.25) + math.log(0.75)) / 2
    chosen = select(torch.ones(2, length), mask, 3)
    assert chosen[0].shape == (2, length) and chosen[1].all()
    assert cross_entropy_of_mean(scores, *chosen, labels).item() == pytest.approx(entropy)
    assert cross_entropy_each(scores, *chosen, labels).item() == pytest.approx(length * entropy)
    assert roughness(scores, mask, "video") == 0


@pytest.mark.parametrize("loss", [squared_magnitude_loss, hinge_magnitude_loss])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_magnitude_is_zero_when_a_class_is_missing(loss, label, bags, features, chosen):
    found = loss(features, *chosen, torch.full_like(bags.labels, label), 100.0)
    assert found == 0 and not torch.autograd.grad(found, features)[0].any()


def head_of(**config):
    torch.manual_seed(0)
    return RTFM(8, RTFMConfig(branch_width=4, affinity_width=2, **config)).double()


def loss_of(head, features, bags):
    output = HeadOutput(scores=bags.scores, features=features.flatten(0, 1))
    return head.loss(output, bags.labels, bags.mask)


def test_terms_carry_their_weights(bags, features, chosen):
    head = head_of(magnitude_weight=0.5, sparsity=0.25, smoothness=0.125).eval()
    terms = loss_of(head, features, bags)
    abnormal = bags.scores[bags.labels > 0], bags.mask[bags.labels > 0]
    expected = {
        "classification": cross_entropy_of_mean(bags.scores, *chosen, bags.labels),
        "magnitude": 0.5 * squared_magnitude_loss(features, *chosen, bags.labels, 100.0),
        "sparsity": 0.25 * active_norm(*abnormal, "l2"),
        "smoothness": 0.125 * roughness(*abnormal, "batch"),
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )


def test_variants_of_the_paper_are_taken(bags, features, chosen):
    variants = {"classification": "each", "magnitude": "hinge", "sparsity_norm": "l1"}
    official, paper = (
        loss_of(head_of(**config).eval(), features, bags)
        for config in ({}, {**variants, "smooth_across": "video"})
    )
    assert all(official[name].item() != paper[name].item() for name in official)


def test_training_selects_among_a_share_drawn_anew_for_each_video():
    """Three snippets stand out in features and scores; dropped ones make room for others."""
    features, scores = torch.zeros(2, 1, 9, 4), torch.zeros(2, 9)
    features[:, :, 5:8], scores[:, 5:8] = 30.0, 0.5
    output, labels = HeadOutput(scores=scores, features=features[:, 0]), torch.tensor([1.0, 0.0])
    mask = torch.ones(2, 9, dtype=torch.bool)

    def classification(head):
        return head.loss(output, labels, mask)["classification"].item()

    assert classification(head_of().eval()) == pytest.approx(math.log(2))
    assert classification(head_of(selection_dropout=0.0).train()) == pytest.approx(math.log(2))
    head = head_of().train()
    assert len({classification(head) for _ in range(50)}) >= 4  # two videos, each on its own


def naive_non_local(block, x, affinity):
    """y_t = sum over s of f_ts g_s of one video [W, T], by its equations."""
    length = x.shape[1]
    g, theta, phi = (
        layer.weight[:, :, 0] @ x + layer.bias[:, None]
        for layer in (block.g, block.theta, block.phi)
    )
    columns = []
    for t in range(length):
        f = torch.stack([theta[:, t] @ phi[:, s] for s in range(length)])
        f = f / length if affinity == "dot" else f.exp() / f.exp().sum()
        columns.append(sum(f[s] * g[:, s] for s in range(length)))
    y = torch.stack(columns, dim=1)
    return block.expand.weight[:, :, 0] @ y + block.expand.bias[:, None] + x


@pytest.mark.parametrize("affinity", ["dot", "softmax"])
def test_non_local_block_equals_its_equations(affinity):
    torch.manual_seed(0)
    block = NonLocal(4, RTFMConfig(affinity=affinity, affinity_width=3)).double()
    block.norm = torch.nn.Identity()
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        found = block(x[None], torch.ones(1, 6, dtype=torch.bool))[0]
        torch.testing.assert_close(found, naive_non_local(block, x, affinity), rtol=0, atol=1e-10)


def test_non_local_block_starts_as_the_identity():
    block = NonLocal(4, RTFMConfig()).train()
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(block(x, torch.ones(2, 6, dtype=torch.bool)), x)


def test_batch_statistics_are_those_of_the_valid_steps():
    norm, x = torch.nn.BatchNorm1d(3).train(), torch.randn(2, 3, 5)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    rows = torch.cat([x[0].T, x[1, :, :2].T])
    expected = (rows - rows.mean(dim=0)) / torch.sqrt(rows.var(dim=0, correction=0) + 1e-5)
    found = masked_norm(norm, x, mask).transpose(1, 2)
    torch.testing.assert_close(found[mask], expected)
    assert not found[~mask].any()


def test_a_batch_of_one_snippet_is_normed_by_the_running_statistics():
    norm, x = torch.nn.BatchNorm1d(3).train(), torch.randn(1, 3, 2)
    norm(torch.randn(50, 3) * 4 + 1)
    mask = torch.tensor([[True, False]])
    found, before = masked_norm(norm, x, mask), norm.running_mean.clone()
    torch.testing.assert_close(found[:, :, 0], norm.eval()(x[:, :, 0]))
    assert not found[:, :, 1].any() and torch.equal(norm.running_mean, before)
    head, one = head_of().train(), torch.ones(1, 1, dtype=torch.bool)
    output = head(torch.randn(1, 1, 1, 8, dtype=torch.float64), one)
    assert all(term.isfinite() for term in head.loss(output, torch.ones(1), one).values())


def test_pyramid_reaches_as_far_as_its_dilations():
    head = head_of(dropout=0.0).eval()
    snippets = torch.randn(16, 1, 21, 8, dtype=torch.float64).requires_grad_()
    head(snippets, torch.ones(16, 21, dtype=torch.bool)).features[:, 10].sum().backward()
    seen = snippets.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    near = {10 + fused + step * d for fused in (-1, 0, 1) for step in (-1, 0, 1) for d in (1, 2, 4)}
    assert set(seen) == near


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affinity", ["dot", "softmax"])
def test_padding_changes_nothing(training, affinity):
    config = {"dropout": 0.0, "selection_dropout": 0.0, "affinity": affinity}
    head = head_of(**config).train(training)
    torch.nn.init.ones_(head.network.non_local.norm.weight)
    alone = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    padded = torch.cat([alone, torch.full_like(alone[:, :, :5], 1e3)], dim=2).requires_grad_()
    more = torch.cat([mask, torch.zeros(2, 5, dtype=torch.bool)], dim=1)
    labels = torch.tensor([1.0, 0.0])
    one, other = head(alone, mask), head(padded, more)
    torch.testing.assert_close(other.scores[more], one.scores[mask], rtol=0, atol=1e-12)
    losses = [head.loss(one, labels, mask), head.loss(other, labels, more)]
    assert losses[1].keys() == losses[0].keys()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=1e-12)
    sum(losses[1].values()).backward()
    assert not padded.grad[:, :, 9:].any() and padded.grad[:, :, :4].any()


def test_width_of_the_official_network():
    head = RTFM(2048, HEADS["rtfm"].published["ucf"])
    shapes = {name: tuple(value.shape) for name, value in head.network.named_parameters()}
    assert shapes["pyramid.2.weight"] == (512, 2048, 3) and shapes["reduce.weight"] == (
        512,
        2048,
        1,
    )
    assert shapes["non_local.g.weight"] == (256, 512, 1)
    assert shapes["fuse.weight"] == (2048, 2048, 3)


def test_published_settings():
    config = HEADS["rtfm"].published["shanghaitech"]
    assert config.epochs * config.steps_per_epoch == 15_000
    assert (config.batch_size, config.batches, config.crops) == (64, "balanced", "axis")
    assert (config.sampling, config.k, config.margin) == ("segments-32", 3, 100)
    assert (config.learning_rate, config.weight_decay) == (1e-3, 5e-3)
    assert (config.magnitude_weight, config.sparsity, config.smoothness) == (1e-4, 8e-3, 8e-4)
    assert (config.dropout, config.selection_dropout) == (0.7, 0.7)
    assert HEADS["rtfm"].published["xd"].learning_rate == 1e-4
