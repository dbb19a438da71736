"""Inception-I3D a second time, from the description of the graph alone.

Functions, channels first, explicit zeros. ``eps`` is the epsilon of batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]
MIXED = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def zeros_around(x: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME: as many zeros as give ceil(n / s) windows, the odd one at the end."""
    for axis, (k, s) in enumerate(zip(sizes, strides, strict=True), start=2):
        n = x.shape[axis]
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        shape = list(x.shape)
        parts = []
        for count in (total // 2, total - total // 2):
            shape[axis] = count
            parts.append(x.new_zeros(shape))
        x = torch.cat([parts[0], x, parts[1]], dim=axis)
    return x


def unit(state: State, name: str, x: Tensor, eps: float, stride: int = 1) -> Tensor:
    kernel = state[f"{name}.conv.weight"]
    x = zeros_around(x, tuple(kernel.shape[2:]), (stride,) * 3)
    x = torch.conv3d(x, kernel, stride=stride)
    mean, var, scale, offset = (
        state[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / torch.sqrt(var + eps) * scale + offset).clamp_min(0)


def pool(x: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    return torch.max_pool3d(zeros_around(x, sizes, strides), sizes, strides)


def mixed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    def at(branch: int, part: str, y: Tensor) -> Tensor:
        return unit(state, f"{name}.Branch_{branch}.Conv3d_{part}", y, eps)

    pooled = pool(x, (3, 3, 3), (1, 1, 1))
    return torch.cat(
        [
            at(0, "0a_1x1", x),
            at(1, "0b_3x3", at(1, "0a_1x1", x)),
            at(2, "0b_3x3", at(2, "0a_1x1", x)),
            at(3, "0b_1x1", pooled),
        ],
        dim=1,
    )


@torch.inference_mode()
def reference(state: State, x: Tensor, eps: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Features [batch, 1024] and logits [batch, 400] of clips [batch, channel, T, 224, 224]."""
    x = unit(state, "Conv3d_1a_7x7", x, eps, stride=2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(state, "Conv3d_2c_3x3", unit(state, "Conv3d_2b_1x1", x, eps), eps)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for block in MIXED:
        if block == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if block == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = mixed(state, f"Mixed_{block}", x, eps)
    windows = [x[:, :, t : t + 2].mean(dim=(2, 3, 4)) for t in range(x.shape[2] - 1)]
    assert x.shape[3:] == (7, 7)
    kernel = state["Logits.Conv3d_0c_1x1.weight"].flatten(1)
    bias = state["Logits.Conv3d_0c_1x1.bias"]
    logits = [window @ kernel.T + bias for window in windows]
    return torch.stack(windows).mean(0), torch.stack(logits).mean(0)
