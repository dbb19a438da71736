"""Devices: the program ffmpeg reads them where PyAV cannot. No camera is needed.

A program ``ffmpeg`` on PATH stands before the real one and changes the words of the input alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from support.ffmpeg import X264, make
from support.live import make_checkpoint, offline, reasons, scores_of, start, states, until
from support.waiting import wait_for

from vadprep.core.child import child_environment
from vadprep.online import feed

pytestmark = pytest.mark.usefixtures("patient_inbox")

DEVICE = "/dev/null"
FFMPEG = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the only programs that a reader finds."""
    if "v4l2" in av.formats_available:
        pytest.skip("this PyAV reads devices")
    monkeypatch.setattr(feed, "BACK_OFF", (0.05,))
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_ffmpeg(folder: Path, *lines: str) -> None:
    """A program ffmpeg, in sh."""
    target = folder / "ffmpeg"
    target.write_text("\n".join(["#!/bin/sh", "PATH=/usr/bin:/bin", *lines]))
    target.chmod(0o755)


def serve(folder: Path, *source: object, before: str = ":") -> None:
    """Let the real program read ``source`` in real time in place of a camera."""
    wanted = f"-nostdin -loglevel error -f v4l2 -i {DEVICE}"
    write_ffmpeg(
        folder,
        f'[ "$1 $2 $3 $4 $5 $6 $7" = "{wanted}" ] || exit 99',
        f"shift 7; echo $$ > {folder}/pid; {before}",
        f'exec {FFMPEG} -nostdin -loglevel error -re {shlex.join(map(str, source))} "$@"',
    )


def test_without_ffmpeg_the_record_says_what_to_install() -> None:
    with start(make_checkpoint(), DEVICE) as session:
        records = until(session, states)
    assert "install the program ffmpeg" in reasons(records, "lost")


REASONS = {DEVICE: "Inappropriate ioctl for device", "/dev/video99": "No such file or directory"}


@pytest.mark.parametrize("device", REASONS)
def test_why_ffmpeg_cannot_read_a_device_is_said(programs: Path, device: str) -> None:
    """Also of a camera that was pulled out meanwhile."""
    write_ffmpeg(programs, "shift 7", f'exec {FFMPEG} -v error -f v4l2 -i {device} "$@"')
    with start(make_checkpoint(), DEVICE) as session:
        records = until(session, states)
    assert reasons(records, "lost").startswith("ffmpeg: ")
    assert REASONS[device] in reasons(records, "lost")


CODECS = {
    "yuyv": ("-pix_fmt", "yuyv422", "-c:v", "rawvideo"),
    "mjpeg": ("-c:v", "mjpeg"),
    "h264": X264,
}


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_a_device_has_the_scores_of_a_file(tmp_path: Path, programs: Path, codec: str) -> None:
    """What cameras give. ffmpeg complains at length meanwhile, and then ends in good order."""
    checkpoint = make_checkpoint()
    video = make(tmp_path / "a.avi", *CODECS[codec], frames=100, fps=50)
    expected, spans = offline(checkpoint, video)
    serve(programs, "-i", video, before="yes bad buffer | head -n 30000 >&2")
    with start(checkpoint, DEVICE) as session:
        records = until(session, lambda found: states(found)[-1:] == ["lost"])
    assert [each.frames for each in scores_of(records)] == spans
    assert np.abs(np.array([each.score for each in scores_of(records)]) - expected).max() <= 1e-6
    assert reasons(records, "lost").startswith("ffmpeg: bad buffer; it is connected again in")
    assert [r.lost_frames for r in records if getattr(r, "state", "") == "lost"] == [100 - 96]


@pytest.mark.slow
def test_an_ffmpeg_that_is_killed_is_started_again(tmp_path: Path, programs: Path) -> None:
    """And the frames that came and are in no clip are counted."""
    checkpoint = make_checkpoint()
    video = make(tmp_path / "a.avi", "-c:v", "rawvideo", frames=100, fps=50)
    expected, _ = offline(checkpoint, video)
    serve(programs, "-i", video)
    with start(checkpoint, DEVICE) as session:
        records = until(session, lambda found: len(scores_of(found)) == 3)
        os.kill(int((programs / "pid").read_text()), signal.SIGKILL)
        records += until(session, lambda found: states(found)[-1:] == ["connected"])
        count = len(scores_of(records))
        records += until(session, lambda found: len(scores_of(found)) == 3)
    assert reasons(records, "lost").startswith("ffmpeg: killed by SIGKILL; it is connected again")
    scores = np.array([each.score for each in scores_of(records)])
    assert np.abs(scores - np.concatenate([expected[:count], expected[:3]])).max() <= 1e-6
    frames = [each.frames for each in scores_of(records)]
    lost = [r.lost_frames for r in records if getattr(r, "state", "") == "lost"]
    assert frames[count][0] - frames[count - 1][1] == sum(lost)
    assert not any(each.lost_frames + each.dropped_clips for each in scores_of(records))


WAYS_TO_DIE = [("reader", signal.SIGKILL), ("session", signal.SIGKILL), ("session", signal.SIGTERM)]
START = """
from vadprep.online.capture import Capture
from vadprep.online.source import parse_sources
Capture(*parse_sources("/dev/null"), 100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("who", "how"), WAYS_TO_DIE)
def test_ffmpeg_dies_with_its_parents(programs: Path, who: str, how: signal.Signals) -> None:
    """Also one that writes nothing, and so does not notice that nobody reads."""
    write_ffmpeg(programs, "exec sleep 1000")
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL) as session:
        try:
            reader = only_child(session.pid)
            ffmpeg = only_child(reader.pid)
            os.kill({"reader": reader.pid, "session": session.pid}[who], how)
            ffmpeg.wait(timeout=10)  # or TimeoutExpired
        finally:
            session.kill()


def only_child(pid: int) -> psutil.Process:
    """As soon as there is one."""
    (child,) = wait_for(lambda: psutil.Process(pid).children())
    return child
