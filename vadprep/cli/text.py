"""What several commands print: tables, lists, sizes, durations and progress."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

import click

from vadprep.core.errors import counted, printable as printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vadprep.core.records import Report
    from vadprep.core.spec import Spec
    from vadprep.extraction import Progress

MOST_LISTED = 20
"""Lines of a list that are printed; a longer list ends with the number of the others."""

Cells = Sequence[object]


def show(rows: Iterable[Cells]) -> None:
    """Print rows of cells in aligned columns; columns of numbers are aligned to the right.

    On a terminal cells are wrapped to its width; a table of too many columns is turned on its side,
    or each row becomes a paragraph.
    In a file or pipe each row is one line.
    """
    table = [[_cell(each) for each in row] for row in rows]
    width = shown_width()
    widths = _widths(table, width)
    if widths is None:
        turned = [list(column) for column in zip(*table, strict=True)]
        widths = _widths(turned, width)
        if widths is None:  # a paragraph for each row
            heads, *others = table
            for values in others:
                pairs = [f"{head} {value}" for head, value in zip(heads, values, strict=True)]
                click.echo(fill(", ".join(pairs), width or 80, subsequent_indent="  "))
            return
        table = turned
    columns = []
    for cells, at_most in zip(zip(*table, strict=True), widths, strict=True):
        numbers = [cell.replace(",", "").replace(".", "") for cell in cells[1:]]
        is_numeric = bool(numbers) and all(each.isdigit() or each in ("", "-") for each in numbers)
        parts = [
            [cell] if len(cell) <= at_most else wrap(cell, at_most, break_on_hyphens=False)
            for cell in cells
        ]
        columns.append(
            [[p.rjust(at_most) if is_numeric else p.ljust(at_most) for p in each] for each in parts]
        )
    for row in zip(*columns, strict=True):
        for at in range(max(map(len, row))):
            each = [
                cell[at] if at < len(cell) else " " * w for cell, w in zip(row, widths, strict=True)
            ]
            click.echo("  ".join(each).rstrip())


def shown_width() -> int | None:
    """Columns of the terminal; None when the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _widths(table: list[list[str]], width: int | None) -> list[int] | None:
    """Widths of columns that together fit ``width``; None where the words are too long for it."""
    columns = list(zip(*table, strict=True))
    widths = [max(map(len, cells)) for cells in columns]
    least = [
        max(len(word) for cell in cells for word in (cell.split() or [""])) for cells in columns
    ]
    while width and sum(widths) + 2 * (len(widths) - 1) > width:
        spare, at = max(
            (w - few, at) for at, (w, few) in enumerate(zip(widths, least, strict=True))
        )
        if not spare:
            return None
        widths[at] -= 1
    return widths


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else printable(str(value))


def size(num_bytes: float) -> str:
    """Bytes in units of 1024: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``3 min 05 s`` or ``7 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def is_quiet() -> bool:
    """True when only results and errors are printed (``-q``)."""
    return not logging.getLogger("vadprep").isEnabledFor(logging.WARNING)


def is_verbose() -> bool:
    """True when more than usual is printed (``-v``)."""
    return logging.getLogger("vadprep").isEnabledFor(logging.DEBUG)


def note(line: str) -> None:
    """Print a line that is neither result nor error, to the error stream, unless quiet."""
    if not is_quiet():
        click.echo(line, err=True)


def show_list(heading: str, lines: Sequence[str], more: str = "not shown") -> None:
    """Print the first 20 of ``lines``, each after ``heading``, and the number of the others.

    Notes are not printed with ``-q``.
    """
    if heading == "note" and is_quiet():
        return
    for line in lines[:MOST_LISTED]:
        click.echo(f"{heading}: {printable(line)}", err=True)
    if (left := len(lines) - MOST_LISTED) > 0:
        click.echo(f"{heading}: and {left:,} more ({more})", err=True)


def reason_of(video_id: str, reason: str) -> str:
    """``ID: reason``; a reason may begin with the id already, when that is a path."""
    return reason if reason.startswith(f"{printable(video_id)}: ") else f"{video_id}: {reason}"


def show_untrained(specs: Iterable[Spec]) -> None:
    """Warn that features of random weights are useless for anything but trying things out."""
    for weights in dict.fromkeys(spec.weights for spec in specs if spec.is_random):
        click.echo(f"weights {weights}: NOT TRAINED, features are for trying things out", err=True)


PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""
LONG_SECONDS = 20.0
"""A video that is in work for so long shows its own progress."""
MOST_ROWS = 4
"""Such videos that are shown."""
MOST_NAME = 60
"""Characters of its name, the last ones."""
PACE_SECONDS = 5.0
"""Least time after the first report before a pace is printed: videos that started together also
end together."""


@contextmanager
def shown_bar(label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar for counted work, called with (done, total); off a terminal only its label."""
    stream = getattr(sys.stderr, "of_bar", sys.stderr)
    with click.progressbar(length=1, label=label, file=stream, hidden=is_quiet()) as bar:

        def update(done: int, total: int | None) -> None:
            bar.length = total or done
            bar.update(done - bar.pos)

        yield update


