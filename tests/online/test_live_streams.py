"""Streams that drop, stall, change, lie or crash the reader: the record says so, and it goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.live import make_checkpoint, offline, reasons, scores_of, start, states, until
from support.stream_server import SILENCE, StreamServer, transport_stream
from support.unknown_codec import with_unknown_codec
from support.videos import numbered_frame, write_video

from vadprep.core.errors import DecodeError
from vadprep.online import Record, as_json, capture_process, feed

pytestmark = pytest.mark.usefixtures("patient_inbox")

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "BACK_OFF", (0.05,))


def lost_again(records: list[Record]) -> bool:
    return states(records).count("lost") == 2


def test_a_stream_has_the_scores_of_its_file(tmp_path: Path) -> None:
    """And a stream that ends is connected again; its frames are counted on."""
    content = transport_stream(tmp_path, 100)
    checkpoint = make_checkpoint()
    expected, spans = offline(checkpoint, tmp_path / "100-64x48.ts")
    with StreamServer([content]) as server:
        with start(checkpoint, f"http://{server.place}/a.ts") as session:
            records = until(session, lost_again)
    scores = np.array([each.score for each in scores_of(records)])
    assert np.abs(scores - np.tile(expected, 2)).max() <= 1e-6
    frames = [each.frames for each in scores_of(records)]
    assert frames[:6] == spans and frames[6] == (100, 116)
    assert sum(each.lost_frames for each in scores_of(records)) == 0
    assert states(records) == ["connected", "lost"] * 2
    left = [each.lost_frames for each in records if getattr(each, "state", "") == "lost"]
    assert left == [100 - 96] * 2  # in no clip
    assert "the stream ended; it is connected again in" in reasons(records, "lost")
    (again,) = [each for each in records[1:] if getattr(each, "state", "") == "connected"]
    assert again.lost_seconds > 0  # type: ignore[union-attr]
    seconds = [each.seconds for each in scores_of(records)]
    assert seconds == sorted(seconds)


@pytest.mark.slow
def test_a_stream_that_falls_silent_is_connected_again(tmp_path: Path) -> None:
    content = transport_stream(tmp_path, 100)
    half = content[: len(content) // 2 // 188 * 188]
    with StreamServer([half, SILENCE], [content]) as server:
        with start(make_checkpoint(), f"http://{server.place}/", stall_seconds=1) as session:
            records = until(session, lost_again)
    assert "nothing came for 1 s" in reasons(records, "lost")
    assert len(scores_of(records)) > 6 and server.connections >= 2


@pytest.mark.slow
def test_frames_of_another_size_begin_anew(tmp_path: Path) -> None:
    small, large = (transport_stream(tmp_path, 64, size) for size in ((64, 48), (96, 64)))
    with StreamServer([small, large], [large]) as server:
        with start(make_checkpoint(), f"http://{server.place}/") as session:
            records = until(session, lost_again)
    assert "the size of the frames changed from 64x48 to 96x64" in reasons(records, "lost")
    assert len(scores_of(records)) >= 7


@pytest.mark.slow
def test_damaged_packets_are_counted(tmp_path: Path) -> None:
    content = bytearray(transport_stream(tmp_path, 200))
    noise = np.random.default_rng(0)
    for packet in range(len(content) // 188 // 3, len(content) // 188 // 2):
        content[packet * 188 + 148 : packet * 188 + 188] = noise.bytes(40)
    with StreamServer([bytes(content)]) as server:
        with start(make_checkpoint(), f"http://{server.place}/") as session:
            records = until(session, lambda found: states(found)[-1:] == ["lost"])
    assert sum(getattr(each, "lost_frames", 0) for each in records) > 0
    assert len(scores_of(records)) >= 4


@pytest.mark.slow
def test_old_time_stamps_begin_anew(tmp_path: Path) -> None:
    content = transport_stream(tmp_path, 128, fps=50)  # 2.56 s, then again from its first second
    with StreamServer([content, content]) as server:
        with start(make_checkpoint(), f"http://{server.place}/") as session:
            records = until(session, lambda found: states(found)[-1:] == ["lost"])
    assert reasons(records, "changed") == "the time stamps jumped"
    seconds = [each.seconds[0] for each in scores_of(records)]
    assert len(seconds) >= 14 and seconds == sorted(seconds)


@pytest.mark.slow
def test_frames_of_another_rate_begin_anew(tmp_path: Path) -> None:
    """Also by the number of the frame, where the rate decides which frames are used."""
    fast = transport_stream(tmp_path, 64)
    slow = transport_stream(tmp_path, 192, fps=125)
    checkpoint = make_checkpoint(fps="125", sampling="index")
    with StreamServer([fast, slow]) as server:
        with start(checkpoint, f"http://{server.place}/") as session:
            records = until(session, lambda found: states(found)[-1:] == ["lost"])
    assert "the rate is 125 frames a second now" in reasons(records, "changed")
    last = [each.frames for each in scores_of(records)][-3:]
    assert [stop - start for start, stop in last] == [16] * 3


def test_time_stamps_that_vary_say_no_rate(tmp_path: Path) -> None:
    """ffmpeg takes their ticks for the rate: a million, of which a spec by index uses no frame."""
    noise = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.nut"), "w") as file:
        stream = file.add_stream("rawvideo", 1_000_000, width=64, height=48, pix_fmt="yuv420p")
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number)).reformat(format="yuv420p")
            frame.pts = 4000 * number + int(noise.integers(3000))
            file.mux(stream.encode(frame))
    content = (tmp_path / "a.nut").read_bytes()
    checkpoint = make_checkpoint(fps="125", sampling="index")
    with StreamServer([content]) as server:
        with start(checkpoint, f"http://{server.place}/a.nut") as session:
            records = until(session, lambda found: states(found)[-1:] == ["lost"])
    assert states(records) == ["connected", "lost"]
    assert all(28 <= stop - start <= 36 for start, stop in (r.frames for r in scores_of(records)))


@pytest.mark.slow
def test_a_reader_that_is_killed_is_started_again(tmp_path: Path) -> None:
    content, others = transport_stream(tmp_path, 100), children()
    with StreamServer([content, SILENCE]) as server:
        with start(make_checkpoint(), f"http://{server.place}/", stall_seconds=30) as session:
            records = until(session, lambda found: len(scores_of(found)) == 4)
            (child,) = children() - others
            os.kill(child, signal.SIGKILL)
            records += until(session, lambda found: states(found)[-1:] == ["connected"])
        assert "its reader crashed, killed by SIGKILL" in reasons(records, "lost")


def children() -> set[int]:
    """Processes that this one has started and that are alive; other tests may have left some."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(pid))
    return found


