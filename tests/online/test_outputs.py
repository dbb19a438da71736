"""Webhook, kept clips and page: what they get, and how they behave when something is wrong."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import full_disk
from support.live import make_checkpoint, scores_of, start
from support.videos import write_video
from support.waiting import wait_for

from vadprep.core.errors import SettingError
from vadprep.online import AlarmRecord, ScoreRecord, SourceRecord, as_json, keep, webhook
from vadprep.online.alarms import AlarmRule
from vadprep.online.keep import AFTER, PART, Keeper
from vadprep.online.outputs import Outputs
from vadprep.online.page import LivePage
from vadprep.online.pictures import Pictures
from vadprep.online.source import parse_sources
from vadprep.video import open_frames

SECRET = "hunter2"


class Receiver:
    """A web server that answers with the codes of ``answers``, then with 200."""

    def __init__(self, answers: list[int]) -> None:
        self.got: list[tuple[dict[str, Any], str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.got.append((body, self.headers.get("Authorization")))
                self.send_response(answers.pop(0) if answers else 200)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


class OddReceiver:
    """Sends the bytes of ``answers`` to one connection each, then 200; ``got`` has what came."""

    def __init__(self, *answers: bytes) -> None:
        self.got: list[bytes] = []
        self._answers = [*answers]
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                connection, _ = self._server.accept()
                with connection, connection.makefile("rb") as came:
                    head = b"".join(iter(came.readline, b"\r\n"))
                    length = int(head.lower().split(b"content-length:")[1].split()[0])
                    self.got.append(head + came.read(length))
                    answer = self._answers.pop(0) if self._answers else TAKEN
                    connection.sendall(answer)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def numbers(self) -> list[float]:
        """Of the alarms, as they came."""
        return [json.loads(each[each.index(b"{") :])["seconds"][0] for each in self.got]


TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def odd_receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OddReceiver]]:
    monkeypatch.setattr(webhook, "WAITS", (0.05, 0.05))
    with ExitStack() as stack:

        def make(*answers: bytes) -> OddReceiver:
            made = OddReceiver(*answers)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Receiver]]:
    monkeypatch.setattr(webhook, "WAITS", (0.05, 0.05))
    made: list[Receiver] = []

    def make(*answers: int) -> Receiver:
        made.append(Receiver(list(answers)))
        return made[-1]

    yield make
    for each in made:
        each.server.shutdown()
        each.server.server_close()


def alarm(number: float = 0.0, state: Any = "on") -> AlarmRecord:
    return AlarmRecord("cam", 1000 + number, state, (number, number + 0.64), 0.9)


def test_an_alarm_is_posted_again_until_it_is_taken(receiver: Any, caplog: Any) -> None:
    server = receiver(503, 429)
    hook = webhook.Webhook(f"http://bob:{SECRET}@127.0.0.1:{server.port}/{SECRET}?key={SECRET}")
    hook.add(alarm(0))
    hook.add(alarm(1, "off"))
    wait_for(lambda: len(server.got) == 4)
    hook.close()
    assert [body["seconds"][0] for body, _ in server.got] == [0, 0, 0, 1]
    assert [body["state"] for body, _ in server.got] == ["on", "on", "on", "off"]
    token = base64.b64encode(f"bob:{SECRET}".encode()).decode()
    assert {header for _, header in server.got} == {f"Basic {token}"}
    assert "it answered 503" in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("code", [400, 404, 302])
def test_an_answer_that_is_final_is_no_reason_to_ask_again(receiver: Any, code: int) -> None:
    """Nor does an alarm follow a redirect to another place."""
    server = receiver(code)
    hook = webhook.Webhook(f"http://127.0.0.1:{server.port}/")
    hook.add(alarm(0))
    hook.add(alarm(1))
    wait_for(lambda: len(server.got) == 2)
    hook.close()
    assert [body["seconds"][0] for body, _ in server.got] == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * (1 << 17) + b"\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
    ],
    ids=["no HTTP", "nothing", "too many headers", "a long header", "no status"],
)
def test_after_an_odd_answer_the_alarm_is_posted_again(
    odd_receiver: Any, caplog: Any, answer: bytes
) -> None:
    server = odd_receiver(answer)
    hook = webhook.Webhook(server.url)
    hook.add(alarm(0))
    hook.add(alarm(1))
    wait_for(lambda: len(server.got) == 3)
    hook.close()
    assert server.numbers() == [0, 0, 1]
    assert len(caplog.records) == 1 and "again in 0.05 s" in caplog.text
    assert len(caplog.text) < 500


def test_an_alarm_that_was_taken_is_not_posted_again(odd_receiver: Any, caplog: Any) -> None:
    """Whatever is wrong with the text of the answer."""
    server = odd_receiver(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc")
    hook = webhook.Webhook(server.url)
    hook.add(alarm(0))
    hook.add(alarm(1))
    wait_for(lambda: len(server.got) == 2)
    hook.close()
    assert server.numbers() == [0, 1] and not caplog.records


def test_an_address_may_hold_blanks_and_letters_beyond_ascii(odd_receiver: Any) -> None:
    server = odd_receiver()
    hook = webhook.Webhook(server.url + "a b/%20ü?name=d e&x=%2F+ü")
    hook.add(alarm(0))
    wait_for(lambda: server.got)
    hook.close()
    assert server.got[0].startswith(b"POST /a%20b/%20%C3%BC?name=d%20e&x=%2F+%C3%BC HTTP")


def test_an_alarm_that_cannot_be_sent_ends_no_later_one(
    odd_receiver: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def failing(record: AlarmRecord) -> str:
        if not record.seconds[0]:
            raise LookupError("not foreseen")
        return as_json(record)

    monkeypatch.setattr(webhook, "as_json", failing)
    server = odd_receiver()
    hook = webhook.Webhook(server.url)
    hook.add(alarm(0))
    hook.add(alarm(1))
    wait_for(lambda: server.got)
    hook.close()
    assert server.numbers() == [1]
    assert len(caplog.records) == 1 and "an alarm is not sent" in caplog.text


def test_a_webhook_that_is_not_there_holds_nothing_up(caplog: Any) -> None:
    hook, begin = webhook.Webhook(f"http://bob:{SECRET}@127.0.0.1:1/"), time.monotonic()
    for number in range(webhook.MOST_WAITING + 5):
        hook.add(alarm(number))
    hook.close()
    assert time.monotonic() - begin < 3
    assert "refused" in caplog.text and SECRET not in caplog.text


def test_the_alarms_of_a_file_are_all_sent_when_it_ends(
    receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is stopped would give up the one that waits for its next attempt."""
    monkeypatch.setattr(webhook, "WAITS", (0.3, 0.3))
    server, video = receiver(503, 503), write_video(tmp_path / "a.mp4", 50)
    url = f"http://127.0.0.1:{server.port}/"
    with start(make_checkpoint(), video, AlarmRule(0.0, 0.0), webhook=url) as session:
        states = [each.state for each in session if isinstance(each, AlarmRecord)]
    assert states == ["on", "off"] == list(dict.fromkeys(body["state"] for body, _ in server.got))
    assert len(server.got) == 4  # the first one three times


