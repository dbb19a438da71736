"""How far a feature folder is: from the ends of its files, however many videos it holds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vadprep.core.spec import Spec
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import (
    Row,
    Totals,
    age,
    file_mark,
    is_notable,
    manifest_paths,
    notable_in,
    tail_of,
)
from vadprep.features.latest import Standing
from vadprep.features.lease import Run
from vadprep.features.pace import Pace, pace_of
from vadprep.features.plan import ids_in_shard, plan_size
from vadprep.features.shard import DONE, FAILED


@dataclass(frozen=True)
class Status:
    """How far a stream is, from the plan and the journal alone."""

    spec: Spec
    planned: int
    totals: Totals
    notable: tuple[Row, ...]
    """Of the videos that failed, were repaired, or are of another length than was said."""
    missing: tuple[str, ...]
    """Videos without a row, those in the works among them; not all of them when that was asked."""
    shards_planned: int
    shards_final: int
    runs: tuple[Run, ...]
    """Those that are at work on it now, by their leases."""
    pace: Pace

    @property
    def done(self) -> int:
        return self.totals.done

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.notable if row.status == FAILED)

    @property
    def repaired(self) -> tuple[Row, ...]:
        """Videos that are done with frames repaired."""
        return tuple(row for row in self.notable if row.status == DONE and row.repaired_frames)

    @property
    def noted(self) -> tuple[Row, ...]:
        """Videos that are done but whose length is not what was said, with the likely cause."""
        return tuple(row for row in self.notable if row.status == DONE and row.reason)

    @property
    def num_missing(self) -> int:
        return self.planned - self.totals.done - self.totals.failed

    @property
    def num_clips(self) -> int:
        return self.totals.num_clips

    @property
    def num_frames(self) -> int:
        return self.totals.num_frames

    @property
    def is_complete(self) -> bool:
        all_final = self.shards_final == self.shards_planned
        return all_final and not self.num_missing and not self.totals.failed


def status(folder: StreamFolder, most: int | None = None) -> Status:
    """Done, failed, running and missing videos of a stream folder.

    With ``most`` the list ``missing`` is cut there, and the plan and the rows need not be read.
    """
    size = plan_size(folder.plan_path)
    found = _from_ends(folder.path)
    standing = None
    if found is None or found[0].done + found[0].failed > size.videos:
        standing = Standing(folder)
        found = standing.totals, standing.notable()
    totals, notable = found
    num_missing = size.videos - totals.done - totals.failed
    missing: list[str] = []
    if num_missing and most is not None and standing is None:
        missing = list(islice(_unfinished(folder, size.shards), most))
    if len(missing) < (num_missing if most is None else min(num_missing, most)):
        missing = list(islice((standing or Standing(folder)).missing(), most))
    runs = folder.runs()
    return Status(
        spec=folder.spec,
        planned=size.videos,
        totals=totals,
        notable=tuple(sorted(notable, key=lambda row: (row.shard, row.video_id))),
        missing=tuple(missing[:num_missing]),
        shards_planned=size.shards,
        shards_final=len(folder.final_shards()),
        runs=tuple(runs),
        pace=pace_of(folder.path, time.time(), {run.rank for run in runs if run.holds}),
    )


def _from_ends(folder: Path) -> tuple[Totals, list[Row]] | None:
    """Totals of all ranks from the last row of each, and the notable rows.

    None where the ends do not tell: rows of an older version, or one that took the place of a row
    in a file that has been removed since.
    """
    paths = manifest_paths(folder)
    tails = [tail_of(path) for path in paths.values()]
    marks: dict[int, str] = {}
    totals = Totals()
    for tail in tails:
        if tail is None:
            return None
        for rank, mark in tail.against.items():
            if rank not in marks:
                marks[rank] = file_mark(paths[rank]) if rank in paths else ""
            if marks[rank] != mark:
                return None
        totals += tail.totals
    notable = _notable(paths.values())
    num_failed = sum(row.status == FAILED for row in notable)
    return (totals, notable) if num_failed == totals.failed else None


def _notable(paths: Iterable[Path]) -> list[Row]:
    """Rows that something is to be said of and that no other has taken the place of."""
    rows: dict[str, Row] = {}
    for path in paths:
        for row in notable_in(path):
            old = rows.get(row.video_id)
            if old is None or age(row) > age(old):
                rows[row.video_id] = row
    return [row for row in rows.values() if is_notable(row)]


def _unfinished(folder: StreamFolder, shards: int) -> Iterator[str]:
    """Ids of the videos without a file, in the order of the plan."""
    final = folder.final_shards()
    for shard in range(shards):
        if shard in final:
            continue
        finished = folder.finished(shard)
        if not folder.shard(shard).exists():  # else it became final just now
            ids = ids_in_shard(folder.plan_path, shard)
            yield from (each for position, each in enumerate(ids) if position not in finished)
