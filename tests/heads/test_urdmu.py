"""UR-DMU: losses and network against loops written here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.naive import LABELS, LENGTHS, assert_same, entropy, largest, mean, random_bags

from vadprep.heads import HEADS
from vadprep.heads.losses import top_mean, top_weights
from vadprep.heads.urdmu import (
    URDMU,
    TransformerLayer,
    URDMUConfig,
    kl_loss,
    magnitude_loss,
    memory_loss,
    num_selected,
    triplet_loss,
)

SMALL = URDMUConfig(width=8, heads=2, head_width=4, patterns=20, hidden=6, magnitude_margin=3.0)
ONE = torch.ones((), dtype=torch.float64)


@pytest.fixture
def bags():
    return random_bags()


def cut(rows):
    return [row[:length] for row, length in zip(rows, LENGTHS, strict=True)]


def naive_memory(abnormal, normal, lengths=LENGTHS):
    """Four terms: lists of cross-entropies, their means added."""
    terms = [[], [], [], []]
    for a, n, label, length in zip(abnormal, normal, LABELS, lengths, strict=True):
        a, n, k = list(a[:length]), list(n[:length]), length // 16 + 1
        if label:
            terms[0].append(entropy(mean(largest(a, k)), 1))
            terms[1].append(entropy(mean(largest([1 - each for each in n], k)), 1))
        else:
            terms[2] += [entropy(each, 1) for each in n]
            terms[3] += [entropy(each, 0) for each in a]
    return sum(mean(each) for each in terms)


def test_memory_loss_equals_a_loop_whatever_the_padding(bags):
    normal = random_bags(seed=1).scores
    for found in (bags, bags.padded()):
        own = torch.cat([normal, found.scores[:, normal.shape[1] :]], dim=1)
        loss = memory_loss(found.scores, own, found.labels, found.mask)
        assert_same(loss, naive_memory(bags.scores, normal), bags.scores, normal)


def pairs():
    """Numbers of the normal and the abnormal videos that go together."""
    numbers = [[n for n, label in enumerate(LABELS) if label == which] for which in (0.0, 1.0)]
    return list(zip(*numbers, strict=False))


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_triplet_loss_equals_a_loop(margin, bags):
    normal, abnormal = bags.embeddings[:, 0], bags.embeddings[:, 1]

    def unit(x):
        return x / (x @ x).sqrt()

    terms = []
    for n, a in pairs():
        anchor, positive, negative = unit(normal[n]), unit(normal[a]), unit(abnormal[a])
        near, far = (((anchor - x + 1e-6) ** 2).sum().sqrt() for x in (positive, negative))
        terms.append(torch.clamp(near - far + margin, min=0))
    found = triplet_loss(normal, abnormal, bags.labels, margin)
    assert_same(found, mean(terms), bags.embeddings)


def naive_divergence(m, log_variance, axis):
    ones = torch.distributions.Normal(0 * ONE, ONE)
    videos = []
    for video, logs in zip(cut(m), cut(log_variance), strict=True):
        own = torch.distributions.Normal(video, (logs / 2).exp())
        videos.append(torch.distributions.kl_divergence(own, ones))
    if axis == "time":
        return mean([video.sum(dim=0).mean() for video in videos])
    return torch.cat(videos).sum(dim=1).mean()


@pytest.mark.parametrize("axis", ["time", "features"])
def test_divergence_equals_torchs_whatever_the_padding(axis, bags):
    m = bags.embeddings
    for each in (bags, bags.padded()):
        x = each.embeddings
        found = kl_loss(x, x * 0.3 - 0.1, each.mask, axis)
        assert_same(found, naive_divergence(m, m * 0.3 - 0.1, axis), m)


@pytest.mark.parametrize("margin", [1.0, 100.0])
def test_magnitude_loss_equals_a_loop(margin, bags):
    abnormal, normal = bags.embeddings[:, 0], bags.embeddings[:, 1]
    terms = [
        torch.clamp(margin - (abnormal[a] @ abnormal[a]).sqrt() + (normal[n] @ normal[n]).sqrt(), 0)
        for n, a in pairs()
    ]
    found = magnitude_loss(abnormal, normal, bags.labels, margin)
    assert_same(found, mean(terms), bags.embeddings)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_losses_of_pairs_are_zero_when_a_class_is_missing(label, bags):
    labels = torch.full_like(bags.labels, label)
    x = bags.embeddings[:, 0], bags.embeddings[:, 1]
    for loss in (triplet_loss(*x, labels, 1.0), magnitude_loss(*x, labels, 100.0)):
        (gradient,) = torch.autograd.grad(loss, bags.embeddings)
        assert loss == 0 and not gradient.any()


def test_weights_of_the_top_give_its_mean(bags):
    """Also with padding that is larger than all, and of fewer snippets than k."""
    k = torch.tensor([3, 3, 2, 4, 1])
    weights = top_weights(bags.scores + 2.0 * ~bags.mask, bags.mask, k)
    expected = top_mean(bags.scores, bags.mask, k)
    torch.testing.assert_close((weights * bags.scores).sum(dim=1), expected)
    assert (weights > 0).sum(dim=1).tolist() == [3, 1, 2, 2, 1] and not weights[~bags.mask].any()


def head(**changes):
    torch.manual_seed(0)
    return URDMU(6, replace(SMALL, **changes)).double()


def naive_top(rows, strength):
    """Mean of the rows of one video that score highest, len // 16 + 1 of them."""
    order = sorted(range(len(rows)), key=lambda t: -strength[t].item())
    return mean([rows[t] for t in order[: len(rows) // 16 + 1]])


def test_terms_are_those_of_the_pooled_crops_and_carry_their_weights():
    """Against a loop over two crops of four videos, each on its own."""
    network, lengths, labels = head().eval(), (40, 5, 17, 33), (1.0, 0.0, 0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    snippets = torch.randn(4, 2, 40, 6, generator=generator, dtype=torch.float64)
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    terms = network.loss(network(snippets, mask), torch.tensor(labels), mask)
    outputs = [
        [network(video[None, c : c + 1, :n], mask[:1, :n]) for c in range(2)]
        for video, n in zip(snippets, lengths, strict=True)
    ]

    def crops(name, video):
        return [getattr(each, name)[0] for each in outputs[video]]

    def pooled(name, strength, video):
        both = zip(crops(name, video), crops(strength, video), strict=True)
        return mean([naive_top(*each) for each in both])

    numbers = {0.0: (1, 2), 1.0: (0, 3)}
    classification = mean([
        entropy(mean(largest(list(mean(crops("scores", n))), lengths[n] // 16 + 1)), label)
        for n, label in enumerate(labels)
    ])  # fmt: skip
    assert terms["classification"].item() == pytest.approx(classification.item(), abs=1e-12)
    triplets, magnitudes = [], []
    for n, a in zip(*numbers.values(), strict=True):
        anchor, positive = (pooled("features", "normal_strength", v) for v in (n, a))
        three = anchor, positive, pooled("features", "abnormal_strength", a)
        anchor, positive, negative = (each / each.norm() for each in three)
        near, far = ((anchor - each + 1e-6).norm() for each in (positive, negative))
        triplets.append(torch.clamp(near - far + 1.0, min=0))
        read = pooled("abnormal_mean", "abnormal_strength", a)
        drawn = pooled("drawn", "normal_strength", n)
        magnitudes.append(torch.clamp(3.0 - read.norm() + drawn.norm(), min=0))
    assert terms["triplet"].item() == pytest.approx(0.1 * mean(triplets).item(), abs=1e-12)
    assert terms["magnitude"].item() == pytest.approx(1e-4 * mean(magnitudes).item(), abs=1e-12)
    divergences = []
    for video in numbers[0.0]:
        for m, v in zip(crops("normal_mean", video), crops("log_variance", video), strict=True):
            divergences.append(-0.5 * (1 + v - m**2 - v.exp()).sum(dim=0).mean())
    assert terms["kl"].item() == pytest.approx(0.001 * mean(divergences).item(), abs=1e-12)
    strengths = [
        torch.nn.utils.rnn.pad_sequence([mean(crops(name, v)) for v in range(4)], batch_first=True)
        for name in ("abnormal_strength", "normal_strength")
    ]
    memory = memory_loss(*strengths, torch.tensor(labels), mask)
    assert terms["memory"].item() == pytest.approx(0.1 * memory.item(), abs=1e-12)


def test_normal_videos_are_trained_on_a_draw_and_abnormal_ones_on_the_mean():
    """And neither is drawn for in scoring."""
    network = head(dropout=0.0).train()
    snippets, mask = torch.randn(2, 1, 9, 6, dtype=torch.float64), torch.ones(2, 9).bool()
    output = network(snippets, mask)
    scores = [output.drawn_scores[0], output.scores[1]]  # a normal and an abnormal video
    top = top_mean(torch.stack(scores), mask, num_selected(mask))
    expected = mean([entropy(top[0], 0), entropy(top[1], 1)])
    terms = network.loss(output, torch.tensor([0.0, 1.0]), mask)
    assert terms["classification"].item() == pytest.approx(expected.item(), abs=1e-12)
    a, n = output.abnormal_strength[1].argmax(), output.normal_strength[0].argmax()
    apart = 3.0 - output.abnormal_mean[1, a].norm() + output.drawn[0, n].norm()
    assert terms["magnitude"].item() == pytest.approx(1e-4 * apart.item(), abs=1e-12)
    assert not torch.equal(output.drawn_scores, output.scores)
    network.eval()
    scored = network(snippets, mask)
    assert torch.equal(scored.drawn, scored.normal_mean)
    torch.testing.assert_close(scored.scores, output.scores, rtol=0, atol=1e-12)


def test_draws_have_the_mean_and_the_variance():
    network = head(dropout=0.0).train()
    torch.nn.init.constant_(network.log_variance.bias, 1.5)
    one = torch.randn(1, 1, 1, 6, dtype=torch.float64)
    output = network(one.expand(4000, -1, -1, -1), torch.ones(4000, 1).bool())
    standard = (output.drawn - output.normal_mean) / (output.log_variance / 2).exp()
    assert abs(standard.mean()) < 0.02 and abs(standard.std() - 1) < 0.02


def test_a_transformer_layer_norms_before_and_adds_after():
    torch.manual_seed(0)
    layer = TransformerLayer(SMALL).double().eval()
    x, mask = torch.randn(2, 5, 8, dtype=torch.float64), torch.ones(2, 5).bool()

    def norm(rows):
        centred = rows - rows.mean(dim=2, keepdim=True)
        return centred / (rows.var(dim=2, keepdim=True, correction=0) + 1e-5).sqrt()

    after = x + layer.attention(norm(x), mask)
    _, first, _, _, second, _ = layer.feed_forward
    inner = torch.nn.functional.gelu(norm(after) @ first.weight.T + first.bias)
    expected = after + inner @ second.weight.T + second.bias
    torch.testing.assert_close(layer(x, mask), expected, rtol=1e-9, atol=1e-9)


def test_all_that_a_transformer_layer_adds_is_dropped_out():
    layer = TransformerLayer(replace(SMALL, dropout=0.3))
    dropouts = [each for each in layer.modules() if isinstance(each, torch.nn.Dropout)]
    assert [each.p for each in dropouts] == [0.3] * 3
    for each in dropouts:
        each.p = 1.0
    x = torch.randn(2, 5, 8)
    assert torch.equal(layer.train()(x, torch.ones(2, 5).bool()), x)


def test_the_embedding_sees_a_snippet_on_each_side_and_no_padding():
    """Against a loop over snippets and taps, in value and gradient."""
    network = head(layers=1).eval()
    conv, lengths = network.embedding, (5, 3)
    snippets = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    output = network.respond(snippets.masked_fill(~mask[:, :, None], 9.0), mask)
    rows = []
    for video, length in zip(snippets, lengths, strict=True):
        for i in range(length):
            seen = [tap for tap in range(3) if 0 <= i + tap - 1 < length]
            row = conv.bias + sum(conv.weight[:, :, tap] @ video[i + tap - 1] for tap in seen)
            rows.append(torch.where(row > 0, row, 0 * row))
    parts = [part[None] for part in torch.stack(rows).split(lengths)]
    loop = [network.layers[0](x, torch.ones(x.shape[:2]).bool())[0] for x in parts]
    assert_same(output.features[mask].sin().sum(), torch.cat(loop).sin().sum(), snippets)


def test_scores_come_from_embeddings_and_both_memories():
    network = head().eval()
    snippets = torch.randn(1, 1, 5, 6, dtype=torch.float64)
    output = network(snippets, torch.ones(1, 5).bool())
    joined = torch.cat([output.features, output.abnormal_mean + output.normal_mean], dim=2)
    torch.testing.assert_close(output.scores, network.classifier(joined).squeeze(2))
    for strength, memory, read in (
        (output.abnormal_strength, network.abnormal_memory, output.abnormal_mean),
        (output.normal_strength, network.normal_memory, output.normal_mean),
    ):
        expected = memory(output.features)
        torch.testing.assert_close((strength, read), (expected[0], network.mean(expected[1])))


def test_published_settings_and_the_size_of_the_official_network():
    for name in ("ucf", "xd"):
        config = HEADS["urdmu"].published[name]
        assert config.epochs * config.steps_per_epoch == 3000
        assert (config.batch_size, config.batches, config.sampling) == (
            128,
            "balanced",
            "segments-200",
        )
        assert (config.learning_rate, config.weight_decay, config.seed) == (1e-4, 5e-5, 2022)
        weights = "memory_weight triplet_weight kl_weight magnitude_weight".split()
        assert [getattr(config, each) for each in weights] == [0.1, 0.1, 0.001, 1e-4]
        assert (config.triplet_margin, config.magnitude_margin, config.dropout) == (1, 100, 0.5)
        assert (config.local_norm, config.kl_axis, config.crops) == ("columns", "time", "sample")
    network = URDMU(1024, URDMUConfig())
    width, inner = 512, 4 * 128
    layer = 2 * 2 * width + 4 * width * inner + (2 * inner + 1) * width + 2 * (width + 1) * width
    others = (3 * 1024 + 1) * width + 2 * 60 * width + 2 * (width + 1) * width
    classifier = (2 * width + 1) * 128 + 129
    assert sum(p.numel() for p in network.parameters()) == 2 * layer + others + classifier
