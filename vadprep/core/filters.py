"""Resize filters: the weights of Pillow's and OpenCV's, in whole numbers, and of torch's.

A frame is resized along its rows, then along its columns. Each pass is a sum of whole numbers,
which has the same value in any order on any device. So a filter gives the same bytes everywhere,
and neither Pillow nor OpenCV takes part. The filter of torch gives fractions: each is two products
and a sum in float32, which every device rounds alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vadprep.core.crops import Box
from vadprep.core.errors import allowed_are

Floats = NDArray[np.float64]
Size = tuple[int, int]
"""Height and width in px."""


@dataclass(frozen=True)
class Taps:
    """Resize weights along one axis.

    out[i] = sum over j of fixed[i, j] * in[first[i] + j] / 2**bits.
    """

    first: NDArray[np.int64]
    """[out]; first[i] + taps never passes the input."""
    fixed: NDArray[np.int32]
    """[out, taps], in units of 2**-bits."""
    bits: int

    def part(self, start: int, count: int) -> Taps:
        """The taps of ``count`` px of the output, from px ``start`` on."""
        stop = start + count
        return Taps(self.first[start:stop], self.fixed[start:stop], self.bits)


@dataclass(frozen=True)
class FrameTaps:
    """Resize weights of both axes, and what is rounded between the passes."""

    rows: Taps
    columns: Taps
    shift: int
    """Bits that are rounded away behind the first pass, along the rows of a frame; the second pass
    rounds away the rest. Halves are rounded up."""
    clamps: bool
    """The first pass gives bytes, as Pillow's does: all its bits are rounded away."""

    @property
    def end_shift(self) -> int:
        """Bits that are rounded away behind the second pass."""
        return self.columns.bits + self.rows.bits - self.shift

    def part(self, box: Box) -> FrameTaps:
        """The weights of the pixels in ``box`` of the output."""
        rows = self.rows.part(box.top, box.height)
        return replace(self, rows=rows, columns=self.columns.part(box.left, box.width))


def _cubic(x: Floats, a: float) -> Floats:
    """Keys 1981, equation 4, with its parameter ``a``."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


PIL_KERNELS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "pil-bilinear": (lambda x: np.maximum(1 - np.abs(x), 0.0), 1),
    "pil-bicubic": (lambda x: _cubic(x, -0.5), 2),
    "pil-lanczos": (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3),
    "pil-box": (lambda x: np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0), 0.5),
}
"""Kernel and its half width in px. Pillow stretches both when it makes a picture smaller."""

PIL_BITS, OPENCV_BITS = 32 - 8 - 2, 11
"""Binary places of the weights for 8-bit pictures."""
AREA_BITS, AREA_KEPT_BITS = (22, 16), 6
"""Of columns and rows in ``opencv-area``, where OpenCV computes in float32, and of a pixel between
the passes, behind the point."""

FILTERS = (*PIL_KERNELS, "opencv-bilinear", "opencv-cubic", "opencv-area")
"""Filters that give whole grey levels."""
FLOAT_FILTERS = ("torch-bilinear",)
"""Filters that give fractions of grey levels."""


def frame_taps(name: str, source: Size, target: Size) -> FrameTaps:
    """Weights that take a frame of ``source`` px to ``target`` px by a filter of FILTERS.

    Those of Pillow (``Image.resize``) widen the kernel when a picture gets smaller, which averages;
    they are Pillow's to the bit, the pass along the rows first. OpenCV's ``opencv-bilinear`` and
    ``opencv-cubic`` never average. ``opencv-area`` averages a picture that gets smaller along both
    axes; else it is bilinear, with edges as sharp as pixels. These are within one grey level of
    OpenCV, whose own paths round differently. Raises ValueError for an unknown filter.
    """
    if name not in FILTERS:
        raise ValueError(f"filter = {name!r}: {allowed_are(name, (*FILTERS, *FLOAT_FILTERS))}")
    sides = list(zip(source, target, strict=True))
    if name in PIL_KERNELS:
        rows, columns = (_pil_taps(name, *side) for side in sides)
        return FrameTaps(rows, columns, PIL_BITS, clamps=True)
    if name == "opencv-area" and all(one >= other for one, other in sides):
        rows, columns = (
            _fixed(*_coverage(*side), side[0], bits)
            for side, bits in zip(sides, AREA_BITS[::-1], strict=True)
        )
        return FrameTaps(rows, columns, AREA_BITS[0] - AREA_KEPT_BITS, clamps=False)
    weights = {"opencv-bilinear": _linear, "opencv-cubic": _four, "opencv-area": _sharp}[name]
    rows, columns = (_fixed(*weights(*side), side[0], OPENCV_BITS) for side in sides)
    return FrameTaps(rows, columns, 0, clamps=False)


@dataclass(frozen=True)
class LinearTaps:
    """Between which two pixels each output pixel lies along one axis.

    out[i] = (1 - behind[i]) * in[first[i]] + behind[i] * in[second[i]], in float32.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    behind: NDArray[np.float32]

    def part(self, start: int, count: int) -> LinearTaps:
        """The taps of ``count`` px of the output, from px ``start`` on."""
        some = slice(start, start + count)
        return LinearTaps(self.first[some], self.second[some], self.behind[some])


