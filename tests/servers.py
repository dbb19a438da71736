"""A web server on this machine that a test can make misbehave."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable


class Server:
    """Serves ``content`` at any path; ``behave`` may answer a request in its place."""

    def __init__(self, content: bytes) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.behave: Callable[[http.server.BaseHTTPRequestHandler, int], bool] | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                self.close_connection = True
                if not (outer.behave and outer.behave(self, len(outer.requests))):
                    send(self, content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

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
