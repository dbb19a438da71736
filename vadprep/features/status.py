"""How far a feature folder is and how fast it goes on, and whether what it holds is sound."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vadprep.core.errors import FeaturesError, ShardError, SpecError, VadprepError, counted
from vadprep.core.records import Video
from vadprep.core.spec import Spec
from vadprep.core.untrusted import reading
from vadprep.data import SourceIndex, fingerprint, similar_ids, size_of
from vadprep.features.engines import engines_of, mixture
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.journal import Event, Row, last_events
from vadprep.features.lease import Run, running
from vadprep.features.remote import AnyPath
from vadprep.features.shard import MISSING, REMEDY, StoredVideo

WINDOW_SECONDS = 300.0
WINDOW_VIDEOS = 10
"""The pace is that of the last minutes, or of so many videos where they take longer."""


class Pace(NamedTuple):
    """How fast the ranks that run are now."""

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
    engines: tuple[str, ...]
    """What computed the features: of several, ``mixture`` says what that means."""
    missing: tuple[str, ...]
    """Videos without a row that are not being extracted."""
    planned: int
    done: int
    num_clips: int
    num_frames: int
    repaired_frames: int
    """Sums over the videos that are done."""
    shards_planned: int
    shards_final: int
    runs: tuple[Run, ...]
    """Those that work on it now, by their leases."""
    running: Mapping[str, int]
    """Video that is being extracted -> rank of its run."""
    pace: Pace

    @property
    def spec(self) -> Spec:
        return self.folder.spec

    @property
    def is_complete(self) -> bool:
        is_final = self.shards_final == self.shards_planned
        return is_final and not self.missing and not self.running and not self.failed

    def why(self, video_id: str) -> str:
        """One line on a video: done, failed with the reason, running, missing, or not planned."""
        place, row = self.folder.plan.places.get(video_id), self.rows.get(video_id)
        if place is None:
            near = similar_ids(video_id, self.folder.plan.places)
            plan = self.folder.path / "plan.csv"
            return f"not in {plan}: no extraction to this folder had this video{near}"
        file, group = self.folder.location(place)
        if row is None:
            rank = self.running.get(video_id)
            what = "not extracted yet" if rank is None else f"being extracted by rank {rank}"
            return f"{what}: planned for {self.folder.shard(place.shard)}, run the same extract"
        if row.is_done:
            note = f"; {row.reason}" if row.reason else ""
            return f"done: {counted(row.num_clips, 'clip')} in {file}, group {group}{note}"
        again = "the same extract" if row.kind == MISSING else "extract --retry-failed"
        return f"failed: {row.reason}; {again} tries it again"


@reading(FeaturesError)
def status(path: str | AnyPath) -> dict[str, Status]:
    """Stream -> how far it is, of the features in a folder FEATURES or FEATURES/rgb, or at a URL.

    ``status(path)["rgb"].why(video_id)`` says why a video is missing. Raises FeaturesError when
    there are no features or a table is damaged.
    """
    return {name: stream_status(each) for name, each in required_folders(path).items()}


@reading(FeaturesError)
def stream_status(folder: StreamFolder) -> Status:
    """Done, failed, running and missing videos of a stream folder."""
    found, places = folder.rows(), folder.plan.places
    rows = {each: found[each] for each in places if each in found}
    done = [row for row in rows.values() if row.is_done]
    runs = running(folder.path) if isinstance(folder.path, Path) else []
    events, now = last_events(folder.path) if runs else {}, time.time()
    in_work = {video_id: run.rank for run in runs for video_id in run.in_flight}
    live = {run.rank for run in runs} & events.keys()
    paces = [rank_pace(events[rank], now) for rank in live]
    left = [pace.seconds_left for pace in paces if pace.seconds_left is not None]
    return Status(
        folder=folder,
        rows=rows,
        failed=tuple(
            row for row in rows.values() if not row.is_done and row.video_id not in in_work
        ),
        repaired=tuple(row for row in done if row.repaired_frames),
        noted=tuple(row for row in done if row.reason),
        engines=tuple(sorted(engines_of(folder, [row.video_id for row in done]))),
        missing=tuple(each for each in places if each not in rows and each not in in_work),
        planned=len(places),
        done=len(done),
        num_clips=sum(row.num_clips for row in done),
        num_frames=sum(row.num_frames for row in done),
        repaired_frames=sum(row.repaired_frames for row in done),
        shards_planned=len(folder.plan.shards),
        shards_final=len(folder.final_shards()),
        runs=tuple(runs),
        running=in_work,
        pace=Pace(
            sum(pace.videos_per_second for pace in paces),
            sum(pace.clips_per_second for pace in paces),
            max(left, default=None),
        ),
    )


def rank_pace(events: Sequence[Event], now: float) -> Pace:
    """The pace of one rank by the events of its last run, since the end of its first video."""
    begin = max((number for number, each in enumerate(events) if each.event == "run"), default=0)
    events = events[begin:]
    ends = [each for each in events if each.is_end]
    if not ends:
        return Pace()
    since = ends[-WINDOW_VIDEOS - 1].time if len(ends) > WINDOW_VIDEOS else ends[0].time
    start = max(ends[0].time, min(since, now - WINDOW_SECONDS))
    inside = [each for each in ends if each.time > start]
    seconds = max(now - start, 1e-3)
    left = [(each.time, each.work_left) for each in events if each.work_left is not None]
    _, before = max((each for each in left if each[0] <= start), default=(left or [(0, 0)])[0])
    after = left[-1][1] if left else 0
    return Pace(
        len(inside) / seconds,
        sum(each.num_clips for each in inside) / seconds,
        after * seconds / (before - after) if before > after else None,
    )


def missing_ranks(folders: Iterable[StreamFolder], world_size: int) -> list[int]:
    """Ranks of ``world_size`` that own a shard which is not final, in any of the streams.

    A video that has failed is finished: it keeps no shard from being final. Raises FeaturesError
    for a stream without a plan, of which nothing can be said.
    """
    ranks = set()
    for each in folders:
        if not (each.path / "plan.csv").exists():
            raise FeaturesError(f"{each.path}: no plan.csv yet: run the same extract again")
        planned = set(range(len(each.plan.shards)))
        # Parts beside a final shard are work left, too.
        unfinished = (planned - each.final_shards()) | each.partial_shards()
        ranks |= {shard % world_size for shard in unfinished}
    return sorted(ranks)


def last_world_size(folders: Iterable[StreamFolder]) -> int | None:
    """The number of ranks of the run that started a video last; None when none has."""
    ranks = [last_events(each.path, len(each.plan.shards)).values() for each in folders]
    starts = [event for events in chain(*ranks) for event in events if event.world_size]
    # Of events of one millisecond the one that was written last.
    return max(reversed(starts), key=attrgetter("time")).world_size if starts else None


def array_of(ranks: Sequence[int]) -> str:
    """Ascending ranks as ``sbatch --array`` takes them: ``0,2-3``."""
    runs = groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])
    spans = ([rank for _, rank in group] for _, group in runs)
    return ",".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else f"{s[0]}" for s in spans)


@dataclass(frozen=True)
class Verification:
    """What ``verify`` read and what it found wrong, a line each."""

    path: Path
    videos: int
    clips: int
    bytes: int
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What is no damage and should be known: that several engines made the features."""


