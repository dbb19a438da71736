"""Inception-I3D for inference: batch norm inside the convolutions, channels last."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadprep.backbones.inception import BATCH_NORM_EPS, LAYERS, Conv, Mixed, Pool, same_padding
from vadprep.backbones.scaling import Scaling

State = Mapping[str, Tensor]
Means = tuple[float, ...]
"""One for all channels, or one for each."""
Stem = Callable[[Tensor, Tensor, Means], nn.Module]


def fold(state: State, prefix: str) -> tuple[Tensor, Tensor]:
    """Weight [out, in, t, h, w] and bias [out] of a convolution with its batch norm inside.

    The product is taken in float64, so that folding itself costs one rounding.
    """
    mean, var = state[f"{prefix}.bn.running_mean"], state[f"{prefix}.bn.running_var"]
    scale = state[f"{prefix}.bn.weight"].double() / (var.double() + BATCH_NORM_EPS).sqrt()
    weight = state[f"{prefix}.conv.weight"].double() * scale.view(-1, 1, 1, 1, 1)
    bias = state[f"{prefix}.bn.bias"].double() - mean.double() * scale
    return weight.float(), bias.float()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last_3d)


class FoldedConv(nn.Module):
    """Convolution of stride 1 with bias and ReLU, padded to keep the size."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", _channels_last(weight))
        self.register_buffer("bias", bias)
        self.padding = weight.shape[2] // 2

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, T, H, W] to [batch, out, T, H, W]."""
        return F.conv3d(x, self.weight, self.bias, padding=self.padding).relu_()


def doubled(x: Tensor, views: Tensor, twice_mean: Means) -> Tensor:
    """2 (pixel - mean) in place, channels last, ``x`` being a copy of ``views`` in another type.

    Exact in bfloat16 and float16 for uint8 and a mean of 127.5. Views that are floats (flow
    that was not quantised) are in [-1, 1] already: the value y is the pixel 127.5 (1 + y).
    """
    mean = twice_mean[0] if len(twice_mean) == 1 else x.new_tensor(twice_mean)
    return x.mul_(2).sub_(mean) if views.dtype == torch.uint8 else x.mul_(255).add_(255 - mean)


class FoldedStem(nn.Module):
    """The 7x7x7 convolution of stride 2, straight from pixels.

    It computes on 2 (x - mean), with weights divided by 2 std. For the scaling [-1,1] that is
    2x - 255, a whole number that bfloat16 and float16 hold exactly: no rounding of the input.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, twice_mean: Means) -> None:
        """``weight`` is divided already."""
        super().__init__()
        self.register_buffer("weight", _channels_last(weight))
        self.register_buffer("bias", bias)
        self.twice_mean = twice_mean

    def forward(self, views: Tensor) -> Tensor:
        """Views [batch, T, H, W, channel] to [batch, 64, T / 2, H / 2, W / 2]."""
        x = doubled(views.to(self.weight.dtype, copy=True), views, self.twice_mean)
        pads = [0, 0]
        for axis in (3, 2, 1):
            pads += same_padding(x.shape[axis], 7, 2)
        x = F.pad(x, pads).permute(0, 4, 1, 2, 3)
        return F.conv3d(x, self.weight, self.bias, stride=2).relu_()


