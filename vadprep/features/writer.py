"""One writer of shards: what is finished is committed, and a full shard becomes final."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import disk_errors, is_temporary, make_folder, names_in, remove_stale
from vadprep.core.records import SKIPPED, Report
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Journal, Row, row_of
from vadprep.features.latest import IS_DONE, IS_FAILED, MISSING, Standing
from vadprep.features.lease import Lease
from vadprep.features.plan import Place
from vadprep.features.shard import DONE, FAILED, write_shard

EVENTS = {DONE: "committed", FAILED: "failed", SKIPPED: "skipped"}

SECONDS_TO_DIE = 3.0
"""What workers that were ended amid a file have, before their files are left to the next run."""


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


class StreamDriver:
    """Takes a rank's share of one stream's folder from where it stands to final shards."""

    def __init__(self, folder: StreamFolder, share: Share, lease: Lease | None = None) -> None:
        self.folder = folder
        self.share = share
        self.lease = lease
        self.journal = Journal(folder.path, share.rank)
        self._lacks: NDArray[np.bool_] = np.zeros(0, bool)
        self._left: Counter[int] = Counter()
        """Videos of each shard that this run has still to report."""
        self._begun: set[int] = set()
        """Shards that this run has put a video into the works of."""

    @cached_property
    def _standing(self) -> Standing:
        """What became of each video: read once, and then kept up to this rank's commits."""
        return Standing(self.folder)

    def recover(self) -> None:
        """Bring the journal up to the files, and finish what a kill left half done."""
        path = self.folder.path
        for common in (path.parent, path):
            remove_stale(common)
        remove_stale(path / "shards", self._is_sole)
        plan, state = self.folder.plan, self._standing.state
        final, partial = self.folder.final_shards(), self.folder.partial_shards()
        is_new = self.journal.is_new
        for shard in self.share.owned(self.folder):
            states = state[plan.in_shard(shard)]
            fresh: set[int] = set()
            if shard in partial:
                remove_stale(self.folder.partial(shard), lambda name: self.lease is not None)
                fresh = self.folder.finished(shard)
            if shard in final and shard not in partial and (states == IS_DONE).all():
                continue
            for position in range(len(states)) if shard in final else sorted(fresh):
                # With the journal a row may be lost that took the place of a failure.
                retried = states[position] == IS_FAILED and (position in fresh or is_new)
                if states[position] == MISSING or retried:
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
        earlier = self._standing.earlier(stored.video_id)
        if earlier is None or stored.is_done:
            self.journal.event("committed", stored.video_id, shard=place.shard, recovered=True)
            self._finished(row_of(stored, place.shard))

    def _finished(self, row: Row) -> None:
        written = self.journal.finished(row, self._standing.earlier(row.video_id))
        self._standing.note(written, self.share.rank)

    def lacking(self, asked: Iterable[str], retry_failed: bool) -> NDArray[np.bool_]:
        """Which videos of the plan this rank has to do: unfinished, or failed and retried.

        Of those that are ``asked`` for: a plan may hold videos of other manifests.
        """
        plan, owned = self.folder.plan, self.share.owned(self.folder)
        final, partial = self.folder.final_shards(), self.folder.partial_shards()
        lacks = np.zeros(len(plan.places), bool)
        for shard in owned:
            numbers = plan.in_shard(shard)
            lacks[numbers] = shard not in final
            if shard in partial and shard not in final:
                lacks[[numbers.start + each for each in self.folder.finished(shard)]] = False
            if retry_failed:
                lacks[numbers] |= self._standing.state[numbers] == IS_FAILED
        is_asked = np.zeros(len(lacks), bool)
        is_asked[np.fromiter(map(plan.number, asked), np.int64)] = True
        self._lacks = lacks & is_asked
        return self._lacks

    def expect(self, about: Mapping[str, str | int | float]) -> None:
        """Make ready for the reports of the videos that ``lacking`` has named, if there are any.

        ``about`` is what the event of the run says.
        """
        if not self._lacks.any():
            return
        self.journal.event("run", "", **about)
        starts = np.array(self.folder.plan.starts, np.int64)
        counts = np.add.reduceat(self._lacks, starts, dtype=np.int64)
        self._left = Counter(
            {shard: int(counts[shard]) for shard in map(int, np.flatnonzero(counts))}
        )

    def expects(self, video_id: str) -> bool:
        """Whether ``lacking`` has named a video."""
        return bool(self._lacks[self.folder.plan.number(video_id)])

    def start(self, video_id: str) -> None:
        """Journal that a video is begun, and see that there is a folder for its file."""
        shard = self._shard(video_id)
        if shard not in self._begun:
            make_folder(self.folder.partial(shard))
            self._begun.add(shard)
        self.journal.event("start", video_id, world_size=self.share.world_size)  # see ``ranks``
        if self.lease:
            self.lease.started(video_id)

    def sweep(self) -> None:
        """Remove the half files of workers that were ended amid writing, once they are dead.

        And our own: a signal may come when a file is there and nobody has taken charge of it.
        """
        remove_stale(self.folder.path / "shards", with_own=True)
        deadline = time.monotonic() + SECONDS_TO_DIE
        folders = [self.folder.partial(shard) for shard in self._begun]
        while folders and time.monotonic() < deadline:
            for folder in folders:
                remove_stale(folder, with_own=True)
            folders = [each for each in folders if any(map(is_temporary, names_in(each)))]
            if folders:
                time.sleep(0.05)

    def _shard(self, video_id: str) -> int:
        return self.folder.plan.places[video_id].shard

    def commit(self, report: Report, **values: Any) -> None:
        """Journal what became of a video; its shard becomes final when it was the last.

        Raises LeaseError when another run has taken the shards over.
        """
        if self.lease:
            self.lease.check()
            self.lease.ended(report.video_id, report.num_clips, report.num_frames)
        stream, shard = self.folder.spec.stream, self._shard(report.video_id)
        row = _row(report, shard, report.checksums.get(stream, 0))
        values |= asdict(report) | {"checksum": report.checksums.get(stream, 0)}
        for name in ("video_id", "status", "checksums"):
            del values[name]
        self.journal.event(EVENTS[report.status], report.video_id, shard=shard, **values)
        self._left[shard] -= 1
        if report.status != SKIPPED:
            self._finished(row)
        if not self._left[shard]:
            self.finish(shard)

    def finish(self, shard: int) -> None:
        """Make ``shard`` final when all its videos are finished.

        A retried video replaces its failure in a shard that is final already.
        """
        partial = self.folder.partial(shard)
        fresh = self.folder.finished(shard)
        places = [Place(shard, each) for each in range(len(self.folder.plan.shards[shard]))]
        if not self.folder.shard(shard).exists() and len(fresh) < len(places):
            return
        if fresh:
            videos = [self.folder.stored(place) for place in places]
            write_shard(self.folder.shard(shard), self.folder.spec, videos)
        if partial.exists():
            with disk_errors(partial):
                shutil.rmtree(partial)


def _row(report: Report, shard: int, checksum: int) -> Row:
    return Row(
        video_id=report.video_id,
        shard=shard,
        status=report.status,
        num_clips=report.num_clips,
        num_frames=report.num_frames,
        repaired_frames=report.repaired_frames,
        fps=report.fps,
        decoder=report.decoder,
        checksum=f"{checksum:08x}",
        reason=report.reason or report.length_note,
        time=time.time(),
    )
