"""A stop by a signal arrives as the exception ``Stopped``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from vadprep.core.errors import Stopped

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_requested: dict[int, Stopped] = {}
"""Thread -> the stop that was requested of the ``stop_on_signals`` block that it runs."""


def check_stop() -> None:
    """Raise Stopped when a signal has requested it and the exception was lost.

    Python swallows what is raised while it runs a finalizer or a weak reference's callback, and
    a signal can arrive just then. So long work calls this between its steps.
    """
    if stop := _requested.get(threading.get_ident()):
        raise stop


def call_interruptible(call: Callable[[], T]) -> T:
    """What ``call`` returns or raises, for a call of C code that waits long and ignores signals.

    The call runs in a thread. When a stop arrives, the thread is abandoned and Stopped is raised.
    """
    answer: Future[T] = Future()

    def answered() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # raised below; else the wait would never end
            answer.set_exception(error)

    threading.Thread(target=answered, daemon=True).start()
    while not wait([answer], timeout=0.5).done:
        check_stop()
    return answer.result()


def is_main_thread() -> bool:
    """True in the only thread in which Python sets and runs the handlers of signals."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stop_on_signals(
    afterwards: str = "all finished videos are committed, run it again",
) -> Iterator[Callable[[], None]]:
    """Raise Stopped from wherever the block is when SIGINT, SIGTERM or SIGUSR1 arrives.

    ``afterwards`` ends the message: what is safe and how to go on. Every write is safe against a
    kill, so it is safe against this too. A second signal during the clean-up is ignored. Gives a
    function that stops the block, which any thread may call.

    Outside of the main thread no signal stops the block and no handler is changed. The function
    then stops it at its next ``check_stop``.
    """
    identity = threading.get_ident()
    if not is_main_thread():

        def stop_this_thread() -> None:
            _requested[identity] = Stopped(f"stopped; {afterwards}")

        try:
            yield stop_this_thread
        finally:
            _requested.pop(identity, None)
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:  # not SIG_IGN: one that has come already would be complained of
            signal.signal(each, lambda number, frame: None)
        name = signal.Signals(number).name
        _requested[identity] = Stopped(f"stopped by {name}; {afterwards}")
        check_stop()

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield lambda: signal.pthread_kill(identity, signal.SIGUSR1)
    except SystemError:  # C code that met the exception (Ray's wait) and returned all the same
        check_stop()
        raise
    finally:
        _requested.pop(identity, None)
        for number, handler in before.items():
            signal.signal(number, handler)
