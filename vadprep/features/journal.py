"""What happened to each video: manifest-<rank>.csv, a row for each finished video, and
events-<rank>.jsonl, a line when a run begins, when a video is started and when it is committed,
has failed or is skipped, with the seconds of each stage.

Both are append-only and written by one process, the driver of that rank. A kill can cut the last
line; it is dropped when the rank starts again and passed over by readers.

Each row also says what the rows of its file add up to, so that the last row of every rank gives
the counts of the whole folder, however long the files are. A row that takes the place of an
earlier one counts the difference; where that one stands in another rank's file, the row names it.
"""

from __future__ import annotations

import csv
import json
import operator
import os
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.features import append_only as appended
from vadprep.features.shard import DONE, FAILED, StoredVideo


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
    decoder: str
    checksum: str
    """CRC-32 of the features, hexadecimal."""
    reason: str
    """Why a video failed, or why the length of one that is done is not what was said; one line."""
    time: float
    """Seconds since 1970."""


def row_of(stored: StoredVideo, shard: int) -> Row:
    """The row of a video as it stands in shard number ``shard``, finished now."""
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


@dataclass(frozen=True)
class Totals:
    """What rows add up to. Those of one rank can be negative where its rows replace others'."""

    done: int = 0
    failed: int = 0
    num_clips: int = 0
    num_frames: int = 0
    repaired_frames: int = 0
    damaged: int = 0
    """Videos that are done with repaired frames."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: Totals) -> Totals:
        return Totals(*map(operator.sub, astuple(self), astuple(other)))


def totals_of(row: Row) -> Totals:
    """What a row counts for: clips and frames of done videos only."""
    if row.status != DONE:
        return Totals(failed=1)
    return Totals(
        1, 0, row.num_clips, row.num_frames, row.repaired_frames, int(row.repaired_frames > 0)
    )


def is_notable(row: Row) -> bool:
    """True when there is something to say of a video: it failed, was repaired, is of odd length."""
    return row.status == FAILED or row.repaired_frames > 0 or bool(row.reason)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A row that another takes the place of, and where it stands."""

    time: float
    totals: Totals
    """What it counts for."""
    rank: int
    file: str
    """Which file that was, see ``file_mark``: it may have been removed and made again."""


@dataclass(frozen=True)
class Tail:
    """The last row of a rank's file, if it has any, and what it says of those before it."""

    row: Row | None
    against: dict[int, str]
    """Rank -> mark of a file of which rows were replaced."""
    totals: Totals
    notable: int
    """Where the last notable row before this one starts, or one that replaced a failure; 0:
    nowhere."""


COLUMNS = [field.name for field in fields(Row)]
TOTALS = [f"total_{field.name}" for field in fields(Totals)]
ALL_COLUMNS = [*COLUMNS, "against", *TOTALS, "last_notable"]
"""Folders of before have ``COLUMNS`` only: their totals have to be counted."""

_KINDS = {
    "shard": int,
    "num_clips": int,
    "num_frames": int,
    "repaired_frames": int,
    "fps": float,
    "time": float,
}
_CONVERTERS = [_KINDS.get(name, str) for name in COLUMNS]


def manifest_path(folder: Path, rank: int) -> Path:
    """The file of the rows of a rank."""
    return folder / f"manifest-{rank:05d}.csv"


def manifest_paths(folder: Path) -> dict[int, Path]:
    """The files of all ranks that have one."""
    return {
        int(path.name.removeprefix("manifest-").removesuffix(".csv")): path
        for path in sorted(folder.glob("manifest-*.csv"), key=lambda path: path.name)
    }


