"""The iterations of TV-L1 on one scale, and its median filter. Import through ``cpu.loops()``."""

from __future__ import annotations

import math

import numpy as np
from numba import f4, i8, types, void

from vadprep.flow.cpu import LANES, LEFT, ONE, PLANE, TILE, TINY, ZERO, U, loop
from vadprep.flow.cpu_warping import POINTS, resize, warp, with_gradients

__all__ = ["resize", "solve", "with_gradients"]

_GREAT = np.float32(3e38)

_COLUMN = TILE + LANES
"""Numbers between two rows of sorted columns."""


@loop()
def _thresholded(ix, iy, rho, inverse, u, v, step, at, columns, limit):
    """Write to ``step`` by how many gradients (u, v) moves along a row (Zach et al., eq. 15).

    -rho / |grad|^2, at most ``limit`` = lambda theta either way.
    """
    for x in range(columns):
        k = U(at) + U(x)
        move = -(rho[k] + ix[k] * u[k] + iy[k] * v[k]) * inverse[k]
        step[x] = min(max(move, -limit), limit)


@loop()
def _primal(u, gradient, step, px, py, inside, at, columns, stride, theta):
    """Update a row of ``u`` (eq. 14): the sum of its squared changes inside the image."""
    error = ZERO
    for x in range(columns):
        k = U(at) + U(x)
        divergence = (px[k] - px[k - U(1)]) + (py[k] - py[k - U(stride)])
        change = step[x] * gradient[k] + theta * divergence
        u[k] += change
        error += inside[x] * change * change
    return error


@loop()
def _dual(u, px, py, at, columns, stride, taut):
    """Update a row of the dual variable (px, py) of ``u`` (eq. 13)."""
    for x in range(columns):
        k = U(at) + U(x)
        ux = u[k + U(1)] - u[k]
        uy = u[k + U(stride)] - u[k]
        shrink = ONE / (ONE + taut * np.float32(math.sqrt(TINY + ux * ux + uy * uy)))
        px[k] = (px[k] + taut * ux) * shrink
        py[k] = (py[k] + taut * uy) * shrink


@loop()
def _iterate(fields, u, v, height, width, stride, inside, step, limit, theta, taut):
    """One iteration in place: the sum of the squared updates of ``u`` and ``v``.

    The dual of a row follows once the row below has its new flow, while both are in the cache.
    """
    ix, iy, rho, inverse, p11, p12, p21, p22 = fields
    columns = (width + LANES - 1) // LANES * LANES
    error = ZERO
    for y in range(height):
        at = (y + 1) * stride + LEFT
        _thresholded(ix, iy, rho, inverse, u, v, step, at, columns, limit)
        error += _primal(u, ix, step, p11, p12, inside, at, columns, stride, theta)
        error += _primal(v, iy, step, p21, p22, inside, at, columns, stride, theta)
        u[at + width] = u[at + width - 1]
        v[at + width] = v[at + width - 1]
        if y:
            _dual(u, p11, p12, at - stride, columns, stride, taut)
            _dual(v, p21, p22, at - stride, columns, stride, taut)
    at = height * stride + LEFT
    for k in range(at, at + columns + 1):
        u[k + stride] = u[k]
        v[k + stride] = v[k]
    _dual(u, p11, p12, at, columns, stride, taut)
    _dual(v, p21, p22, at, columns, stride, taut)
    return error


@loop()
def _sorted2(a, b):
    return min(a, b), max(a, b)


@loop()
def _sorted5(a, b, c, d, e):
    """Five numbers in ascending order, by nine comparisons."""
    a, b = _sorted2(a, b)
    d, e = _sorted2(d, e)
    c, e = _sorted2(c, e)
    c, d = _sorted2(c, d)
    b, e = _sorted2(b, e)
    a, d = _sorted2(a, d)
    a, c = _sorted2(a, c)
    b, d = _sorted2(b, d)
    b, c = _sorted2(b, c)
    return a, b, c, d, e


@loop()
def _sort_columns(plane, column, rows, columns):
    """Sort the five pixels above each other at the five ``rows`` of a plane, for each column."""
    r0, r1, r2, r3, r4 = rows
    for x in range(columns):
        k = U(x)
        a, b, c, d, e = _sorted5(
            plane[U(r0) + k], plane[U(r1) + k], plane[U(r2) + k], plane[U(r3) + k], plane[U(r4) + k]
        )
        column[k] = a
        column[k + U(_COLUMN)] = b
        column[k + U(2 * _COLUMN)] = c
        column[k + U(3 * _COLUMN)] = d
        column[k + U(4 * _COLUMN)] = e


@loop()
def _rank(column, k):
    return _sorted5(
        column[k], column[k + U(1)], column[k + U(2)], column[k + U(3)], column[k + U(4)]
    )


