from .backbone import (
    AdaptiveBatch as AdaptiveBatch,
    Backbone as Backbone,
    Network as Network,
    check_precision as check_precision,
    free_device_memory as free_device_memory,
    has_cpu_bf16 as has_cpu_bf16,
    tf32_only_if as tf32_only_if,
)
from .engine import (
    check_engine as check_engine,
    engine_of as engine_of,
    try_engine as try_engine,
)
from .gpu_form import conv3d_fault as conv3d_fault
from .graphs import (
    GRAPHS as GRAPHS,
    SCALINGS as SCALINGS,
    build as build,
    graph_of as graph_of,
    scaling_of as scaling_of,
    with_weights as with_weights,
)
from .prompts import (
    text_embeddings as text_embeddings,
    write_prompts as write_prompts,
)
from .weights.catalog import stored_weights as stored_weights
from .weights.load import (
    RANDOM as RANDOM,
    Weights as Weights,
    load_weights as load_weights,
    missing_weights_message as missing_weights_message,
    weights_path as weights_path,
)
