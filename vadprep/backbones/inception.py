"""Inception-I3D: the network of Carreira and Zisserman 2017 in plain PyTorch.

Names follow DeepMind's TensorFlow release (``Mixed_3b.Branch_1.Conv3d_0b_3x3``). This is the
readable form, which defines what the features are; ``engine`` and ``gpu_form`` run it. Layers
map [batch, in, T, H, W] to [batch, out, ceil(T / stride), ceil(H / stride), ceil(W / stride)].
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 1024
BATCH_NORM_EPS = 1e-3  # of Sonnet's BatchNorm, which has an offset but no scale (here a scale of 1)

Triple = tuple[int, int, int]
Pair = tuple[int, int]


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


class ConvUnit(nn.Module):
    """SAME convolution without bias, batch norm, ReLU; size and stride over time and space."""

    def __init__(self, in_channels: int, channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, channels, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (4, 3, 2):  # F.pad counts from the last axis
            pads += same_padding(x.shape[axis], self.conv.kernel_size[0], self.conv.stride[0])
        return torch.relu(self.bn(self.conv(F.pad(x, pads) if any(pads) else x)))


def _branch(**units: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(units))


class MixedUnit(nn.Module):
    """The four branches of an Inception block, concatenated.

    1x1x1 convolution; 1x1x1 then 3x3x3, ``three_a`` and ``three_b`` their (middle, last) widths;
    3x3x3 max-pool then 1x1x1, ``pooled`` wide.
    """

    def __init__(
        self, in_channels: int, one: int, three_a: Pair, three_b: Pair, pooled: int
    ) -> None:
        super().__init__()
        self.Branch_0 = _branch(Conv3d_0a_1x1=ConvUnit(in_channels, one, 1))
        self.Branch_1, self.Branch_2 = (
            _branch(
                Conv3d_0a_1x1=ConvUnit(in_channels, middle, 1),
                Conv3d_0b_3x3=ConvUnit(middle, last, 3),
            )
            for middle, last in (three_a, three_b)
        )
        self.Branch_3 = _branch(
            MaxPool3d_0a_3x3=MaxPoolSame((3, 3, 3), (1, 1, 1)),
            Conv3d_0b_1x1=ConvUnit(in_channels, pooled, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3)
        return torch.cat([branch(x) for branch in branches], dim=1)


class InceptionI3D(nn.Module):
    """The network for 3 (RGB) or 2 (flow) input channels, values in [-1, 1] (figure 3)."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(in_channels, 64, 7, stride=2)
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64, 64, 1)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = MixedUnit(192, 64, (96, 128), (16, 32), 32)
        self.Mixed_3c = MixedUnit(256, 128, (128, 192), (32, 96), 64)
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = MixedUnit(480, 192, (96, 208), (16, 48), 64)
        self.Mixed_4c = MixedUnit(512, 160, (112, 224), (24, 64), 64)
        self.Mixed_4d = MixedUnit(512, 128, (128, 256), (24, 64), 64)
        self.Mixed_4e = MixedUnit(512, 112, (144, 288), (32, 64), 64)
        self.Mixed_4f = MixedUnit(528, 256, (160, 320), (32, 128), 128)
        self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = MixedUnit(832, 256, (160, 320), (32, 128), 128)
        self.Mixed_5c = MixedUnit(832, 384, (192, 384), (48, 128), 128)
        self.Logits = _branch(Conv3d_0c_1x1=nn.Conv3d(DIM, 400, 1))

    def trunk(self) -> dict[str, nn.Module]:
        """The layers before the pooling, by name, in order."""
        return {name: layer for name, layer in self.named_children() if name != "Logits"}

    def _pooled(self, x: Tensor) -> Tensor:
        for layer in self.trunk().values():
            x = layer(x)
        return F.avg_pool3d(x.float(), (2, 7, 7), stride=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, 1024] of clips [batch, channel, T >= 9, 224, 224].

        The mean over Mixed_5c of 2 x 7 x 7 windows, then over the ceil(T / 8) - 1 of them.
        """
        return self._pooled(clips).mean(dim=(2, 3, 4))

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]: 1x1x1 convolution, then the mean over time."""
        return self.Logits(self._pooled(clips)).mean(dim=(2, 3, 4))