@loop()
def _median_row(column, out, at, columns):
    """Medians of 5x5 pixels whose columns are sorted, from column x to x + 4.

    Sorting the rows as well leaves the columns sorted. Of that square the median can only be
    on the diagonal from top right to bottom left, the greatest of the next diagonal above, or
    the least of the one below: any other has more than twelve above or below it.
    """
    for x in range(columns):
        k = U(x)
        _, _, _, a3, a4 = _rank(column, k)
        _, _, b2, b3, b4 = _rank(column, k + U(_COLUMN))
        _, c1, c2, c3, _ = _rank(column, k + U(2 * _COLUMN))
        d0, d1, d2, _, _ = _rank(column, k + U(3 * _COLUMN))
        e0, e1, _, _, _ = _rank(column, k + U(4 * _COLUMN))
        above = max(max(a3, b2), max(c1, d0))
        below = min(min(b4, c3), min(d2, e1))
        low, high = _sorted2(above, below)
        _, s1, s2, s3, _ = _sorted5(a4, b3, c2, d1, e0)
        out[U(at) + k] = min(s3, min(max(s2, low), max(s1, high)))


@loop()
def _median3_row(plane, out, rows, at, columns):
    """Medians of 3x3 pixels: of the greatest minimum, the middle median, the least maximum."""
    r0, r1, r2 = rows
    for x in range(columns):
        k = U(x)
        l0, l1, l2 = _sorted3(plane, r0, r1, r2, k)
        m0, m1, m2 = _sorted3(plane, r0, r1, r2, k + U(1))
        n0, n1, n2 = _sorted3(plane, r0, r1, r2, k + U(2))
        middle = max(min(l1, m1), min(max(l1, m1), n1))
        low, high = max(max(l0, m0), n0), min(min(l2, m2), n2)
        out[U(at) + k] = max(min(low, high), min(max(low, high), middle))


@loop()
def _sorted3(plane, r0, r1, r2, k):
    a, b = _sorted2(plane[U(r0) + k], plane[U(r1) + k])
    b, c = _sorted2(b, plane[U(r2) + k])
    a, b = _sorted2(a, b)
    return a, b, c


@loop(void(PLANE, PLANE, PLANE, i8, i8, i8, i8))
def median(plane, out, column, size, height, width, stride):
    """Write to ``out`` the median of the ``size`` x ``size`` pixels around each of ``plane``.

    ``size`` is 3 or 5; outside the image the nearest pixel counts. ``column`` is scratch.
    """
    for y in range(height):
        at = (y + 1) * stride + LEFT
        for k in range(1, 3):
            plane[at - k] = plane[at]
            plane[at + width - 1 + k] = plane[at + width - 1]
    for y in range(height):
        above2 = (max(y - 2, 0) + 1) * stride + LEFT
        above = (max(y - 1, 0) + 1) * stride + LEFT
        here = (y + 1) * stride + LEFT
        below = (min(y + 1, height - 1) + 1) * stride + LEFT
        below2 = (min(y + 2, height - 1) + 1) * stride + LEFT
        for x in range(0, width, TILE):
            columns = (min(TILE, width - x) + LANES - 1) // LANES * LANES
            if size == 3:
                rows = (above + x - 1, here + x - 1, below + x - 1)
                _median3_row(plane, out, rows, here + x, columns)
            else:
                k = x - 2
                _sort_columns(
                    plane, column, (above2 + k, above + k, here + k, below + k, below2 + k),
                    columns + 4,
                )  # fmt: skip
                _median_row(column, out, here + x, columns)


_settings = types.Tuple((f4, f4, f4, f4, i8, i8, i8, i8))
_scratch = types.Tuple((types.UniTuple(PLANE, 8), PLANE, PLANE, PLANE, PLANE, POINTS))


@loop(
    types.Tuple((PLANE, PLANE, PLANE, i8))(
        PLANE, PLANE, PLANE, PLANE, _scratch, i8, i8, i8, _settings
    )
)
def solve(image, reference, u, v, scratch, height, width, stride, settings):
    """Refine the flow (u, v) on one scale: (u, v, spare plane, iterations done).

    The planes trade places with their medians, so the flow may come back in others.
    """
    planes, spare, column, inside, step, points = scratch
    limit, theta, taut, stop, warps, inner, outer, size = settings
    ix, iy, rho, inverse, p11, p12, p21, p22 = planes
    for p in (p11, p12, p21, p22):
        p[:] = ZERO
    done = 0
    for _ in range(warps):
        warp(image, reference, u, v, (ix, iy, rho, inverse), points, height, width, stride)
        error = _GREAT
        rounds = 0
        while error > stop and rounds < outer:
            if size > 1:
                median(u, spare, column, size, height, width, stride)
                u, spare = spare, u
                median(v, spare, column, size, height, width, stride)
                v, spare = spare, v
            count = 0
            while error > stop and count < inner:
                error = _iterate(
                    planes, u, v, height, width, stride, inside, step, limit, theta, taut
                )
                count += 1
            done += count
            rounds += 1
    return u, v, spare, done
