"""The child process of a Capture: it reads one stream and writes frames into shared memory.

    main(CONFIG_FD, CONTROL_FD, LIFELINE_FD, CREDIT_FD, MEMORY_FD)

    parent  --- config pipe: one JSON object; an address may hold a password, which the list of
                processes would show if it were an argument ------------------------->  child
            --- lifeline pipe: never written, its closing kills the child ----------->
            --- credit pipe: one byte for each slot that is given back -------------->
            <-- control pipe: JSON lines: header, frame..., end ----------------------
            <-> memory: [slot 0][slot 1]...

A frame for which no slot is free is skipped and counted: a live stream does not wait.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from fractions import Fraction
from typing import Any

import numpy as np

from vadprep.core.errors import DecodeError, printable
from vadprep.online.device import opened_by_ffmpeg
from vadprep.video import SIGNS_OF_DAMAGE, RgbConverter, bound_resources, die_with_parent

RING_BYTES = 64 << 20
MOST_SLOTS, LEAST_SLOTS = 64, 4
MOST_ERRORS = 100
"""Packets in a row that cannot be decoded, after which a stream is given up."""
MOST_PACE = 1.5
"""Times real time. Frames that come in a burst, as those of HLS do, are handed on no faster, so
that no clip is dropped for it; the server waits."""
MOST_PAUSE = 1.0
"""Seconds that a frame is held back at most."""
MOST_PIXELS = 7680 * 4320
NO_RATE = 1000
"""Where time stamps vary, FFmpeg's guess is how many of them a second could have: 1000 or more."""
SEEN_SECONDS, BURST_SECONDS = 60.0, 10.0
"""After a reconnection a playlist shows again what it has, all at once: frames up to so much older
than the last one before, within so many seconds. What comes later is new."""
RTMP_ANALYSIS = "2000000"
"""Microseconds; else FFmpeg looks at 5 s of RTMP for more streams before it gives a frame."""
PROTOCOLS = "rtsp,rtp,rtmp,srtp,udp,tcp,tls,crypto,http,https,httpproxy,data"
"""What a stream may open, and the playlists that it names: no file of this machine."""


def open_stream(config: dict[str, Any]) -> Any:
    """The opened container, a context manager; raises FFmpegError or DecodeError."""
    import av

    seconds = float(config["stall_seconds"])
    options = {"protocol_whitelist": PROTOCOLS}
    if config["format"] == "rtsp":
        options |= {"rtsp_transport": "tcp"}
    if config["address"].lower().startswith("rtmp:"):
        options |= {"analyzeduration": RTMP_ANALYSIS}
    if config["kind"] == "device":
        options = {}
        if config["format"] not in av.formats_available:
            return opened_by_ffmpeg(config["format"], config["address"])
    return av.open(
        config["address"],
        format=config["format"] or None,
        options=options,
        timeout=(seconds, seconds),
    )


