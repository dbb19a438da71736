"""A training that is stopped at a chosen step."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest

from vadprep.core.errors import Stopped


@contextmanager
def stopped_after(num_steps):
    """Inside, a stop is asked for before step ``num_steps``."""
    asked = itertools.count()

    def check_stop():
        if next(asked) == num_steps:
            raise Stopped("now")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vadprep.training.loop.check_stop", check_stop)
        yield
