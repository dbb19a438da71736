"""Feature folders on web servers that hang, drip, send without end, or compress a bomb."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest
from support.attacks import within
from support.hostile_servers import CHUNK, KINDS, PATIENCE, head, raw
from support.servers import Server

from vadprep.core.errors import FeaturesError
from vadprep.features import open_features, remote

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"total": 600, "sock_connect": 1, "sock_read": PATIENCE}
    for name, value in {"TIME_LIMITS": limits, "WAITS": (), "MOST_ANSWER": 4 << 20}.items():
        monkeypatch.setattr(remote, name, value)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(b"") as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_at_a_hostile_server_is_given_up_in_a_line(server: Server, kind: str) -> None:
    behave = KINDS[kind][0]
    server.behave = lambda handler, request: (behave(handler), True)[1]
    host = server.url.removeprefix("http://")
    with within(15, 64 << 20), pytest.raises(FeaturesError) as caught:
        open_features(f"http://user:{SECRET}@{host}/xd?key={SECRET}")
    line = str(caught.value)
    assert line.isprintable() and SECRET not in line and len(line) < 700


@pytest.mark.parametrize("kind", ["hangs", "drips the content", "sends without end", "a gzip bomb"])
def test_a_range_is_given_up_as_well(server: Server, kind: str) -> None:
    behave = KINDS[kind][0]
    server.behave = lambda handler, request: (behave(handler), True)[1]
    with within(15, 64 << 20), pytest.raises(FeaturesError):
        remote.RemotePath(f"{server.url}/xd/shard.h5").read_range(0, 100)


STORES: dict[str, str] = {
    **dict.fromkeys(
        ("hangs", "drips headers", "continues for ever", "hangs after the headers",
         "hangs in a chunk", "drips the content", "drips chunks"), "Read timeout"),
    **dict.fromkeys(
        ("sends without end", "sends chunks without end", "an error without end"),
        "more than 4,194,304 bytes come"),
    **dict.fromkeys(
        ("10^15 bytes", "a reason of controls", "no HTTP", "a header of 1 MB", "moved to a file"),
        "cannot be read"),
    "a gzip bomb": "65250 bytes came where",
}  # fmt: skip
"""What an object store may do, and words of the line that says so."""


@pytest.mark.parametrize("kind", STORES)
def test_an_object_store_is_given_up_as_well(
    server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = {"endpoint_url": server.url, "anon": True}  # and it tries nothing again by itself
    settings |= {"config_kwargs": {"retries": {"max_attempts": 0}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    error = raw(head("Transfer-Encoding: chunked", status="400 No"), CHUNK, times=50)
    behave = error if kind == "an error without end" else KINDS[kind][0]
    server.behave = lambda handler, request: (behave(handler), True)[1]
    with within(15, 96 << 20), pytest.raises(FeaturesError, match=STORES[kind]) as caught:
        remote.RemotePath("s3://bucket/xd/shard.h5").read_range(0, 100)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
