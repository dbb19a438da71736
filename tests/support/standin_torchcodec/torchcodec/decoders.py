"""``VideoDecoder`` with the signatures of torchcodec 0.17."""

from __future__ import annotations

import os
from typing import NamedTuple

import av
import numpy as np


class OnDevice(NamedTuple):
    """A tensor, as far as it is brought to the CPU."""

    array: np.ndarray

    def cpu(self) -> OnDevice:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


class FrameBatch(NamedTuple):
    data: OnDevice


class VideoDecoder:
    """``STANDIN_TORCHCODEC`` in the environment says what goes wrong: ``fallback``, an error, or
    ``late fallback``, which is known once a frame was decoded (the back end ffmpeg)."""

    def __init__(
        self,
        source: str | bytes,
        *,
        dimension_order: str = "NCHW",
        num_ffmpeg_threads: int = 1,
        device: str | None = None,
    ) -> None:
        self.cpu_fallback = os.environ.get("STANDIN_TORCHCODEC", "")
        if self.cpu_fallback.startswith("Could not load"):
            raise RuntimeError(self.cpu_fallback)
        if isinstance(source, bytes):
            raise ValueError("Failed to open input buffer: Invalid data")
        assert (dimension_order, device) == ("NHWC", "cuda")
        with av.open(source) as file:
            frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        self._frames = frames[1:] if self.cpu_fallback == "lost" else frames
        if self.cpu_fallback in ("lost", "broken", "late fallback"):
            self._error, self.cpu_fallback = self.cpu_fallback, ""

    def __len__(self) -> int:
        return len(self._frames)

    def get_frames_in_range(self, start: int, stop: int, step: int = 1) -> FrameBatch:
        if start and getattr(self, "_error", "") == "broken":
            raise RuntimeError("cuvidDecodePicture failed\nstack")
        if getattr(self, "_error", "") == "late fallback":
            self.cpu_fallback = "late fallback"
        return FrameBatch(OnDevice(np.stack(self._frames[start:stop:step])))
