"""How an extraction is going: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from vadprep.cli.text import duration, printable, reason_of, show_untrained
from vadprep.extraction import Progress
from vadprep.features.shard import DONE

PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""
PACE_SECONDS = 5.0
"""Least time from which a pace is told."""


class Mark(NamedTuple):
    """How far a run was at some time."""

    seconds: float
    """By a clock of any beginning."""
    clips: int = 0
    frames: int = 0
    work: float = 0.0
    """In frames, or in bytes where frames are unknown."""


class Tally:
    """Videos, clips, frames and failures so far, and the pace.

    The pace is that since the first report: loading networks and compiling come before it. It is
    not told until the clock has gone on from there for a while, since videos that were begun
    together also end together.
    """

    def __init__(self) -> None:
        self.start = Mark(time.monotonic())
        self.first: Mark | None = None
        """At the first report."""
        self.total = self.videos = self.clips = self.frames = self.failed = 0
        self.work = self.work_done = 0.0

    def add(self, progress: Progress) -> None:
        """Count a report, or take up what is left to do."""
        self.total, self.videos = progress.videos, progress.videos - progress.videos_left
        self.work, self.work_done = progress.work, progress.work - progress.work_left
        if report := progress.report:
            self.clips += report.num_clips
            self.frames += report.num_frames
            self.failed += report.status != DONE
            self.first = self.first or self._now()

    def _now(self) -> Mark:
        return Mark(time.monotonic(), self.clips, self.frames, self.work_done)

    def line(self) -> str:
        """Counts, pace and what is left, in one line; at the end the time that it took."""
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

    def _pace(self, since: Mark, now: Mark) -> str:
        spent = max(now.seconds - since.seconds, 1e-9)
        return (
            f"{(now.clips - since.clips) / spent:.1f} clips/s, "
            f"{(now.frames - since.frames) / spent:.0f} frames/s, {self.failed} failed"
        )


class PlainProgress:
    """A line now and then, and one for each failure."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        """Count a report and say so when it is time."""
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
    """A bar that is drawn again and again, with the failures above it."""

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
    """The progress that fits where the output goes."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    # Just what fits on 80 characters; the spinner turns through a video of hours.
    columns = (SpinnerColumn("line"), BarColumn(bar_width=6), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield LiveProgress(bar)
