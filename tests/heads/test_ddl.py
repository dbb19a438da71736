"""DDL: losses and network against loops written here, and what must not change a result."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.naive import LABELS, LENGTHS, assert_same, random_bags
from support.tiny_features import tiny_set
from support.training import train

from vadprep.heads import HEADS, head_kind
from vadprep.heads.base import HeadOutput
from vadprep.heads.ddl import (
    DDL,
    DDLConfig,
    LocalAwareAttention,
    dynamics_alignment_loss,
    dynamics_ranking_loss,
    mil_loss,
)
from vadprep.training.checkpoint import load_checkpoint

SMALL = DDLConfig(width=8, heads=2, hidden=8, embedding=4, kernel=3, sigma=2.0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def bags():
    """Scores [N, T], embeddings [N, T, 4], labels [N], mask [N, T] in float64, padding random."""
    found = random_bags()
    return found.scores, found.embeddings, found.labels, found.mask


def naive_top_mean(values, k):
    chosen = sorted(values, key=lambda value: value.item(), reverse=True)[:k]
    return sum(chosen) / len(chosen)


def naive_k(label, length):
    return length // 16 + 1 if label else 1


def naive_mil(scores, labels, lengths):
    total = 0.0
    for row, label, length in zip(scores, labels, lengths, strict=True):
        p = naive_top_mean(list(row[:length]), naive_k(label, length))
        total = total - torch.log(p if label else 1 - p)
    return total / len(lengths)


def naive_ranking(scores, labels, lengths, zeta, pairs="means"):
    energies = {0.0: [], 1.0: []}
    for row, label, length in zip(scores, labels, lengths, strict=True):
        squares = [(row[t] - row[t + 1]) ** 2 for t in range(length - 1)]
        if squares:
            energies[label].append(naive_top_mean(squares, naive_k(label, length)))
    abnormal, normal = energies[1.0], energies[0.0]
    if pairs == "means":
        compared = [(sum(abnormal) / len(abnormal), sum(normal) / len(normal))]
    elif pairs == "all":
        compared = list(itertools.product(abnormal, normal))
    else:
        compared = list(zip(abnormal, normal, strict=False))
    return sum(torch.clamp(zeta - a + n, min=0) for a, n in compared) / len(compared)


def naive_alignment(scores, embeddings, lengths):
    videos = []
    for row, x, length in zip(scores, embeddings, lengths, strict=True):
        terms = []
        for t in range(length - 1):
            cosine = (x[t] @ x[t + 1]) / (x[t].norm() * x[t + 1].norm())
            terms.append(-abs(row[t] - row[t + 1]) * torch.log(1 - cosine + 1e-7))
        if terms:
            videos.append(sum(terms) / len(terms))
    return sum(videos) / len(videos)


CASES = {
    "mil": (
        lambda s, x, y, m: mil_loss(s, y, m),
        lambda s, x: naive_mil(s, LABELS, LENGTHS),
    ),
    "ranking": (
        lambda s, x, y, m: dynamics_ranking_loss(s, y, m, 0.8),
        lambda s, x: naive_ranking(s, LABELS, LENGTHS, 0.8),
    ),
    "alignment": (
        lambda s, x, y, m: dynamics_alignment_loss(s, x, m),
        lambda s, x: naive_alignment(s, x, LENGTHS),
    ),
}


def value_and_gradients(loss, *inputs):
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    filled = [
        torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)
    ]
    return loss.detach(), filled


@pytest.mark.parametrize("name", CASES)
def test_losses_equal_a_loop_in_value_and_gradient(name, bags):
    scores, embeddings, labels, mask = bags
    ours, loop = CASES[name]
    found = ours(scores, embeddings, labels, mask)
    assert_same(found, loop(scores, embeddings), scores, embeddings)


@pytest.mark.parametrize("pairs", ["means", "all", "zipped"])
@pytest.mark.parametrize("zeta", [0.0, 0.8])
def test_pairings_equal_a_loop(pairs, zeta):
    """Another draw, in which the classes are not ordered at the mean."""
    bags = random_bags((20, 30, 9, 40, 33), (1.0, 0.0, 1.0, 0.0, 0.0), seed=3)
    found = dynamics_ranking_loss(bags.scores, bags.labels, bags.mask, zeta, pairs)
    lengths = bags.mask.sum(dim=1).tolist()
    labels = bags.labels.tolist()
    assert_same(found, naive_ranking(bags.scores, labels, lengths, zeta, pairs), bags.scores)


@pytest.mark.parametrize("name", CASES)
def test_more_padding_changes_no_loss(name, bags):
    scores, embeddings, labels, mask = bags
    ours = CASES[name][0]
    longer = [torch.cat([x, torch.full_like(x[:, :7], 0.99)], dim=1) for x in (scores, embeddings)]
    more = torch.cat([mask, torch.zeros_like(mask[:, :7])], dim=1)
    expected = ours(scores, embeddings, labels, mask)
    assert ours(*longer, labels, more).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_ranking_is_skipped_when_a_class_is_missing(label, bags):
    scores, _, labels, mask = bags
    loss = dynamics_ranking_loss(scores, torch.full_like(labels, label), mask, 0.8)
    value, (gradient,) = value_and_gradients(loss, scores)
    assert value == 0 and not gradient.any()


def test_ranking_is_zero_when_abnormal_scores_change_more_by_the_margin():
    scores = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    arguments = torch.tensor([1.0, 0.0]), torch.ones(2, 2, dtype=torch.bool)
    assert dynamics_ranking_loss(scores, *arguments, 0.0) == 0
    assert dynamics_ranking_loss(scores, *arguments, 1.5) == 0.5
    assert dynamics_ranking_loss(scores.flip(0), *arguments, 0.0) == 1


def test_closed_forms():
    """Equal scores: one cross-entropy, no dynamics. Identical bags: the margin is left."""
    labels, mask = torch.tensor([1.0, 0.0]), torch.ones(2, 20, dtype=torch.bool)
    equal, entropy = torch.full((2, 20), 0.25), -(math.log(0.25) + math.log(0.75)) / 2
    x = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
    assert mil_loss(equal, labels, mask).item() == pytest.approx(entropy)
    assert dynamics_alignment_loss(equal, x, mask) == 0
    same = torch.rand(1, 9, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    for pairs in ("means", "all", "zipped"):
        assert dynamics_ranking_loss(equal, labels, mask, 0.3, pairs).item() == pytest.approx(0.3)
        found = dynamics_ranking_loss(same, labels, mask[:, :9], 0.3, pairs)
        assert found.item() == pytest.approx(0.3)  # k is 1 for both: T is below 16
        assert dynamics_ranking_loss(equal[:, :1], labels, mask[:, :1], 0.3, pairs) == 0
    assert mil_loss(equal[:, :1], labels, mask[:, :1]).item() == pytest.approx(entropy)
    assert dynamics_alignment_loss(equal[:, :1], x[:, :1], mask[:, :1]) == 0


def test_alignment_stays_finite_on_a_frozen_picture(generator):
    # In float32 the cosine of equal vectors passes 1 by up to some 1e-7.
    embeddings = torch.randn(64, 1, 128, generator=generator).repeat(1, 5, 1).requires_grad_()
    scores = torch.rand(64, 5, generator=generator).requires_grad_()
    loss = dynamics_alignment_loss(scores, embeddings, torch.ones(64, 5, dtype=torch.bool))
    value, gradients = value_and_gradients(loss, scores, embeddings)
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def head(config=SMALL, dim=6):
    torch.manual_seed(0)
    return DDL(dim, config).double().eval()


def naive_attention(layer, snippets, prior):
    """LA-Net of one video [T, D] by its equations, one query at a time."""
    num_snippets, heads = len(snippets), layer.heads
    q, k, v = ((snippets @ w.weight.T) for w in (layer.query, layer.key, layer.value))
    head_width = q.shape[1] // heads
    rows = []
    for i in range(num_snippets):
        parts = []
        for h in range(heads):
            columns = slice(h * head_width, (h + 1) * head_width)
            logits = [q[i, columns] @ k[j, columns] / math.sqrt(8) for j in range(num_snippets)]
            g = [math.exp(-((i - j) ** 2) / 4.0) for j in range(num_snippets)]
            if prior == "pre":
                logits = [logit + near for logit, near in zip(logits, g, strict=True)]
            exponentials = [math.exp(logit) for logit in logits]
            weights = [e / sum(exponentials) for e in exponentials]
            if prior == "post":
                weights = [w + near for w, near in zip(weights, g, strict=True)]
            parts.append(sum(w * v[j, columns] for j, w in enumerate(weights)))
        x = snippets[i] + layer.output.weight @ torch.cat(parts)
        normal = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
        rows.append(normal * layer.norm.weight + layer.norm.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("prior", ["post", "pre", "none"])
def test_attention_equals_its_equations(prior, generator):
    torch.manual_seed(1)
    layer = LocalAwareAttention(6, replace(SMALL, prior=prior)).double()
    snippets = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = layer(snippets[None], torch.ones(1, 7, dtype=torch.bool))[0]
        expected = naive_attention(layer, snippets, prior)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_without_the_attention_the_residual_is_normed(generator):
    network = head(replace(SMALL, attention=False, kernel=1))
    assert not any("query" in name for name, _ in network.named_parameters())
    snippets = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64).requires_grad_()
    norm = network.attention.norm
    for each in norm.parameters():
        torch.nn.init.normal_(each)
    found = network.respond(snippets, torch.ones(2, 7, dtype=torch.bool)).scores
    x = (snippets - snippets.mean(2, keepdim=True)) / (
        snippets.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    x = x * norm.weight + norm.bias
    for layer in (network.mlp[0], network.mlp[3]):
        x = x @ layer.weight.T + layer.bias
        x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    logits = x @ network.classifier.weight[0, :, 0] + network.classifier.bias
    scalars = (each.sin().sum() for each in (found, torch.sigmoid(logits)))
    assert_same(*scalars, snippets, *norm.parameters(), network.mlp[0].weight)


@pytest.mark.parametrize("prior", ["post", "pre"])
def test_padding_changes_no_score_and_gets_no_gradient(prior, generator):
    network = head(replace(SMALL, prior=prior))
    alone = torch.randn(1, 9, 6, generator=generator, dtype=torch.float64)
    garbage = torch.full((1, 5, 6), 1e3, dtype=torch.float64)
    padded = torch.cat([alone, garbage], dim=1).requires_grad_()
    mask = torch.arange(14)[None] < 9
    scores = network(padded[:, None], mask).scores[:, :9]
    expected = network(alone[:, None], mask[:, :9]).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    scores.sum().backward()
    assert padded.grad[:, :9].any() and not padded.grad[:, 9:].any()


def test_classifier_is_causal(generator):
    """With attention silenced, a score sees itself and K - 1 snippets before it."""
    network = head()
    torch.nn.init.zeros_(network.attention.output.weight)
    snippets = torch.randn(1, 10, 6, generator=generator, dtype=torch.float64).requires_grad_()
    network(snippets[:, None], torch.ones(1, 10, dtype=torch.bool)).scores[0, 5].backward()
    seen = snippets.grad[0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert seen == [3, 4, 5]


def test_scoring_in_blocks_equals_all_rows_at_once(monkeypatch, generator):
    network = head()
    snippets = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    mask = torch.arange(50) < torch.tensor([[50], [31]])
    whole = network(snippets[:, None], mask).scores
    monkeypatch.setattr("vadprep.heads.layers.MOST_ENTRIES", 1400)
    torch.testing.assert_close(network(snippets[:, None], mask).scores, whole, rtol=0, atol=1e-12)


def test_terms_carry_their_weights(bags):
    scores, embeddings, labels, mask = bags
    network = head(replace(SMALL, lambda_dr=3.0, lambda_da=5.0, zeta=0.8))
    output = HeadOutput(scores=scores, features=embeddings)
    terms = network.loss(output, labels, mask)
    ranking = dynamics_ranking_loss(scores, labels, mask, 0.8)
    alignment = dynamics_alignment_loss(scores, embeddings, mask)
    assert terms["dr"].item() == pytest.approx(3 * ranking.item())
    assert terms["da"].item() == pytest.approx(5 * alignment.item())


def test_detached_scores_get_no_gradient_from_the_alignment(bags):
    scores, embeddings, labels, mask = bags
    output = HeadOutput(scores=scores, features=embeddings)
    terms = head(replace(SMALL, detach="scores")).loss(output, labels, mask)
    _, (by_scores, by_embeddings) = value_and_gradients(terms["da"], scores, embeddings)
    assert not by_scores.any() and by_embeddings.any()


def test_published_settings():
    xd, ucf = HEADS["ddl"].published["xd"], HEADS["ddl"].published["ucf"]
    assert (xd.width, xd.sigma, xd.kernel, xd.lambda_dr, xd.seed) == (128, 6.0, 5, 2.0, 4)
    assert (ucf.width, ucf.sigma, ucf.kernel, ucf.lambda_dr, ucf.seed) == (512, 16.0, 10, 1.0, 9)
    for config in (xd, ucf):
        assert (config.heads, config.hidden, config.embedding) == (4, 512, 128)
        assert (config.epochs, config.batch_size, config.sampling) == (50, 128, "uniform-200")
        assert (config.learning_rate, config.cosine_epochs, config.weight_decay) == (5e-4, 60, 0)


ABLATIONS = {
    "no prior": ({"prior": "none"}, set()),
    "without DR": ({"lambda_dr": 0.0}, {"dr"}),
    "without DA": ({"lambda_da": 0.0}, {"da"}),
    "without both": ({"lambda_dr": 0.0, "lambda_da": 0.0}, {"dr", "da"}),
}
"""Of the paper: settings, and terms of the loss that are then 0."""


def trained(folder, changes):
    """Rows of the log and weights after two epochs."""
    small = {"width": 8, "hidden": 8, "embedding": 4, "zeta": 0.8, "epochs": 2, "batch_size": 8}
    train(*tiny_set(), dict(settings={**small, **changes}, seeds=(0,), snapshots=0), folder)
    rows = list(csv.DictReader((folder / "log.csv").read_text().splitlines()))
    return rows, load_checkpoint(folder).head.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training with both losses and the prior."""
    return trained(tmp_path_factory.mktemp("ddl"), {})


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_trained(name, whole, tmp_path):
    """Terms are 0 in each step, or in none; and the network becomes another one."""
    changes, absent = ABLATIONS[name]
    rows, weights = trained(tmp_path, changes)
    assert len(rows) == len(whole[0]) == 4
    for term in ("mil", "dr", "da"):
        assert {float(row[term]) == 0 for row in rows} == {term in absent}
        assert all(float(row[term]) != 0 for row in whole[0])
    assert any(not torch.equal(weights[key], value) for key, value in whole[1].items())


def test_learning_rate_follows_torchs_cosine():
    config = HEADS["ddl"].published["xd"]
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for epoch in range(config.epochs):
        assert config.learning_rate_at(epoch) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_other_data_sets_fall_back_to_the_settings_of_xd():
    assert HEADS["ddl"].settings("ucf")[0] == "ucf"
    assert HEADS["ddl"].settings("my cameras")[0] == "xd"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pairs": "some"}, "allowed are means, all, zipped"),
        ({"prior": "both"}, "allowed are post, pre, none"),
        ({"scaling": "sqrt"}, "allowed are width, head, none"),
        ({"width": 10, "heads": 4}, "multiple of 4 heads"),
        ({"sigma": 0.0}, "must be positive"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DDLConfig(**change)


def test_unknown_head_lists_the_known():
    with pytest.raises(ValueError, match="allowed are sultani, rtfm, arnet, csltal, ddl"):
        head_kind("dll")


def test_scaling_divides_the_dot_products():
    scales = {
        s: LocalAwareAttention(6, replace(SMALL, scaling=s)).scale
        for s in ("width", "head", "none")
    }
    np.testing.assert_allclose(list(scales.values()), [8**-0.5, 4**-0.5, 1.0])
