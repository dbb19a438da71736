"""The MIL ranking baseline: losses against loops, the network, and scoring by segments."""

from __future__ import annotations

import pytest
import torch
from support.naive import assert_same, random_bags
from torch import nn

from vadprep.core.clips import matlab_edges
from vadprep.heads import HEADS
from vadprep.heads.base import HeadOutput
from vadprep.heads.sultani import DEEPMIL, Sultani, SultaniConfig, ranking_loss


def naive_ranking(rows, pairs):
    abnormal = [max(row) for row, label in rows if label]
    normal = [max(row) for row, label in rows if not label]
    if pairs == "zipped":
        hinges = [torch.clamp(1 - a + n, min=0) for a, n in zip(abnormal, normal, strict=False)]
        return sum(hinges) / len(hinges)
    total = 0.0
    for n in normal:
        for a in abnormal:
            total = total + torch.clamp(1 - a + n, min=0)
    return total / len(normal)


@pytest.mark.parametrize("pairs", ["all", "zipped"])
def test_ranking_equals_a_loop(pairs):
    bags = random_bags()
    found = ranking_loss(bags.scores, bags.labels, bags.mask, pairs)
    assert_same(found, naive_ranking(bags.rows, pairs), bags.scores)


@pytest.mark.parametrize("pairs, shared", [("all", 1), ("zipped", 3)])
def test_sparsity_and_smoothness_equal_loops(pairs, shared):
    bags = random_bags()
    head = Sultani(4, SultaniConfig(pairs=pairs, sparsity=0.3, smoothness=0.7)).double()
    terms = head.loss(HeadOutput(scores=bags.scores), bags.labels, bags.mask)
    abnormal = [row for row, label in bags.rows if label]
    sparsity = 0.3 * sum(sum(row) for row in abnormal) / shared
    changes = [(row[t] - row[t + 1]) ** 2 for row in abnormal for t in range(len(row) - 1)]
    assert_same(terms["sparsity"], sparsity, bags.scores)
    assert_same(terms["smoothness"], 0.7 * sum(changes) / shared, bags.scores)


def test_weight_penalty_leaves_the_biases_alone():
    head = Sultani(4, SultaniConfig(width=3, narrow=2)).double()
    for parameter in head.parameters():
        torch.nn.init.constant_(parameter, 2.0)
    bags = random_bags()
    terms = head.loss(HeadOutput(scores=bags.scores), bags.labels, bags.mask)
    assert terms["weights"].item() == pytest.approx(1e-3 * 4 * (4 * 3 + 3 * 2 + 2))


def test_weight_penalty_equals_a_loop():
    torch.manual_seed(0)
    head = Sultani(4, SultaniConfig(width=3, narrow=2, weight_penalty=0.3)).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    bags = random_bags()
    found = head.loss(HeadOutput(scores=bags.scores), bags.labels, bags.mask)["weights"]
    expected = 0.3 * sum(
        number**2
        for name, parameter in head.named_parameters()
        if name.endswith("weight")
        for number in parameter.flatten()
    )
    assert_same(found, expected, *head.parameters())


