"""The decoder decord (0.6.0 or decord2): fast, but damage has to be looked for from outside."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import Decoder, Frame, num_skipped
from vadprep.video.decoders.pyav import DECODE_THREADS, PyAVDecoder

READ_AHEAD_BYTES = 16 << 20
READ_AHEAD_FRAMES = 32
MOST_READ_AHEAD_BYTES = 1 << 30
"""What decord may decode ahead before a seek to a keyframe ends it, or the video is given up."""

FRAMES_BETWEEN_SEEKS = 32
"""So that a video of keyframes alone is not sought at each of them."""

SIGNS_OF_DAMAGE = re.compile(
    rb"conceal|error|corrupt|damaged|invalid|illegal|missing|could not find ref", re.IGNORECASE
)
"""Words in FFmpeg's messages below decord: the frame is not the one that was encoded."""

MISREAD_CONTAINERS = ("mpegts",)
"""Of an intact transport stream decord leaves out the first group of pictures, and repeats the
last frame as often (decord2 3.4): the count is right, and every frame in a wrong place."""


class DecordDecoder(Decoder):
    """Frames through decord. The header is PyAV's, so that both decoders agree on it.

    decord turns the frames itself. Where packets give no frame, decord would rewind and repeat
    frames: here that is an error. A frame that the codec patched up is an error, too: decord
    passes it on like any other, but FFmpeg writes a message, which ``_check_messages`` reads.
    PyAV gives the same frames and counts the patched ones.
    """

    def __init__(self, path: Path, fps: Fraction | None = None) -> None:
        super().__init__(path, fps)
        reader = PyAVDecoder(path)
        self.header, container = reader.header, reader.container
        reader.close()
        if container in MISREAD_CONTAINERS:
            raise DecodeError(f"{path}: decord misreads the container {container}", "damaged")
        self._times: NDArray[np.float64] | None = None  # [n, 2], start and end in s
        self._message_bytes = 0  # of FFmpeg's messages that were read

    def end_seconds(self) -> float | None:
        """Time at which the last frame ends; None before all frames are read."""
        return None if self._times is None else float(self._times[-1, 1])

    def num_skipped(self) -> int:
        """Frames that fit into the gaps between the timestamps."""
        if self._times is None:
            return 0
        gaps = (np.diff(self._times[:, 0]) * float(self.header.fps)).round().astype(int) - 1
        return num_skipped(Counter(gaps.tolist()))

    def __iter__(self) -> Iterator[Frame]:
        decord = _import_decord()
        num_read = num_frames = 0
        try:
            reader = decord.VideoReader(str(self.path), num_threads=DECODE_THREADS)
            num_frames = len(reader)
            read_ahead = _ReadAhead(self.path, reader)
            while num_read < num_frames:
                frame = read_ahead.limit(num_read, reader.next().asnumpy())
                self._check_messages()
                yield self._without_padding(frame)
                num_read += 1
            if num_read:
                times = reader.get_frame_timestamp(range(num_read))
                self._times = np.asarray(times, np.float64)
        except StopIteration:
            message = f"{self.path}: decord: {num_read} of {num_frames} frames"
            raise DecodeError(message, "damaged") from None
        except (decord.DECORDError, RuntimeError) as error:
            message = f"{self.path}: decord: {_first_line(error)}"
            raise DecodeError(message, "damaged") from None

    def _check_messages(self) -> None:
        """Raise DecodeError when FFmpeg has written a new message about damage.

        The error stream of this process is a file that its parent made.
        """
        size = os.fstat(sys.stderr.fileno()).st_size
        if size == self._message_bytes:
            return
        start = self._message_bytes if self._message_bytes < size else 0  # the parent emptied it
        text = os.pread(sys.stderr.fileno(), size - start, start)
        self._message_bytes = size
        for line in text.splitlines():
            if SIGNS_OF_DAMAGE.search(line):
                words = re.sub(r"^\[[^]]*\] ", "", line.decode(errors="replace"))
                raise DecodeError(f"{self.path}: decord: {words}", "damaged")

    def _without_padding(self, frame: Frame) -> Frame:
        """The frame [height, width, 3] of what decord gives.

        decord takes the padding of narrow rows for more channels (48 pixels: [height, 48, 4]).
        """
        height, width = self.header.height, self.header.width
        if frame.shape[:2] != (height, width):
            raise DecodeError(
                f"{self.path}: decord gives frames of {frame.shape[1]}x{frame.shape[0]}, the "
                f"header says {width}x{height}",
                kind="damaged",
            )
        return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


class _ReadAhead:
    """Keeps what decord decodes ahead of its reader within bounds.

    While decord waits for a frame it feeds its decoder packet after packet, and never reduces that
    lead: the process grew by 0.8 GB over a video of two hours (measured, decord2 3.4). A seek to
    the keyframe just read drops the lead. A seek may miss, so it is checked that the same frame
    comes again; otherwise the video is left to the other decoder.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self._path = path
        self._reader = reader
        self._keyframes = set(map(int, reader.get_key_indices()))
        self._allowed = 0
        self._next_seek = 0

    def limit(self, index: int, frame: Frame) -> Frame:
        """``frame`` number ``index``, just read; raises DecodeError when no bound can be kept."""
        if not self._allowed:
            ahead = max(READ_AHEAD_BYTES, READ_AHEAD_FRAMES * frame.nbytes)
            self._allowed = _private_bytes() + ahead
        excess = _private_bytes() - self._allowed
        if excess > MOST_READ_AHEAD_BYTES:
            raise DecodeError(f"{self._path}: decord decodes too far ahead", "damaged")
        if excess <= 0 or index < self._next_seek or index not in self._keyframes:
            return frame
        self._reader.seek(index)
        again: Frame = self._reader.next().asnumpy()
        if not np.array_equal(frame, again):
            raise DecodeError(f"{self._path}: decord misses keyframe {index} in a seek", "damaged")
        self._next_seek = index + FRAMES_BETWEEN_SEEKS
        ctypes.CDLL(None).malloc_trim(0)  # freed frames go back to the system
        return again


def _import_decord() -> Any:
    """decord without NVIDIA's libraries, which decord2 loads wherever torch has brought them.

    cuDNN, cuBLAS and all: half a second and 0.4 GB for each video (measured, decord2 3.4), for
    decoding on the CPU. Its builds for CUDA need them.
    """
    os.environ["DECORD_REWIND_RETRY_MAX"] = "0"
    os.environ["DECORD_EOF_RETRY_MAX"] = "1024"
    # decord2 shows a neighbour for a frame that it misses; it reports that from this share on.
    os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0"
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # nothing of that name to be found
    try:
        decord = importlib.import_module("decord")
    except OSError:
        del sys.modules["nvidia"]
        decord = importlib.import_module("decord")
    decord.logging.set_level(decord.logging.INFO)  # the level of "concealing ... errors"
    return decord


def _private_bytes() -> int:
    """Memory of this process that it shares with no other."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def _first_line(error: BaseException) -> str:
    """The message of an error, without the C++ source position before it and stack trace after."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", line)
