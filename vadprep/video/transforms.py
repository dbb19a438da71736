"""Frames are resized and cropped, on the device of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.clips import Resampling
from vadprep.core.crops import Box, Boxes, crop_boxes, target_size
from vadprep.core.errors import DecodeError, counted
from vadprep.core.filters import FLOAT_FILTERS, frame_taps, linear_taps
from vadprep.core.presets import values_of
from vadprep.core.spec import DECODED, Spec, jpeg_quality
from vadprep.video.frame_stream import open_frames
from vadprep.video.jpeg import Jpeg
from vadprep.video.resize import FloatResize, resizer

MOST_ENLARGED = 2 << 20
"""Pixels that a smaller frame may be resized to: the frames of a clip are in memory at once."""

FOLDER_FPS = Fraction(25)  # assumed of a folder of frames by first_clips

VIEW_FIELDS = (
    "frames", "resize", "filter", "crops", "crop_order", "crop_size", "centre_rounding",
)  # fmt: skip
"""Fields of a spec that make views of a frame."""


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
        frames: str = DECODED,
        resize: str = "short 256",
        filter: str = "pil-bilinear",
        crops: int = 1,
        crop_order: str = "centre",
        crop_size: int = 224,
        centre_rounding: str = "even",
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
        boxes = crop_boxes(crop_order, crops, crop_size, *self.size, centre_rounding)
        part = Box(0, 0, *self.size) if margins else around(boxes)
        self.boxes = tuple(
            replace(each, top=each.top - part.top, left=each.left - part.left) for each in boxes
        )
        """Of the crops, in what ``resize`` gives."""
        self._frame = (height, width, 3)
        self._resize: Callable[[Tensor], Tensor] = lambda frames: crop(frames, part).to(
            self.device, copy=True
        )
        if filter in FLOAT_FILTERS:
            one_step = resize.startswith("short")
            rows, columns = linear_taps((height, width), self.size, one_step)
            rows, columns = rows.part(part.top, part.height), columns.part(part.left, part.width)
            self._resize = FloatResize(rows, columns, self.device)
        elif self.size != (height, width):
            taps = frame_taps(filter, (height, width), self.size)
            self._resize = resizer(taps.part(part), self.device)
        quality = jpeg_quality(frames)
        self._jpeg = Jpeg(quality, self.device) if quality else None

    @classmethod
    def of(
        cls, spec: Spec, height: int, width: int, device: torch.device | str, margins: bool = True
    ) -> FrameTransform:
        """The transform of ``spec`` for frames of that size; raises as ``FrameTransform``."""
        settings: dict[str, Any] = {name: getattr(spec, name) for name in VIEW_FIELDS}
        return cls(height, width, device, margins=margins, **settings)

    def resize(self, block: NDArray[np.uint8] | Tensor) -> Tensor:
        """uint8 [n, h, w, 3] on the device, of frames uint8 [n, height, width, 3].

        By a filter of ``FLOAT_FILTERS`` float32, levels 0 to 255 with fractions. Shares no memory
        with ``block``. Raises ValueError for frames of another size or type.
        """
        frames = torch.as_tensor(block)
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != self._frame:
            raise ValueError(
                f"block: {frames.dtype} {list(frames.shape)}, expected uint8 "
                f"[n, {', '.join(map(str, self._frame))}]"
            )
        return self._resize(self._jpeg(frames) if self._jpeg else frames)

    def crop(self, frames: Tensor) -> Tensor:
        """Crops of resized frames [n, h, w, 3]: [crop, n, crop_size, crop_size, 3]."""
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
    """Centre crops of the first clips of a video, at most 10: [clip, T, size, size, 3].

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
        message = f"{video}: {counted(len(frames), 'frame')} at {rate} fps, a clip has {length}"
        raise DecodeError(f"{message}: take a longer video", "too-short")
    clips = np.stack(frames[: num_clips * length])
    settings = {name: values[name] for name in VIEW_FIELDS if name not in ("crops", "crop_order")}
    transform = FrameTransform(clips.shape[1], clips.shape[2], "cpu", **settings)
    return transform.crop(transform.resize(clips))[0].unflatten(0, (num_clips, length))
