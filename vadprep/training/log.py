"""Logs of a training. The tables are complete after every epoch.

RUN/log.csv        one row a step: learning rate, total loss and its terms
RUN/snapshots.csv  one row a snapshot: metrics on the validation slice and on the test split
RUN/events.out.*   both for TensorBoard, the losses as means over each epoch
"""

from __future__ import annotations

import csv
import io
import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import CheckpointError

STEPS = "log.csv"
SNAPSHOTS = "snapshots.csv"
EPOCHS = logging.getLogger("vadprep.epochs")
"""Gets a line of level INFO an epoch."""
IS_LAST = "is_last"
"""Whether it is that of the last epoch: an attribute of its record."""
SHOWN_SECONDS = 10.0
"""Least time between two epochs that are shown."""


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table at once; None is an empty cell. Every row has the columns of the first."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with open_atomic(path) as stream:
        stream.write(text.getvalue().encode())


def read_rows(path: Path, num_rows: int | None = None) -> list[dict[str, Any]]:
    """The first rows, all by default, as text, so that they are written back unchanged.

    Raises CheckpointError for a table that cannot be read or has fewer rows.
    """
    try:
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if num_rows is not None and len(rows) < num_rows:
        raise CheckpointError(
            f"{path}: {len(rows)} rows where {num_rows} were written: it was cut short, train "
            f"again in another folder"
        )
    return rows[:num_rows]


def epoch_scalars(
    rows: Sequence[Mapping[str, Any]], snapshot: Mapping[str, Any]
) -> dict[str, float]:
    """What TensorBoard shows of an epoch: means over its steps as ``train/NAME``, its snapshot."""
    names = [name for name in rows[0] if name not in ("epoch", "step")]
    means = {f"train/{name}": statistics.fmean(row[name] for row in rows) for name in names}
    taken = {name: value for name, value in snapshot.items() if value is not None}
    return means | {name: value for name, value in taken.items() if name != "epoch"}


@contextmanager
def shown_epochs() -> Iterator[None]:
    """Inside the block the lines of ``EPOCHS`` are let through, now and then one, and the last."""
    shown = -math.inf

    def is_due(record: logging.LogRecord) -> bool:
        nonlocal shown
        if time.monotonic() - shown < SHOWN_SECONDS and not getattr(record, IS_LAST, False):
            return False
        shown = time.monotonic()
        return True

    level = EPOCHS.level
    EPOCHS.setLevel(logging.INFO)
    EPOCHS.addFilter(is_due)
    try:
        yield
    finally:
        EPOCHS.removeFilter(is_due)
        EPOCHS.setLevel(level)
