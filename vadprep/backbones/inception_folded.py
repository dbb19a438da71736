"""Inception-I3D for inference: batch norm inside the convolutions, channels last.

Layers map [batch, in, T, H, W] to [batch, out, T, H, W], divided by their stride.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadprep.backbones import inception

State = Mapping[str, Tensor]
Means = tuple[float, ...]  # one for all channels, or one for each


def fold(state: State, prefix: str) -> tuple[Tensor, Tensor]:
    """Weight [out, in, t, h, w] and bias [out] of a convolution with its batch norm inside.

    In float64, so that folding costs one rounding.
    """
    mean, var = state[f"{prefix}.bn.running_mean"], state[f"{prefix}.bn.running_var"]
    scale = state[f"{prefix}.bn.weight"].double() / (var.double() + inception.BATCH_NORM_EPS).sqrt()
    weight = state[f"{prefix}.conv.weight"].double() * scale.view(-1, 1, 1, 1, 1)
    bias = state[f"{prefix}.bn.bias"].double() - mean.double() * scale
    return weight.float(), bias.float()


class FoldedConv(nn.Module):
    """Convolution of stride 1 with bias and ReLU, padded to keep the size."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        self.padding = weight.shape[2] // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, padding=self.padding).relu_()


def double_and_centre(x: Tensor, views: Tensor, twice_mean: Means) -> Tensor:
    """2 (pixel - mean) in place; ``x`` is a copy of ``views`` [..., channel] in another type.

    Exact in bfloat16 and float16 for uint8 and a mean of 127.5. Views that are floats (flow
    that was not quantised) are in [-1, 1] already: the value y is the pixel 127.5 (1 + y).
    """
    mean = twice_mean[0] if len(twice_mean) == 1 else x.new_tensor(twice_mean)
    return x.mul_(2).sub_(mean) if views.dtype == torch.uint8 else x.mul_(255).add_(255 - mean)


class FoldedStem(FoldedConv):
    """The 7x7x7 convolution of stride 2, straight from pixels [batch, T, H, W, channel].

    It computes on 2 (x - mean), with weights divided by 2 std. For the scaling [-1,1] that is
    2x - 255, a whole number that bfloat16 and float16 hold exactly: no rounding of the input.
    """

    def __init__(self, state: State, name: str, mean: Means, std: Means) -> None:
        weight, bias = fold(state, name)
        twice_std = 2 * weight.new_tensor(std).view(1, -1, 1, 1, 1)
        super().__init__(self.arrange(weight / twice_std), bias)
        self.twice_mean = tuple(2 * each for each in mean)

    def arrange(self, weight: Tensor) -> Tensor:
        """Weight [out, channel, 7, 7, 7] as ``forward`` needs it."""
        return weight

    def forward(self, views: Tensor) -> Tensor:
        x = double_and_centre(views.to(self.weight.dtype, copy=True), views, self.twice_mean)
        pads = [0, 0]
        for axis in (3, 2, 1):
            pads += inception.same_padding(x.shape[axis], 7, 2)
        x = F.pad(x, pads).permute(0, 4, 1, 2, 3)
        return F.conv3d(x, self.weight, self.bias, stride=2).relu_()


class BlockStem(FoldedStem):
    """``FoldedStem`` as a 4x4x4 convolution of stride 1 over blocks of 2x2x2 pixels.

    Matrix units (AMX, tensor cores) take channels by the dozen and idle on 3; a block has 24.
    Measured in bfloat16 on one core: 52 ms a clip, 132 ms without. Plain fp32 loses by it.
    """

    def arrange(self, weight: Tensor) -> Tensor:
        """Weight [out, 8 * channel, 4, 4, 4]."""
        taps = F.pad(weight, (0, 1) * 3).reshape(*weight.shape[:2], *(4, 2) * 3)
        return taps.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)

    def forward(self, views: Tensor) -> Tensor:
        batch, *sizes, channels = views.shape
        t, h, w = (size // 2 for size in sizes)  # even, all three
        # SAME starts 2 px before the picture, so one block of zeros goes before, two after.
        x = self.weight.new_zeros(batch, t + 3, h + 3, w + 3, 8 * channels)
        inner = x[:, 1:-2, 1:-2, 1:-2].unflatten(-1, (2, 2, 2, channels))
        blocks = views.reshape(batch, t, 2, h, 2, w, 2, channels)
        double_and_centre(
            inner.copy_(blocks.permute(0, 1, 3, 5, 2, 4, 6, 7)), views, self.twice_mean
        )
        return F.conv3d(x.permute(0, 4, 1, 2, 3), self.weight, self.bias).relu_()


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

    def __init__(self, state: State, prefix: str) -> None:
        super().__init__()
        heads = [fold(state, f"{prefix}.Branch_{i}.Conv3d_0a_1x1") for i in range(3)]
        weights, biases = zip(*heads, strict=True)
        self.widths = [len(bias) for bias in biases]
        self.heads = FoldedConv(torch.cat(weights), torch.cat(biases))
        self.three_a = FoldedConv(*fold(state, f"{prefix}.Branch_1.Conv3d_0b_3x3"))
        self.three_b = FoldedConv(*fold(state, f"{prefix}.Branch_2.Conv3d_0b_3x3"))
        self.pooled = FoldedConv(*fold(state, f"{prefix}.Branch_3.Conv3d_0b_1x1"))

    def forward(self, x: Tensor) -> Tensor:
        one, a, b = self.heads(x).split(self.widths, dim=1)
        parts = (one, self.three_a(a), self.three_b(b), self.pooled(max_of_neighbours(x)))
        # Joined as [..., channel]: torch.cat along axis 1 would leave channels-last memory,
        # because ``one`` is a slice, and pooling in that layout takes 20 times as long.
        rows = torch.cat([part.permute(0, 2, 3, 4, 1) for part in parts], dim=4)
        return rows.permute(0, 4, 1, 2, 3)


class FoldedInception(nn.Module):
    """Views of 16, 32 or 64 frames to features, from the tensors of an ``InceptionI3D``."""

    def __init__(self, state: State, precision: str, mean: Means, std: Means) -> None:
        super().__init__()
        stem = FoldedStem if precision == "fp32" else BlockStem
        with torch.device("meta"):
            (first, _), *layers = inception.InceptionI3D().trunk().items()
        self.trunk = nn.Sequential(stem(state, first, mean, std))
        for name, layer in layers:
            if isinstance(layer, inception.MixedUnit):
                self.trunk.append(FoldedMixed(state, name))
            elif isinstance(layer, inception.ConvUnit):
                self.trunk.append(FoldedConv(*fold(state, name)))
            else:
                self.trunk.append(layer)

    def forward(self, views: Tensor) -> Tensor:
        """float32 [batch, 1024] of uint8 [batch, 16, 224, 224, channel], or floats in [-1, 1].

        At 16 frames Mixed_5c is 2 x 7 x 7, one window of the pooling: the mean over all. Longer
        clips have several windows of two.
        """
        x = self.trunk(views).float()
        if x.shape[2] > 2:
            x = (x[:, :, 1:] + x[:, :, :-1]) / 2
        return x.mean(dim=(2, 3, 4))
