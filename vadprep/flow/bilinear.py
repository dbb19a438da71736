"""Where the pixels of a bilinearly resized image lie in its source, as OpenCV places them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def axis(size: int, source_size: int, step: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each of ``size`` pixels the first of its two source pixels and the second's weight.

    Pixels are ``step`` source pixels apart, their centres at halves, and the edge is repeated:
    there the weight is 0 and the second pixel does not count. In float64 but for the weight.
    """
    place = (np.arange(size) + 0.5) * step - 0.5
    first = np.floor(place)
    between = (first >= 0) & (first < source_size - 1)
    weight = np.where(between, place - first, 0).astype(np.float32)
    return first.clip(0, source_size - 1).astype(np.int64), weight