def linear_taps(source: Size, target: Size, one_step: bool) -> tuple[LinearTaps, LinearTaps]:
    """Weights of rows and columns of ``torch.nn.functional.interpolate``, bilinear.

    That is without averaging, halves of pixels counted (``align_corners=False``). With ``one_step``
    both axes go in the step of the shorter side, as by ``scale_factor`` with
    ``recompute_scale_factor=False``; else each by the quotient of its sides, as by ``size``.
    """
    steps = [np.float32(one / other) for one, other in zip(source, target, strict=True)]
    if one_step:
        steps = [steps[int(source[1] < source[0])]] * 2
    rows, columns = (_linear_taps(*axis) for axis in zip(source, target, steps, strict=True))
    return rows, columns


def _linear_taps(source: int, target: int, step: np.float32) -> LinearTaps:
    # Rounded once, as processors multiply and subtract in one step.
    exact = np.float64(step) * (np.arange(target) + 0.5) - 0.5
    place = np.maximum(exact, 0).astype(np.float32)
    first = np.minimum(place.astype(np.int64), source - 1)
    return LinearTaps(first, np.minimum(first + 1, source - 1), place - first.astype(np.float32))


def _pil_taps(name: str, source: int, target: int) -> Taps:
    if source == target:  # Pillow copies an axis that keeps its length
        return Taps(np.arange(target), np.full((target, 1), 1 << PIL_BITS, np.int32), PIL_BITS)
    kernel, half_width = PIL_KERNELS[name]
    ratio = source / target
    stretch = max(ratio, 1.0)
    support = half_width * stretch
    centre = (np.arange(target) + 0.5) * ratio
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + support + 0.5).astype(np.int64), source)
    columns = first[:, None] + np.arange(int((stop - first).max()))
    weights = kernel((columns - centre[:, None] + 0.5) * (1 / stretch))
    weights[columns >= stop[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    # Pillow rounds halves away from zero.
    fixed = np.copysign(np.floor(np.abs(weights) * (1 << PIL_BITS) + 0.5), weights)
    return _inside(first, fixed, source, PIL_BITS)


def _places(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """The pixel at or before the middle of each output pixel, and how far behind it that is.

    In float32, as OpenCV has it.
    """
    middle = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(middle)
    return first.astype(np.int64), (middle - first).astype(np.float64)


def _linear(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Columns [target, 2] and their weights."""
    first, behind = _places(source, target)
    return first[:, None] + np.arange(2), np.stack([1 - behind, behind], axis=1)


def _four(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Columns [target, 4] and their weights, by the cubic with a = -0.75."""
    first, behind = _places(source, target)
    steps = np.arange(-1, 3)
    return first[:, None] + steps, _cubic(steps - behind[:, None], -0.75)


def _sharp(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Columns [target, 2] and weights where pixels are enlarged to squares with soft edges."""
    place = np.arange(target)
    first = np.floor(place * (source / target)).astype(np.int64)
    behind = ((place + 1) - (first + 1) * (target / source)).astype(np.float32)
    behind = np.where(behind <= 0, 0.0, behind - np.floor(behind))
    return first[:, None] + np.arange(2), np.stack([1 - behind, behind], axis=1)


def _coverage(source: int, target: int) -> tuple[NDArray[np.int64], Floats]:
    """Columns [target, taps] and which share of an output pixel each covers."""
    begin = np.arange(target) * (source / target)
    end = np.minimum(begin + source / target, source)
    first = np.floor(begin + 1e-9).astype(np.int64)
    columns = first[:, None] + np.arange(int(np.ceil(source / target)) + 1)
    inside = np.minimum(end[:, None], columns + 1) - np.maximum(begin[:, None], columns)
    weights = np.maximum(inside, 0.0)
    return columns, weights / weights.sum(axis=1, keepdims=True)


def _fixed(columns: NDArray[np.int64], weights: Floats, source: int, bits: int) -> Taps:
    """Taps of columns and weights [target, n]; the border repeats outside, as in OpenCV.

    Weights are rounded halves to even.
    """
    first = columns[:, 0].clip(0, source - 1)
    taps = np.zeros((len(columns), columns.shape[1]))
    places = columns.clip(0, source - 1) - first[:, None]
    np.add.at(taps, (np.arange(len(columns))[:, None], places), np.rint(weights * (1 << bits)))
    return _inside(first, taps, source, bits)


def _inside(first: NDArray[np.int64], fixed: Floats, source: int, bits: int) -> Taps:
    """Taps of which none is beyond the input; what is cut off has weight 0."""
    fixed = fixed[:, :source]
    shift = np.maximum(first + fixed.shape[1] - source, 0)
    columns = np.arange(fixed.shape[1]) - shift[:, None]
    moved = np.take_along_axis(fixed, columns.clip(0), axis=1)
    moved[columns < 0] = 0
    return Taps(first - shift, moved.astype(np.int32), bits)