class Journal:
    """The two files of one rank; each line is on the disk when the call returns."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.rank = rank
        self._manifest = manifest_path(folder, rank)
        self._events = folder / f"events-{rank:05d}.jsonl"
        _drop_torn_event(self._events)
        if not self._manifest.exists():
            with open_atomic(self._manifest) as stream:
                stream.write(appended.lines([ALL_COLUMNS]))
        try:
            with open(self._manifest, "rb") as file:
                self._size = appended.whole_size(file)
        except csv.Error as error:
            raise damaged(self._manifest, error) from error
        appended.cut(self._manifest, self._size)
        self._totals: Totals | None = Totals()
        self._against: dict[int, str] = {}
        self._notable = 0
        last = appended.last_row(self._manifest)
        self.is_new = last is None
        """Whether there were no rows: at the first run, or when the file has been removed."""
        if last:
            self._go_on(*last)

    def _go_on(self, start: int, values: list[str]) -> None:
        tail = _tail(self._manifest, values)
        if tail is None:
            self._totals = None  # begun without totals: they are counted for good
            return
        self._totals, self._against = tail.totals, tail.against
        # The last row may be notable itself, and looking at one row more does no harm.
        self._notable = start

    def finished(self, row: Row, earlier: Earlier | None = None) -> Row:
        """Append a finished video, whose row so far was ``earlier``; the row as it was written."""
        if earlier:  # a clock may run behind another's
            row = replace(row, time=max(row.time, earlier.time + 0.001))
        content = appended.lines([[*_values(row), *self._sums(row, earlier)]])
        appended.append(self._manifest, content)
        if is_notable(row) or (earlier and earlier.totals.failed):
            self._notable = self._size
        self._size += len(content)
        return row

    def _sums(self, row: Row, earlier: Earlier | None) -> list[object]:
        """The cells behind those of the row: of the totals with it, the notable row before it."""
        if self._totals is None:
            return []
        self._totals += totals_of(row)
        if earlier:
            self._totals -= earlier.totals
            if earlier.rank != self.rank:
                self._against[earlier.rank] = earlier.file
        against = " ".join(f"{rank}@{mark}" for rank, mark in sorted(self._against.items()))
        return [against, *astuple(self._totals), self._notable]

    def event(self, event: str, video_id: str, /, **values: Any) -> None:
        """Append one event: run, start, committed, failed or skipped."""
        line = {"time": round(time.time(), 3), "event": event, "video_id": video_id, **values}
        appended.append(self._events, (json.dumps(line) + "\n").encode())


def _values(row: Row) -> list[object]:
    return [getattr(row, name) for name in COLUMNS]


def _drop_torn_event(path: Path) -> None:
    """Cut ``path`` after its last whole line, where a kill or a full disk left half a line."""
    if path.exists():
        size = path.stat().st_size
        appended.cut(path, size - len(_torn_end(path, size)))


# ---------------------------------------------------------------- rows


def read_rows(folder: Path) -> dict[str, Row]:
    """The finished videos of all ranks by id: of each the later row, at the same time ``done``."""
    rows: dict[str, Row] = {}
    for path in manifest_paths(folder).values():
        for row in rows_in(path):
            old = rows.get(row.video_id)
            if old is None or age(row) >= age(old):
                rows[row.video_id] = row
    return rows


def age(row: Row) -> tuple[float, bool]:
    """Of two rows of a video the one with the greater age counts."""
    return row.time, row.status == DONE


def rows_in(path: Path) -> Iterator[Row]:
    """The rows of one rank in order; raises FeaturesError at a damaged one."""
    try:
        for values in appended.rows(path):
            yield row_from(values)
    except (IndexError, ValueError, csv.Error) as error:
        raise damaged(path, error) from error


def row_from(values: list[str]) -> Row:
    """A row from its cells."""
    return Row(*(convert(values[i]) for i, convert in enumerate(_CONVERTERS)))


def damaged(path: Path, error: Exception) -> FeaturesError:
    """The error of a file of rows that cannot be read."""
    return FeaturesError(
        f"{path}: damaged ({error!r}): remove it, and extract makes it again from the shards"
    )


def file_mark(path: Path) -> str:
    """What tells a rank's file from another that was made in its place: its first row's time."""
    return next((f"{row.time}" for row in rows_in(path)), "")


def tail_of(path: Path) -> Tail | None:
    """What the last row says; None when it has no totals."""
    try:
        last = appended.last_row(path)
    except csv.Error as error:
        raise damaged(path, error) from error
    return _tail(path, last[1]) if last else Tail(None, {}, Totals(), 0)


def _tail(path: Path, values: list[str]) -> Tail | None:
    if len(values) < len(ALL_COLUMNS):
        return None
    against, *sums, notable = values[len(COLUMNS) :]
    try:
        marks = dict(each.split("@") for each in against.split())
        return Tail(
            row_from(values),
            {int(rank): mark for rank, mark in marks.items()},
            Totals(*map(int, sums)),
            int(notable),
        )
    except (TypeError, ValueError) as error:
        raise damaged(path, error) from error


def notable_in(path: Path) -> Iterator[Row]:
    """Rows of one rank, the last first, among them all notable ones and what replaced failures."""
    tail = tail_of(path)
    while tail and tail.row:
        yield tail.row
        if not tail.notable:
            return
        tail = _tail(path, next(appended.rows(path, tail.notable)))


# ---------------------------------------------------------------- events


def event_paths(folder: Path) -> dict[int, Path]:
    """The files of events of all ranks that have one."""
    return {
        int(path.name.removeprefix("events-").removesuffix(".jsonl")): path
        for path in sorted(folder.glob("events-*.jsonl"), key=lambda path: path.name)
    }


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of all ranks, rank by rank, in the order in which they were written."""
    for path in event_paths(folder).values():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def last_events(path: Path, most_bytes: int) -> list[dict[str, Any]]:
    """The events in the last ``most_bytes`` of a file, in order."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most_bytes))
        lines = file.read(most_bytes).split(b"\n")[:-1]
    return [json.loads(line) for line in lines[size > most_bytes :]]


def _torn_end(path: Path, size: int) -> bytes:
    """What stands behind the last line break."""
    with path.open("rb") as file:
        tail = appended.TAIL_BYTES
        while True:
            start = max(0, size - tail)
            file.seek(start)
            content = file.read(size - start)
            if b"\n" in content or not start:
                return content.rpartition(b"\n")[2]
            tail *= 2
