"""PEL4VAD: context, pooling and prompt loss against loops written here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.naive import LENGTHS, assert_same, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.base import HeadOutput
from vadprep.heads.ddl import mil_loss
from vadprep.heads.pel4vad import (
    PEL4VAD,
    ContextAggregation,
    PEL4VADConfig,
    pooled_snippets,
    prompt_loss,
    signed_root,
)

SMALL = PEL4VADConfig(width=4, hidden=8, embedding=6, window=3, gamma=0.3, bias=0.4)


def cut(rows, lengths=LENGTHS):
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def softmax(logits):
    raised = [torch.exp(each) for each in logits]
    return [each / sum(raised) for each in raised]


def naive_context(layer, video, norm, window):
    """The context of one video [T, D] by its equations, one snippet at a time."""
    query, key, value = (video @ m.weight.T + m.bias for m in (layer.query, layer.key, layer.value))
    count, rows, share = len(video), [], torch.sigmoid(layer.mix)
    for i in range(count):
        logits = [
            query[i] @ key[j] / 2 + torch.exp(-abs(layer.gamma * (i - j) ** 2 - layer.bias))
            for j in range(count)
        ]
        seen = [j for j in range(count) if 0 <= j - i + window // 2 < window]
        local = zip(softmax([logits[j] for j in seen]), seen, strict=True)
        far = sum(w * value[j] for j, w in enumerate(softmax(logits)))
        rows.append(share * far + (1 - share) * sum(w * value[j] for w, j in local))
    found = torch.stack(rows)
    if norm != "none":
        found = torch.where(found > 0, 1.0, -1.0) * found.abs().sqrt()
        found = found / (found**2).sum(dim=0 if norm == "time" else 1, keepdim=True).sqrt()
    return found @ layer.output.weight.T + layer.output.bias


@pytest.mark.parametrize("norm, window", [("none", 3), ("time", 4), ("features", 1)])
def test_context_equals_its_equations_whatever_the_padding(norm, window):
    lengths = (7, 1, 4)
    torch.manual_seed(0)
    layer = ContextAggregation(6, replace(SMALL, norm=norm, window=window)).double()
    torch.nn.init.constant_(layer.mix, 0.7)
    x = torch.randn(3, 7, 6, dtype=torch.float64).requires_grad_()
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    loop = [naive_context(layer, each, norm, window) for each in cut(x, lengths)]
    found = layer(x.masked_fill(~mask[:, :, None], 1e3), mask)
    learnt = layer.mix, layer.gamma, layer.bias, layer.query.weight, layer.value.weight
    scalars = (torch.cat(each).sin().sum() for each in (cut(found, lengths), loop))
    assert_same(*scalars, x, *learnt)


def naive_network(network, video):
    """Scores and visual vectors of one video [T, D], snippet by snippet."""

    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    added = video
    if network.config.attention:
        added = video + naive_context(network.context, video, network.config.norm, SMALL.window)
    visual, embedded = [], []
    for row in added:
        scaled = (row - row.mean()) / torch.sqrt(row.var(correction=0) + network.norm.eps)
        normed = scaled * network.norm.weight + network.norm.bias
        visual.append(gelu(network.visual.weight @ normed + network.visual.bias))
        embedded.append(gelu(network.embed.weight @ visual[-1] + network.embed.bias))
    taps, scores = network.classifier.weight[0].T, []
    for t in range(len(video)):
        seen = range(max(0, t - len(taps) + 1), t + 1)
        logit = sum(taps[len(taps) - 1 - t + s] @ embedded[s] for s in seen)
        scores.append(torch.sigmoid(logit + network.classifier.bias[0]))
    return torch.stack(scores), torch.stack(visual)


@pytest.mark.parametrize("changes", [{"norm": "none"}, {"norm": "time"}, {"attention": False}])
def test_the_network_equals_a_loop_in_value_and_gradient(changes):
    torch.manual_seed(0)
    network = PEL4VAD(6, replace(SMALL, **changes)).double().eval()
    assert network.config.attention == any("key" in name for name, _ in network.named_parameters())
    with torch.no_grad():  # biases and norms that a test would miss at 0 and 1
        for each in network.parameters():
            each.add_(0.1 * torch.randn_like(each))
    lengths = (7, 1, 4)
    x = torch.randn(3, 7, 6, dtype=torch.float64).requires_grad_()
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    output = network.respond(x.masked_fill(~mask[:, :, None], 0.0), mask)
    pairs = [naive_network(network, each) for each in cut(x, lengths)]
    scores, visual = (torch.cat(each) for each in zip(*pairs, strict=True))
    found = output.scores[mask].sin().sum() + output.features[mask].sin().sum()
    learnt = [p for name, p in network.named_parameters() if name != "log_scale"]
    assert_same(found, scores.sin().sum() + visual.sin().sum(), x, *learnt)


def test_both_linear_layers_are_dropped_out():
    network = PEL4VAD(6, replace(SMALL, dropout=0.9)).train()
    assert network.dropout.p == 0.9
    network.dropout.p = 1.0
    output = network(torch.randn(1, 1, 5, 6), torch.ones(1, 5).bool())
    assert not output.features.any()
    expected = network.classifier.bias.sigmoid().expand(1, 5)
    torch.testing.assert_close(output.scores, expected)


def test_context_in_blocks_is_that_at_once(monkeypatch):
    torch.manual_seed(0)
    layer = ContextAggregation(6, replace(SMALL, norm="time")).double()
    x, mask = torch.randn(2, 30, 6, dtype=torch.float64), torch.ones(2, 30, dtype=torch.bool)
    whole = layer.train()(x, mask)
    monkeypatch.setattr("vadprep.heads.layers.MOST_ENTRIES", 8 * 30)
    torch.testing.assert_close(layer.eval()(x, mask), whole, rtol=0, atol=1e-12)


def test_the_signed_root_has_a_finite_gradient_at_zero():
    x = torch.tensor([-4.0, 0.0, 9.0]).requires_grad_()
    assert signed_root(x).tolist() == [-2.0, 0.0, 3.0]
    (gradient,) = torch.autograd.grad(signed_root(x).sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.25, 0.0, 1 / 6]))


def naive_pooled(scores, visual):
    found = []
    for s, v in zip(cut(scores), cut(visual), strict=True):
        for each in (s, 1 - s):
            weights = torch.exp(10 * each) - 1
            found.append(sum(w * x for w, x in zip(weights, v, strict=True)) / weights.sum())
    return torch.stack(found[::2]), torch.stack(found[1::2])


def test_pooling_equals_a_loop_whatever_the_padding():
    bags = random_bags()
    for each in (bags, bags.padded()):
        found = pooled_snippets(each.scores, each.embeddings, each.mask, 10.0)
        loop = naive_pooled(bags.scores, bags.embeddings)
        scalars = (sum((p * (n + 1)).sin().sum() for n, p in enumerate(x)) for x in (found, loop))
        assert_same(*scalars, bags.scores, bags.embeddings)


LABELS = (1.0, 0.0, 1.0, 1.0, 0.0)
CLASSES = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
"""The third is abnormal of unknown class, the fourth of both."""


def naive_prompt_loss(foreground, background, prompts, scale):
    rows = []
    for n, (label, own) in enumerate(zip(LABELS, CLASSES, strict=True)):
        kinds = {k + 1 for k, each in enumerate(own) if each} or ({0} if not label else set())
        if kinds:
            rows.append((foreground[n], kinds))
        if label:
            rows.append((background[n], {0}))
    terms = []
    for vector, kinds in rows:
        cosines, targets = [], []
        for _, others in rows:
            text = mean([prompts[k] for k in sorted(others)])
            cosines.append(scale * (vector @ text) / vector.norm() / text.norm())
            targets.append(torch.tensor(10.0 if kinds & others else 0.0, dtype=torch.float64))
        pairs = zip(softmax(targets), softmax(cosines), strict=True)
        terms.append(sum(q * (torch.log(q) - torch.log(p)) for q, p in pairs))
    return mean(terms)


def test_prompt_loss_equals_a_loop():
    torch.manual_seed(0)
    foreground, background = torch.randn(2, 5, 4, dtype=torch.float64).unbind()
    prompts = torch.randn(3, 4, dtype=torch.float64)
    inputs = [each.requires_grad_() for each in (foreground.clone(), background.clone())]
    scale = torch.tensor(11.0, dtype=torch.float64).requires_grad_()
    labels, classes = (torch.tensor(each, dtype=torch.float64) for each in (LABELS, CLASSES))
    found = prompt_loss(*inputs, prompts, labels, classes, scale)
    assert_same(found, naive_prompt_loss(*inputs, prompts, scale), *inputs, scale)


def test_without_prompts_only_mil_is_trained_and_with_them_both_with_their_weight():
    bags, classes = random_bags(), torch.tensor(CLASSES, dtype=torch.float64)
    network = PEL4VAD(6, replace(SMALL, hidden=4, lambda_prompt=3.0)).double()
    apart = torch.randn(5, 40, 4, dtype=torch.float64)
    crops = torch.stack([bags.embeddings + apart, bags.embeddings - apart], dim=1)  # of one mean
    output = HeadOutput(scores=bags.scores, features=crops.flatten(0, 1))
    assert list(network.loss(output, bags.labels, bags.mask)) == ["mil"]
    assert not network.takes_classes
    prompts = torch.randn(3, 4, dtype=torch.float64)
    network.set_prompts(prompts)
    assert network.takes_classes and "prompts" not in network.state_dict()
    terms = network.loss(output, bags.labels, bags.mask, classes)
    pooled = pooled_snippets(bags.scores, bags.embeddings, bags.mask, 10.0)
    prompt = prompt_loss(*pooled, prompts, bags.labels, classes, torch.tensor(1 / 0.05))
    assert terms["prompt"].item() == pytest.approx(3 * prompt.item(), rel=1e-6)
    assert terms["mil"].item() == mil_loss(bags.scores, bags.labels, bags.mask).item()


def test_classifier_is_causal():
    """With the context silenced, a score sees itself and kernel - 1 snippets before it."""
    network = PEL4VAD(6, replace(SMALL, kernel=3)).double().eval()
    torch.nn.init.zeros_(network.context.output.weight)
    snippets = torch.randn(1, 1, 10, 6, dtype=torch.float64).requires_grad_()
    network(snippets, torch.ones(1, 10).bool()).scores[0, 5].backward()
    assert snippets.grad[0, 0].abs().sum(dim=1).nonzero().flatten().tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ucf", (9, 0.6, 0.2, "time", 9, 0.09, 1.0, 9)),
        ("xd", (9, 0.06, 0.02, "none", 3, 0.05, 1.0, 4)),
        ("shanghaitech", (5, 0.08, 0.1, "time", 3, 0.2, 9.0, 0)),
    ],
)
def test_published_settings(name, expected):
    config = HEADS["pel4vad"].published[name]
    names = "window gamma bias norm kernel temperature lambda_prompt seed".split()
    assert tuple(getattr(config, each) for each in names) == expected
    assert (config.epochs, config.cosine_epochs, config.learning_rate) == (50, 60, 5e-4)
    assert (config.batch_size, config.sampling, config.crops) == (128, "uniform-200", "sample")
    assert (config.batches, config.optimizer, config.weight_decay) == ("shuffled", "adam", 0)
    assert (config.dropout, config.sharpness) == (0.1, 10)


def test_the_network_has_the_published_size():
    network = PEL4VAD(1024, HEADS["pel4vad"].published["ucf"])
    assert sum(p.numel() for p in network.parameters()) == 1_209_149  # "1.21 M" in the logs
    assert network.log_scale.item() == pytest.approx(math.log(1 / 0.09))
    bound = math.sqrt(6 / (1024 + 512))  # Xavier uniform
    assert 0.99 * bound < network.visual.weight.abs().max() <= bound
