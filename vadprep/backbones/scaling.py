"""What a network sees of a pixel value 0..255."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Scaling:
    """(value - mean) / std, in units of 0..255: one number for all channels, or one for each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, views: Tensor) -> Tensor:
        """float32 [batch, channel, T, H, W] of uint8 [batch, T, H, W, channel]."""
        values = views.float()
        values = (values - values.new_tensor(self.mean)) / values.new_tensor(self.std)
        return values.permute(0, 4, 1, 2, 3)


def _of_unit_range(mean: tuple[float, ...], std: tuple[float, ...]) -> Scaling:
    return Scaling(tuple(255 * each for each in mean), tuple(255 * each for each in std))


SCALINGS: dict[str, Scaling] = {
    "[-1,1]": Scaling((127.5,), (127.5,)),
    "(x-114.75)/57.375": Scaling((114.75,), (57.375,)),
    "torchvision-kinetics": _of_unit_range(
        (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    ),
    "imagenet": _of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Scalings by the name that a spec has.

==================== =================================================================
[-1,1]               Inception-I3D; by habit, not by training, much of the R50 family
(x-114.75)/57.375    video-nonlocal-net, SlowFast, pytorchvideo (0.45 and 0.225 of 255)
torchvision-kinetics r3d_18, r2plus1d_18 and s3d of torchvision, by channel
imagenet             swin3d of torchvision, by channel
==================== =================================================================
"""


def scaling_of(name: str) -> Scaling:
    """The scaling of that name; raises ValueError for an unknown one."""
    if name not in SCALINGS:
        raise ValueError(f"scaling = {name!r}: allowed are {', '.join(SCALINGS)}")
    return SCALINGS[name]


class Scaled(nn.Module):
    """A network of scaled clips as one of uint8 views."""

    def __init__(self, network: nn.Module, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.scaling = scaling

    def forward(self, views: Tensor) -> Tensor:
        """float32 [batch, dim] of uint8 [batch, T, H, W, channel].

        Scaled in float32 whatever the network's type, which bfloat16 could not hold.
        """
        dtype = next(self.network.parameters()).dtype
        features: Tensor = self.network(self.scaling(views).to(dtype))
        return features.to(torch.float32)
