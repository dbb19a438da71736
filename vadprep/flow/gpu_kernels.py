"""Triton kernels of TV-L1: every pair of frames walks through its warps at its own pace.

A pair's row of ``state`` says what it does next, and how far it is in the three loops that the
algorithm nests: warps, medians of a warp, iterations between two medians. ``prepare`` warps and
filters, ``iterate`` makes one iteration, ``advance`` adds up the squared updates of its tiles and
moves the pair on. Each returns at once for a pair that is elsewhere or done, so the host launches
them in one fixed order and need not know who has converged.

Arrays of one scale, contiguous, a plane being [height, width]:

    images     float32 [pair + 1, plane]          grey levels; pair i is of frames i and i + 1
    gradients  float32 [pair, 2, plane]           of a pair's second frame, along x, along y
    flows      float32 [pair, 2 turns, 2, plane]  u, v; read in one turn, written in the other
    duals      float32 [pair, 2 turns, 4, plane]  p11, p12, p21, p22; likewise
    warped     float32 [pair, 3, plane]           the residual's constant part, Ix, Iy
    errors     float32 [pair, tile]               squared updates, added up over a tile
    state      int32   [pair, STATE]

The dual update is put off to the iteration that follows. Within the order of the paper, the new p
of a pixel needs the new u of two neighbours, with two more thresholdings; across it, the new u
needs the new p of two neighbours: 27 loads a pixel instead of 35, and one thresholding. No sum is
made with atomics, so no bit depends on the order of blocks or on the other pairs.
"""

from __future__ import annotations

import triton
import triton.language as tl

STATE = tl.constexpr(5)
"""Integers of a pair, at the five places that follow."""
TODO = tl.constexpr(0)
WARPS = tl.constexpr(1)
MEDIANS = tl.constexpr(2)
INNER = tl.constexpr(3)
ITERATIONS = tl.constexpr(4)
"""What is next; warps finished; medians used up in this warp; iterations since the last median;
iterations at this scale, whose parity is the turn to read."""

ITERATE = tl.constexpr(0)
FILTER = tl.constexpr(1)
WARP = tl.constexpr(2)
DONE = tl.constexpr(3)
"""What can be next. A warp is followed by a median at once."""

EPSILON = tl.constexpr(1.1920929e-07)  # of float32; a squared gradient up to it counts as none

TALL = tl.constexpr(32)
COLUMNS = tl.constexpr(32)
"""Rows and columns of a tile, the work of a program of 4 warps. Many small programs would take
long just to see that their pair is done."""
ROWS = tl.constexpr(8)
"""Rows of a tile worked on at a time: 2 pixels a thread, which take 80 to 96 registers."""

LEAVE = ["height", "width"]
"""Arguments no kernel is specialised for. For a width that 16 divides Triton would load four
pixels a thread, and loads of neighbours, which cannot be that wide, would each touch four times
the cache lines they need."""


