"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import os
import re
import sys
from dataclasses import replace

import click
import pytest

from vadprep.cli import text
from vadprep.cli.main import LastingStream
from vadprep.core.records import Report
from vadprep.extraction import Progress


def reported(left: int, total: int, work_left: float, work: float, report=None) -> Progress:
    return Progress((), report, total, left, work, work_left, "frames")


def test_the_pace_is_that_since_the_first_report(monkeypatch, capsys):
    """Networks took 1000 s to load; then a frame takes a tenth of a second."""

    def printed_at(now: float, progress: Progress) -> str:
        monkeypatch.setattr(text.time, "monotonic", lambda: now)
        shown(progress)
        return capsys.readouterr().err.removesuffix("\n")

    monkeypatch.setattr(text.time, "monotonic", lambda: 0.0)
    shown = text.ShownProgress()
    assert printed_at(0.0, reported(4, 4, 700, 700)) == ""
    first = reported(3, 4, 400, 700, Report("v0", "done", num_clips=18, num_frames=300))
    assert printed_at(1030.0, first) == "1 of 4 videos, 0 failed, time unknown"
    second = reported(2, 4, 200, 700, Report("v1", "done", num_clips=12, num_frames=200))
    line = "2 of 4 videos, 0.6 clips/s, 10 frames/s, 0 failed, 20 s left"
    assert printed_at(1050.0, second) == line
    failed = reported(1, 4, 100, 700, Report("v2", "failed", "why"))
    assert printed_at(1051.0, failed) == "failed: v2: why"
    last = reported(0, 4, 0, 700, Report("v3", "done", num_clips=1090, num_frames=1740))
    line = "4 of 4 videos, 1.0 clips/s, 2 frames/s, 1 failed, took 18 min 40 s"
    assert printed_at(1120.0, last) == line


def test_a_long_video_moves_the_progress_and_is_named(monkeypatch, capsys):
    """One of two hours: the time left is known after some seconds, by its clips."""
    shown = text.ShownProgress()

    def printed_at(now: float, share: float) -> str:
        monkeypatch.setattr(text.time, "monotonic", lambda: now)
        frames = round(share * 180_000)
        doing = Report(
            "a\nlong.mp4", "running", num_clips=frames // 16, num_frames=frames, share=share
        )
        left = 180_000 - frames
        shown(Progress((), None, 1, 1, 180_000, left, "frames", running=(doing,)))
        return capsys.readouterr().err.removesuffix("\n")

    shown(reported(1, 1, 180_000, 180_000))
    assert printed_at(100.0, 0.0) == "0 of 1 video, 0 failed, time unknown"
    assert printed_at(105.0, 0.005) == ""  # a line in ten seconds
    line = "0 of 1 video, 11.2 clips/s, 180 frames/s, 0 failed, 16 min 30 s left"
    assert printed_at(110.0, 0.01) == line
    assert printed_at(600.0, 0.5).endswith(r"8 min 20 s left; a\nlong.mp4 50%")
    shown(reported(0, 1, 0, 180_000, Report("a\nlong.mp4", "done", num_clips=11_250)))
    assert "1 of 1 video," in capsys.readouterr().err


def test_plain_progress_is_a_line_now_and_then_and_one_a_failure(capsys):
    plain = text.ShownProgress()
    plain(reported(50, 50, 500, 500))
    for number in range(50):
        failed = number == 30
        report = Report(f"v{number}", "failed" if failed else "done", "a\nb" if failed else "")
        plain(reported(49 - number, 50, 490 - 10 * number, 500, report))
    first, failure, last = capsys.readouterr().err.splitlines()
    assert first.startswith("1 of 50 videos") and last.startswith("50 of 50 videos")
    assert failure == r"failed: v30: a\nb"


def test_live_progress_fits_a_terminal(monkeypatch):
    """On 80 columns the line with counts, pace and time left is not cut."""
    from rich.console import Console

    console = Console(width=80, force_terminal=True, record=True, file=open(os.devnull, "w"))
    monkeypatch.setattr("rich.console.Console", lambda **options: console)
    monkeypatch.setattr(text.sys.stderr, "isatty", lambda: True, raising=False)
    reports = [Report(f"v{number}", "done", num_clips=60, num_frames=999) for number in range(12)]
    with text.shown_progress() as live:
        live(reported(290, 290, 2900, 2900))
        for number, report in enumerate([*reports, Report("[red]", "failed", "why")], 1):
            live(reported(290 - number, 290, 2900 - 10 * number, 2900, report))
        live.first = (live.first[0] - 60, *live.first[1:])
        doing = Report("[b]" * 40 + "x.mp4", "running", share=0.43)
        live(replace(reported(277, 290, 2770, 2900), running=(doing,)))
        monkeypatch.setattr(text, "LONG_SECONDS", 0.0)
        live(replace(reported(277, 290, 2770, 2900), running=(doing,)))
        (row,) = live.rows.values()
        assert live.bar.tasks[-1].id == row and live.bar.tasks[-1].percentage == 43
        live(reported(276, 290, 2760, 2900, Report("v13", "done")))
    console.file.close()
    shown = console.export_text()
    assert "failed: [red]: why" in shown
    assert re.search(r"14 of 290 videos, .* 1 failed, .* left", shown) and "…" not in shown


HOSTILE = "a\x1b]0;x\x07\x9b31m\u202e http://user:hunter2@host/a?key=hunter2"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_passes_on_the_moves_of_a_cursor_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a hostile text is a row of the bar, a failure, a note, or printed by other code."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", LastingStream(terminal))
    monkeypatch.setattr(text, "LONG_SECONDS", 0.0)
    doing = Report(HOSTILE, "running", num_clips=1, num_frames=16, share=0.5)
    with text.shown_progress() as shown:
        assert shown.bar
        shown(reported(2, 2, 9, 9))
        shown(Progress((), None, 2, 2, 9, 5, "frames", running=(doing,)))
        shown(reported(1, 2, 5, 9, Report(HOSTILE, "failed", HOSTILE)))
        shown.bar.add_task(HOSTILE, total=1.0)
        click.echo(HOSTILE, err=True)
        print(HOSTILE, file=sys.stderr)
    with text.shown_bar(HOSTILE) as update:
        update(1, 2)
    written = terminal.getvalue()
    rest = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", written)
    assert "\x1b[" in written and rest.isprintable() and "hunter2" not in rest
    assert rest.count("http://host/a") >= 4