@contextmanager
def shown_progress() -> Iterator[ShownProgress]:
    """The progress that suits the error stream: a bar on a terminal, else plain lines.

    With ``-q`` only failures are printed, with ``-v`` a line for every video.
    """
    if is_quiet() or is_verbose() or not sys.stderr.isatty():
        yield ShownProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    # Fits on 80 characters; the spinner turns while a video of hours is extracted.
    columns = (
        SpinnerColumn("line"),
        BarColumn(bar_width=6),
        TextColumn("{task.description}", markup=False),
    )
    stream = getattr(sys.stderr, "of_bar", sys.stderr)
    with Progress(*columns, console=Console(file=stream)) as bar:
        yield ShownProgress(bar)


class ShownProgress:
    """Shows counts, pace and time left: in a bar, else in a line every ten seconds. The pace
    counts from the first report: before it networks are loaded and compiled."""

    def __init__(self, bar: Bar | None = None) -> None:
        self.bar = bar
        self.task = bar.add_task("loading the network", total=None) if bar else None
        self.clips = self.frames = self.failed = self.missing = 0
        self.start = (time.monotonic(), 0, 0, 0.0)
        """Seconds, clips, frames and work done at the start, and at the first report."""
        self.first: tuple[float, int, int, float] | None = None
        self.shown = -math.inf
        self.seen: dict[str, float] = {}
        """When each of the videos in work was first seen."""
        self.rows: dict[str, Any] = {}
        """Of the bar: those of videos that take long."""

    def __call__(self, progress: Progress) -> None:
        """Count a report; the first call, which has none, says how much is left to do."""
        if report := progress.report:
            self.clips += report.num_clips
            self.frames += report.num_frames
            if report.status != "done":
                self.failed += 1
            is_missing = report.kind == "missing"
            if report.status != "done" and not (is_missing and self.missing):  # the first of many
                self.say(f"{report.status}: {printable(reason_of(report.video_id, report.reason))}")
            self.missing += is_missing
        elif progress.is_start:
            show_untrained(progress.specs)
        line, now = self.line(progress), time.monotonic()
        self.seen = {each.video_id: self.seen.get(each.video_id, now) for each in progress.running}
        slow = [e for e in progress.running if now - self.seen[e.video_id] >= LONG_SECONDS]
        if self.bar and self.task is not None:
            done = progress.work - progress.work_left
            self.bar.update(self.task, total=progress.work, completed=done, description=line)
            self._show_rows(slow[:MOST_ROWS])
        elif report and is_verbose():
            note(f"{report.video_id}: {report.status}, {counted(report.num_clips, 'clip')}; {line}")
        elif (report or progress.running) and (
            now - self.shown >= PLAIN_SECONDS or not progress.videos_left
        ):
            self.shown = now
            named = [f"{printable(each.video_id)} {each.share:.0%}" for each in slow[:MOST_ROWS]]
            note("; ".join([line, *named]))

    def _show_rows(self, slow: Sequence[Report]) -> None:
        """A row of the bar for each video that takes long."""
        assert self.bar
        ids = [each.video_id for each in slow]
        for video_id in [each for each in self.rows if each not in ids]:
            self.bar.remove_task(self.rows.pop(video_id))
        for each in slow:
            line = f"{printable(each.video_id)[-MOST_NAME:]} {each.share:.0%}"
            if each.video_id not in self.rows:
                self.rows[each.video_id] = self.bar.add_task(line, total=1.0)
            self.bar.update(self.rows[each.video_id], completed=each.share, description=line)

    def line(self, progress: Progress) -> str:
        """Counts, pace and time left in one line; at the end the time that the run took."""
        work = progress.work - progress.work_left
        clips_so_far = self.clips + sum(each.num_clips for each in progress.running)
        frames_so_far = self.frames + sum(each.num_frames for each in progress.running)
        now = (time.monotonic(), clips_so_far, frames_so_far, work)
        if not progress.is_start:
            self.first = self.first or now
        since = self.first if progress.videos_left else self.start
        counts = f"{progress.videos - progress.videos_left} of {counted(progress.videos, 'video')}"
        if since is None or progress.videos_left and now[0] - since[0] < PACE_SECONDS:
            return f"{counts}, {self.failed} failed, time unknown"
        seconds, clips, frames, done = (b - a for a, b in zip(since, now, strict=True))
        seconds = max(seconds, 1e-9)
        pace = f"{clips / seconds:.1f} clips/s, {frames / seconds:.0f} frames/s"
        left = f"took {duration(seconds)}"
        if progress.videos_left:
            rate = done / seconds
            left = f"{duration(progress.work_left / rate)} left" if rate else "time unknown"
        return f"{counts}, {pace}, {self.failed} failed, {left}"

    def say(self, line: str) -> None:
        """Print a line to the error stream, which is not the result."""
        if self.bar:
            self.bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, err=True)
