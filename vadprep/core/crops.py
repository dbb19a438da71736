"""Sizes and crop boxes: how a frame becomes the views a network sees."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vadprep.core.errors import allowed_are, counted


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


CENTRE_ROUNDINGS = ("even", "floor")
"""Where a centre crop begins that is half a pixel off: ``even``, at the even one of the two pixels,
as in torchvision; ``floor``, at the first one."""


def crop_boxes(
    order: str, count: int, size: int, height: int, width: int, centre_rounding: str = "even"
) -> Boxes:
    """The ``count`` (1, 5 or 10) crops of side ``size`` px in a frame of ``height`` x ``width``.

    One crop is the centre, order ``centre`` or any other. Ten are the five of the frame and
    then the five of the mirrored frame, with ``vadclip`` the mirror images of the five; with
    ``mmaction`` each is followed by its mirror image.
    Raises ValueError for an unknown order, count or rounding and for a frame smaller than the crop.
    """
    if min(height, width) < size:
        raise ValueError(f"frame of {height} x {width} px is smaller than a crop of {size} px")
    bottom, right = height - size, width - size
    if centre_rounding not in CENTRE_ROUNDINGS:
        allowed = allowed_are(centre_rounding, CENTRE_ROUNDINGS)
        raise ValueError(f"{centre_rounding = }: {allowed}")
    centre = round(bottom / 2), round(right / 2)  # halves to even
    if centre_rounding == "floor":
        centre = bottom // 2, right // 2
    if count == 1 and order in ("centre", *FIVE_CROPS):
        return (Box(*centre, size, size),)
    if count not in (5, 10) or order not in FIVE_CROPS:
        raise ValueError(
            f"{counted(count, 'crop')} in order {order!r}: 1 crop is the centre, of 5 or 10 the "
            f"orders {allowed_are(order, FIVE_CROPS)}"
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
