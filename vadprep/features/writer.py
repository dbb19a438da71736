"""The one writer of shards: it journals finished videos and makes full shards final.

A video is written to its own file in ``shard-N.partial/`` (``folder.partial_video``), then
``commit`` or ``record`` adds its row to the journal, then ``finish`` makes the shard final. After
a kill ``recover`` completes from the files what was written.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vadprep.core.atomic import disk_errors, is_temporary, make_folder, names_in, remove_stale
from vadprep.core.errors import VadprepError
from vadprep.core.log import get_logger
from vadprep.core.records import SKIPPED, Report
from vadprep.data import size_of
from vadprep.features.folder import Place, StreamFolder
from vadprep.features.journal import Journal, Row, row_of
from vadprep.features.lease import Lease
from vadprep.features.shard import DONE, FAILED, StoredVideo, read_video, write_shard

logger = get_logger(__name__)

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

    Temporary files that other hosts have left are removed only with a ``lease``. Raises
    FeaturesError when the plan of the folder is not, or not any more, that on the disk.
    """

    def __init__(
        self, folder: StreamFolder, share: Share | None = None, lease: Lease | None = None
    ) -> None:
        self.folder = folder
        self.share = share or Share()
        self.lease = lease
        self._plan_state: tuple[int, ...] = ()
        self._check_plan()
        self.journal = Journal(folder.path, self.share.rank)
        self.rows = folder.rows()
        """The latest row of each finished video, of all ranks."""
        self.expected: set[str] = set()
        """Ids of the videos that this run is to report; see ``lacking``."""
        self._left: Counter[int] = Counter()
        """Videos of each shard that this run has still to report."""
        self._started: set[int] = set()

    def _check_plan(self) -> None:
        """``StreamFolder.check_plan``, where the file is another one than at the last time."""
        with suppress(OSError):
            file = os.stat(self.folder.path / "plan.csv")
            state = file.st_ino, file.st_size, file.st_mtime_ns
            if state != self._plan_state:
                self.folder.check_plan()
                self._plan_state = state

    def recover(self) -> None:
        """Bring the journal up to the files, and finish what a kill left half done."""
        path, owned = self.folder.path, self.share.owned(self.folder)

        def is_sole(name: str) -> bool:
            number = name.removeprefix("shard-").removesuffix(".h5")
            return self.lease is not None and number.isdecimal() and int(number) in owned

        for common in (path.parent, path):
            remove_stale(common)
        remove_stale(path / "shards", is_sole)
        final, partial = self.folder.final_shards(), self.folder.partial_shards()
        for shard in owned:
            if shard in partial:
                remove_stale(self.folder.partial(shard), lambda name: self.lease is not None)
            if shard in final or shard in partial:
                self.adopt(shard)
            if shard in partial:
                self.finish(shard)

    def adopt(self, shard: int) -> None:
        """Journal the videos of a shard whose file says more than their row, or another thing: a
        kill can come between."""
        ids, fresh = self.folder.plan.shards[shard], self._fresh(shard)
        is_final = self.folder.shard(shard).exists()
        for position in range(len(ids)) if is_final else sorted(fresh):
            row = self.rows.get(ids[position])
            # A row that replaced another one is lost when its file was removed.
            if row is None or position in fresh or (not row.is_done and self.journal.is_new):
                found = row_of(self.folder.stored(ids[position]), shard)
                if row is None or _outcome(found) != _outcome(row):
                    event = EVENTS[found.status]
                    self.journal.event(event, ids[position], shard=shard, recovered=True)
                    self._add(found)

    def _fresh(self, shard: int) -> set[int]:
        """Positions of the videos of a shard that have a file of their own.

        That of a failure is removed before where the final shard has the features of the video:
        they stay.
        """
        folder, final, fresh = self.folder, self.folder.shard(shard), self.folder.finished(shard)
        for place in [Place(shard, each) for each in fresh if final.exists()]:
            own = folder.partial_video(place)
            if not read_video(own).is_done and read_video(final, place.group).is_done:
                with disk_errors(own):
                    own.unlink()
                fresh.remove(place.position)
        return fresh

    def is_replaced(self, video_id: str, source: Path) -> bool:
        """True when a video of this rank is done and ``source``, its file, has another size now.

        The sizes are compared where the file has changed since then by the clock of its disk. A
        file without any, or that cannot be looked at, does not count as replaced.
        """
        row, place = self.rows.get(video_id), self.folder.plan.places[video_id]
        if row is None or not row.is_done or place.shard not in self.share.owned(self.folder):
            return False
        with suppress(OSError, VadprepError):  # verify says what is wrong with a shard
            if source.stat().st_ctime > row.time:
                size = self.folder.stored(video_id, keep=True).attributes.get("source_bytes")
                return size is not None and size_of(source) not in (0, size)
        return False

    def lacking(
        self,
        video_ids: Iterable[str],
        retry_failed: bool,
        replaced: Collection[str] = (),
        there: Collection[str] = (),
    ) -> set[str]:
        """Those of ``video_ids`` that this rank has to do: unfinished, or failed or ``replaced``
        and retried, or failed since the file was missing, where the file is ``there`` now."""
        owned, final = self.share.owned(self.folder), self.folder.final_shards()
        partial = {n: self.folder.finished(n) for n in self.folder.partial_shards() - final}
        self.expected = set()
        for video_id in video_ids:
            place, row = self.folder.plan.places[video_id], self.rows.get(video_id)
            is_finished = place.shard in final or place.position in partial.get(place.shard, ())
            is_retried = self.folder.is_retried(row, retry_failed, there.__contains__)
            is_retried |= retry_failed and video_id in replaced
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

        A failure does not take the place of features that are there: they stay, and a warning and
        the event say so. ``values`` are added to the event. Raises LeaseError when another run has
        taken the shards over, FeaturesError when it has replaced the plan.
        """
        self._check_plan()
        if self.lease:
            self.lease.check()
            self.lease.ended(report.video_id, report.num_clips, report.num_frames)
        shard = self._shard(report.video_id)
        values |= asdict(report) | {"checksum": report.checksums.get(self.folder.spec.stream, 0)}
        for name in ("video_id", "status", "checksums", "share"):
            del values[name]
        is_kept = False
        if report.status == FAILED and (row := self.rows.get(report.video_id)) and row.is_done:
            self._fresh(shard)
            is_kept = self.folder.stored(report.video_id).is_done
        if is_kept:
            values["reason"] = (
                f"the file has changed and cannot be read ({report.reason}): its features stay; "
                "restore the file, or put a whole one in its place and extract with --retry-failed"
            )
            logger.warning("%r: %s", report.video_id, values["reason"])
        self.journal.event(EVENTS[report.status], report.video_id, shard=shard, **values)
        self._left[shard] -= 1
        if report.status != SKIPPED and not is_kept:
            self.record(report.video_id)
        if not self._left[shard]:
            self.finish(shard)

    def record(self, video_id: str) -> None:
        """Add the row of a finished video, as its file says, finished now."""
        self._add(row_of(self.folder.stored(video_id), self._shard(video_id)))

    def _add(self, row: Row) -> None:
        if earlier := self.rows.get(row.video_id):  # the clock of its host may be ahead of ours
            row = row._replace(time=max(row.time, earlier.time + 0.001))
        self.journal.add(row)
        self.rows[row.video_id] = row

    def finish(self, shard: int, videos: Mapping[str, StoredVideo] | None = None) -> None:
        """Make ``shard`` final when all its videos are finished, here or in ``videos``.

        Otherwise those of ``videos`` that have no file yet get one. A video with a file of its
        own replaces what a shard that is final already holds of it.
        """
        folder, spec = self.folder, self.folder.spec
        places = {each: folder.plan.places[each] for each in folder.plan.shards[shard]}
        path, partial, fresh = folder.shard(shard), folder.partial(shard), self._fresh(shard)
        is_final = path.exists()
        offered = {} if is_final or videos is None else videos
        new = {each: video for each, video in offered.items() if places[each].position not in fresh}
        if is_final or len(fresh) + len(new) == len(places):
            if fresh or new:
                found = [new.get(each) or folder.stored(each) for each in places]
                write_shard(path, spec, found)
            if partial.exists():
                with disk_errors(partial):
                    shutil.rmtree(partial)
        else:
            for video_id, video in new.items():
                make_folder(partial)
                write_shard(folder.partial_video(places[video_id]), spec, [video])

    def sweep(self) -> None:
        """Remove half files of workers that were ended while writing, once they are dead.

        Half files of this process are removed as well: a signal can leave some.
        """
        shards, deadline = self.folder.path / "shards", time.monotonic() + SECONDS_TO_DIE
        partials = [self.folder.partial(shard) for shard in self._started]
        while True:
            for folder in (shards, *partials):
                remove_stale(folder, with_own=True)
            is_left = any(is_temporary(name) for folder in partials for name in names_in(folder))
            if not is_left or time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def _shard(self, video_id: str) -> int:
        return self.folder.plan.places[video_id].shard


def _outcome(row: Row) -> tuple[object, ...]:
    """What became of a video, in all columns that every version has."""
    return row.status, row.num_clips, row.checksum, row.reason
