"""Frames of one stream, read in a child process: a damaged packet may crash it, not us."""

from __future__ import annotations

import json
import mmap
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.child import child_environment, how_it_ended, start_program
from vadprep.core.errors import DecodeError
from vadprep.online.source import SCHEMES, Source

TICK_SECONDS = 0.2
"""How soon a closed capture is noticed."""
START_SECONDS = 20.0
"""More than ``stall_seconds`` that the first frame may take: Python and FFmpeg start, a camera
waits for its next keyframe."""


class CapturedFrame(NamedTuple):
    """One frame of a stream."""

    rgb: NDArray[np.uint8]
    """uint8 [height, width, 3], valid until the next frame is asked for."""
    seconds: float
    """Its time stamp, by the clock of the stream."""
    arrived: float
    """When it was decoded, by the monotonic clock of this machine."""
    damaged: int
    """Damaged packets since the frame before."""
    skipped: int
    """Frames since the one before for which this process was too slow."""


class Capture:
    """Frames of a stream or device until it ends. A context manager; leaving it kills the child.

    Raises DecodeError, here and while iterating, when the stream cannot be opened, stalls, breaks
    or ends: a live stream has no good end. ``kind`` is ``ended`` after an orderly one, and
    ``stopped`` soon after ``is_over`` gives True. ``seen`` is the last time stamp of the connection
    before: what a playlist shows again is left out.
    """

    def __init__(
        self,
        source: Source,
        stall_seconds: float,
        is_over: Callable[[], bool] = lambda: False,
        seen: float = float("-inf"),
    ) -> None:
        self._name, self._stall_seconds, self._is_over = source.name, stall_seconds, is_over
        self._buffer = b""
        self._fds: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start(source, seen)
            header = self._message(stall_seconds + START_SECONDS)["header"]
        except BaseException:
            self.close()
            raise
        self.shape: tuple[int, int] = tuple(header["shape"][1:3])
        """Height and width."""
        self.fps = Fraction(header["fps"]) if header["fps"] else None
        self.tick: float = header["tick"]
        memory = mmap.mmap(self._memory_fd, 0)  # not read-only: torch warns of it
        self._ring = np.frombuffer(memory, np.uint8).reshape(header["shape"])

    def __iter__(self) -> Iterator[CapturedFrame]:
        while True:
            each = self._message(self._stall_seconds)
            rgb = self._ring[each["slot"]]
            yield CapturedFrame(rgb, each["seconds"], each["at"], each["damaged"], each["skipped"])
            if self._process is None:
                return
            try:
                os.write(self._credit_fd, b"x")
            except OSError:  # the child is gone: its last message says why
                pass

    def close(self) -> None:
        """Kill the child. By the thread that reads."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, source: Source, seen: float) -> None:
        self._memory_fd = os.memfd_create("vadprep-live")
        pipes = [os.pipe() for _ in range(4)]
        (
            (config, config_in),
            (self._control_fd, control_in),
            (line, line_in),
            (credit, credit_in),
        ) = pipes
        self._credit_fd = credit_in
        self._fds = [self._memory_fd, config_in, self._control_fd, line_in, credit_in]
        os.set_blocking(credit_in, False)
        child_fds = (config, control_in, line, credit, self._memory_fd)
        program = "from vadprep.online.capture_process import main; main(*sys.argv[1:])"
        stderr = subprocess.DEVNULL  # FFmpeg names addresses with their passwords
        try:
            self._process = start_program(program, child_fds, stderr, child_environment())
        finally:
            for each in child_fds[:-1]:
                os.close(each)
        scheme = source.address.partition("://")[0].lower()
        about = {
            "address": source.address,
            "kind": source.kind,
            "format": "v4l2" if source.kind == "device" else SCHEMES[scheme],
            "stall_seconds": self._stall_seconds,
            "seen": seen,
        }
        os.write(config_in, json.dumps(about).encode())
        os.close(config_in)
        self._fds.remove(config_in)

    def _message(self, seconds: float) -> dict[str, Any]:
        """The child's next message. Silence, death and the end are raised as DecodeError."""
        if self._process is None:
            raise ValueError(f"{self._name}: the capture is closed")
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._control_fd, select.POLLIN)
        while b"\n" not in self._buffer:
            if self._is_over():
                raise DecodeError(f"{self._name}: stopped", "stopped")
            if time.monotonic() > deadline:
                raise DecodeError(f"nothing came for {seconds:g} s", "stalled")
            if not poll.poll(1000 * TICK_SECONDS):
                continue
            if not (chunk := os.read(self._control_fd, 1 << 16)):
                how = how_it_ended(self._process.wait())
                raise DecodeError(f"its reader crashed, {how}", "crashed")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "end" in message:
            raise DecodeError(message["end"], message["what"])
        return message
