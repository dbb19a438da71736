"""What happened to each video.

    manifest-<rank>.csv    a row for each finished video
    events-<rank>.jsonl    a line when a run begins, when a video is started, and when it is
                           committed, has failed or is skipped, with the seconds of each stage

Lines are only ever added, by one process a rank. A kill can cut the last line: readers ignore it,
and it is removed when the rank starts again. Of several rows of a video the latest counts.

Every cell of a table is quoted. Ids and reasons may hold quotes and line breaks, so a row ends at
a line break outside quotes: one before which the number of quotes is even.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from vadprep.core.atomic import disk_errors, names_in, open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.core.untrusted import parse_json, reading
from vadprep.features.remote import open_file, read_file
from vadprep.features.shard import DONE, FAILED, StoredVideo

LAST_BYTES = 4 << 20
"""Bytes at the end of a file of events that ``last_events`` reads."""
MOST_TABLE_BYTES = 1 << 30
MOST_LINE_BYTES = 1 << 20
"""Of an event."""
MOST_COUNT = 2**53

_CUT_ROW = re.compile(rb'(?:"[^"]*(?:""[^"]*)*",)*(?:"[^"]*(?:""[^"]*)*"?)?\r?')
"""What a kill can leave of a row."""


class Row(NamedTuple):
    """One finished video in manifest-<rank>.csv."""

    video_id: str
    shard: int
    status: str
    """``done`` or ``failed``."""
    num_clips: int
    num_frames: int
    """Source frames decoded."""
    repaired_frames: int
    fps: float
    """Of the source; 0 where nothing states it."""
    decoder: str
    checksum: str
    """CRC-32 of the features, hexadecimal."""
    reason: str
    """Why a video failed, or why one that is done is not as long as header or manifest say."""
    time: float
    """Seconds since 1970."""
    kind: str = ""
    """Kind of a failure in one word, as ``missing``; blank in tables of older versions."""

    @property
    def is_done(self) -> bool:
        return self.status == DONE


def row_of(stored: StoredVideo, shard: int) -> Row:
    """The row of a video as it is stored in shard number ``shard``, finished now."""
    known = stored.attributes
    return Row(
        video_id=stored.video_id,
        shard=shard,
        status=str(known["status"]),
        num_clips=stored.shape[0],
        num_frames=int(known.get("num_frames", 0)),
        repaired_frames=int(known.get("repaired_frames", 0)),
        fps=float(known.get("fps_source", 0)),
        decoder=str(known.get("decoder", "")),
        checksum=f"{int(known.get('features_crc32', 0)):08x}",
        reason=str(known.get("reason", known.get("length_note", ""))),
        time=time.time(),
        kind=str(known.get("kind", "")),
    )


class Event(NamedTuple):
    """What is read of a line of events-<rank>.jsonl; more is written for people."""

    time: float
    """Seconds since 1970."""
    event: str
    """``run`` (a run of the rank begins), ``start``, ``committed``, ``failed`` or ``skipped``."""
    video_id: str = ""
    num_clips: int = 0
    seconds: Mapping[str, float] = {}
    """Seconds of each stage of the work on a video."""
    recovered: bool = False
    """True for a video whose file was there already, after a kill."""
    world_size: int | None = None
    work_left: float | None = None
    """Of the rank: frames, or bytes of the files."""
    engine: str = ""
    """Of a run: what computes its networks."""

    @property
    def is_end(self) -> bool:
        """True when a video was finished or given up just now."""
        return self.event in ("committed", "failed", "skipped") and not self.recovered


class Journal:
    """The two files of one rank; each line is on the disk when the call returns."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._manifest = folder / f"manifest-{rank:05d}.csv"
        self._events = folder / f"events-{rank:05d}.jsonl"
        if self._events.exists():
            _cut(self._events, _whole_lines(self._events))
        self.is_new = not self._manifest.exists()
        """True at the first run, or when the file was removed."""
        if self.is_new:
            with open_atomic(self._manifest) as stream:
                stream.write(csv_bytes([Row._fields]))
        with _named(self._manifest):
            _cut(self._manifest, _whole_size(read_file(self._manifest, MOST_TABLE_BYTES)))
            self._columns = next(read_table(self._manifest), [])
            if "video_id" not in self._columns:
                raise csv.Error("no header")

    def add(self, row: Row) -> None:
        """Append a finished video, in the columns that the table has."""
        _append(self._manifest, csv_bytes([[getattr(row, each, "") for each in self._columns]]))

    def event(self, event: str, video_id: str = "", /, **values: Any) -> None:
        """Append one event; ``Event`` has those of the ``values`` that are read again."""
        line = {"time": round(time.time(), 3), "event": event, "video_id": video_id, **values}
        _append(self._events, (json.dumps(line) + "\n").encode())


