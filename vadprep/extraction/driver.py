"""One rank's share of feature folders: tasks -> reports -> journals -> final shards.

Each stream has its folder, plan and journal of its own, so a kill between the commits of a
video's streams costs the missing one, and a stream can be added later. The driver alone writes
journals and final shards; the workers of a runner write the videos' own files. Rerunning is the
recovery: whatever a kill left, the files say what is done.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from vadprep.core.records import Report, Task
from vadprep.core.signals import check_stop, request_stop, stop_on_signals
from vadprep.data.manifest import Manifest
from vadprep.extraction.tasks import Tasks
from vadprep.features.folder import StreamFolder
from vadprep.features.lease import Lease, leased
from vadprep.features.writer import Share, StreamDriver

Worker = Callable[[Task], Report]
OnStart = Callable[[Task], None]
Runner = Callable[[Sequence[Task], OnStart], Generator[Report, None, None]]


class Driver:
    """The streams of a run together: a video is one task, for whatever streams it lacks."""

    def __init__(
        self,
        folders: Sequence[StreamFolder],
        manifest: Manifest,
        root: Path,
        share: Share,
        leases: Mapping[Path, Lease] | None = None,
    ) -> None:
        self.manifest = manifest
        self.root = root
        self.share = share
        self.streams = {
            each.spec.stream: StreamDriver(each, share, (leases or {}).get(each.path))
            for each in folders
        }

    def recover(self) -> None:
        """Bring the journals up to the files, and finish what a kill left half done."""
        for stream in self.streams.values():
            stream.recover()

    def tasks(self, retry_failed: bool = False) -> Tasks:
        """What is left to do, the longest video first."""
        lacking = {
            name: (stream.folder, stream.lacking(self._asked(), retry_failed))
            for name, stream in self.streams.items()
        }
        return Tasks(self.manifest, self.root, lacking)

    def _asked(self) -> Iterator[str]:
        return (video.video_id for video in self.manifest.videos)

    def run(
        self,
        runner: Runner,
        tasks: Tasks,
        progress: Callable[[Report], None],
        **where: str | int,
    ) -> None:
        """Run ``tasks``, committing each as it is reported and each shard as it is complete.

        ``where`` says of the machine what the events are to tell. Raises Stopped when a signal
        has arrived; what is finished stays finished.
        """
        for stream in self.streams.values():
            stream.expect(self._about(tasks) | where)
        videos, work = len(tasks), tasks.work
        with self._swept(), closing(runner(tasks, self._start)) as reports:
            for report in reports:
                videos, work = videos - 1, work - tasks.work_of(report.video_id)
                for stream in self._streams_of(report.video_id):
                    stream.commit(report, videos_left=videos, work_left=work)
                progress(report)
                check_stop()

    def _about(self, tasks: Tasks) -> dict[str, str | int | float]:
        return {
            "rank": self.share.rank,
            "world_size": self.share.world_size,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "videos_left": len(tasks),
            "work_left": tasks.work,
            "unit": tasks.unit,
        }

    @contextmanager
    def _swept(self) -> Iterator[None]:
        """Nothing half written stays behind, however the block ends."""
        try:
            yield
        finally:
            for stream in self.streams.values():
                stream.sweep()

    def _streams_of(self, video_id: str) -> list[StreamDriver]:
        return [stream for stream in self.streams.values() if stream.expects(video_id)]

    def _start(self, task: Task) -> None:
        for stream in self._streams_of(task.video.video_id):
            stream.start(task.video.video_id)


@contextmanager
def sole_driver(
    folders: Sequence[StreamFolder], manifest: Manifest, root: Path, share: Share
) -> Iterator[Driver]:
    """A Driver of shards that no other run works on for the time of the block.

    Raises LeaseError when another run does, Stopped when a signal arrives inside the block.
    """
    with stop_on_signals(), ExitStack() as held:
        leases = {
            path: held.enter_context(leased(path, share.rank, share.world_size, request_stop))
            for path in (each.path for each in folders)
        }
        yield Driver(folders, manifest, root, share, leases)
