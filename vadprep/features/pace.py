"""How fast a stream is going and when it will be there, from the last events of its ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vadprep.features.journal import event_paths, last_events

WINDOW_SECONDS = 300.0
WINDOW_VIDEOS = 10
"""The pace is that of the last minutes, or of so many videos where they take longer."""

BYTES_READ = 4 << 20
LEAST_BYTES_READ = 16 << 10
"""Of the ends of the files of events: of all ranks together, and of one at least."""

ENDS = ("committed", "failed", "skipped")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Running:
    """A video in the works."""

    video_id: str
    rank: int
    since: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Pace:
    """What the ranks that run are doing now."""

    running: tuple[Running, ...] = ()
    videos_per_second: float = 0.0
    clips_per_second: float = 0.0
    seconds_left: float | None = None
    """Until the last of the ranks is through with what it has; None where nothing says so."""


def pace_of(folder: Path, now: float, live: Collection[int]) -> Pace:
    """The pace of the stream in ``folder``, of the ranks that run now, which are ``live``."""
    if not live:
        return Pace()
    paths = {rank: path for rank, path in event_paths(folder).items() if rank in live}
    most = max(LEAST_BYTES_READ, BYTES_READ // max(1, len(paths)))
    paces = [pace_of_rank(last_events(path, most), rank, now) for rank, path in paths.items()]
    return Pace(
        tuple(each for pace in paces for each in pace.running),
        sum(pace.videos_per_second for pace in paces),
        sum(pace.clips_per_second for pace in paces),
        max((pace.seconds_left for pace in paces if pace.seconds_left is not None), default=None),
    )


def pace_of_rank(events: Sequence[Event], rank: int, now: float) -> Pace:
    """The pace of one rank by its last events: of its last run alone, since its first video."""
    events = _of_last_run(events)
    running = tuple(Running(each, rank, since) for each, since in _in_works(events).items())
    ends = [each for each in events if each["event"] in ENDS and not each.get("recovered")]
    if not ends:
        return Pace(running)
    first = ends[0]["time"]  # before it, networks were loaded, too
    since = ends[-WINDOW_VIDEOS - 1]["time"] if len(ends) > WINDOW_VIDEOS else first
    start = max(first, min(since, now - WINDOW_SECONDS))
    inside = [each for each in ends if each["time"] > start]
    seconds = max(now - start, 1e-3)
    return Pace(
        running,
        len(inside) / seconds,
        sum(each.get("num_clips", 0) for each in inside) / seconds,
        _seconds_left(events, start, seconds),
    )


def _seconds_left(events: Sequence[Event], start: float, seconds: float) -> float | None:
    """What is left by what was done since ``start``; the work of videos is known beforehand."""
    left = [(each["time"], each["work_left"]) for each in events if "work_left" in each]
    if len(left) < 2:
        return None
    before = max((each for each in left if each[0] <= start), default=left[0])[1]
    now = left[-1][1]
    return now * seconds / (before - now) if before > now else None


def _of_last_run(events: Sequence[Event]) -> Sequence[Event]:
    """Events from the last start of the rank on, or all when that is further back."""
    begins = [number for number, each in enumerate(events) if each["event"] == "run"]
    return events[begins[-1] :] if begins else events


def _in_works(events: Sequence[Event]) -> dict[str, float]:
    """Video id -> when it was started, of those that have not ended."""
    works: dict[str, float] = {}
    for each in events:
        if each["event"] == "start":
            works[each["video_id"]] = each["time"]
        elif each["event"] in ENDS:
            works.pop(each["video_id"], None)
    return works
