"""How planes lie in memory, and how their loops are compiled.

Planes are flat float32 arrays of rows ``stride`` apart, with one row above the image, one below,
and ``LEFT`` columns before it, so that no loop asks where the border is. Loops run over whole
vectors of ``LANES`` columns, past the last column of the image: what is computed there is
finite, and never read.

Two things decide the speed. Indices are unsigned (``U``), because numba would otherwise look for
negative ones and LLVM would give up on vectors. And a loop names few arrays, since LLVM compares
their addresses before it trusts a vector, and gives up above eight comparisons: so a row passes
through several short loops while it is in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import f4, njit

LANES = 16
LEFT = 16
"""Columns before the image in each row of a plane: a cache line, as are LANES columns."""

BORDER = 4
"""Pixels of zero around an image that is warped: what lies outside counts as black."""

TILE = 512
"""Columns of a row that are worked on at a time, so that scratch stays in the nearest cache."""

PLANE = f4[::1]
"""Numba's type of a plane, or of any flat array of float32."""

TINY = np.float32(1e-30)
"""Keeps roots and quotients off zero and off denormal numbers, which cost a hundred cycles."""

ZERO = np.float32(0)
ONE = np.float32(1)
U = np.uintp

_FAST = {"nnan", "ninf", "nsz", "arcp", "contract", "reassoc"}


def loop(*signature: Any, in_order: bool = False) -> Callable[..., Any]:
    """Decorator of a compiled loop; nothing in it may be NaN or infinite.

    Sums are taken in any order, unless ``in_order``. With a signature the loop is compiled, or
    read from numba's cache, at once.
    """
    fastmath = _FAST - {"reassoc"} if in_order else _FAST
    compiler: Any = njit
    made: Callable[..., Any] = compiler(
        *signature, fastmath=fastmath, error_model="numpy", nogil=True, cache=True
    )
    return made
