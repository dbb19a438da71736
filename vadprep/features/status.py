"""How far a feature folder is, how fast it goes on, and what became of each video."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from vadprep.core.errors import FeaturesError
from vadprep.core.spec import Spec
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.journal import Event, Row, last_events, read_rows
from vadprep.features.lease import Run
from vadprep.features.remote import AnyPath, as_path

WINDOW_SECONDS = 300.0
WINDOW_VIDEOS = 10
"""The pace is that of the last minutes, or of so many videos where they take longer."""

MOST_COMPARED = 20_000
"""Planned ids that an unknown one is compared with, which takes 0.1 ms each; of a longer plan
only those that contain it, or that it contains."""


@dataclass(frozen=True)
class Running:
    """A video that is being extracted."""

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
    """Until the last of the ranks has done its work; None where that is not known."""


@dataclass(frozen=True)
class Status:
    """How far a stream is, from the plan, the journal and the leases."""

    folder: StreamFolder
    rows: Mapping[str, Row]
    """The latest row of each planned video that is done or has failed."""
    failed: tuple[Row, ...]
    repaired: tuple[Row, ...]
    """Videos that are done with frames repaired."""
    noted: tuple[Row, ...]
    """Videos that are done but not as long as header or manifest say, with the likely cause."""
    missing: tuple[str, ...]
    """Videos without a row, those that are being extracted among them."""
    num_clips: int
    num_frames: int
    repaired_frames: int
    """Sums over the videos that are done."""
    shards_final: int
    runs: tuple[Run, ...]
    """Those that work on it now, by their leases."""
    pace: Pace

    @property
    def spec(self) -> Spec:
        return self.folder.spec

    @property
    def planned(self) -> int:
        return len(self.folder.plan.places)

    @property
    def shards_planned(self) -> int:
        return len(self.folder.plan.shards)

    @property
    def done(self) -> int:
        return len(self.rows) - len(self.failed)

    @property
    def is_complete(self) -> bool:
        is_final = self.shards_final == self.shards_planned
        return is_final and not self.missing and not self.failed

    def why(self, video_id: str) -> str:
        """One line on a video: done, failed with the reason, running, missing, or not planned."""
        place, row = self.folder.plan.places.get(video_id), self.rows.get(video_id)
        if place is None:
            ids: Iterable[str] = self.folder.plan.places
            if self.planned > MOST_COMPARED:
                ids = [each for each in ids if each in video_id or video_id in each][:MOST_COMPARED]
            near = difflib.get_close_matches(video_id, ids, 3)
            like = f"; similar ids: {', '.join(map(repr, near))}" if near else ""
            return (
                f"not in {self.folder.plan_path}: no extraction to this folder had this video{like}"
            )
        file, group = self.folder.location(place)
        if row is None:
            running = [each for each in self.pace.running if each.video_id == video_id]
            what = f"being extracted by rank {running[0].rank}" if running else "not extracted yet"
            return f"{what}: planned for {self.folder.shard(place.shard)}, run the same extract"
        if row.is_done:
            note = f"; {row.reason}" if row.reason else ""
            return f"done: {row.num_clips} clips in {file}, group {group}{note}"
        return f"failed: {row.reason}; extract --retry-failed tries it again"


def status(path: str | AnyPath) -> dict[str, Status]:
    """Stream -> how far it is, of the features in a folder FEATURES or FEATURES/rgb, or at a URL.

    ``status(path)["rgb"].why(video_id)`` says why a video is missing. Raises FeaturesError when
    there are no features or a table is damaged.
    """
    return {name: stream_status(each) for name, each in required_folders(as_path(path)).items()}


def stream_status(folder: StreamFolder) -> Status:
    """Done, failed, running and missing videos of a stream folder."""
    found, places = read_rows(folder.path), folder.plan.places
    rows = {each: found[each] for each in places if each in found}
    done = [row for row in rows.values() if row.is_done]
    runs = folder.runs()
    return Status(
        folder=folder,
        rows=rows,
        failed=tuple(row for row in rows.values() if not row.is_done),
        repaired=tuple(row for row in done if row.repaired_frames),
        noted=tuple(row for row in done if row.reason),
        missing=tuple(each for each in places if each not in rows),
        num_clips=sum(row.num_clips for row in done),
        num_frames=sum(row.num_frames for row in done),
        repaired_frames=sum(row.repaired_frames for row in done),
        shards_final=len(folder.final_shards()),
        runs=tuple(runs),
        pace=_pace(folder.path, {run.rank for run in runs}),
    )


# ---------------------------------------------------------------- pace


def _pace(path: Path, live: set[int]) -> Pace:
    """The pace of the stream in ``path``, of the ranks that run now."""
    events = last_events(path) if live else {}
    now = time.time()
    paces = [rank_pace(each, rank, now) for rank, each in events.items() if rank in live]
    return Pace(
        tuple(each for pace in paces for each in pace.running),
        sum(pace.videos_per_second for pace in paces),
        sum(pace.clips_per_second for pace in paces),
        max((pace.seconds_left for pace in paces if pace.seconds_left is not None), default=None),
    )


def rank_pace(events: Sequence[Event], rank: int, now: float) -> Pace:
    """The pace of one rank by the events of its last run, since the end of its first video."""
    begin = max((number for number, each in enumerate(events) if each.event == "run"), default=0)
    events = events[begin:]
    started: dict[str, float] = {}
    for event in events:
        if event.event == "start":
            started[event.video_id] = event.time
        elif event.is_end:
            started.pop(event.video_id, None)
    running = tuple(Running(each, rank, since) for each, since in started.items())
    ends = [each for each in events if each.is_end]
    if not ends:
        return Pace(running)
    since = ends[-WINDOW_VIDEOS - 1].time if len(ends) > WINDOW_VIDEOS else ends[0].time
    start = max(ends[0].time, min(since, now - WINDOW_SECONDS))
    inside = [each for each in ends if each.time > start]
    seconds = max(now - start, 1e-3)
    return Pace(
        running,
        len(inside) / seconds,
        sum(each.num_clips or 0 for each in inside) / seconds,
        _seconds_left(events, start, seconds),
    )


def _seconds_left(events: Iterable[Event], start: float, seconds: float) -> float | None:
    """The work that is left, at the speed of the ``seconds`` since ``start``."""
    left = [(each.time, each.work_left) for each in events if each.work_left is not None]
    if len(left) < 2:
        return None
    before = max((each for each in left if each[0] <= start), default=left[0])[1]
    now = left[-1][1]
    return now * seconds / (before - now) if before > now else None


# ---------------------------------------------------------------- ranks of a job array


def missing_ranks(folders: Iterable[StreamFolder], world_size: int) -> list[int]:
    """Ranks of ``world_size`` that own a shard which is not final, in any of the streams.

    A video that has failed is finished: it keeps no shard from being final. Raises FeaturesError
    for a stream without a plan, of which nothing can be said.
    """
    ranks = set()
    for each in folders:
        if not each.plan_path.exists():
            raise FeaturesError(f"{each.path}: no plan.csv yet: run the same extract again")
        ranks |= {shard % world_size for shard in each.unfinished_shards()}
    return sorted(ranks)


def last_world_size(folders: Iterable[StreamFolder]) -> int | None:
    """The number of ranks of the run that started a video last; None when none has."""
    starts = [
        (event.time, event.world_size)
        for folder in folders
        for events in last_events(folder.path).values()
        for event in events
        if event.world_size
    ]
    # Of events of one millisecond the one that was written last.
    return max(reversed(starts), key=lambda start: start[0])[1] if starts else None


def array_of(ranks: Sequence[int]) -> str:
    """Ascending ranks as ``sbatch --array`` takes them: ``0,2-3``."""
    runs = groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])
    spans = ([rank for _, rank in group] for _, group in runs)
    return ",".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else f"{s[0]}" for s in spans)
