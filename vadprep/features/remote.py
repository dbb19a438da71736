"""Files at a URL, read through fsspec: ``https://``, ``s3://``, ``gs://``, ``memory://``, ...

Keys, endpoints and the like come from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL``) and
from that of the store. fsspec is imported when the first URL is read, and each process makes
connections of its own, so that forked and spawned workers are safe.
"""

from __future__ import annotations

import asyncio
import fnmatch
import gc
import io
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import h5py

from vadprep.core.array_files import opened_hdf5
from vadprep.core.errors import FeaturesError, ShardError
from vadprep.core.untrusted import MOST_BYTES, open_regular, read_regular

WAITS = (0.5, 2.0)
"""Seconds before a failed request is made again."""
TIME_LIMITS = {"total": 600, "sock_connect": 15, "sock_read": 30}
"""Seconds for a request; to reach a server; for the headers of its answer, or for LEAST_BYTES."""
LEAST_BYTES = 32 << 10  # of an answer in the last of these times
MOST_ANSWER = 256 << 20  # bytes, where not more are asked for
BUSY = (408, 429)
"""Status of a server that is to be asked again."""
FORBIDDEN = 403
"""What an object store answers where a file is missing and listing is not allowed."""
AT_ONCE = 8
"""Requests at once where it is asked which files of a number exist."""
MOST_APART = 256
"""Numbers without a file, after which no further ones are asked for."""
BLOCK_BYTES = 64 << 10
"""What fsspec fetches at a time of a file's metadata, and keeps: MOST_BLOCKS of each file."""
MOST_BLOCKS = 64
OPEN_FILES = 16

T = TypeVar("T")


