from .adaptive_batch import (
    AdaptiveBatch as AdaptiveBatch,
    Network as Network,
    free_device_memory as free_device_memory,
)
from .backbone import Backbone as Backbone, load_backbone as load_backbone
from .graphs import (
    GRAPHS as GRAPHS,
    build as build,
    graph_of as graph_of,
    with_weights as with_weights,
)
from .precision import (
    check_precision as check_precision,
    has_cpu_bf16 as has_cpu_bf16,
    tf32_only_if as tf32_only_if,
)
from .scaling import SCALINGS as SCALINGS, scaling_of as scaling_of
from .weights.catalog import stored_weights as stored_weights
from .weights.load import (
    RANDOM as RANDOM,
    Weights as Weights,
    load_weights as load_weights,
    missing_weights_message as missing_weights_message,
    weights_path as weights_path,
)
