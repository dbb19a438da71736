"""Frames of one video, decoded in a process of its own that can be killed at any time.

Decoders crash, hang while they hold the GIL, and eat memory. In a child process that harms one
video only: it ends as a ``DecodeError`` with a ``kind``, and the caller can try another decoder.
The child is a fork of a process that holds nothing but imports, never of one that holds CUDA or
Ray (``fork_server``). Everything shared is anonymous (pipes, sockets and memfd), so that no kill
leaves anything behind.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import signal
import time
from array import array
from collections.abc import Iterator, Sequence
from fcntl import F_GETFL, F_SETFL, fcntl
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.child import how_it_ended
from vadprep.core.errors import DecodeError, allowed_are
from vadprep.video import decoder_process
from vadprep.video.decoder_process import SLOTS, ring_views
from vadprep.video.decoders import FILE_DECODERS, FOLDER_DECODERS
from vadprep.video.decoders.base import DecodeReport, VideoHeader, is_frame
from vadprep.video.fork_server import Child, start_child

_HEAD_BYTES = 64  # no container has so much text before its first odd byte; every playlist has
_TICK_SECONDS = 0.02
_MAX_STDERR_BYTES = 1 << 20


def open_frames(
    path: Path, *, decoder: str = "decord", fps: Fraction | None = None, stall_seconds: float = 60.0
) -> FrameStream:
    """Stream of the frames of a video file, or of a folder of frames at ``fps``.

    Returns once the header is read. ``decoder`` is one of FILE_DECODERS and decides for a file;
    a folder is read by the FolderDecoder of its file endings. ``fps`` counts for a folder; a file
    states its own. The child is killed when no block comes for ``stall_seconds``. Raises
    DecodeError, here and while iterating, with one of the kinds missing, empty, unreadable,
    no-video, no-images, damaged, stalled, crashed, too-large; ValueError for bad arguments.
    """
    if decoder not in FILE_DECODERS:
        raise ValueError(f"{decoder = }: {allowed_are(decoder, FILE_DECODERS)}")
    if stall_seconds <= 0:
        raise ValueError(f"{stall_seconds = }: expected a positive number")
    path = Path(path).absolute()  # FFmpeg takes the "a" of a relative a:b.mp4 for a protocol
    if path.is_dir():
        decoder = _folder_decoder(path)
        if fps is None or fps <= 0:
            raise ValueError(f"{path} is a folder of frames: {fps = }, expected its frame rate")
    else:
        check_file(path)
    program = [decoder_process.__name__, decoder, str(path), str(fps or "")]
    return FrameStream(path, decoder, program, stall_seconds)


def count_frames(path: Path) -> int:
    """Number of frames that can be decoded; decodes all of them. Raises DecodeError."""
    fps = Fraction(1) if Path(path).is_dir() else None
    with open_frames(path, fps=fps, decoder="pyav") as stream:
        return sum(len(block) for block in stream)


def check_file(path: Path) -> None:
    """Raise DecodeError for a file that no decoder needs to see, or that none may see.

    Text is refused: a playlist makes FFmpeg open the files and addresses that it names.
    """
    if not path.exists():
        raise DecodeError(f"{path}: no such file or folder", kind="missing")
    if not path.is_file():
        raise DecodeError(f"{path}: neither a file nor a folder")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise DecodeError(f"{path}: the file is empty", kind="empty")
    try:  # the last letter may be cut
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return
    if all(letter.isprintable() or letter in "\t\n\r" for letter in text):
        if text.startswith("YUV4MPEG2 "):
            return
        what = "playlists are not followed"
        if text.startswith("version https://git-lfs"):
            what = "a pointer of Git LFS: run git lfs pull"
        elif text.lstrip().startswith(("<", "{")):
            what = "a web page or an answer of a server: download the video again"
        raise DecodeError(f"{path}: text, not a video; {what}")


def _folder_decoder(folder: Path) -> str:
    """Name of the first decoder that finds its file endings in a folder."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DecodeError(f"{folder}: cannot be read: {error.strerror}") from None
    for name, decoder in FOLDER_DECODERS.items():
        if any(is_frame(entry, decoder.suffixes) for entry in names):
            return name
    suffixes = sorted(frozenset().union(*(each.suffixes for each in FOLDER_DECODERS.values())))
    raise DecodeError(f"{folder}: no images ({', '.join(suffixes)})", "no-images")


