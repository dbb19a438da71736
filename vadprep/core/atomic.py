"""Files that appear whole or not at all, and errors of the disk in one line.

A file is written under ``NAME.tmp-<host>-<pid>-<n>`` in the same folder, flushed, and renamed.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vadprep.core.errors import OutputError

_COUNTER = itertools.count()

REMEDIES = {
    errno.ENOENT: "choose another folder",
    errno.ENOSPC: "the disk is full: make space and run the same command again",
    errno.EDQUOT: "the quota is used up: make space and run the same command again",
    errno.EACCES: "no permission to write there: choose another folder or change its rights",
    errno.EPERM: "no permission to write there: choose another folder or change its rights",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
}

UNSYNCABLE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot sync a folder; they are ignored."""


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer uses, ``path.name.tmp-<host>-<pid>-<n>``."""
    return path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}-{next(_COUNTER)}")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an OutputError that names ``path`` and a remedy."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "run the same command again when it is repaired")
        reason = os.strerror(error.errno or 0)
        raise OutputError(f"cannot write {path}: {reason}; {remedy}") from error


@contextmanager
def open_atomic(path: Path, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an exception.

    With ``replace=False`` an existing ``path`` wins: it stays, and FileExistsError is raised.
    Raises OutputError when the disk refuses. The temporary file never stays behind, except
    after a kill.
    """
    temporary = temporary_name(path)
    try:
        with disk_errors(path), open(temporary, "x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if not replace:
            try:
                os.link(temporary, path)
            except OSError:  # path is there, or there are no hard links: then the race is short
                if path.exists():
                    raise FileExistsError(path) from None
        with disk_errors(path):
            os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # the first error counts; the next run removes the file
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power failure."""
    with disk_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in UNSYNCABLE:
                raise
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents; raises OutputError when that is not allowed."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def is_temporary(name: str) -> bool:
    """True for a name that ``temporary_name`` gives."""
    return ".tmp-" in name


def remove_stale(
    folder: Path, is_ours: Callable[[str], bool] = lambda name: False, with_own: bool = False
) -> None:
    """Remove temporary files and folders in ``folder`` whose writer, on this host, has ended.

    Where ``is_ours`` of the final name is true, those of other hosts are removed too: nobody else
    may write it. ``with_own`` also removes those of this process, which must write no more.
    Raises OutputError when the disk refuses.
    """
    for name in names_in(folder):
        final, mark, writer = name.rpartition(".tmp-")
        host, _, rest = writer.partition(f"{socket.gethostname()}-")
        process = rest.partition("-")[0]
        is_here = not host and process.isdecimal()
        is_own = with_own and is_here and int(process) == os.getpid()
        if mark and (is_own or (not is_alive(int(process)) if is_here else is_ours(final))):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
                continue
            with disk_errors(path):
                path.unlink(missing_ok=True)


def names_in(folder: Path) -> list[str]:
    """Names in ``folder``: none when there is no such folder, or not any more."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_alive(process: int) -> bool:
    """True when a process of this number runs on this host."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` at once, indented; raises ValueError for NaN, which JSON lacks."""
    # ASCII, for ids made of file names that are not UTF-8.
    content = json.dumps(record, indent=2, allow_nan=False) + "\n"
    with open_atomic(path) as stream:
        stream.write(content.encode())
