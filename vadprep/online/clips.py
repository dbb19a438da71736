"""Frames of a live source -> the clips that the networks of a run see, one by one.

A clip is given as soon as its frames are there. Offline, flow takes one frame more than RGB, and
tail rule ``xd`` keeps one frame back; so here, too, such a clip waits for one frame more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.clips import Resampling
from vadprep.core.crops import Boxes
from vadprep.core.spec import Spec
from vadprep.video import FrameTransform


@dataclass(eq=False)
class LiveClip:
    """Frames of one clip, resized."""

    frames: Tensor
    """uint8 [clip_length, h, w, 3], or one more: see above."""
    boxes: Boxes
    span: tuple[int, int]
    """Source frames [start, stop)."""
    seconds: tuple[float, float]
    arrived: float
    """When its last frame came, by the monotonic clock."""
    is_first: bool
    """Nothing before it belongs to it: after a start, a loss or a jump."""
    lost_frames: int = 0


@dataclass(frozen=True)
class _Waiting:
    frame: Tensor
    index: int
    seconds: float
    has_come: bool = True
    """False for one that stands in for a lost frame."""


class LiveClips:
    """Clips of one source by the spec of a run; ``has_flow`` asks for a frame more.

    Frames are resized on the CPU: a GPU that records its network must not be used by two threads.
    """

    def __init__(self, spec: Spec, has_flow: bool) -> None:
        self._spec = spec
        self._ahead = int(has_flow or spec.tail == "xd")
        self._transform: FrameTransform | None = None
        self._waiting: list[_Waiting] = []
        self._resampling: Resampling | None = None
        self._last: _Waiting | None = None
        self._seen = self._first = 0
        self._stop = 0
        """Of the frames that are in clips."""
        self._begin = self._step = 0.0
        self._by_times = False
        self._is_first = True

    def restart(self, height: int, width: int, fps: Fraction | None, tick: float) -> None:
        """Begin anew with frames of this size, whose time stamps are multiples of ``tick`` seconds.

        What waits for a whole clip is forgotten. Raises DecodeError, ValueError as FrameTransform.
        """
        spec, used = self._spec, self._spec.fps_used()
        self._transform = FrameTransform.of(spec, height, width, "cpu")
        self._by_times = used is not None and (spec.sampling_used != "index" or not fps)
        self._resampling = None
        if used:
            # As offline: time stamps are rounded, to multiples of a tick.
            self._resampling = spec.resampling(fps or used, None, tick / 2)
        self._waiting.clear()
        self._last, self._seen, self._is_first = None, 0, True

    def give_up(self) -> int:
        """Forget what waits for a whole clip; how many frames that came are then in no clip."""
        left = {each.index for each in self._waiting if each.has_come and each.index >= self._stop}
        self._waiting.clear()
        return len(left)

    def add(
        self, rgb: NDArray[np.uint8], index: int, seconds: float, arrived: float
    ) -> Iterator[LiveClip]:
        """Clips that the next frame uint8 [height, width, 3] completes, which begins at
        ``seconds``."""
        assert self._transform is not None
        frame = self._transform.resize(np.ascontiguousarray(rgb)[None])[0]
        yield from self._next(_Waiting(frame, index, seconds), arrived)

    def repeat(self, index: int, seconds: float, arrived: float) -> Iterator[LiveClip]:
        """As ``add``, for a frame that is lost: the last one stands in."""
        if self._last is not None:
            stand_in = _Waiting(self._last.frame, index, seconds, has_come=False)
            yield from self._next(stand_in, arrived)

    def flush(self, step: float, arrived: float) -> Iterator[LiveClip]:
        """The clips that the end of a file completes; its last frame lasts ``step`` seconds."""
        if self._last is None:
            return
        if self._by_times:
            self._show(self._last, self._last.seconds + step)
        spec, length = self._spec, self._spec.clip_length
        yield from self._whole(arrived, int(spec.tail == "xd"))
        given_up = self._is_first or len(self._waiting) > length - spec.clip_stride
        if spec.tail == "repeat-last" and self._waiting and given_up:
            self._waiting += [self._waiting[-1]] * (length - len(self._waiting))
            yield from self._whole(arrived, 0)

    def _next(self, new: _Waiting, arrived: float) -> Iterator[LiveClip]:
        if self._last is None:
            self._begin, self._first = new.seconds, new.index
        if self._by_times:
            if self._last is not None:
                self._show(self._last, new.seconds)
        else:
            repeats = self._resampling.repeats(self._seen) if self._resampling else 1
            self._waiting += [new] * repeats
        if self._last is not None:
            self._step = new.seconds - self._last.seconds
        self._last = new
        self._seen += 1
        yield from self._whole(arrived, self._ahead)

    def _show(self, shown: _Waiting, stop: float) -> None:
        """Let ``shown`` wait as often as it is on screen until ``stop``, by time stamps."""
        assert self._resampling is not None
        before, after = (
            self._resampling.place(seconds - self._begin) for seconds in (shown.seconds, stop)
        )
        self._waiting += [shown] * (after - before)

    def _whole(self, arrived: float, ahead: int) -> Iterator[LiveClip]:
        """Clips of what waits, each with ``ahead`` frames more."""
        length, stride = self._spec.clip_length, self._spec.clip_stride
        while len(self._waiting) >= length + ahead:
            used = self._waiting[: length + ahead]
            last = used[length - 1]
            self._stop = last.index + 1
            begin = used[0].index, used[0].seconds
            if self._is_first:  # as offline: the first clip answers for all before it
                begin = self._first, self._begin
            yield LiveClip(
                frames=torch.stack([each.frame for each in used]),
                boxes=self._boxes,
                span=(begin[0], self._stop),
                seconds=(begin[1], last.seconds + self._step),
                arrived=arrived,
                is_first=self._is_first,
            )
            del self._waiting[:stride]
            self._is_first = False

    @property
    def _boxes(self) -> Boxes:
        assert self._transform is not None
        return self._transform.boxes
