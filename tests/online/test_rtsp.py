"""A real RTSP server: the scores are those of the file, and its death is survived."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support import rtsp_server
from support.live import make_checkpoint, offline, scores_of, start
from support.videos import write_video

from vadprep.online import ScoreRecord, SourceRecord, as_json

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient_inbox")]

PYTHON = "/usr/bin/python3"
SECRET = "hunter2"
NEEDED = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
    "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
    "assert all(map(Gst.ElementFactory.find, ('matroskademux', 'h264parse', 'rtph264pay')))"
)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """GStreamer's server for Debian's Python; FAIL_WITHOUT_RTSP=1 says that it must be there."""
    found = os.path.exists(PYTHON) and not subprocess.call(
        [PYTHON, "-c", NEEDED], stderr=subprocess.DEVNULL
    )
    if not found and os.environ.get("FAIL_WITHOUT_RTSP") != "1":
        pytest.skip("not installed: gir1.2-gst-rtsp-server-1.0, python3-gi, gstreamer1.0-plugins-*")
    assert found


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


class Server:
    """The server process; it can be killed and started again."""

    def __init__(self, path: Path, *user: str) -> None:
        self.port = free_port()
        self._command = [PYTHON, rtsp_server.__file__, str(self.port), str(path), *user]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout and self._process.stdout.readline() == b"serving\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


@pytest.fixture(scope="module")
def clip(real_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip of XD-Violence, its packets in Matroska: 530 frames of 320x180, 22 s."""
    target = tmp_path_factory.mktemp("rtsp") / "xd.mkv"
    (source,) = real_clips.glob("Deadpool*.mp4")
    with av.open(str(source)) as file, av.open(str(target), "w") as copy:
        video = file.streams.video[0]
        stream = copy.add_stream_from_template(video)
        for packet in file.demux(video):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


def test_scores_are_those_of_the_file_and_a_killed_server_is_survived(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole clip in real time, then again; the server is killed in it, and comes back."""
    checkpoint = make_checkpoint()
    expected, spans = offline(checkpoint, clip)
    scores, notices, killed = list[ScoreRecord](), list[SourceRecord](), 0.0
    with Server(clip, "bob", SECRET) as server:
        url = f"rtsp://bob:{SECRET}@127.0.0.1:{server.port}/live"
        begin = time.monotonic()
        with start(checkpoint, url, stall_seconds=5) as session:
            for record in session:
                scores += [record] if isinstance(record, ScoreRecord) else []
                notices += [record] if isinstance(record, SourceRecord) else []
                if len(scores) == len(spans) and time.monotonic() - begin < 40 and not killed:
                    assert time.monotonic() - begin > 20  # in real time
                if len(scores) == len(spans) + 3 and not killed:
                    killed = time.monotonic()
                    server.kill()
                if killed and notices[-1].state == "lost" and time.monotonic() > killed + 3:
                    if not notices[-1].reason.startswith("the stream ended"):
                        server.start()
                        killed = float("inf")
                if len(scores) == len(spans) + 6:
                    break
                assert time.monotonic() - begin < 120, notices
    whole = scores[: len(spans)]
    assert [each.frames for each in whole] == spans
    assert np.abs(np.array([each.score for each in whole]) - expected).max() <= 1e-6
    assert sum(each.lost_frames + each.dropped_clips for each in whole) == 0
    for first in (len(spans), len(spans) + 3):  # each connection begins with the first frame
        found = [each.score for each in scores[first : first + 3]]
        assert np.abs(np.array(found) - expected[:3]).max() <= 1e-6
    states = [each.state for each in notices]
    assert states.count("connected") == 3 and states[0] == "connected"
    assert any("Connection refused" in each.reason for each in notices)
    assert notices[-1].lost_seconds > 3  # from the loss on, not from the last attempt
    attempts = [each for each in notices if "Connection refused" in each.reason]
    assert notices[-1].lost_seconds > notices[-1].time - attempts[0].time
    text = "\n".join(map(as_json, [*scores, *notices])) + caplog.text
    assert SECRET not in text


def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", 50)
    with Server(video, "bob", SECRET) as server:
        with start(make_checkpoint(), f"rtsp://bob:no@127.0.0.1:{server.port}/live") as session:
            record = next(session)
    assert isinstance(record, SourceRecord) and record.state == "lost"
    assert "401" in record.reason


def test_a_server_that_is_stopped_is_a_stall(tmp_path: Path) -> None:
    import signal

    video = write_video(tmp_path / "a.mkv", 500)
    with Server(video) as server:
        url = f"rtsp://127.0.0.1:{server.port}/live"
        with start(make_checkpoint(), url, stall_seconds=2) as session:
            for record in session:
                if isinstance(record, ScoreRecord):
                    server._process.send_signal(signal.SIGSTOP)
                if isinstance(record, SourceRecord) and record.state == "lost":
                    break
            server._process.send_signal(signal.SIGCONT)
            assert record.reason.startswith("nothing came for 2 s")
            for record in session:
                if isinstance(record, ScoreRecord):
                    break
    assert not scores_of([record])[0].dropped_clips
