"""Web servers on this machine that a test can make misbehave."""

from __future__ import annotations

import http.server
import re
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from xml.sax.saxutils import escape

Answer = Callable[[http.server.BaseHTTPRequestHandler, int], bool]
"""Given a request and its number, from 1: has it answered?"""


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a client waits 40 ms for what comes after the headers

    def log_message(self, *arguments: object) -> None:
        pass


class _Http(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # of connections at once: Python's 5 let the others wait a second


S = TypeVar("S", bound="_Running")


class _Running:
    """A server in a thread, for the time of a block."""

    def __init__(self, handler: type[_Quiet]) -> None:
        self.http = _Http(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class Server(_Running):
    """Serves ``content`` at any path; ``behave`` may answer a request in its place."""

    def __init__(self, content: bytes) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.behave: Answer | None = None
        outer = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                self.close_connection = True
                if not (outer.behave and outer.behave(self, len(outer.requests))):
                    send(self, content)

        super().__init__(Handler)

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.requests]


def send(
    handler: http.server.BaseHTTPRequestHandler,
    content: bytes,
    only: int | None = None,
    ranges: bool = True,
) -> None:
    """``content`` from where the request wants it, cut after ``only`` bytes."""
    asked = handler.headers.get("Range")
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges else 0
    if asked and ranges and start >= len(content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if asked and ranges else 200)
    if asked and ranges:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    stop = len(content) if only is None else min(start + only, len(content))
    try:
        handler.wfile.write(content[start:stop])
        handler.wfile.flush()
    except OSError:  # the client has gone
        pass


class FolderServer(_Running):
    """Serves the files under ``root`` with their ranges; ``behave`` may answer in its place.

    With ``lists`` a folder is a page of links. As an object store, /BUCKET?list-type=2 lists.
    """

    def __init__(self, root: Path, lists: bool = False, ranges: bool = True) -> None:
        self.sent = 0
        """Bytes of files sent."""
        self.requests: list[str] = []
        self.behave: Answer | None = None
        outer = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                self.answer(with_body=True)

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def answer(self, with_body: bool) -> None:
                outer.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}")
                if outer.behave and outer.behave(self, len(outer.requests)):
                    return
                url = urllib.parse.urlsplit(self.path)
                path = root / urllib.parse.unquote(url.path).strip("/")
                query = dict(urllib.parse.parse_qsl(url.query))
                if query.get("list-type") == "2":
                    self.reply(200, listing_of_keys(path, query).encode(), with_body)
                elif path.is_file():
                    self.reply_file(path.read_bytes(), with_body)
                elif path.is_dir() and lists:
                    links = "".join(f'<a href="{each.name}">x</a>' for each in path.iterdir())
                    self.reply(200, links.encode(), with_body)
                else:
                    self.reply(404, b"", with_body)

            def reply_file(self, content: bytes, with_body: bool) -> None:
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if not (asked and ranges):
                    outer.sent += len(content) * with_body
                    self.reply(200, content, with_body)
                    return
                start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
                part = content[start:stop]
                outer.sent += len(part) * with_body
                self.reply(206, part, with_body, f"bytes {start}-{stop - 1}/{len(content)}")

            def reply(self, status: int, content: bytes, with_body: bool, part: str = "") -> None:
                self.send_response(status)
                if part:
                    self.send_header("Content-Range", part)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

        super().__init__(Handler)


def listing_of_keys(bucket: Path, query: dict[str, str]) -> str:
    """What S3 answers to ListObjectsV2 with the delimiter ``/``."""
    prefix = query.get("prefix", "")
    keys, folders = [], set()
    for path in sorted(each for each in bucket.rglob("*") if each.is_file()):
        key = str(path.relative_to(bucket))
        if key.startswith(prefix):
            first, slash, _ = key[len(prefix) :].partition("/")
            if slash and query.get("delimiter"):
                folders.add(prefix + first + "/")
            else:
                keys.append((key, path.stat().st_size))
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>x</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key, size in keys
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>"
        for each in sorted(folders)
    )
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"
    )
