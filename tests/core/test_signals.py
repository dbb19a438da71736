"""A stop by a signal arrives as Stopped, whatever the code it arrives in makes of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from vadprep.core.errors import Stopped
from vadprep.core.signals import STOP_SIGNALS, call_interruptible, check_stop, stop_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_the_block_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with pytest.raises(Stopped, match=f"stopped by {number.name}; all is saved"):
        with stop_on_signals("all is saved"):
            signal.raise_signal(number)
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_second_signal_that_has_come_already_is_ignored_without_a_word(monkeypatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(Stopped, match="stopped by SIG"):
        with stop_on_signals():
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGUSR1)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    assert said == []


def test_a_stop_that_c_code_turned_into_a_system_error_is_a_stop() -> None:
    with pytest.raises(Stopped, match="SIGTERM"):
        with stop_on_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Stopped as stopped:
                raise SystemError("returned a result with an exception set") from stopped


def test_a_system_error_of_another_cause_stays_one() -> None:
    with pytest.raises(SystemError, match="a bug"):
        with stop_on_signals():
            raise SystemError("a bug")


def test_a_stop_that_was_swallowed_is_raised_at_the_next_step() -> None:
    with pytest.raises(Stopped):
        with stop_on_signals():
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGUSR1)
            check_stop()


def test_a_stop_does_not_wait_for_a_call_that_is_deaf_to_signals() -> None:
    over = threading.Event()
    begun = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Stopped, match="SIGTERM"):
        with stop_on_signals():
            call_interruptible(lambda: over.wait(60))
    assert time.monotonic() - begun < 30
    over.set()


def test_what_a_call_in_a_thread_of_its_own_returns_and_raises_comes_through() -> None:
    assert call_interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_interruptible(lambda: 1 // 0)


def test_a_block_of_another_thread_is_stopped_by_its_function_alone() -> None:
    begun, stopped = threading.Event(), Future[str]()
    handlers = [signal.getsignal(each) for each in STOP_SIGNALS]
    given: list[Callable[[], None]] = []

    def run() -> None:
        try:
            with stop_on_signals("all is saved") as stop:
                given.append(stop)
                begun.set()
                while not over.wait(0.01):
                    check_stop()
        except Stopped as error:
            check_stop()  # outside the block nothing is asked any more
            stopped.set_result(str(error))

    over = threading.Event()
    threading.Thread(target=run, daemon=True).start()
    assert begun.wait(30)
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == handlers
    with pytest.raises(Stopped, match="SIGUSR1"):  # a stop of this thread leaves the other alone
        with stop_on_signals():
            signal.raise_signal(signal.SIGUSR1)
    time.sleep(0.05)
    assert not stopped.done()
    given[0]()
    check_stop()  # nothing is asked of this thread
    assert stopped.result(30) == "stopped; all is saved"
    over.set()


def test_the_function_of_the_main_thread_stops_its_block_from_any_thread() -> None:
    with pytest.raises(Stopped, match="stopped by SIGUSR1; all is saved"):
        with stop_on_signals("all is saved") as stop:
            threading.Timer(0.1, stop).start()
            time.sleep(30)
