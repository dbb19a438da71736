"""VadCLIP: layers, branches and losses against loops, classes and prompts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.naive import LABELS, LENGTHS, assert_same, entropy, largest, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.vadclip import (
    GraphLayer,
    VadCLIP,
    VadCLIPConfig,
    VadCLIPOutput,
    WindowedBlock,
    alignment_loss,
    distance_graph,
    similarity_graph,
    text_loss,
)

SMALL = VadCLIPConfig(hidden=8, heads=2, length=12, window=4, layers=1)
CLASSES = ("fire", "theft")
TARGETS = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
"""Of ``LABELS``: two classes, unknown, normal, normal, one class."""


@pytest.fixture
def bags():
    """The embeddings stand for cosines of 1 + 2 texts, or for snippets of width 4."""
    return random_bags(width=3)


def head(config=SMALL, dim=5, classes=CLASSES):
    torch.manual_seed(0)
    found = VadCLIP(dim, config, classes).double().eval()
    with torch.no_grad():  # biases and norms that a test would miss at 0 and 1
        for each in found.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return found


def gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


def naive_mlp(layer, x):
    inner = gelu(layer.first.weight @ x + layer.first.bias)
    return layer.second.weight @ inner + layer.second.bias


def norm(layer, x):
    scaled = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + layer.eps)
    return scaled * layer.weight + layer.bias


def naive_block(layer, x):
    """One query at a time, which sees its own window; x is a list of snippets."""
    width, half = len(x[0]), len(x[0]) // layer.heads
    parts = [layer.parts.weight @ norm(layer.norm, each) + layer.parts.bias for each in x]
    rows = []
    for i, own in enumerate(x):
        window = [j for j in range(len(x)) if j // layer.window == i // layer.window]
        seen = []
        for h in range(layer.heads):
            q, k, v = (slice(s * width + h * half, s * width + (h + 1) * half) for s in range(3))
            logits = [parts[i][q] @ parts[j][k] / math.sqrt(half) for j in window]
            total = sum(torch.exp(each) for each in logits)
            pairs = zip(logits, window, strict=True)
            seen.append(sum(torch.exp(each) / total * parts[j][v] for each, j in pairs))
        row = own + layer.output.weight @ torch.cat(seen) + layer.output.bias
        rows.append(row + naive_mlp(layer.mlp, norm(layer.norm_mlp, row)))
    return rows


def naive_graphs(x, least):
    similar, near = [], []
    for i in range(len(x)):
        cosines = [x[i] @ x[j] / (x[i].norm() * x[j].norm()) for j in range(len(x))]
        powers = [torch.exp(c if c > least else 0 * c) for c in cosines]
        similar.append([each / sum(powers) for each in powers])
        near.append([math.exp(-abs(i - j) / math.e) for j in range(len(x))])
    return similar, near


def naive_graph_layer(layer, x, graph):
    mapped, rows = [layer.map.weight @ each for each in x], []
    for i, own in enumerate(x):
        kept = own
        if layer.residual is not None:
            kept = layer.residual.bias + sum(
                layer.residual.weight[:, :, tap] @ x[i + tap - 2]
                for tap in range(5)
                if 0 <= i + tap - 2 < len(x)
            )
        rows.append(gelu(sum(w * m for w, m in zip(graph[i], mapped, strict=True)) + kept))
    return rows


def naive_branches(net, x):
    branches = []
    for layers, graph in zip((net.similar, net.near), naive_graphs(x, 0.7), strict=True):
        part = x
        for layer in layers:
            part = naive_graph_layer(layer, part, graph)
        branches.append(part)
    return [
        net.join.weight @ torch.cat([one, other]) + net.join.bias
        for one, other in zip(*branches, strict=True)
    ]


def naive_head(net, snippets):
    """Scores and cosines of one piece of a video, snippet by snippet."""
    x = [net.project.weight @ each + net.project.bias for each in snippets]
    x = [each + place for each, place in zip(x, net.positions, strict=False)]
    for block in net.blocks:
        x = naive_block(block, x)
    if net.config.graphs:
        x = naive_branches(net, x)
    logits = [
        net.classifier.weight[0] @ (each + naive_mlp(net.mlp, each)) + net.classifier.bias[0]
        for each in x
    ]
    prompt = sum(logit * each for logit, each in zip(logits, x, strict=True))
    cosines = []
    for each in x:
        row = []
        for anchor, offset in zip(net.anchors, net.offsets, strict=True):
            text = anchor + offset + prompt / prompt.norm()
            text = text + naive_mlp(net.mlp_text, text)
            row.append(each @ text / (each.norm() * text.norm()) / 0.07)
        cosines.append(torch.stack(row))
    return torch.stack(logits).sigmoid(), torch.stack(cosines)


@pytest.mark.parametrize("graphs", [True, False])
def test_the_network_equals_a_loop_in_value_and_gradient(graphs):
    """Two bags, one of them padded, and longer than a piece: 12 snippets, then 5."""
    net, lengths = head(replace(SMALL, graphs=graphs)), (17, 9)
    assert graphs == any("join" in name for name, _ in net.named_parameters())
    snippets = torch.randn(2, 17, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(17) < torch.tensor(lengths)[:, None]
    output = net.respond(snippets, mask)
    weights = torch.randn(2, 17, 4, dtype=torch.float64)
    found, expected = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for n, length in enumerate(lengths):
        pieces = [naive_head(net, piece) for piece in snippets[n, :length].split(12)]
        scores, cosines = (torch.cat(each) for each in zip(*pieces, strict=True))
        for ours, loop in ((output.binary, scores), (output.cosines, cosines)):
            torch.testing.assert_close(ours[n, :length], loop, rtol=1e-9, atol=1e-9)
        own = weights[n, :length]
        both = torch.cat([output.binary[..., None], output.cosines], dim=2)
        found = found + (own * both[n, :length]).sum()
        expected = expected + (own * torch.cat([scores[:, None], cosines], dim=1)).sum()
    assert_same(found, expected, snippets, *(each for each in net.parameters()))
    shares = output.cosines.softmax(dim=2)
    torch.testing.assert_close(output.classes, shares[..., 1:])
    assert (output.scores == output.binary).all()
    net = head(replace(SMALL, branch="alignment"))
    output = net.respond(snippets, mask)
    expected = 1 - output.cosines.softmax(dim=2)[..., 0]
    torch.testing.assert_close(output.scores, expected)
    torch.testing.assert_close(output.classes.sum(dim=2), expected)


def naive_alignment(cosines):
    terms = []
    for row, label, target, length in zip(cosines, LABELS, TARGETS, LENGTHS, strict=True):
        wanted = [1.0, 0.0, 0.0] if not label else [0.0, *target.tolist()]
        if not sum(wanted):
            continue
        k = length // 16 + 1
        means = [mean(largest(list(row[:length, c]), k)) for c in range(3)]
        total = sum(torch.exp(each) for each in means)
        pairs = zip(wanted, means, strict=True)
        terms.append(-sum(y / sum(wanted) * torch.log(torch.exp(m) / total) for y, m in pairs))
    return mean(terms)


def test_losses_equal_a_loop_in_value_and_gradient(bags):
    cosines, targets = bags.embeddings, TARGETS.double()
    found = alignment_loss(cosines, bags.labels, targets, bags.mask)
    assert_same(found, naive_alignment(cosines), cosines)
    padded = bags.padded()
    again = alignment_loss(padded.embeddings, bags.labels, targets, padded.mask)
    assert again.item() == pytest.approx(found.item(), abs=1e-12)
    texts = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    loop = mean([abs(texts[0] @ each / (texts[0].norm() * each.norm())) for each in texts[1:]])
    assert_same(text_loss(texts), loop, texts)


def test_terms_are_those_of_the_mean_over_crops_and_carry_their_weights(bags):
    """Of two crops, whose rows of a bag follow each other."""
    net, other = head(replace(SMALL, text_weight=0.3)), random_bags(width=3, seed=1)
    binary, cosines = (
        torch.stack([getattr(each, name) for each in (bags, other)], dim=1)
        for name in ("scores", "embeddings")
    )
    rows = binary.flatten(0, 1), cosines.flatten(0, 1)
    output = VadCLIPOutput(scores=bags.scores, binary=rows[0], cosines=rows[1])
    terms = net.loss(output, bags.labels, bags.mask, TARGETS.double())
    videos = zip(binary.mean(dim=1), LENGTHS, LABELS, strict=True)
    tops = [entropy(mean(largest(list(s[:n]), n // 16 + 1)), label) for s, n, label in videos]
    assert_same(terms["classification"], mean(tops), bags.scores, other.scores)
    assert_same(terms["alignment"], naive_alignment(cosines.mean(dim=1)), bags.embeddings)
    assert terms["texts"].item() == pytest.approx(0.3 * text_loss(net.texts).item())


def test_bags_of_unknown_class_do_not_train_the_alignment(bags):
    unknown, abnormal = torch.zeros(5, 2), torch.ones(5)
    loss = alignment_loss(bags.embeddings, abnormal, unknown, bags.mask)
    assert loss == 0 and not torch.autograd.grad(loss, bags.embeddings)[0].any()


def test_layers_see_nothing_of_padding():
    torch.manual_seed(0)
    x, mask = torch.randn(1, 12, 8), torch.arange(12)[None] < 5
    changed = torch.where(mask[..., None], x, 99.0)
    block, layer = WindowedBlock(SMALL).eval(), GraphLayer(8, 4)
    for each in (
        lambda x: block(x, mask)[:, :5],
        lambda x: similarity_graph(x, mask, 0.7)[:, :5],
        lambda x: layer(x, distance_graph(x, mask), mask)[:, :5],
    ):
        torch.testing.assert_close(each(x), each(changed))
    assert not similarity_graph(x, mask, 0.7)[:, :5, 5:].any()
    nothing = torch.zeros(1, 12, dtype=torch.bool)
    assert block(x, nothing).isfinite().all() and similarity_graph(x, nothing, 0.7).isfinite().all()


def test_classes_are_learnt():
    """Three kinds of bags: branch A names the class, in the snippets where it is."""
    torch.manual_seed(0)
    config = VadCLIPConfig(hidden=16, length=32, window=4, learning_rate=1e-2)
    net = VadCLIP(6, config, CLASSES)
    snippets = 0.3 * torch.randn(6, 1, 20, 6)
    snippets[..., 0] += 1
    for n, kind in ((0, 1), (1, 1), (2, 2), (3, 2)):
        snippets[n, :, 8:14, kind] += 3
    labels = torch.tensor([1.0, 1, 1, 1, 0, 0])
    classes = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]])
    mask, optimizer = torch.ones(6, 20, dtype=torch.bool), net.new_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    for _ in range(60):
        optimizer.zero_grad()
        sum(net.loss(net(snippets, mask), labels, mask, classes).values()).backward()
        optimizer.step()
    shares = net(snippets, mask).classes
    assert shares[:2, 8:14, 0].mean() > 0.8 > 0.2 > shares[:2, 8:14, 1].mean()
    assert shares[2:4, 8:14, 1].mean() > 0.8 and shares[4:].max() < 0.5


def test_prompts_are_frozen_and_part_of_the_network():
    net = head(dim=8)
    prompts = torch.eye(3, 8, dtype=torch.float64)
    net.set_prompts(prompts)
    assert (net.texts == prompts).all() and isinstance(net.project, torch.nn.Identity)
    text_loss(net.texts + 0.1).backward()
    assert net.anchors.grad is None and net.offsets.grad.any()
    assert "anchors" in net.state_dict()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ucf", (2e-5, 128, "balanced", "4,8", "binary", 2, 8, 0.1)),
        ("xd", (1e-5, 96, "shuffled", "3,6,10", "alignment", 1, 64, 1e-4)),
    ],
)
def test_published_settings(name, expected):
    config = HEADS["vadclip"].published[name]
    names = "learning_rate batch_size batches drops branch layers window text_weight".split()
    assert tuple(getattr(config, each) for each in names) == expected
    assert (config.epochs, config.optimizer, config.weight_decay) == (10, "adamw", 0.01)
    assert (config.length, config.sampling, config.crops) == (256, "means-256", "sample")
    assert (config.hidden, config.heads, config.seed) == (512, 1, 234)
    assert (config.similar, config.temperature) == (0.7, 0.07)


def test_rates_drop_as_by_torch():
    config = HEADS["vadclip"].published["xd"]
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], config.learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6, 10], gamma=0.1)
    for epoch in range(12):
        assert config.learning_rate_at(epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert VadCLIPConfig(drops=4) == VadCLIPConfig(drops="4")  # a number on the command line


@pytest.mark.parametrize(
    "change, message",
    [
        ({"window": 7}, "window = 7: must divide length = 256"),
        ({"hidden": 9}, "hidden = 9: must be a multiple of 2"),
        ({"temperature": 0.0}, "temperature = 0.0: must be positive"),
        ({"drops": "4;8"}, "drops = '4;8': expected epochs such as 4,8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        VadCLIPConfig(**change)
