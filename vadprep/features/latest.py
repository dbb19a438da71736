"""What became of every video of a plan, read from all journals once: a few bytes a video."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vadprep.features import append_only as appended
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import (
    Earlier,
    Row,
    Totals,
    damaged,
    file_mark,
    is_notable,
    manifest_path,
    manifest_paths,
    row_from,
)
from vadprep.features.plan import Plan
from vadprep.features.shard import DONE

MISSING, IS_DONE, IS_FAILED = range(3)


class Standing:
    """The row that counts of each video, as far as is needed, by its number in the plan.

    Raises FeaturesError at a damaged manifest-<rank>.csv.
    """

    def __init__(self, folder: StreamFolder) -> None:
        self.folder = folder
        self.plan: Plan = folder.plan
        count = len(self.plan.places)
        self.state: NDArray[np.uint8] = np.zeros(count, np.uint8)
        """MISSING, IS_DONE or IS_FAILED: uint8 [videos]."""
        self._time = np.zeros(count)
        self._rank = np.zeros(count, np.int32)
        self._counts = np.zeros((3, count), np.int64)  # clips, frames, repaired frames
        self._notable: dict[int, Row] = {}
        self._marks: dict[int, str] = {}
        for rank, path in manifest_paths(folder.path).items():
            try:
                for values in appended.rows(path):
                    self._read(values, rank)
            except (IndexError, ValueError, csv.Error) as error:
                raise damaged(path, error) from error

    def _read(self, values: list[str], rank: int) -> None:
        """Take up a row unless it is older than another of its video, or of none planned."""
        if values[0] not in self.plan.places:
            return
        number, is_done, time = self.plan.number(values[0]), values[2] == DONE, float(values[10])
        age = self._time[number], self.state[number] == IS_DONE
        if self.state[number] == MISSING or (time, is_done) >= age:
            self._note(number, is_done, time, rank, tuple(map(int, values[3:6])))
            if not is_done or values[5] != "0" or values[9]:
                self._notable[number] = row_from(values)

    def _note(
        self, number: int, is_done: bool, time: float, rank: int, counts: tuple[int, ...]
    ) -> None:
        self.state[number] = IS_DONE if is_done else IS_FAILED
        self._time[number], self._rank[number] = time, rank
        self._counts[:, number] = counts
        self._notable.pop(number, None)

    def note(self, row: Row, rank: int) -> None:
        """Take up a row that was written just now."""
        number, is_done = self.plan.number(row.video_id), row.status == DONE
        counts = row.num_clips, row.num_frames, row.repaired_frames
        self._note(number, is_done, row.time, rank, counts)
        if is_notable(row):
            self._notable[number] = row

    def earlier(self, video_id: str) -> Earlier | None:
        """The row that the next one of a video takes the place of; None when there is none."""
        number = self.plan.number(video_id)
        if self.state[number] == MISSING:
            return None
        rank = int(self._rank[number])
        if rank not in self._marks:
            self._marks[rank] = file_mark(manifest_path(self.folder.path, rank))
        counts = self._totals(np.array([number]))
        return Earlier(float(self._time[number]), counts, rank, self._marks[rank])

    @cached_property
    def totals(self) -> Totals:
        """Counts of all videos, as they were read."""
        return self._totals(np.arange(len(self.state)))

    def _totals(self, numbers: NDArray[np.int64]) -> Totals:
        state, counts = self.state[numbers], self._counts[:, numbers]
        is_done = state == IS_DONE
        clips, frames, repaired = counts[:, is_done].sum(axis=1).tolist()
        return Totals(
            done=int(is_done.sum()),
            failed=int((state == IS_FAILED).sum()),
            num_clips=clips,
            num_frames=frames,
            repaired_frames=repaired,
            damaged=int((counts[2, is_done] > 0).sum()),
        )

    def notable(self) -> list[Row]:
        """Rows of the videos that something is to be said of, in the order of the plan."""
        return [self._notable[number] for number in sorted(self._notable)]

    def missing(self) -> Iterator[str]:
        """Ids of the videos without a row, in the order of the plan."""
        for shard, ids in enumerate(self.plan.shards):
            states = self.state[self.plan.in_shard(shard)]
            if not states.all():
                yield from (ids[position] for position in np.flatnonzero(states == MISSING))
