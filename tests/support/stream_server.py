"""A web server that streams bytes to each connection in turn, and then ends or falls silent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from support.videos import write_video

SILENCE = b""
"""Instead of bytes: nothing more comes, and the connection stays open."""


class StreamServer:
    """Connection k gets the chunks of ``parts[k]``; later ones those of the last.

    With ``password`` only requests that name one are answered.
    """

    def __init__(
        self, *parts: Sequence[bytes], kind: str = "video/mp2t", password: bool = False
    ) -> None:
        self.password = password
        self.connections = 0
        self.headers: list[dict[str, str]] = []
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if outer.password and not self.headers.get("Authorization"):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                outer.headers.append(dict(self.headers))
                mine = parts[min(outer.connections, len(parts) - 1)]
                outer.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Transfer-Encoding", "chunked")  # so that an end is no error
                self.end_headers()
                try:
                    for chunk in mine:
                        if chunk == SILENCE:
                            self.wfile.flush()
                            outer._over.wait()
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    pass

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> StreamServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def transport_stream(
    folder: Path, num_frames: int, size: tuple[int, int] = (64, 48), fps: int = 250
) -> bytes:
    """An MPEG-TS of numbered frames; at 250 frames a second a test waits less."""
    path = folder / f"{num_frames}-{size[0]}x{size[1]}.ts"
    return write_video(path, num_frames, size=size, fps=fps, codec="libx264").read_bytes()
