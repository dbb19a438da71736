"""The child process of a FrameStream: it decodes one video into shared memory.

    main(DECODER, PATH, FPS, CONTROL_FD, LIFELINE_FD, MEMORY_FD)

    parent  --- lifeline pipe: never written, its closing kills the child -------->  child
            <-- control pipe: JSON lines: header, times of frames..., done or error ---------
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
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.video.decoders import DECODERS
from vadprep.video.decoders.base import Decoder, Frame

MEMORY_BYTES = 4 << 30
"""Private memory that a decoder may take, besides the slots: about 17 reference frames of 8K at
10 bits, and what decord reads ahead. Beyond it, allocations fail in this process alone."""

SLOTS = 3
SLOT_BYTES = 16 << 20
SLOT_FRAMES = 64  # the ring has few large slots; SLOT_FRAMES is the limit for small frames


def ring_views(memory_fd: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], Frame]:
    """Views of the shared memory: the number of slots given back int64 [1], and the slots, uint8
    ``shape`` [slot, frame, height, width, 3]."""
    memory = mmap.mmap(memory_fd, 0)
    returned = np.frombuffer(memory, np.int64, count=1)
    return returned, np.frombuffer(memory, np.uint8, offset=mmap.PAGESIZE).reshape(shape)


def write_frames(decoder: Decoder, control_fd: int, memory_fd: int) -> None:
    """Put all frames of ``decoder`` into the ring, then send the report.

    A lost frame becomes the last good frame; before the first good frame it becomes that one.
    """
    start, waited_seconds, header = time.perf_counter(), 0.0, decoder.header
    frame_bytes = header.width * header.height * 3
    slot_frames = max(1, min(SLOT_FRAMES, SLOT_BYTES // frame_bytes))
    os.ftruncate(memory_fd, mmap.PAGESIZE + SLOTS * slot_frames * frame_bytes)
    shape = (SLOTS, slot_frames, header.height, header.width, 3)
    returned, slots = ring_views(memory_fd, shape)
    send(control_fd, header=vars(header) | {"fps": str(header.fps)}, shape=shape)
    good: Frame | None = None
    num_frames = num_lost = 0
    due: list[float] = []  # times of frames to write, of which all but one were lost
    times: list[float] = []  # of the frames in the slot
    for frame, seconds in decoder:
        good = good if frame is None else frame
        num_lost += frame is None
        due.append(seconds)
        while due and good is not None:
            slot, place = divmod(num_frames, slot_frames)
            if place == 0:
                if slot:
                    send(control_fd, times=[*times, due[0]])
                wait_start = time.perf_counter()
                while slot - int(returned[0]) >= SLOTS:
                    # A SIGCONT that comes just before this is lost: the parent repeats it.
                    os.kill(os.getpid(), signal.SIGSTOP)
                waited_seconds += time.perf_counter() - wait_start
                times = []
            slots[slot % SLOTS, place] = good
            times.append(due.pop(0))
            num_frames += 1
    if good is None:
        raise DecodeError("no frame can be decoded", kind="damaged")
    end = times[-1] if decoder.end_seconds is None else decoder.end_seconds
    send(control_fd, times=[*times, end])
    report = {
        "num_frames": num_frames,
        "repaired_frames": num_lost + decoder.num_concealed,
        "seconds": time.perf_counter() - start - waited_seconds,
        "end_seconds": decoder.end_seconds,
        "skipped_seconds": decoder.skipped_seconds,
        "notes": [*header.notes, *decoder.notes],
    }
    send(control_fd, done=report)


def send(control_fd: int, **message: Any) -> None:
    """Write one JSON line to the parent."""
    os.write(control_fd, json.dumps(message).encode() + b"\n")


def die_with_parent(lifeline_fd: int) -> None:
    """Let the kernel kill this process when the other end of the lifeline is closed.

    Asynchronous I/O on the pipe, with SIGKILL as its signal: unlike a thread that reads, it
    also ends a process that is stopped or hangs with the GIL held; unlike PR_SET_PDEATHSIG,
    it does not fire when merely the thread that started this process ends.
    """
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline_fd, 10, signal.SIGKILL)  # 10: F_SETSIG, which fcntl does not name
    flags = fcntl.fcntl(lifeline_fd, fcntl.F_GETFL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    try:
        os.read(lifeline_fd, 1)  # b"": the parent was gone before the kernel was asked
    except BlockingIOError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def bound_resources(memory_bytes: int = MEMORY_BYTES) -> None:
    """Limit the private memory of this process, and write no core file when it crashes."""
    # Not RLIMIT_AS: libraries reserve gigabytes of addresses that they never touch.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(decoder: str, path: str, fps: str, *fds: str) -> None:
    """Decode one video into the ring; a DecodeError is sent to the parent."""
    control_fd, lifeline_fd, memory_fd = map(int, fds)
    die_with_parent(lifeline_fd)
    kind = DECODERS[decoder]
    bound_resources(MEMORY_BYTES + kind.extra_bytes)
    try:
        found = kind(Path(path), Fraction(fps) if fps else None)
        write_frames(found, control_fd, memory_fd)
    except DecodeError as error:
        send(control_fd, error=str(error), kind=error.kind)
