"""Which nodes can do the work, which video goes to which worker, and which video is to blame when
a worker dies. ``ray_runner`` does what is decided here."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import vadprep
from vadprep.core.atomic import create_temporary, disk_errors, temporary_name
from vadprep.core.errors import ClusterError
from vadprep.core.records import SKIPPED, Report, Task
from vadprep.data import size_of

WORKER_ATTEMPTS = 2
"""Workers that may die over one video before it is left for the next run."""

BESIDE = "decoding"
"""Of the seconds of a report those that no stage waited for: the decoder works beside."""

VIDEO_BYTES = 1 << 30
"""Memory of a video in progress, its decoder's included: ``vadprep bench memory``."""

SAMPLE = 3
"""Videos that are looked for on a node."""


@dataclass(frozen=True)
class NodeCheck:
    """What a node must have: this version, the videos, and the folder that holds the token."""

    version: str
    sources: tuple[tuple[Path, int], ...]
    """Some videos and their sizes in bytes."""
    token: Path

    def require(self) -> None:
        """Raise ClusterError, or OutputError, with the reason why this node cannot do the work."""
        mine, there = vadprep.__version__, self.token.parent
        if mine != self.version:
            raise ClusterError(f"it has vadprep {mine}, not {self.version}: install the same there")
        for path, size in self.sources:
            if not path.exists():
                raise ClusterError(
                    f"{path} is not there: the videos must lie under the same path on all nodes"
                )
            if (found := size_of(path)) != size:
                raise ClusterError(
                    f"{path} has {found} bytes there and {size} here: not the same file"
                )
        if not self.token.exists():
            raise ClusterError(
                f"{there} is another folder there: it must lie on a shared file system"
            )
        probe = temporary_name(there / "probe")
        with disk_errors(there):
            probe.touch()
            probe.unlink(missing_ok=True)


@contextmanager
def node_check(tasks: Sequence[Task], out: Path) -> Iterator[NodeCheck]:
    """The check for ``tasks`` with features under ``out``; its token is there meanwhile.

    Raises OutputError when the token cannot be written.
    """
    sample = tasks[:: max(1, len(tasks) // SAMPLE)][:SAMPLE]
    sources = tuple((task.source, size_of(task.source)) for task in sample if task.source)
    token, file = create_temporary(out / "token")
    try:
        yield NodeCheck(vadprep.__version__, sources, token)
    finally:
        file.close()
        token.unlink(missing_ok=True)


@dataclass(eq=False)
class Load:
    """What a worker has in hand."""

    limit: int = 1
    """Videos that it is to have in progress at once."""
    tasks: list[Task] = field(default_factory=list)
    is_alone: bool = False
    """It has a suspect, and gets no other video meanwhile."""


L = TypeVar("L", bound=Load)


class Workload:
    """The videos that are not reported yet, in the order in which they are to be done.

    All that were in progress of a worker that died are suspects. They are done again one at a
    time, each alone in a worker, so that the next death has one author.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._new = iter(tasks)
        self._again: deque[Task] = deque()
        """Handed out before, to a worker that was not to blame for its end."""
        self._suspects: deque[Task] = deque()
        self._deaths: Counter[str] = Counter()
        self.unfinished = len(tasks)
        """Videos not reported yet, in progress or not."""

    def hand_out(self, loads: Sequence[L]) -> tuple[L, Task] | None:
        """The next task and who gets it, of ``loads``; None when nothing can be given now."""
        if self._suspects and loads and not any(load.is_alone for load in loads):
            quiet = min(loads, key=lambda load: len(load.tasks))
            if not quiet.tasks:
                quiet.is_alone = True
                quiet.tasks.append(self._suspects.popleft())
                return quiet, quiet.tasks[0]
            loads = [load for load in loads if load is not quiet]  # it is to become quiet
        free = [load for load in loads if not load.is_alone and len(load.tasks) < load.limit]
        if not free:
            return None
        task = self._again.popleft() if self._again else next(self._new, None)
        if task is None:
            return None
        chosen = min(free, key=lambda load: len(load.tasks))
        chosen.tasks.append(task)
        return chosen, task

    def reported(self, load: Load, task: Task) -> None:
        """``task`` is done, for good or bad."""
        load.tasks.remove(task)
        load.is_alone = False
        self.unfinished -= 1

    def died(self, load: Load, is_blamed: bool) -> list[Report]:
        """Take back what a worker had when it died; reports of videos that are given up.

        ``is_blamed`` is False when it cannot have been a video, as when a whole node is gone.
        """
        given_up = []
        for task in load.tasks:
            video_id = task.video.video_id
            self._deaths[video_id] += is_blamed
            if not self._deaths[video_id]:
                self._again.append(task)
            elif self._deaths[video_id] < WORKER_ATTEMPTS:
                self._suspects.append(task)
            else:
                reason = f"{WORKER_ATTEMPTS} workers died over it; run again, with more memory?"
                given_up.append(Report(video_id, SKIPPED, reason))
        load.tasks = []
        self.unfinished -= len(given_up)
        return given_up


def most_videos(cores: int, free_bytes: int, workers: int) -> int:
    """Videos that a worker can have in progress, one of ``workers`` on a machine: a core and
    ``VIDEO_BYTES`` for each, but one in any case."""
    return max(1, min(cores, free_bytes // VIDEO_BYTES) // workers)


def next_limit(limit: int, seconds: Mapping[str, float], most: int) -> int:
    """Videos that a worker should have in progress, after one of ``limit`` took ``seconds``.

    One more while fewer than two of them, in the mean, have frames at hand: one that the network
    works for and one that is ready when it is through. ``seconds`` are those of a report.
    """
    total = sum(spent for stage, spent in seconds.items() if stage != BESIDE)
    with_frames = limit * (total - seconds.get("decode", 0.0))
    return min(limit + 1, most) if with_frames < 2 * total else limit
