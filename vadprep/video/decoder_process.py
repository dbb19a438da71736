"""The child process of a FrameStream: it decodes one video into shared memory.

    python -m vadprep.video.decoder_process DECODER PATH FPS  CONTROL_FD LIFELINE_FD MEMORY_FD

    parent  --- lifeline pipe: never written, its closing kills the child -------->  child
            <-- control pipe: JSON lines: header, block..., done or error ---------
            <-> memory: [page: int64 slots given back][slot 0][slot 1][slot 2] <->

A child with no free slot stops itself by SIGSTOP until the parent gives one back. Waiting in
a read would not do: decord's thread goes on decoding ahead into unbounded memory (measured:
600 MB after 1,000 frames of 640x360 with a slow reader; 30 MB when stopped).
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.video.decoders import DECODERS
from vadprep.video.decoders.base import Decoder, Frame, VideoHeader

MEMORY_BYTES = 4 << 30
"""Private memory that a decoder may take, besides the slots: about 17 reference frames of 8K at
10 bits, and what decord reads ahead. Beyond it, allocations fail in this process alone."""

SLOTS = 3
SLOT_BYTES = 16 << 20
SLOT_FRAMES = 64
"""The ring has few large slots; SLOT_FRAMES is the limit for small frames."""


class Ring:
    """Slots of frames in memory shared with the parent, and the control pipe."""

    def __init__(self, control_fd: int, memory_fd: int) -> None:
        self._control_fd = control_fd
        self._memory_fd = memory_fd
        self._sent = 0
        self.waited_seconds = 0.0

    def send(self, **message: Any) -> None:
        """Write one JSON line to the parent."""
        os.write(self._control_fd, json.dumps(message).encode() + b"\n")

    def open(self, header: VideoHeader) -> None:
        """Allocate the slots and tell the parent about them."""
        frame_bytes = header.width * header.height * 3
        slot_frames = max(1, min(SLOT_FRAMES, SLOT_BYTES // frame_bytes))
        num_bytes = mmap.PAGESIZE + SLOTS * slot_frames * frame_bytes
        os.ftruncate(self._memory_fd, num_bytes)
        memory = mmap.mmap(self._memory_fd, num_bytes)
        shape = (SLOTS, slot_frames, header.height, header.width, 3)
        self._returned, self._slots = ring_views(memory, shape)
        fields = vars(header) | {"fps": str(header.fps)}
        self.send(header=fields, slots=SLOTS, slot_frames=slot_frames)

    def next_slot(self) -> Frame:
        """A free slot, uint8 [frames, height, width, 3]; stops the process until there is."""
        start = time.perf_counter()
        while self._sent - int(self._returned[0]) >= len(self._slots):
            # A SIGCONT that comes just before this is lost: the parent repeats it.
            os.kill(os.getpid(), signal.SIGSTOP)
        self.waited_seconds += time.perf_counter() - start
        return self._slots[self._sent % len(self._slots)]

    def send_slot(self, num_frames: int) -> None:
        """Hand the slot last taken to the parent, with ``num_frames`` in it."""
        self.send(block=self._sent % len(self._slots), num_frames=num_frames)
        self._sent += 1


def ring_views(
    memory: mmap.mmap, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Views of the shared memory: the counter of slots given back int64 [1], and the slots."""
    returned = np.frombuffer(memory, np.int64, count=1)
    slots = np.frombuffer(memory, np.uint8, offset=mmap.PAGESIZE).reshape(shape)
    return returned, slots


def write_frames(decoder: Decoder, ring: Ring) -> None:
    """Put all frames of ``decoder`` into the ring, then send the report.

    A lost frame becomes the last good frame; before the first good frame it becomes that one.
    """
    start = time.perf_counter()
    ring.open(decoder.header)
    num_frames = num_filled = in_slot = 0
    slot = ring.next_slot()
    for frame, filled in _fill(decoder):
        if in_slot == len(slot):
            ring.send_slot(in_slot)
            slot, in_slot = ring.next_slot(), 0
        slot[in_slot] = frame
        in_slot += 1
        num_frames += 1
        num_filled += filled
    if not num_frames:
        raise DecodeError("no frame can be decoded", kind="damaged")
    ring.send_slot(in_slot)
    report = {
        "num_frames": num_frames,
        "repaired_frames": num_filled + decoder.num_concealed,
        "seconds": time.perf_counter() - start - ring.waited_seconds,
        "end_seconds": decoder.end_seconds(),
        "skipped_frames": decoder.num_skipped(),
    }
    ring.send(done=report)


def _fill(frames: Iterable[Frame | None]) -> Iterator[tuple[Frame, bool]]:
    """Each frame, and whether it fills the place of a lost one."""
    good: Frame | None = None
    lost_at_start = 0
    for frame in frames:
        if frame is not None:
            yield from [(frame, True)] * lost_at_start
            good, lost_at_start = frame, 0
        if good is None:
            lost_at_start += 1
        else:
            yield good, frame is None


def die_with_parent(lifeline_fd: int) -> None:
    """Let the kernel kill this process when the other end of the lifeline is closed.

    Asynchronous I/O on the pipe, with SIGKILL as its signal: unlike a thread that reads, it
    also ends a process that is stopped or hangs with the GIL held; unlike PR_SET_PDEATHSIG,
    it does not fire when merely the thread that started this process ends.
    """
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline_fd, 10, signal.SIGKILL)  # 10: F_SETSIG, which fcntl does not name
    flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    os.set_blocking(lifeline_fd, False)
    try:
        os.read(lifeline_fd, 1)  # b"": the parent was gone before the kernel was asked
    except BlockingIOError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def bound_resources() -> None:
    """Limit the memory of this process, and write no core file when it crashes.

    The limit is on private writable memory (RLIMIT_DATA), not on addresses (RLIMIT_AS): libraries
    reserve gigabytes of addresses that they never touch.
    """
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> None:
    """Decode one video into the ring; a DecodeError is sent to the parent."""
    decoder, path, fps = arguments[0], Path(arguments[1]), arguments[2]
    control_fd, lifeline_fd, memory_fd = map(int, arguments[3:])
    die_with_parent(lifeline_fd)
    bound_resources()
    ring = Ring(control_fd, memory_fd)
    try:
        write_frames(DECODERS[decoder](path, Fraction(fps) if fps else None), ring)
    except DecodeError as error:
        ring.send(error=str(error), kind=error.kind)


if __name__ == "__main__":
    main(sys.argv[1:])
