from .compute import tvl1 as tvl1, usable_cores as usable_cores
from .gpu import counted_tvl1_cuda as counted_tvl1_cuda, iteration_bytes as iteration_bytes
from .pyramid import TVL1 as TVL1
from .quantise import (
    QUANTISE as QUANTISE,
    ComputedFlow as ComputedFlow,
    FlowImages as FlowImages,
    FlowMethod as FlowMethod,
    FlowSource as FlowSource,
    Quantisation as Quantisation,
    grey_of as grey_of,
    tvl1_method as tvl1_method,
)
from .saved import KINDS as KINDS, NO_FLOW_KIND as NO_FLOW_KIND, SavedFlow as SavedFlow
