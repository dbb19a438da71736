"""Networks that turn clips into snippets, by graph id, with their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from vadprep.backbones.graphs import GRAPHS, Graph, build, graph_of
from vadprep.backbones.precision import (
    DTYPES,
    check_precision,
    has_cpu_bf16,
    tf32_only_if,
)
from vadprep.backbones.weights import Weights, load_weights, missing_weights_message
from vadprep.clips import CLIP_LENGTH

__all__ = [
    "GRAPHS",
    "Backbone",
    "Graph",
    "Weights",
    "build",
    "has_cpu_bf16",
    "load_backbone",
    "load_weights",
    "missing_weights_message",
]

SIZE = 224
"""Side of a view in px."""


class Backbone:
    """A network on one device in one precision: uint8 views in, float32 features out.

    The same device, batch size and number of threads give the same bytes; the other views of
    a batch do not matter.
    """

    clip_length = CLIP_LENGTH
    size = SIZE

    def __init__(self, graph: str, weights: Weights, device: torch.device, precision: str) -> None:
        self.graph, self.weights = graph, weights
        self.device, self.precision = device, precision
        self.dim = graph_of(graph).dim
        net = graph_of(graph).fold(weights.state, precision)
        self._net = net.eval().to(device, DTYPES[precision])

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> Tensor:
        """Features float32 [batch, dim] of uint8 views [batch, 16, 224, 224, 3], on the device.

        Raises ValueError for another shape or type.
        """
        expected = (self.clip_length, self.size, self.size, 3)
        if views.dtype != torch.uint8 or tuple(views.shape[1:]) != expected:
            raise ValueError(
                f"views: {views.dtype} {list(views.shape)}, expected uint8 [batch, "
                f"{', '.join(map(str, expected))}]"
            )
        with tf32_only_if(self.precision == "tf32"):
            features: Tensor = self._net(views.to(self.device))
        return features


def load_backbone(
    graph: str, weights: Weights, device: str | torch.device, precision: str
) -> Backbone:
    """The network ready to run; ``precision`` is fp32, tf32, bf16 or fp16.

    Raises ValueError for an unknown graph or precision and for weights of another graph, and
    SpecError when the device has not got the precision.
    """
    device = torch.device(device)
    check_precision(precision, device)
    if weights.graph != graph:
        raise ValueError(f"weights {weights.name} are for {weights.graph}, not for {graph}")
    return Backbone(graph, weights, device, precision)
