"""Files at a URL, read through fsspec: ``https://``, ``s3://``, ``gs://``, ``memory://``, ...

Keys, endpoints and the like come from fsspec's own configuration (``FSSPEC_S3_ENDPOINT_URL``) and
from that of the store. fsspec is imported when the first URL is read, and each process makes
connections of its own, so that forked and spawned workers are safe.
"""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vadprep.core.errors import FeaturesError

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
    """A local path, or a RemotePath where ``path`` is a URL or one already."""
    if isinstance(path, RemotePath):
        return path
    return RemotePath(path) if isinstance(path, str) and "://" in path else Path(path)


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

    def open(self, mode: str = "r", **named: Any) -> Any:  # type: ignore[override]
        """The whole file, fetched once, as a stream of bytes or, with ``named``, of text."""
        content = self._known.setdefault(f"{self.url}#content", None)
        if content is None:
            content = self._known[f"{self.url}#content"] = self.read_bytes()
        binary = io.BytesIO(content)
        return binary if "b" in mode else io.TextIOWrapper(binary, **named)

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
