"""Frames of one video, decoded in a process of its own that can be ended at any time.

    with open_frames(path) as stream:
        for block in stream:            # uint8 [n, height, width, 3], RGB, in order
            ...
    stream.report.num_frames

Decoders crash, hang while they hold the GIL, and eat memory. In a child that is the trouble
of one video, ends as a ``DecodeError`` with a ``kind``, and the caller can try the other
decoder. The child is a fresh interpreter, never a fork of a process that holds CUDA or Ray.
Everything shared is anonymous (pipes and memfd), so that no kill leaves anything behind.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import F_GETFL, F_SETFL, fcntl
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.video.backends import VideoHeader as VideoHeader
from vadprep.video.decoder_process import ring_views

Decoder = Literal["decord", "pyav"]
DECODERS: tuple[Decoder, ...] = ("decord", "pyav")

_HEAD_BYTES = 64
"""No container has so much printable text before its first odd byte; every playlist has."""

_TICK_SECONDS = 0.02
_MAX_STDERR_BYTES = 1 << 20
_PARENT_DECIDES = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@dataclass(frozen=True)
class DecodeReport:
    """What happened. ``seconds`` were spent on decoding, without the waiting for the reader.

    ``repaired_frames`` were lost and filled with the last good one, or concealed by the codec
    (by PyAV; decord stops at such a frame). ``end`` is the time in seconds at which the last
    frame ends, None where frames have no time. ``left_out`` counts the frames that evenly spaced
    time stamps leave out: lost by the container without a word, or never there.
    """

    num_frames: int
    repaired_frames: int
    decoder: str
    seconds: float
    end: float | None = None
    left_out: int = 0


def open_frames(
    path: Path,
    *,
    decoder: Decoder = "decord",
    fps: Fraction | None = None,
    stall_seconds: float = 60.0,
) -> FrameStream:
    """Stream of the frames of a video file, or of a folder of images at ``fps``.

    Returns once the header is read. For a folder the decoder is PIL, whatever ``decoder`` says;
    for a file ``fps`` is not used, the container states it. No block for ``stall_seconds``
    ends the child. Raises DecodeError, here and while iterating, with one of the kinds missing,
    empty, unreadable, no-video, no-images, damaged, stalled, crashed, too-large.
    """
    if decoder not in DECODERS:
        raise ValueError(f"{decoder = }: allowed are {', '.join(DECODERS)}")
    if stall_seconds <= 0:
        raise ValueError(f"{stall_seconds = }: expected a positive number")
    path = Path(path).absolute()  # FFmpeg takes the "a" of a relative a:b.mp4 for a protocol
    adapter = _choose_adapter(path, decoder)
    if adapter == "images" and (fps is None or fps <= 0):
        raise ValueError(f"{path} is a folder of images: {fps = }, expected its frame rate")
    command = [
        sys.executable,
        "-m",
        "vadprep.video.decoder_process",
        adapter,
        str(path),
        str(fps or ""),
    ]
    return FrameStream(path, adapter, command, stall_seconds)


def count_frames(path: Path) -> int:
    """Number of frames that can be decoded; decodes all of them. Raises DecodeError."""
    fps = Fraction(1) if Path(path).is_dir() else None
    with open_frames(path, fps=fps, decoder="pyav") as stream:
        return sum(len(block) for block in stream)


def _choose_adapter(path: Path, decoder: Decoder) -> str:
    if not path.exists():
        raise DecodeError(f"{path}: no such file or folder", kind="missing")
    if path.is_dir():
        return "images"
    if not path.is_file():
        raise DecodeError(f"{path}: neither a file nor a folder")
    if not path.stat().st_size:
        raise DecodeError(f"{path}: the file is empty", kind="empty")
    if not os.access(path, os.R_OK):
        raise DecodeError(f"{path}: no permission to read it")
    if _is_text(path):
        raise DecodeError(f"{path}: text, not a video; playlists are not followed")
    return decoder


def _is_text(path: Path) -> bool:
    """Whether a file begins like a playlist, which no FFmpeg may see: it opens what that names."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise DecodeError(f"{path}: cannot be read: {error.strerror}") from None
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