def exchanges(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs of places to put in order, one by one, which leaves the median at ``count // 2``.

    Of ``count // 2 + 2`` values neither the least nor the greatest is the median of all ``count``
    (odd): they are put aside and another value joins, until one is left.
    """
    live = list(range(count // 2 + 2))
    found: list[tuple[int, int]] = []
    for joining in range(len(live), count + 1):
        half = len(live) // 2
        found += zip(live[:half], live[::-1], strict=False)
        found += [(live[0], place) for place in live[1 : len(live) - half]]
        found += [(place, live[-1]) for place in live[half:-1]]
        live = live[1:-1] + [joining] * (joining < count)
    assert live == [count // 2]
    return tuple(found)


@triton.jit
def _median(plane, y, x, height, width, SIDE: tl.constexpr, ORDER: tl.constexpr):
    """Median of a SIDE x SIDE window, beyond the border its pixels again."""
    values: tl.tuple = ()
    for place in tl.static_range(SIDE * SIDE):
        row = tl.minimum(tl.maximum(y + (place // SIDE - SIDE // 2), 0), height - 1)
        column = tl.minimum(tl.maximum(x + (place % SIDE - SIDE // 2), 0), width - 1)
        values = values + (tl.load(plane + row * width + column),)
    for step in tl.static_range(len(ORDER)):
        low = tl.minimum(values[ORDER[step][0]], values[ORDER[step][1]])
        high = tl.maximum(values[ORDER[step][0]], values[ORDER[step][1]])
        values = values[: ORDER[step][0]] + (low,) + values[ORDER[step][0] + 1 :]
        values = values[: ORDER[step][1]] + (high,) + values[ORDER[step][1] + 1 :]
    return values[SIDE * SIDE // 2]


@triton.jit
def _cubic(fraction):
    """The four weights of cubic convolution with a = -0.75."""
    far = 1 + fraction
    near = 1 - fraction
    first = ((-0.75 * far + 3.75) * far - 6) * far + 3
    second = (1.25 * fraction - 2.25) * fraction * fraction + 1
    third = (1.25 * near - 2.25) * near * near + 1
    return first, second, third, 1 - first - second - third


@triton.jit
def _linearise(flow, images, gradients, warped, y, x, height, width):
    """Store the residual at a flow: its slopes, and what it is without flow.

    The second image and its gradients are taken at [ROWS, COLUMNS] fractional places, zero outside:
    at the very place, as in OpenCV 5; older ones rounded it to 1/32 px.
    """
    plane = height * width
    inside = (y < height) & (x < width)
    here = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)
    u = tl.load(flow + here)
    v = tl.load(flow + plane + here)
    # The clamp changes nothing, as four pixels out all is zero, but keeps the integers in range.
    to_y = tl.minimum(tl.maximum(y + v, -4.0), height + 4.0)
    to_x = tl.minimum(tl.maximum(x + u, -4.0), width + 4.0)
    top = tl.floor(to_y)
    left = tl.floor(to_x)
    down = _cubic(to_y - top)
    across = _cubic(to_x - left)
    value = tl.zeros_like(to_y)
    slope_x = tl.zeros_like(to_y)
    slope_y = tl.zeros_like(to_y)
    for tap in tl.static_range(16):
        row = top.to(tl.int32) + (tap // 4 - 1)
        column = left.to(tl.int32) + (tap % 4 - 1)
        is_there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = row * width + column
        weight = down[tap // 4] * across[tap % 4]
        value += weight * tl.load(images + plane + at, mask=is_there, other=0.0)
        slope_x += weight * tl.load(gradients + at, mask=is_there, other=0.0)
        slope_y += weight * tl.load(gradients + plane + at, mask=is_there, other=0.0)
    constant = value - slope_x * u - slope_y * v - tl.load(images + here)
    tl.store(warped + here, constant, mask=inside)
    tl.store(warped + plane + here, slope_x, mask=inside)
    tl.store(warped + 2 * plane + here, slope_y, mask=inside)


@triton.jit(do_not_specialize=LEAVE)
def prepare(
    state, images, gradients, flows, warped, height, width, SIDE: tl.constexpr, ORDER: tl.constexpr
):
    """Linearise the residual of pairs that are to warp, and filter the flow of these and others.

    The filtered flow goes where the next iteration will write: it reads a pixel's filtered flow
    at that pixel alone, and for the put-off dual update the unfiltered one around it.
    """
    pair = tl.program_id(2).to(tl.int64)
    todo = tl.load(state + pair * STATE + TODO)
    if (todo == ITERATE) | (todo == DONE):
        return
    turn = tl.load(state + pair * STATE + ITERATIONS) % 2
    plane = height * width
    flow = flows + (pair * 4 + turn * 2) * plane
    other = flows + (pair * 4 + (1 - turn) * 2) * plane
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    top = tl.program_id(1) * TALL
    for first in range(top, tl.minimum(top + TALL, height), ROWS):
        y = first + tl.arange(0, ROWS)[:, None]
        if todo == WARP:
            frames, slopes = images + pair * plane, gradients + pair * 2 * plane
            _linearise(flow, frames, slopes, warped + pair * 3 * plane, y, x, height, width)
        if SIDE > 1:
            inside = (y < height) & (x < width)
            for component in range(2):
                median = _median(flow + component * plane, y, x, height, width, SIDE, ORDER)
                tl.store(other + component * plane + y * width + x, median, mask=inside)


@triton.jit
def _shrinkage(slope_x, slope_y, step):
    """1 / (1 + step * length of the slope).

    By two reciprocal roots, which are one instruction each where a division takes six: within
    1e-6 of it.
    """
    square = slope_x * slope_x + slope_y * slope_y
    norm = 1 + step * (square * tl.rsqrt(tl.maximum(square, 1e-30)))
    return tl.rsqrt(norm * norm)


@triton.jit
def _dual_step(flow, p, places, plane, step):
    """New p1, p2 and their divergence, for one component of the flow."""
    at, at_left, at_right, at_up, at_up_right, at_down, at_down_left = places
    here = tl.load(flow + at)
    slope_x = tl.load(flow + at_right) - here
    slope_y = tl.load(flow + at_down) - here
    shrinkage = _shrinkage(slope_x, slope_y, step)
    p1 = (tl.load(p + at) + step * slope_x) * shrinkage
    p2 = (tl.load(p + plane + at) + step * slope_y) * shrinkage

    left = tl.load(flow + at_left)
    slope_x = here - left
    shrinkage = _shrinkage(slope_x, tl.load(flow + at_down_left) - left, step)
    left_p1 = (tl.load(p + at_left) + step * slope_x) * shrinkage

    up = tl.load(flow + at_up)
    slope_y = here - up
    shrinkage = _shrinkage(tl.load(flow + at_up_right) - up, slope_y, step)
    up_p2 = (tl.load(p + plane + at_up) + step * slope_y) * shrinkage

    along_x = p1 - tl.where(at_left == at, 0.0, left_p1)
    return p1, p2, along_x + (p2 - tl.where(at_up == at, 0.0, up_p2))


@triton.jit
def _iterated(flow, old, new, p, new_p, data, y, x, height, width, threshold, theta, step):
    """Squared updates of the flow's pixels, after a dual and a primal step are stored."""
    plane = height * width
    inside = (y < height) & (x < width)
    # Neighbours beyond the border repeat it, so differences across it are zero, as they should be.
    y, x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    row = y * width
    above = tl.maximum(y - 1, 0) * width
    below = tl.minimum(y + 1, height - 1) * width
    before = tl.maximum(x - 1, 0)
    after = tl.minimum(x + 1, width - 1)
    here = row + x
    places = here, row + before, row + after, above + x, above + after, below + x, below + before

    p11, p12, div_u = _dual_step(flow, p, places, plane, step)
    p21, p22, div_v = _dual_step(flow + plane, p + 2 * plane, places, plane, step)
    old_u = tl.load(old + here)
    old_v = tl.load(old + plane + here)
    constant = tl.load(data + here)
    slope_x = tl.load(data + plane + here)
    slope_y = tl.load(data + 2 * plane + here)
    # The flow nearest to the old one by the data term, residual |constant + slope * (u, v)|.
    square = slope_x * slope_x + slope_y * slope_y
    residual = constant + (slope_x * old_u + slope_y * old_v)
    bound = threshold * square
    inner = tl.where(square > EPSILON, -residual / tl.maximum(square, EPSILON), 0.0)
    factor = tl.where(residual > bound, -threshold, inner)
    factor = tl.where(residual < -bound, threshold, factor)
    u = old_u + factor * slope_x + theta * div_u
    v = old_v + factor * slope_y + theta * div_v
    tl.store(new + here, u, mask=inside)
    tl.store(new + plane + here, v, mask=inside)
    tl.store(new_p + here, p11, mask=inside)
    tl.store(new_p + plane + here, p12, mask=inside)
    tl.store(new_p + 2 * plane + here, p21, mask=inside)
    tl.store(new_p + 3 * plane + here, p22, mask=inside)
    return tl.where(inside, (u - old_u) * (u - old_u) + (v - old_v) * (v - old_v), 0.0)


@triton.jit(do_not_specialize=[*LEAVE, "furthest"])
def iterate(
    state, flows, duals, warped, errors, height, width, threshold, theta, step, furthest,
    SIDE: tl.constexpr,
):  # fmt: skip
    """One iteration of the pairs whose TODO is ``furthest`` or before it: dual, then primal.

    ``furthest`` is WARP after ``prepare``, which has done what was to be done before, and
    ITERATE elsewhere.
    """
    pair = tl.program_id(2).to(tl.int64)
    own = state + pair * STATE
    if tl.load(own + TODO) > furthest:
        return
    iterations = tl.load(own + ITERATIONS)
    turn = iterations % 2
    # p is zero at the start of a scale, and no dual update comes before the first primal one.
    step = tl.where(iterations == 0, 0.0, step)
    plane = height * width
    flow = flows + (pair * 4 + turn * 2) * plane
    new = flows + (pair * 4 + (1 - turn) * 2) * plane
    filtered = (tl.load(own + INNER) == 0) & (SIDE > 1)
    old = new if filtered else flow
    p = duals + (pair * 8 + turn * 4) * plane
    new_p = duals + (pair * 8 + (1 - turn) * 4) * plane
    data = warped + pair * 3 * plane

    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    top = tl.program_id(1) * TALL
    for first in range(top, tl.minimum(top + TALL, height), ROWS):
        y = first + tl.arange(0, ROWS)[:, None]
        squares += _iterated(
            flow, old, new, p, new_p, data, y, x, height, width, threshold, theta, step
        )
    tiles = tl.num_programs(0) * tl.num_programs(1)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(errors + pair * tiles + tile, tl.sum(squares))


@triton.jit(do_not_specialize=["furthest", "tiles", "inners", "medians", "warps"])
def advance(state, errors, tiles, least, inners, medians, warps, furthest, BLOCK: tl.constexpr):
    """Count the iteration that the pairs up to ``furthest`` made, and say what is next.

    A sum of squared updates not above ``least`` ends the warp.
    """
    pair = tl.program_id(0).to(tl.int64)
    own = state + pair * STATE
    if tl.load(own + TODO) > furthest:
        return
    place = tl.arange(0, BLOCK)
    error = tl.sum(tl.load(errors + pair * tiles + place, mask=place < tiles, other=0.0))
    inner = tl.load(own + INNER) + 1
    median = tl.load(own + MEDIANS)
    warp = tl.load(own + WARPS)
    todo = ITERATE
    converged = (error <= least) | (error != error)
    if converged | (inner == inners):
        inner = 0
        median += 1
        todo = FILTER
    if converged | (median == medians):
        median = 0
        warp += 1
        todo = WARP
    if warp == warps:
        todo = DONE
    tl.store(own + TODO, todo)
    tl.store(own + WARPS, warp)
    tl.store(own + MEDIANS, median)
    tl.store(own + INNER, inner)
    tl.store(own + ITERATIONS, tl.load(own + ITERATIONS) + 1)
