"""Networks that turn clips into snippets, by graph id, with their weights.

Commands on weights files use ``vadprep.backbones.weights`` and its modules.
"""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.backbones.adaptive_batch import AdaptiveBatch, Network, free_device_memory
    from vadprep.backbones.backbone import Backbone, load_backbone
    from vadprep.backbones.graphs import GRAPHS, Graph, build, graph_of, with_weights
    from vadprep.backbones.precision import check_precision, has_cpu_bf16, tf32_only_if
    from vadprep.backbones.scaling import SCALINGS, scaling_of
    from vadprep.backbones.weights.catalog import stored_weights
    from vadprep.backbones.weights.load import (
        RANDOM,
        Weights,
        load_weights,
        missing_weights_message,
        weights_path,
    )

_EXPORTS = {
    "adaptive_batch": ["AdaptiveBatch", "Network", "free_device_memory"],
    "backbone": ["Backbone", "load_backbone"],
    "graphs": ["GRAPHS", "Graph", "build", "graph_of", "with_weights"],
    "precision": ["check_precision", "has_cpu_bf16", "tf32_only_if"],
    "scaling": ["SCALINGS", "scaling_of"],
    "weights.catalog": ["stored_weights"],
    "weights.load": [
        "RANDOM", "Weights", "load_weights", "missing_weights_message", "weights_path",
    ],
}  # fmt: skip
__all__ = [
    "GRAPHS", "RANDOM", "SCALINGS", "AdaptiveBatch", "Backbone", "Graph", "Network", "Weights",
    "build", "check_precision", "free_device_memory", "graph_of", "has_cpu_bf16",
    "load_backbone", "load_weights", "missing_weights_message", "scaling_of", "stored_weights",
    "tf32_only_if", "weights_path", "with_weights",
]  # fmt: skip

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__ = lazy(__name__, _EXPORTS)
