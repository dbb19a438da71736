"""Folded networks against the same ones before."""

from __future__ import annotations

import copy

import pytest
import torch
from support.networks import disturbed
from torch import Tensor, nn

from vadprep.backbones import GRAPHS, build
from vadprep.backbones.folding import fold_batch_norm

WITH_BATCH_NORM = ["r3d_18", "inception_i3d", "i3d_r50", "i3d_r50_nonlocal", "r2plus1d_18", "s3d"]


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm3d) for module in network.modules())


@pytest.mark.parametrize(
    "name",
    [
        each if each == "r3d_18" else pytest.param(each, marks=pytest.mark.slow)
        for each in WITH_BATCH_NORM
    ],
)
@torch.inference_mode()
def test_a_folded_network_equals_the_plain_one(name: str) -> None:
    graph = GRAPHS[name]
    torch.manual_seed(0)
    plain, size = disturbed(build(name)), 32 if name == "r3d_18" else graph.size
    shape = (1, graph.channels, graph.clip_length, size, size)
    folded = fold_batch_norm(copy.deepcopy(plain), shape)
    assert norms(plain) > 0 and norms(folded) == 0
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected, found = plain(clips), folded(clips)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 2e-5 * expected.norm()


class Mixed(nn.Module):
    """Batch norms that may be folded, and some that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.early = nn.BatchNorm3d(3), nn.Conv3d(3, 4, 1)
        self.late, self.twice = nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1)
        self.one, self.other = nn.BatchNorm3d(4), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.early(self.first(x)))
        return self.other(self.twice(self.one(self.twice(x))))


@torch.inference_mode()
def test_only_the_batch_norm_of_a_single_convolution_is_folded() -> None:
    torch.manual_seed(0)
    plain, clips = disturbed(Mixed()), torch.randn(1, 3, 2, 4, 4)
    folded = fold_batch_norm(copy.deepcopy(plain), clips.shape)
    left = {name for name, each in folded.named_modules() if isinstance(each, nn.BatchNorm3d)}
    assert left == {"first", "one", "other"}
    torch.testing.assert_close(folded(clips), plain(clips))
