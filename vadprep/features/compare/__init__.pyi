from .compare import (
    SAMPLE as SAMPLE,
    Comparison as Comparison,
    compare_features as compare_features,
)
