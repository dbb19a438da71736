"""Settings of numba for what is compiled in a block: they are those of all threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def numba_settings(**settings: Any) -> Iterator[None]:
    """Compile in the block with ``settings``, such as ``CACHE_DIR``; they are restored after it.

    One thread at a time is in such a block; blocks may be nested. Raises ImportError without numba.
    """
    import numba

    config = vars(numba.config)
    with _ONE_AT_A_TIME:
        before = {name: config[name] for name in settings}
        try:
            config.update(settings)
            yield
        finally:
            config.update(before)
