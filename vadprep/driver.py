"""One rank's share of feature folders: tasks -> reports -> journals -> final shards.

Each stream has its folder, plan and journal of its own, so a kill between the commits of a
video's streams costs the missing one, and a stream can be added later. The driver alone writes
journals and final shards; the workers of a runner write the videos' own files. Rerunning is the
recovery: whatever a kill left, the files say what is done.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vadprep.datasets import SourceIndex
from vadprep.extract import SKIPPED, Report, Task
from vadprep.files import disk_errors, is_temporary, make_folder, names_in, remove_stale
from vadprep.folder import Place, StreamFolder
from vadprep.journal import Journal, Row, read_rows, row_of
from vadprep.manifest import Manifest
from vadprep.records import DecodeError, Video
from vadprep.shards import DONE, FAILED, write_shard
from vadprep.signals import check_stop, stop_on_signals
from vadprep.sources import size_of

Worker = Callable[[Task], Report]
OnStart = Callable[[Task], None]
Runner = Callable[[Sequence[Task], OnStart], Generator[Report, None, None]]
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

    def __init__(self, folder: StreamFolder, share: Share) -> None:
        self.folder = folder
        self.share = share
        self.journal = Journal(folder.path, share.rank)
        self._left: Counter[int] = Counter()
        """Videos of each shard that this run has still to report."""

    def recover(self) -> None:
        """Bring the journal up to the files, and finish what a kill left half done."""
        path = self.folder.path
        for common in (path.parent, path, path / "shards"):
            remove_stale(common)
        rows = read_rows(path)
        final = self.folder.final_shards()
        for shard in self.share.owned(self.folder):
            remove_stale(self.folder.partial(shard))
            ids = self.folder.plan.shards[shard]
            partial = self.folder.finished(shard)
            for position in range(len(ids)) if shard in final else sorted(partial):
                row = rows.get(ids[position])
                if row is None or (row.status == FAILED and position in partial):
                    self._adopt(Place(shard, position), row)
            self.finish(shard)

    def _adopt(self, place: Place, row: Row | None) -> None:
        """Journal a video whose file was committed just before a kill."""
        stored = self.folder.stored(place)
        if row is None or row.status != stored.attributes["status"]:
            self.journal.event("committed", stored.video_id, shard=place.shard, recovered=True)
            self.journal.finished(row_of(stored, place.shard))

    def left(self, retry_failed: bool) -> Iterator[tuple[str, Path]]:
        """Id and file to write of each video that is not finished, or failed and is retried."""
        rows = read_rows(self.folder.path)
        failed = {each for each, row in rows.items() if row.status == FAILED and retry_failed}
        final = self.folder.final_shards()
        for shard in self.share.owned(self.folder):
            ids = self.folder.plan.shards[shard]
            finished = range(len(ids)) if shard in final else self.folder.finished(shard)
            for position, video_id in enumerate(ids):
                if position not in finished or video_id in failed:
                    yield video_id, self.folder.partial_video(Place(shard, position))

    def expect(self, video_ids: Iterable[str]) -> None:
        """Make ready for the reports of ``video_ids``."""
        self._left = Counter(map(self._shard, video_ids))
        for shard in self._left:
            make_folder(self.folder.partial(shard))

    def sweep(self) -> None:
        """Remove the half files of workers that were ended amid writing, once they are dead."""
        deadline = time.monotonic() + SECONDS_TO_DIE
        folders = [self.folder.partial(shard) for shard in self._left]
        while folders and time.monotonic() < deadline:
            for folder in folders:
                remove_stale(folder)
            folders = [each for each in folders if any(map(is_temporary, names_in(each)))]
            if folders:
                time.sleep(0.05)

    def _shard(self, video_id: str) -> int:
        return self.folder.plan.places[video_id].shard

    def commit(self, report: Report) -> None:
        """Journal what became of a video; its shard becomes final when it was the last."""
        stream, shard = self.folder.spec.stream, self._shard(report.video_id)
        row = _row(report, shard, report.checksums.get(stream, 0))
        values = asdict(report) | {"checksum": report.checksums.get(stream, 0)}
        for name in ("video_id", "status", "checksums"):
            del values[name]
        self.journal.event(EVENTS[report.status], report.video_id, shard=shard, **values)
        self._left[shard] -= 1
        if report.status != SKIPPED:
            self.journal.finished(row)
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


class Driver:
    """The streams of a run together: a video is one task, for whatever streams it lacks."""

    def __init__(
        self, folders: Sequence[StreamFolder], manifest: Manifest, root: Path, share: Share
    ) -> None:
        self.manifest = manifest
        self.root = root
        self.streams = {each.spec.stream: StreamDriver(each, share) for each in folders}
        self._tasks: dict[str, Task] = {}

    def recover(self) -> None:
        """Bring the journals up to the files, and finish what a kill left half done."""
        for stream in self.streams.values():
            stream.recover()

    def tasks(self, retry_failed: bool = False) -> list[Task]:
        """What is left to do, the longest video first."""
        targets: dict[str, dict[str, Path]] = {}
        for name, stream in self.streams.items():
            for video_id, target in stream.left(retry_failed):
                targets.setdefault(video_id, {})[name] = target
        index = SourceIndex(self.root)
        left = [
            self._task(video, targets[video.video_id], index)
            for video in self.manifest.videos
            if video.video_id in targets
        ]
        return sorted(left, key=_cost(left), reverse=True)

    def _task(self, video: Video, targets: Mapping[str, Path], index: SourceIndex) -> Task:
        try:
            return Task(video, targets, index.find(video))
        except DecodeError as error:
            return Task(video, targets, missing=str(error))

    def run(
        self, runner: Runner, tasks: Sequence[Task], progress: Callable[[Report], None]
    ) -> None:
        """Run ``tasks``, committing each as it is reported and each shard as it is complete.

        Raises Stopped when a signal arrives; what is finished stays finished.
        """
        self._tasks = {task.video.video_id: task for task in tasks}
        for name, stream in self.streams.items():
            stream.expect(task.video.video_id for task in tasks if name in task.targets)
        with stop_on_signals(), self._swept(), closing(runner(tasks, self._start)) as reports:
            for report in reports:
                for stream in self._streams_of(report.video_id):
                    stream.commit(report)
                progress(report)
                check_stop()

    @contextmanager
    def _swept(self) -> Iterator[None]:
        """Nothing half written stays behind, however the block ends."""
        try:
            yield
        finally:
            for stream in self.streams.values():
                stream.sweep()

    def _streams_of(self, video_id: str) -> list[StreamDriver]:
        return [self.streams[name] for name in self._tasks[video_id].targets]

    def _start(self, task: Task) -> None:
        for stream in self._streams_of(task.video.video_id):
            stream.journal.event("start", task.video.video_id)


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


def _cost(tasks: Sequence[Task]) -> Callable[[Task], int]:
    """Number of frames where the manifest has it for all, else bytes of the files."""
    if all(task.video.num_frames for task in tasks):
        return lambda task: task.video.num_frames or 0
    return lambda task: size_of(task.source) if task.source else 0
