"""Layers that heads share against their equations, one snippet at a time."""

from __future__ import annotations

import math

import pytest
import torch
from support.naive import assert_same

from vadprep.heads import layers
from vadprep.heads.layers import GlobalLocalAttention, Memory, global_attention, local_attention

LENGTHS = (7, 1, 4)


@pytest.fixture
def values():
    """Values float64 [3, 7, 4] with gradients, and bool [3, 7]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64).requires_grad_()
    return x, torch.arange(7) < torch.tensor(LENGTHS)[:, None]


def naive_local(video, norm):
    """Local attention of one video [T, W]."""
    count = len(video)
    weights = [[math.exp(-abs(i - j) / math.e) for j in range(count)] for i in range(count)]
    rows = []
    for i in range(count):
        sums = [sum(weights[i]) if norm == "rows" else sum(weights[j]) for j in range(count)]
        rows.append(sum(weights[i][j] / sums[j] * video[j] for j in range(count)))
    return torch.stack(rows)


def naive_global(query, key, value):
    """Softmax attention of one head of one video, [T, W]."""
    rows = []
    for q in query:
        raised = [torch.exp(q @ k / math.sqrt(len(q))) for k in key]
        rows.append(sum(e / sum(raised) * v for e, v in zip(raised, value, strict=True)))
    return torch.stack(rows)


def weighted(videos):
    """A scalar that depends on every number of a list of [T, W] in another way."""
    return sum(((1 + torch.arange(v.numel())).view_as(v) * v).sin().sum() for v in videos)


def cut(found):
    return [row[:length] for row, length in zip(found, LENGTHS, strict=True)]


@pytest.mark.parametrize("norm", ["rows", "columns"])
def test_local_attention_equals_a_loop(norm, values):
    x, mask = values
    found = cut(local_attention(x, mask, norm))
    assert_same(weighted(found), weighted([naive_local(each, norm) for each in cut(x)]), x)


def test_weights_sum_to_one_over_what_is_seen_or_over_those_that_see():
    ones, mask = torch.ones(1, 9, 1, dtype=torch.float64), torch.ones(1, 9, dtype=torch.bool)
    rows = local_attention(ones, mask, "rows").flatten()
    torch.testing.assert_close(rows, torch.ones_like(rows))
    columns = local_attention(ones, mask, "columns").flatten()
    assert columns.sum().item() == pytest.approx(9) and columns[0] < 0.9 < 1.1 > columns[4] > 1


def test_global_attention_equals_a_loop(values):
    x, mask = values
    query, key, value = (x[:, None] * factor for factor in (1.0, -0.5, 2.0))
    found = cut(global_attention(query, key, value, mask)[:, 0])
    loop = [naive_global(v, -0.5 * v, 2 * v) for v in cut(x)]
    assert_same(weighted(found), weighted(loop), x)


@pytest.mark.parametrize("norm", ["rows", "columns"])
def test_global_and_local_attention_equal_their_equations(norm, values):
    x, mask = values
    torch.manual_seed(0)
    layer = GlobalLocalAttention(4, heads=2, width=3, norm=norm).double()
    loop = []
    for video in cut(x):
        parts = video @ layer.parts.weight.T
        query, key, value, t = (parts[:, 6 * n : 6 * n + 6] for n in range(4))
        heads = []
        for own in (slice(0, 3), slice(3, 6)):
            heads += [naive_global(query[:, own], key[:, own], value[:, own])]
            heads += [naive_local(t[:, own], norm)]
        loop.append(torch.cat(heads, dim=1) @ layer.output.weight.T + layer.output.bias)
    weights = layer.parts.weight, layer.output.weight
    assert_same(weighted(cut(layer(x, mask))), weighted(loop), x, *weights)


def test_memory_equals_its_equations(values):
    x, _ = values
    torch.manual_seed(0)
    memory = Memory(35, 4).double()
    assert 0.45 < memory.patterns.abs().max() <= 0.5
    strengths, readouts = [], []
    for snippet in x.flatten(0, 1):
        found = [torch.sigmoid(snippet @ pattern / 2) for pattern in memory.patterns]
        strengths.append(sum(sorted(found, key=lambda s: -s.item())[:3]) / 3)  # 35 // 16 + 1
        readouts.append(sum(s * m for s, m in zip(found, memory.patterns, strict=True)))
    loop = weighted([torch.stack(readouts)]) + weighted([torch.stack(strengths)])
    strength, read = memory(x)
    ours = weighted([read.flatten(0, 1)]) + weighted([strength.flatten()])
    assert_same(ours, loop, x, memory.patterns)


@pytest.mark.parametrize("num_maps", [1, 4, 32])
def test_maps_of_many_rows_are_worked_off_in_as_little_memory_as_one(num_maps):
    blocks = layers.row_blocks(num_maps, 4096, training=False)
    rows = [len(range(4096)[block]) for block in blocks]
    assert sum(rows) == 4096 and max(rows) * num_maps * 4096 <= layers.MOST_ENTRIES


def test_maps_in_blocks_are_those_at_once(monkeypatch):
    torch.manual_seed(0)
    layer = GlobalLocalAttention(4, heads=2, width=3, norm="columns").double()
    x, mask = torch.randn(2, 700, 4, dtype=torch.float64), torch.ones(2, 700, dtype=torch.bool)
    mask[1, 530:] = False
    blocks = layer.eval()(x, mask)[mask]
    monkeypatch.setattr(layers, "REACH", 700)
    torch.testing.assert_close(blocks, layer.train()(x, mask)[mask], rtol=0, atol=1e-12)
    monkeypatch.setattr(layers, "MOST_ENTRIES", 4 * 700)  # a row of each of four maps
    torch.testing.assert_close(blocks, layer.eval()(x, mask)[mask], rtol=0, atol=1e-12)
