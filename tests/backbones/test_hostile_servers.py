"""Downloads from servers that hang, drip, send without end, and say what they should not."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.attacks import within
from support.hostile_servers import KINDS, PATIENCE, head, raw
from support.servers import Server

from vadprep.backbones.weights import download
from vadprep.backbones.weights.catalog import PublishedFile
from vadprep.backbones.weights.download import fetch
from vadprep.core.errors import OutputError, VadprepError, WeightsError

CONTENT = bytes(range(256)) * 256


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "ATTEMPTS": 2,
        "TIMEOUT_SECONDS": PATIENCE,
        "PAUSE_SECONDS": 0.01,
        "MOST_BYTES": 4 << 20,
    }
    for name, value in values.items():
        monkeypatch.setattr(download, name, value)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(CONTENT) as server:
        yield server


# urllib leaves the socket of an odd redirect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_server_is_given_up_in_a_line(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    behave, words = KINDS[kind]
    server.behave = lambda handler, request: (behave(handler), True)[1]
    published = PublishedFile(f"{server.url}/w.bin", "", "", "", blob="0" * 40)
    with within(10, 64 << 20), pytest.raises(VadprepError, match=words) as caught:
        fetch(published, tmp_path / "w.bin")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert all(line.isprintable() for line in caplog.messages)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_drips_first_and_hurries_later(server: Server, tmp_path: Path) -> None:
    drip = raw(head("Content-Length: 65536"), b"x", times=30, pause=0.02)
    server.behave = lambda handler, request: request == 1 and (drip(handler), True)[1]
    published = PublishedFile(f"{server.url}/w.bin", "", "", "", sha256="")
    fetch(published, tmp_path / "w.bin")
    assert (tmp_path / "w.bin").stat().st_size == len(CONTENT)


def test_too_little_room_is_said_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage(len(CONTENT) - 1))
    published = PublishedFile(f"{server.url}/w.bin", "", "", "", sha256="")
    told: list[object] = []
    with pytest.raises(OutputError, match="are to come, and 0 MiB are free: make space"):
        fetch(published, tmp_path / "w.bin", lambda *each: told.append(each))
    assert list(tmp_path.iterdir()) == [] and not told


def test_a_file_that_is_there_and_is_none(tmp_path: Path) -> None:
    published = PublishedFile("http://127.0.0.1:9/w.bin", "", "", "", blob="0" * 40)
    (tmp_path / "w.bin").symlink_to("/dev/zero")
    with within(), pytest.raises(WeightsError):
        fetch(published, tmp_path / "w.bin")
