"""What happened to each video: manifest-<rank>.csv, a row for each finished video, and
events-<rank>.jsonl, a line when a video is started and one when it is committed, has failed or is
skipped, with the seconds of each stage.

Both are append-only and written by one process, the driver of that rank. A kill can cut the last
line; it is dropped when the rank starts again and passed over by readers.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vadprep.files import disk_errors, written
from vadprep.records import FeaturesError
from vadprep.shards import StoredVideo


@dataclass(frozen=True)
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


COLUMNS = [field.name for field in fields(Row)]
_KINDS = {
    "shard": int,
    "num_clips": int,
    "num_frames": int,
    "repaired_frames": int,
    "fps": float,
    "time": float,
}


class Journal:
    """The two files of one rank; each line is on the disk when the call returns."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._manifest = folder / f"manifest-{rank:05d}.csv"
        self._events = folder / f"events-{rank:05d}.jsonl"
        _drop_torn_end(self._manifest, quoted=True)
        _drop_torn_end(self._events, quoted=False)
        if not self._manifest.exists():
            with written(self._manifest) as stream:
                stream.write(_csv_line(COLUMNS).encode())

    def finished(self, row: Row) -> None:
        """Append a finished video."""
        _append(self._manifest, _csv_line([getattr(row, name) for name in COLUMNS]))

    def event(self, event: str, video_id: str, /, **values: Any) -> None:
        """Append one event: start, committed, failed or skipped."""
        line = {"time": round(time.time(), 3), "event": event, "video_id": video_id, **values}
        _append(self._events, json.dumps(line) + "\n")


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # a lone CR needs it
    writer.writerow(values)
    return text.getvalue()


def _append(path: Path, line: str) -> None:
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            left = line.encode("utf-8", "surrogateescape")
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _drop_torn_end(path: Path, quoted: bool) -> None:
    """Cut ``path`` after its last whole line, where a kill or a full disk left half a line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = _whole(content, quoted)
    if len(whole) < len(content):
        with written(path) as stream:
            stream.write(whole)


def _whole(content: bytes, quoted: bool) -> bytes:
    """``content`` up to its last line end; within quotes a line feed ends nothing."""
    stop = content.rfind(b"\n") + 1
    while quoted and stop and content.count(b'"', 0, stop) % 2:
        stop = content.rfind(b"\n", 0, stop - 1) + 1
    return content[:stop]


def read_rows(folder: Path) -> dict[str, Row]:
    """The finished videos of all ranks by id: of each the later row, at the same time ``done``."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("manifest-*.csv")):
        for row in _rows(path):
            old = rows.get(row.video_id)
            if old is None or _age(row) >= _age(old):
                rows[row.video_id] = row
    return rows


def _age(row: Row) -> tuple[float, bool]:
    return row.time, row.status == "done"


def _rows(path: Path) -> Iterator[Row]:
    text = _whole(path.read_bytes(), quoted=True).decode("utf-8", "surrogateescape")
    try:
        for values in csv.DictReader(io.StringIO(text, newline="")):
            yield Row(**{name: _KINDS.get(name, str)(values[name]) for name in COLUMNS})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise FeaturesError(
            f"{path}: damaged ({error!r}): remove it, and extract makes it again from the shards"
        ) from error


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of all ranks, rank by rank, in the order in which they were written."""
    for path in sorted(folder.glob("events-*.jsonl")):
        for line in _whole(path.read_bytes(), quoted=False).splitlines():
            yield json.loads(line)
