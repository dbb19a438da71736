"""Networks that turn clips into snippets, by graph id, with their weights."""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.backbones.backbone import Backbone, load_backbone
    from vadprep.backbones.graphs import GRAPHS, Graph, build, graph_of
    from vadprep.backbones.precision import has_cpu_bf16
    from vadprep.backbones.scaling import SCALINGS, scaling_of
    from vadprep.backbones.weights.load import Weights, load_weights, missing_weights_message

__all__ = [
    "GRAPHS",
    "SCALINGS",
    "Backbone",
    "Graph",
    "Weights",
    "build",
    "graph_of",
    "has_cpu_bf16",
    "load_backbone",
    "load_weights",
    "missing_weights_message",
    "scaling_of",
]

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__ = lazy(
        __name__,
        {
            "backbone": ["Backbone", "load_backbone"],
            "graphs": ["GRAPHS", "Graph", "build", "graph_of"],
            "precision": ["has_cpu_bf16"],
            "scaling": ["SCALINGS", "scaling_of"],
            "weights.load": ["Weights", "load_weights", "missing_weights_message"],
        },
    )
