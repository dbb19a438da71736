"""The one writer of shards: it journals finished videos and makes full shards final.

Extraction, import and merge differ in where features come from; what follows is the same. A
video is written to its own file in ``shard-N.partial/`` (``folder.partial_video``), then
``commit`` or ``record`` adds its row to the journal, then ``finish`` makes the shard final. A
kill at any moment costs at most the videos that were not written: ``recover`` completes the rest
from the files.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from vadprep.core.atomic import disk_errors, is_temporary, make_folder, names_in, remove_stale
from vadprep.core.records import SKIPPED, Report
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Journal, Row, read_rows, row_of
from vadprep.features.lease import Lease
from vadprep.features.plan import Place
from vadprep.features.shard import DONE, FAILED, StoredVideo, write_shard

EVENTS = {DONE: "committed", FAILED: "failed", SKIPPED: "skipped"}

SECONDS_TO_DIE = 3.0
"""How long workers that were ended in the middle of a file have to die."""


@dataclass(frozen=True)
class Share:
    """The shards of one rank: ``shards[rank::world_size]``."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank = {self.rank}, world_size = {self.world_size}: ranks run from 0 to "
                "world size - 1"
            )

    def owned(self, folder: StreamFolder) -> range:
        """Numbers of the shards of this rank, finished or not."""
        return range(self.rank, len(folder.plan.shards), self.world_size)


