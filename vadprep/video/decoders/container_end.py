"""Whether a file ends before its container does: what the bytes say where FFmpeg does not."""

from __future__ import annotations

import os
from pathlib import Path

END_BYTES = 1 << 20
"""Of each end of a file that are looked at."""

ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""GUID of the File Properties Object: at 40 bytes the size of the file, at 64 the time it plays and
at 80 the time before it begins, in 100 ns and in ms, at 88 flags (ASF specification, 3.2)."""

OGG_HEADER, OGG_LAST = 27, 4
"""Bytes of a page before its table, and the flag of the last page of a stream (RFC 3533, 6)."""


def first_and_last_bytes(path: Path) -> bytes:
    """The first and the last bytes of a file; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(END_BYTES)
            file.seek(max(len(head), file.seek(0, os.SEEK_END) - END_BYTES))
            return head + file.read()
    except OSError:
        return b""


def note_of_cut(path: Path, container: str) -> tuple[str, float | None]:
    """What to say of a file that was cut off, else blank; and the seconds that it should play.

    ``container`` is FFmpeg's name. None where no length is stated. The other containers state
    their length to FFmpeg, or nowhere.
    """
    content = first_and_last_bytes(path)
    if container == "asf":
        return _of_asf(content, os.path.getsize(path))
    if container == "ogg" and _is_open(content):
        return "it has no last page: it was cut off, or is still being written", None
    if container == "gif" and not content.rstrip(b"\0\t\n\r ").endswith(b";"):
        return "it has no end mark: it was cut off", None
    return "", None


def _of_asf(content: bytes, size: int) -> tuple[str, float | None]:
    place = content.find(ASF_PROPERTIES)
    if not 0 <= place <= len(content) - 92:
        return "", None

    def number(start: int, count: int = 8) -> int:
        return int.from_bytes(content[place + start : place + start + count], "little")

    is_live, stated = number(88, 4) & 1, number(40)
    if is_live or stated <= size:
        return "", None
    seconds = number(64) / 1e7 - number(80) / 1e3
    return f"bytes are missing: it has {size:,} of {stated:,}", seconds if seconds > 0 else None


def _is_open(content: bytes) -> bool:
    """True where no page in ``content`` is the last one of an Ogg stream."""
    place = content.find(b"OggS")
    while 0 <= place <= len(content) - OGG_HEADER:
        if content[place + 5] & OGG_LAST:
            return False
        place = content.find(b"OggS", place + 4)
    return True
