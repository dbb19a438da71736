"""Frames as they come back from a JPEG file, computed without the file.

A JPEG encoder rounds the cosine transform of blocks of 8 x 8 px and of colours at half the
resolution. The rest of it, Huffman coding, loses nothing and is left out. The steps here are
those of libjpeg-turbo by its defaults, which OpenCV's ``imwrite`` and ``imread`` use: colours of
2 x 2 px in common (4:2:0), tables of ITU-T T.81 annex K scaled by the quality, the accurate
transform in whole numbers (``islow``), and colours that are interpolated when decoded. All sums
are of whole numbers, which float64 holds exactly: the bytes are the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 8

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the brightness at quality 50, by vertical and horizontal frequency (T.81, K.1)."""

CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Steps of the colours (T.81, K.2)."""

COSINES = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
"""Left half of the cosine transform by 2**-13 and sqrt(8): frequency x place. The other half is
mirrored, and negative for odd frequencies. Factors of libjpeg, which sums rounded constants: four
of them are one off the rounded cosine."""


class Jpeg:
    """Function from frames uint8 [n, height, width, 3], RGB, to what a JPEG file of ``quality``, 1
    to 100, gives back: uint8 of the same shape, on ``device``."""

    def __init__(self, quality: int, device: torch.device | str = "cpu") -> None:
        half = torch.tensor(COSINES, dtype=torch.float64, device=device)
        odd = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device).repeat(BLOCK // 2)
        self._cosines = torch.cat([half, half.flip(1) * odd[:, None]], dim=1)
        self._luma, self._chroma = (
            torch.tensor(steps_of(table, quality), dtype=torch.float64, device=device)
            for table in (LUMA, CHROMA)
        )
        self._device = torch.device(device)
        # Frames at a time: one stays in a core's cache, some fill a GPU.
        self._chunk = 16 if self._device.type == "cuda" else 1

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [n, height, width, 3]; shares no memory with ``frames``."""
        parts = frames.to(self._device).split(self._chunk)
        return torch.cat([self._decoded(part) for part in parts])

    def _decoded(self, frames: Tensor) -> Tensor:
        height, width = frames.shape[1:3]
        y, *colours = _from_rgb(frames)
        small = (self._rounded(_halved(each), self._chroma) for each in colours)
        blue, red = (
            _enlarged(each[:, :, : (width + 1) // 2])[:, :height, :width] for each in small
        )
        return _to_rgb(self._rounded(y, self._luma), blue, red)

    def _rounded(self, plane: Tensor, steps: Tensor) -> Tensor:
        """A plane int32 [n, h, w] whose transform was rounded to ``steps``; 0 to 255."""
        height, width = plane.shape[1:]
        padded = _extended(plane, -height % BLOCK, -width % BLOCK).double() - 128
        cosines, steps = self._cosines, steps[:, None]  # [frequency, 1, frequency] in all blocks
        waves = _shifted(_along_rows(padded, cosines), 11)
        waves = _shifted(_along_columns(waves, cosines), 15)  # 8 times the transform
        blocks = waves.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK))
        counts = torch.floor((blocks.abs() + 4 * steps) / (8 * steps)) * blocks.sign()
        waves = (counts * steps).flatten(3).flatten(1, 2)
        back = _shifted(_along_columns(waves, cosines.T), 11)
        back = _shifted(_along_rows(back, cosines.T), 18) + 128
        return back[:, :height, :width].clamp_(0, 255).int()


def steps_of(table: tuple[tuple[int, ...], ...], quality: int) -> list[list[int]]:
    """``table`` at another ``quality`` by libjpeg's rule: at 95 its steps are a tenth, at most
    255 and at least 1."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [[min(max((each * percent + 50) // 100, 1), 255) for each in row] for row in table]


def _from_rgb(frames: Tensor) -> list[Tensor]:
    """Brightness and colours (blue, red) of frames uint8 [n, h, w, 3]: int32 [n, h, w]."""
    red, green, blue = frames.int().unbind(-1)
    half, middle = 1 << 15, (128 << 16) + (1 << 15) - 1
    return [
        (19595 * red + 38470 * green + 7471 * blue + half) >> 16,
        (-11059 * red - 21709 * green + 32768 * blue + middle) >> 16,
        (32768 * red - 27439 * green - 5329 * blue + middle) >> 16,
    ]


def _to_rgb(y: Tensor, blue: Tensor, red: Tensor) -> Tensor:
    """The reverse of ``_from_rgb``, uint8."""
    blue, red, half = blue - 128, red - 128, 1 << 15
    channels = (
        y + ((91881 * red + half) >> 16),
        y + ((-22554 * blue - 46802 * red + half) >> 16),
        y + ((116130 * blue + half) >> 16),
    )
    return torch.stack(channels, dim=-1).clamp_(0, 255).to(torch.uint8)


def _halved(plane: Tensor) -> Tensor:
    """Means of 2 x 2 px, of which a quarter is rounded up in odd columns only; an odd side is
    filled up with the last pixel.

    The width is that of whole blocks: the encoder extends the plane before it halves it.
    """
    height, width = plane.shape[1:]
    plane = _extended(plane, height % 2, -width % (2 * BLOCK))
    sums = plane[:, ::2, ::2] + plane[:, ::2, 1::2] + plane[:, 1::2, ::2] + plane[:, 1::2, 1::2]
    halves = torch.arange(sums.shape[2], device=plane.device, dtype=torch.int32) % 2 + 1
    return (sums + halves) >> 2


def _enlarged(plane: Tensor) -> Tensor:
    """Twice the height and width: nine sixteenths of the nearest pixel, three of each of two
    neighbours, and one of the fourth. In planes of one or two columns pixels are repeated."""
    if plane.shape[2] <= 2:
        return plane.repeat_interleave(2, 1).repeat_interleave(2, 2)
    tall = torch.stack(_with_neighbours(plane, 1), dim=2).flatten(1, 2)
    before, after = _with_neighbours(tall, 2)
    return torch.stack([(before + 8) >> 4, (after + 7) >> 4], dim=3).flatten(2, 3)


def _with_neighbours(plane: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three times each value along ``axis``, plus the one before it, and plus the one after it."""
    last = plane.shape[axis] - 1
    place = torch.arange(last + 1, device=plane.device)
    before, after = (place - 1).clamp_(min=0), (place + 1).clamp_(max=last)
    return 3 * plane + plane.index_select(axis, before), 3 * plane + plane.index_select(axis, after)


def _extended(plane: Tensor, rows: int, columns: int) -> Tensor:
    """``plane`` [n, h, w] with its last row and column repeated so many times."""
    for axis, count in ((1, rows), (2, columns)):
        if count:
            last = plane.narrow(axis, plane.shape[axis] - 1, 1)
            plane = torch.cat([plane, last.repeat_interleave(count, axis)], dim=axis)
    return plane


def _along_rows(plane: Tensor, matrix: Tensor) -> Tensor:
    """``matrix`` [8, 8] times each eight values in a row of [n, h, w]."""
    return (plane.unflatten(2, (-1, BLOCK)) @ matrix.T).flatten(2)


def _along_columns(plane: Tensor, matrix: Tensor) -> Tensor:
    """``matrix`` [8, 8] times each eight values in a column of [n, h, w]."""
    return (matrix @ plane.unflatten(1, (-1, BLOCK))).flatten(1, 2)


def _shifted(sums: Tensor, bits: int) -> Tensor:
    """Whole numbers divided by 2**bits, halves rounded up."""
    return torch.floor(sums * 2.0**-bits + 0.5)
