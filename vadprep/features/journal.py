"""What happened to each video.

    manifest-<rank>.csv    a row for each finished video
    events-<rank>.jsonl    a line when a run begins, when a video is started, and when it is
                           committed, has failed or is skipped, with the seconds of each stage

Lines are only ever added, by one process a rank. A kill can cut the last line: readers ignore it,
and it is removed when the rank starts again. Of several rows of a video the latest counts.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Any

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.features.shard import DONE, StoredVideo
from vadprep.features.tables import append, csv_bytes, cut, read_table, whole_size

LAST_BYTES = 4 << 20
"""Bytes at the end of a file of events that ``last_events`` reads."""


@dataclass(frozen=True, slots=True)
class Row:
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

    @property
    def is_done(self) -> bool:
        return self.status == DONE


COLUMNS = tuple(each.name for each in fields(Row))
"""Folders of before have more columns, which are not read."""


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
    )


@dataclass(frozen=True, slots=True)
class Event:
    """One line of events-<rank>.jsonl; what an event does not say is None."""

    time: float
    """Seconds since 1970."""
    event: str
    """``run`` (a run of the rank begins), ``start``, ``committed``, ``failed``, ``skipped``, or
    ``copied`` (from the folder ``source``)."""
    video_id: str = ""
    shard: int | None = None
    num_clips: int | None = None
    seconds: Mapping[str, float] | None = None
    """Seconds of each stage of the work on a video."""
    recovered: bool | None = None
    """True for a video whose file was there already, after a kill."""
    rank: int | None = None
    world_size: int | None = None
    device: str | None = None
    workers: int | None = None
    decoders: int | None = None
    cores: int | None = None
    videos_left: int | None = None
    work_left: float | None = None
    """Of the rank: frames, or bytes of the files, as the event ``run`` says in ``unit``."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """All other values: host, process, unit, source, and those of the video's Report."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Event:
        """The event of a line, as JSON gives it."""
        known = {name: value for name, value in values.items() if name in _EVENT_FIELDS}
        return cls(**known, more={name: values[name] for name in values.keys() - known.keys()})

    @property
    def is_end(self) -> bool:
        """True when a video was finished or given up just now."""
        return self.event in ("committed", "failed", "skipped") and not self.recovered


_EVENT_FIELDS = {each.name for each in fields(Event)} - {"more"}


class Journal:
    """The two files of one rank; each line is on the disk when the call returns."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._manifest = folder / f"manifest-{rank:05d}.csv"
        self._events = folder / f"events-{rank:05d}.jsonl"
        if self._events.exists():
            size, end = _end_of(self._events)
            cut(self._events, size - len(end) + end.rfind(b"\n") + 1)
        if not self._manifest.exists():
            with open_atomic(self._manifest) as stream:
                stream.write(csv_bytes([COLUMNS]))
        with _named(self._manifest):
            cut(self._manifest, whole_size(self._manifest.read_bytes()))
        self.is_new = not any(rows_in(self._manifest))
        """True when there were no rows: at the first run, or when the file was removed."""

    def add(self, row: Row) -> None:
        """Append a finished video."""
        append(self._manifest, csv_bytes([astuple(row)]))

    def event(self, event: str, video_id: str = "", /, **values: Any) -> None:
        """Append one event; see ``Event`` for ``values``."""
        line = {"time": round(time.time(), 3), "event": event, "video_id": video_id, **values}
        append(self._events, (json.dumps(line) + "\n").encode())


def read_rows(folder: Path) -> dict[str, Row]:
    """The finished videos of all ranks by id: of each the latest row, at the same time ``done``.

    Raises FeaturesError at a damaged manifest-<rank>.csv.
    """
    rows: dict[str, Row] = {}
    for path in _files(folder, "manifest-*.csv").values():
        for row in rows_in(path):
            old = rows.get(row.video_id)
            if old is None or (row.time, row.is_done) >= (old.time, old.is_done):
                rows[row.video_id] = row
    return rows


def rows_in(path: Path) -> Iterator[Row]:
    """The rows of one rank in order; raises FeaturesError at a damaged one."""
    with _named(path):
        rows = read_table(path)
        cells = itemgetter(*map(next(rows, []).index, COLUMNS))
        for row in map(cells, rows):
            name, shard, status, clips, frames, repaired, fps, decoder, checksum, reason, at = row
            yield Row(
                name, int(shard), status, int(clips), int(frames), int(repaired), float(fps),
                decoder, checksum, reason, float(at),
            )  # fmt: skip


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what a damaged manifest-<rank>.csv raises into a FeaturesError that names it."""
    try:
        yield
    except (IndexError, ValueError, csv.Error) as error:
        raise FeaturesError(
            f"{path}: damaged ({error!r}): remove it, and extract makes it again from the shards"
        ) from error


def _files(folder: Path, pattern: str) -> dict[int, Path]:
    """Rank -> its file; a copy that somebody has made beside it is not one."""
    paths = sorted(folder.glob(pattern), key=lambda path: path.name)
    ranks = (path.name.partition("-")[2].partition(".")[0] for path in paths)
    return {int(rank): path for rank, path in zip(ranks, paths, strict=True) if rank.isdecimal()}


def read_events(folder: Path) -> Iterator[Event]:
    """The events of all ranks, rank by rank, in the order in which they were written."""
    for path in _files(folder, "events-*.jsonl").values():
        with path.open("rb") as file:
            yield from _events_in(path, file)


def last_events(folder: Path) -> dict[int, list[Event]]:
    """Rank -> its last events, in order: those in the last LAST_BYTES of its file."""
    events = {}
    for rank, path in _files(folder, "events-*.jsonl").items():
        size, end = _end_of(path)
        events[rank] = list(_events_in(path, end.splitlines(keepends=True)[size > len(end) :]))
    return events


def _events_in(path: Path, lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        if line.endswith(b"\n"):
            try:
                event = Event.of(json.loads(line))
            except (AttributeError, TypeError, ValueError) as error:
                raise FeaturesError(
                    f"{path}: damaged ({error!r}): remove it, no features are lost with it"
                ) from error
            yield event


def _end_of(path: Path) -> tuple[int, bytes]:
    """Size of a file, and its last LAST_BYTES."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LAST_BYTES))
        return size, file.read()
