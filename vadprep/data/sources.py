"""What a video file or a folder of frames is, byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 1 << 20

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"))
"""File name endings, in lower case, that make a folder a folder of frames."""


def fingerprint(path: Path) -> dict[str, str | int]:
    """Size and SHA-256 of a source: ``source_bytes``, ``source_sha256``.

    Of a folder: of the names and the contents of its files, in order of their names.
    """
    digest, size = hashlib.sha256(), 0
    for file in _files(path):
        if file != path:
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(READ_BYTES):
                digest.update(block)
                size += len(block)
    return {"source_bytes": size, "source_sha256": digest.hexdigest()}


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; 0 when it cannot be looked at."""
    try:
        return sum(file.stat().st_size for file in _files(path))
    except OSError:
        return 0


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file())
    else:
        yield path