class _Sender:
    """The child's end of the ring and of the pipes."""

    def __init__(self, control_fd: int, credit_fd: int, memory_fd: int) -> None:
        self._control_fd, self._credit_fd, self._memory_fd = control_fd, credit_fd, memory_fd
        os.set_blocking(credit_fd, False)
        self._free = self._slots = 0
        self._sent = self._skipped = 0
        self._last = self._handed_on = float("-inf")

    def send(self, **message: Any) -> None:
        """Write one JSON line to the parent."""
        os.write(self._control_fd, json.dumps(message).encode() + b"\n")

    def begin(self, height: int, width: int, fps: Fraction | None, tick: float) -> None:
        """Make room for frames of this size, and say so."""
        size = height * width * 3
        self._slots = self._free = max(LEAST_SLOTS, min(MOST_SLOTS, RING_BYTES // size))
        os.ftruncate(self._memory_fd, self._slots * size)
        shape = (self._slots, height, width, 3)
        self._ring = np.frombuffer(mmap.mmap(self._memory_fd, 0), np.uint8).reshape(shape)
        self.send(header={"shape": shape, "fps": str(fps or ""), "tick": tick})

    def put(self, rgb: Any, seconds: float, damaged: int) -> None:
        """Give a frame to the parent, or skip it where no slot is free."""
        pause = min(MOST_PAUSE, (seconds - self._last) / MOST_PACE)
        time.sleep(max(0.0, self._handed_on + pause - time.monotonic()))
        self._last, self._handed_on = seconds, time.monotonic()
        try:
            self._free += len(os.read(self._credit_fd, MOST_SLOTS))
        except BlockingIOError:
            pass
        if not self._free:
            self._skipped += 1
            return
        slot = self._sent % self._slots
        self._ring[slot] = rgb
        self._sent, self._free = self._sent + 1, self._free - 1
        at = time.monotonic()
        self.send(slot=slot, seconds=seconds, at=at, damaged=damaged, skipped=self._skipped)
        self._skipped = 0


def read_stream(config: dict[str, Any], sender: _Sender) -> str:
    """Send the frames of a stream until it ends; returns why it ended.

    Raises DecodeError where the stream is of no use, and FFmpegError.
    """
    import av

    with open_stream(config) as file:
        if not file.streams.video:
            raise DecodeError("no video in the stream", "no-video")
        stream = file.streams.best("video") or file.streams.video[0]
        if stream.codec_context is None:
            raise DecodeError(
                "FFmpeg has no decoder for its codec: let the camera send H.264", "no-decoder"
            )
        stream.thread_type = "SLICE"  # threads for frames would hold back one frame each
        rate = stream.average_rate or stream.guessed_rate
        rate = None if rate and rate >= NO_RATE else rate
        convert, size, begin = None, (0, 0), time.monotonic()
        seen = config["seen"] if file.format.name == "hls" else float("-inf")
        errors = damaged = 0
        name = stream.codec_context.codec.name
        for packet in file.demux(stream):
            with av.logging.Capture(local=False) as messages:
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    frames = None
            words = [text for _, source, text in messages if source == name]
            is_bad = frames is None or packet.is_corrupt or any(map(SIGNS_OF_DAMAGE.search, words))
            damaged += bool(is_bad)
            errors = errors + 1 if frames is None else 0
            if errors > MOST_ERRORS:
                raise DecodeError(f"{errors} packets in a row cannot be decoded", "damaged")
            for frame in frames or ():
                seconds = time.monotonic() - begin
                if frame.pts is not None:
                    seconds = float(frame.pts * frame.time_base)
                is_burst = time.monotonic() - begin < BURST_SECONDS
                if is_burst and 0 <= seen - seconds < SEEN_SECONDS:
                    damaged = 0
                    continue
                if convert is None:
                    if frame.width * frame.height > MOST_PIXELS:
                        raise DecodeError(f"frames of {frame.width}x{frame.height}", "too-large")
                    convert, size = RgbConverter(frame), (frame.width, frame.height)
                    height, width = convert(frame).shape[:2]
                    sender.begin(height, width, rate, float(stream.time_base))
                if (frame.width, frame.height) != size:
                    return (
                        f"the size of the frames changed from {size[0]}x{size[1]} to "
                        f"{frame.width}x{frame.height}"
                    )
                sender.put(convert(frame), seconds, damaged)
                damaged = 0
    return "the stream ended"


def main(*numbers: str) -> None:
    """Read one stream into the ring; the last message says why it ended."""
    import av

    config_fd, control_fd, lifeline_fd, credit_fd, memory_fd = map(int, numbers)
    die_with_parent(lifeline_fd)
    bound_resources()
    with open(config_fd, "rb") as pipe:
        config = json.load(pipe)
    av.logging.set_level(av.logging.WARNING)  # its words say what is damaged
    av.logging.set_skip_repeated(False)
    sender = _Sender(control_fd, credit_fd, memory_fd)
    try:
        reason, kind = read_stream(config, sender), "ended"
    except DecodeError as error:
        reason, kind = str(error), error.kind
    except av.error.ExitError:  # PyAV's own time-out
        reason, kind = f"nothing came for {config['stall_seconds']:g} s", "stalled"
    except av.error.FFmpegError as error:
        reason, kind = printable(error.strerror or type(error).__name__), "broken"
    except Exception as error:
        reason, kind = printable(f"{type(error).__name__}: {error}"), "broken"
    sender.send(end=reason, what=kind)
