"""Seconds that the stages of a piece of work take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Block = TypeVar("Block")


class Stopwatch:
    """Seconds a stage, added up. What a stage within another takes counts for the inner alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """The sums so far, to a tenth of a millisecond."""
        return {name: round(seconds, 4) for name, seconds in self._seconds.items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the block to stage ``name``."""
        start, around = time.perf_counter(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + spent - self._inner
            self._inner = around + spent


def timed(blocks: Iterable[Block], watch: Stopwatch, stage: str) -> Iterator[Block]:
    """``blocks``, with the time spent waiting for each added to ``stage``."""
    iterator = iter(blocks)
    while True:
        with watch.stage(stage):
            block = next(iterator, None)
        if block is None:
            return
        yield block
