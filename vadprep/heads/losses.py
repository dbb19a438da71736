"""Pieces that the losses of several heads share. A mask marks padding, which counts nowhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-30
"""Probabilities are kept above it: 1 / p is a number of float32 with room to spare."""


def top_values(values: Tensor, mask: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's valid entries from the largest down, and which of them are among the k[n] first.

    float [N, T] and bool [N, T] from float [N, T], bool [N, T], int64 [N]. A row with fewer than
    k valid entries has all of them chosen.
    """
    ordered = values.masked_fill(~mask, -math.inf).sort(dim=1, descending=True).values
    taken = torch.minimum(k, mask.sum(dim=1))
    return ordered, torch.arange(values.shape[1], device=values.device) < taken[:, None]


def top_mean(values: Tensor, mask: Tensor, k: Tensor) -> Tensor:
    """Mean of the k[n] largest valid entries of each row: float [N] from float, bool [N, T].

    A row with fewer than k valid entries gives the mean of these, and 0 when it has none.
    """
    ordered, chosen = top_values(values, mask, k)
    return ordered.masked_fill(~chosen, 0.0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def top_weights(values: Tensor, mask: Tensor, k: Tensor) -> Tensor:
    """1 / k[n] at the k[n] largest valid entries of each row, else 0: float [N, T].

    A product with it is the mean of what belongs to these entries. A row with fewer than k valid
    entries has all of them.
    """
    order = values.masked_fill(~mask, -math.inf).argsort(dim=1, descending=True)
    taken = torch.minimum(k, mask.sum(dim=1))[:, None]
    chosen = torch.arange(values.shape[1], device=values.device) < taken
    weights = chosen.to(values.dtype) / taken.clamp(min=1)
    return torch.zeros_like(values).scatter(1, order, weights)


def cross_entropy(p: Tensor, target: Tensor) -> Tensor:
    """-y log p - (1 - y) log(1 - p), elementwise, for targets y in [0, 1].

    p is kept below 1 - 1e-7, where float32 ends, and above ``LEAST``. By hand: the gradient of
    torch's function fades below 1e-12, and a head that has called every snippet of 4,096 numbers
    normal may be at 1e-19. Also, torch's raises on NaN (and kills the CUDA context), where the
    training loop is to name the term that is not finite.
    """
    inside = p.clamp(LEAST, 1 - 1e-7)
    return -(target * inside.log() + (1 - target) * (-inside).log1p())


def squared_changes(scores: Tensor, mask: Tensor) -> Tensor:
    """Sum over t of (s_t+1 - s_t)^2 between valid neighbours: float [N] from [N, T]."""
    squares = (scores[:, 1:] - scores[:, :-1]) ** 2
    return squares.masked_fill(~(mask[:, 1:] & mask[:, :-1]), 0.0).sum(dim=1)


def zero_of(values: Tensor) -> Tensor:
    """A scalar 0 that hangs on ``values``, for a term that a batch has no videos for."""
    return values.sum() * 0.0


def zipped(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Values [P, ...] of the i-th abnormal and the i-th normal video; P of the smaller class."""
    abnormal, normal = values[labels > 0], values[labels <= 0]
    both = min(len(abnormal), len(normal))
    return abnormal[:both], normal[:both]