@pytest.mark.parametrize("address", ["ftp://x/", "http://", "x", "http://h:port/", "file:///x"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(SettingError):
        webhook.Webhook(address)


def test_an_alarm_is_kept_with_the_seconds_around_it(tmp_path: Path) -> None:
    """Clips 10 to 14 of 40 are high. Every second of the source has 25 pictures."""
    import numpy as np

    frame = np.zeros((120, 160, 3), np.uint8)
    pictures = Pictures(60.0)
    keeper, records = Keeper(tmp_path / "kept", {"cam": pictures}), []
    for second in range(40):
        for place in range(25):
            pictures.add(frame, second + place / 25)
        if second == 10:
            records += keeper.add(AlarmRecord("cam", 1011, "on", (10, 11), 0.9))
        if second == 15:
            records += keeper.add(AlarmRecord("cam", 1016, "off", (10, 15), 0.9))
        span = second, second + 1
        records += keeper.add(ScoreRecord("cam", second, (0, 1), span, 0.1, False, 0.1))
    records += keeper.close()
    assert [each.state for each in records] == ["kept"]
    path = Path(records[0].reason)
    assert path.name == "19700101T001645-cam.mp4" and records[0].time == 1005  # 5 s before
    with open_frames(path) as stream:
        assert sum(len(block) for block in stream) == 15 * 25
        assert (stream.header.width, stream.header.height) == (160, 120)


def test_a_long_alarm_is_kept_in_parts(tmp_path: Path) -> None:
    import numpy as np

    frame, pictures = np.zeros((48, 64, 3), np.uint8), Pictures(60.0)
    keeper, records = Keeper(tmp_path, {"a/b": pictures}), []
    for second in range(80):
        for place in range(5):
            pictures.add(frame, second + place / 5)
        if second == 10:
            records += keeper.add(AlarmRecord("a/b", 11, "on", (10, 11), 0.9))
        if second == 60:
            records += keeper.add(AlarmRecord("a/b", 61, "off", (10, 60), 0.9))
        span = second, second + 1
        records += keeper.add(ScoreRecord("a/b", second, (0, 1), span, 0.1, False, 0.1))
    records += keeper.close()
    lengths = []
    for each in records:
        with open_frames(Path(each.reason)) as stream:
            lengths.append(sum(len(block) for block in stream) / 5)
    assert sum(lengths) == 50 + 5 + AFTER and max(lengths) == PART + 5
    assert {Path(each.reason).name.partition("-")[2] for each in records} == {"a_b.mp4"}


def test_clips_are_not_kept_where_they_would_be_scored(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    sources = parse_sources([tmp_path])
    with pytest.raises(SettingError, match="its clips would be scored, too"):
        Outputs(sources, AlarmRule(), keep=tmp_path / "link")
    Outputs(sources, AlarmRule(), keep=tmp_path / "kept").close()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """It has a second of noise of the source ``cam``."""
    import numpy as np

    noise, pictures = np.random.default_rng(0), Pictures(60.0)
    for place in range(25):
        pictures.add(noise.integers(0, 255, (120, 160, 3), dtype=np.uint8), place / 25)
    made = Keeper(tmp_path / "kept", {"cam": pictures})
    yield made
    made.close()


def keep_one(keeper: Keeper, number: int) -> list[SourceRecord]:
    found = list(keeper.add(AlarmRecord("cam", 1000 + number, "on", (0, 1), 0.9)))
    return found + list(keeper.add(SourceRecord("cam", 1001 + number, "lost")))


@pytest.mark.parametrize("room", [20, 30_000])
def test_a_disk_that_was_full_for_a_while_costs_no_later_clip(
    keeper: Keeper, tmp_path: Path, caplog: Any, room: int
) -> None:
    """It fills up at the begin of a clip, or within it, where FFmpeg is the one that writes."""
    with full_disk(room):
        keep_one(keeper, 0)
        wait_for(lambda: caplog.records)
    records = [*keep_one(keeper, 1), *keeper.close()]
    assert [each.reason for each in records] == [str(f) for f in (tmp_path / "kept").iterdir()]
    assert len(records) == 1
    first, last = (each.getMessage() for each in caplog.records)
    assert "a clip is not kept" in first and "the disk is full" in first
    assert last == "1 clip of alarms could not be kept"


def test_a_clip_that_cannot_be_kept_ends_no_later_one(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def failing(*arguments: object) -> Path:
        raise LookupError("not foreseen")

    with monkeypatch.context() as patch:
        patch.setattr(keep, "write_clip", failing)
        keep_one(keeper, 0)
        wait_for(lambda: caplog.records)
    records = [*keep_one(keeper, 1), *keeper.close()]
    assert len(records) == 1 and "LookupError('not foreseen')" in caplog.text
    assert "1 clip of alarms could not be kept" in caplog.text


def test_a_session_keeps_its_alarms(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 100)
    rule = AlarmRule(0.0, 0.0)
    with start(make_checkpoint(), video, rule, keep=tmp_path / "kept") as session:
        records = list(session)
    kept = [each for each in records if isinstance(each, SourceRecord) and each.state == "kept"]
    (file,) = (tmp_path / "kept").iterdir()
    assert [each.reason for each in kept] == [str(file)]
    with open_frames(file) as stream:
        assert sum(len(block) for block in stream) == 100


@pytest.fixture
def page() -> Iterator[LivePage]:
    names = [f"http://cam/{name}" for name in "ab"]
    pictures = {name: Pictures() for name in names}
    made = LivePage("127.0.0.1", 0, names, AlarmRule(0.6, 0.4), pictures, "NEVER TRAINED")
    yield made
    made.close()


def get(url: str, host: str | None = None) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_the_page_gives_what_is_new(page: LivePage) -> None:
    for place in range(3):
        page.add(ScoreRecord("http://cam/a", 10.0 + place, (0, 16), (0, 1), 0.7, True, 0.1, 2, 1))
    page.add(AlarmRecord("http://cam/a", 11.0, "on", (0.0, 1.0), 0.7))
    page.add(AlarmRecord("http://cam/a", 12.0, "off", (0.0, 2.0), 0.8))
    page.add(SourceRecord("http://cam/b", 12.0, "lost", "nothing came for 10 s"))
    status, body, headers = get(page.url + "state.json")
    state = json.loads(body)
    first, second = state["sources"]
    assert (status, state["count"], state["on"], state["off"]) == (200, 3, 0.6, 0.4)
    assert first["scores"] == [[10.0, 0.7, True], [11.0, 0.7, True], [12.0, 0.7, True]]
    assert state["caution"] == "NEVER TRAINED"
    assert first["alarms"] == [{"start": 10.0, "stop": 12.0, "score": 0.8}]
    assert (first["lost_frames"], first["dropped_clips"]) == (6, 3)
    assert (second["state"], second["reason"]) == ("lost", "nothing came for 10 s")
    assert json.loads(get(page.url + "state.json?after=2")[1])["sources"][0]["scores"] == [
        [12.0, 0.7, True]
    ]
    assert headers["Cache-Control"] == "no-store"


def test_the_page_has_pictures_and_nothing_else(page: LivePage) -> None:
    import numpy as np

    assert get(page.url + "picture/0")[0] == 404
    page._pictures["http://cam/a"].add(np.zeros((48, 64, 3), np.uint8), 0.0)
    status, body, headers = get(page.url + "picture/0?at=1")
    assert (status, headers["Content-Type"], body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    for path in ("picture/2", "picture/-1", "picture/x", "../pyproject.toml", "live.py", "%2e%2e/"):
        assert get(page.url + path)[0] == 404, path
    for path in ("", "live.css", "live.js"):
        status, body, headers = get(page.url + path)
        assert status == 200 and body and "default-src 'self'" in headers["Content-Security-Policy"]


def test_the_page_answers_to_no_other_name(page: LivePage) -> None:
    """Else a site whose name leads to this machine could read it through a browser."""
    port = page.url.rsplit(":", 1)[1].strip("/")
    assert get(page.url, f"evil.example:{port}")[0] == 403
    assert get(page.url, "")[0] in (200, 403)
    assert get(page.url, f"localhost:{port}")[0] == 200
    assert page.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_refused(page: LivePage) -> None:
    with pytest.raises(SettingError, match="already in use"):
        LivePage("127.0.0.1", int(page.url.rsplit(":", 1)[1].strip("/")), [], AlarmRule(), {})
    with pytest.raises(SettingError):
        LivePage("no.such.host.invalid", 0, [], AlarmRule(), {})


def test_a_session_serves_its_page(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", 100)
    with start(make_checkpoint(), video, port=0) as session:
        assert session.page_url
        count = len(scores_of(list(session)))
        state = json.loads(get(session.page_url + "state.json")[1])
        assert len(state["sources"][0]["scores"]) == count == 6
        assert get(session.page_url + "picture/0")[0] == 200
        url = session.page_url
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=1)