def _whole_lines(path: Path) -> int:
    """Number of bytes up to the end of the last whole line of a file of events."""
    with reading(FeaturesError, path), open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - LAST_BYTES))
        return start + file.read(LAST_BYTES).rfind(b"\n") + 1


def _append(path: Path, content: bytes) -> None:
    with disk_errors(path), open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cut(path: Path, size: int) -> None:
    """Remove what follows the first ``size`` bytes."""
    if path.stat().st_size > size:
        with disk_errors(path):
            os.truncate(path, size)


def _files(folder: Path, pattern: str, shards: int = sys.maxsize) -> dict[int, Path]:
    """Rank -> its file; a copy that somebody has made beside it is not one. A web server is asked
    for those of ``shards`` ranks at most: a rank beyond owns nothing."""
    if isinstance(folder, Path):  # its glob passes over a folder that may not be read
        found = [folder / name for name in fnmatch.filter(names_in(folder), pattern)]
    else:
        found = list(folder.glob(pattern, shards))
    paths = sorted(found, key=lambda path: path.name)
    ranks = (path.name.partition("-")[2].partition(".")[0] for path in paths)
    return {int(rank): path for rank, path in zip(ranks, paths, strict=True) if rank.isdecimal()}


def csv_bytes(rows: Iterable[Iterable[object]], end: str = "\n") -> bytes:
    """Rows as they are written to the file."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_table(path: Path) -> Iterator[list[str]]:
    """The header and all whole rows of a table; raises csv.Error when it is no such table."""
    content = read_file(path, MOST_TABLE_BYTES)
    text = content[: _whole_size(content)].decode("utf-8", "surrogateescape")
    return csv.reader(io.StringIO(text, newline=""), strict=True)


def _whole_size(content: bytes) -> int:
    """Number of bytes up to the end of the last whole row.

    Raises csv.Error when more than the last row is wrong: then the file was not cut but damaged.
    """
    size = content.rfind(b"\n") + 1
    quotes = content.count(b'"', 0, size)
    while quotes % 2:
        end = content.rfind(b"\n", 0, size - 1) + 1
        quotes, size = quotes - content.count(b'"', end, size), end
    if not _CUT_ROW.fullmatch(content, size):
        raise csv.Error(f"no row at byte {size}")
    return size


def read_rows(folder: Path, shards: int = sys.maxsize) -> dict[str, Row]:
    """The finished videos of all ranks by id: of each the latest row, at the same time ``done``.

    The number of ``shards`` saves requests to a web server. Raises FeaturesError at a damaged
    manifest-<rank>.csv. Further columns of older folders are not read; those without a column
    ``kind`` give rows without one.
    """
    rows: dict[str, Row] = {}
    for path in _files(folder, "manifest-*.csv", shards).values():
        with _named(path):
            table = read_table(path)
            header = next(table, [])
            columns = [each for each in Row._fields if each in header or each != "kind"]
            for cell in map(itemgetter(*map(header.index, columns)), table):
                name, shard, status, clips, frames, repaired, fps = cell[:7]
                decoder, checksum, why, at, *kind = cell[7:]
                row = Row(
                    name, int(shard), status, int(clips), int(frames), int(repaired), float(fps),
                    decoder, checksum, why, float(at), *kind,
                )  # fmt: skip
                counts = row.shard, row.num_clips, row.num_frames, row.repaired_frames
                is_sound = min(counts) >= 0 and max(counts) <= MOST_COUNT
                if not (
                    is_sound
                    and status in (DONE, FAILED)
                    and 0 <= row.fps <= MOST_COUNT
                    and 0 <= row.time <= MOST_COUNT
                ):
                    raise ValueError(f"row of {name!r}")
                old = rows.get(name)
                if old is None or (row.time, row.is_done) >= (old.time, old.is_done):
                    rows[name] = row
    return rows


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what a damaged manifest-<rank>.csv raises into a FeaturesError that names it."""
    try:
        yield
    except (IndexError, ValueError, csv.Error) as error:
        raise FeaturesError(
            f"{path}: damaged ({error!r}): remove it, and extract makes it again from the shards"
        ) from error


