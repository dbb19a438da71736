"""Inception-I3D: the network of Carreira and Zisserman 2017 in plain PyTorch.

Names follow DeepMind's TensorFlow release (``Mixed_3b.Branch_1.Conv3d_0b_3x3``). This is the
readable form, which defines what the features are; ``inception_folded`` holds the fast one. Layers
map [batch, in, T, H, W] to [batch, out, ceil(T / stride), ceil(H / stride), ceil(W / stride)].
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 1024
BATCH_NORM_EPS = 1e-3  # of Sonnet's BatchNorm, which has an offset but no scale (here a scale of 1)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Conv:
    """A convolution with batch norm and ReLU, ``size`` and ``stride`` over time and space."""

    channels: int
    size: int
    stride: int = 1


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros (before, after) one axis under TensorFlow's SAME rule: ceil(length / stride) out.

    The odd one goes to the end, so a 7-wide kernel of stride 2 on 224 px has (2, 3): a fixed
    symmetric padding gives other features.
    """
    total = max(size - (length % stride or stride), 0)
    return total // 2, total - total // 2


class MaxPoolSame(nn.Module):
    """SAME max-pool. What SAME adds at the end is left out of the window instead."""

    def __init__(self, size: Triple, stride: Triple) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        axes = zip(x.shape[2:], self.size, self.stride, strict=True)
        front = [same_padding(*axis)[0] for axis in axes]
        return F.max_pool3d(x, self.size, self.stride, front, ceil_mode=True)


@dataclass(frozen=True)
class Mixed:
    """Widths of an Inception block with four branches, concatenated in this order.

    ``one`` 1x1x1; ``reduce_3a`` 1x1x1 then ``three_a`` 3x3x3; ``reduce_3b`` 1x1x1 then
    ``three_b`` 3x3x3; 3x3x3 max-pool then ``pooled`` 1x1x1.
    """

    one: int
    reduce_3a: int
    three_a: int
    reduce_3b: int
    three_b: int
    pooled: int

    @property
    def channels(self) -> int:
        """Width of the concatenation."""
        return self.one + self.three_a + self.three_b + self.pooled


LAYERS: dict[str, Conv | MaxPoolSame | Mixed] = {
    "Conv3d_1a_7x7": Conv(64, 7, stride=2),
    "MaxPool3d_2a_3x3": MaxPoolSame((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": Conv(64, 1),
    "Conv3d_2c_3x3": Conv(192, 3),
    "MaxPool3d_3a_3x3": MaxPoolSame((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": Mixed(64, 96, 128, 16, 32, 32),
    "Mixed_3c": Mixed(128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": MaxPoolSame((3, 3, 3), (2, 2, 2)),
    "Mixed_4b": Mixed(192, 96, 208, 16, 48, 64),
    "Mixed_4c": Mixed(160, 112, 224, 24, 64, 64),
    "Mixed_4d": Mixed(128, 128, 256, 24, 64, 64),
    "Mixed_4e": Mixed(112, 144, 288, 32, 64, 64),
    "Mixed_4f": Mixed(256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": MaxPoolSame((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": Mixed(256, 160, 320, 32, 128, 128),
    "Mixed_5c": Mixed(384, 192, 384, 48, 128, 128),
}
"""The trunk, in order (Carreira and Zisserman 2017, figure 3)."""


class ConvUnit(nn.Module):
    """SAME convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, layer: Conv) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, layer.channels, layer.size, layer.stride, bias=False)
        self.bn = nn.BatchNorm3d(layer.channels, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (4, 3, 2):  # F.pad counts from the last axis
            pads += same_padding(x.shape[axis], self.conv.kernel_size[0], self.conv.stride[0])
        return torch.relu(self.bn(self.conv(F.pad(x, pads) if any(pads) else x)))


def _branch(**units: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(units))


class MixedUnit(nn.Module):
    """The four branches of an Inception block, concatenated."""

    def __init__(self, in_channels: int, layer: Mixed) -> None:
        super().__init__()
        self.Branch_0 = _branch(Conv3d_0a_1x1=ConvUnit(in_channels, Conv(layer.one, 1)))
        self.Branch_1 = _branch(
            Conv3d_0a_1x1=ConvUnit(in_channels, Conv(layer.reduce_3a, 1)),
            Conv3d_0b_3x3=ConvUnit(layer.reduce_3a, Conv(layer.three_a, 3)),
        )
        self.Branch_2 = _branch(
            Conv3d_0a_1x1=ConvUnit(in_channels, Conv(layer.reduce_3b, 1)),
            Conv3d_0b_3x3=ConvUnit(layer.reduce_3b, Conv(layer.three_b, 3)),
        )
        self.Branch_3 = _branch(
            MaxPool3d_0a_3x3=MaxPoolSame((3, 3, 3), (1, 1, 1)),
            Conv3d_0b_1x1=ConvUnit(in_channels, Conv(layer.pooled, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3)
        return torch.cat([branch(x) for branch in branches], dim=1)


class InceptionI3D(nn.Module):
    """The network for 3 (RGB) or 2 (flow) input channels, values in [-1, 1]."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        channels = in_channels
        for name, layer in LAYERS.items():
            if isinstance(layer, Conv):
                self.add_module(name, ConvUnit(channels, layer))
            elif isinstance(layer, Mixed):
                self.add_module(name, MixedUnit(channels, layer))
            else:
                self.add_module(name, layer)
            channels = getattr(layer, "channels", channels)
        self.Logits = _branch(Conv3d_0c_1x1=nn.Conv3d(DIM, 400, 1))

    def _pooled(self, x: Tensor) -> Tensor:
        for name in LAYERS:
            x = self.get_submodule(name)(x)
        return F.avg_pool3d(x, (2, 7, 7), stride=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, 1024] of clips [batch, channel, T >= 9, 224, 224].

        The mean over Mixed_5c of 2 x 7 x 7 windows, then over the ceil(T / 8) - 1 of them.
        """
        return self._pooled(clips).mean(dim=(2, 3, 4))

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]: 1x1x1 convolution, then the mean over time."""
        return self.Logits(self._pooled(clips)).mean(dim=(2, 3, 4))
