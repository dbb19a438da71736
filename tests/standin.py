"""A stand-in for the network, so that tests decode and write for real but compute little."""

from __future__ import annotations

import torch

from vadprep.clips import CLIP_LENGTH
from vadprep.extract import Extractor
from vadprep.spec import Spec, resolve

GRID = 4


class StandIn:
    """Mean grey of a 4 x 4 grid of cells in each frame of a clip: 256 numbers, so that which
    frames and which crop went in can be told from a feature."""

    device = torch.device("cpu")
    dim = CLIP_LENGTH * GRID * GRID

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        grey = views[:, :, 2::4, 2::4].float().mean(dim=4)
        return torch.nn.functional.adaptive_avg_pool2d(grey, GRID).flatten(1)


def standin_spec(**overrides: object) -> Spec:
    return resolve("i3d", "cpu", ("random:0", "stand-in"), {"fps": "native", **overrides})


def standin_extractor(spec: Spec) -> Extractor:
    return Extractor(spec, StandIn())


def numbers_of(feature: torch.Tensor) -> list[int]:
    """Frame numbers that the clip behind a feature [256] of numbered frames showed."""
    bits = feature.reshape(CLIP_LENGTH, -1) > 128
    return (bits @ (1 << torch.arange(GRID * GRID)).double().numpy()).astype(int).tolist()
