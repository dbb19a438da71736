"""CSV tables to which rows are only ever added: the end is found without reading the rest.

Every cell is quoted, and the last cell of a row is a number. So ``,"5`` is the start of a cell
wherever it stands (a quote in a text is doubled), and the last row can be found from the end,
whatever line breaks and quotes an id or a reason holds. A kill can cut the last row; what is
behind the last whole one is no row.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from vadprep.core.atomic import disk_errors

TAIL_BYTES = 4096
"""Read from the end at first; twice as much as long as no row's end is in it."""

ROW_END_BYTES = 64
"""A number with its quotes and the line break is no longer."""

_ROW_END = re.compile(rb',"-?\d[^"\n]*"\r?\n')


def lines(rows: Iterable[Iterable[object]], end: str = "\n") -> bytes:
    """Rows as they stand in the file."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def rows(path: Path, start: int = 0, stop: int | None = None) -> Iterator[list[str]]:
    """Rows from the byte ``start`` to ``stop``, by default all whole ones below the header.

    Raises csv.Error for what is no such table.
    """
    with path.open("rb") as file:
        stop = whole_size(file) if stop is None else stop
        file.seek(start or header_size(file))
        yield from csv.reader(_lines(file, stop))


def _lines(file: BinaryIO, stop: int) -> Iterator[str]:
    left = stop - file.tell()
    for each in file:
        left -= len(each)
        if left < 0:
            return
        yield each.decode("utf-8", "surrogateescape")


def last_row(path: Path) -> tuple[int, list[str]] | None:
    """Where the last whole row starts, and its cells; None when there is none."""
    with path.open("rb") as file:
        ends = _last_ends(file, 2)
    if len(ends) < 2:
        return None
    return ends[-2], next(rows(path, ends[-2], ends[-1]))


def whole_size(file: BinaryIO) -> int:
    """Bytes up to the end of the last whole row, or of the header; moves the file's position."""
    size = _last_ends(file, 1)[-1]
    file.seek(0)
    return size


def header_size(file: BinaryIO) -> int:
    """Bytes of the header; moves the file's position."""
    file.seek(0)
    return len(file.readline())


def _last_ends(file: BinaryIO, count: int) -> list[int]:
    """Where the last ``count`` rows end, the header among them; fewer when there are fewer.

    Raises csv.Error when what follows is not the beginning of a row as it is written here.
    """
    size, tail, header = file.seek(0, os.SEEK_END), TAIL_BYTES, header_size(file)
    while True:
        start = max(header, size - tail)
        file.seek(start)
        ends = [start + match.end() for match in _ROW_END.finditer(file.read(size - start))]
        if len(ends) >= count or start == header:
            break
        tail *= 2
    ends = [header, *ends] if start == header else ends
    file.seek(ends[-1])
    if file.read(1) not in (b"", b'"'):
        raise csv.Error(f"a row without quotes at byte {ends[-1]}")
    return ends[-count:]


def first_row(path: Path, stop: int, is_behind: Callable[[list[str]], bool]) -> int:
    """Where the first row before ``stop`` starts for which ``is_behind`` holds, else ``stop``.

    It holds for every row after one for which it holds: a few rows are read, not all.
    """
    high = first = stop
    with path.open("rb") as file:
        low = header_size(file)
        while low < high:
            is_short = high - low <= TAIL_BYTES
            start = low if is_short else _row_start(file, (low + high) // 2, stop)
            if start >= high:
                high = (low + high) // 2 + 1
                continue
            stop_of_row = _row_start(file, start, stop)
            if is_behind(next(rows(path, start, stop_of_row))):
                first = high = start
            else:
                low = stop_of_row
    return first


def _row_start(file: BinaryIO, position: int, stop: int) -> int:
    """Where the first row starts behind ``position``; ``stop`` when there is none before."""
    size = TAIL_BYTES
    while True:
        start = max(0, position - ROW_END_BYTES)
        file.seek(start)
        block = file.read(min(size, stop - start))
        for match in _ROW_END.finditer(block):
            if start + match.end() > position:
                return start + match.end()
        if start + len(block) >= stop:
            return stop
        size *= 2


def append(path: Path, content: bytes) -> None:
    """Add ``content`` at the end; it is on the disk when the call returns."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_at(path: Path, start: int, content: bytes) -> None:
    """Write ``content`` at the byte ``start``; several processes may write the same there."""
    with disk_errors(path):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            while content:
                count = os.pwrite(descriptor, content, start)
                start, content = start + count, content[count:]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cut(path: Path, size: int) -> None:
    """Take away what is behind the first ``size`` bytes, where there is more."""
    if path.stat().st_size > size:
        with disk_errors(path):
            os.truncate(path, size)
