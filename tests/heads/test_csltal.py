"""CSL-TAL: losses against loops, the causal attention, the weighted T-CAM."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.naive import assert_same, entropy, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.base import HeadOutput
from vadprep.heads.csltal import (
    CSLTAL,
    CSLTALConfig,
    alignment_loss,
)

LENGTHS, LABELS = (5, 1, 9, 5, 1, 9), (1.0, 0.0, 1.0) * 2
"""Two views of three videos."""


@pytest.fixture
def bags():
    return random_bags(LENGTHS, LABELS)


def naive_alignment(rows, over):
    total = 0.0
    for (first, _), (second, _) in zip(rows[:3], rows[3:], strict=True):
        squares = [(a - b) ** 2 for a, b in zip(first, second, strict=True)]
        total = total + (mean(squares) if over == "mean" else sum(squares))
    return total


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_alignment_equals_a_loop(over, bags):
    found = alignment_loss(bags.scores, bags.mask, over)
    assert_same(found, naive_alignment(bags.rows, over), bags.scores)


@pytest.mark.parametrize("divide", [True, False])
def test_terms_equal_loops(divide, bags):
    config = CSLTALConfig(alignment=0.3, sparsity=0.5, smoothness=0.7, divide=divide)
    video = torch.rand(6, dtype=torch.float64).requires_grad_()
    output = HeadOutput(scores=bags.scores, video=video, features=bags.scores)
    terms = CSLTAL(4, config).loss(output, bags.labels, bags.mask)
    rows = [row for row, _ in bags.rows]
    shared = sum(LENGTHS) if divide else 1
    changes = [(row[t] - row[t + 1]) ** 2 for row in rows for t in range(len(row) - 1)]
    expected = {
        "classification": mean([entropy(p, y) for p, y in zip(video, LABELS, strict=True)]),
        "alignment": 0.3 * naive_alignment(bags.rows, "mean"),
        "sparsity": 0.5 * sum(sum(row) for row in rows),
        "smoothness": 0.7 * sum(changes),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert_same(terms[name], value / shared, bags.scores, video)


def test_equal_views_are_aligned():
    views = torch.rand(3, 7).repeat(2, 1)
    assert alignment_loss(views, torch.ones(6, 7, dtype=torch.bool), "sum") == 0


def test_closed_forms():
    """Attention a everywhere, video scores 1/4: log of it, nothing to align or to smooth."""
    config = CSLTALConfig(sparsity=0.5, smoothness=0.7, alignment=0.3, divide=False)
    for length in (1, 6):
        attention, video = torch.full((4, length), 0.2), torch.full((4,), 0.25)
        output = HeadOutput(scores=attention, video=video, features=attention)
        labels, mask = torch.ones(4), torch.ones(4, length, dtype=torch.bool)
        terms = CSLTAL(4, config).loss(output, labels, mask)
        assert terms["classification"].item() == pytest.approx(math.log(4))
        assert terms["sparsity"].item() == pytest.approx(0.5 * 4 * length * 0.2)
        assert terms["alignment"] == 0 and terms["smoothness"] == 0


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_more_padding_changes_no_alignment(over, bags):
    more = bags.padded()
    found = alignment_loss(more.scores, more.mask, over)
    expected = alignment_loss(bags.scores, bags.mask, over)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def head_of(**config):
    torch.manual_seed(0)
    return CSLTAL(6, CSLTALConfig(**config)).double().eval()


@pytest.mark.parametrize("attention", ["gated", "three", "two"])
def test_the_attention_sees_two_snippets_back(attention):
    head = head_of(attention=attention)
    snippets = torch.randn(1, 1, 9, 6, dtype=torch.float64).requires_grad_()
    head(snippets, torch.ones(1, 9, dtype=torch.bool)).features[0, 5].backward()
    seen = snippets.grad[0, 0].abs().sum(dim=1).nonzero().flatten().tolist()
    assert seen == [3, 4, 5]


def test_network_equals_its_equations():
    head = head_of()
    for parameter in head.attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(7, 6, dtype=torch.float64)
    with torch.no_grad():
        output = head(x[None, None], torch.ones(1, 7, dtype=torch.bool))
        before = torch.cat([torch.zeros(2, 6, dtype=torch.float64), x])
        taps = head.convolution.weight
        lambdas = []
        for t in range(7):
            c = head.convolution.bias + sum(taps[:, :, k] @ before[t + k] for k in range(3))
            gate = head.attention
            gated = torch.tanh(gate.content(c)) * torch.sigmoid(gate.gate(c))
            lambdas.append(torch.sigmoid(gate.output(gated)).squeeze())
        video = head.classifier(sum(w * row for w, row in zip(lambdas, x, strict=True)))
        scores = [w * head.classifier(row) for w, row in zip(lambdas, x, strict=True)]
    torch.testing.assert_close(output.features[0], torch.stack(lambdas), rtol=0, atol=1e-12)
    torch.testing.assert_close(output.video, video, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.scores[0], torch.cat(scores), rtol=0, atol=1e-12)


def test_attention_starts_at_a_half():
    output = head_of()(torch.rand(1, 1, 9, 6).double(), torch.ones(1, 9, dtype=torch.bool))
    torch.testing.assert_close(
        output.features, torch.full_like(output.features, 0.5), atol=0.01, rtol=0
    )


def test_the_convolution_starts_as_one_of_five_taps():
    """torch draws from +- 1 / sqrt(inputs of a sum), of which the official code has 5 dim."""
    torch.manual_seed(0)
    convolution = CSLTAL(400, CSLTALConfig()).convolution
    for parameter in (convolution.weight, convolution.bias):
        largest = parameter.abs().max().item()
        assert 0.97 * 2000**-0.5 < largest <= 2000**-0.5


def test_video_score_is_the_mean_over_crops():
    head, snippets = head_of(), torch.randn(3, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        _, found = head.score(snippets)
        each = [head.score(crop[None])[1] for crop in snippets]
    assert found == pytest.approx(sum(each) / 3, abs=1e-12)


def test_published_settings():
    config = HEADS["csltal"].published["xd"]
    assert (config.epochs, config.batch_size, config.sampling) == (50, 8, "blocks-3")
    assert (config.sparsity, config.smoothness, config.alignment) == (2e-3, 2e-8, 0.5)
    assert config.attention == "gated"
    rates = [config.learning_rate_at(epoch) for epoch in (0, 29, 30, 49)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    paper = replace(config, drop_epoch=10)
    assert paper.learning_rate_at(9) == 1e-4 and paper.learning_rate_at(10) == pytest.approx(1e-5)


def test_two_views_are_needed():
    with pytest.raises(ValueError, match="two views need blocks-N"):
        CSLTALConfig(sampling="uniform-200")
