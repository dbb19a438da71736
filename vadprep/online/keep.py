"""Clips of alarms, some seconds before and after, as MP4 files."""

from __future__ import annotations

import io
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from vadprep.core.atomic import check_writable, make_folder
from vadprep.core.errors import OutputError, counted
from vadprep.core.log import get_logger
from vadprep.online.pictures import Pictures
from vadprep.online.records import AlarmRecord, Record, ScoreRecord, SourceRecord
from vadprep.video import open_movie

_LOG = get_logger(__name__)

BEFORE, AFTER = 5.0, 5.0
"""Seconds that a clip shows before the alarm and after it."""
PART = 30.0
"""Seconds; a longer alarm is written in parts, so that memory is bounded."""
HISTORY = PART + BEFORE + AFTER + 10.0
"""Seconds of pictures that a source has to hold; the last ones are for what scoring takes."""
MOST_WAITING = 8
"""Clips that wait to be written; more are dropped, with a line in the log."""
RATE = Fraction(25)
END_SECONDS = 2.0
"""That clips which wait may take when a session is stopped."""
LAST_SECONDS = 60.0
"""That they may take when all sources have ended."""


@dataclass
class _Open:
    """A clip that is not complete yet, in seconds of the source."""

    start: float
    offset: float
    """From seconds of the source to Unix time."""
    stop: float | None = None
    """Known once the alarm is off."""


class Keeper:
    """Writes the alarms of some sources into ``folder``; ``pictures`` by source hold HISTORY.

    Files are called TIME-SOURCE.mp4, by the UTC of their first picture.
    """

    def __init__(self, folder: str | Path, pictures: Mapping[str, Pictures]) -> None:
        self._folder, self._pictures = Path(folder), pictures
        make_folder(self._folder)
        check_writable(self._folder)
        self._open: dict[str, _Open] = {}
        self._jobs: queue.Queue[tuple[str, _Open, list[tuple[float, bytes]]] | None]
        self._jobs = queue.Queue(MOST_WAITING)
        self._kept: queue.SimpleQueue[SourceRecord] = queue.SimpleQueue()
        self._num_given = self._num_kept = 0
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> Iterator[SourceRecord]:
        """Take a record; gives a record for each file that was written meanwhile."""
        clip = self._open.get(record.source)
        if isinstance(record, AlarmRecord):
            if record.state == "on" and clip is None:
                offset = record.time - record.seconds[1]
                self._open[record.source] = _Open(record.seconds[0] - BEFORE, offset)
            elif record.state == "on" and clip:
                clip.stop = None  # it goes on before the seconds after the last one were over
            elif clip:
                clip.stop = record.seconds[1] + AFTER
        elif clip and isinstance(record, ScoreRecord):
            now = record.seconds[1]
            if clip.stop is not None and now >= clip.stop:
                self._give(record.source, clip, clip.stop)
                del self._open[record.source]
            elif now - clip.start >= PART + BEFORE:
                self._give(record.source, clip, now)
                clip.start = now
        elif clip and isinstance(record, SourceRecord) and record.state != "kept":
            self._give(record.source, clip, clip.stop or float("inf"))
            del self._open[record.source]
        yield from self._written()

    def close(self, is_stopped: bool = False) -> list[SourceRecord]:
        """Write what is open, for LAST_SECONDS at most, END_SECONDS if the session is stopped.
        What is not written then is lost."""
        seconds = END_SECONDS if is_stopped else LAST_SECONDS
        for source, clip in self._open.items():
            self._give(source, clip, clip.stop or float("inf"))
        self._open.clear()
        stop = time.monotonic() + seconds
        with suppress(queue.Full):
            self._jobs.put(None, timeout=seconds)
        self._thread.join(max(0.0, stop - time.monotonic()))
        if lost := self._num_given - self._num_kept:
            why = f": {seconds:g} s were too few for the last" if self._thread.is_alive() else ""
            _LOG.error("%s of alarms could not be kept%s", counted(lost, "clip"), why)
        return list(self._written())

    def _written(self) -> Iterator[SourceRecord]:
        while not self._kept.empty():
            yield self._kept.get()

    def _give(self, source: str, clip: _Open, stop: float) -> None:
        pictures = self._pictures[source].between(clip.start, stop)
        if not pictures:
            return
        self._num_given += 1
        try:
            self._jobs.put_nowait((source, clip, pictures))
        except queue.Full:
            _LOG.error("%s: %d clips wait to be written, one is dropped", source, MOST_WAITING)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            source, clip, pictures = job
            start = clip.offset + pictures[0][0]
            try:
                path = write_clip(self._folder, source, start, pictures)
            except Exception as error:  # of one clip; the next ones are kept
                why = error if isinstance(error, OutputError) else repr(error)
                _LOG.error("%s: a clip is not kept: %s", source, why)
            else:
                self._num_kept += 1
                self._kept.put(SourceRecord(source, start, "kept", str(path)))


def write_clip(
    folder: Path, source: str, start: float, pictures: list[tuple[float, bytes]]
) -> Path:
    """The path of a new MP4 of JPEG pictures, with their seconds; ``start`` is in Unix seconds.

    Raises OutputError when the disk refuses.
    """
    moment = datetime.fromtimestamp(start, timezone.utc).strftime("%Y%m%dT%H%M%S")
    stem = f"{moment}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', source)[-80:]}"
    path, count = folder / f"{stem}.mp4", 1
    while path.exists():
        count += 1
        path = folder / f"{stem}-{count}.mp4"
    begin = pictures[0][0]
    with Image.open(io.BytesIO(pictures[0][1])) as first:
        size = max(2, first.width // 2 * 2), max(2, first.height // 2 * 2)
    with open_movie(path, size, RATE) as add:
        for seconds, picture in pictures:
            with Image.open(io.BytesIO(picture)) as image:
                add(np.asarray(image.convert("RGB")), seconds - begin)
    return path
