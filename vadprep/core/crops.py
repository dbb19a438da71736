"""Sizes, crop boxes and resize weights: how a frame becomes the views a network sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import allowed_are


@dataclass(frozen=True)
class Box:
    """One crop: pixels [top, top + height) x [left, left + width) of the resized frame.

    ``mirrored`` crops are flipped left to right after cutting.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False


Boxes = tuple[Box, ...]


def target_size(resize: str, height: int, width: int) -> tuple[int, int]:
    """Height and width that a frame of ``height`` x ``width`` px is resized to.

    ``short N`` gives the shorter side N px and the longer int(N * long / short), the rule of
    torchvision; ``HxW`` (height first) gives just that size. Raises ValueError for another
    text or a frame without pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"frame of {height} x {width} px: both sides are at least 1")
    match resize.split():
        case ["short", side] if side.isdecimal() and int(side) > 0:
            # Whole numbers: a float product could land just below a whole result.
            longer = int(side) * max(height, width) // min(height, width)
            return (int(side), longer) if height <= width else (longer, int(side))
        case [size] if sides := re.fullmatch(r"(0*[1-9]\d*)x(0*[1-9]\d*)", size):
            return int(sides[1]), int(sides[2])
    allowed = allowed_are(resize, ("short 256", "HEIGHTxWIDTH in px"))
    raise ValueError(f"{resize = }: {allowed}")


FIVE_CROPS = {
    "torchvision": "TL TR BL BR C",
    "gowtham": "TL TR C BL BR",
    "xd": "C TL TR BL BR",
    "mmaction": "TL TR BL BR C",
    "vadclip": "C TL TR BL BR",
}
"""Order of the five crops of a frame (T top, B bottom, L left, R right, C centre) by code base.

RTFM uses torchvision's ``TenCrop``; I3D_Feature_Extraction_resnet and UR-DMU have ``gowtham``.
XDVioDet says only that the centre is first; its order of the corners is assumed. The ten crops of
mmaction2 are TL, TL mirrored, TR, TR mirrored, ... The first five of VadCLIP (src/crop.py) are in
the order of ``xd``; the last five are these five mirrored, not those of the mirrored frame, so that
crop 6 is TL mirrored, which is crop 7 of ``xd``.
"""


def crop_boxes(order: str, count: int, size: int, height: int, width: int) -> Boxes:
    """The ``count`` (1, 5 or 10) crops of side ``size`` px in a frame of ``height`` x ``width``.

    One crop is the centre, order ``centre`` or any other. Ten are the five of the frame and
    then the five of the mirrored frame, with ``vadclip`` the mirror images of the five; with
    ``mmaction`` each is followed by its mirror image.
    Raises ValueError for an unknown order or count and for a frame smaller than the crop.
    """
    if min(height, width) < size:
        raise ValueError(f"frame of {height} x {width} px is smaller than a crop of {size} px")
    bottom, right = height - size, width - size
    centre = round(bottom / 2), round(right / 2)  # halves to even, as torchvision has it
    if count == 1 and order in ("centre", *FIVE_CROPS):
        return (Box(*centre, size, size),)
    if count not in (5, 10) or order not in FIVE_CROPS:
        raise ValueError(
            f"{count} crops in order {order!r}: 1 crop is the centre, of 5 or 10 the orders "
            f"{allowed_are(order, FIVE_CROPS)}"
        )
    if order == "mmaction":  # offsets in whole quarters: may miss the edge by up to 3 px
        bottom, right = bottom // 4 * 4, right // 4 * 4
        centre = bottom // 2, right // 2
    places = {
        "TL": (0, 0), "TR": (0, right), "BL": (bottom, 0), "BR": (bottom, right), "C": centre,
    }  # fmt: skip
    five = tuple(Box(*places[name], size, size) for name in FIVE_CROPS[order].split())
    if count == 5:
        return five
    if order == "mmaction":
        return tuple(replace(box, mirrored=flip) for box in five for flip in (False, True))
    if order == "vadclip":
        return five + tuple(replace(box, mirrored=True) for box in five)
    # Of the mirrored frame, in coordinates of the frame: the left edge counts from the right one.
    return five + tuple(replace(b, left=width - b.left - b.width, mirrored=True) for b in five)


@dataclass(frozen=True)
class Taps:
    """Resize weights along one axis, as the libraries hold them for 8-bit pictures.

    out[i] = sum over j of fixed[i, j] * in[first[i] + j] / 2**bits: whole numbers, so a sum
    has the same value in any order on any device.
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


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic kernel of Keys 1981 (equation 15, a = -1/2) at distances ``x`` >= 0 in px."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


PIL_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], int]] = {
    "pil-bilinear": (lambda x: np.maximum(1 - np.abs(x), 0.0), 1),
    "pil-bicubic": (lambda x: cubic(np.abs(x)), 2),
    "pil-lanczos": (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3),
}
"""Kernel and its half width in px. Pillow stretches both when it makes a picture smaller."""

PIL_BITS, OPENCV_BITS = 32 - 8 - 2, 11
"""Binary places of the weights for 8-bit pictures."""

FILTERS = (*PIL_KERNELS, "opencv-bilinear")


def resize_taps(name: str, source: int, target: int) -> Taps:
    """Weights that take ``source`` px along one axis to ``target`` px.

    Pillow's filters (``pil-...``) widen the kernel when shrinking (antialiased),
    ``opencv-bilinear`` does not. Raises ValueError for an unknown filter.
    """
    if name not in FILTERS:
        raise ValueError(f"filter = {name!r}: {allowed_are(name, FILTERS)}")
    if name == "opencv-bilinear":
        # OpenCV works in float32 here; its weights are rounded halves to even.
        position = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
        first, bits = np.floor(position).astype(np.int64), OPENCV_BITS
        fraction = (position - first.astype(np.float32)).astype(np.float64)
        fraction[(first < 0) | (first >= source - 1)] = 0.0
        first = first.clip(0, source - 1)
        right = np.rint(fraction * (1 << bits))
        fixed = np.stack([(1 << bits) - right, right], axis=1)
    elif source == target:  # Pillow copies an axis that keeps its length
        first, bits = np.arange(target), PIL_BITS
        fixed = np.full((target, 1), 1 << bits, dtype=np.float64)
    else:
        kernel, half_width = PIL_KERNELS[name]
        ratio, bits = source / target, PIL_BITS
        stretch = max(ratio, 1.0)
        support = half_width * stretch
        centre = (np.arange(target) + 0.5) * ratio
        first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
        stop = np.minimum((centre + support + 0.5).astype(np.int64), source)
        columns = first[:, None] + np.arange(int((stop - first).max()))
        weights = kernel((columns - centre[:, None] + 0.5) / stretch)
        weights[columns >= stop[:, None]] = 0.0
        weights /= weights.sum(axis=1, keepdims=True)
        # Pillow rounds halves away from zero.
        fixed = np.copysign(np.floor(np.abs(weights) * (1 << bits) + 0.5), weights)
    fixed = fixed[:, :source]  # what is cut off has weight 0
    shift = np.maximum(first + fixed.shape[1] - source, 0)  # so that no tap is beyond the input
    columns = np.arange(fixed.shape[1]) - shift[:, None]
    moved = np.take_along_axis(fixed, columns.clip(0), axis=1)
    moved[columns < 0] = 0
    return Taps(first - shift, moved.astype(np.int32), bits)
