"""Files that mean harm in place of text, JSON and tables, and bounds on what reading them takes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vadprep.core.untrusted import bounded_memory

Maker = Callable[[Path], object]


def folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has at most 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def sparse(path: Path) -> None:
    """A file of 1 TB that takes no room."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


FILES: dict[str, Maker] = {
    "folder": folder,
    "FIFO": os.mkfifo,
    "socket": a_socket,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/urandom": lambda path: path.symlink_to("/dev/urandom"),
    "loop of links": lambda path: path.symlink_to(path),
    "1 TB": sparse,
}
"""What may stand where a file is expected, by kind. No kind can be read."""


def deep(opening: str, closing: str, levels: int = 100_000) -> bytes:
    return (opening * levels + closing * levels).encode()


JSON: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "random": bytes(range(256)) * 9,
    "cut": b'{"a": [1, 2',
    "NUL": b'{"a": "\0"}',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "text in quotes": b'"x"',
    "deep lists": deep("[", "]"),
    "deep objects": deep('{"a":', "}"),
    "lists without end": b"[" * 1_000_000,
    "10^999999": b'{"a": 1e999999}',
    "a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "5000 digits": b'{"a": -' + b"9" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": [-Infinity]}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "two objects": b"{}{}",
    "escapes": b'\x1b]0;title\x07{"\x9b31m": "\xe2\x80\xae"',
}  # fmt: skip
"""Content of a file that is no JSON object that can be used, by kind."""

WRONG_TYPES: dict[str, object] = {
    "null": None,
    "a number": 3,
    "a negative number": -1,
    "a large number": 2**62,
    "a fraction": 0.5,
    "true": True,
    "text": "\x1b[31mred\u202e",
    "a list": [1, {"a": []}],
    "an object": {"a": {"b": None}},
    "nothing": {},
}
"""JSON values of the wrong type for most fields."""


@contextmanager
def within(seconds: float = 5.0, more_bytes: int = 200 << 20) -> Iterator[None]:
    """Fails when the block takes longer, or more memory; far above that, memory is refused."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"takes more than {seconds} s")

    handler = signal.signal(signal.SIGALRM, too_long)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = peak_bytes(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with bounded_memory(2 * more_bytes + (1 << 30)):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert time.monotonic() - start < seconds
    taken = peak_bytes() - before
    assert taken < more_bytes, f"takes {taken >> 20} MiB"


def peak_bytes() -> int:
    """The most memory that this process has held since the peak began anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def is_plain(text: str) -> bool:
    """No control character that a terminal would obey, and no mark that turns the direction."""
    return all(each.isprintable() or each in "\n" for each in text)
