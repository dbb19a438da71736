"""The time stamps of a live stream: which frames are late, missing, or of another clock."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Literal, NamedTuple

HOLE_STEPS = 2.5
"""A longer distance than so many usual ones is a hole, as in a video file (``video.timeline``)."""
RECENT = 32
"""Distances that say what is usual."""
VARYING_SHARE = 0.25
"""With more of them that differ by half, the rate varies, and a pause is no hole."""
OTHER_RATE = 0.2
"""Share by which the usual distance has to differ from the known one to be of another rate."""
MOST_BACK = 1.0
"""Seconds; a frame that is older by more than this has another clock, else it is late."""
MOST_AHEAD = 10.0
"""Seconds; a longer distance is a jump of the clock."""


class Verdict(NamedTuple):
    """What a time stamp says of its frame."""

    kind: Literal["next", "late", "jump"]
    missing: int = 0
    """Frames that are missing before it."""


class StreamClock:
    """Follows the time stamps of one connection. ``step`` is the usual distance in seconds."""

    def __init__(self, step: float) -> None:
        self.step = self._known = step
        self.last: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> Verdict:
        """What is to be done with the next frame, which is stamped ``seconds``."""
        if self.last is None:
            self.last = seconds
            return Verdict("next")
        distance = seconds - self.last
        if -MOST_BACK < distance <= 0:
            return Verdict("late")
        self.last = seconds
        if not 0 < distance <= MOST_AHEAD:
            return Verdict("jump")
        missing = 0
        if distance > HOLE_STEPS * self.step and not self._is_varying():
            missing = round(distance / self.step) - 1
        self._recent.append(distance)
        if len(self._recent) >= RECENT // 4:
            self.step = median(self._recent)
        return Verdict("next", missing)

    def other_step(self) -> float | None:
        """The distance of a steady rate that is not the one known so far, once; else None."""
        is_steady = len(self._recent) == RECENT and not self._is_varying()
        if not is_steady or abs(self.step / self._known - 1) <= OTHER_RATE:
            return None
        self._known = self.step
        return self.step

    def _is_varying(self) -> bool:
        odd = sum(abs(each / self.step - 1) > 0.5 for each in self._recent)
        return odd > VARYING_SHARE * len(self._recent)
