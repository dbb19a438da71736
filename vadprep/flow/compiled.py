"""Machine code of ``loops``, compiled once and kept in a folder of ours.

The first import compiles for half a minute; workers that start together wait for one of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import numba
from llvmlite import binding

from vadprep.core.resources import cache_folder

_LOG = logging.getLogger(__name__)

SOURCES = Path(__file__).parent

_THREADS = threading.Lock()
"""Numba's settings are those of all threads."""


@cache
def loops() -> ModuleType:
    """The module ``vadprep.flow.cpu_loops``, compiled for this machine."""
    folder = compiled_folder()
    with _THREADS, _locked(folder / "lock"), _numba(CACHE_DIR=str(folder)):
        with _numba(SLP_VECTORIZE=1):  # four channels of a pixel as one vector: twice the speed
            importlib.import_module("vadprep.flow.cpu_warping")
        return importlib.import_module("vadprep.flow.cpu_loops")


def compiled_folder() -> Path:
    """Folder for the machine code of these sources on this processor, made if need be.

    It is ``numba-KEY`` in the cache folder; where that cannot be written, in the temp folder.
    """
    name = f"numba-{_key()}"
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        spare = _spare_folder() / name
        spare.mkdir(exist_ok=True)
        _LOG.warning("%s: %s; compiled flow is kept in %s", folder, error.strerror, spare)
        return spare


def _key() -> str:
    """Digest of all that the machine code depends on.

    Numba recompiles a function whose own file has changed, but not for a change in the files of
    what it calls. And while it tells processors apart, two that share a folder without locks, as
    nodes of a cluster may, could write their code into one file.
    """
    processor = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    digest = hashlib.sha256(repr((numba.__version__, processor)).encode())
    for source in sorted(SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _spare_folder() -> Path:
    """A folder of this user's in the temp folder; a new one where another made that name his."""
    folder = Path(tempfile.gettempdir()) / f"vadprep-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()  # machine code is run: nobody else may have put it there
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if is_ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    return Path(tempfile.mkdtemp(prefix="vadprep-"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time in; the lock goes with the process that holds it."""
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:  # no locks on this file system; numba replaces files atomically
            _LOG.info("%s: cannot be locked: %s", path, error.strerror)
        yield


@contextmanager
def _numba(**settings: object) -> Iterator[None]:
    """Settings of numba for the functions that are compiled inside."""
    before = {name: getattr(numba.config, name) for name in settings}
    vars(numba.config).update(settings)
    try:
        yield
    finally:
        vars(numba.config).update(before)
