"""A network on one device, ready to run."""

from __future__ import annotations

import torch
from torch import Tensor

from vadprep.backbones.graphs import graph_of
from vadprep.backbones.precision import DTYPES, check_precision, tf32_only_if
from vadprep.backbones.scaling import scaling_of
from vadprep.backbones.weights.load import Weights


class Backbone:
    """A network on one device in one precision: views in, float32 features out.

    The same device, batch size and number of threads give the same bytes; the other views of
    a batch do not matter.
    """

    def __init__(
        self, weights: Weights, device: torch.device, precision: str, scaling: str
    ) -> None:
        self.weights, self.device, self.precision = weights, device, precision
        graph = graph_of(weights.graph)
        self.dim, self.channels = graph.dim, graph.channels
        self.clip_length, self.size = graph.clip_length, graph.size
        net = graph.fold(weights.state, precision, scaling_of(scaling))
        self._net = net.eval().to(device, DTYPES[precision])

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> Tensor:
        """Features float32 [batch, dim] of views, on the device.

        Views are [batch, clip_length, size, size, channel], such as [batch, 16, 224, 224, 3]:
        uint8, for flow also float32 in [-1, 1]. Raises ValueError for another shape or type.
        """
        expected = (self.clip_length, self.size, self.size, self.channels)
        types = (torch.uint8,) if self.channels == 3 else (torch.uint8, torch.float32)
        if views.dtype not in types or tuple(views.shape[1:]) != expected:
            raise ValueError(
                f"views: {views.dtype} {list(views.shape)}, expected uint8 [batch, "
                f"{', '.join(map(str, expected))}]"
            )
        with tf32_only_if(self.precision == "tf32"):
            features: Tensor = self._net(views.to(self.device))
        return features


def load_backbone(
    graph: str,
    weights: Weights,
    device: str | torch.device,
    precision: str,
    scaling: str = "[-1,1]",
) -> Backbone:
    """The network ready to run; ``precision`` is fp32, tf32, bf16 or fp16.

    Raises ValueError for an unknown graph, precision or scaling and for weights of another
    graph, and SpecError when the device does not have the precision.
    """
    device = torch.device(device)
    check_precision(precision, device)
    if weights.graph != graph:
        raise ValueError(f"weights {weights.name} are for {weights.graph}, not for {graph}")
    return Backbone(weights, device, precision, scaling)
