"""Feature folders on web servers that hang, drip, send without end, or compress a bomb."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.attacks import within
from support.hostile_servers import KINDS, PATIENCE
from support.servers import Server

from vadprep.core.errors import FeaturesError
from vadprep.features import open_features, remote

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"total": 4 * PATIENCE, "sock_connect": 1, "sock_read": PATIENCE}
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
