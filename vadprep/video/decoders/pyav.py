"""The decoder PyAV: it skips what is broken and counts what is missing.

What it cannot notice: a change after which the stream is still valid. Of 26 bits flipped one at a
time in three real H.264 clips 22 were noticed: all 18 in clips of High profile and 4 of 8 in the
clip of Baseline profile. Of VP8 hardly any are noticed, because VP8 has no checks. Further: what a
patched frame changes in the frames after it, up to the next keyframe (one frame was counted, 1 to
76 were changed); the missing end of a transport stream, which states no length; raw frames under a
header with other dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import Decoder, Frame, VideoHeader, check_size

DECODE_THREADS = 1
"""Many videos are decoded side by side: threads within one video would only get in the way."""

CONTAINERS = (
    "asf", "asf_o", "av1", "avi", "dhav", "dv", "flv", "h264", "hevc", "ivf", "m4v", "matroska",
    "mjpeg", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "webm",
)  # fmt: skip
"""Formats of FFmpeg that are read. Playlists, lists of files and patterns of names are not: with
them FFmpeg would open whatever the file names, other videos or network addresses. decord has no
such option, but it only gets files that PyAV has opened before, and that do not begin as text."""

FFMPEG_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}

MAX_READ_ERRORS = 100
"""After so many errors of the container's reader in a row, the rest of the file is given up."""


def _open(path: Path) -> tuple[Any, Any]:
    """PyAV's container of a file, and its video stream."""
    import av

    try:
        file = av.open(str(path), options=FFMPEG_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise DecodeError(f"{path}: no video can be read from it: {error.strerror}") from None
    stream: Any = file.streams.best("video")
    if stream is None:
        raise DecodeError(f"{path}: it has no video stream", kind="no-video")
    codec = stream.codec_context
    if codec is None:
        raise DecodeError(f"{path}: no decoder for its codec")
    codec.thread_count = DECODE_THREADS
    check_size(path, codec.width, codec.height)
    return file, stream


class PyAVDecoder(Decoder):
    """One pass over a video file with PyAV. It compares packets with frames.

    After the first error, the frames that are missing between two good ones are counted from
    their timestamps, in average frame durations, but never more than the packets that were put in
    without a frame coming out (less the codec's usual delay). So the gaps of a variable frame rate
    are not taken for losses. At the end of the file, those packets alone count.
    """

    def __init__(self, path: Path, fps: Fraction | None = None) -> None:
        from av.video.reformatter import VideoReformatter

        super().__init__(path, fps)
        self._pending = 0  # packets put in for which no frame has come out
        self._delay = 0  # the most packets that were pending before the first error
        self._broken = False  # there has been an error
        self._last_time: Fraction | None = None  # seconds, of the last good frame
        self._reformatter: Any = VideoReformatter()
        self._file, self._stream = _open(path)
        self.container = str(self._file.format.name)  # FFmpeg's name of the container
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise DecodeError(f"{path}: no frame can be decoded", kind="damaged")
        check_size(path, first.width, first.height)
        self._first = first
        rate = self._stream.average_rate or self._stream.guessed_rate
        if not rate:
            raise DecodeError(f"{path}: the container states no frame rate")
        # As in decord: an angle between quarter turns counts as none, and of a mirroring matrix
        # only the rotation is applied.
        rotation = first.rotation % 360 if first.rotation % 90 == 0 else 0
        size = (first.height, first.width) if rotation % 180 else (first.width, first.height)
        frames = self._stream.frames or None
        self.header = VideoHeader(*size, rate, frames, rotation, self._header_seconds())

    def _header_seconds(self) -> float | None:
        """Time at which the video ends by the header; sound may go on after it."""
        if self.container == "avi":  # FFmpeg guesses it from the size of the file
            return None
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        clock = self._stream.metadata.get("DURATION", "")  # of Matroska, 00:00:03.600000000
        if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock):
            hours, minutes, seconds = map(float, match.groups())
            return 3600 * hours + 60 * minutes + seconds
        if self._file.duration and len(self._file.streams) == 1:
            return float(self._file.duration / 1e6)
        return None

    def close(self) -> None:
        """Close the file."""
        self._decoded.close()
        self._file.close()

    def __iter__(self) -> Iterator[Frame | None]:
        frame = self._first
        width, height = frame.width, frame.height
        while frame is not None:
            if (frame.width, frame.height) != (width, height):
                raise DecodeError(
                    f"{self.path}: frames change size from {width}x{height} to "
                    f"{frame.width}x{frame.height}",
                    kind="damaged",
                )
            yield from [None] * self._num_lost_before(frame)
            # BICUBIC (of the chroma) with default range and matrix is what decord's scale filter
            # does, bit for bit. PyAV's own default is BILINEAR, and off by one at odd sizes.
            rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC")
            yield np.rot90(rgb.to_ndarray(), self.header.rotation // 90)
            frame = next(self._decoded, None)
        if self._broken:
            yield from [None] * self._pending

    def _num_lost_before(self, frame: Any) -> int:
        """Frames missing before ``frame``, which becomes the last good one."""
        gap, fps, last = 0, self.header.fps, self._last_time
        if frame.pts is not None:  # average frame durations since the frame before, less one
            if last is None:
                last = (self._stream.start_time or 0) * self._stream.time_base - 1 / fps
            self._last_time = now = frame.pts * frame.time_base
            self.end_seconds = float(now + 1 / fps)
            gap = round((now - last) * fps) - 1
        lost = max(0, min(gap, self._pending - 1 - self._delay)) if self._broken else 0
        self.gaps[gap - lost] += 1
        self._pending = max(0, self._pending - 1 - lost)
        if not self._broken:
            self._delay = max(self._delay, self._pending)
        self.num_concealed += bool(frame.is_corrupt)
        return lost

    def _decode(self) -> Generator[Any, None, None]:
        """Frames of the stream in display order; an error only sets ``_broken``."""
        import av

        packets = self._file.demux(self._stream)
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                packet = next(packets)
                errors = 0
                self._pending += packet.size > 0  # an empty packet flushes the decoder
            except StopIteration:
                return
            except av.error.FFmpegError:
                self._broken = True
                errors += 1
                packets = self._file.demux(self._stream)
                continue
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self._broken = True
