"""The decoder decord (0.6.0 or decord2): fast, but damage has to be looked for from outside."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import SIGNS_OF_DAMAGE, Decoder, Frame, TimedFrame
from vadprep.video.decoders.pyav import DECODE_THREADS, PyAVDecoder
from vadprep.video.timeline import MAX_PAUSE

READ_AHEAD_BYTES = 16 << 20
READ_AHEAD_FRAMES = 32
MOST_READ_AHEAD_BYTES = 1 << 30
"""What decord may decode ahead before a seek to a keyframe ends it, or the video is given up."""

FRAMES_BETWEEN_SEEKS = 32  # so that a video of keyframes alone is not sought at each of them


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
        self.header, self._timeline = reader.header, reader.timeline
        reader.close()
        # Of an intact transport stream decord leaves out the first group of pictures, and repeats
        # the last frame as often (decord2 3.4): the count is right, every frame in a wrong place.
        if reader.container == "mpegts":
            raise self._damaged("decord misreads the container mpegts")
        if reader.timeline.holes:
            raise self._damaged("decord does not fill the holes in the time stamps")
        if reader.has_hashes:
            raise self._damaged("decord does not compare the hashes of the pictures")
        if self.header.mirrored:
            raise self._damaged("decord does not mirror pictures")
        self._message_bytes = os.fstat(sys.stderr.fileno()).st_size  # of messages that were read
        self._allowed_bytes = 0  # of private memory, read ahead
        self._next_seek = 0  # index of a frame

    def __iter__(self) -> Iterator[TimedFrame]:
        decord = import_decord()
        num_read = num_frames = 0
        height, width = self.header.height, self.header.width
        try:
            reader = decord.VideoReader(str(self.path), num_threads=DECODE_THREADS)
            num_frames = len(reader)
            keyframes = set(map(int, reader.get_key_indices()))
            times = self._times(reader, num_frames)
            while num_read < num_frames:
                frame = reader.next().asnumpy()
                self._limit_read_ahead(reader, num_read, frame, num_read in keyframes)
                self._check_messages()
                if frame.shape[:2] != (height, width):
                    raise self._damaged(
                        f"decord gives frames of {frame.shape[1]}x{frame.shape[0]}, the header "
                        f"says {width}x{height}"
                    )
                # decord takes the padding of narrow rows for more channels (48 px: [h, 48, 4]).
                frame = frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
                yield frame, times[num_read]
                num_read += 1
        except StopIteration:
            raise self._damaged(f"decord: {num_read} of {num_frames} frames") from None
        except (decord.DECORDError, RuntimeError) as error:
            # Without the position in the C++ source before it, and the stack trace after it.
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            message = re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", line)
            raise self._damaged(f"decord: {message}") from None

    def _times(self, reader: Any, num_frames: int) -> list[float]:
        """Seconds from the first frame to each one. Those of decord, start and end of each, are
        wrong in some containers, such as MPEG-2 in AVI: they serve only where there are packets of
        hidden frames."""
        found = np.asarray(reader.get_frame_timestamp(range(num_frames)), np.float64)
        found -= found[0, 0]
        length, step = float(found[-1, 1] - found[-1, 0]), self._timeline.step
        times = found[:, 0].tolist()
        if len(self._timeline.stamps) == num_frames:
            times = [self._timeline.seconds(place) for place in range(num_frames)]
        elif not ((gaps := np.diff(times)) >= 0).all() or gaps.max(initial=0) > MAX_PAUSE:
            raise self._damaged("decord finds no times for the frames")
        self.end_seconds = times[-1] + (length if step <= length <= MAX_PAUSE else step)
        return times

    def _damaged(self, message: str) -> DecodeError:
        return DecodeError(f"{self.path}: {message}", "damaged")

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
        for line in text.decode(errors="replace").splitlines():
            if SIGNS_OF_DAMAGE.search(line):
                words = re.sub(r"^\[[^]]*\] ", "", line)
                raise self._damaged(f"decord: {words}")

    def _limit_read_ahead(self, reader: Any, index: int, frame: Frame, is_key: bool) -> None:
        """Keep what decord decodes ahead within bounds; DecodeError when that cannot be done.

        While decord waits for a frame it feeds its decoder packet after packet, and never reduces
        that lead: the process grew by 0.8 GB over a video of two hours (measured, decord2 3.4). A
        seek to the keyframe just read drops the lead. A seek may miss, so it is checked that the
        same frame comes again; otherwise the video is left to the other decoder.
        """
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
        private_bytes = (resident - shared) * mmap.PAGESIZE
        if not self._allowed_bytes:
            ahead = max(READ_AHEAD_BYTES, READ_AHEAD_FRAMES * frame.nbytes)
            self._allowed_bytes = private_bytes + ahead
        excess = private_bytes - self._allowed_bytes
        if excess > MOST_READ_AHEAD_BYTES:
            raise self._damaged("decord decodes too far ahead")
        if excess > 0 and is_key and index >= self._next_seek:
            reader.seek(index)
            if not np.array_equal(frame, reader.next().asnumpy()):
                raise self._damaged(f"decord misses keyframe {index} in a seek")
            self._next_seek = index + FRAMES_BETWEEN_SEEKS
            ctypes.CDLL(None).malloc_trim(0)  # freed frames go back to the system


def import_decord() -> Any:
    """decord without NVIDIA's libraries, which decord2 loads wherever torch has brought them.

    cuDNN, cuBLAS and all: half a second and 0.4 GB for each video (measured, decord2 3.4), for
    decoding on the CPU. Its builds for CUDA need them.
    """
    os.environ["DECORD_REWIND_RETRY_MAX"] = "0"
    os.environ["DECORD_EOF_RETRY_MAX"] = "1024"
    # decord2 shows a neighbour for a frame that it misses; it reports that from this share on.
    os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0"
    if "decord" not in sys.modules:
        sys.modules["nvidia"] = None  # type: ignore[assignment]  # nothing of that name is found
        with suppress(OSError):
            importlib.import_module("decord")
        del sys.modules["nvidia"]
    decord = importlib.import_module("decord")
    decord.logging.set_level(decord.logging.INFO)  # the level of "concealing ... errors"
    return decord