@reading(FeaturesError)
def verify(path: str | AnyPath, sources: str | Path | None = None) -> dict[str, Verification]:
    """Stream -> what was read and found wrong, of features in a folder or at a URL.

    With ``sources``, the folder of the videos, each video is compared with the size and SHA-256 of
    the file that its features were made of. Raises FeaturesError when there are no features or a
    table is damaged, and ManifestError when ``sources`` is no folder.
    """
    index = SourceIndex(sources) if sources else None
    return {name: verify_stream(each, index) for name, each in required_folders(path).items()}


@reading(FeaturesError)
def verify_stream(folder: StreamFolder, sources: SourceIndex | None = None) -> Verification:
    """Read everything: checksums, shapes, finite values, spans against frame counts; and the
    videos below ``sources``.

    What is damaged is a problem, not an exception, and the rest is read none the less; only a
    damaged table (plan.csv, manifest-*.csv) raises FeaturesError.
    """
    rows = folder.rows()
    problems: dict[str, None] = {}  # a shard that cannot be read is one for all its videos
    videos = clips = size = 0
    dim: int | None = None
    for video_id, place in folder.plan.places.items():
        try:
            if video_id not in rows:
                raise FeaturesError("not extracted yet; run the same extract again")
            stored = folder.stored(video_id)
            _check(stored, rows[video_id], dim, folder)
            if stored.is_done:
                dim = dim or stored.shape[2]
                videos, clips = videos + 1, clips + stored.shape[0]
                size += math.prod(stored.shape) * np.dtype(stored.dtype).itemsize
                if sources:
                    _check_source(stored, sources)
        except (ShardError, SpecError) as error:  # names its file
            problems[str(error)] = None
        except (VadprepError, ValueError) as error:
            problems[f"{folder.location(place)[0]}: {video_id!r}: {error}"] = None
    done = [video_id for video_id, row in rows.items() if row.is_done]
    notes = filter(None, [mixture(engines_of(folder, done))])
    return Verification(folder.path, videos, clips, size, tuple(problems), tuple(notes))


def _check_source(stored: StoredVideo, sources: SourceIndex) -> None:
    """Raise FeaturesError when the file of a video is not the one that its features were made of,
    DecodeError or ManifestError when it cannot be found."""
    known = stored.attributes
    if "source_sha256" not in known:
        raise FeaturesError("the features do not say of what file they were made: imported")
    path = sources.find(Video(stored.video_id, str(known.get("path", stored.video_id))))
    remedy = "extract --retry-failed makes the features again"
    if (size := size_of(path)) != known.get("source_bytes"):
        what = f"it has {size} bytes, not {known.get('source_bytes')}"
        remedy = remedy if size else "it is empty or cannot be looked at: restore it"
    else:
        try:
            if fingerprint(path)["source_sha256"] == known["source_sha256"]:
                return
            what, remedy = "its content differs", "extract it into another --out"
        except OSError as error:
            what, remedy = f"it cannot be read: {error.strerror}", "check the file"
    raise FeaturesError(f"{path} is not the file that the features were made of: {what}; {remedy}")


def _check(stored: StoredVideo, row: Row, dim: int | None, folder: StreamFolder) -> None:
    """Raise FeaturesError or ValueError for the first thing that is wrong with a video."""
    if stored.is_done != row.is_done:
        raise FeaturesError(
            f"{stored.attributes['status']} by its file, {row.status} by manifest-*.csv: "
            f"{folder.remedy(row.video_id)}"
        )
    if not stored.is_done:
        return
    if dim not in (None, stored.shape[2]):
        raise FeaturesError(f"features: dimension {stored.shape[2]}, expected {dim}: {REMEDY}")
    is_finite = all([bool(np.isfinite(block).all()) for block in stored.blocks()])  # reads all
    checksum = stored.attributes["features_crc32"]
    if f"{checksum:08x}" != row.checksum or stored.shape[0] != row.num_clips:
        remedy = folder.remedy(row.video_id)
        raise FeaturesError(f"the row in manifest-*.csv is of other features: {remedy}")
    if not is_finite:
        raise FeaturesError("features: values that are not finite")
