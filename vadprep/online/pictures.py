"""Small pictures of a source: the newest for a page, the last seconds for kept clips."""

from __future__ import annotations

import io
import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_WIDTH, MOST_HEIGHT = 640, 360
"""Pixels of a picture; a smaller frame keeps its size."""
QUALITY = 80


class Pictures:
    """JPEG pictures of one source, in memory. ``history`` seconds of them are held.

    A picture is made of each frame when there is a history, else of one each ``every`` seconds.
    """

    def __init__(self, history: float = 0.0, every: float = 0.2) -> None:
        self._history, self._every = history, every
        self._pictures: deque[tuple[float, bytes]] = deque()
        self._last_time = 0.0
        self._lock = threading.Lock()

    def add(self, rgb: NDArray[np.uint8], seconds: float) -> None:
        """Take the frame at ``seconds`` of the source."""
        now = time.monotonic()
        if not self._history and now - self._last_time < self._every:
            return
        self._last_time = now
        picture = seconds, jpeg_of(rgb)
        with self._lock:
            self._pictures.append(picture)
            while self._pictures and self._pictures[0][0] < seconds - self._history:
                self._pictures.popleft()

    def newest(self) -> bytes | None:
        """The newest picture; None before the first one."""
        with self._lock:
            return self._pictures[-1][1] if self._pictures else None

    def between(self, start: float, stop: float) -> list[tuple[float, bytes]]:
        """The pictures that are held of [start, stop) seconds of the source."""
        with self._lock:
            return [each for each in self._pictures if start <= each[0] < stop]


def jpeg_of(rgb: NDArray[np.uint8]) -> bytes:
    """A frame uint8 [height, width, 3] as JPEG, no larger than MOST_WIDTH x MOST_HEIGHT."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((MOST_WIDTH, MOST_HEIGHT), Image.Resampling.BILINEAR)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()
