"""The two ResNet-50 graphs against a second one, written here in functions from their strides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vadprep.backbones import Backbone, Weights, build, load_weights
from vadprep.backbones.graphs import SCALINGS, canonical_shapes, with_weights
from vadprep.backbones.weights.load import save_weights
from vadprep.core.errors import WeightsError

PAIR = ("i3d_r50", "i3d_r50_nonlocal")
TEMPORAL = {1: [1, 1, 1], 3: [1, 0, 1, 0], 4: [1, 0, 1, 0, 1, 0], 5: [0, 1, 0]}
"""Which bottlenecks look along time, by number of pytorchvideo's block (2 is a pool)."""


@dataclass(frozen=True)
class Stem:
    stride: int
    pool: tuple[int, int, int]
    pool_stride: tuple[int, int, int]
    pool_padding: tuple[int, int, int]
    window: tuple[int, int, int] | None
    """Of the pool before the feature; None for all that is left."""


STEMS = {
    "i3d_r50": Stem(1, (1, 3, 3), (1, 2, 2), (0, 1, 1), (4, 7, 7)),
    "i3d_r50_nonlocal": Stem(2, (2, 3, 3), (2, 2, 2), (0, 0, 0), None),
}


@pytest.fixture(scope="module")
def weights() -> Weights:
    """He-normal filters and random batch-norm statistics; the same tensors fit both graphs."""
    generator = torch.Generator().manual_seed(2)
    state = {}
    for name, shape in canonical_shapes("i3d_r50").items():
        if len(shape) > 1:
            scale = (2 / shape[1:].numel()) ** 0.5
            state[name] = scale * torch.randn(shape, generator=generator)
        elif name.endswith(("weight", "running_var")):
            state[name] = 0.5 + torch.rand(shape, generator=generator) / 2
        else:
            state[name] = 0.4 * torch.rand(shape, generator=generator) - 0.2
    return Weights("test", "", "i3d_r50", state, "")


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((found - expected).norm() / expected.norm()).item()


class Reference:
    """Features and logits by functions, with the tensors of a state."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, norm: str, stride: tuple[int, ...]) -> Tensor:
        kernel = self.state[f"{name}.weight"]
        x = F.conv3d(x, kernel, None, stride, [size // 2 for size in kernel.shape[2:]])
        mean, var, scale, offset = (
            self.state[f"{norm}.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) * scale / torch.sqrt(var + 1e-5) + offset

    def bottleneck(self, x: Tensor, name: str, stride: int, temporal: int) -> Tensor:
        inner, one = f"{name}.branch2", (1, 1, 1)
        assert self.state[f"{inner}.conv_a.weight"].shape[2:] == (1 + 2 * temporal, 1, 1)
        y = self.conv(x, f"{inner}.conv_a", f"{inner}.norm_a", one).relu()
        y = self.conv(y, f"{inner}.conv_b", f"{inner}.norm_b", (1, stride, stride)).relu()
        y = self.conv(y, f"{inner}.conv_c", f"{inner}.norm_c", one)
        if f"{name}.branch1_conv.weight" in self.state:
            strides = (1, stride, stride)
            x = self.conv(x, f"{name}.branch1_conv", f"{name}.branch1_norm", strides)
        return (x + y).relu()

    def __call__(self, x: Tensor, stem: Stem) -> tuple[Tensor, Tensor]:
        x = self.conv(x, "blocks.0.conv", "blocks.0.norm", (stem.stride, 2, 2)).relu()
        x = F.max_pool3d(x, stem.pool, stem.pool_stride, stem.pool_padding)
        for block, temporal in TEMPORAL.items():
            if block == 3:
                x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
            for i, each in enumerate(temporal):
                stride = 2 if block > 1 and i == 0 else 1
                x = self.bottleneck(x, f"blocks.{block}.res_blocks.{i}", stride, each)
        windows = F.avg_pool3d(x, stem.window or x.shape[2:], 1).flatten(2)
        kernel, bias = self.state["blocks.6.proj.weight"], self.state["blocks.6.proj.bias"]
        logits = torch.einsum("bcn,kc->bkn", windows, kernel) + bias[:, None]
        return windows.mean(2), logits.mean(2)


@pytest.mark.parametrize(
    "graph, frames, size",
    [
        ("i3d_r50", 8, 193),
        ("i3d_r50_nonlocal", 16, 72),
        pytest.param("i3d_r50", 8, 256, marks=pytest.mark.slow),
        pytest.param("i3d_r50", 17, 230, marks=pytest.mark.slow),
        pytest.param("i3d_r50_nonlocal", 32, 256, marks=pytest.mark.slow),
    ],
)
def test_network_equals_its_description(
    weights: Weights, graph: str, frames: int, size: int
) -> None:
    clip = torch.randn(1, 3, frames, size, size, generator=torch.Generator().manual_seed(3))
    network = with_weights(build(graph), weights.state)
    with torch.inference_mode():
        features = network(clip)
        logits = network.blocks[-1].proj(features)
        expected = Reference(dict(weights.state))(clip, STEMS[graph])
    assert features.shape == (1, 2048) and logits.shape == (1, 400)
    assert error(features, expected[0]) < 1e-5
    assert error(logits, expected[1]) < 1e-5


def test_the_backbone_refuses_the_clips_of_another_graph(weights: Weights) -> None:
    own = Weights("test", "", "i3d_r50_nonlocal", weights.state, "")
    backbone = Backbone(own, "cpu", "fp32", "(x-114.75)/57.375")
    with pytest.raises(ValueError, match=r"expected uint8 \[batch, 16, 224, 224, 3\]"):
        backbone(torch.zeros(1, 8, 256, 256, 3, dtype=torch.uint8))


def test_graphs_share_their_shapes_but_not_their_strides() -> None:
    first, second = PAIR
    assert canonical_shapes(first) == canonical_shapes(second)
    with torch.device("meta"):
        clip = torch.empty(1, 3, 16, 224, 224)
        maps = [nn.Sequential(*build(each).blocks[:6])(clip).shape for each in PAIR]
    assert maps == [(1, 2048, 8, 7, 7), (1, 2048, 2, 7, 7)]


@pytest.mark.parametrize("graph, other", [PAIR, PAIR[::-1]])
def test_weights_of_the_other_graph_are_refused(
    weights: Weights, tmp_path: Path, graph: str, other: str
) -> None:
    save_weights(Weights("test", "", graph, weights.state, ""), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"made for graph {graph}, not for {other}"):
        load_weights(str(tmp_path / "w.safetensors"), other)


def test_scalings_are_those_of_the_papers() -> None:
    """Grey values by hand: (0 and 255) of [-1,1]; 0.45 and 0.225 of the unit range."""
    views = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 1, 1, 1, 3)
    assert SCALINGS["[-1,1]"](views).flatten().tolist() == [-1, -1, -1, 1, 1, 1]
    slowfast = SCALINGS["(x-114.75)/57.375"](views)[:, 0].flatten()
    torch.testing.assert_close(slowfast, torch.tensor([-2.0, 0.55 / 0.225]))
    by_channel = SCALINGS["imagenet"](views)[1].flatten()
    expected = [
        (1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    torch.testing.assert_close(by_channel, torch.tensor(expected))