@pytest.mark.slow
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Of sessions that are closed while they connect, read and wait."""
    content, others = transport_stream(tmp_path, 100), children()
    sources = ["http://127.0.0.1:9/"]
    with StreamServer([content, SILENCE]) as server:
        sources.append(f"http://{server.place}/")
        with start(make_checkpoint(), sources) as session:  # what is made once is there
            until(session, scores_of)
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        for number in range(3):
            begin = time.monotonic()
            with start(make_checkpoint(), sources) as session:
                for _ in range(number):
                    until(session, lambda found: scores_of(found)[-1:] == found[-1:])
            assert time.monotonic() - begin < 20
        assert not children() - others
        server_threads = 10  # of connections that the server has not seen closed yet
    assert len(os.listdir("/proc/self/fd")) <= before[0] + 2
    assert threading.active_count() <= before[1] + server_threads


def test_no_credential_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = transport_stream(tmp_path, 64)
    with StreamServer([content, SILENCE], password=True) as server:
        url = f"http://bob:{SECRET}@{server.place}/live?key={SECRET}"
        bad = f"rtsp://bob:{SECRET}@127.0.0.1:9/?key={SECRET}"
        with start(make_checkpoint(), [url, bad], port=0) as session:
            records = until(
                session, lambda found: len(scores_of(found)) > 2 and "lost" in states(found)
            )
            for child in children():
                for name in ("cmdline", "environ"):
                    assert SECRET.encode() not in Path("/proc", str(child), name).read_bytes()
        assert server.headers  # the password was sent, though
    lines = "\n".join(map(as_json, records))
    assert f"http://{server.place}/live" in lines and "rtsp://127.0.0.1:9/" in lines
    assert SECRET not in lines and SECRET not in caplog.text and "Connection refused" in lines


def test_a_playlist_opens_no_file_of_this_machine(tmp_path: Path) -> None:
    transport_stream(tmp_path, 64)
    names = [(tmp_path / "64-64x48.ts").as_uri(), str(tmp_path / "64-64x48.ts")]
    for name in names:
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n"
        with StreamServer([playlist.encode()], kind="application/vnd.apple.mpegurl") as server:
            with start(make_checkpoint(), f"http://{server.place}/a.m3u8") as session:
                records = until(session, lost_again)
        assert not scores_of(records)


@pytest.mark.slow
def test_what_is_no_stream_is_lost_with_a_reason() -> None:
    with StreamServer([b"<html>not a camera</html>"], kind="text/html") as server:
        with start(make_checkpoint(), f"http://{server.place}/") as session:
            records = until(session, lost_again)
    assert "connected" not in states(records) and "Invalid data" in reasons(records, "lost")


def test_a_codec_without_a_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mkv", 10)
    path.write_bytes(with_unknown_codec(path.read_bytes()))
    monkeypatch.setattr(capture_process, "open_stream", lambda config: av.open(str(path)))
    with pytest.raises(DecodeError, match="no decoder for its codec") as caught:
        capture_process.read_stream({}, None)  # type: ignore[arg-type]
    assert caught.value.kind == "no-decoder"


@pytest.mark.slow
def test_a_camera_whose_codec_has_no_decoder_is_lost_with_this_reason(tmp_path: Path) -> None:
    content = with_unknown_codec(write_video(tmp_path / "a.mkv", 10).read_bytes())
    with StreamServer([content], kind="video/x-matroska") as server:
        with start(make_checkpoint(), f"http://{server.place}/a.mkv") as session:
            records = until(session, lambda found: "lost" in states(found))
    assert "FFmpeg has no decoder for its codec" in reasons(records, "lost")
