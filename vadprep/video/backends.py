"""The decoders: a video -> its frames in order, by decord, PyAV, or as a folder of images.

An adapter yields frames, and ``None`` where one is lost. It runs in the process that
``decoding`` describes, never in the caller's.

**What of damage is seen.** Packets that do not decode; frames that the codec patched up; frames
that decord shows in place of others; frames missing against the header's count or time. A hole in
the time stamps is told as a doubt, since a variable frame rate has the same.

**What cannot be seen.** A change after which the stream is still valid: of 26 bits flipped one at
a time in three real H.264 clips 22 were seen, all 18 in those of High profile and 4 of 8 in that
of Baseline; of VP8 hardly any are, for it has no checks. What a patched frame smears over those
after it, up to the next keyframe (counted is one, changed were 1 to 76). The missing end of a
transport stream, which claims no length. Raw frames under a header of other dimensions.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError
from vadprep.data.sources import IMAGE_SUFFIXES

DECODE_THREADS = 1
"""Many videos are decoded side by side, so threads within one would only get in the way."""

MAX_PIXELS = 7680 * 4320
"""A larger frame is taken for a lying header."""

READ_AHEAD_BYTES = 16 << 20
READ_AHEAD_FRAMES = 32
MOST_READ_AHEAD_BYTES = 1 << 30
"""What decord may decode ahead before it is brought back at a keyframe, or given up."""

FRAMES_BETWEEN_SEEKS = 32
"""So that a video of keyframes alone is not sought at each of them."""

CONTAINERS = (
    "asf", "asf_o", "av1", "avi", "dhav", "dv", "flv", "h264", "hevc", "ivf", "m4v", "matroska",
    "mjpeg", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "ogg", "rm", "webm",
)  # fmt: skip
"""Formats of FFmpeg that are read. Playlists, lists of files and patterns of names are none: they
would make it open what somebody wrote into a file, other videos or addresses of the network.
decord takes no such option, but sees only what PyAV has read before, and ``decode`` has no text."""

FFMPEG_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}

SIGNS_OF_DAMAGE = re.compile(
    rb"conceal|error|corrupt|damaged|invalid|illegal|missing|could not find ref", re.IGNORECASE
)
"""In what FFmpeg says below decord: that a frame is not what was encoded."""

MISREAD_BY_DECORD = ("mpegts",)
"""Of a sound transport stream decord leaves out the first group of pictures, and shows the last
frame as many times more (decord2 3.4): the count is right, and every frame in a wrong place."""

MAX_READ_ERRORS = 100
"""Errors in a row of the container's reader, after which the rest of the file is given up."""

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoHeader:
    """What the file claims. ``width`` and ``height`` are as displayed, after rotation.

    ``fps`` is the average frame rate (for a folder the caller's), ``num_frames`` None where
    the container does not say, ``rotation`` the degrees counter-clockwise that were applied,
    ``seconds`` the time at which the video ends, None where nothing says so of it alone.
    """

    width: int
    height: int
    fps: Fraction
    num_frames: int | None
    rotation: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class FrameSource:
    """A header, and the frames: uint8 [height, width, 3], or None where one is lost.

    ``num_concealed`` counts the frames that the codec itself patched up, where it says so;
    ``end`` is the time in seconds at which the last frame given so far ends, where it has one;
    ``left_out`` counts the frames that the time stamps have room for between those given.
    """

    header: VideoHeader
    frames: Iterator[Frame | None]
    num_concealed: Callable[[], int] = lambda: 0
    end: Callable[[], float | None] = lambda: None
    left_out: Callable[[], int] = lambda: 0


def check_size(path: Path, width: int, height: int) -> None:
    """Raise DecodeError for frames above MAX_PIXELS, before memory is taken for them."""
    if width * height > MAX_PIXELS:
        raise DecodeError(
            f"{path}: claims frames of {width}x{height}; allowed are {MAX_PIXELS} pixels",
            kind="too-large",
        )


# ---------------------------------------------------------------- PyAV


