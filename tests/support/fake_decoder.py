"""A decoder whose deeds a test writes, in a child process like that of the real ones."""

from __future__ import annotations

import ctypes  # noqa: F401  # for what a test writes
import os  # noqa: F401
import signal  # noqa: F401
import sys  # noqa: F401
import textwrap
import time  # noqa: F401
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vadprep.video import FrameStream, decoder_process
from vadprep.video.decoders.base import Decoder, TimedFrame, VideoHeader


def fake_stream(
    path: Path, decoder: str, num_frames: int, then: str, stall_seconds: float = 30.0
) -> FrameStream:
    """Stream of a decoder that gives ``num_frames`` frames of 64x48 and then runs ``then``.

    ``stall_seconds`` do not count while it starts: a busy machine may take longer.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
        program = [__name__, str(num_frames), textwrap.dedent(then)]
        stream = FrameStream(path, decoder, program, 30.0)
    stream._stall_seconds = stall_seconds
    return stream


class Fake(Decoder):
    """Frame n has the level n, modulo 256."""

    header = VideoHeader(64, 48, Fraction(25), None)

    def __init__(self, num_frames: int, then: str) -> None:
        super().__init__(Path(), None)
        self._num_frames, self._then = num_frames, then

    def __iter__(self) -> Iterator[TimedFrame]:
        for number in range(self._num_frames):
            yield np.full((48, 64, 3), number % 256, np.uint8), number / 25
        exec(self._then, globals())


def main(num_frames: str, then: str, *fds: str) -> None:
    """In the child."""
    control_fd, lifeline_fd, memory_fd = map(int, fds)
    decoder_process.die_with_parent(lifeline_fd)
    decoder_process.bound_resources()
    decoder_process.write_frames(Fake(int(num_frames), then), control_fd, memory_fd)