class RemotePath:
    """A file or folder at a URL, with the methods of ``pathlib.Path`` that reading needs.

    Whether a file exists is asked once and remembered by all paths that come from this one. A
    file that is missing raises FileNotFoundError as usual, any other failure FeaturesError.
    """

    def __init__(self, url: str, known: dict[str, bool] | None = None) -> None:
        self.url = url.rstrip("/")
        self._known: dict[str, bool] = {} if known is None else known

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}", self._known)

    def exists(self) -> bool:
        """True when the file existed when it was first asked for."""
        if self.url not in self._known:
            try:
                self._known[self.url] = bool(self.read_range(0, 1))
            except FileNotFoundError:
                self._known[self.url] = False
        return self._known[self.url]

    def glob(self, pattern: str, most: int) -> Iterator[RemotePath]:
        """Files of this folder. A page of a web server promises nothing about the files beside it:
        there it is those of a number, 00000 to ``most`` - 1, up to a gap of MOST_APART."""

        def listed(system: Any, path: str) -> list[str]:
            system.invalidate_cache(path)  # of an earlier look by this process
            return [each.rstrip("/").rpartition("/")[2] for each in system.ls(path, detail=False)]

        if not self.url.split("://")[0].endswith(("http", "https")):
            return (self / name for name in fnmatch.filter(self.request(listed), pattern))
        return self._numbered(pattern, most)

    def _numbered(self, pattern: str, most: int) -> Iterator[RemotePath]:
        last = -1
        for start in range(0, most, AT_ONCE):
            if start - last > MOST_APART:
                return
            numbers = range(start, min(start + AT_ONCE, most))
            paths = [self / pattern.replace("*", f"{number:05d}") for number in numbers]
            self._look(paths)
            for number, path in zip(numbers, paths, strict=True):
                if path.exists():
                    last = number
                    yield path

    def _look(self, paths: Sequence[RemotePath]) -> None:
        """Ask a web server at once which of its files ``paths`` exist; what is not clear then,
        ``exists`` asks again."""
        names = [path.url for path in paths if path.url not in self._known]
        found = self.request(
            lambda system, _: system.cat_ranges(names, 0, 1, batch_size=AT_ONCE, on_error="return")
        )
        for name, content in zip(names, found, strict=True):
            is_missing = isinstance(content, FileNotFoundError)
            if is_missing or getattr(content, "status", None) == FORBIDDEN:
                self._known[name] = False
            elif isinstance(content, bytes) and len(content) == 1:
                self._known[name] = True

    def read_bytes(self) -> bytes:
        return bytes(self.request(lambda system, path: system.cat_file(path)))

    def open(self, mode: str) -> io.BytesIO:
        """The whole file, as a stream of bytes."""
        return io.BytesIO(self.read_bytes())

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file; nothing more is fetched."""
        content = self.request(lambda system, path: system.cat_file(path, start=start, end=stop))
        if len(content) != stop - start:
            raise FeaturesError(
                f"{self}: {len(content)} bytes came where bytes {start} to {stop} were asked for: "
                "the file has changed, or the server gives whole files only: download the folder"
            )
        return bytes(content)

    def request(self, call: Callable[[Any, str], T]) -> T:
        """What ``call(file system, path)`` gives; a failure of the network is tried again."""
        try:
            from fsspec.core import url_to_fs

            options = _bounds(self.url.partition("://")[0])
            system, path = url_to_fs(self.url, **options)
            if "config_kwargs" in options:  # of S3, which tries again by itself
                system.retries = 1
        except Exception as error:  # some connect at once
            remedy = ": reading from URLs needs pip install 'vadprep[remote]'"
            is_missing = isinstance(error, ImportError)
            reason = self._without_secrets(str(error))
            raise FeaturesError(f"{self}: {reason}{remedy if is_missing else ''}") from None
        for wait in (*WAITS, None):
            try:
                return call(system, path)
            except (FileNotFoundError, NotADirectoryError):
                raise FileNotFoundError(str(self)) from None
            except Exception as error:  # those of fsspec's file systems have no common family
                status = getattr(error, "status", 500)
                if status == FORBIDDEN:
                    raise FileNotFoundError(str(self)) from None
                is_refused = isinstance(error, PermissionError | ValueError) or status < 500
                if wait is None or (is_refused and status not in BUSY):
                    reason = str(error) or str(error.__cause__ or "")  # fsspec leaves it there
                    words = self._without_secrets(reason)[:300] or type(error).__name__
                    raise FeaturesError(
                        f"{self}: cannot be read ({' '.join(words.split())}): check the URL, your "
                        "rights and the network, and try again"
                    ) from None
                time.sleep(wait)
        raise AssertionError  # the last try returns or raises

    def resolve(self) -> RemotePath:
        return self

    def __str__(self) -> str:
        """The URL without user, password and query, which are for no message, log or file."""
        scheme, _, rest = self.url.partition("://")
        host, slash, path = rest.partition("?")[0].partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    __repr__ = __str__

    def _without_secrets(self, text: str) -> str:
        parts = urlsplit(self.url)
        secrets = {parts.netloc.rpartition("@")[0], parts.password or "", parts.query}
        for secret in sorted({*secrets, *map(unquote, secrets)} - {""}, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def __eq__(self, other: object) -> bool:
        """True for the same file as it was at the same time."""
        if not isinstance(other, RemotePath):
            return False
        return self.url == other.url and self._known is other._known

    def __hash__(self) -> int:
        return hash(self.url)


def _bounds(protocol: str) -> dict[str, Any]:
    """Options of fsspec's file system for which a server is given up that hangs, drips or sends
    without end; none for stores that answer by other means than aiohttp. What the user's
    configuration of fsspec has for the same option, such as headers, is kept."""
    if protocol in ("s3", "s3a"):
        chosen = _configured("config_kwargs", "s3", "s3a")
        return {"config_kwargs": {**chosen, "http_session_cls": _s3_session()}}
    if protocol not in ("http", "https", "gs", "gcs"):
        return {}
    from aiohttp import ClientTimeout

    options = {"timeout": ClientTimeout(**TIME_LIMITS), "response_class": _bounded_response()}
    if protocol in ("gs", "gcs"):
        return {"session_kwargs": {**_configured("session_kwargs", "gs", "gcs"), **options}}
    chosen = _configured("client_kwargs", "http", "https")
    headers = {**chosen.get("headers", {}), "Accept-Encoding": "identity"}
    return {"client_kwargs": {**chosen, **options, "headers": headers, "auto_decompress": False}}


def _configured(option: str, *protocols: str) -> dict[str, Any]:
    """What the configuration of fsspec says of an option, which ours would replace."""
    from fsspec.config import conf

    found: dict[str, Any] = {}
    for each in protocols:
        found |= conf.get(each, {}).get(option) or {}
    return found


@lru_cache
def _s3_session() -> type:
    """The connections of s3fs, with bounded answers."""
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            session._response_class = _bounded_response()
            return session

    return Session


@lru_cache
def _bounded_response() -> type:
    """A class of answers of aiohttp whose headers and content have to come in time."""
    from aiohttp import ClientResponse

    class Bounded(ClientResponse):
        async def start(self, connection: Any) -> ClientResponse:
            await in_time(super().start(connection))  # "100 Continue" may come for ever
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.request_info.headers.get("Range", ""))
            most = max(int(asked[2]) - int(asked[1]) + 1 if asked else 0, MOST_ANSWER)
            self.content = BoundedContent(self.content, most)  # type: ignore[assignment]
            return self

    return Bounded


class BoundedContent:
    """What is read of an ``aiohttp.StreamReader``, no more than ``most`` bytes, and in time."""

    def __init__(self, content: Any, most: int) -> None:
        self._content, self._most = content, most
        self._count = self._counted = 0
        self._start = self._since = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, size: int = -1) -> bytes:
        if size >= 0:
            return self._checked(await in_time(self._content.read(size)))
        content = bytearray()
        while part := await self.readany():
            content += part
        return bytes(content)

    async def readany(self) -> bytes:
        return self._checked(await in_time(self._content.readany()))

    def _checked(self, part: bytes) -> bytes:
        self._count += len(part)
        if self._count > self._most:
            raise ValueError(f"more than {self._most:,} bytes come")
        now, silence = time.monotonic(), TIME_LIMITS["sock_read"]
        if self._count - self._counted >= LEAST_BYTES:
            self._counted, self._since = self._count, now
        elif part and now - self._since > silence:
            raise TimeoutError(f"less than {LEAST_BYTES:,} bytes in {silence} s")
        if now - self._start > TIME_LIMITS["total"]:
            raise TimeoutError(f"not whole after {TIME_LIMITS['total']} s")
        return part


async def in_time(waiting: Awaitable[T]) -> T:
    """What ``waiting`` gives, if it does so within the time for a part of an answer."""
    try:
        return await asyncio.wait_for(waiting, TIME_LIMITS["sock_read"])
    except asyncio.TimeoutError:
        raise TimeoutError(f"nothing in {TIME_LIMITS['sock_read']} s") from None


AnyPath = Path | RemotePath


def as_path(path: str | AnyPath) -> AnyPath:
    """A local path, or a RemotePath where ``path`` is a URL or one already."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath(path) if isinstance(path, str) and "://" in path else Path(path)


