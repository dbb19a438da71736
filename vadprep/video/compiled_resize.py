"""Frames resized on the CPU by a loop that numba compiles: the sums of Pillow, to the bit.

Pillow converts each frame to four bytes a pixel and back, and always makes whole pictures. This
loop takes frames as they are and makes no more than is asked for: for the centre crop it takes a
quarter of Pillow's time (measured, 180 to 720 lines).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.crops import Taps
from vadprep.core.log import get_logger
from vadprep.core.numba_settings import numba_settings
from vadprep.core.resources import cache_folder

_LOG = get_logger(__name__)

U = np.uintp
"""Indices are unsigned: numba would look for negative ones at each step."""

Loop = Callable[..., None]


class CompiledResize:
    """Frames uint8 [n, H, W, 3] to [n, h, w, 3] by weighted sums, horizontal pass first.

    ``rows`` and ``columns`` are the taps of the output's h rows and w columns. With
    ``rounds_between`` the first pass is rounded to uint8, as Pillow does.
    """

    def __init__(self, rows: Taps, columns: Taps, rounds_between: bool, loop: Loop) -> None:
        self._rows = rows.first.astype(U), np.ascontiguousarray(rows.fixed)
        self._columns = columns.first.astype(U), np.ascontiguousarray(columns.fixed.T)
        self._shape = len(rows.first), len(columns.first), 3
        between, end = (
            (columns.bits, rows.bits) if rounds_between else (0, columns.bits + rows.bits)
        )
        self._rounding = between, 255 if rounds_between else 2**30, end
        self._loop = loop

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [n, h, w, 3]; shares no memory with ``frames``."""
        resized = np.empty((len(frames), *self._shape), np.uint8)
        wide = np.empty((frames.shape[1], 3 * self._shape[1]), np.int32)
        frames = np.ascontiguousarray(frames)
        self._loop(frames, *self._columns, *self._rows, *self._rounding, wide, resized)
        return resized


@cache
def resize_loop() -> Loop | None:
    """The compiled loop; None where numba is not installed or does not compile.

    The first call on a machine takes some seconds, later ones read the machine code from the
    cache folder. Its sums are of whole numbers: other machine code gives the same bytes.
    """
    folder = cache_folder() / "numba"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        import numba

        if vars(numba.config)["DISABLE_JIT"]:
            return None
        with numba_settings(CACHE_DIR=str(folder)):
            try:
                return _compiled(cache=True)
            except (RuntimeError, OSError):  # no folder for the cache can be written
                return _compiled(cache=False)
    except Exception as error:  # numba raises whatever it meets
        _LOG.info("frames are resized by Pillow, which is slower: numba: %s", error)
        return None


def _compiled(cache: bool) -> Loop:
    from numba import i4, njit, types, u1, uintp, void

    def read(kind: Any, axes: int) -> Any:
        return types.Array(kind, axes, "C", readonly=True)

    taps = read(uintp, 1), read(i4, 2)
    signature = void(read(u1, 4), *taps, *taps, i4, i4, i4, i4[:, ::1], u1[:, :, :, ::1])
    loop: Loop = njit(signature, nogil=True, error_model="numpy", cache=cache)(_resize)
    return loop


def _resize(frames, left, column_weights, above, row_weights, between, most, end, wide, resized):  # type: ignore[no-untyped-def]
    """Write to ``resized`` [n, h, w, 3]; ``wide`` [H, 3w] is for the first pass.

    ``left`` [w] and ``above`` [h] are the first taps, the weights are [taps, w] and [h, taps].
    The first pass is rounded by ``between`` bits and not above ``most``, the second by ``end``.
    """
    height, width = U(resized.shape[1]), U(resized.shape[2])
    num_columns, num_rows = U(len(column_weights)), U(row_weights.shape[1])
    half, final_half = np.int32((1 << between) >> 1), np.int32((1 << end) >> 1)
    top = bottom = above[0]
    for y in range(height):
        top, bottom = min(top, above[y]), max(bottom, above[y] + num_rows)
    sums = np.empty(wide.shape[1], np.int32)
    for number in range(U(len(frames))):
        for y in range(top, bottom):
            for x in range(width):
                red = green = blue = half
                at = left[x]
                for tap in range(num_columns):
                    weight = column_weights[tap, x]
                    red += weight * np.int32(frames[number, y, at, U(0)])
                    green += weight * np.int32(frames[number, y, at, U(1)])
                    blue += weight * np.int32(frames[number, y, at, U(2)])
                    at += U(1)
                place = U(3) * x
                wide[y, place] = min(max(red >> between, 0), most)
                wide[y, place + U(1)] = min(max(green >> between, 0), most)
                wide[y, place + U(2)] = min(max(blue >> between, 0), most)
        rows = resized[number].reshape((resized.shape[1], wide.shape[1]))
        for y in range(height):
            for x in range(U(len(sums))):
                sums[x] = final_half
            for tap in range(num_rows):
                weight, source = row_weights[y, tap], above[y] + tap
                for x in range(U(len(sums))):
                    sums[x] += weight * wide[source, x]
            for x in range(U(len(sums))):
                rows[y, x] = min(max(sums[x] >> end, 0), 255)
