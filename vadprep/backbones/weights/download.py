"""Downloads a file: it arrives whole and recognised, or not at all. Standard library only.

What has arrived is kept as ``NAME.part`` while ``fetch`` runs. ``fetch`` continues from there after
a broken connection, and so does the next run after a kill. When ``fetch`` gives up, it removes the
part. Proxies come from the environment (``https_proxy``, ``no_proxy``).
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import queue
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from vadprep import __version__
from vadprep.backbones.weights.catalog import PublishedFile
from vadprep.core.atomic import disk_errors, make_folder, sync_folder
from vadprep.core.errors import OutputError, WeightsError, printable
from vadprep.core.log import get_logger
from vadprep.core.untrusted import read_regular

logger = get_logger(__name__)

CHUNK_BYTES = 1 << 18
RETRIED_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)
"""HTTP errors that may pass: the server, or something in front of it, is busy."""
ATTEMPTS = 6  # without a byte in between
TIMEOUT_SECONDS = 30.0  # in which LEAST_BYTES have to come
LEAST_BYTES = 32 << 10
MOST_BYTES = 4 << 30  # of a file: ten times the largest weights
PAUSE_SECONDS = 1.0  # before the second attempt; twice as long before each one after it
BY_OTHER_MEANS = "fetch it by other means and use weights convert"

ShowProgress = Callable[[int, int | None], None]
"""Receives the bytes that have arrived and the total, None where the server does not state it."""


class _Broken(Exception):
    """An attempt ended early and another may do better."""


def fetch(published: PublishedFile, target: Path, progress: ShowProgress | None = None) -> str:
    """Make ``target`` the published file; returns its SHA-256, hexadecimal.

    A whole file that is there already stays. Raises WeightsError when the server does not have
    the file, cannot be reached or sends something else, and OutputError when the disk refuses:
    both in one line, and then no part of a file is left.
    """
    make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    if target.is_file():
        return recognise(target, published, "delete it and try again")
    with disk_errors(part):
        file = open(part, "a+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"{part}: another process is downloading it: wait for it") from None
        except OSError as error:
            logger.debug("%s: no locks on this file system: %s", part, error)
        if target.is_file():  # another process has just finished
            return recognise(target, published, "delete it and try again")
        try:
            if not published.is_pinned:  # a part of an earlier run may be of another version
                file.truncate(0)
            _fill(file, published, progress or (lambda done, total: None))
            sha256 = recognise(part, published, "the download is thrown away, try again")
            with disk_errors(target):
                os.fsync(file.fileno())
                os.replace(part, target)
        except Exception:  # after a stop by the user or a kill the part stays
            part.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)
    return sha256


def _fill(file: BinaryIO, published: PublishedFile, progress: ShowProgress) -> None:
    """Bring ``file`` to its full length, attempt after attempt."""
    failures = 0
    while True:
        before = os.fstat(file.fileno()).st_size
        try:
            return _attempt(file, published, progress)
        except _Broken as broken:
            gained = os.fstat(file.fileno()).st_size - before
            failures = failures + 1 if gained < LEAST_BYTES else 1
            if failures >= ATTEMPTS:
                raise WeightsError(
                    f"{published.url}: {broken}; {failures} attempts in a row brought nothing: try "
                    f"again later, or {BY_OTHER_MEANS}"
                ) from broken
            pause = PAUSE_SECONDS * 2 ** (failures - 1)
            logger.warning("%s: %s; trying again in %.0f s", published.file_name, broken, pause)
            time.sleep(pause)


def _attempt(file: BinaryIO, published: PublishedFile, progress: ShowProgress) -> None:
    """Append what the server sends from where ``file`` ends. Raises _Broken to be tried again."""
    url, have = published.url, os.fstat(file.fileno()).st_size
    headers = {"User-Agent": f"vadprep/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    # A thread waits for the server: socket time limits count from byte to byte, so that a server
    # that drips could hold a reader for ever. It ends with the process, or at its next byte.
    parts: queue.Queue[Any] = queue.Queue(1)
    is_given_up = threading.Event()
    arguments = (urllib.request.Request(url, headers=headers), parts, is_given_up)
    threading.Thread(target=_receive, args=arguments, daemon=True).start()
    total, deadline, arrived = None, time.monotonic() + TIMEOUT_SECONDS, 0
    try:
        while part := parts.get(timeout=max(0.0, deadline - time.monotonic())):
            if isinstance(part, Exception):
                raise part
            if not isinstance(part, bytes):  # status and headers, before the content
                status, sent = part
                starts, length = sent.get("Content-Range", ""), sent.get("Content-Length", "")
                if status != 206 or not starts.startswith(f"bytes {have}-"):
                    have = file.truncate(0)  # the server sends the whole file, whatever was asked
                total = have + int(length) if re.fullmatch("[0-9]{1,15}", length) else None
                _check_room(file, url, have, total)
                continue
            if have + len(part) > (most := MOST_BYTES if total is None else total):
                raise WeightsError(f"{url}: more than {most:,} bytes come; {BY_OTHER_MEANS}")
            with disk_errors(Path(file.name)):
                file.write(part)
                file.flush()
            have, arrived = have + len(part), arrived + len(part)
            progress(have, total)
            if arrived >= LEAST_BYTES:
                deadline, arrived = time.monotonic() + TIMEOUT_SECONDS, 0
        if total is not None and have < total:
            raise _Broken(f"the connection ended after {have:,} of {total:,} bytes")
    except queue.Empty:
        raise _Broken(f"less than {LEAST_BYTES:,} bytes in {TIMEOUT_SECONDS:g} s") from None
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing follows: what is here is not a part of the file, or all
            file.truncate(0)
        reason = printable(next(iter(error.reason.splitlines()), "")[:80])
        what = f"the server answers {error.code} {reason}".rstrip()
        if error.code not in RETRIED_STATUS:
            raise WeightsError(
                f"{url}: {what}: the file has moved, or a proxy forbids it; {BY_OTHER_MEANS}"
            ) from error
        raise _Broken(what) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an odd address
        cause = getattr(error, "reason", error)  # of an URLError
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{url}: the certificate is not trusted ({cause.verify_message}): "
                "behind a proxy that opens TLS, set SSL_CERT_FILE to its certificate"
            ) from error
        what = "the connection broke" if cause is error else "cannot be reached"
        words = printable(str(cause)[:200]) or type(cause).__name__
        raise _Broken(f"{what} ({words})") from error
    finally:
        is_given_up.set()


def _receive(
    request: urllib.request.Request, parts: queue.Queue[Any], is_given_up: threading.Event
) -> None:
    """Put status and headers of the answer into ``parts``, then its content, b"" or an exception.

    Until the reader has given up.
    """

    def put(part: object) -> None:
        while not is_given_up.is_set():
            with suppress(queue.Full):
                return parts.put(part, timeout=0.1)

    opener = urllib.request.build_opener(_WebOnly)  # a new one knows the proxies of this moment
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            put((answer.status, answer.headers))
            while not is_given_up.is_set():
                part = answer.read1(CHUNK_BYTES)  # what has arrived is not lost to a silence
                put(part)
                if not part:
                    return
    except Exception as error:
        put(error)


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web servers alone, not to ``ftp:`` as the library would."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.HTTPError(req.full_url, code, "to no web server", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_room(file: BinaryIO, url: str, have: int, total: int | None) -> None:
    """Raise WeightsError for a file that is too large, OutputError for one that does not fit."""
    if total is not None and total > MOST_BYTES:
        raise WeightsError(f"{url}: {total:,} bytes are more than any weights; {BY_OTHER_MEANS}")
    folder = Path(file.name).parent
    free = shutil.disk_usage(folder).free
    if total is not None and total - have > free:
        raise OutputError(
            f"{folder}: {(total - have) >> 20:,} MiB are to come, and {free >> 20:,} MiB are free: "
            "make space, or choose another folder (VADPREP_CACHE)"
        )


def recognise(path: Path, published: PublishedFile, remedy: str) -> str:
    """SHA-256 of a file, hexadecimal; WeightsError with ``remedy`` unless it is the published one.

    A file without a published hash is accepted as it is.
    """
    content = read_regular(path, WeightsError, MOST_BYTES)
    size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    kind, wanted, digest = "SHA-256", published.sha256, sha256
    if published.blob:
        blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
        kind, wanted, digest = "git blob id", published.blob, blob
    if not digest.startswith(wanted):
        raise WeightsError(
            f"{path.parent / published.file_name}: not the file published at {published.url}: "
            f"{size:,} bytes with {kind} {digest[:12]}, expected {wanted[:12]}: {remedy}"
        )
    return sha256
