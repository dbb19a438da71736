"""Leases of runs on another host, as they are seen from here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from vadprep.features.lease import Run

ELSEWHERE = Run(0, 2, "other", 77, machine="another boot/1", job="17_0")


def write_lease(folder: Path, run: Run) -> Path:
    path = folder / run.name
    whole = path.with_suffix(".whole")
    whole.write_text(json.dumps(asdict(run)))
    return whole.replace(path)


@contextmanager
def beating(folder: Path, run: Run) -> Iterator[Path]:
    """A lease of a run that is alive, for all that can be seen from here."""
    path = write_lease(folder, run)
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.03):
            number += 1
            write_lease(folder, replace(run, beat=number))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield path
    finally:
        ended.set()
        thread.join()
