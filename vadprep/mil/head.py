"""What every head is to training and scoring: a network, its loss and its config."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class HeadConfig:
    """What the training loop asks of any head; each head adds its own fields."""

    epochs: int = 50
    batch_size: int = 128
    """Items, that is videos times crops."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    cosine_epochs: int | None = None
    """Epochs until the cosine reaches zero; None keeps the learning rate constant."""
    max_snippets: int = 200
    """Longer videos are sampled uniformly to this many snippets in training."""
    standardize: bool = False
    """Bring each feature to mean 0 and variance 1 over the training items first. No paper of
    the bundled heads does; features with a large constant part (random weights, box
    descriptors) are not learnt from without it (measured)."""
    seed: int = 0
    """Of the published run, used when none is asked for."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_snippets", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be positive")

    def learning_rate_at(self, epoch: int) -> float:
        """lr (1 + cos(pi epoch / cosine_epochs)) / 2, with ``epoch`` counted from 0.

        A function of the epoch alone, so resuming needs no scheduler state.
        """
        if self.cosine_epochs is None:
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.cosine_epochs)) / 2


@dataclass(frozen=True)
class HeadOutput:
    """What a head says about N bags of T snippets. Values at padding mean nothing."""

    scores: torch.Tensor
    """Anomaly probability of each snippet: float [N, T] in [0, 1]."""
    embeddings: torch.Tensor
    """Features that the loss looks at: float [N, T, F]."""


class Head(nn.Module):
    """Base of the heads: ``respond`` and ``loss`` are theirs, the optimiser may be."""

    shift: torch.Tensor
    gain: torch.Tensor

    def __init__(self, dim: int, config: HeadConfig) -> None:
        """``dim`` is the number of features of a snippet."""
        super().__init__()
        self.dim = dim
        self.config = config
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("gain", torch.ones(dim))

    def fit_standardization(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """From now on see (snippet - mean) / std; features that never vary stay at 0.

        ``mean`` and ``std`` are float [dim], of the training items, and go into the checkpoint.
        """
        self.shift.copy_(mean)
        self.gain.copy_(torch.where(std > 0, 1 / std.clamp(min=1e-12), torch.zeros_like(std)))

    def forward(self, snippets: torch.Tensor, mask: torch.Tensor) -> HeadOutput:
        """Scores of ``snippets`` [N, T, dim] where ``mask`` [N, T] is True."""
        return self.respond((snippets - self.shift) * self.gain, mask)

    def respond(self, snippets: torch.Tensor, mask: torch.Tensor) -> HeadOutput:
        """``forward`` on snippets that were standardized, if the config asks for it."""
        raise NotImplementedError

    def loss(
        self, output: HeadOutput, labels: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Weighted terms by name, scalars whose sum is minimised. ``labels`` is float [N]."""
        raise NotImplementedError

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam; the loop sets the learning rate from the config at each epoch."""
        return torch.optim.Adam(
            self.parameters(), self.config.learning_rate, weight_decay=self.config.weight_decay
        )