def read_events(folder: Path, shards: int = sys.maxsize) -> Iterator[Event]:
    """The events of all ranks, rank by rank, in the order in which they were written. ``shards`` is
    that of ``read_rows``."""
    for path in _files(folder, "events-*.jsonl", shards).values():
        yield from _events_in(path, sys.maxsize)


def run_events(folder: Path) -> list[Event]:
    """The events ``run`` of all ranks: of a long journal this takes a fraction of the time."""
    paths = _files(folder, "events-*.jsonl").values()
    found = (event for path in paths for event in _events_in(path, sys.maxsize, b'"event": "run"'))
    return [event for event in found if event.event == "run"]


def last_events(folder: Path, shards: int = sys.maxsize) -> dict[int, list[Event]]:
    """Rank -> its last events, in order: those in the last LAST_BYTES of its file. ``shards`` is
    that of ``read_rows``."""
    paths = _files(folder, "events-*.jsonl", shards)
    return {rank: list(_events_in(path, LAST_BYTES)) for rank, path in paths.items()}


def _events_in(path: Path, most: int, containing: bytes = b"") -> Iterator[Event]:
    """The events in the last ``most`` bytes of a file, of lines with ``containing``."""
    with reading(FeaturesError, path), open_file(path) as file:
        start = max(0, file.seek(0, os.SEEK_END) - most)
        file.seek(start)
        if start:
            file.readline(MOST_LINE_BYTES)  # what is left of a line
        while line := file.readline(MOST_LINE_BYTES):
            if line.endswith(b"\n"):
                if containing in line:
                    yield _event_in(line, path)
            elif len(line) == MOST_LINE_BYTES:
                raise _damaged_events(path, "an endless line")


def _event_in(line: bytes, path: Path) -> Event:
    """One event; FeaturesError when a value that is read is of another type, or absurdly large."""
    try:
        values = parse_json(line, "an event", FeaturesError)
        event = Event(**{name: values[name] for name in Event._fields if name in values})
        world_size = 1 if event.world_size is None else event.world_size
        numbers = (event.time, event.num_clips, world_size, *(event.seconds or {}).values())
        left = () if event.work_left is None else (event.work_left,)
        is_small = all(abs(each) <= MOST_COUNT for each in (*numbers, *left))
        is_text = all(isinstance(x, str) for x in (event.event, event.video_id, event.engine))
        if not (is_small and is_text and isinstance(world_size, int) and world_size > 0):
            raise ValueError("a value of another type or size")
    except (FeaturesError, AttributeError, TypeError, ValueError) as error:
        raise _damaged_events(path, error) from None
    return event


def _damaged_events(path: Path, error: object) -> FeaturesError:
    return FeaturesError(f"{path}: damaged ({error}): remove it, no features are lost with it")
