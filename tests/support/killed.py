"""A command as a program that is killed, or stops itself, while it writes a file.

python killed.py KILL|STOP NUMBER ARGUMENT...

The signal comes when file NUMBER is written, but neither synced nor renamed; a killed one is half
there.
"""

from __future__ import annotations

import itertools
import os
import signal
import stat
import sys
from collections.abc import Callable


def before_sync(act: Callable[[int, int], object]) -> None:
    """Call ``act`` with number, from 1, and descriptor of each file that is to be synced."""
    sync, numbers = os.fsync, itertools.count(1)

    def sync_after(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            act(next(numbers), descriptor)
        sync(descriptor)

    os.fsync = sync_after


def main(how: str, number: str, *arguments: str) -> None:
    from vadprep.cli.main import main as command

    def interrupt(count: int, descriptor: int) -> None:
        if count == int(number):
            if how == "KILL":
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.Signals[f"SIG{how}"])

    before_sync(interrupt)
    command(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
