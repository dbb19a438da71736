"""The decoder PyAV: it skips what is broken and counts what is missing.

What it cannot notice: a change after which the stream is still valid. The README of the room says
which share of flipped bits is noticed in each codec. Further: what a patched frame changes in the
frames after it, up to the next keyframe; the missing end of a transport stream, which states no
length; raw frames under a header with other dimensions.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.errors import DecodeError
from vadprep.video.decoders.base import (
    MAX_FPS,
    MIN_FPS,
    SIGNS_OF_DAMAGE,
    Decoder,
    Frame,
    TimedFrame,
    VideoHeader,
    check_size,
)
from vadprep.video.decoders.container_end import first_and_last_bytes, note_of_cut
from vadprep.video.timeline import Timeline, frames_text, timeline_of

DECODE_THREADS = 1  # many videos are decoded side by side: more would only get in the way

RAW = ("h264", "hevc", "m4v", "mjpeg", "mpegvideo", "obu", "jpeg_pipe")
"""Elementary streams: they have no time stamps, and FFmpeg's reader of them says 25 always."""

CONTAINERS = (
    "asf", "asf_o", "avi", "dhav", "dv", "flv", "gif", "ivf", "matroska", "mov", "mp4", "mpeg",
    "mpegts", "mxf", "nut", "ogg", "rm", "webm", "yuv4mpegpipe", *RAW,
)  # fmt: skip
"""Formats of FFmpeg that are read. Playlists, lists of files and patterns of names are not: with
them FFmpeg would open whatever the file names, other videos or network addresses. decord has no
such option, but it only gets files that PyAV has opened before, and that do not begin as text."""

FFMPEG_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}

