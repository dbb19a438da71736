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
from collections import Counter
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import Decoder, Frame, VideoHeader, check_size, num_skipped

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


class PyAVDecoder(Decoder):
    """One pass over a video file with PyAV. It compares packets with frames.

    After the first error, the frames that are missing between two good ones are counted from
    their timestamps, in average frame durations, but never more than the packets that were put in
    without a frame coming out (less the codec's usual delay). So the gaps of a variable frame rate
    are not taken for losses. At the end of the file, those packets alone count.
    """

    def __init__(self, path: Path, fps: Fraction | None = None) -> None:
        super().__init__(path, fps)
        self._gaps: Counter[int] = Counter()
        """Frames missing before a frame, by its timestamp -> how often; -1 is half a frame."""
        self._pending = 0  # packets put in for which no frame has come out
        self._delay = 0  # the most packets that were pending before the first error
        self._broken = False  # there has been an error
        self._stream: Any = None
        self._last_time: Fraction | None = None  # seconds, of the last good frame
        self._open()
        self._decoded = self._decode()
        self._first = self._first_frame()
        self.header = self._read_header()

    @property
    def container(self) -> str:
        """FFmpeg's name of the container."""
        return str(self._container.format.name)

    def close(self) -> None:
        """Close the file."""
        self._decoded.close()
        self._container.close()

    def end_seconds(self) -> float | None:
        """Time at which the last frame so far ends."""
        return None if self._last_time is None else float(self._last_time + 1 / self.header.fps)

    def num_skipped(self) -> int:
        """Frames that fit into the gaps between the timestamps."""
        return num_skipped(self._gaps)

    def __iter__(self) -> Iterator[Frame | None]:
        size = self._first.width, self._first.height
        frame = self._first
        while frame is not None:
            if (frame.width, frame.height) != size:
                raise DecodeError(
                    f"{self.path}: frames change size from {size[0]}x{size[1]} to "
                    f"{frame.width}x{frame.height}",
                    kind="damaged",
                )
            yield from [None] * self._num_lost_before(frame)
            yield self._to_rgb(frame)
            frame = next(self._decoded, None)
        if self._broken:
            yield from [None] * self._pending

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter: Any = VideoReformatter()
        try:
            self._container = av.open(
                str(self.path), options=FFMPEG_OPTIONS, metadata_errors="replace"
            )
        except av.error.FFmpegError as error:
            message = f"{self.path}: no video can be read from it: {error.strerror}"
            raise DecodeError(message) from None
        if not self._container.streams.video:
            raise DecodeError(f"{self.path}: it has no video stream", kind="no-video")
        self._stream = self._container.streams.best("video")
        codec: Any = self._stream.codec_context
        if codec is None:
            raise DecodeError(f"{self.path}: no decoder for its codec")
        codec.thread_count = DECODE_THREADS
        check_size(self.path, codec.width, codec.height)

    def _first_frame(self) -> Any:
        for frame in self._decoded:
            check_size(self.path, frame.width, frame.height)
            return frame
        raise DecodeError(f"{self.path}: no frame can be decoded", kind="damaged")

    def _read_header(self) -> VideoHeader:
        fps = self._stream.average_rate or self._stream.guessed_rate
        if not fps:
            raise DecodeError(f"{self.path}: the container states no frame rate")
        width, height = self._first.width, self._first.height
        turns = quarter_turns(self._first.rotation)
        if turns % 2:
            width, height = height, width
        frames = self._stream.frames or None
        return VideoHeader(width, height, fps, frames, 90 * turns, self._header_seconds())

    def _header_seconds(self) -> float | None:
        """Time at which the video ends by the header; sound may go on after it."""
        if self._container.format.name == "avi":  # FFmpeg guesses it from the size of the file
            return None
        if self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        if clock := self._stream.metadata.get("DURATION"):  # of Matroska, 00:00:03.600000000
            if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock):
                hours, minutes, seconds = map(float, match.groups())
                return 3600 * hours + 60 * minutes + seconds
        if self._container.duration and len(self._container.streams) == 1:
            return self._container.duration / 1e6
        return None

    def _to_rgb(self, frame: Any) -> Frame:
        """The frame as displayed, [height, width, 3].

        BICUBIC (of the chroma) with default range and matrix is what decord's scale filter
        does, bit for bit. PyAV's own default is BILINEAR, and off by one at odd sizes.
        """
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC")
        return np.rot90(rgb.to_ndarray(), self.header.rotation // 90)

    def _num_lost_before(self, frame: Any) -> int:
        """Frames missing before ``frame``, which becomes the last good one."""
        gap = self._gap_before(frame)
        lost = min(gap, self._pending - 1 - self._delay)
        lost = max(0, lost) if self._broken else 0
        self._gaps[gap - lost] += 1
        self._pending = max(0, self._pending - 1 - lost)
        if not self._broken:
            self._delay = max(self._delay, self._pending)
        self.num_concealed += bool(frame.is_corrupt)
        return lost

    def _gap_before(self, frame: Any) -> int:
        """Average frame durations between ``frame`` and the one before, less one."""
        if frame.pts is None:
            return 0
        last, fps = self._last_time, self.header.fps
        self._last_time = now = frame.pts * frame.time_base
        if last is None:
            last = (self._stream.start_time or 0) * self._stream.time_base - 1 / fps
        return round((now - last) * fps) - 1

    def _decode(self) -> Generator[Any, None, None]:
        """Frames of the stream in display order; an error only sets ``_broken``."""
        import av

        packets = self._container.demux(self._stream)
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                self._broken = True
                errors += 1
                packets = self._container.demux(self._stream)
                continue
            errors = 0
            self._pending += packet.size > 0  # an empty packet flushes the decoder
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self._broken = True


def quarter_turns(rotation_degrees: int) -> int:
    """Quarter turns counter-clockwise, 0 to 3, of a display matrix's angle.

    As in decord: an angle between quarter turns counts as none, and of a mirroring matrix only
    the rotation is applied.
    """
    return rotation_degrees // 90 % 4 if rotation_degrees % 90 == 0 else 0
