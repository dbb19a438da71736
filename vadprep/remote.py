"""Files at a URL, read through fsspec: ``https://``, ``s3://``, ``gs://``, ``memory://``, ...

Keys, endpoints and the like come from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL``) and
from that of the store. fsspec is imported when the first URL is read, and each process makes
connections of its own, so that forked and spawned workers are safe.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from vadprep.records import FeaturesError

BLOCK_BYTES = 64 << 10
"""What is fetched at a time of a file's metadata."""

KEPT_BLOCKS = 64
"""Blocks of a file that are kept in memory between two calls, at most."""

PIECE_BYTES = 16 << 20
"""The most that is fetched of its numbers in one request."""

WAITS = (0.5, 2.0)
"""Seconds before a failed request is made again."""

FAILURES = {
    "fsspec.exceptions": ("FSTimeoutError",),
    "asyncio": ("TimeoutError",),
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
}
"""What fsspec's file systems raise beside OSError, by the module that is loaded if it does."""

BUSY = (408, 429)
"""Status of a server that wants to be asked again."""

FORBIDDEN = 403
"""What an object store answers where a file is missing and listing is not allowed."""

T = TypeVar("T")

if TYPE_CHECKING:
    _Path = Path  # to the type checker, since whatever only reads a folder takes both
else:
    _Path = object


def as_path(path: str | Path) -> Path:
    """A local path, or a RemotePath where ``path`` is a URL."""
    is_url = isinstance(path, str) and "://" in path
    return RemotePath(str(path)) if is_url else Path(path)


class RemotePath(_Path):
    """A file or folder at a URL, with the methods of ``pathlib.Path`` that reading needs.

    What exists is asked once and remembered by all paths that come from this one. A file that
    is not there raises FileNotFoundError as usual, any other failure FeaturesError.
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

    def __truediv__(self, name: str) -> RemotePath:  # type: ignore[override]
        return RemotePath(f"{self.url}/{name}", self._known)

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """True when the file or, where it can be listed, the folder was there when first asked."""
        if self.lists:
            return self.name in self.parent.names()
        if self.url not in self._known:
            try:
                self.read_range(0, 1)
                self._known[self.url] = True
            except FileNotFoundError:
                self._known[self.url] = False
            except FeaturesError as error:
                if getattr(error.__cause__, "status", None) != FORBIDDEN:
                    raise
                self._known[self.url] = False
        return bool(self._known[self.url])

    def names(self) -> set[str]:
        """Names in this folder as it was when first listed; none when there is no such folder."""
        if self.url not in self._known:
            try:
                listed = self._ask(_listed)
            except (FileNotFoundError, NotADirectoryError):
                listed = []
            self._known[self.url] = {each.rstrip("/").rpartition("/")[2] for each in listed}
        names: set[str] = self._known[self.url]
        return names

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Files of this folder; of numbered ones where nothing is listed, 00000 to the last."""
        if self.lists:
            return (self / name for name in sorted(self.names()) if fnmatch(name, pattern))
        numbered = (self / pattern.replace("*", f"{number:05d}") for number in itertools.count())
        return itertools.takewhile(RemotePath.exists, numbered)

    def read_bytes(self) -> bytes:
        content: bytes = self._ask(lambda system, path: system.cat_file(path))
        return content

    def read_text(self, *options: Any, **named: Any) -> str:
        return self.read_bytes().decode()

    def open(self, mode: str = "r", **named: Any) -> io.TextIOWrapper:  # type: ignore[override]
        """The whole file as a text stream; ``named``: encoding, errors, newline."""
        return io.TextIOWrapper(io.BytesIO(self.read_bytes()), **named)

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file, and nothing more is fetched."""
        content: bytes = self._ask(
            lambda system, path: system.cat_file(path, start=start, end=stop)
        )
        if len(content) != stop - start:
            raise FeaturesError(
                f"{self}: {len(content)} bytes came where bytes {start} to {stop} were asked for: "
                "the file has changed, or the server gives whole files only: download the folder"
            )
        return content

    def num_bytes(self) -> int:
        """Size of the file."""
        if not self.lists and not self.exists():
            raise FileNotFoundError(self.url)
        size = self._ask(self._size)
        if size is None:
            raise FeaturesError(f"{self}: the server does not say its size: download the folder")
        return int(size)

    def _size(self, system: Any, path: str) -> int | None:
        try:
            size: int | None = system.size(path)
        except FileNotFoundError as error:
            if self.lists:
                raise
            raise ConnectionError("its size cannot be had") from error  # whatever went wrong
        return size

    def _ask(self, request: Callable[[Any, str], T]) -> T:
        """What ``request(file system, path)`` gives; a failure of the network is tried again."""
        system, path = _file_system(self.url)
        for wait in (*WAITS, None):
            try:
                return request(system, path)
            except (FileNotFoundError, NotADirectoryError):
                raise
            except _failures() as error:
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

    def __lt__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url < other.url

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (self.url, self._known)


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


def _failures() -> tuple[type[BaseException], ...]:
    found = [
        getattr(sys.modules.get(module), name, OSError)
        for module, names in FAILURES.items()
        for name in names
    ]
    return (OSError, *found)


def _is_refusal(error: BaseException) -> bool:
    """True when asking again will not help: no right to read, or a request that is none."""
    status = getattr(error, "status", 500)
    is_final = 400 <= status < 500 and status not in BUSY
    return is_final or isinstance(error, PermissionError)


class _Absent(Exception):
    """HDF5 has asked for a block that was not fetched yet."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.block = block