ONE_FRAME_A_PACKET = ("h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "prores", "ffv1")
"""Codecs whose packets with a time stamp each give a frame, if none is lost. Others have packets
of hidden frames."""

TELLING_CODECS = ("h264", "mpeg2video")
"""Codecs whose decoder reports a picture that is not whole. Then it does not count that the reader
of a transport stream takes a packet for cut: the last one before a joint of recordings is not."""

HEVC_HASH = b"\x50\x01\x84"
"""Begin of the message that holds a hash of the picture (H.265, 7.3.1.2 and D.2.1)."""

MAX_READ_ERRORS = 100  # of the container's reader in a row: then the rest is given up
RAW_FPS = Fraction(25)  # of an elementary stream that states no frame rate, like MJPEG

TS_BYTES = 188
"""Of a packet of a transport stream, whose fourth byte says whether it is scrambled."""

ARCHIVES = (b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ")
"""Their first bytes."""

MP4_BOXES = (b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip", b"styp")
"""One of them is the first of a file."""

GUESSED_LENGTHS = ("avi", "mpegts", "mpeg")
"""Containers that state no length: FFmpeg guesses it from the size or the last time stamps."""


def _open(path: Path) -> tuple[Any, Any]:
    """PyAV's container of a file, and its video stream."""
    import av

    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)  # each of them counts
    try:
        with av.logging.Capture(local=False) as messages:
            file = av.open(str(path), options=FFMPEG_OPTIONS, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise DecodeError(f"{path}: {_cause(path, error, messages)}") from None
    stream: Any = file.streams.best("video")
    if stream is None:
        raise DecodeError(f"{path}: it has no video stream", kind="no-video")
    codec = stream.codec_context
    if codec is None:
        raise DecodeError(f"{path}: FFmpeg has no decoder for its codec: convert it to H.264")
    codec.thread_count = DECODE_THREADS
    codec.options = {"err_detect": "crccheck"}  # of the pictures, where a stream holds their hashes
    check_size(path, codec.width, codec.height)
    return file, stream


def _cause(path: Path, error: Any, messages: Sequence[tuple[int, str, str]]) -> str:
    """Why a file could not be opened, and what to do. ``messages`` are those of FFmpeg."""
    head = first_and_last_bytes(path)[:64]
    if not head.strip(b"\0"):
        return "it begins with zeros: a download or copy of it did not end; make it again"
    if head.startswith(ARCHIVES):
        return "it is an archive: unpack it"
    for _, name, words in messages:
        if "moov atom not found" in words and head[4:8] in MP4_BOXES:
            return (
                "its index is missing (moov atom not found): a recording or download was cut off; "
                "repair it, for example with untrunc, or make it again"
            )
        if "not on whitelist" in words and name == "webp_pipe" and _is_animated(head):
            return (
                "it is an animated WebP, which FFmpeg does not read: convert it to GIF, or write "
                "its frames into a folder"
            )
        if "not on whitelist" in words and name.endswith("_pipe"):
            return "it is an image: name the folder that holds the frames of a video"
        if "not on whitelist" in words:
            return f"its format is not read (FFmpeg calls it {name}): convert it with ffmpeg"
    return (
        "no video format was recognized: the file is damaged, cut off or encrypted "
        f"(FFmpeg: {error.strerror}); check that it plays, or make it again"
    )


def _is_animated(head: bytes) -> bool:
    """True for a WebP whose extended header says so (RFC 9649, 2.7)."""
    return head[12:16] == b"VP8X" and bool(int.from_bytes(head[20:21], "little") & 2)


def _is_encrypted(path: Path, container: str) -> bool:
    """True where boxes of an MP4 or most packets of a transport stream say so."""
    content = first_and_last_bytes(path)
    if container == "mpegts":
        marks = [content[place + 3] >> 6 for place in range(0, len(content) - 3, TS_BYTES)]
        return sum(map(bool, marks)) > len(marks) / 2
    return "mp4" in container and any(box in content for box in (b"encv", b"senc", b"sinf"))


def _packets(file: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream, None for one that cannot be read."""
    import av

    packets = file.demux(stream)
    errors = 0
    while errors < MAX_READ_ERRORS:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            errors += 1
            packets = file.demux(stream)
            yield None
            continue
        errors = 0
        yield packet


class RgbConverter:
    """Frames of FFmpeg -> uint8 [height, width, 3] in RGB, as the ffmpeg command line gives them.

    Chroma is interpolated by FFmpeg's scale filter with its flag bicubic, by matrix, range and
    field order of the frame; the display matrix turns and mirrors it. A frame of another size is
    scaled to the size of the first.
    """

    def __init__(self, first: Any) -> None:
        self.size = first.width, first.height
        self.rotation, self.is_mirrored = 0, False
        for each in first.side_data:
            if each.type.name == "DISPLAYMATRIX":
                a, b, _, c, d, *_ = np.frombuffer(bytes(each), np.int32).astype(float)
                self.is_mirrored = bool(a * d < b * c)
                # An angle between quarter turns counts as none.
                self.rotation = first.rotation % 360 if first.rotation % 90 == 0 else 0
        self._kind: Any = None

    def __call__(self, frame: Any) -> Frame:
        kind = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range
        if kind != self._kind:
            self._kind = kind
            self._source, self._sink = self._graph(frame)
        self._source.push(frame)
        rgb: Frame = self._sink.pull().to_ndarray()
        return self.turned(rgb)

    def turned(self, rgb: Frame) -> Frame:
        """The picture [height, width, 3] as a player shows it."""
        return np.rot90(rgb[::-1] if self.is_mirrored else rgb, self.rotation // 90)

    def _graph(self, frame: Any) -> tuple[Any, Any]:
        import av

        self._graph_in_use = graph = av.filter.Graph()
        base = frame.time_base or Fraction(1, 1000)
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:"
            f"time_base={base.numerator}/{base.denominator}:"
            f"colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        width, height = self.size
        links = [
            source,
            graph.add("scale", f"{width}:{height}:flags=bicubic"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        for one, other in zip(links, links[1:], strict=False):
            one.link_to(other)
        graph.configure()
        return source, links[-1]


class PyAVDecoder(Decoder):
    """One pass over a video file with PyAV. It compares frames with the packets that are there.

    The packets of the whole file are read once before, without decoding. A frame that they
    announce and that does not come is lost: with a codec of one frame a packet always, with
    others after the first error, and then never more than the packets that were put in without a
    frame coming out (less the codec's usual delay).
    """

    def __init__(self, path: Path, fps: Fraction | None = None) -> None:
        super().__init__(path, fps)
        self._num_packets = 0  # of the file
        self.has_hashes = False  # of its pictures, which this decoder alone compares
        self._pending = 0  # packets put in for which no frame has come out
        self._delay = 0  # the most packets that were pending before the first error
        self._broken = False  # there has been an error
        self._is_coded_order = False  # time stamps count packets
        self._num_marked = self._num_suspect = 0  # corrupt frames; packets with a sign of damage
        self._file, self._stream = _open(path)
        self.container = str(self._file.format.name)  # FFmpeg's name of the container
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            why = "it is damaged, cut off, or encrypted"
            if _is_encrypted(path, self.container):
                why = "it is encrypted: decrypt it, or export it without protection"
            raise DecodeError(f"{path}: no frame can be decoded: {why}", kind="damaged")
        check_size(path, first.width, first.height)
        self._first, self._convert = first, RgbConverter(first)
        self._size = self._convert.size
        rate, notes = self._frame_rate()
        cut, self._cut_seconds = note_of_cut(path, self.container)
        notes += [cut] if cut else []
        self.timeline = self._read_timeline(float(rate))
        """Of the file; its numbers of frames are those of sound ones."""
        turns = self._convert.rotation % 180 != 0
        self.header = VideoHeader(
            width=first.height if turns else first.width,
            height=first.width if turns else first.height,
            fps=rate,
            num_frames=self._stream.frames or None,
            rotation=self._convert.rotation,
            mirrored=self._convert.is_mirrored,
            seconds=self._header_seconds(),
            notes=(*notes, *self.timeline.notes),
            tick=float(self._stream.time_base),
            num_packets=self._num_packets,
        )

    def _frame_rate(self) -> tuple[Fraction, list[str]]:
        """The average frame rate, and what to say of it and of the choice of the stream."""
        from av.stream import Disposition

        stream, notes = self._stream, []
        videos = [
            each
            for each in self._file.streams.video
            if not each.disposition & Disposition.attached_pic
        ]
        if len(videos) > 1:
            notes.append(
                f"stream {stream.index} of {len(videos)} video streams is read: to read another, "
                "copy it to a file of its own (ffmpeg -map 0:N -c copy)"
            )
        if self.container not in RAW:
            rate, guess = stream.average_rate, stream.guessed_rate
            if guess and not (rate and MIN_FPS <= rate <= MAX_FPS):  # of .dv it is 60000
                rate = guess
        elif not (rate := stream.codec_context.framerate):
            rate = RAW_FPS
            notes.append(f"the raw stream states no frame rate: {RAW_FPS} is assumed")
        if not rate:
            raise DecodeError(f"{self.path}: the container states no frame rate")
        return rate, notes

    def _read_timeline(self, fps: float) -> Timeline:
        """The timeline of the file, which is opened once more for it; and the number of packets."""
        shown = array("d")  # start and duration in turn: a day of video has millions of packets
        file, stream = _open(self.path)
        with file:
            unit = float(stream.time_base)
            for packet in _packets(file, stream):
                if packet and packet.size and not packet.is_discard:
                    self._num_packets += 1
                    self.has_hashes |= self._num_packets == 1 and HEVC_HASH in bytes(packet)
                    # Time stamps of AVI are numbers of slots, in the order of decoding.
                    start = packet.dts if self.container == "avi" else packet.pts
                    if start is not None:
                        shown.extend((start * unit, (packet.duration or 0) * unit))
        if self.container in RAW:
            return Timeline(np.empty(0), 1 / fps)
        pairs = np.frombuffer(shown).reshape(-1, 2)
        # Some writers give times in the order of decoding, as AVI has them: where frames are
        # reordered, true times would go back and forth.
        is_sorted = bool((np.diff(pairs[:, 0]) > 0).all())
        self._is_coded_order = is_sorted and bool(self._stream.codec_context.has_b_frames)
        return timeline_of(pairs, fps, slots=self.container == "avi")

    def _header_seconds(self) -> float | None:
        """Seconds from the first frame to the end of the last one by the header.

        None where the header does not state them for the video alone: sound may go on after it.
        """
        stream = self._stream
        clock = stream.metadata.get("DURATION", "")  # of Matroska, 00:00:03.600000000
        if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", clock):
            hours, minutes, seconds = map(float, match.groups())
            start = float((stream.start_time or 0) * stream.time_base)
            return 3600 * hours + 60 * minutes + seconds - start
        is_alone = len(self._file.streams) == 1
        if self.container in GUESSED_LENGTHS or not (is_alone or "mp4" in self.container):
            return None
        if self._cut_seconds:  # FFmpeg gives none then
            return self._cut_seconds
        if stream.duration:
            return float(stream.duration * stream.time_base)
        return float(self._file.duration / 1e6) if self._file.duration else None

    def close(self) -> None:
        """Close the file."""
        self._decoded.close()
        self._file.close()

    def __iter__(self) -> Iterator[TimedFrame]:
        timeline = self.timeline
        index, last = 0, -timeline.step  # place of the next frame, time of the one before
        picture: Frame | None = None
        for frame in itertools.chain([self._first], self._decoded):
            at = self._place(frame, index)
            gap = self._num_lost_before(frame, index, at)
            if not index and at > gap:  # the video begins with the first frame that comes
                index, self.skipped_seconds = at + 1, timeline.seconds(at - gap)
                self.notes.append(
                    f"the first {frames_text(at - gap)} cannot be decoded, as after a cut within a "
                    "group of pictures: frames and times count from the first one that can"
                )
            gap += sum(timeline.holes.get(each, 0) for each in range(index, at + 1))
            now = timeline.seconds(at) - self.skipped_seconds
            for each in range(gap):  # slots of AVI without data repeat the picture before
                fill = picture if self.container == "avi" and not self._broken else None
                yield fill, last + (each + 1) * (now - last) / (gap + 1)
            size = frame.width, frame.height
            if size != self._size:
                check_size(self.path, *size)
                self.notes.append(
                    f"the frames change size from {self._size[0]}x{self._size[1]} to "
                    f"{size[0]}x{size[1]} at frame {at}: all are scaled to the first size"
                )
                self._size = size
            picture = self._convert(frame)
            yield picture, now
            index, last = at + 1, now
            length = float((frame.duration or 0) * (frame.time_base or 0))
            self.end_seconds = now + max(length, timeline.step)
        is_counted = self._gives_one_frame_a_packet(self._first)
        lost = len(timeline.stamps) - index if is_counted else 0
        if self._broken:
            lost = max(lost, 0 if is_counted and len(timeline.stamps) else self._pending)
        for each in range(lost):
            yield None, timeline.seconds(index + each) - self.skipped_seconds

    def _place(self, frame: Any, index: int) -> int:
        """Place of a frame on the timeline; ``index`` is that of the next one announced."""
        stamps = self.timeline.stamps
        is_ordinal = self.container == "avi" or self._is_coded_order
        if frame.pts is None or not len(stamps) or (is_ordinal and not self._broken):
            return index
        seconds = float(frame.pts * frame.time_base) - self.timeline.step / 4
        return max(index, int(np.searchsorted(stamps, seconds)))

    def _gives_one_frame_a_packet(self, frame: Any) -> bool:
        """An interlaced frame may come in two packets, one a field."""
        codec = self._stream.codec_context.name
        return codec in ONE_FRAME_A_PACKET and not frame.interlaced_frame

    def _num_lost_before(self, frame: Any, index: int, at: int) -> int:
        """Frames that did not come, of those announced at places ``index`` to ``at``."""
        lost = at - index
        if not (index and self._gives_one_frame_a_packet(frame)):
            lost = max(0, min(lost, self._pending - 1 - self._delay)) if self._broken else 0
        self._pending = max(0, self._pending - 1 - lost)
        if not self._broken:
            self._delay = max(self._delay, self._pending)
        self._num_marked += bool(frame.is_corrupt)
        self.num_concealed = max(self._num_marked, self._num_suspect)
        return lost

    def _decode(self) -> Generator[Any, None, None]:
        """Frames of the stream in display order; an error only sets ``_broken``."""
        import av

        codec = self._stream.codec_context.codec.name
        for packet in _packets(self._file, self._stream):
            if packet is None:
                self._broken = True
                continue
            self._pending += packet.size > 0  # an empty packet flushes the decoder
            with av.logging.Capture(local=False) as messages:
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    self._broken = True
                    continue
            words = [text for _, name, text in messages if name == codec]
            is_corrupt = packet.is_corrupt and codec not in TELLING_CODECS
            self._num_suspect += is_corrupt or any(map(SIGNS_OF_DAMAGE.search, words))
            yield from frames
