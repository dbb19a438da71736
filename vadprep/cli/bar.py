"""A bar on the terminal for work that is counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def shown_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, in words of (done, total); nothing where there is no terminal."""
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show
