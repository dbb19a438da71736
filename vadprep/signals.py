"""A stop by a signal, as an exception."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vadprep.records import Stopped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped from wherever the block is when SIGINT, SIGTERM or SIGUSR1 arrives.

    Every write is safe against a kill, so it is safe against this too. A second signal during
    the clean-up is ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}; all finished videos are committed, run it again")

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
