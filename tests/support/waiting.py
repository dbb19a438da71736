"""Waiting in tests: for what another process or thread does, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(found: Callable[[], T], seconds: float = 60, pause: float = 0.01) -> T:
    """What ``found`` returns as soon as that is true; raises AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"did not happen within {seconds:g} s"
        time.sleep(pause)
    return result