def read_file(path: AnyPath, most_bytes: int = MOST_BYTES) -> bytes:
    """Content of a regular file, or of one at a URL.

    Raises FeaturesError when it cannot be read or is larger than ``most_bytes``, and
    FileNotFoundError or NotADirectoryError when it is not there.
    """
    if isinstance(path, RemotePath):
        return path.read_bytes()
    return read_regular(path, FeaturesError, most_bytes)


def open_file(path: AnyPath) -> BinaryIO:
    """A regular file, or one at a URL, for reading; raises as ``read_file``."""
    if isinstance(path, RemotePath):
        return path.open("rb")
    return open_regular(path, FeaturesError, most_bytes=None)


class RemoteFile(io.RawIOBase):
    """The bytes of a file at a URL, for h5py: metadata come through fsspec's block cache, numbers
    by their range."""

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self._path = path
        options: dict[str, Any] = {"cache_type": "blockcache", "block_size": BLOCK_BYTES}
        options["cache_options"] = {"maxblocks": MOST_BLOCKS}
        self._file = path.request(lambda system, name: system.open(name, "rb", **options))
        if not self._file.seekable():
            raise FeaturesError(f"{path}: the server gives whole files only: download the folder")

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        at, size = self._file.tell(), len(buffer)
        if size > BLOCK_BYTES:
            content = self._path.read_range(at, at + size)
        else:
            content = self._path.request(lambda *_: self._file.read(size))
        buffer[: len(content)] = content
        return len(content)


_READING = threading.RLock()
# A process that is forked amid a read of another thread would wait for ever for its end.
os.register_at_fork(
    before=_READING.acquire, after_in_parent=_READING.release, after_in_child=_READING.release
)
_kept_file = lru_cache(OPEN_FILES)(RemoteFile)
os.register_at_fork(after_in_child=_kept_file.cache_clear)


@contextmanager
def opened_file(path: AnyPath) -> Iterator[h5py.File]:
    """An HDF5 file for the time of the block; one at a URL lets no garbage be collected in it.

    h5py holds a lock of the whole process while it waits for the network, and an h5py object that
    is collected in fsspec's own thread waits for that lock, so that both would wait for ever (h5py
    issue 2019). A file of this kind that is open when Python ends is a segmentation fault
    (measured, h5py 3.16), so that none stays open.
    """
    if isinstance(path, Path):
        with opened_hdf5(path, ShardError) as file:
            yield file
        return
    with _READING:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            with h5py.File(_kept_file(path), "r") as file:
                yield file
        finally:
            if was_enabled:
                gc.enable()
