"""Seconds that the stages of an extraction take: measured in a worker, summed from its events."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

from vadprep.features.journal import Event

Block = TypeVar("Block")

DECODING = "decoding"
"""Seconds of the decoder itself, which runs beside its worker."""
OTHER = "other"
"""Between the start and the end of a video in no stage: starting a decoder, waiting for a turn."""

STAGES = {
    "decode": "waiting for the decoder",
    "resize": "resizing, cropping",
    "flow": "TV-L1, or reading saved flow",
    "compute": "the network",
    "write": "writing features",
    OTHER: "starting decoders, waiting for a turn",
}
"""Stages of a worker, and what each is."""

SLOWEST = 10


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


class SlowVideo(NamedTuple):
    """One of the videos that took longest."""

    video_id: str
    seconds: float
    num_clips: int


@dataclass(frozen=True)
class StageSeconds:
    """Sums over the videos that are done and have been timed."""

    videos: int
    clips: int
    seconds: Mapping[str, float]
    """Of the workers, by stage."""
    decoding_seconds: float | None
    """Of the decoders; None when a video has none on record."""
    slowest: tuple[SlowVideo, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it for programs."""
        return {**asdict(self), "slowest": [each._asdict() for each in self.slowest]}


def stage_seconds(events: Iterable[Event]) -> StageSeconds:
    """Sums over ``events``, those of a rank in their order."""
    seconds: Counter[str] = Counter()
    started: dict[str, float] = {}
    timed, decoding = list[SlowVideo](), list[float | None]()
    for event in events:
        if event.event == "start":
            started[event.video_id] = event.time
        elif event.event == "committed" and event.is_end:
            spent = dict(event.seconds or {})
            decoding.append(spent.pop(DECODING, None))
            whole = event.time - started.pop(event.video_id, event.time)
            spent[OTHER] = max(0.0, whole - sum(spent.values()))
            seconds.update(spent)
            timed.append(SlowVideo(event.video_id, sum(spent.values()), event.num_clips or 0))
    known = [each for each in decoding if each is not None]
    return StageSeconds(
        videos=len(timed),
        clips=sum(each.num_clips for each in timed),
        seconds=dict(seconds),
        decoding_seconds=sum(known) if timed and len(known) == len(timed) else None,
        slowest=tuple(heapq.nlargest(SLOWEST, timed, key=lambda each: each.seconds)),
    )
