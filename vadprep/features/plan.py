"""The plan of a feature folder: which video lies in which shard."""

from __future__ import annotations

import csv
import itertools
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.features import append_only as appended

SHARD_SIZE = 64
"""Videos a shard, unless said otherwise when the folder is made."""

ROWS_A_WRITE = 1 << 16
"""Rows of the plan that are written at a time, so that memory does not grow with the plan."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a video stands: the shard's number and the position (group) in it."""

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
    starts: list[int] = field(default_factory=list)
    """Number of videos before each shard."""

    def add(self, video_id: str, shard: int) -> None:
        """Put a video at the end of ``shard``, which is the last one or the next."""
        if shard == len(self.shards):
            self.shards.append([])
            self.starts.append(len(self.places))
        if video_id in self.places or shard != len(self.shards) - 1:
            raise FeaturesError(f"plan.csv: {video_id!r} is out of order or stands twice")
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

    def number(self, video_id: str) -> int:
        """Number of videos before this one."""
        place = self.places[video_id]
        return self.starts[place.shard] + place.position

    def in_shard(self, shard: int) -> slice:
        """Numbers of the videos of a shard."""
        start = self.starts[shard]
        return slice(start, start + len(self.shards[shard]))

    def since(self, first: int) -> Iterator[tuple[str, int]]:
        """Id and shard of the videos from number ``first`` on."""
        for shard in range(bisect_right(self.starts, first) - 1, len(self.shards)):
            skipped = max(0, first - self.starts[shard])
            yield from ((each, shard) for each in self.shards[shard][skipped:])


# ---------------------------------------------------------------- plan.csv

PLAN_COLUMNS = ("video_id", "shard", "number", "planned")
"""``number`` counts the videos from 1; ``planned`` is that of the last one written with this one.

So a reader takes what was added at one time whole or not at all, and the last row says how much
there is. Folders of before have the first two columns only.
"""


@dataclass(frozen=True)
class PlanSize:
    """How much a plan holds."""

    videos: int
    shards: int


def read_plan(path: Path) -> Plan:
    """The plan in ``plan.csv``; raises FeaturesError naming the row that is off."""
    return _read_plan(path)[0]


def _read_plan(path: Path) -> tuple[Plan, int]:
    """The plan, and how many bytes of the file are it."""
    plan = Plan()
    try:
        size = _planned_bytes(path)
        for row in appended.rows(path, stop=size):
            plan.add(row[0], int(row[1]))
    except (IndexError, ValueError, csv.Error):
        row_number = len(plan.places) + 2
        raise FeaturesError(f"{path}, row {row_number}: expected video_id,shard") from None
    return plan, size


def _planned_bytes(path: Path) -> int:
    """Bytes of the file without what a kill, or another rank just now, has half added."""
    with path.open("rb") as file:
        size = appended.whole_size(file)
    last = appended.last_row(path)
    if last is None or last[1][2:3] == last[1][3:4]:
        return size
    planned = last[1][3]
    return appended.first_row(path, size, lambda row: row[3:4] == [planned])


def plan_size(path: Path) -> PlanSize:
    """How much the plan holds: by its last row, where that says so."""
    if not path.exists():
        return PlanSize(0, 0)
    with suppress(csv.Error, ValueError):  # reading it whole tells more of the damage
        _, row = appended.last_row(path) or (0, [])
        if len(row) == len(PLAN_COLUMNS) and row[2] == row[3]:
            return PlanSize(int(row[2]), int(row[1]) + 1)
    plan = read_plan(path)
    return PlanSize(len(plan.places), len(plan.shards))


def ids_in_shard(path: Path, shard: int) -> list[str]:
    """Ids of one shard, from the few rows of the plan that are its own."""
    size = _planned_bytes(path)
    start = appended.first_row(path, size, lambda row: int(row[1]) >= shard)
    rows = appended.rows(path, start, size)
    return [row[0] for row in itertools.takewhile(lambda row: int(row[1]) == shard, rows)]


def grown_plan(path: Path, video_ids: Iterable[str], shard_size: int) -> Plan:
    """The plan in ``path``, which then covers ``video_ids``; what is there is not written again.

    Ranks that start at the same time add the same rows at the same place, so that it does not
    matter whose write comes when. Raises FeaturesError when another run has added others.
    """
    if not path.exists():
        _create_plan(path)
    plan, size = _read_plan(path)
    before = len(plan.places)
    if not plan.extend(video_ids, shard_size):
        return plan
    planned, at = len(plan.places), size
    rows = (
        (video_id, shard, number, planned)
        for number, (video_id, shard) in enumerate(plan.since(before), before + 1)
    )
    while text := appended.lines(itertools.islice(rows, ROWS_A_WRITE), "\r\n"):
        with open(path, "rb") as file:
            file.seek(at)
            there = file.read(len(text))
        if not text.startswith(there):  # half an addition, of other videos, that a kill has left
            appended.cut(path, at)
        appended.write_at(path, at, text)
        at += len(text)
    found = ((row[0], int(row[1])) for row in appended.rows(path, size, at))
    if not all(map(operator.eq, found, plan.since(before))) or path.stat().st_size < at:
        raise FeaturesError(f"{path}: another run has added other videos just now: run this again")
    return plan


def _create_plan(path: Path) -> None:
    with suppress(FileExistsError), open_atomic(path, replace=False) as stream:
        stream.write(appended.lines([PLAN_COLUMNS], "\r\n"))
