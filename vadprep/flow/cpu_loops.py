"""The iterations of TV-L1 on one scale. Import through ``compiled.loops()``."""

from __future__ import annotations

import math

import numpy as np
from numba import f4, i8, types

from vadprep.flow.cpu_planes import LANES, LEFT, ONE, PLANE, TINY, ZERO, U, loop
from vadprep.flow.cpu_warping import POINTS, resize, warp, with_gradients
from vadprep.flow.medians import median

__all__ = ["resize", "solve", "with_gradients"]

_GREAT = np.float32(3e38)


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
