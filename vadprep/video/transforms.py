"""Frames are resized and cropped, on the device of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vadprep.core.clips import Resampling
from vadprep.core.crops import Box, Boxes, Taps, crop_boxes, resize_taps, target_size
from vadprep.core.errors import DecodeError
from vadprep.core.presets import values_of
from vadprep.video.compiled_resize import CompiledResize, resize_loop
from vadprep.video.frame_stream import open_frames

PILLOW = {
    "pil-bilinear": Image.Resampling.BILINEAR, "pil-bicubic": Image.Resampling.BICUBIC,
    "pil-lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip
MOST_ENLARGED = 2 << 20
"""Pixels that a smaller frame may be resized to: the frames of a clip are in memory at once."""

Size = tuple[int, int]
"""Height and width in px."""

FOLDER_FPS = Fraction(25)  # assumed of a folder of frames by first_clips


class FrameTransform:
    """Resizes and crops the frames of one video, all of ``height`` x ``width`` pixels.

    The settings are those of a spec (``core.crops`` says what is allowed). A block goes to the
    device once, as uint8; all crops are cut from it there. Without ``margins`` frames are resized
    as far as a crop shows them. Raises ValueError when a crop does not fit, DecodeError for frames
    so thin that the resized ones are larger than MOST_ENLARGED.
    """

    def __init__(
        self,
        height: int,
        width: int,
        device: torch.device | str,
        *,
        resize: str = "short 256",
        filter: str = "pil-bilinear",
        crops: int = 1,
        crop_order: str = "centre",
        crop_size: int = 224,
        margins: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.size = target_size(resize, height, width)
        """Height and width of a whole resized frame."""
        if self.size[0] * self.size[1] > max(MOST_ENLARGED, height * width):
            raise DecodeError(
                f"frames of {width}x{height} pixels would be resized to {self.size[1]}x"
                f"{self.size[0]}: use --set resize=HEIGHTxWIDTH, or cut the video to a usual shape",
                "too-large",
            )
        boxes = crop_boxes(crop_order, crops, crop_size, *self.size)
        part = Box(0, 0, *self.size) if margins else around(boxes)
        self.boxes = tuple(
            replace(each, top=each.top - part.top, left=each.left - part.left) for each in boxes
        )
        """Of the crops, in what ``resize`` gives."""
        self._frame = (height, width, 3)
        self._resize: Callable[[Tensor], Tensor] = lambda frames: _copy(frames, part, self.device)
        if self.size != (height, width):
            self._resize = _resizer(filter, (height, width), self.size, part, self.device)

    def resize(self, block: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 [n, h, w, 3] on the device, of frames uint8 [n, height, width, 3].

        Shares no memory with ``block``. Raises ValueError for frames of another size or type.
        """
        frames = torch.as_tensor(block)
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self._frame:
            raise ValueError(
                f"block: {frames.dtype} {list(frames.shape)}, expected uint8 "
                f"[n, {', '.join(map(str, self._frame))}]"
            )
        return self._resize(frames)

    def crop(self, frames: Tensor) -> Tensor:
        """Crops of resized frames [n, h, w, 3]: uint8 [crop, n, crop_size, crop_size, 3]."""
        return torch.stack([crop(frames, box) for box in self.boxes])


def around(boxes: Boxes) -> Box:
    """The smallest box that holds all ``boxes``."""
    top, left = min(each.top for each in boxes), min(each.left for each in boxes)
    bottom = max(each.top + each.height for each in boxes)
    right = max(each.left + each.width for each in boxes)
    return Box(top, left, bottom - top, right - left)


def crop(frames: Tensor, box: Box) -> Tensor:
    """The crop [n, box.height, box.width, channel] of frames [n, h, w, channel]."""
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    return part.flip(2) if box.mirrored else part


def first_clips(video: Path, preset: str) -> Tensor:
    """Centre crops of the first clips of a video, at most 10: uint8 [clip, T, size, size, 3].

    Frames are resampled and views made as the preset says. Raises DecodeError for a video that
    cannot be read or that has no whole clip.
    """
    values = values_of(preset)
    rate, length = values["fps"], values["clip_length"]
    with open_frames(video, decoder="pyav", fps=FOLDER_FPS) as stream:
        resampling = Resampling(
            stream.header.fps,
            None if rate == "native" else Fraction(rate),
            sampling=values["sampling"],
        )
        every = enumerate(frame.copy() for block in stream for frame in block)
        resampled = (frame for i, frame in every for _ in range(resampling.repeats(i)))
        frames = list(islice(resampled, 10 * length))
    num_clips = len(frames) // length
    if not num_clips:
        message = f"{video}: {len(frames)} frames at {rate} fps, a clip has {length}"
        raise DecodeError(f"{message}: take a longer video", "too-short")
    clips = np.stack(frames[: num_clips * length])
    settings = {name: values[name] for name in ("resize", "filter", "crop_size")}
    transform = FrameTransform(clips.shape[1], clips.shape[2], "cpu", **settings)
    return transform.crop(transform.resize(clips))[0].unflatten(0, (num_clips, length))


