"""Web servers that hang, drip, send without end, and say what they should not."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

PATIENCE = 0.15
"""Seconds after which a test gives a silent server up."""

Behaviour = Callable[[BaseHTTPRequestHandler], object]


def raw(*parts: bytes, times: int = 1, pause: float = 0.0) -> Behaviour:
    """Sends ``parts``, the last one ``times`` times, and hangs up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            for part in (*parts[:-1], *[parts[-1]] * times):
                handler.wfile.write(part)
                handler.wfile.flush()
                time.sleep(pause)
        except OSError:
            pass

    return answer


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def moved(place: str) -> Behaviour:
    return raw(head(f"Location: {place}", "Content-Length: 0", status="302 Found"))


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(4 * PATIENCE)


def then_silent(*parts: bytes) -> Behaviour:
    return lambda handler: (raw(*parts)(handler), silent(handler))


MIB = bytes(1 << 20)
CHUNK = b"100000\r\n" + MIB + b"\r\n"

KINDS: dict[str, tuple[Behaviour, str]] = {
    "hangs": (silent, "less than 32,768 bytes in 0.15 s|timed out"),
    "hangs in the first line": (then_silent(b"HTTP/1.1 2"), "less than|timed out"),
    "hangs after the headers": (then_silent(head("Content-Length: 65536")), "less than|timed out"),
    "hangs in the content": (
        then_silent(head("Content-Length: 65536"), b"x" * 100), "less than|timed out"),
    "hangs in a chunk": (
        then_silent(head("Transfer-Encoding: chunked"), b"100\r\nx"), "less than|timed out"),
    "drips its first line": (raw(b"H", times=99, pause=0.02), "less than|HTTP"),
    "drips headers": (raw(b"HTTP/1.1 200 OK\r\nA: ", b"x", times=40, pause=0.02), "less than"),
    "drips the content": (
        raw(head("Content-Length: 65536"), b"x", times=40, pause=0.02), "less than"),
    "drips chunks": (
        raw(head("Transfer-Encoding: chunked"), b"1\r\nx\r\n", times=40, pause=0.02), "less than"),
    "drips the size of a chunk": (
        raw(head("Transfer-Encoding: chunked"), b"0", times=40, pause=0.02), "less than"),
    "continues for ever": (raw(head(status="100 Continue"), times=9999, pause=1e-4), "less than"),
    "sends without end": (raw(head(), MIB, times=50), "more than 4,194,304 bytes come"),
    "sends chunks without end": (
        raw(head("Transfer-Encoding: chunked"), CHUNK, times=50), "more than 4,194,304 bytes come"),
    "sends more than it says": (
        raw(head("Content-Length: 9", "Transfer-Encoding: chunked"), CHUNK), "more than 9 bytes"),
    "10^15 bytes": (raw(head("Content-Length: 999999999999999")), "more than any weights"),
    "a length of 5000 digits": (
        raw(head("Content-Length: " + "9" * 5000), MIB, times=9), "more than"),
    "a negative length": (raw(head("Content-Length: -1"), MIB, times=9), "more than"),
    "a length in words": (raw(head("Content-Length: \x1b[31m"), MIB, times=9), "more than"),
    "less than it says": (raw(head("Content-Length: 99"), b"x"), "of 99 bytes|connection"),
    "a chunk of no size": (raw(head("Transfer-Encoding: chunked"), b"\x1b\r\n"), "connection"),
    "a negative chunk": (raw(head("Transfer-Encoding: chunked"), b"-5\r\nxxxxx"), "connection"),
    "a gzip bomb": (
        raw(head("Content-Encoding: gzip", "Connection: close"), gzip.compress(bytes(64 << 20))),
        "not the file published"),
    "no reason": (raw(head("Content-Length: 0", status="404 ")), "answers 404: "),
    "no reason and no blank": (raw(b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n"), "answers 404: "),
    "a reason of controls": (
        raw(head("Content-Length: 0", status="404 \x1b]0;x\x07\x9b\r\x0b")), r"404 \\x1b\]0;x"),
    "a reason of 60,000 letters": (
        raw(head("Content-Length: 0", status="500 " + "x" * 60_000)), "answers 500 x{80};"),
    "no HTTP": (raw(b"\x1b[31mhello\r\n"), "the connection broke"),
    "nothing": (raw(b""), "the connection broke"),
    "a status of words": (raw(b"HTTP/1.1 OK\r\n\r\n"), "the connection broke"),
    "status 999": (raw(head("Content-Length: 0", status="999 x")), "answers 999 x"),
    "status 600 digits": (raw(head(status="9" * 600)), "the connection broke"),
    "a thousand headers": (raw(head(*["A: b"] * 1000)), "the connection broke"),
    "a header of 1 MB": (raw(head("A: " + "x" * (1 << 20))), "the connection broke"),
    "moved to a file": (moved("file:///etc/passwd"), "answers 302"),
    "moved to FTP": (moved("ftp://127.0.0.1:9/x"), "answers 302 to no web server"),
    "moved to data": (moved("data:,hello"), "answers 302"),
    "moved to a script": (moved("javascript:alert(1)"), "answers 302"),
    "moved to odd brackets": (moved("http://[::1"), "cannot be reached|connection broke"),
    "moved to an odd port": (moved("http://127.0.0.1:port/"), "connection broke|cannot be reached"),
    "moved to an odd host": (moved("http://..\xe4../"), "connection broke|cannot be reached"),
    "moved to controls": (moved("http://127.0.0.1:9/\x1b[31m"), "connection broke|reached|302"),
    "moved to nowhere": (raw(head("Content-Length: 0", status="302 Found")), "answers 302 Found"),
    "a part that nobody asked for": (
        raw(head("Content-Range: bytes 5-9/10", "Content-Length: 5", status="206 P"), b"xxxxx"),
        "not the file published"),
    "asks for a password": (
        raw(head('WWW-Authenticate: Basic realm="\x1b"', "Content-Length: 0", status="401 No")),
        "answers 401 No"),
}  # fmt: skip
"""Behaviour, and words of what a download says of it, by kind."""
