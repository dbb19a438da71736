from .compute import TVL1 as TVL1, tvl1 as tvl1
from .gpu import tvl1_cuda as tvl1_cuda
from .image_files import NO_FLOW_KIND as NO_FLOW_KIND
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
from .saved import FORMATS as FORMATS, SavedFlow as SavedFlow
