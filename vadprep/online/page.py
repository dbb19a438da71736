"""A page with the live picture, the curve of the last minutes and the alarms of each source."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from vadprep.core.errors import SettingError
from vadprep.online.alarms import AlarmRule
from vadprep.online.pictures import Pictures
from vadprep.online.records import AlarmRecord, Record, ScoreRecord

KEPT_SCORES = 1000
"""Of a source: ten minutes at 25 frames a second."""
KEPT_ALARMS = 50
MOST_CONNECTIONS = 32
CONNECTION_SECONDS = 10.0
ASSETS = {
    "/": ("live.html", "text/html; charset=utf-8"),
    "/live.css": ("live.css", "text/css; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LivePage:
    """A web server on ``host``; ``port`` 0 takes a free one. ``url`` is its address.

    Only requests that name this host are answered, so that no other site can read the page through
    a browser. Raises SettingError where the address cannot be used.
    """

    def __init__(
        self, host: str, port: int, names: Sequence[str], rule: AlarmRule,
        pictures: Mapping[str, Pictures], caution: str = "",
    ) -> None:  # fmt: skip
        self._names, self._rule, self._pictures = list(names), rule, pictures
        self._lock = threading.Lock()
        self._count = 0
        self._scores: dict[str, deque[tuple[int, float, float, bool]]]
        self._scores = {name: deque(maxlen=KEPT_SCORES) for name in names}
        self._alarms: dict[str, deque[dict[str, Any]]]
        self._alarms = {name: deque(maxlen=KEPT_ALARMS) for name in names}
        self._states = dict.fromkeys(names, ("waiting", ""))
        self._lost = {name: [0, 0] for name in names}
        self._host, self._caution = host, caution
        page = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                page._answer(self)

        try:
            self._server = _Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SettingError(f"--host {host} --port {port}: {reason}") from None
        place = f"[{host}]" if ":" in host else host
        self.url = f"http://{place}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="live page", daemon=True
        )
        self._thread.start()

    def add(self, record: Record) -> None:
        """Show a record."""
        name = record.source
        with self._lock:
            if isinstance(record, ScoreRecord):
                self._count += 1
                row = self._count, record.time, round(record.score, 4), record.alarm
                self._scores[name].append(row)
                self._states[name] = "live", ""
            elif isinstance(record, AlarmRecord):
                shown = {
                    "start": record.time - record.seconds[1] + record.seconds[0],
                    "stop": record.time if record.state == "off" else None,
                    "score": round(record.score, 4),
                }
                alarms = self._alarms[name]
                if alarms and alarms[-1]["stop"] is None:
                    alarms.pop()
                alarms.append(shown)
            elif record.state != "kept":
                self._states[name] = record.state, record.reason
            if not isinstance(record, AlarmRecord):
                self._lost[name][0] += record.lost_frames
                self._lost[name][1] += record.dropped_clips

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2)

    def _state(self, after: int) -> dict[str, Any]:
        """What the page shows; of scores those after number ``after``."""
        with self._lock:
            return {
                "count": self._count,
                "caution": self._caution,
                "on": self._rule.on,
                "off": self._rule.off,
                "sources": [
                    {
                        "name": name,
                        "state": self._states[name][0],
                        "reason": self._states[name][1],
                        "lost_frames": self._lost[name][0],
                        "dropped_clips": self._lost[name][1],
                        "scores": [each[1:] for each in self._scores[name] if each[0] > after],
                        "alarms": list(self._alarms[name]),
                    }
                    for name in self._names
                ],
            }

    def _answer(self, request: _Handler) -> None:
        parts = urlsplit(request.path)
        if not _is_known(request.headers.get("Host", ""), self._host):
            return request.give(403, "text/plain", b"this page answers to its own address alone\n")
        if parts.path in ASSETS:
            name, kind = ASSETS[parts.path]
            content = (files("vadprep.online") / "assets" / name).read_bytes()
            return request.give(200, kind, content)
        if parts.path == "/state.json":
            text = parse_qs(parts.query).get("after", ["0"])[0]
            after = int(text) if text.isdecimal() and len(text) < 18 else 0
            return request.give(200, "application/json", json.dumps(self._state(after)).encode())
        if parts.path.startswith("/picture/"):
            number = parts.path.removeprefix("/picture/")
            at = int(number) if number.isdecimal() and len(number) < 6 else len(self._names)
            picture = None
            if at < len(self._names):
                picture = self._pictures[self._names[at]].newest()
            if picture:
                return request.give(200, "image/jpeg", picture)
        request.give(404, "text/plain", b"there is nothing here\n")


def _is_known(header: str, host: str) -> bool:
    """Whether a Host header names an address of this server, not another name that leads here."""
    name = urlsplit(f"//{header}").hostname or ""
    if name in ("localhost", host.lower()):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_SECONDS

    def log_message(self, *arguments: object) -> None:
        """A server's log of requests is of no use here."""

    def give(self, status: int, kind: str, content: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, **HEADERS}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    """Answers MOST_CONNECTIONS at a time; more are closed at once."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._free = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            return self.shutdown_request(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
