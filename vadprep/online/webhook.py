"""Alarms to a web address, with retries, in a thread of its own."""

from __future__ import annotations

import base64
import http.client
import queue
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from typing import Any

from vadprep.core.errors import SettingError
from vadprep.core.log import get_logger
from vadprep.online.records import AlarmRecord, as_json

_LOG = get_logger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
MOST_WAITING = 100
"""Alarms that wait for the address; of more the newest are dropped, with a line in the log."""
ANSWER_SECONDS = 5.0
END_SECONDS = 1.0
"""That the rest may take when a session is stopped."""
LAST_SECONDS = 40.0
"""That it may take when all sources have ended: an alarm with all its attempts."""
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which another attempt may succeed."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alarm goes to the address that was named, and to no other."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class Webhook:
    """Posts each alarm as JSON, the line that ``as_json`` gives, in order.

    User and password of the address become an Authorization header. Raises SettingError for an
    address that is no http or https URL.
    """

    def __init__(self, address: str) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or parts.scheme not in ("http", "https"):
            raise SettingError(f"webhook {address}: expected a URL http:// or https://")
        place = f"[{host}]" if ":" in host else host
        path, query = (
            urllib.parse.quote(each, safe=string.punctuation) for each in (parts.path, parts.query)
        )
        netloc = place + (f":{port}" if port else "")
        self._url = parts._replace(netloc=netloc, path=path, query=query).geturl()
        self._place = f"{parts.scheme}://{netloc}"  # in logs: path and query may be the secret
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            words = map(urllib.parse.unquote, (parts.username, parts.password or ""))
            token = base64.b64encode(":".join(words).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._queue: queue.Queue[AlarmRecord | None] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def add(self, record: AlarmRecord) -> None:
        """Send an alarm soon; returns at once."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            _LOG.error("webhook %s: %d alarms wait, one is dropped", self._place, MOST_WAITING)

    def finish(self) -> None:
        """Wait until all alarms are sent or given up, for LAST_SECONDS at most."""
        stop = time.monotonic() + LAST_SECONDS
        with suppress(queue.Full):
            self._queue.put(None, timeout=LAST_SECONDS)
        self._thread.join(max(0.0, stop - time.monotonic()))

    def close(self) -> None:
        """Try once more what waits; takes END_SECONDS at most."""
        self._closing.set()
        with suppress(queue.Full):
            self._queue.put(None, timeout=0.1)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            _LOG.error("webhook %s: it does not answer, the last alarms are not sent", self._place)

    def _run(self) -> None:
        opener = urllib.request.build_opener(_NoRedirect)
        while (record := self._queue.get()) is not None:
            try:
                self._deliver(opener, record)
            except Exception as error:  # of one alarm; the next ones are sent
                _LOG.error("webhook %s: an alarm is not sent: %r", self._place, error)

    def _deliver(self, opener: urllib.request.OpenerDirector, record: AlarmRecord) -> None:
        data = as_json(record).encode()
        for wait in (*WAITS, None):
            reason, is_passing = self._attempt(opener, data)
            if not reason:
                return
            final = wait is None or self._closing.is_set() or not is_passing
            then = "given up" if final else f"again in {wait:g} s"
            _LOG.warning("webhook %s: %s; %s", self._place, reason, then)
            if final or wait is None:
                return
            self._closing.wait(wait)

    def _attempt(self, opener: urllib.request.OpenerDirector, data: bytes) -> tuple[str, bool]:
        """Why an attempt failed, blank where it did not; whether another one may succeed."""
        request = urllib.request.Request(self._url, data, self._headers, method="POST")
        seconds = END_SECONDS / 2 if self._closing.is_set() else ANSWER_SECONDS
        try:
            with (
                opener.open(request, timeout=seconds) as answer,
                suppress(OSError, http.client.HTTPException),  # the alarm is taken
            ):
                answer.read(1 << 10)
            return "", True
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered {error.code}", error.code in PASSING
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)  # of an URLError
            return str(cause)[:200] or type(cause).__name__, True