class BlockStem(FoldedStem):
    """``FoldedStem`` as a 4x4x4 convolution of stride 1 over blocks of 2x2x2 pixels.

    Matrix units (AMX, tensor cores) take channels by the dozen and idle on 3; a block has 24.
    Measured in bfloat16 on one core: 52 ms a clip, 132 ms without. Plain fp32 loses by it.
    """

    def __init__(self, weight: Tensor, bias: Tensor, twice_mean: Means) -> None:
        """``weight`` is divided already."""
        taps = F.pad(weight, (0, 1) * 3).reshape(*weight.shape[:2], *(4, 2) * 3)
        blocks = taps.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)
        super().__init__(blocks, bias, twice_mean)

    def forward(self, views: Tensor) -> Tensor:
        """Views [batch, T, H, W, channel] to [batch, 64, T / 2, H / 2, W / 2], sizes even.

        SAME starts 2 px before the picture, so one block of zeros goes before, two after.
        """
        batch, *sizes, channels = views.shape
        t, h, w = (size // 2 for size in sizes)
        x = self.weight.new_zeros(batch, t + 3, h + 3, w + 3, 8 * channels)
        inner = x[:, 1:-2, 1:-2, 1:-2].unflatten(-1, (2, 2, 2, channels))
        blocks = views.reshape(batch, t, 2, h, 2, w, 2, channels)
        doubled(inner.copy_(blocks.permute(0, 1, 3, 5, 2, 4, 6, 7)), views, self.twice_mean)
        return F.conv3d(x.permute(0, 4, 1, 2, 3), self.weight, self.bias).relu_()


class FoldedPool(nn.Module):
    """SAME max-pool. What SAME adds at the end is left out of the window instead."""

    def __init__(self, layer: Pool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, T, H, W] to [batch, channel, ceil(T / stride), ...]."""
        size, stride = self.layer.size, self.layer.stride
        front = [
            same_padding(n, k, s)[0] for n, k, s in zip(x.shape[2:], size, stride, strict=True)
        ]
        return F.max_pool3d(x, size, stride, front, ceil_mode=True)


def max_of_neighbours(x: Tensor) -> Tensor:
    """3x3x3 SAME max-pool of stride 1, in the same shape [batch, channel, T, H, W].

    One axis after the other: 0.3 to 0.4 of the time of ``max_pool3d`` on a CPU, same result.
    """
    for axis in (2, 3, 4):
        last = x.shape[axis] - 1
        if last == 0:
            continue
        pairs = torch.maximum(x.narrow(axis, 0, last), x.narrow(axis, 1, last))
        out = torch.empty_like(x)
        out.narrow(axis, 0, 1).copy_(pairs.narrow(axis, 0, 1))
        out.narrow(axis, last, 1).copy_(pairs.narrow(axis, last - 1, 1))
        before, after = pairs.narrow(axis, 0, last - 1), pairs.narrow(axis, 1, last - 1)
        torch.maximum(before, after, out=out.narrow(axis, 1, last - 1))
        x = out
    return x


class FoldedMixed(nn.Module):
    """An Inception block whose three 1x1x1 convolutions on the input are one."""

    def __init__(self, state: State, prefix: str, layer: Mixed) -> None:
        super().__init__()
        heads = [fold(state, f"{prefix}.Branch_{i}.Conv3d_0a_1x1") for i in range(3)]
        weights, biases = zip(*heads, strict=True)
        self.widths = [layer.one, layer.reduce_3a, layer.reduce_3b]
        self.heads = FoldedConv(torch.cat(weights), torch.cat(biases))
        self.three_a = FoldedConv(*fold(state, f"{prefix}.Branch_1.Conv3d_0b_3x3"))
        self.three_b = FoldedConv(*fold(state, f"{prefix}.Branch_2.Conv3d_0b_3x3"))
        self.pooled = FoldedConv(*fold(state, f"{prefix}.Branch_3.Conv3d_0b_1x1"))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, T, H, W] to [batch, out, T, H, W]."""
        one, a, b = self.heads(x).split(self.widths, dim=1)
        parts = (one, self.three_a(a), self.three_b(b), self.pooled(max_of_neighbours(x)))
        # Joined as [..., channel]: torch.cat along axis 1 would leave channels-last memory,
        # because ``one`` is a slice, and pooling in that layout takes 20 times as long.
        rows = torch.cat([part.permute(0, 2, 3, 4, 1) for part in parts], dim=4)
        return rows.permute(0, 4, 1, 2, 3)


def _folded(state: State, name: str, layer: Conv | Pool | Mixed) -> nn.Module:
    if isinstance(layer, Pool):
        return FoldedPool(layer)
    if isinstance(layer, Mixed):
        return FoldedMixed(state, name, layer)
    return FoldedConv(*fold(state, name))


def make_stem(state: State, name: str, scaling: Scaling, stem: Stem) -> nn.Module:
    """The first convolution as ``stem``, from pixel values on."""
    weight, bias = fold(state, name)
    twice_std = 2 * weight.new_tensor(scaling.std).view(1, -1, 1, 1, 1)
    return stem(weight / twice_std, bias, tuple(2 * each for each in scaling.mean))


class FoldedInception(nn.Module):
    """Views of 16 frames to features, from the tensors of an ``InceptionI3D``."""

    def __init__(self, state: State, precision: str, scaling: Scaling) -> None:
        super().__init__()
        stem: Stem = FoldedStem if precision == "fp32" else BlockStem
        (first, _), *rest = LAYERS.items()
        self.trunk = nn.Sequential(
            make_stem(state, first, scaling, stem),
            *(_folded(state, name, layer) for name, layer in rest),
        )

    def forward(self, views: Tensor) -> Tensor:
        """float32 [batch, 1024] of uint8 [batch, 16, 224, 224, channel], or floats in [-1, 1].

        At 16 frames Mixed_5c is 2 x 7 x 7, one window of the pooling: the mean over all.
        """
        return self.trunk(views).float().mean(dim=(2, 3, 4))
