"""Stand-ins for the networks and for TV-L1: tests decode and write for real but compute little."""

from __future__ import annotations

import torch

from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.presets import resolve
from vadprep.core.spec import Spec
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.streams import Branch
from vadprep.flow import SavedFlow
from vadprep.video import MAX_DAMAGE

GRID = 4


class StandIn:
    """Mean grey of a 4 x 4 grid of cells in each frame of a clip: 256 numbers, so that which
    frames and which crop went in can be told from a feature."""

    device = torch.device("cpu")
    dim = CLIP_LENGTH * GRID * GRID

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Features of RGB views; of flow the same of the mean of u and v."""
        grey = views[:, :, 2::4, 2::4].float().mean(dim=4)
        return torch.nn.functional.adaptive_avg_pool2d(grey, GRID).flatten(1)


def standin_flow(grey: torch.Tensor) -> torch.Tensor:
    """What a frame is brighter and darker than the one before: within and beyond the bound.

    So flow tells which two frames it is between, and which way they came.
    """
    first, second = grey[:-1].float(), grey[1:].float()
    return torch.stack([(second - first) / 10, (first - second / 2) / 10], dim=-1)


def standin_spec(stream: str = "rgb", **overrides: object) -> Spec:
    overrides = {"fps": "native", **overrides}
    return resolve("i3d", "cpu", ("random:0", "stand-in"), overrides, stream)


def standin_branch(
    spec: Spec,
    network: object = None,
    save_to: SavedFlow | None = None,
    read_from: SavedFlow | None = None,
) -> Branch:
    flow = standin_flow if spec.stream == "flow" else None
    return Branch(spec, network or StandIn(), flow, save_to, read_from)


def standin_extractor(*specs: Spec, max_damage: float = MAX_DAMAGE) -> Extractor:
    return Extractor([standin_branch(spec) for spec in specs], max_damage=max_damage)


def numbers_of(feature: torch.Tensor) -> list[int]:
    """Frame numbers that the clip behind a feature [256] of numbered frames showed."""
    bits = feature.reshape(CLIP_LENGTH, -1) > 128
    return (bits @ (1 << torch.arange(GRID * GRID)).double().numpy()).astype(int).tolist()
