"""A stop by a signal arrives as Stopped, whatever the code it arrives in makes of it."""

from __future__ import annotations

import signal

import pytest

from vadprep.records import Stopped
from vadprep.signals import STOP_SIGNALS, check_stop, stop_on_signals


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_stops_the_block_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with pytest.raises(Stopped, match=f"stopped by {number.name}; all is saved"):
        with stop_on_signals("all is saved"):
            signal.raise_signal(number)
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


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
