"""What waits for the workers: clips and notices of all sources, in order, a bounded number."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from vadprep.online.clips import LiveClip
from vadprep.online.records import SourceRecord

MOST_WAITING = 2
"""Clips of a source. When another comes, the oldest of them is dropped and counted."""
MOST_NOTICES = 100
"""Notices of a source; older ones are dropped. Back-off keeps them rare."""


@dataclass(eq=False)
class Line:
    """What waits of one source. A worker takes from a line that no other worker has."""

    waits: bool
    """The reader waits for the workers and nothing is dropped, as for a file at no set speed."""
    items: deque[LiveClip | SourceRecord] = field(default_factory=deque)
    is_taken: bool = False
    dropped: int = 0
    """Clips since the last record."""

    def clips(self) -> int:
        return sum(isinstance(each, LiveClip) for each in self.items)

    def waiting_since(self) -> float:
        """When the first item came; 0 for a notice."""
        return getattr(self.items[0], "arrived", 0.0)


class Inbox:
    """The lines of all sources. Every method may be called from any thread."""

    def __init__(self, waits: list[bool]) -> None:
        self.lines = [Line(each) for each in waits]
        self._changed = threading.Condition()
        self._is_closed = False
        self._open = len(waits)

    def put(self, place: int, item: LiveClip | SourceRecord) -> None:
        """Add to the line of the source at ``place``, by the rule of MOST_WAITING."""
        line = self.lines[place]
        with self._changed:
            if isinstance(item, LiveClip):
                self._make_room(line)
            elif len(line.items) - line.clips() >= MOST_NOTICES:
                _remove_first(SourceRecord, line)
            line.items.append(item)
            self._changed.notify_all()

    def _make_room(self, line: Line) -> None:
        if line.waits:
            self._changed.wait_for(lambda: line.clips() < MOST_WAITING or self._is_closed)
        elif line.clips() >= MOST_WAITING:
            oldest = _remove_first(LiveClip, line)
            line.dropped += 1
            _hand_on(oldest, line)

    def end(self) -> None:
        """One source will put nothing more."""
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let readers and workers end; what waits is given up."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def sleep(self, seconds: float) -> bool:
        """Wait; False at once when the inbox is closed."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._is_closed, seconds)

    def work(self, do: Callable[[int, LiveClip | SourceRecord, int], None]) -> None:
        """Give ``do`` one item after the other, with its place and the clips dropped before it.

        Returns when all sources have ended and nothing waits, or when the inbox is closed. The
        item that has waited longest comes first; items of one source come in order.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._next() or self._is_done())
                line = self._next()
                if self._is_closed or line is None:
                    return
                item = line.items.popleft()
                line.is_taken, dropped, line.dropped = True, line.dropped, 0
                self._changed.notify_all()
            try:
                do(self.lines.index(line), item, dropped)
            finally:
                with self._changed:
                    line.is_taken = False
                    self._changed.notify_all()

    def _next(self) -> Line | None:
        ready = [line for line in self.lines if line.items and not line.is_taken]
        return min(ready, key=Line.waiting_since, default=None)

    def _is_done(self) -> bool:
        return not self._open and not any(line.items for line in self.lines)


Item = TypeVar("Item", LiveClip, SourceRecord)


def _remove_first(kind: type[Item], line: Line) -> Item:
    """The oldest item of a kind, which waits no longer."""
    for place, each in enumerate(line.items):
        if isinstance(each, kind):
            del line.items[place]
            return each
    raise LookupError(f"no {kind.__name__} waits")


def _hand_on(dropped: LiveClip, line: Line) -> None:
    """What a dropped clip says of losses goes to the next one."""
    for each in line.items:
        if isinstance(each, LiveClip):
            each.lost_frames += dropped.lost_frames
            each.is_first |= dropped.is_first
            return
