"""Which video goes to which worker, and which is to blame when a worker dies.

Arithmetic alone: ``ray_runner`` does what is decided here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vadprep.core.records import SKIPPED, Report, Task

WORKER_ATTEMPTS = 2
"""Workers that may die over one video before it is left for the next run."""

BESIDE = "decoding"
"""Of the seconds of a report those that no stage waited for: the decoder works beside."""

VIDEO_BYTES = 1 << 30
"""Memory of a video in progress, its decoder's included: ``vadprep bench memory``."""


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
        tasks, load.tasks = load.tasks, []
        if is_blamed:
            self._deaths.update(task.video.video_id for task in tasks)
        deaths = [self._deaths[task.video.video_id] for task in tasks]
        counted = list(zip(tasks, deaths, strict=True))
        self._again.extendleft(task for task, count in reversed(counted) if not count)
        self._suspects += [task for task, count in counted if 0 < count < WORKER_ATTEMPTS]
        reason = f"{WORKER_ATTEMPTS} workers died over it; run again, with more memory?"
        given_up = [
            Report(task.video.video_id, SKIPPED, reason)
            for task, count in counted
            if count >= WORKER_ATTEMPTS
        ]
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
