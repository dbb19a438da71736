"""Layers over time that several heads share. A mask marks padding, which is a bag's end."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

MOST_ENTRIES = 2**22
"""Of the attention maps that scoring holds at a time: 16 MiB in float32."""

REACH = 128
"""Snippets beyond which local attention sees nothing: its weights are below 1e-20 there."""

LOWEST_LOGIT, HIGHEST_LOGIT = -69.0, 15.0
"""Probabilities of 1.1e-30 (``losses.LEAST``) and of 1 - 3.1e-7, five steps of float32 below 1.
Where no logarithm follows, the lowest is -15: there 1e-30 is no gradient."""

LocalNorm = Literal["columns", "rows"]


def is_exporting() -> bool:
    """Whether the network is being written as ONNX: then nothing may depend on the length."""
    return bool(torch.onnx.is_in_onnx_export())


def row_blocks(num_maps: int, count: int, training: bool) -> list[slice]:
    """Rows of ``num_maps`` attention maps over ``count`` snippets that are worked off at a time.

    So memory grows with T, not T squared: ``MOST_ENTRIES`` of all maps together. All rows in
    training, and where the network is exported: there ``num_maps`` is a symbol, which ``len`` of a
    tensor would make a number.
    """
    if training or is_exporting():
        return [slice(None)]
    step = max(1, MOST_ENTRIES // (num_maps * count))
    return [slice(start, start + step) for start in range(0, count, step)]


def near_weights(rows: Tensor, columns: Tensor) -> Tensor:
    """exp(-|i - j| / e) for the snippets i in ``rows`` [R] and j in ``columns`` [C]: [R, C]."""
    return torch.exp((rows[:, None] - columns).abs() / -math.e)


def local_attention(values: Tensor, mask: Tensor, norm: LocalNorm = "rows") -> Tensor:
    """Means of near snippets, weights exp(-|i - j| / e): float [M, T, W] from [M, T, W].

    ``norm`` says whether the weights of a snippet sum to 1 over what it sees (``rows``), or over
    those that see it (``columns``); they differ at the ends of a bag. ``mask`` is bool [M, T].
    """
    count, ratio = values.shape[1], math.exp(-1 / math.e)
    steps = torch.arange(count, device=values.device, dtype=values.dtype)
    # Sums of the weights: two geometric series, to the left end and to the right.
    after = (mask.sum(dim=1)[:, None] - steps).clamp(min=0)
    sums = ((1 + ratio - ratio ** (steps + 1) - ratio**after) / (1 - ratio))[:, :, None]
    seen = values.masked_fill(~mask[:, :, None], 0.0)
    if norm == "columns":
        seen = seen / sums
    if is_exporting():
        near = near_weights(steps, steps) @ seen
        return near if norm == "columns" else near / sums
    blocks = []
    for start in range(0, count, 4 * REACH):
        rows = slice(start, start + 4 * REACH)
        around = slice(max(start - REACH, 0), rows.stop + REACH)
        blocks.append(near_weights(steps[rows], steps[around]) @ seen[:, around])
    near = torch.cat(blocks, dim=1)
    return near if norm == "columns" else near / sums


def global_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, training: bool = False
) -> Tensor:
    """softmax(Q K^T / sqrt(W)) V over the valid snippets: float [M, H, T, W] from the same.

    H are heads, ``mask`` is bool [M, T]. In scoring the rows are worked off in blocks, so memory
    grows with T, not T squared.
    """
    scale, hidden = 1 / math.sqrt(query.shape[3]), ~mask[:, None, None]
    count, blocks = query.shape[2], []
    for rows in row_blocks(query.shape[0] * query.shape[1], count, training):
        logits = query[:, :, rows] @ key.transpose(2, 3) * scale
        blocks.append(logits.masked_fill(hidden, -math.inf).softmax(dim=3) @ value)
    return torch.cat(blocks, dim=2)


class _Limited(torch.autograd.Function):
    """Values between two limits; the gradient passes as it is."""

    @staticmethod
    def forward(_: Any, values: Tensor, lowest: float, highest: float) -> Tensor:
        return values.clamp(lowest, highest)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class Probability(nn.Module):
    """The sigmoid, with which a head that is sure of every snippet goes on learning.

    In float32 the sigmoid is 1 above a logit of 17 and has no gradient there: a step that is too
    long would be the last. In training, logits count as no less than ``lowest`` and no more than
    ``HIGHEST_LOGIT``, and pass their gradient on. So a cross-entropy has the gradient that it has
    in exact arithmetic.
    """

    def __init__(self, lowest: float = LOWEST_LOGIT) -> None:
        super().__init__()
        self.lowest = lowest

    def forward(self, logits: Tensor) -> Tensor:
        """float in [0, 1] from float, of any shape."""
        if self.training:
            logits = _Limited.apply(logits, self.lowest, HIGHEST_LOGIT)
        return logits.sigmoid()


class GlobalLocalAttention(nn.Module):
    """GL-MHSA (Zhou, Yu and Yang, AAAI 2023): self-attention beside a mean of near snippets.

    One linear map gives q, k, v, t. Per head, softmax(q k^T / sqrt(W)) v is joined with the local
    attention of t, and a second linear map follows: 2 H W numbers to ``dim``.
    """

    def __init__(self, dim: int, heads: int, width: int, norm: LocalNorm) -> None:
        """``width`` is that of a head, ``norm`` as in ``local_attention``."""
        super().__init__()
        self.heads, self.norm = heads, norm
        self.parts = nn.Linear(dim, 4 * heads * width, bias=False)
        self.output = nn.Linear(2 * heads * width, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """float [M, T, dim] from float [M, T, dim] and bool [M, T]."""
        *maps, t = self.parts(x).chunk(4, dim=2)
        query, key, value = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in maps)
        seen = global_attention(query, key, value, mask, self.training).transpose(1, 2)
        near = local_attention(t, mask, self.norm).unflatten(2, (self.heads, -1))
        return self.output(torch.cat([seen, near], dim=3).flatten(2))


class Memory(nn.Module):
    """A memory unit (Zhou, Yu and Yang, AAAI 2023): patterns that snippets are compared with.

    s = sigmoid(x M^T / sqrt(W)) for the patterns M [K, W], which are learnt. The read-out is s M.
    The strength of a snippet is the mean of its floor(K / 16) + 1 largest s.
    """

    def __init__(self, num_patterns: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.patterns = nn.Parameter(torch.empty(num_patterns, width).uniform_(-bound, bound))
        self.probability = Probability()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Strength float [M, T] in [0, 1], and read-out float [M, T, W], of float [M, T, W]."""
        num_patterns, width = self.patterns.shape
        found = self.probability(x @ self.patterns.T / math.sqrt(width))
        return found.topk(num_patterns // 16 + 1, dim=2).values.mean(dim=2), found @ self.patterns
