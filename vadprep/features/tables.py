"""CSV files to which rows are added: every cell is quoted, and half a row at the end is no row.

A kill can cut the last row. Ids and reasons may hold quotes and line breaks, so a row ends at a
line break outside quotes: one before which the number of quotes is even.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vadprep.core.atomic import disk_errors

_CUT_ROW = re.compile(rb'(?:"[^"]*(?:""[^"]*)*",)*(?:"[^"]*(?:""[^"]*)*"?)?\r?')
"""What a kill can leave of a row."""


def csv_bytes(rows: Iterable[Iterable[object]], end: str = "\n") -> bytes:
    """Rows as they are written to the file."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_table(path: Path) -> Iterator[list[str]]:
    """The header and all whole rows of a table; raises csv.Error when it is no such table."""
    content = path.read_bytes()
    text = content[: whole_size(content)].decode("utf-8", "surrogateescape")
    return csv.reader(io.StringIO(text, newline=""), strict=True)


def whole_size(content: bytes) -> int:
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


def cut(path: Path, size: int) -> None:
    """Remove what follows the first ``size`` bytes."""
    if path.stat().st_size > size:
        with disk_errors(path):
            os.truncate(path, size)
