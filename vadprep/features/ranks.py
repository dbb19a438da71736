"""Which ranks of a job array still have work, from the feature folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from vadprep.core.errors import FeaturesError
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import event_paths, last_events

TAIL_BYTES = 1 << 20
"""Of a file of events: more than lie between its last start and its end."""


def missing_ranks(folders: Sequence[StreamFolder], world_size: int) -> list[int]:
    """Ranks of ``world_size`` that own a shard which is not final, in any of the streams.

    A video that has failed is finished: it keeps no shard from being final. Raises FeaturesError
    for a stream without a plan, of which nothing can be said.
    """
    for each in folders:
        if not each.plan_path.exists():
            raise FeaturesError(f"{each.path}: no plan.csv yet: run the same extract again")
    return sorted({shard % world_size for each in folders for shard in each.unfinished_shards()})


def last_world_size(folders: Iterable[StreamFolder]) -> int | None:
    """The number of ranks of the run that started a video last; None when none has."""
    starts = [
        event
        for folder in folders
        for path in event_paths(folder.path).values()
        for event in last_events(path, TAIL_BYTES)
        if "world_size" in event
    ]
    # Of events of one millisecond the one that was written last.
    newest = max(reversed(starts), key=lambda event: float(event["time"]), default=None)
    return int(newest["world_size"]) if newest else None


def array_of(ranks: Sequence[int]) -> str:
    """Ascending ranks as ``sbatch --array`` takes them: ``0,2-3``."""
    runs = groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0])
    spans = ([rank for _, rank in group] for _, group in runs)
    return ",".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else f"{s[0]}" for s in spans)
