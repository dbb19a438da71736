"""Frames are resized by sums that every device rounds alike: the same bytes on all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.atomic import temporary_folder
from vadprep.core.filters import FrameTaps, LinearTaps, Taps
from vadprep.core.log import get_logger
from vadprep.core.numba_settings import numba_settings
from vadprep.core.resources import cache_folder

logger = get_logger(__name__)

Loop = Callable[..., None]


def resizer(taps: FrameTaps, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Function from frames uint8 [n, H, W, 3] to resized ones [n, h, w, 3] on ``device``.

    On a CPU a compiled loop computes, or torch, where numba does not work.
    """
    resize_frames = loop() if device.type == "cpu" else None
    if resize_frames is None:
        return TorchResize(taps, device)
    compiled = CompiledResize(taps, resize_frames)
    return lambda frames: torch.from_numpy(compiled(frames.numpy()))


@cache
def loop() -> Loop | None:
    """``resize_loop.resize_frames``; None where numba is not installed or does not compile.

    The first call on a machine takes some seconds, later ones read the machine code from the
    cache folder. Its sums are of whole numbers: other machine code gives the same bytes.
    """
    folder = cache_folder() / "numba"
    try:
        import numba

        if vars(numba.config)["DISABLE_JIT"]:
            return None
        with ExitStack() as resources:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                return _imported(str(folder))
            except (RuntimeError, OSError):  # nothing can be written there
                return _imported(str(resources.enter_context(temporary_folder())))
    except Exception as error:  # numba raises whatever it meets
        logger.warning("frames are resized by torch, several times as slow: numba: %s", error)
        return None


def _imported(folder: str) -> Loop:
    with numba_settings(CACHE_DIR=folder):
        found: Loop = importlib.import_module("vadprep.video.resize_loop").resize_frames
    return found


class CompiledResize:
    """Frames uint8 [n, H, W, 3] to [n, h, w, 3] on a CPU."""

    def __init__(self, taps: FrameTaps, loop: Loop) -> None:
        self._taps = tuple(
            array
            for each in (taps.columns, taps.rows)
            for array in (each.first.astype(np.uintp), np.ascontiguousarray(each.fixed))
        )
        self._rounding = taps.shift, taps.end_shift
        self._between = np.uint8 if taps.clamps else np.int32
        self._shape = len(taps.rows.first), len(taps.columns.first), 3
        self._loop = loop

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [n, h, w, 3]; shares no memory with ``frames``."""
        count, height = frames.shape[:2]
        resized = np.empty((count, self._shape[0], 3 * self._shape[1]), np.uint8)
        wide = np.empty((height, 3 * self._shape[1] + 1), self._between)
        flat = np.ascontiguousarray(frames).reshape(count, height, -1)
        self._loop(flat, *self._taps, *self._rounding, wide, resized)
        return resized.reshape(count, *self._shape)


class TorchResize:
    """The same by torch, on any device."""

    def __init__(self, taps: FrameTaps, device: torch.device) -> None:
        self._device, self._clamps = device, taps.clamps
        self._columns = _Pass(taps.columns, taps.shift, device, interleaved=3)
        self._rows = _Pass(taps.rows, taps.end_shift, device)
        # Frames at a time: one stays in a core's cache, many fill a GPU.
        self._chunk = 64 if device.type == "cuda" else 1

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [n, h, w, 3]."""
        parts = []
        for part in frames.to(self._device).split(self._chunk):
            wide = self._columns(part.flatten(2), axis=2)
            wide = _uint8(wide) if self._clamps else wide
            parts.append(_uint8(self._rows(wide, axis=1)).unflatten(2, (-1, 3)))
        return torch.cat(parts)


class FloatResize:
    """Frames uint8 [n, H, W, 3] to float32 [n, h, w, 3], levels with fractions, on any device."""

    def __init__(self, rows: LinearTaps, columns: LinearTaps, device: torch.device) -> None:
        self._device = device
        self._axes = [
            (axis, [torch.from_numpy(each).to(device) for each in (a.first, a.second, a.behind)])
            for axis, a in ((2, columns), (1, rows))
        ]
        self._chunk = 16 if device.type == "cuda" else 1  # as in TorchResize, of larger numbers

    def __call__(self, frames: Tensor) -> Tensor:
        """float32 [n, h, w, 3]; shares no memory with ``frames``."""
        parts = []
        for part in frames.to(self._device).split(self._chunk):
            for axis, (first, second, behind) in self._axes:
                weights = behind.view([-1 if i == axis else 1 for i in range(4)])
                # Two products and a sum, each rounded: fused ones differ between devices.
                before = part.index_select(axis, first).float().mul_(1 - weights)
                part = part.index_select(axis, second).float().mul_(weights).add_(before)
            parts.append(part)
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
