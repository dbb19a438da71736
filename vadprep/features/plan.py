"""The plan of a feature folder, ``plan.csv``: which video belongs to which shard."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.features.tables import csv_bytes, read_table

SHARD_SIZE = 64
"""Videos in a shard, unless another number is given when the folder is made."""

COLUMNS = ("video_id", "shard", "number", "planned")
"""``number`` counts the videos from 1, ``planned`` is the number of the last one that was added
at the same time: so a reader takes an addition whole or not at all. Older folders have the first
two columns only, and additions that a kill has cut short."""


class Place(NamedTuple):
    """Place of a video: the number of its shard and its position (group) in it."""

    shard: int
    position: int

    @property
    def group(self) -> str:
        return f"{self.position:06d}"


@dataclass
class Plan:
    """Which shard each video belongs to: a function of the manifest and the shard size alone."""

    places: dict[str, Place] = field(default_factory=dict)
    shards: list[list[str]] = field(default_factory=list)

    def add(self, video_id: str, shard: int) -> None:
        """Put a video at the end of ``shard``, which is the last one or the next.

        Raises ValueError for any other shard, and for a video that is planned already.
        """
        if shard == len(self.shards):
            self.shards.append([])
        if video_id in self.places or shard != len(self.shards) - 1:
            raise ValueError(f"{video_id!r} is out of order or listed twice")
        self.places[video_id] = Place(shard, len(self.shards[shard]))
        self.shards[shard].append(video_id)

    def extend(self, video_ids: Iterable[str], shard_size: int) -> bool:
        """Put ids that are new into new shards, in their order; True when there were any."""
        first, added = len(self.shards), 0
        for video_id in video_ids:
            if video_id not in self.places:
                self.add(video_id, first + added // shard_size)
                added += 1
        return bool(added)


def read_plan(path: Path) -> Plan:
    """The plan in ``plan.csv``; raises FeaturesError naming the row that is wrong."""
    plan, first, number, planned = Plan(), 0, "", ""
    try:
        rows = read_table(path)
        if not next(rows, None):
            raise ValueError("no header")
        for count, (video_id, shard, *counts) in enumerate(rows, 1):
            if counts and counts[1] != planned and number == planned:  # an addition begins
                first, planned = count - 1, counts[1]
            plan.add(video_id, int(shard))
            if counts:
                number = str(count)
                if counts != [number, planned]:
                    raise ValueError(f"number,planned are {counts}, not {[number, planned]}")
    except (ValueError, csv.Error) as error:
        raise FeaturesError(
            f"{path}, row {len(plan.places) + 2}: expected video_id,shard ({error}): restore the "
            "file or, if it was made from one manifest, remove it and run the same extract again"
        ) from None
    if number != planned:  # an addition that was cut short
        ids = list(plan.places)[first:]
        del plan.shards[plan.places[ids[0]].shard :]
        for video_id in ids:
            del plan.places[video_id]
    return plan


def grow_plan(path: Path, video_ids: Iterable[str], shard_size: int) -> Plan:
    """The plan in ``path``, extended by those of ``video_ids`` that it lacks, in new shards.

    Ranks that start at the same time write the same bytes, each by one rename. Raises
    FeaturesError when another run has added other videos at the same time.
    """
    plan = read_plan(path) if path.exists() else Plan()
    if not plan.extend(video_ids, shard_size) and path.exists():
        return plan
    planned = len(plan.places)
    places = enumerate(plan.places.items(), 1)
    rows = [(video_id, place.shard, number, planned) for number, (video_id, place) in places]
    content = csv_bytes([COLUMNS, *rows], "\r\n")
    with open_atomic(path) as stream:
        stream.write(content)
    if path.read_bytes() != content:
        raise FeaturesError(f"{path}: another run has added other videos just now: run this again")
    return plan
