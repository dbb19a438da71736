"""Downloads a file: it arrives whole and recognised, or not at all. Standard library only.

What has arrived is kept as ``NAME.part`` while ``fetch`` runs. ``fetch`` continues from there after
a broken connection, and so does the next run after a kill. When ``fetch`` gives up, it removes the
part. Proxies come from the environment (``https_proxy``, ``no_proxy``).
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
"""HTTP errors that may pass: the server, or something in front of it, is busy."""

ShowProgress = Callable[[int, int | None], None]
"""Receives the bytes that have arrived and the total, None where the server does not state it."""


@dataclass(frozen=True)
class Patience:
    """When to try again. Attempts count from the last byte that arrived."""

    attempts: int = 6
    timeout_seconds: float = 30.0
    """Longest silence of the server."""
    pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each one after it."""


class _Broken(Exception):
    """An attempt ended early and another may do better."""


def fetch(
    published: PublishedFile,
    target: Path,
    progress: ShowProgress = lambda done, total: None,
    patience: Patience = Patience(),  # noqa: B008  it is frozen
) -> str:
    """Make ``target`` the published file; returns its SHA-256, hexadecimal.

    A whole file that is there already stays. Raises WeightsError when the server does not have
    the file, cannot be reached or sends something else, and OutputError when the disk refuses:
    both in one line, and then no part of a file is left.
    """
    if target.is_file():
        return recognise(target, published, "delete it and try again")
    make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    with disk_errors(part):
        file = open(part, "a+b")
    with file:
        _lock(file, part)
        if target.is_file():  # another process has just finished
            return recognise(target, published, "delete it and try again")
        try:
            _fill(file, published, progress, patience)
            sha256 = recognise(part, published, "the download is thrown away, try again")
            with disk_errors(target):
                os.replace(part, target)
        except Exception:  # after a stop by the user or a kill the part stays
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


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _fill(
    file: BinaryIO, published: PublishedFile, progress: ShowProgress, patience: Patience
) -> None:
    """Bring ``file`` to its full length, attempt after attempt."""
    if not published.is_pinned:  # a part of an earlier run may be of another version
        file.truncate(0)
    failures = 0
    while True:
        before = _length(file)
        try:
            return _attempt(file, published, progress, patience.timeout_seconds)
        except _Broken as broken:
            failures = failures + 1 if _length(file) <= before else 1
            if failures >= patience.attempts:
                raise WeightsError(
                    f"{published.url}: {broken}; {failures} attempts in a row brought nothing: try "
                    "again later, or fetch it by other means and use weights convert"
                ) from broken
            pause = patience.pause_seconds * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %.0f s", published.file_name, broken, pause)
            time.sleep(pause)


def _attempt(
    file: BinaryIO, published: PublishedFile, progress: ShowProgress, timeout_seconds: float
) -> None:
    """Append what the server sends from where ``file`` ends. Raises _Broken to be tried again."""
    url, have = published.url, _length(file)
    headers = {"User-Agent": f"vadprep/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener()  # a new one knows the proxies of this moment
    try:
        request = urllib.request.Request(url, headers=headers)
        with opener.open(request, timeout=timeout_seconds) as answer:
            starts = answer.headers.get("Content-Range") or ""
            if answer.status != 206 or not starts.startswith(f"bytes {have}-"):
                file.truncate(0)  # the server sends the whole file, whatever was asked
            _receive(answer, file, published, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing follows: the part is all of it, or no good
            if (error.headers.get("Content-Range") or "").endswith(f"/{have}"):
                return
            file.truncate(0)
            raise _Broken("the server has nothing more to send") from error
        what = f"the server answers {error.code} {error.reason.splitlines()[0]}"
        if error.code in RETRIED_STATUS:
            raise _Broken(what) from error
        raise WeightsError(
            f"{url}: {what}: the file has moved, or a proxy forbids it; fetch it by other means "
            "and use weights convert"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{url}: the certificate is not trusted ({error.reason.verify_message}): "
                "behind a proxy that opens TLS, set SSL_CERT_FILE to its certificate"
            ) from error
        raise _Broken(f"cannot be reached ({error.reason})") from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({str(error) or type(error).__name__})") from error


def _receive(
    answer: http.client.HTTPResponse,
    file: BinaryIO,
    published: PublishedFile,
    progress: ShowProgress,
) -> None:
    """Append the body to ``file``; _Broken when the connection ends early."""
    have, length = _length(file), answer.headers.get("Content-Length")
    total = have + int(length) if length and length.isdecimal() else None
    if published.size and total and total != published.size:
        raise WeightsError(
            f"{published.url}: {total:,} bytes are offered where the file has {published.size:,}: "
            "something else answers in its place, such as the page of a proxy"
        )
    with disk_errors(Path(file.name)):
        if shutil.disk_usage(file.fileno()).free < (total or have) - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while block := answer.read1(CHUNK_BYTES):  # what has arrived is not lost to a silence
        with disk_errors(Path(file.name)):
            file.write(block)
            file.flush()
        have += len(block)
        progress(have, total)
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")
    with disk_errors(Path(file.name)):
        os.fsync(file.fileno())


def recognise(path: Path, published: PublishedFile, remedy: str) -> str:
    """SHA-256 of a file, hexadecimal; WeightsError with ``remedy`` unless it is the published one.

    A file without a published hash or size is accepted as it is.
    """
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    with open(path, "rb") as file:
        while block := file.read(CHUNK_BYTES):
            sha256.update(block)
            blob.update(block)
    kind, wanted, digest = (
        ("git blob id", published.blob, blob.hexdigest())
        if published.blob
        else ("SHA-256", published.sha256, sha256.hexdigest())
    )
    if published.size not in (None, size) or not digest.startswith(wanted):
        raise WeightsError(
            f"{path.parent / published.file_name}: not the file published at {published.url}: "
            f"{size:,} bytes with {kind} {digest[:12]}, expected {wanted[:12] or published.size}: "
            f"{remedy}"
        )
    return sha256.hexdigest()
