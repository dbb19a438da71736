"""A file from the network: whole, recognised, or not there at all. Standard library only.

What has arrived is kept as ``NAME.part`` while ``fetch`` runs, and goes on from there after a
broken connection, or in the next run when this one was killed. When ``fetch`` gives up, nothing
stays behind. Proxies come from the environment (``https_proxy``, ``no_proxy``).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vadprep import __version__
from vadprep.backbones.weights.catalog import PublishedFile
from vadprep.core.atomic import disk_errors, make_folder, sync_folder
from vadprep.core.errors import WeightsError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
"""HTTP errors that may pass: the server is busy or behind something that is."""

Progress = Callable[[int, int | None], None]
"""Learns how many bytes there are, of how many, None where the server does not say."""


@dataclass(frozen=True)
class Patience:
    """When to try again. Attempts count from the last byte that arrived."""

    attempts: int = 6
    timeout_seconds: float = 30.0
    """Of silence."""
    pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each one after it."""


class _Broken(Exception):
    """An attempt ended early and another may do better."""


def fetch(
    known: PublishedFile,
    target: Path,
    progress: Progress = lambda done, total: None,
    patience: Patience = Patience(),  # noqa: B008  it is frozen
) -> str:
    """Make ``target`` the file of ``known``; returns its SHA-256, hexadecimal.

    A whole file that is there already stays. Raises WeightsError when the server has not got it,
    when it cannot be reached or when something else arrives, and OutputError when the disk
    refuses: both in one line, and then no part of a file is left.
    """
    if target.is_file():
        return recognise(target, known, "delete it and try again")
    make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    with disk_errors(part):
        file = open(part, "a+b")
    with file:
        _lock(file, part)
        if target.is_file():  # another process was just done
            return recognise(target, known, "delete it and try again")
        try:
            _fill(file, known, progress, patience)
            sha256 = recognise(part, known, "the download is thrown away, try again")
            with disk_errors(target):
                os.replace(part, target)
        except Exception:  # whatever was said; a stop by the user or a kill keeps the part
            part.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)
    return sha256


def _lock(file: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise WeightsError(f"{part}: another process is downloading it: wait for it") from None
        logger.debug("%s: no locks on this file system: %s", part, error)


def _fill(file: BinaryIO, known: PublishedFile, progress: Progress, patience: Patience) -> None:
    """Bring ``file`` to its full length, attempt after attempt."""
    if not known.is_pinned:  # a part of an earlier run may be of another version
        file.truncate(0)
    failures = 0
    while True:
        before = _length(file)
        try:
            _attempt(file, known, progress, patience)
            return
        except _Broken as broken:
            failures = failures + 1 if _length(file) <= before else 1
            if failures >= patience.attempts:
                raise WeightsError(
                    f"{known.url}: {broken}; {failures} attempts in a row brought nothing: try "
                    "again later, or fetch it by other means and use weights convert"
                ) from broken
            pause = patience.pause_seconds * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %.0f s", known.file_name, broken, pause)
            time.sleep(pause)


def _attempt(file: BinaryIO, known: PublishedFile, progress: Progress, patience: Patience) -> None:
    """Append what the server sends from where ``file`` ends. Raises _Broken to be tried again."""
    have = _length(file)
    headers = {"User-Agent": f"vadprep/{__version__}"} | (
        {"Range": f"bytes={have}-"} if have else {}
    )
    request = urllib.request.Request(known.url, headers=headers)
    opener = urllib.request.build_opener()  # one of our own knows the proxies of this moment
    try:
        with opener.open(request, timeout=patience.timeout_seconds) as answer:
            if answer.status != 206 or not _starts_at(answer, have):
                file.truncate(0)  # the server sends all of it, whatever was asked
                have = 0
            _receive(answer, file, have, known, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing beyond what is here: all of it, or no good
            if (error.headers.get("Content-Range") or "").endswith(f"/{have}"):
                return
            file.truncate(0)
            raise _Broken("the server has nothing more to send") from error
        what = f"the server answers {error.code} {error.reason.splitlines()[0]}"
        if error.code in RETRIED_STATUS:
            raise _Broken(what) from error
        raise WeightsError(
            f"{known.url}: {what}: the file has moved, or a proxy forbids it; fetch it by other "
            "means and use weights convert"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{known.url}: the certificate is not trusted ({error.reason.verify_message}): "
                "behind a proxy that opens TLS, point SSL_CERT_FILE at its certificate"
            ) from error
        raise _Broken(f"cannot be reached ({error.reason})") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({str(error) or type(error).__name__})") from error


def _starts_at(answer: http.client.HTTPResponse, have: int) -> bool:
    """True when a partial answer (206) says that it starts where we are."""
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _receive(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    have: int,
    known: PublishedFile,
    progress: Progress,
) -> None:
    """Write what comes behind the ``have`` bytes; _Broken when the connection ends early."""
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() else None
    if known.size and total and total != known.size:
        raise WeightsError(
            f"{known.url}: {total:,} bytes are offered where the file has {known.size:,}: "
            "something else answers in its place, such as the page of a proxy"
        )
    with disk_errors(Path(file.name)):
        _require_space(file, (total or have) - have)
    while block := answer.read1(CHUNK_BYTES):  # what is there: nothing is lost to a silence
        with disk_errors(Path(file.name)):
            file.write(block)
            file.flush()
        have += len(block)
        progress(have, total)
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")
    with disk_errors(Path(file.name)):
        os.fsync(file.fileno())


def _require_space(file: BinaryIO, count: int) -> None:
    """Raise OSError before a download that the disk cannot hold."""
    if shutil.disk_usage(file.fileno()).free < count:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def recognise(path: Path, known: PublishedFile, remedy: str) -> str:
    """SHA-256 of a file, hexadecimal; WeightsError with ``remedy`` unless it is the known one.

    Of a file that nobody has published a sum of, only that it is there can be said.
    """
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(CHUNK_BYTES):
            sha256.update(block)
            blob.update(block)
    wanted, found = (known.blob, blob) if known.blob else (known.sha256, sha256)
    if known.size not in (None, size) or not found.hexdigest().startswith(wanted):
        raise WeightsError(
            f"{path.parent / known.file_name}: not the file that is known from {known.url}: "
            f"{size:,} bytes with {'git blob id' if known.blob else 'SHA-256'} "
            f"{found.hexdigest()[:12]}..., expected {wanted[:12]}...: {remedy}"
        )
    return sha256.hexdigest()
