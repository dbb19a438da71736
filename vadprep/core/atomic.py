"""Files that appear whole or not at all, and errors of the disk in one line.

A file is written under ``NAME.tmp-<host>-<pid>-<n>`` in the same folder, flushed, and renamed. Its
writer holds a lock on it (``flock``). So what a kill left is known by its lack of a lock, even
where another process has the number of the writer, as after a restart or in a container.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import secrets
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vadprep.core.errors import OutputError

_COUNTER = itertools.count(secrets.randbits(24))  # of another host of this name they differ
_TRIES = 20
_cleared: set[Path] = set()
"""Folders in which this process has looked for what a kill left."""

REMEDIES = {
    errno.ENOENT: "choose another folder",
    errno.ENOSPC: "the disk is full: make space and run the same command again",
    errno.EDQUOT: "the quota is used up: make space and run the same command again",
    errno.EACCES: "no permission to write there: choose another folder or change its rights",
    errno.EPERM: "no permission to write there: choose another folder or change its rights",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENAMETOOLONG: "choose a shorter path, or shorter ids in the manifest",
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


def create_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file beside ``path``, locked until it is closed: its name, and the file.

    The first one in a folder removes those there that killed processes have left. Raises
    OutputError when the disk refuses.
    """
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        with suppress(OSError, OutputError):  # it is no fault of this file
            remove_stale(path.parent)
    with disk_errors(path):
        for _ in range(_TRIES):
            temporary = temporary_name(path)
            try:
                stream = open(temporary, "x+b")
            except FileExistsError:  # of another host of this name
                continue
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            if _lock(stream.fileno()):
                return temporary, stream
            stream.close()
        raise FileExistsError(errno.EEXIST, "no new name")


def _lock(descriptor: int) -> bool:
    """Mark an open temporary file or folder as in use. False if another process removes it."""
    with suppress(OSError):  # a file system without locks: the number of the process has to do
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return os.fstat(descriptor).st_nlink > 0


@contextmanager
def open_atomic(path: Path, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an exception.

    With ``replace=False`` an existing ``path`` wins: it stays, and FileExistsError is raised.
    Raises OutputError when the disk refuses. The temporary file never stays behind, except
    after a kill; then the next process that writes in this folder removes it.
    """
    temporary, stream = create_temporary(path)
    try:
        with disk_errors(path):
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
    finally:
        with suppress(OSError):  # the first error counts; the next process removes the file
            stream.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def open_atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``path`` when the block ends without an exception.

    Raises OutputError when the disk refuses.
    """
    folder = temporary_name(path)
    with disk_errors(path):
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield folder
        with disk_errors(path):
            shutil.rmtree(path, ignore_errors=True)
            os.replace(folder, path)
        sync_folder(path.parent)
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_folder(longest: int | None = None) -> Iterator[Path]:
    """A new folder below ``$TMPDIR`` for the time of the block; below ``/tmp`` where the name of
    the former has more than ``longest`` characters.

    Those that killed processes of this host have left are removed. Raises OutputError when there
    is no place for it.
    """
    try:
        parent = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OutputError(f"{error.strerror}: set TMPDIR to a folder that can be written") from None
    place = Path(parent if longest is None or len(parent) <= longest else "/tmp")
    stem = f"vadprep.{zlib.crc32(socket.gethostname().encode()):08x}."  # short, for Ray's sockets
    for name in names_in(place):
        if name.startswith(stem) and _has_ended(place / name):
            shutil.rmtree(place / name, ignore_errors=True)
    with disk_errors(place):
        folder = Path(tempfile.mkdtemp(prefix=stem, dir=place))
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


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


def check_writable(folder: Path) -> None:
    """Raise OutputError when ``folder``, which need not exist, cannot be written, as far as can be
    seen without writing."""
    with disk_errors(folder):
        place = next(each for each in (folder, *folder.parents) if each.exists())
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        if not os.access(place, os.W_OK | os.X_OK):
            is_fixed = os.statvfs(place).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if is_fixed else errno.EACCES, "")
        if not shutil.disk_usage(place).free and shutil.disk_usage(place).total:
            raise OSError(errno.ENOSPC, "")


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
        process, path = rest.partition("-")[0], folder / name
        if mark and not host and process.isdecimal():
            has_ended = _has_ended(path)
            is_left = not is_alive(int(process)) if has_ended is None else has_ended
            is_left = is_left or (with_own and int(process) == os.getpid())
        else:
            is_left = bool(mark) and is_ours(final)
        if is_left and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif is_left:
            with disk_errors(path):
                path.unlink(missing_ok=True)


def _has_ended(path: Path) -> bool | None:
    """True when nobody has the lock on a temporary file or folder; None if that cannot be seen."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


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
