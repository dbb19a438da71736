"""A disk that fills up within each file that is written by ``open_atomic``."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vadprep.core import atomic


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Until the block ends, a file takes ``room`` bytes."""

    class Full(io.FileIO):
        def write(self, block: bytes) -> int:  # type: ignore[override]
            if self.tell() + len(block) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "open", Full, raising=False)
        yield
