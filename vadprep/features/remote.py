"""Files at a URL, read through fsspec: ``https://``, ``s3://``, ``gs://``, ``memory://``, ...

Keys, endpoints and the like come from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL``) and
from that of the store. fsspec is imported when the first URL is read, and each process makes
connections of its own, so that forked and spawned workers are safe.
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import h5py

from vadprep.core.errors import FeaturesError

WAITS = (0.5, 2.0)
"""Seconds before a failed request is made again."""

BLOCK_BYTES = 64 << 10
"""What fsspec fetches at a time of a file's metadata, and keeps: MOST_BLOCKS of each file."""

MOST_BLOCKS = 64

BUSY = (408, 429)
"""Status of a server that is to be asked again."""

FORBIDDEN = 403
"""What an object store answers where a file is missing and listing is not allowed."""

T = TypeVar("T")


class RemotePath:
    """A file or folder at a URL, with the methods of ``pathlib.Path`` that reading needs.

    Whether a file exists is asked once and remembered by all paths that come from this one. A
    file that is missing raises FileNotFoundError as usual, any other failure FeaturesError.
    """

    def __init__(self, url: str, known: dict[str, Any] | None = None) -> None:
        self.url = url.rstrip("/")
        self._known: dict[str, Any] = {} if known is None else known

    @property
    def lists(self) -> bool:
        """True where a folder can be listed; a page of a web server promises nothing."""
        return not self.url.split("://")[0].endswith(("http", "https"))

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0], self._known)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}", self._known)

    def resolve(self) -> RemotePath:
        return self

    def exists(self) -> bool:
        """True when the file or, where it can be listed, the folder existed when first asked."""
        if self.lists:
            return self.name in self.parent.names()
        if self.url not in self._known:
            self._known[self.url] = self._answers()
        return bool(self._known[self.url])

    def _answers(self) -> bool:
        try:
            return bool(self.read_range(0, 1))
        except FileNotFoundError:
            return False
        except FeaturesError as error:
            if getattr(error.__cause__, "status", None) != FORBIDDEN:
                raise
            return False

    def names(self) -> set[str]:
        """Names in this folder as it was when first listed; none when there is no such folder."""
        if self.url not in self._known:
            try:
                listed = self.request(_listed)
            except (FileNotFoundError, NotADirectoryError):
                listed = []
            self._known[self.url] = {each.rstrip("/").rpartition("/")[2] for each in listed}
        names: set[str] = self._known[self.url]
        return names

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files of this folder; of numbered ones where nothing is listed, 00000 to the last."""
        if self.lists:
            return (self / name for name in sorted(self.names()) if fnmatch(name, pattern))
        numbered = (self / pattern.replace("*", f"{number:05d}") for number in itertools.count())
        return itertools.takewhile(RemotePath.exists, numbered)

    def read_bytes(self) -> bytes:
        content: bytes = self.request(lambda system, path: system.cat_file(path))
        return content

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def open(self, mode: str) -> io.BytesIO:
        """The whole file, as a stream of bytes."""
        return io.BytesIO(self.read_bytes())

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file; nothing more is fetched."""
        content: bytes = self.request(
            lambda system, path: system.cat_file(path, start=start, end=stop)
        )
        if len(content) != stop - start:
            raise FeaturesError(
                f"{self}: {len(content)} bytes came where bytes {start} to {stop} were asked for: "
                "the file has changed, or the server gives whole files only: download the folder"
            )
        return content

    def request(self, call: Callable[[Any, str], T]) -> T:
        """What ``call(file system, path)`` gives; a failure of the network is tried again."""
        system, path = _file_system(self.url)
        for wait in (*WAITS, None):
            try:
                return call(system, path)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except Exception as error:  # those of fsspec's file systems have no common family
                if wait is None or _is_refusal(error):
                    reason = " ".join(str(error).split()) or type(error).__name__
                    raise FeaturesError(
                        f"{self}: cannot be read ({reason}): check the URL, your rights and the "
                        "network, and try again"
                    ) from error
                time.sleep(wait)
        raise AssertionError  # the last try returns or raises

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (self.url, self._known)


AnyPath = Path | RemotePath


def as_path(path: str | AnyPath) -> AnyPath:
    """A local path, or a RemotePath where ``path`` is a URL or one already."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath(path) if isinstance(path, str) and "://" in path else Path(path)


def _file_system(url: str) -> tuple[Any, str]:
    """This process's file system for a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise FeaturesError(
            f"{url}: reading from URLs needs fsspec: pip install 'vadprep[remote]'"
        ) from None
    try:
        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        raise FeaturesError(f"{url}: {error}: pip install 'vadprep[remote]'") from error
    except ValueError as error:
        raise FeaturesError(f"{url}: {error}") from error
    return found


def _listed(system: Any, path: str) -> list[str]:
    system.invalidate_cache(path)  # of an earlier look by this process
    names: list[str] = system.ls(path, detail=False)
    return names


def _is_refusal(error: BaseException) -> bool:
    """True when asking again will not help: no right to read, or a request that is none."""
    status = getattr(error, "status", 500)
    is_final = 400 <= status < 500 and status not in BUSY
    return is_final or isinstance(error, PermissionError)


# ---------------------------------------------------------------- HDF5


class LocalFile:
    """An HDF5 file on a disk, opened without HDF5's lock, which network file systems often lack."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r", locking=False)

    def with_file(self, get: Callable[[h5py.File], T]) -> T:
        """What ``get`` reads from the file."""
        return get(self._file)

    def close(self) -> None:
        self._file.close()


class RemoteFile(io.RawIOBase):
    """An HDF5 file at a URL: metadata come through fsspec's block cache, numbers by their range.

    No file stays open in HDF5 between two calls: one of this kind that is open when Python ends
    is a segmentation fault (measured, h5py 3.16).
    """

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self.path = path
        if not path.lists and not path.exists():
            raise FileNotFoundError(path.url)
        self._file = path.request(_open)
        if not self._file.seekable():
            raise FeaturesError(f"{path}: the server gives whole files only: download the folder")

    def with_file(self, get: Callable[[h5py.File], T]) -> T:
        """What ``get`` reads from the file."""
        with _no_collection(), h5py.File(self, "r") as file:
            return get(file)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position: int = self._file.seek(offset, whence)
        return position

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()

        def cached(system: Any, path: str) -> bytes:
            self._file.seek(at)
            content: bytes = self._file.read(len(buffer))
            return content

        is_large = len(buffer) > BLOCK_BYTES
        content = (
            self.path.read_range(at, at + len(buffer)) if is_large else self.path.request(cached)
        )
        buffer[: len(content)] = content
        return len(content)


def _open(system: Any, path: str) -> Any:
    options = {"block_size": BLOCK_BYTES, "cache_options": {"maxblocks": MOST_BLOCKS}}
    return system.open(path, "rb", cache_type="blockcache", **options)


_READING = threading.RLock()
# A process that is forked amid a read of another thread would wait for ever for its end.
os.register_at_fork(
    before=_READING.acquire, after_in_parent=_READING.release, after_in_child=_READING.release
)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected while HDF5 waits for the network.

    h5py holds a lock of the whole process then, and an h5py object that is collected in fsspec's
    own thread waits for that lock, so that both would wait for ever (h5py issue 2019).
    """
    with _READING:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


def opened(path: AnyPath) -> LocalFile | RemoteFile:
    """The HDF5 file at ``path``; raises what h5py raises, FeaturesError where the network fails."""
    return RemoteFile(path) if isinstance(path, RemotePath) else LocalFile(path)