def _resizer(
    filter: str, source: Size, target: Size, part: Box, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """What gives ``part`` of frames uint8 [n, H, W, 3] that are resized to ``target``."""
    rows = resize_taps(filter, source[0], target[0]).part(part.top, part.height)
    columns = resize_taps(filter, source[1], target[1]).part(part.left, part.width)
    if device.type == "cpu":
        if (loop := resize_loop()) and (
            filter not in PILLOW or _is_pillows(filter, source, target)
        ):
            compiled = CompiledResize(rows, columns, filter in PILLOW, loop)
            return lambda frames: torch.from_numpy(compiled(frames.numpy()))
        if filter in PILLOW:
            return lambda frames: crop(_by_pillow(frames.numpy(), filter, target), part)
    return TapResize(rows, columns, filter in PILLOW, device)


@cache
def _is_pillows(filter: str, source: Size, target: Size) -> bool:
    """Whether the compiled loop gives the bytes of Pillow, tried on noise.

    Pillow 13 makes the vertical pass first for some sizes, where that is less work.
    """
    noise = np.random.default_rng(0).integers(0, 256, (1, *source, 3), dtype=np.uint8)
    taps = [resize_taps(filter, *each) for each in zip(source, target, strict=True)]
    loop = resize_loop()
    assert loop is not None
    ours = torch.from_numpy(CompiledResize(taps[0], taps[1], True, loop)(noise))
    return torch.equal(ours, _by_pillow(noise, filter, target))


def _copy(frames: Tensor, part: Box, device: torch.device) -> Tensor:
    return crop(frames, part).to(device, copy=True)


def _by_pillow(frames: NDArray[np.uint8], filter: str, target: Size) -> Tensor:
    images = (Image.fromarray(frame) for frame in frames)
    resized = [np.asarray(each.resize(target[::-1], PILLOW[filter])) for each in images]
    return torch.from_numpy(np.stack(resized))


class TapResize:
    """Frames uint8 [n, H, W, 3] by weighted sums to what ``rows`` and ``columns`` say, on a device.

    PIL filters are those of Pillow to the bit, horizontal pass first and rounded to uint8 in
    between. (Pillow 13 swaps the passes for some targets that change the aspect, which moves
    bilinear values by one.) ``opencv-bilinear`` rounds once, at the end, and is within one grey
    level of OpenCV.
    """

    def __init__(
        self, rows: Taps, columns: Taps, rounds_between: bool, device: torch.device
    ) -> None:
        self._device, self._rounds_between = device, rounds_between
        between, end = (columns.bits, rows.bits) if rounds_between else (0, 2 * rows.bits)
        self._columns = _Pass(columns, between, device, interleaved=3)
        self._rows = _Pass(rows, end, device)
        # Frames at a time: one stays in a core's cache, many fill a GPU.
        self._chunk = 64 if device.type == "cuda" else 1

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [n, h, w, 3]."""
        parts = []
        for part in frames.to(self._device).split(self._chunk):
            wide = self._columns(part.flatten(2), axis=2)
            wide = _uint8(wide) if self._rounds_between else wide
            parts.append(_uint8(self._rows(wide, axis=1)).unflatten(2, (-1, 3)))
        return torch.cat(parts)


class _Pass:
    """Resize along one axis: the sum over taps of weight times shifted input.

    In int32, which holds 255 << 22 and Lanczos' overshoot, as Pillow computes it. A dense
    matrix product was 2.5 to 5 times slower on a CPU (320x240 to 1280x720): nearly all zeros.
    """

    def __init__(self, taps: Taps, shift: int, device: torch.device, interleaved: int = 1) -> None:
        """``shift`` bits are rounded away; ``interleaved`` channels lie along the axis."""
        first = (taps.first[:, None] * interleaved + np.arange(interleaved)).ravel()
        steps = np.arange(taps.fixed.shape[1]) * interleaved
        weights = np.repeat(taps.fixed.T, interleaved, axis=1)
        self._indices = torch.from_numpy(first + steps[:, None]).to(device)
        self._weights = torch.from_numpy(weights).to(device)
        self._shift = shift

    def __call__(self, x: Tensor, axis: int) -> Tensor:
        """``x`` [n, height, width * 3] resized along ``axis``, int32 before any clamping."""
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        total: Tensor | int = (1 << self._shift) >> 1  # a half, to round
        for indices, weights in zip(self._indices, self._weights, strict=True):
            term = x.index_select(axis, indices).int().mul_(weights.view(shape))
            total = term.add_(total)
        assert isinstance(total, Tensor)
        return total.bitwise_right_shift_(self._shift)


def _uint8(x: Tensor) -> Tensor:
    return x.clamp_(0, 255).to(torch.uint8)