class StreamWriter:
    """Brings a rank's share of one stream's folder from its present state to final shards.

    Temporary files that other hosts have left are removed only with a ``lease``.
    """

    def __init__(
        self, folder: StreamFolder, share: Share | None = None, lease: Lease | None = None
    ) -> None:
        self.folder = folder
        self.share = share or Share()
        self.lease = lease
        self.journal = Journal(folder.path, self.share.rank)
        self.rows = read_rows(folder.path)
        """The latest row of each finished video, of all ranks."""
        self.expected: set[str] = set()
        """Ids of the videos that this run is to report; see ``lacking``."""
        self._left: Counter[int] = Counter()
        """Videos of each shard that this run has still to report."""
        self._started: set[int] = set()

    def recover(self) -> None:
        """Bring the journal up to the files, and finish what a kill left half done."""
        path = self.folder.path
        for common in (path.parent, path):
            remove_stale(common)
        remove_stale(path / "shards", self._is_sole)
        final, partial = self.folder.final_shards(), self.folder.partial_shards()
        for shard in self.share.owned(self.folder):
            ids = self.folder.plan.shards[shard]
            fresh: set[int] = set()
            if shard in partial:
                remove_stale(self.folder.partial(shard), lambda name: self.lease is not None)
                fresh = self.folder.finished(shard)
            for position in range(len(ids)) if shard in final else sorted(fresh):
                row = self.rows.get(ids[position])
                # A row that replaced a failure is lost when its file was removed.
                if row is None or (not row.is_done and (position in fresh or self.journal.is_new)):
                    self._adopt(Place(shard, position))
            if shard in partial:
                self.finish(shard)

    def _is_sole(self, name: str) -> bool:
        """True for the name of a shard that nobody else may write now."""
        number = name.removeprefix("shard-").removesuffix(".h5")
        share = self.share
        is_mine = number.isdecimal() and int(number) % share.world_size == share.rank
        return self.lease is not None and is_mine

    def _adopt(self, place: Place) -> None:
        """Journal a video whose file was committed just before a kill."""
        stored = self.folder.stored(place)
        if stored.is_done or stored.video_id not in self.rows:
            self.journal.event("committed", stored.video_id, shard=place.shard, recovered=True)
            self._add(row_of(stored, place.shard))

    def lacking(self, video_ids: Iterable[str], retry_failed: bool) -> set[str]:
        """Those of ``video_ids`` that this rank has to do: unfinished, or failed and retried."""
        owned, final = self.share.owned(self.folder), self.folder.final_shards()
        partial = {n: self.folder.finished(n) for n in self.folder.partial_shards() - final}
        self.expected = set()
        for video_id in video_ids:
            place, row = self.folder.plan.places[video_id], self.rows.get(video_id)
            is_finished = place.shard in final or place.position in partial.get(place.shard, ())
            is_retried = retry_failed and row is not None and not row.is_done
            if place.shard in owned and (is_retried or not is_finished):
                self.expected.add(video_id)
        return self.expected

    def begin(self, **about: Any) -> None:
        """Journal that a run begins, with what it says of itself, unless nothing is lacking."""
        if self.expected:
            self.journal.event("run", **about)
        self._left = Counter(map(self._shard, self.expected))

    def start(self, video_id: str) -> None:
        """Journal that a video is started, and make the folder for its file."""
        shard = self._shard(video_id)
        if shard not in self._started:
            make_folder(self.folder.partial(shard))
            self._started.add(shard)
        self.journal.event("start", video_id, world_size=self.share.world_size)
        if self.lease:
            self.lease.started(video_id)

    def commit(self, report: Report, **values: Any) -> None:
        """Journal what became of a video; its shard becomes final when it was the last.

        ``values`` are added to the event. Raises LeaseError when another run has taken the
        shards over.
        """
        if self.lease:
            self.lease.check()
            self.lease.ended(report.video_id, report.num_clips, report.num_frames)
        shard = self._shard(report.video_id)
        values |= asdict(report) | {"checksum": report.checksums.get(self.folder.spec.stream, 0)}
        for name in ("video_id", "status", "checksums"):
            del values[name]
        self.journal.event(EVENTS[report.status], report.video_id, shard=shard, **values)
        self._left[shard] -= 1
        if report.status != SKIPPED:
            self.record(report.video_id)
        if not self._left[shard]:
            self.finish(shard)

    def record(self, video_id: str, at: float | None = None) -> None:
        """Add the row of a finished video, as its file says, finished now or at the time ``at``."""
        place = self.folder.plan.places[video_id]
        row = row_of(self.folder.stored(place), place.shard)
        self._add(row if at is None else replace(row, time=at))

    def _add(self, row: Row) -> None:
        if earlier := self.rows.get(row.video_id):  # the clock of its host may be ahead of ours
            row = replace(row, time=max(row.time, earlier.time + 0.001))
        self.journal.add(row)
        self.rows[row.video_id] = row

    def is_finished(self, place: Place) -> bool:
        """True when there is a file with the video at ``place``, done or failed."""
        return self.folder.location(place)[0].exists()

    def finish(self, shard: int, videos: Mapping[str, StoredVideo] | None = None) -> None:
        """Make ``shard`` final when all its videos are finished, here or in ``videos``.

        Otherwise those of ``videos`` that have no file yet get one. A video with a file of its
        own replaces what a shard that is final already holds of it.
        """
        ids, videos = self.folder.plan.shards[shard], videos or {}
        path, partial = self.folder.shard(shard), self.folder.partial(shard)
        fresh = self.folder.finished(shard)
        places = {video_id: Place(shard, position) for position, video_id in enumerate(ids)}
        is_final = path.exists()
        new = {
            video_id: video
            for video_id, video in videos.items()
            if not is_final and places[video_id].position not in fresh
        }
        if not is_final and len(fresh) + len(new) < len(ids):
            for video_id, video in new.items():
                make_folder(partial)
                write_shard(self.folder.partial_video(places[video_id]), self.folder.spec, [video])
            return
        if fresh or new:
            found = [new.get(each) or self.folder.stored(place) for each, place in places.items()]
            write_shard(path, self.folder.spec, found)
        if partial.exists():
            with disk_errors(partial):
                shutil.rmtree(partial)

    def sweep(self) -> None:
        """Remove half files of workers that were ended while writing, once they are dead.

        Half files of this process are removed as well: a signal can leave some.
        """
        remove_stale(self.folder.path / "shards", with_own=True)
        deadline = time.monotonic() + SECONDS_TO_DIE
        folders = [self.folder.partial(shard) for shard in self._started]
        while folders and time.monotonic() < deadline:
            for folder in folders:
                remove_stale(folder, with_own=True)
            folders = [each for each in folders if any(map(is_temporary, names_in(each)))]
            if folders:
                time.sleep(0.05)

    def _shard(self, video_id: str) -> int:
        return self.folder.plan.places[video_id].shard
