"""The networks by graph id: an explicit table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vadprep.backbones.folded import FoldedInception
from vadprep.backbones.inception import DIM, InceptionI3D

GraphId = str


@dataclass(frozen=True)
class Graph:
    """One network: its readable form, its inference form, and the width of its feature."""

    dim: int
    build: Callable[[], nn.Module]
    """The readable module; the names of its tensors are the canonical ones."""
    fold: Callable[[Mapping[str, Tensor], str], nn.Module]
    """Module from uint8 views to features, made of those tensors, laid out for a precision."""


GRAPHS: dict[GraphId, Graph] = {
    "inception_i3d": Graph(DIM, InceptionI3D, FoldedInception),
}


def graph_of(name: GraphId) -> Graph:
    """The graph of that id; raises ValueError for an unknown one."""
    if name not in GRAPHS:
        raise ValueError(f"graph = {name!r}: allowed are {', '.join(GRAPHS)}")
    return GRAPHS[name]


def build(graph: GraphId) -> nn.Module:
    """The readable network in inference mode, its tensors not yet initialised to anything."""
    return graph_of(graph).build().eval()


def canonical_shapes(graph: GraphId) -> dict[str, torch.Size]:
    """Shape of each tensor that the weights of ``graph`` hold, by canonical name.

    Batch norm's ``num_batches_tracked`` counts training steps and is left out.
    """
    with torch.device("meta"):
        state = graph_of(graph).build().state_dict()
    return {
        name: tensor.shape
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
