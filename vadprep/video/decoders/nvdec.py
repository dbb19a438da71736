"""The decoder nvdec: the video engine of an NVIDIA GPU, through torchcodec.

Its pixels are not those of the other decoders: the GPU converts colours by itself. So nothing
takes it by default. What it cannot notice: damage, which the engine patches up without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from vadprep.core.errors import DecodeError, SettingError
from vadprep.video.decoders.base import Decoder, TimedFrame
from vadprep.video.decoders.pyav import PyAVDecoder

LEAST_HEIGHT = 720
"""px; smaller frames are decoded as fast by a core, before they cross from the GPU and back."""

BLOCK_BYTES = 64 << 20
"""Of the frames that are on the GPU at once."""

REMEDY = "(or leave out --set decoder)"


def require_nvdec(device: str) -> None:
    """Raise SettingError, with the remedy, where nvdec cannot serve a network on ``device``."""
    if device != "cuda":
        raise SettingError(
            f"decoder nvdec needs an NVIDIA GPU and --device cuda, here is {device} {REMEDY}"
        )
    try:
        _video_decoder()(b"\0")
    except ModuleNotFoundError:
        raise SettingError(
            f"decoder nvdec needs torchcodec: pip install torchcodec {REMEDY}"
        ) from None
    except (RuntimeError, ValueError) as error:  # of one byte, when all is well
        if "libtorchcodec" in str(error):
            raise SettingError(
                "decoder nvdec: torchcodec finds no FFmpeg with shared libraries, or was made for "
                f"another torch: apt install ffmpeg, or pip install -U torchcodec {REMEDY}"
            ) from None


def _video_decoder() -> Any:
    """torchcodec's class; it imports torch, which takes seconds."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder


class NvdecDecoder(Decoder):
    """Frames by the GPU. The header and the times are PyAV's, as for every decoder.

    What the GPU cannot decode is an error here, where torchcodec would decode it on the CPU: the
    pixels of a video would depend on the card. So is a number of frames that the packets do not
    announce.
    """

    extra_bytes = 12 << 30  # CUDA and torch
    device = "cuda"

    def __init__(self, path: Path, fps: Fraction | None = None) -> None:
        super().__init__(path, fps)
        reader = PyAVDecoder(path)
        self.header, self._timeline = reader.header, reader.timeline
        reader.close()
        if self._timeline.holes:
            raise self._refused("it does not fill the holes in the time stamps")
        if self.header.rotation or self.header.mirrored:
            raise self._refused("it does not turn pictures")
        try:
            self._frames = _video_decoder()(
                str(path), device=self.device, dimension_order="NHWC", num_ffmpeg_threads=1
            )
        except (ImportError, RuntimeError, ValueError) as error:
            raise self._refused(_first_line(error)) from None
        self._check_gpu()
        if not (announced := len(self._timeline.stamps)):
            raise self._refused("a raw stream has no time stamps")
        if (count := len(self._frames)) != announced:
            raise self._refused(f"{count} frames where {announced} packets announce some")
        if self.header.height < LEAST_HEIGHT:
            note = f"nvdec brings nothing below {LEAST_HEIGHT} lines: decord is as fast there"
            self.header = replace(self.header, notes=(*self.header.notes, note))

    def __iter__(self) -> Iterator[TimedFrame]:
        count, shape = len(self._frames), (self.header.height, self.header.width, 3)
        step = max(1, BLOCK_BYTES // (shape[0] * shape[1] * 3))
        for start in range(0, count, step):
            try:
                block = self._frames.get_frames_in_range(start, min(start + step, count))
            except RuntimeError as error:
                raise self._refused(_first_line(error)) from None
            self._check_gpu()  # the back end ffmpeg knows it only now
            pictures = block.data.cpu().numpy()
            if pictures.shape[1:] != shape:
                raise self._refused(f"frames of {pictures.shape[2]}x{pictures.shape[1]}")
            for place, picture in enumerate(pictures, start):
                yield picture, self._timeline.seconds(place)
        self.end_seconds = self._timeline.seconds(count - 1) + self._timeline.step

    def _check_gpu(self) -> None:
        """Raise DecodeError when torchcodec decodes on the CPU instead."""
        if fallback := self._frames.cpu_fallback:
            raise self._refused(f"the GPU does not decode it ({fallback})")

    def _refused(self, why: str) -> DecodeError:
        return DecodeError(f"{self.path}: nvdec: {why}", "damaged")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
