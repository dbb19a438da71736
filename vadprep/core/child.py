"""Python child processes: this very package in them, nothing of the working directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTALLED_ONLY = "import sys; sys.path[:] = filter(None, sys.path); "
"""Begin of the program of a Python child process: it imports nothing from the working directory,
where a file may be called ``numbers.py``. ``python -m`` would."""

_PARENT_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
"""Signals that the parent handles. It decides when a child ends."""


def child_environment() -> dict[str, str]:
    """The environment of a Python child process that imports this very package.

    A blank part of PYTHONPATH (``:/lib``) would be the working directory, and is left out.
    """
    paths = [str(Path(__file__).resolve().parents[2])]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def start_program(
    program: str, fds: Sequence[int], stderr: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A child process in a session of its own; its arguments are ``fds``, which it inherits.

    ``stderr`` is its error stream; it reads and prints nothing else. The signals that the parent
    handles are blocked in it, from the start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", INSTALLED_ONLY + program, *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=fds,
            env=environment,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_it_ended(code: int) -> str:
    """What the exit code of a child process means, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
