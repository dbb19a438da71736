"""Machine code of ``loops``, compiled once and kept in a folder of ours.

The first import compiles for half a minute; workers that start together wait for one of them.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import numba

_LOG = logging.getLogger(__name__)


@cache
def loops() -> ModuleType:
    """The module ``vadprep.flow.loops``, compiled for this machine.

    Machine code is kept under ``cache_folder()``, where numba tells processors and versions of
    the source apart.
    """
    folder = cache_folder()
    with _locked(folder / "lock"), _numba(CACHE_DIR=str(folder)):
        with _numba(SLP_VECTORIZE=1):  # four channels of a pixel as one vector: twice the speed
            importlib.import_module("vadprep.flow.warping")
        return importlib.import_module("vadprep.flow.loops")


def cache_folder() -> Path:
    """Folder for machine code: ``$XDG_CACHE_HOME/vadprep/numba-VERSION``, made if need be.

    Where that cannot be written it is a folder of this user's in the temp folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "vadprep" / f"numba-{numba.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        spare = Path(tempfile.gettempdir()) / f"vadprep-numba-{os.getuid()}"
        _LOG.warning("%s: %s; compiled flow is kept in %s", folder, error.strerror, spare)
        spare.mkdir(mode=0o700, exist_ok=True)
        return spare


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
