"""What the engine of the CPU has compiled, on the disk: one process makes it, all others read it.

An entry is a file: the SHA-256 of what is compiled, then that itself. Everything here is help
alone: where the folder cannot be written, or has no locks, each process compiles for itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import OutputError
from vadprep.core.log import get_logger
from vadprep.core.untrusted import open_regular

logger = get_logger(__name__)

T = TypeVar("T")

DIGEST_BYTES = hashlib.sha256().digest_size
NAMES = re.compile(r"[0-9a-f]{32}\.(blob|lock)")
"""Of our files; others are left alone."""

UNUSED_SECONDS = 30 * 86_400.0
MOST_BYTES = 4 << 30
"""An entry goes when it was not used for so long, or when the newer ones have so many bytes."""

PATIENCE = 120.0
"""Seconds for another process to compile, which takes 2 to 20; then it is believed to hang."""


class InUse:
    """Keeps an entry from being removed for as long as this object, or the process, lives."""

    def __init__(self, descriptor: int) -> None:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        weakref.finalize(self, os.close, os.dup(descriptor))


class Entry(NamedTuple):
    """What is compiled, and that it is in use."""

    blob: bytes
    in_use: InUse


def load_or_make(
    path: Path, load: Callable[[bytes], T], make: Callable[[], bytes]
) -> tuple[T, InUse | None]:
    """What ``load`` makes of the entry ``path``; where there is none, ``make`` makes it first.

    Of several processes one makes it. ``load`` raises ValueError for what it cannot use, and the
    entry is made again. Without an InUse the entry could not be kept.
    """

    def found() -> tuple[T, InUse] | None:
        if (entry := read_entry(path)) is None:
            return None
        try:
            return load(entry.blob), entry.in_use
        except ValueError as error:
            _discard(path, f"cannot be used, made again: {error}")
            return None

    if there := found():
        return there
    with one_at_a_time(path):
        if there := found():  # another process has made it meanwhile
            return there
        blob = make()
        write_entry(path, blob)
    return found() or (load(blob), None)


def read_entry(path: Path) -> Entry | None:
    """An entry of the cache; None where there is none, or it is damaged."""
    try:
        with open_regular(path, OutputError, most_bytes=None) as file:
            in_use, content = InUse(file.fileno()), file.read()
    except (OSError, OutputError):
        return None
    blob = content[DIGEST_BYTES:]
    if content != digested(blob):
        _discard(path, "damaged, made again")
        return None
    with suppress(OSError):  # of another user, or read-only
        os.utime(path)
    return Entry(blob, in_use)


def _discard(path: Path, reason: str) -> None:
    logger.warning("%s: %s", path, reason)
    with suppress(OSError):
        path.unlink()


def digested(blob: bytes) -> bytes:
    """The content of an entry."""
    return hashlib.sha256(blob).digest() + blob


def write_entry(path: Path, blob: bytes) -> None:
    """Keep ``blob``, and remove entries that are not used any more.

    Where it cannot be kept, a line in the log says so.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(path) as stream:
            stream.write(digested(blob))
    except (OSError, OutputError) as error:
        logger.warning(
            "each process compiles the network again (some seconds); set VADPREP_CACHE to a folder "
            "that can be written: %s",
            error,
        )
    else:
        remove_unused(path)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """One process at a time makes the entry ``path`` inside; read it there before making it.

    The lock file is removed at the end: whoever waited for it goes on, and reads the entry, or
    compiles where it could not be kept. The lock of a killed process ends with it. Nobody waits
    longer than ``PATIENCE``, nor where there can be no lock.
    """
    lock, descriptor, is_held = path.with_suffix(".lock"), -1, False
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(lock, flags, 0o666)
    try:
        is_held = descriptor >= 0 and _is_acquired(descriptor)
        yield
    finally:
        if is_held:
            with suppress(OSError):
                lock.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)


def _is_acquired(descriptor: int) -> bool:
    """True when this process got the lock, False when it shall do without."""
    deadline = time.monotonic() + PATIENCE
    with suppress(OSError):  # a file system without locks
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if not os.fstat(descriptor).st_nlink:  # who had it is through
                    return False
                time.sleep(0.05)
    return False


def remove_unused(new: Path) -> None:
    """Remove what nobody has used for long, and the oldest of too much; never what is in use.

    ``new`` is the entry that was just written; nothing but entries and their locks is touched.
    """
    with suppress(OSError), os.scandir(new.parent) as files:
        found = [each for each in files if NAMES.fullmatch(each.name)]
        states = [(each.stat(), Path(each.path)) for each in found if each.is_file()]
        total, now = 0, time.time()
        for state, path in sorted(states, key=lambda each: -each[0].st_mtime):
            total += state.st_size
            is_old = now - state.st_mtime > UNUSED_SECONDS or total > MOST_BYTES
            if is_old and path != new and _is_removed(path):
                total -= state.st_size


def _is_removed(path: Path) -> bool:
    """Remove a file unless it is in use; True when it is gone."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: it is old, that has to do
            pass
        finally:
            os.close(descriptor)
        path.unlink()
        return True
    return False
