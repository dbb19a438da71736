"""Interpolation: smaller and larger images, and the second frame warped by the flow."""

from __future__ import annotations

import numpy as np
from numba import f4, i4, i8, types, void

from vadprep.flow.cpu import BORDER, LEFT, ONE, PLANE, TILE, TINY, ZERO, U, loop

_A = np.float32(-0.75)
"""Constant of OpenCV's bicubic kernel."""

_HALF = np.float32(0.5)

AXIS = types.Tuple((i8[::1], f4[::1]))
POINTS = types.Tuple((types.UniTuple(i4[::1], 2), types.UniTuple(PLANE, 3)))


@loop(void(PLANE, PLANE, PLANE, AXIS, AXIS, i8, i8, f4))
def resize(source, out, line, rows, columns, stride, out_stride, factor):
    """Write ``factor`` times ``source``, bilinearly at ``rows`` and ``columns``, to ``out``.

    An axis is the first of two neighbours and the weight of the second, for each pixel.
    """
    first, weights = rows
    left, shares = columns
    for y in range(len(first)):
        at = (first[y] + 1) * stride + LEFT
        weight = weights[y]
        for x in range(left[-1] + 2):
            k = U(at) + U(x)
            line[x] = source[k] + weight * (source[k + U(stride)] - source[k])
        at = (y + 1) * out_stride + LEFT
        for x in range(len(left)):
            k = U(left[x])
            out[U(at + x)] = factor * (line[k] + shares[x] * (line[k + U(1)] - line[k]))


@loop(void(PLANE, PLANE, i8, i8, i8))
def with_gradients(source, image, height, width, stride):
    """Fill ``image`` for ``warp`` with a plane and its central differences.

    On the border the difference to the pixel itself is halved as well, as OpenCV has it.
    """
    for y in range(height):
        up = U((max(y - 1, 0) + 1) * stride + LEFT)
        here = U((y + 1) * stride + LEFT)
        down = U((min(y + 1, height - 1) + 1) * stride + LEFT)
        for x in range(width):
            before = here + U(max(x - 1, 0))
            after = here + U(min(x + 1, width - 1))
            k = U(x)
            pixel = U(4 * ((y + BORDER) * (width + 2 * BORDER) + x + BORDER))
            image[pixel] = source[here + k]
            image[pixel + U(1)] = _HALF * (source[after] - source[before])
            image[pixel + U(2)] = _HALF * (source[down + k] - source[up + k])


@loop()
def _place(move, first, weights, at, columns, start, step, size):
    """Where a row of points start + x step + move[x] lies on an axis of ``size`` pixels.

    Writes the place of the first of its four neighbours in an image with BORDER to ``first``,
    and to ``weights`` [4, columns] their weights (Keys 1981), -1 to 2 pixels from the floor.
    """
    outside = np.float32(1 - BORDER)
    for x in range(columns):
        k = U(x)
        place = start + step * np.float32(x) + move[U(at) + k] - outside
        place = min(max(place, ZERO), np.float32(size + BORDER))
        floor = np.int32(place)
        t = place - np.float32(floor)
        s = ONE - t
        w0 = _A * t * s * s
        w1 = ((_A + np.float32(2)) * t - (_A + np.float32(3))) * t * t + ONE
        w2 = ((_A + np.float32(2)) * s - (_A + np.float32(3))) * s * s + ONE
        weights[k] = w0
        weights[k + U(TILE)] = w1
        weights[k + U(2 * TILE)] = w2
        weights[k + U(3 * TILE)] = ONE - w0 - w1 - w2
        first[x] = floor


@loop(in_order=True)
def _neighbours(image, k, w0, w1, w2, w3):
    """Weighted sums of four pixels in a row, of all four channels."""
    return (
        w0 * image[k] + w1 * image[k + U(4)] + w2 * image[k + U(8)] + w3 * image[k + U(12)],
        w0 * image[k + U(1)] + w1 * image[k + U(5)] + w2 * image[k + U(9)] + w3 * image[k + U(13)],
        w0 * image[k + U(2)] + w1 * image[k + U(6)] + w2 * image[k + U(10)] + w3 * image[k + U(14)],
        w0 * image[k + U(3)] + w1 * image[k + U(7)] + w2 * image[k + U(11)] + w3 * image[k + U(15)],
    )


@loop(in_order=True)
def _interpolate(image, line, left, top, wx, wy, out, columns):
    """Write the four channels of a row of points to ``out`` [columns, 4], flat.

    LLVM turns the four sums into one vector of four: an instruction a neighbour.
    """
    for x in range(columns):
        c = U(x)
        k = U(4) * (U(top[x]) * U(line) + U(left[x]))
        w0, w1, w2, w3 = wx[c], wx[c + U(TILE)], wx[c + U(2 * TILE)], wx[c + U(3 * TILE)]
        row = U(4 * line)
        a0, b0, c0, d0 = _neighbours(image, k, w0, w1, w2, w3)
        a1, b1, c1, d1 = _neighbours(image, k + row, w0, w1, w2, w3)
        a2, b2, c2, d2 = _neighbours(image, k + row + row, w0, w1, w2, w3)
        a3, b3, c3, d3 = _neighbours(image, k + row + row + row, w0, w1, w2, w3)
        w0, w1, w2, w3 = wy[c], wy[c + U(TILE)], wy[c + U(2 * TILE)], wy[c + U(3 * TILE)]
        out[U(4) * c] = w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3
        out[U(4) * c + U(1)] = w0 * b0 + w1 * b1 + w2 * b2 + w3 * b3
        out[U(4) * c + U(2)] = w0 * c0 + w1 * c1 + w2 * c2 + w3 * c3
        out[U(4) * c + U(3)] = w0 * d0 + w1 * d1 + w2 * d2 + w3 * d3


@loop()
def _linearise(found, reference, u, v, fields, at, columns):
    """Spread interpolated pixels [columns, 4] over the planes of the data term."""
    ix, iy, rho, inverse = fields
    for x in range(columns):
        ix[U(at) + U(x)] = found[U(4) * U(x) + U(1)]
        iy[U(at) + U(x)] = found[U(4) * U(x) + U(2)]
    for x in range(columns):
        k = U(at) + U(x)
        rho[k] = found[U(4) * U(x)] - ix[k] * u[k] - iy[k] * v[k] - reference[k]
    for x in range(columns):
        k = U(at) + U(x)
        inverse[k] = ONE / max(ix[k] * ix[k] + iy[k] * iy[k], TINY)


@loop(void(PLANE, PLANE, PLANE, PLANE, types.UniTuple(PLANE, 4), POINTS, i8, i8, i8))
def warp(image, reference, u, v, fields, points, height, width, stride):
    """Linearise the brightness difference around the flow (u, v).

    ``image`` [height + 2 BORDER, width + 2 BORDER, 4], flat, holds the second frame, its
    gradients in x and y, and nothing, so that one pass over 4x4 neighbours interpolates all.
    Writes to ``fields`` the warped gradients, the part of the difference to ``reference`` that
    does not depend on the flow, and 1 / |gradient|^2. ``points`` is scratch.
    """
    (left, top), (wx, wy, found) = points
    for y in range(height):
        for x in range(0, width, TILE):
            columns = min(TILE, width - x)
            at = (y + 1) * stride + LEFT + x
            _place(u, left, wx, at, columns, np.float32(x), ONE, width)
            _place(v, top, wy, at, columns, np.float32(y), ZERO, height)
            _interpolate(image, width + 2 * BORDER, left, top, wx, wy, found, columns)
            _linearise(found, reference, u, v, fields, at, columns)