class FrameStream:
    """Blocks of frames of one video, in order. A context manager; leaving it ends the child.

    Iterating gives uint8 [n, height, width, 3] RGB. A block is a view of shared memory and is
    valid until the next one is asked for. ``report`` is there when the last block has been
    asked for. One reader, one pass.
    """

    header: VideoHeader

    def __init__(
        self, path: Path, decoder: str, command: Sequence[str], stall_seconds: float
    ) -> None:
        self.path = path
        self.decoder = decoder
        self._stall_seconds = stall_seconds
        self._report: DecodeReport | None = None
        self._buffer = b""
        self._fds: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._ring: tuple[NDArray[np.int64], NDArray[np.uint8]] | None = None
        try:
            self._start(command)
            self._open_ring(self._next_message())
        except BaseException:
            self.close()
            raise

    @property
    def report(self) -> DecodeReport:
        """What happened; ValueError before the last block has been asked for."""
        if self._report is None:
            raise ValueError(f"{self.path}: the report comes after the last block")
        return self._report

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while "done" not in (message := self._next_message()):
            yield self._block(**message)
            self._give_back_slot()
        self._report = DecodeReport(decoder=self.decoder, **message["done"])
        self.close()

    def close(self) -> None:
        """End the child at once. May be called at any time and more than once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        while self._fds:
            os.close(self._fds.pop())
        # The memory goes with its last view: a block in the reader's hand stays valid.
        self._ring = None

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _start(self, command: Sequence[str]) -> None:
        """Start the child; of the pipes, keep only the parent's ends."""
        self._memory_fd = self._keep(os.memfd_create("vadprep-frames"))
        self._stderr_fd = self._keep(os.memfd_create("vadprep-stderr"))
        # Append, so that truncating a chatty decoder's words starts them at 0 again.
        fcntl(self._stderr_fd, F_SETFL, fcntl(self._stderr_fd, F_GETFL) | os.O_APPEND)
        self._control_fd, child_control_fd = os.pipe()
        child_lifeline_fd, lifeline_fd = os.pipe()
        self._fds += [self._control_fd, lifeline_fd]
        child_fds = (child_control_fd, child_lifeline_fd, self._memory_fd)
        try:
            with _blocked_signals():
                self._process = subprocess.Popen(
                    [*command, *map(str, child_fds)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr_fd,
                    pass_fds=child_fds,
                    env=_child_environment(),
                    start_new_session=True,
                )
        finally:
            os.close(child_control_fd)
            os.close(child_lifeline_fd)

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _open_ring(self, message: dict[str, Any]) -> None:
        fields = message["header"]
        self.header = VideoHeader(**fields | {"fps": Fraction(fields["fps"])})
        memory = mmap.mmap(self._memory_fd, 0)
        shape = (message["slots"], message["slot_frames"])
        self._ring = ring_views(memory, (*shape, self.header.height, self.header.width, 3))

    def _block(self, block: int, num_frames: int) -> NDArray[np.uint8]:
        assert self._ring is not None
        return self._ring[1][block, :num_frames]

    def _give_back_slot(self) -> None:
        if self._ring is not None:  # None: closed while the reader had the block
            self._ring[0][0] += 1
            self._wake()

    def _wake(self) -> None:
        """Let the child go on, should it have stopped itself for want of a slot."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _next_message(self) -> dict[str, Any]:
        """What the child says next. Its silence, death or error is raised as DecodeError."""
        if self._process is None:
            raise ValueError(f"{self.path}: the stream is closed")
        deadline = time.monotonic() + self._stall_seconds
        poll = select.poll()
        poll.register(self._control_fd, select.POLLIN)
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                raise self._stalled()
            if not poll.poll(1000 * _TICK_SECONDS):
                self._wake()  # a SIGCONT is lost when it comes just before the SIGSTOP
            elif chunk := os.read(self._control_fd, 1 << 16):
                self._buffer += chunk
            else:
                raise self._crashed()
        self._bound_stderr()
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            self.close()
            raise DecodeError(message["error"], kind=message["kind"])
        return message

    def _stalled(self) -> DecodeError:
        words = self._last_words()
        self.close()
        message = f"{self.path}: {self.decoder} gave nothing for {self._stall_seconds:g} s"
        return DecodeError(message + words, kind="stalled")

    def _crashed(self) -> DecodeError:
        assert self._process is not None
        code = self._process.wait()
        words = self._last_words()
        self.close()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return DecodeError(f"{self.path}: {self.decoder} crashed, {how}{words}", kind="crashed")

    def _last_words(self) -> str:
        size = os.fstat(self._stderr_fd).st_size
        text = os.pread(self._stderr_fd, 4096, max(0, size - 4096)).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ""

    def _bound_stderr(self) -> None:
        if os.fstat(self._stderr_fd).st_size > _MAX_STDERR_BYTES:
            os.ftruncate(self._stderr_fd, 0)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals on which the parent decides: a child started here never sees them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_DECIDES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _child_environment() -> dict[str, str]:
    """The environment with this very package first on the path, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{others}" if others else root}