def test_closed_forms():
    """All scores equal: every hinge is 1. Perfect scores: none is left."""
    labels, mask = torch.tensor([1.0, 1, 0, 0, 0]), torch.ones(5, 3, dtype=torch.bool)
    equal = torch.full((5, 3), 0.4)
    assert ranking_loss(equal, labels, mask, "all").item() == pytest.approx(2)
    assert ranking_loss(equal, labels, mask, "zipped").item() == pytest.approx(1)
    assert ranking_loss(labels[:, None].expand(5, 3), labels, mask, "all") == 0
    one = ranking_loss(torch.tensor([[0.9], [0.2]]), torch.tensor([1.0, 0.0]), mask[:2, :1], "all")
    assert one.item() == pytest.approx(1 - 0.9 + 0.2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_ranking_is_zero_when_a_class_is_missing(label):
    bags = random_bags()
    loss = ranking_loss(bags.scores, torch.full_like(bags.labels, label), bags.mask, "all")
    assert loss == 0 and not torch.autograd.grad(loss, bags.scores)[0].any()


def head_of(**config):
    torch.manual_seed(0)
    return Sultani(6, SultaniConfig(width=8, narrow=4, **config)).eval()


@pytest.mark.parametrize("num_snippets", [1, 5, 32, 70])
def test_scores_of_segments_are_spread_over_their_snippets(num_snippets):
    """Means, unit length, three layers, and back, written out for each snippet."""
    head = head_of()
    snippets = torch.randn(2, num_snippets, 6)
    edges = matlab_edges(num_snippets, 32).tolist()
    expected = []
    for row in range(num_snippets):
        part = max(i for i in range(32) if edges[i] <= row)
        rows = snippets[:, edges[part] : max(edges[part + 1], edges[part] + 1)].mean(dim=1)
        with torch.no_grad():
            scores = head.layers(rows / rows.norm(dim=1, keepdim=True))
        expected.append(scores.mean().item())
    with torch.no_grad():
        found, _ = head.score(snippets)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_scores_of_single_snippets():
    head = head_of(scoring="snippets", normalize=False)
    snippets = torch.randn(1, 5, 6)
    with torch.no_grad():
        found, _ = head.score(snippets)
        expected = head.layers(snippets[0]).flatten()
    torch.testing.assert_close(found, expected.double())


def test_length_of_a_row_does_not_matter():
    head, snippets = head_of(), torch.randn(1, 1, 4, 6)
    mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        one, other = (head(scale * snippets, mask).scores for scale in (1, 7))
    torch.testing.assert_close(one, other)


def test_the_port_drops_scores_in_training_only():
    head = head_of(dropout_scores=True, middle="relu").train()
    snippets, mask = torch.randn(1, 1, 400, 6), torch.ones(1, 400, dtype=torch.bool)
    with torch.no_grad():
        dropped = (head(snippets, mask).scores == 0).float().mean().item()
        assert dropped == pytest.approx(0.6, abs=0.1)
        assert head.eval()(snippets, mask).scores.all()


class Port(nn.Module):
    """DeepMIL's network, written out."""

    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(dim, 512), nn.Linear(512, 32), nn.Linear(32, 1)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, rows):
        return torch.sigmoid(self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(rows))))))[..., 0]


def port_loss(normal, abnormal):
    """DeepMIL's loss of scores [N, 32] each: i-th with i-th, every term a mean over the pairs."""
    total = 0.0
    for n, a in zip(normal, abnormal, strict=True):
        changes = sum((a[t + 1] - a[t]) ** 2 for t in range(31))
        total = total + torch.relu(1 - a.max() + n.max()) + 8e-5 * changes + 8e-5 * a.sum()
    return total / len(normal)


def test_settings_of_the_port_give_its_start_scores_and_loss():
    torch.manual_seed(DEEPMIL.seed)
    head = Sultani(6, DEEPMIL)
    torch.manual_seed(DEEPMIL.seed)
    port = Port(6)
    pairs = list(zip(head.parameters(), port.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)

    head, port = head.double().eval(), port.double()
    snippets = 3 * torch.randn(1, 70, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(head.score(snippets)[0], port(snippets[0]), rtol=0, atol=1e-12)

    bags = torch.randn(6, 1, 32, 6, dtype=torch.float64)
    labels, mask = torch.tensor([0.0] * 3 + [1.0] * 3), torch.ones(6, 32, dtype=torch.bool)
    terms = head.loss(head(bags, mask), labels, mask)
    expected = port_loss(port(bags[:3, 0]), port(bags[3:, 0]))
    assert sum(terms.values()).item() == pytest.approx(expected.item(), abs=1e-12)
    ours = torch.autograd.grad(sum(terms.values()), list(head.parameters()))
    theirs = torch.autograd.grad(expected, list(port.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_settings_of_the_port():
    assert DEEPMIL.epochs * DEEPMIL.steps_per_epoch == 1250
    assert (DEEPMIL.batch_size, DEEPMIL.batches) == (64, "balanced")
    assert DEEPMIL.sampling == "segments-32"
    assert (DEEPMIL.optimizer, DEEPMIL.learning_rate, DEEPMIL.weight_decay) == ("adam", 1e-4, 5e-5)
    assert (DEEPMIL.halving_epochs, DEEPMIL.seed, DEEPMIL.dropout) == (10, 2333, 0.6)


def test_published_settings():
    config = HEADS["sultani"].published["ucf"]
    assert config.epochs * config.steps_per_epoch == 20_000
    assert (config.batch_size, config.batches, config.sampling) == (
        60,
        "drawn",
        "segments-32-matlab",
    )
    assert (config.width, config.narrow, config.dropout, config.middle) == (512, 32, 0.6, "linear")
    assert (config.sparsity, config.smoothness, config.weight_penalty) == (8e-5, 8e-5, 1e-3)
    assert (config.optimizer, config.learning_rate) == ("adagrad", 0.01)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"middle": "gelu"}, "allowed are linear, relu"),
        ({"pairs": "some"}, "allowed are all, zipped"),
        ({"sampling": "uniform-200"}, "scoring by segments needs segments-N"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SultaniConfig(**change)
