"""TV-L1 optical flow of grey frames on the CPU (numba) or a GPU (Triton); its images and files."""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.flow.compute import tvl1, usable_cores
    from vadprep.flow.gpu import counted_tvl1_cuda, iteration_bytes
    from vadprep.flow.pyramid import TVL1
    from vadprep.flow.quantise import (
        QUANTISE,
        ComputedFlow,
        FlowImages,
        FlowMethod,
        FlowSource,
        Quantisation,
        grey_of,
        tvl1_method,
    )
    from vadprep.flow.saved import KINDS, NO_FLOW_KIND, SavedFlow

__all__ = [
    "KINDS",
    "NO_FLOW_KIND",
    "QUANTISE",
    "TVL1",
    "ComputedFlow",
    "FlowImages",
    "FlowMethod",
    "FlowSource",
    "Quantisation",
    "SavedFlow",
    "counted_tvl1_cuda",
    "grey_of",
    "iteration_bytes",
    "tvl1",
    "tvl1_method",
    "usable_cores",
]

__getattr__ = lazy(
    __name__,
    {
        "compute": ["tvl1", "usable_cores"],
        "gpu": ["counted_tvl1_cuda", "iteration_bytes"],
        "pyramid": ["TVL1"],
        "quantise": [
            *("QUANTISE", "ComputedFlow", "FlowImages", "FlowMethod", "FlowSource"),
            *("Quantisation", "grey_of", "tvl1_method"),
        ],
        "saved": ["KINDS", "NO_FLOW_KIND", "SavedFlow"],
    },
)
