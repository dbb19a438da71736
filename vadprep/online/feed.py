"""One thread for each source: its frames become clips, and what befalls it becomes notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError, printable
from vadprep.core.log import get_logger
from vadprep.core.spec import Spec
from vadprep.online.capture import Capture
from vadprep.online.clips import LiveClip, LiveClips
from vadprep.online.clock import StreamClock
from vadprep.online.growing_folder import GrowingFolder
from vadprep.online.inbox import Inbox
from vadprep.online.pictures import Pictures
from vadprep.online.records import SourceRecord
from vadprep.online.source import Source
from vadprep.video import open_frames

_LOG = get_logger(__name__)

BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each attempt to connect again; the last one again and again."""
SOUND_SECONDS = 10.0
"""After a connection of so many seconds the back-off begins anew."""
UNSTATED_STEP = 0.04
"""Seconds between frames of a stream without a rate, until its time stamps say it."""
LOOK_SECONDS = 0.5
"""Between looks into a growing folder."""


class Feed(threading.Thread):
    """Reads one source until it ends or the inbox is closed.

    ``speed`` is how fast a file plays, 1 as if live, None as fast as the workers go.
    """

    def __init__(
        self,
        place: int,
        source: Source,
        inbox: Inbox,
        spec: Spec,
        has_flow: bool,
        speed: float | None,
        stall_seconds: float,
        pictures: Pictures | None = None,
    ) -> None:
        super().__init__(name=f"feed of {source.name}", daemon=True)
        self.source, self._place, self._inbox, self._spec = source, place, inbox, spec
        self._clips = LiveClips(spec, has_flow)
        self._speed, self._stall_seconds, self._pictures = speed, stall_seconds, pictures
        self._index = 0
        """Of the next frame of the source."""
        self._seconds = 0.0
        """Of the next frame, from the first one of the source."""
        self._lost = 0
        self._folder = GrowingFolder(Path(source.address)) if source.kind == "folder" else None
        self._begin: float | None = None
        self._stamp = float("-inf")
        """Of the last frame, by the clock of the stream."""
        self.error: BaseException | None = None

    def run(self) -> None:
        """Read until there is nothing more to read."""
        play = {
            "file": self._play_file,
            "folder": self._play_folder,
            "stream": self._play_stream,
            "device": self._play_stream,
        }
        try:
            play[self.source.kind]()
        except BaseException as error:
            self.error = error
            self._inbox.close()
        finally:
            self._inbox.end()

    def _is_over(self) -> bool:
        return self._inbox.is_closed

    def _notice(
        self,
        state: Literal["connected", "lost", "changed", "failed", "ended"],
        reason: str = "",
        lost_seconds: float = 0.0,
    ) -> None:
        """Say what befell the source, in the line of its clips."""
        lost, self._lost = self._lost, 0
        record = SourceRecord(
            *(self.source.name, time.time(), state, printable(reason)),
            *(round(lost_seconds, 3), lost),
        )
        if reason:
            _LOG.warning("%s: %s: %s", self.source.name, state, reason)
        self._inbox.put(self._place, record)

    def _give(self, clips: Iterator[LiveClip]) -> None:
        for clip in clips:
            clip.lost_frames, self._lost = self._lost, 0
            self._inbox.put(self._place, clip)

    def _show(self, rgb: NDArray[np.uint8], seconds: float) -> None:
        if self._pictures is not None:
            self._pictures.add(rgb, seconds)

    # Files

    def _play_file(self) -> None:
        try:
            self._play(Path(self.source.address))
        except (DecodeError, ValueError) as error:
            self._notice("failed", str(error))
            return
        self._notice("ended")

    def _play_folder(self) -> None:
        """Play the videos of a folder in the order of their names, and those that come."""
        assert self._folder
        self._notice("connected")
        while not self._inbox.is_closed:
            try:
                path = self._folder.take()
            except OSError as error:
                self._notice("lost", f"{self.source.address}: {error.strerror}")
                self._inbox.sleep(BACK_OFF[-1])
                continue
            if path is None:
                self._inbox.sleep(LOOK_SECONDS)
                continue
            try:
                self._play(path)
            except (DecodeError, ValueError) as error:
                self._notice("failed", f"{path.name}: {error}")

    def _play(self, path: Path) -> None:
        """Give the clips of one video file; the next decoder of the spec goes on after a crash."""
        names, given, start = self._spec.decoder.split(", "), 0, time.monotonic()
        base = self._seconds
        for name in names:
            try:
                given = self._decode(path, name, given, start, base)
                return
            except _Broken as broken:
                given = broken.given
                if name == names[-1] or self._inbox.is_closed:
                    raise broken.error from None
                _LOG.warning("%s: %s; the next decoder goes on", self.source.name, broken.error)

    def _decode(self, path: Path, decoder: str, given: int, start: float, base: float) -> int:
        """Give frames from number ``given`` on; returns their number. Raises _Broken."""
        number, repaired = 0, 0
        try:
            with open_frames(path, decoder=decoder, stall_seconds=self._stall_seconds) as stream:
                header = stream.header
                fps, step = header.fps, 1 / float(header.fps)
                if not given:
                    self._clips.restart(header.height, header.width, fps, header.tick)
                for block in stream:
                    for rgb in block:
                        seconds, number = stream.times[number], number + 1
                        if number <= given:
                            continue
                        if self._speed:
                            self._inbox.sleep(start + seconds / self._speed - time.monotonic())
                        if self._inbox.is_closed:
                            return number
                        if self._folder:
                            with suppress(OSError):  # met again when this file has ended
                                self._folder.look()
                        self._show(rgb, base + seconds)
                        arrived, self._seconds = time.monotonic(), base + seconds + step
                        self._give(self._clips.add(rgb, self._index, base + seconds, arrived))
                        self._index, given = self._index + 1, number
                repaired = stream.report.repaired_frames
        except DecodeError as error:
            raise _Broken(error, given) from None
        self._lost += repaired
        self._give(self._clips.flush(step, time.monotonic()))
        return number

    # Streams

    def _play_stream(self) -> None:
        """Read a stream, and connect again, with back-off, whenever it is lost."""
        failures = 0
        start: float | None = None  # of a connection that gave frames
        lost_at: float | None = None
        while not self._inbox.is_closed:
            try:
                settings = self._stall_seconds, self._is_over, self._stamp
                with Capture(self.source, *settings) as capture:
                    start = time.monotonic()
                    self._notice("connected", lost_seconds=start - (lost_at or start))
                    lost_at = None
                    self._read(capture)
            except (DecodeError, ValueError, OSError) as error:
                if self._inbox.is_closed:
                    return
                now = time.monotonic()
                if start is not None and now - start > SOUND_SECONDS:
                    failures = 0
                if start is not None or lost_at is None:
                    lost_at = now
                start = None
                self._lost += self._clips.give_up()
                wait = BACK_OFF[min(failures, len(BACK_OFF) - 1)]
                self._notice("lost", f"{error}; it is connected again in {wait:g} s")
                failures += 1
                self._inbox.sleep(wait)

    def _read(self, capture: Capture) -> None:
        """Give the clips of one connection. Raises DecodeError at its end."""
        step = 1 / float(capture.fps) if capture.fps else UNSTATED_STEP
        clock = StreamClock(step if 1e-3 < step < 1 else UNSTATED_STEP)
        form = (*capture.shape, capture.fps, capture.tick)
        self._clips.restart(*form)
        offset: float | None = None  # from the clock of the stream to that of the source
        for rgb, stamp, arrived, damaged, skipped in capture:
            if self._inbox.is_closed:
                return
            self._stamp = stamp
            self._lost += damaged + skipped
            kind, missing = clock.add(stamp)
            if kind == "late":
                self._lost += not damaged
                continue
            if kind == "jump":
                self._begin_anew("the time stamps jumped", *form)
            if offset is None or kind == "jump":
                if self._begin is None:
                    self._begin = arrived
                self._seconds = max(self._seconds, arrived - self._begin)
                offset = self._seconds - stamp
            self._lost += max(0, missing - damaged - skipped)
            last = self._seconds - clock.step
            if 0 < missing <= self._spec.clip_length:
                for each in range(missing):
                    at = last + (each + 1) * (stamp + offset - last) / (missing + 1)
                    self._give(self._clips.repeat(self._index, at, arrived))
                    self._index += 1
            elif missing:
                self._begin_anew(f"{missing} frames are missing", *form)
                self._index += missing
            if capture.fps and (other := clock.other_step()):
                rate = Fraction(1 / other).limit_denominator(1001)
                form = (*capture.shape, rate, capture.tick)
                self._begin_anew(f"the rate is {float(rate):.5g} frames a second now", *form)
            self._show(rgb, stamp + offset)
            self._give(self._clips.add(rgb, self._index, stamp + offset, arrived))
            self._index, self._seconds = self._index + 1, stamp + offset + clock.step

    def _begin_anew(self, reason: str, *form: Any) -> None:
        """Say why what comes does not follow what came; ``form`` as of ``LiveClips.restart``."""
        self._lost += self._clips.give_up()
        self._notice("changed", reason)
        self._clips.restart(*form)


class _Broken(Exception):
    """A decoder ended in the middle of a file."""

    def __init__(self, error: DecodeError, given: int) -> None:
        super().__init__(str(error))
        self.error, self.given = error, given
