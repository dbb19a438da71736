"""Files and texts that this run did not write: kind, size and type are checked before use.

A regular file alone is opened, so that no FIFO blocks and no device gives bytes for ever; no more
is read than was asked for; JSON has bounded depth and numbers that other code can hold.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vadprep.core.errors import VadprepError

MOST_BYTES = 16 << 20
"""Largest JSON file: those of vadprep have a few kilobytes."""

MOST_HEADER_BYTES = 8 << 20
"""Of a .safetensors file: about 100,000 tensors."""

REMEDIES = {
    errno.EACCES: "change its rights",
    errno.EPERM: "change its rights",
    errno.ELOOP: "remove the loop of links",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files",
    errno.EIO: "the disk or its connection is damaged: repair it, then run the same command again",
    errno.ESTALE: "the file was replaced on the server: run the same command again",
}
"""What to do about an error of reading."""

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def open_regular(
    path: Path, error: type[VadprepError], most_bytes: int | None = MOST_BYTES
) -> BinaryIO:
    """Open a regular file for reading; raises ``error``, which names it, for anything else.

    That is also for a file of more than ``most_bytes``, a name with a NUL, and errors of the disk.
    A file that is not there raises FileNotFoundError or NotADirectoryError, since callers differ
    in what that means to them.
    """
    try:
        # Without O_NONBLOCK the opening of a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as reason:  # ValueError: a NUL in the name
        raise error(f"{path}: cannot be read: {reading_problem(reason)}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise error(f"{path}: cannot be read: {kind}, not a file: name a file")
    if most_bytes is not None and status.st_size > most_bytes:
        os.close(descriptor)
        raise error(_too_large(path, most_bytes))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, error: type[VadprepError], most_bytes: int = MOST_BYTES) -> bytes:
    """Content of a regular file of at most ``most_bytes``; raises as ``open_regular`` does."""
    with open_regular(path, error, most_bytes) as file:
        try:
            # A file may give more than it says, or have nothing to give yet, as in /proc.
            size = max(os.fstat(file.fileno()).st_size, io.DEFAULT_BUFFER_SIZE)
            content = file.read(min(size, most_bytes) + 1) or b""
        except OSError as reason:
            raise error(f"{path}: cannot be read: {reading_problem(reason)}") from reason
    if len(content) > most_bytes:
        raise error(_too_large(path, most_bytes))
    return content


def read_json(
    path: Path, error: type[VadprepError], most_bytes: int = MOST_BYTES
) -> dict[str, Any]:
    """The JSON object in a file; raises as ``open_regular`` and ``parse_json`` do."""
    return parse_json(read_regular(path, error, most_bytes), path, error)


def parse_json(content: bytes | str, where: object, error: type[VadprepError]) -> dict[str, Any]:
    """The JSON object in ``content``; raises ``error``, which begins with ``where``.

    That is also for anything but an object, for NaN and infinity, for whole numbers that need more
    than 64 bits, and for more than about a thousand levels.
    """
    try:
        found = json.loads(
            content, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: damaged, not JSON: {reason}") from None
    if not isinstance(found, dict):
        raise error(f"{where}: damaged, not a JSON object")
    return found


def check_safetensors(path: Path, error: type[VadprepError], most_bytes: int) -> None:
    """Raise ``error`` unless the header of a .safetensors file is of the usual size.

    The library checks the rest, but takes time and memory for millions of tensors.
    """
    with open_regular(path, error, most_bytes) as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MOST_HEADER_BYTES:
        raise error(
            f"{path}: not a whole safetensors file ({size:,} bytes of names): copy it again"
        )


@contextmanager
def malformed(where: object, error: type[VadprepError]) -> Iterator[None]:
    """Turn what content of a wrong name, type or number raises into ``error``, with ``where``."""
    try:
        yield
    except VadprepError:
        raise
    except KeyError as reason:
        raise error(f"{where}: damaged: {reason} is not there") from reason
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as reason:
        raise error(f"{where}: damaged: {reason}") from reason


@contextmanager
def bounded_memory(more_bytes: int) -> Iterator[None]:
    """Let this process take at most ``more_bytes`` in the block, beyond what it has: MemoryError.

    For libraries that take what a file asks for. Other threads are bounded, too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [each for each in (before, used + more_bytes) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


@contextmanager
def reading(error: type[VadprepError], path: object = "a file") -> Iterator[None]:
    """Turn an error of the disk into ``error`` with the file; also a decorator of a function."""
    try:
        yield
    except OSError as reason:
        raise error(
            f"{reason.filename or path}: cannot be read: {reading_problem(reason)}"
        ) from reason


def reading_problem(reason: OSError | ValueError) -> str:
    """Why a file cannot be read, and what to do about it where that is known."""
    if not isinstance(reason, OSError):
        return f"{reason}: correct the name"
    remedy = REMEDIES.get(reason.errno or 0, "")
    return f"{reason.strerror or reason}{': ' * bool(remedy)}{remedy}"


def _too_large(path: Path, most_bytes: int) -> str:
    return f"{path}: cannot be read: larger than {most_bytes >> 20} MiB: is it the right file?"


def _whole(text: str) -> int:
    number = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{text[:20]}... is too large a number")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")
