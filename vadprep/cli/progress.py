"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

from vadprep.cli.text import duration, printable, reason_of, show_untrained
from vadprep.features.shard import DONE

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vadprep.extraction import Progress

PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""
PACE_SECONDS = 5.0
"""Least time after the first report before a pace is printed."""


@contextmanager
def shown_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for work that is counted: call it with (done, total). Off a terminal it is silent."""
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def update(done: int, total: int | None) -> None:
            bar.length = total or done
            bar.update(done - bar.pos)

        yield update


class _Mark(NamedTuple):
    """How far a run was at some time."""

    seconds: float
    """Of a clock with any zero."""
    clips: int = 0
    frames: int = 0
    work: float = 0.0
    """In frames, or in bytes where the numbers of frames are unknown."""


class Tally:
    """Videos, clips, frames and failures so far, and the pace.

    The pace counts from the first report: before it networks are loaded and compiled. It is not
    printed at once, since videos that started together also end together.
    """

    def __init__(self) -> None:
        self.start = _Mark(time.monotonic())
        self.first: _Mark | None = None
        """At the first report."""
        self.total = self.videos = self.clips = self.frames = self.failed = 0
        self.work = self.work_done = 0.0

    def add(self, progress: Progress) -> None:
        """Count a report; the first call, which has none, says how much is left to do."""
        self.total, self.videos = progress.videos, progress.videos - progress.videos_left
        self.work, self.work_done = progress.work, progress.work - progress.work_left
        if report := progress.report:
            self.clips += report.num_clips
            self.frames += report.num_frames
            self.failed += report.status != DONE
            self.first = self.first or self._now()

    def _now(self) -> _Mark:
        return _Mark(time.monotonic(), self.clips, self.frames, self.work_done)

    def line(self) -> str:
        """Counts, pace and time left in one line; at the end the time that the run took."""
        counts, now = f"{self.videos} of {self.total} videos", self._now()
        if self.videos == self.total:
            took = now.seconds - self.start.seconds
            return f"{counts}, {self._pace(self.start, now)}, took {duration(took)}"
        if self.first is None or now.seconds - self.first.seconds < PACE_SECONDS:
            return f"{counts}, {self.failed} failed, time unknown"
        left, done = "time unknown", now.work - self.first.work
        if done:
            seconds = (now.seconds - self.first.seconds) * (self.work - now.work) / done
            left = f"{duration(seconds)} left"
        return f"{counts}, {self._pace(self.first, now)}, {left}"

    def _pace(self, since: _Mark, now: _Mark) -> str:
        spent = max(now.seconds - since.seconds, 1e-9)
        return (
            f"{(now.clips - since.clips) / spent:.1f} clips/s, "
            f"{(now.frames - since.frames) / spent:.0f} frames/s, {self.failed} failed"
        )


class PlainProgress:
    """Prints a line every ten seconds, and one for each failure."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        """Count a report, and print a line when it is time."""
        self._count(progress)
        now = time.monotonic()
        is_last = self.tally.videos == self.tally.total
        if progress.report and (is_last or now - self._last >= PLAIN_SECONDS):
            self._last = now
            self.say(self.tally.line())

    def _count(self, progress: Progress) -> None:
        self.tally.add(progress)
        report = progress.report
        if report is None:
            show_untrained(progress.specs)
        elif report.status != DONE:
            self.say(f"{report.status}: {printable(reason_of(report.video_id, report.reason))}")

    def say(self, line: str) -> None:
        """Print a line to the error stream, which is not the result."""
        click.echo(line, err=True)


class LiveProgress(PlainProgress):
    """Redraws a bar, with the failures above it."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("loading the network", total=None)

    def __call__(self, progress: Progress) -> None:
        self._count(progress)
        tally = self.tally
        self._bar.update(
            self._task, total=tally.work, completed=tally.work_done, description=tally.line()
        )

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown_progress() -> Iterator[PlainProgress]:
    """The progress that suits the error stream: live on a terminal, else plain."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    # Fits on 80 characters; the spinner turns while a video of hours is extracted.
    columns = (SpinnerColumn("line"), BarColumn(bar_width=6), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield LiveProgress(bar)
