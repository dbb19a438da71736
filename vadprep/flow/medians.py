"""The median of 5x5 or 3x3 pixels."""

from __future__ import annotations

from numba import i8, void

from vadprep.flow.cpu_planes import LANES, LEFT, PLANE, TILE, U, loop

_COLUMN = TILE + LANES
"""Numbers between two rows of sorted columns."""


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
            plane[U(r0) + k],
            plane[U(r1) + k],
            plane[U(r2) + k],
            plane[U(r3) + k],
            plane[U(r4) + k],
        )
        column[k] = a
        column[k + U(_COLUMN)] = b
        column[k + U(2 * _COLUMN)] = c
        column[k + U(3 * _COLUMN)] = d
        column[k + U(4 * _COLUMN)] = e


@loop()
def _rank(column, k):
    return _sorted5(
        column[k],
        column[k + U(1)],
        column[k + U(2)],
        column[k + U(3)],
        column[k + U(4)],
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


@loop()
def _repeat_edges(plane, height, width, stride):
    """Repeat the first and last column twice beyond the image."""
    for y in range(height):
        at = (y + 1) * stride + LEFT
        for k in range(1, 3):
            plane[at - k] = plane[at]
            plane[at + width - 1 + k] = plane[at + width - 1]


@loop(void(PLANE, PLANE, PLANE, i8, i8, i8, i8))
def median(plane, out, column, size, height, width, stride):
    """Write to ``out`` the median of the ``size`` x ``size`` pixels around each of ``plane``.

    ``size`` is 3 or 5; outside the image the nearest pixel counts. ``column`` is scratch.
    """
    _repeat_edges(plane, height, width, stride)
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
