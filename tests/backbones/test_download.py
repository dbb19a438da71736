"""Downloads from a server on this machine that cuts, stalls, redirects, corrupts and refuses."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import Server, send
from support.waiting import wait_for

from vadprep.backbones.weights import catalog, download
from vadprep.backbones.weights.catalog import PublishedFile
from vadprep.backbones.weights.download import fetch
from vadprep.core.errors import OutputError, VadprepError, WeightsError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
BLOB = hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ATTEMPTS": 3, "TIMEOUT_SECONDS": 0.4, "PAUSE_SECONDS": 0.01}.items():
        monkeypatch.setattr(download, name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server(CONTENT) as server:
        yield server


def file_at(server: Server, **known_by: object) -> PublishedFile:
    return PublishedFile(f"{server.url}/some/w.bin", "", "", "", **known_by or {"blob": BLOB})


def get(server: Server, target: Path, **known_by: object) -> str:
    return fetch(file_at(server, **known_by), target)


def refused(server: Server, target: Path, **known_by: object) -> str:
    """The one line that says why there is no file; nothing is left of it."""
    with pytest.raises(VadprepError) as caught:
        get(server, target, **known_by)
    assert list(target.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "known_by",
    [
        {"blob": BLOB},
        {"sha256": SHA256[:8]},
        {"sha256": SHA256},
        {"sha256": ""},
    ],
)
def test_a_file_arrives(server: Server, tmp_path: Path, known_by: dict[str, object]) -> None:
    target = tmp_path / "new" / "folder" / "w.bin"
    assert get(server, target, **known_by) == SHA256
    assert target.read_bytes() == CONTENT and len(list(target.parent.iterdir())) == 1
    assert get(server, target, **known_by) == SHA256 and len(server.requests) == 1


def test_progress_is_told(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(file_at(server), tmp_path / "w", lambda *each: told.append(each))
    assert told[-1] == (len(CONTENT), len(CONTENT)) and len(told) > 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    """More cuts than attempts, since each brought something."""

    def cut(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        send(handler, CONTENT, only=200_000)
        return True

    server.behave = cut
    get(server, tmp_path / "w")
    starts = [None, *(f"bytes={n}-" for n in range(200_000, len(CONTENT), 200_000))]
    assert server.ranges == starts and (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    def cut(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        send(handler, CONTENT, only=300_000 if request == 1 else None, ranges=False)
        return True

    server.behave = cut
    get(server, tmp_path / "w")
    assert server.ranges == [None, "bytes=300000-"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_range_from_elsewhere_is_not_taken(server: Server, tmp_path: Path) -> None:
    def odd(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        if request == 1:
            send(handler, CONTENT, only=300_000)
        elif request == 2:
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")
            handler.send_header("Content-Length", str(len(CONTENT)))
            handler.end_headers()
            handler.wfile.write(CONTENT)
        return True

    server.behave = odd
    assert get(server, tmp_path / "w") == SHA256


def test_a_truncating_server_is_given_up(server: Server, tmp_path: Path) -> None:
    def cut(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        send(handler, CONTENT, only=1000, ranges=False)
        return True

    server.behave = cut
    line = refused(server, tmp_path / "w")
    assert "1,000 of 1,048,576 bytes" in line and "3 attempts" in line


def test_silence_is_a_broken_connection(server: Server, tmp_path: Path) -> None:
    def stall(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        if request > 1:
            return False
        send(handler, CONTENT, only=100_000)
        time.sleep(3 * download.TIMEOUT_SECONDS)
        return True

    server.behave = stall
    get(server, tmp_path / "w")
    assert server.ranges == [None, "bytes=100000-"]


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    def redirect(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        if handler.path.startswith("/lfs"):
            return False
        handler.send_response(302)
        handler.send_header("Location", "/lfs/w.bin")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.behave = redirect
    get(server, tmp_path / "w")
    assert [path for path, _ in server.requests] == ["/some/w.bin", "/lfs/w.bin"]


def test_a_redirect_in_circles(server: Server, tmp_path: Path) -> None:
    def circle(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.behave = circle
    assert "answers 302" in refused(server, tmp_path / "w")


def test_corrupt_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    def corrupt(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        send(handler, CONTENT[:-1] + b"x")
        return True

    server.behave = corrupt
    for known_by in ({"blob": BLOB}, {"sha256": SHA256[:8]}):
        line = refused(server, tmp_path / "w", **known_by)
        assert "not the file published" in line and "thrown away" in line


def test_a_page_in_place_of_the_file(server: Server, tmp_path: Path) -> None:
    def page(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        send(handler, b"<!DOCTYPE html><html>please log in</html>")
        return True

    server.behave = page
    line = refused(server, tmp_path / "w")
    assert "not the file published" in line and "41 bytes with git blob id" in line
    assert len(server.requests) == 1


@pytest.mark.parametrize("status, attempts", [(404, 1), (403, 1), (407, 1), (500, 3), (429, 3)])
def test_errors_that_may_pass_are_tried_again(
    server: Server, tmp_path: Path, status: int, attempts: int
) -> None:
    def fail(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.behave = fail
    assert f"the server answers {status}" in refused(server, tmp_path / "w")
    assert len(server.requests) == attempts


def test_a_busy_server_recovers(server: Server, tmp_path: Path) -> None:
    def busy(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        if request > 2:
            return False
        handler.send_response(503)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    server.behave = busy
    assert get(server, tmp_path / "w") == SHA256


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    known = PublishedFile("http://127.0.0.1:9/w.bin", "", "", "", blob=BLOB)
    with pytest.raises(WeightsError, match="cannot be reached .*refused"):
        fetch(known, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_the_proxy_of_the_environment_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    url = "http://weights.example/w.bin"
    fetch(PublishedFile(url, "", "", "", blob=BLOB), tmp_path / "w")
    assert [path for path, _ in server.requests] == [url]


# ---------------------------------------------------------------- kills, disks, other processes

PART = CONTENT[:400_000]


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    """A process of its own, ended in the middle; what it left is taken up."""

    def stall(handler: http.server.BaseHTTPRequestHandler, request: int) -> bool:
        if request > 1:
            return False
        send(handler, CONTENT, only=len(PART))
        killed.wait(60)
        return True

    killed = threading.Event()

    server.behave = stall
    code = (
        "from pathlib import Path; from vadprep.backbones.weights.download import fetch;"
        "from vadprep.backbones.weights.catalog import PublishedFile;"
        f"fetch(PublishedFile('{server.url}/w', '', '', '', blob='{BLOB}'), Path('{tmp_path}/w'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    part = tmp_path / "w.part"
    wait_for(lambda: part.exists() and part.stat().st_size == len(PART))
    child.send_signal(signal.SIGKILL)
    child.wait()
    killed.set()
    assert get(server, tmp_path / "w") == SHA256
    assert server.ranges[-1] == f"bytes={len(PART)}-"
    assert [each.name for each in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    "left, asked",
    [(PART, "bytes=400000-"), (CONTENT, f"bytes={len(CONTENT)}-"), (CONTENT + b"x", None)],
)
def test_what_an_earlier_run_left(
    server: Server, tmp_path: Path, left: bytes, asked: str | None
) -> None:
    (tmp_path / "w.part").write_bytes(left)
    if asked is None:
        asked = f"bytes={len(left)}-"
    assert get(server, tmp_path / "w") == SHA256
    assert server.ranges[0] == asked


def test_a_bad_part_is_thrown_away_with_its_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(b"y" * 1000)
    assert "not the file published" in refused(server, tmp_path / "w")
    assert get(server, tmp_path / "w") == SHA256


def test_of_a_file_without_a_known_hash_no_part_is_taken_up(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(b"y" * 1000)
    assert get(server, tmp_path / "w", sha256="") == SHA256
    assert server.ranges == [None]


def test_two_downloads_of_one_file(server: Server, tmp_path: Path) -> None:
    import fcntl

    with open(tmp_path / "w.part", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process is downloading it"):
            get(server, tmp_path / "w")
    assert get(server, tmp_path / "w") == SHA256


def test_a_disk_that_fills_on_the_way(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            if self.tell() > 500_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block)

    monkeypatch.setattr(download, "open", lambda path, mode: Full(path, mode), raising=False)
    with pytest.raises(OutputError, match="the disk is full"):
        get(server, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        get(server, tmp_path / "file" / "weights" / "w")
    assert server.requests == []


def test_a_wrong_file_in_the_cache_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"old")
    with pytest.raises(WeightsError, match=r"w.bin: not the file .* delete it and try again"):
        get(server, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").read_bytes() == b"old" and server.requests == []


# ---------------------------------------------------------------- the table


def test_weights_are_kept_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VADPREP_CACHE", "/v")
    assert catalog.converted_path("i3d-rgb") == Path("/v/weights/i3d-rgb.safetensors")
    assert catalog.download_path("sample-rgb").name == "v_CricketShot_g04_c01_rgb.npy"


def test_hashes_of_the_table_are_well_formed() -> None:
    for each in (*catalog.CATALOG.values(), *catalog.SAMPLES.values()):
        assert each.url.startswith("https://") and each.licence
        assert set(each.blob + each.sha256) <= set("0123456789abcdef")
        assert len(each.blob) in (0, 40)
        assert not (each.blob and each.sha256)
