"""The loop that resizes frames on a CPU, compiled by numba. Import through ``resize.loop()``.

It takes frames as they are, three bytes a pixel, and makes no more than is asked for. The four
bytes from a pixel on are one vector: the sums of its three channels, and one that the next pixel
overwrites. That takes a third of the time of three sums. Short functions let LLVM see that the
arrays of a loop do not overlap, so that it computes sixteen sums at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import i4, njit, types, u1, uintp, void
from numba.core import cgutils
from numba.extending import intrinsic

U = np.uintp
"""Indices are unsigned: numba would look for negative ones at each step."""
LANES = 4
"""Numbers that are read and written from each pixel on, one more than its channels."""

_INT = ir.IntType(32)
_BYTES, _INTS = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(_INT, LANES)
_UNDEFINED = ir.Constant(_INTS, ir.Undefined)


@intrinsic
def _pixel(context, row, at, weights, place, shift, wide, to):
    """Write the pixel of an output row that begins at byte ``to``.

    It is the sum over taps of weights[place, tap] times the pixel of ``row`` at byte at + 3 tap,
    rounded by ``shift`` bits; in an output of bytes it is kept from 0 to 255.
    """
    return types.void(row, at, weights, place, shift, wide, to), _emit_pixel


def _emit_pixel(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    at, place, shift, to = (arguments[i] for i in (1, 3, 4, 6))

    def array(index: int) -> Any:
        proxy = cgutils.create_struct_proxy(signature.args[index])
        return proxy(context, builder, value=arguments[index])

    def spread(number: Any) -> Any:
        first = builder.insert_element(_UNDEFINED, number, _INT(0))
        return builder.shuffle_vector(first, _UNDEFINED, ir.Constant(_INTS, [0] * LANES))

    def pointer(of: Any, index: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(of.data, [index]), kind.as_pointer())

    source, filters, target = array(0), array(2), array(5)
    taps = cgutils.unpack_tuple(builder, filters.shape)[1]
    first_weight = builder.mul(place, taps)
    one, bits = ir.Constant(_INTS, [1] * LANES), spread(shift)
    sums = cgutils.alloca_once_value(builder, builder.lshr(builder.shl(one, bits), one))
    with cgutils.for_range(builder, taps) as loop:
        byte = builder.add(at, builder.mul(loop.index, loop.index.type(3)))
        pixel = builder.zext(builder.load(pointer(source, byte, _BYTES), align=1), _INTS)
        index = builder.add(first_weight, loop.index)
        weight = spread(builder.load(builder.gep(filters.data, [index])))
        builder.store(builder.add(builder.load(sums), builder.mul(pixel, weight)), sums)
    total = builder.ashr(builder.load(sums), bits)
    if signature.args[5].dtype == u1:
        for sign, value in (("<", 0), (">", 255)):
            bound = ir.Constant(_INTS, [value] * LANES)
            total = builder.select(builder.icmp_signed(sign, total, bound), bound, total)
        builder.store(builder.trunc(total, _BYTES), pointer(target, to, _BYTES), align=1)
    else:
        builder.store(total, pointer(target, to, _INTS), align=4)
    return context.get_dummy_value()


@njit(error_model="numpy")
def _copy(row, source):
    for x in range(len(source)):
        row[x] = source[x]


@njit(error_model="numpy")
def _fill(sums, number):
    for x in range(len(sums)):
        sums[x] = number


@njit(error_model="numpy")
def _add(sums, line, weight):
    for x in range(len(sums)):
        sums[x] += weight * np.int32(line[x])


@njit(error_model="numpy")
def _finish(out, sums, shift):
    for x in range(len(out)):
        out[x] = min(max(sums[x] >> shift, 0), 255)


def _read(kind, axes):
    return types.Array(kind, axes, "C", readonly=True)


_TAPS = _read(uintp, 1), _read(i4, 2)


@njit(
    [
        void(_read(u1, 3), *_TAPS, *_TAPS, i4, i4, between[:, ::1], u1[:, :, ::1])
        for between in (u1, i4)
    ],
    nogil=True,
    error_model="numpy",
    cache=True,
)
def resize_frames(
    frames, left, column_weights, above, row_weights, shift, end_shift, wide, resized
):
    """Write to ``resized`` [n, h, 3 w] frames [n, H, 3 W]; ``wide`` [H, 3 w + 1] is
    for the first pass.

    ``left`` [w] and ``above`` [h] are the first taps, the weights are [w, taps] and [h, taps].
    The first pass is rounded by ``shift`` bits, the second by ``end_shift`` bits. What are bytes
    are kept from 0 to 255.
    """
    height, width, num_rows = U(len(above)), U(len(left)), U(row_weights.shape[1])
    half = np.int32((1 << end_shift) >> 1)
    top = bottom = above[0]
    for y in range(height):
        top, bottom = min(top, above[y]), max(bottom, above[y] + num_rows)
    row = np.zeros(frames.shape[2] + 1, np.uint8)  # so that the last pixel has four bytes, too
    sums = np.empty(resized.shape[2], np.int32)
    for number in range(U(len(frames))):
        for y in range(top, bottom):
            _copy(row, frames[number, y])
            target = wide[y]
            for x in range(width):
                at, to = U(3) * left[x], U(3) * x
                _pixel(row, at, column_weights, x, shift, target, to)
        for y in range(height):
            _fill(sums, half)
            for tap in range(num_rows):
                _add(sums, wide[above[y] + tap], row_weights[y, tap])
            _finish(resized[number, y], sums, end_shift)
