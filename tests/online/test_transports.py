"""UDP, RTMP and HLS by the program ffmpeg as the sender: what comes is what the file holds."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from support.ffmpeg import X264, ffmpeg, make
from support.live import make_checkpoint, offline, reasons, scores_of, start, states, until
from support.waiting import wait_for

from vadprep.online import Record, capture, feed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("patient_inbox")]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BACK_OFF", (0.05,))


def send(video: Path, *target: str) -> subprocess.Popen[bytes]:
    """Send the packets of a video in real time."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-re", "-i", str(video)]
    return subprocess.Popen([*command, "-c", "copy", *target], stderr=subprocess.DEVNULL)


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as each:
        each.bind(("127.0.0.1", 0))
        port: int = each.getsockname()[1]
        return port


def test_rtmp_has_the_scores_of_its_file(tmp_path: Path) -> None:
    """From the first frame on, and soon: FFmpeg alone would wait for 5 seconds of it."""
    checkpoint, video = make_checkpoint(), make(tmp_path / "a.mkv", *X264, frames=200)
    expected, _ = offline(checkpoint, video)
    url, begin = f"rtmp://127.0.0.1:{free_port(socket.SOCK_STREAM)}/live/a", time.time()
    with send(video, "-f", "flv", "-listen", "1", url) as sender:
        with start(checkpoint, url) as session:
            records = until(session, lambda found: states(found)[-1:] == ["connected"])
            refused = [each.time for each in records[:-1]]  # before the sender listened
            assert records[-1].time - max([begin, *refused]) < 4.5
            records += until(session, lambda found: states(found)[-1:] == ["lost"])
        sender.kill()
    compare(records, expected)


def test_udp_has_the_scores_of_its_file(tmp_path: Path) -> None:
    """From its first frame on, where the sender begins later than the session."""
    checkpoint, video = make_checkpoint(), make(tmp_path / "a.mkv", *X264, frames=100, fps=50)
    expected, _ = offline(checkpoint, video)
    port = free_port(socket.SOCK_DGRAM)
    with start(checkpoint, f"udp://127.0.0.1:{port}", stall_seconds=2) as session:
        wait_for(lambda: f":{port:04X} " in Path("/proc/net/udp").read_text())
        with send(video, "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"):
            records = until(session, lambda found: states(found)[-1:] == ["lost"])
    compare(records, expected)


def compare(records: Sequence[Record], expected: NDArray[np.float64]) -> None:
    """Require equal scores; the frames that the decoder still holds at the end are lost."""
    scores = np.array([each.score for each in scores_of(records)])
    assert len(scores) >= len(expected) - 1
    assert np.abs(scores - expected[: len(scores)]).max() <= 1e-6
    assert not any(each.lost_frames + each.dropped_clips for each in scores_of(records))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_a_playlist_that_stands_still_is_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when it grows, the session goes on where it was."""
    monkeypatch.setattr(capture, "START_SECONDS", 3.0)
    checkpoint = make_checkpoint()
    options = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "96")
    video = make(tmp_path / "a.mkv", *options, frames=384, fps=100)
    expected, _ = offline(checkpoint, video)
    playlist = tmp_path / "a.m3u8"
    ffmpeg("-i", video, "-c", "copy", "-f", "hls", "-hls_time", 0.9, playlist)
    whole = playlist.read_text()
    assert whole.count(".ts") == 4
    playlist.write_text(whole[: whole.index("a1.ts") + 7])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/a.m3u8"
    with server, start(checkpoint, url, stall_seconds=1.5) as session:
        records = until(session, lambda found: states(found).count("lost") == 2)
        assert len(scores_of(records)) == 12 and states(records) == ["connected", "lost", "lost"]
        playlist.write_text(whole)
        records += until(session, lambda found: "the stream ended" in reasons(found, "lost"))
        server.shutdown()
    scores = np.array([each.score for each in scores_of(records)])
    assert len(scores) == 24 and np.abs(scores - expected).max() <= 1e-6