def open_pyav(path: Path, fps: Fraction | None = None) -> FrameSource:
    """Frames through PyAV, which skips what is broken.

    From the first error on, frames that are missing between two good ones are counted from
    their timestamps, in average frame durations, but never more than the packets that went in
    without a frame coming out (less the codec's usual delay). So the gaps of a variable frame
    rate are not taken for losses. At the end of the file those packets alone count.
    """
    reader = _PyavReader(path)
    return FrameSource(
        reader.header,
        iter(reader),
        lambda: reader.num_concealed,
        reader.end,
        lambda: left_out(reader.gaps),
    )


class _PyavReader:
    """One pass over a video file with PyAV. Counts packets against frames."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_concealed = 0
        self.gaps: Counter[int] = Counter()
        """Frames missing before a frame, by its time stamp -> how often; -1 is half a frame."""
        self._owed = 0  # packets put in for which no frame has come out
        self._delay = 0  # the most that was owed while all was well
        self._broken = False  # there has been an error
        self._last_time: Fraction | None = None  # seconds, of the last good frame
        self._stream: Any = None
        self._open()
        self._decoded = self._decode()
        self._first = self._first_frame()
        self.header = self._read_header()

    @property
    def container(self) -> str:
        """FFmpeg's name of the container."""
        return str(self._container.format.name)

    def close(self) -> None:
        """Let go of the file."""
        self._decoded.close()
        self._container.close()

    def _open(self) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._reformatter: Any = VideoReformatter()
        try:
            self._container = av.open(
                str(self.path), options=FFMPEG_OPTIONS, metadata_errors="replace"
            )
        except av.error.FFmpegError as error:
            raise DecodeError(
                f"{self.path}: no video can be read from it: {error.strerror}"
            ) from None
        if not self._container.streams.video:
            raise DecodeError(f"{self.path}: no video stream in it", kind="no-video")
        self._stream = self._container.streams.best("video")
        if self._stream.codec_context is None:
            raise DecodeError(f"{self.path}: no decoder for its codec")
        self._stream.codec_context.thread_count = DECODE_THREADS
        codec = self._stream.codec_context
        check_size(self.path, codec.width, codec.height)

    def _first_frame(self) -> Any:
        for frame in self._decoded:
            check_size(self.path, frame.width, frame.height)
            return frame
        raise DecodeError(f"{self.path}: not one frame can be decoded", kind="damaged")

    def _read_header(self) -> VideoHeader:
        fps = self._stream.average_rate or self._stream.guessed_rate
        if not fps:
            raise DecodeError(f"{self.path}: the container states no frame rate")
        width, height = self._first.width, self._first.height
        turns = quarter_turns(self._first.rotation)
        if turns % 2:
            width, height = height, width
        frames = self._stream.frames or None
        return VideoHeader(width, height, fps, frames, 90 * turns, self._claimed_seconds())

    def _claimed_seconds(self) -> float | None:
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

    def end(self) -> float | None:
        """Time in seconds at which the last frame given ends."""
        return None if self._last_time is None else float(self._last_time + 1 / self.header.fps)

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
            yield from [None] * self._owed

    def _to_rgb(self, frame: Any) -> Frame:
        """The frame as displayed, [height, width, 3].

        BICUBIC (of the chroma) with default range and matrix is what decord's scale filter
        does, bit for bit; PyAV's own default is BILINEAR and off by one at odd sizes.
        """
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC")
        return np.rot90(rgb.to_ndarray(), self.header.rotation // 90)

    def _num_lost_before(self, frame: Any) -> int:
        """Frames missing before ``frame``; takes note of it as the last good one."""
        gap = self._gap_before(frame)
        lost = min(gap, self._owed - 1 - self._delay)
        lost = max(0, lost) if self._broken else 0
        self.gaps[gap - lost] += 1
        self._owed = max(0, self._owed - 1 - lost)
        if not self._broken:
            self._delay = max(self._delay, self._owed)
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
        """Frames of the stream in order of display; errors only set ``_broken``."""
        import av

        for packet in self._packets():
            # An empty packet flushes the decoder.
            self._owed += packet.size > 0
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                self._broken = True

    def _packets(self) -> Iterator[Any]:
        import av

        packets = self._container.demux(self._stream)
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                yield next(packets)
                errors = 0
            except StopIteration:
                return
            except av.error.FFmpegError:
                self._broken = True
                errors += 1
                packets = self._container.demux(self._stream)


def left_out(gaps: Mapping[int, int]) -> int:
    """Frames left out between others, where frames are else evenly spaced, from their gaps.

    0 where some stand closer than half of the average: their rate is variable.
    """
    if any(gap < 0 for gap in gaps):
        return 0
    return sum(gap * count for gap, count in gaps.items())


def quarter_turns(rotation_degrees: int) -> int:
    """Quarter turns counter-clockwise, 0 to 3, of a display matrix's angle.

    As decord does: an angle between quarter turns counts as none, and of a mirroring matrix
    only the rotation is applied.
    """
    return rotation_degrees // 90 % 4 if rotation_degrees % 90 == 0 else 0


# ---------------------------------------------------------------- decord


def open_decord(path: Path, fps: Fraction | None = None) -> FrameSource:
    """Frames through decord (0.6.0 or decord2), in order.

    The header is PyAV's, so that both decoders agree on it. decord turns the frames itself.
    Where packets give no frame, decord would rewind and repeat frames: here that is an error.
    So is a frame that the codec patched up: decord passes it on like any other, but FFmpeg says so
    on the error stream, where ``_Complaints`` reads it. PyAV gives the same frames and counts.
    """
    reader = _PyavReader(path)
    header, container = reader.header, reader.container
    reader.close()
    if container in MISREAD_BY_DECORD:
        raise DecodeError(f"{path}: decord misreads the container {container}", "damaged")
    # Read by decord when it is loaded.
    os.environ["DECORD_REWIND_RETRY_MAX"] = "0"
    os.environ["DECORD_EOF_RETRY_MAX"] = "1024"
    # decord2 shows a neighbour for a frame that it misses, and says so from this share on.
    os.environ["DECORD_DUPLICATE_WARNING_THRESHOLD"] = "0"
    decord = _import_decord()
    decord.logging.set_level(decord.logging.INFO)  # the level of "concealing ... errors"
    times: list[NDArray[np.float64]] = []
    frames = _decord_frames(path, header, decord, times)
    return FrameSource(
        header,
        frames,
        end=lambda: float(times[0][-1, 1]) if times else None,
        left_out=lambda: left_out(_gaps(times[0][:, 0], header.fps)) if times else 0,
    )


def _import_decord() -> Any:
    """decord without NVIDIA's libraries, which decord2 loads wherever torch has brought them.

    cuDNN, cuBLAS and all: half a second and 0.4 GB for each video (measured, decord2 3.4), for
    decoding on the CPU. Its builds for CUDA cannot do without.
    """
    sys.modules["nvidia"] = None  # type: ignore[assignment]  # nothing of that name to be found
    try:
        return importlib.import_module("decord")
    except OSError:
        del sys.modules["nvidia"]
        return importlib.import_module("decord")


def _gaps(starts: NDArray[np.float64], fps: Fraction) -> Counter[int]:
    """Frames missing before each frame but the first -> how often."""
    gaps = (np.diff(starts) * float(fps)).round().astype(int) - 1
    return Counter(gaps.tolist())


def _decord_frames(
    path: Path, header: VideoHeader, decord: Any, times: list[NDArray[np.float64]]
) -> Iterator[Frame]:
    """The frames; at the end their times are put into ``times``: [n, 2], start and end in s."""
    given = claimed = 0
    try:
        reader = decord.VideoReader(str(path), num_threads=DECODE_THREADS)
        claimed = len(reader)
        read_ahead, complaints = _ReadAhead(path, reader), _Complaints(path)
        while given < claimed:
            frame = read_ahead.bounded(given, reader.next().asnumpy())
            complaints.check()
            yield _without_padding(path, frame, header)
            given += 1
        if given:
            times.append(np.asarray(reader.get_frame_timestamp(range(given)), np.float64))
    except StopIteration:
        raise DecodeError(f"{path}: decord: {given} of {claimed} frames", "damaged") from None
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodeError(f"{path}: decord: {first_line(error)}", "damaged") from None


class _Complaints:
    """What FFmpeg says on the error stream of this process, a file that its parent has made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def check(self) -> None:
        """Raise DecodeError when something new is a sign of damage."""
        size = os.fstat(sys.stderr.fileno()).st_size
        if size == self._read:
            return
        start = self._read if self._read < size else 0  # the parent has emptied it
        text = os.pread(sys.stderr.fileno(), size - start, start)
        self._read = size
        for line in text.splitlines():
            if SIGNS_OF_DAMAGE.search(line):
                words = re.sub(r"^\[[^]]*\] ", "", line.decode(errors="replace"))
                raise DecodeError(f"{self._path}: decord: {words}", "damaged")


class _ReadAhead:
    """Keeps what decord decodes ahead of its reader within bounds.

    While decord waits for a frame it feeds its decoder packet after packet, and never takes that
    lead back: a video of two hours grew by 0.8 GB (measured, decord2 3.4). Seeking to the
    keyframe just read drops the lead. That it is the same frame again is checked, since a seek
    may miss; then the video is left to the other decoder.
    """

    def __init__(self, path: Path, reader: Any) -> None:
        self._path = path
        self._reader = reader
        self._keyframes = set(map(int, reader.get_key_indices()))
        self._allowed = 0
        self._next_seek = 0

    def bounded(self, index: int, frame: Frame) -> Frame:
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


def _private_bytes() -> int:
    """Memory of this process that it shares with nobody."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * mmap.PAGESIZE


def _without_padding(path: Path, frame: Frame, header: VideoHeader) -> Frame:
    """The frame [height, width, 3] of what decord gives.

    decord takes the padding of narrow rows for more channels (48 pixels wide: [height, 48, 4]).
    """
    if frame.shape[:2] != (header.height, header.width):
        raise DecodeError(
            f"{path}: decord gives frames of {frame.shape[1]}x{frame.shape[0]}, the header "
            f"says {header.width}x{header.height}",
            kind="damaged",
        )
    rows = frame.reshape(header.height, -1)[:, : 3 * header.width]
    return rows.reshape(header.height, header.width, 3)


def first_line(error: BaseException) -> str:
    """What an error says, without the C++ stack trace and source position before it."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", line)


# ---------------------------------------------------------------- folder of images


def open_images(path: Path, fps: Fraction | None = None) -> FrameSource:
    """Frames of a folder of images, in natural order of their names; unreadable ones None."""
    if fps is None:
        raise ValueError(f"{path}: a folder of images needs the frame rate, fps=")
    images = [path / name for name in image_names(path)]
    first = next((frame for frame in map(_read_image, images) if frame is not None), None)
    if first is None:
        raise DecodeError(f"{path}: none of its {len(images)} images can be read", "damaged")
    height, width, _ = first.shape
    return FrameSource(VideoHeader(width, height, fps, len(images)), _of_one_size(images))


def image_names(folder: Path) -> list[str]:
    """Names of the images in a folder: frame2 before frame10, hidden files left out."""
    names = [
        entry.name
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    ]
    if not names:
        raise DecodeError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)})", "no-images")
    return sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Key that sorts digits as numbers; the name itself settles ``1`` against ``01``."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name.lower())
    return [(text, int(digits or -1)) for text, digits in parts], name


def _read_image(path: Path) -> Frame | None:
    """The image [height, width, 3], or None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            check_size(path, *image.size)
            return _to_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _to_rgb(image: Any) -> Frame:
    if image.mode.startswith(("I", "F")):  # 16-bit grey: PIL would clip it, not scale it
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _of_one_size(images: list[Path]) -> Iterator[Frame | None]:
    shape: tuple[int, ...] | None = None
    for path in images:
        frame = _read_image(path)
        if frame is not None:
            shape = shape or frame.shape
            if frame.shape != shape:
                raise DecodeError(
                    f"{path}: is {frame.shape[1]}x{frame.shape[0]}, the images before it are "
                    f"{shape[1]}x{shape[0]}",
                    kind="damaged",
                )
        yield frame


ADAPTERS: dict[str, Callable[[Path, Fraction | None], FrameSource]] = {
    "decord": open_decord,
    "pyav": open_pyav,
    "images": open_images,
}
"""Name of an adapter -> function of a path and, for images, their frame rate."""