def _extent(array: h5py.Dataset) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Where the numbers of a data set begin, its shape and type; ValueError when in chunks."""
    if array.chunks is not None:
        raise ValueError(f"{array!r} is stored in chunks, expected contiguous numbers")
    return array.id.get_offset() or 0, array.shape, array.dtype


class RemoteFile(io.RawIOBase):
    """An HDF5 file at a URL, of which only the blocks that are needed are fetched.

    h5py holds a lock of the whole process while HDF5 reads, and may need it in fsspec's thread as
    well, where the garbage collector can run: a read that waits for the network there can wait
    for ever (h5py issue 2019). So HDF5 never waits: where a block is missing it gives up, the
    block is fetched outside of the lock, and HDF5 is asked again. Nor does a file stay open in
    HDF5 between two calls: one of this kind that is open when Python ends is a segmentation
    fault (measured, h5py 3.16).
    """

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self.path = path
        self._size = path.num_bytes()
        self._blocks: dict[int, bytes] = {}
        self._at = 0

    def ask(self, get: Callable[[h5py.File], T]) -> T:
        """What ``get`` reads from the file; it may be called several times."""
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.clear()
        while True:
            try:
                with h5py.File(self, "r") as file:
                    return get(file)
            except _Absent as absent:
                start = absent.block * BLOCK_BYTES
                stop = min(start + BLOCK_BYTES, self._size)
                self._blocks[absent.block] = self.path.read_range(start, stop)

    def rows(self, get: Callable[[h5py.File], h5py.Dataset], rows: slice) -> NDArray[Any]:
        """Some rows, without a step, of the contiguous data set that ``get`` finds."""
        offset, shape, dtype = self.ask(lambda file: _extent(get(file)))
        start, stop, _ = rows.indices(shape[0])
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        numbers = np.empty((max(0, stop - start), *shape[1:]), dtype)
        content = numbers.reshape(-1).view(np.uint8)
        for at in range(0, len(content), PIECE_BYTES):
            piece = content[at : at + PIECE_BYTES]
            first = offset + start * row_bytes + at
            piece[:] = np.frombuffer(self.path.read_range(first, first + len(piece)), np.uint8)
        return numbers

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        start, stop = self._at, min(self._at + len(buffer), self._size)
        wanted = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        for block in wanted:
            if block not in self._blocks:
                raise _Absent(block)
        content = b"".join(self._blocks[block] for block in wanted)
        first = wanted.start * BLOCK_BYTES
        count = max(0, stop - start)
        buffer[:count] = content[start - first : stop - first]
        self._at += count
        return count