class FrameStream:
    """Blocks of frames of one video, in order. A context manager; leaving it kills the child.

    Iterating gives uint8 [n, height, width, 3] RGB. A block is a view of shared memory, valid
    until the next block is requested. After the last block, ``report`` says what was decoded.
    A stream has one reader, which passes over it once.
    """

    header: VideoHeader

    def __init__(
        self, path: Path, decoder: str, program: Sequence[str], stall_seconds: float
    ) -> None:
        """``program`` is a module, whose ``main`` decodes, and what ``main`` is given."""
        self.path, self.decoder = path, decoder
        self._stall_seconds = stall_seconds
        self._report: DecodeReport | None = None
        self.times = array("d")
        """Seconds from the first frame to each one that was given so far, and to the next one,
        or the end of the video."""
        self._buffer = b""
        self._fds: list[int] = []
        self._process: Child | None = None
        self._ring: tuple[NDArray[np.int64], NDArray[np.uint8]] | None = None
        try:
            self._start(program)
            message = self._next_message()
        except BaseException:
            self.close()
            raise
        fields = message["header"]
        exact = {"fps": Fraction(fields["fps"]), "notes": tuple(fields["notes"])}
        self.header = VideoHeader(**fields | exact)
        self._ring = ring_views(self._memory_fd, message["shape"])

    @property
    def report(self) -> DecodeReport:
        """What was decoded; ValueError before the last block has been requested."""
        if self._report is None:
            raise ValueError(f"{self.path}: the report comes after the last block")
        return self._report

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while "done" not in (message := self._next_message()):
            assert self._ring is not None
            self.times[-1:] = array("d", message["times"])
            yield self._ring[1][self._ring[0][0] % SLOTS, : len(message["times"]) - 1]
            if self._ring and self._process:  # else closed while the reader had the block
                self._ring[0][0] += 1
                self._process.send_signal(signal.SIGCONT)
        done = message["done"]
        done["notes"] = tuple(done["notes"])
        self._report = DecodeReport(decoder=self.decoder, **done)
        self.close()

    def close(self) -> None:
        """Kill the child at once. May be called at any time and more than once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        while self._fds:
            os.close(self._fds.pop())
        self._ring = None  # the memory goes with its last view: a block in hand stays valid

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _start(self, program: Sequence[str]) -> None:
        """Start the child; of the pipes, keep only the parent's ends."""
        self._memory_fd = os.memfd_create("vadprep-frames")
        self._stderr_fd = os.memfd_create("vadprep-stderr")
        # In append mode, a truncated file starts again at 0.
        fcntl(self._stderr_fd, F_SETFL, fcntl(self._stderr_fd, F_GETFL) | os.O_APPEND)
        self._control_fd, child_control_fd = os.pipe()
        child_lifeline_fd, lifeline_fd = os.pipe()
        self._fds = [self._memory_fd, self._stderr_fd, self._control_fd, lifeline_fd]
        child_fds = (child_control_fd, child_lifeline_fd, self._memory_fd)
        try:
            self._process = start_child(program, self._stderr_fd, child_fds, self._stall_seconds)
        except TimeoutError:
            raise self._failure(self._silence, "stalled") from None
        except ChildProcessError as error:
            raise self._failure(_end(error.args[0]), "crashed") from None
        finally:
            os.close(child_control_fd)
            os.close(child_lifeline_fd)

    @property
    def _silence(self) -> str:
        return f"gave nothing for {self._stall_seconds:g} s"

    def _next_message(self) -> dict[str, Any]:
        """The child's next message. Its silence, death or error is raised as DecodeError."""
        if self._process is None:
            raise ValueError(f"{self.path}: the stream is closed")
        deadline = time.monotonic() + self._stall_seconds
        poll = select.poll()
        poll.register(self._control_fd, select.POLLIN)
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                raise self._failure(self._silence, "stalled")
            if not poll.poll(1000 * _TICK_SECONDS):
                # A SIGCONT is lost when it comes just before the SIGSTOP.
                self._process.send_signal(signal.SIGCONT)
            elif chunk := os.read(self._control_fd, 1 << 16):
                self._buffer += chunk
            else:
                raise self._failure(_end(self._process.wait()), "crashed")
        if os.fstat(self._stderr_fd).st_size > _MAX_STDERR_BYTES:
            os.ftruncate(self._stderr_fd, 0)
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            self.close()
            raise DecodeError(message["error"], kind=message["kind"])
        return message

    def _failure(self, what: str, kind: str) -> DecodeError:
        """Kill the child; the error says what happened and quotes its last line on stderr."""
        size = os.fstat(self._stderr_fd).st_size
        text = os.pread(self._stderr_fd, 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        self.close()
        quote = f": {lines[-1]}" if lines else ""
        return DecodeError(f"{self.path}: {self.decoder} {what}{quote}", kind)


def _end(code: int) -> str:
    return f"crashed, {how_it_ended(code)}"
