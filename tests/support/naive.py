"""What the tests of losses share: bags with padding, and the comparison with a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch

LENGTHS = (40, 1, 17, 2, 33)
LABELS = (1.0, 1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Bags:
    """Random scores and embeddings in float64 that take gradients; padding is random, too."""

    scores: torch.Tensor
    embeddings: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor

    @property
    def rows(self):
        """Valid scores of each bag with its label: what a loop goes through."""
        lengths = self.mask.sum(dim=1).tolist()
        return [
            (list(row[:length]), float(label))
            for row, length, label in zip(self.scores, lengths, self.labels, strict=True)
        ]

    def padded(self):
        """The same with seven more steps of padding."""
        scores, embeddings = (
            torch.cat([x, torch.full_like(x[:, :7], 0.99)], dim=1)
            for x in (self.scores, self.embeddings)
        )
        mask = torch.cat([self.mask, torch.zeros_like(self.mask[:, :7])], dim=1)
        return Bags(scores, embeddings, self.labels, mask)


def random_bags(lengths=LENGTHS, labels=LABELS, width=4, seed=0):
    """Bags of these lengths and labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    scores = torch.rand(shape, generator=generator, dtype=torch.float64)
    embeddings = torch.randn(*shape, width, generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    targets = torch.tensor(labels, dtype=torch.float64)
    return Bags(scores.requires_grad_(), embeddings.requires_grad_(), targets, mask)


def assert_same(found, expected, *inputs):
    """The two scalars are equal to 1e-9, and so are their gradients; the value is not zero."""
    assert expected.item() != 0
    results = []
    for loss in (found, expected):
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        filled = [
            torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)
        ]
        results.append([loss.detach(), *filled])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def entropy(p, label):
    """Cross-entropy of one probability."""
    return -torch.log(p if label else 1 - p)


def largest(values, k):
    """The k largest of a list of scalars, the largest first."""
    return sorted(values, key=lambda value: value.item(), reverse=True)[:k]


def mean(values):
    return sum(values) / len(values)
