"""Status from the ends of the files, against reading everything."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.leases import ELSEWHERE, write_lease
from support.stored import ODD_IDS, failed_video, row_of, small_spec, stored_video

from vadprep.features.append_only import last_row, lines, rows
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import COLUMNS, Journal, Totals, manifest_path, read_rows, totals_of
from vadprep.features.latest import Standing
from vadprep.features.lease import this_run
from vadprep.features.pace import Pace, Running, pace_of_rank
from vadprep.features.shard import FAILED
from vadprep.features.status import status

IDS = [*ODD_IDS, *(f'v{n}, "q"\n' for n in range(6))]
SHARD_SIZE = 4


class Ranks:
    """A folder to which ranks commit made-up videos, as the driver does, in any world size."""

    def __init__(self, path, generator: random.Random) -> None:
        self.folder = StreamFolder.prepare(path, small_spec(), IDS, SHARD_SIZE)
        self.generator = generator

    def run(self, rank: int, world_size: int) -> None:
        """A rank that commits some of its videos, anew where they failed or have no row."""
        journal, standing = Journal(self.folder.path, rank), Standing(self.folder)
        finished = read_rows(self.folder.path)
        owned = [
            each
            for shard in self.folder.plan.shards[rank::world_size]
            for each in shard
            if each not in finished or finished[each].status == FAILED
        ]
        for video_id in self.generator.sample(owned, self.generator.randint(0, len(owned))):
            row = journal.finished(self.row(video_id), standing.earlier(video_id))
            standing.note(row, rank)
            self.write_file(video_id)

    def row(self, video_id: str):
        good = self.generator.random() < 0.6
        video = (
            stored_video(video_id, self.generator.randint(1, 5))
            if good
            else (failed_video(video_id, 'why, "5"\n'))
        )
        row = row_of(video, self.folder.plan.places[video_id].shard)
        repaired = self.generator.choice([0, 0, 3]) if good else 0
        return replace(row, repaired_frames=repaired, time=self.generator.uniform(1, 9))

    def write_file(self, video_id: str) -> None:
        place = self.folder.plan.places[video_id]
        self.folder.partial(place.shard).mkdir(exist_ok=True)
        self.folder.partial_video(place).touch()

    def tear(self, rank: int) -> None:
        """Cut the last row of a rank, just written, within itself."""
        path = manifest_path(self.folder.path, rank)
        if last := last_row(path):
            with open(path, "r+b") as file:
                file.truncate(self.generator.randint(last[0], path.stat().st_size - 1))

    def remove(self) -> None:
        self.generator.choice(sorted(self.folder.path.glob("manifest-*.csv"))).unlink()


def by_reading_all(folder: StreamFolder):
    """Totals, failed and missing ids by the rows of all videos."""
    found = read_rows(folder.path)
    totals = sum(map(totals_of, found.values()), Totals())
    failed = {each for each, row in found.items() if row.status == FAILED}
    return totals, failed, tuple(each for each in folder.plan.places if each not in found)


@pytest.mark.parametrize("seed", range(40))
def test_any_history_of_ranks_gives_what_reading_all_rows_gives(tmp_path, seed):
    generator = random.Random(seed)
    ranks = Ranks(tmp_path, generator)
    for _ in range(8):
        world_size = generator.choice([1, 2, 3])
        rank = generator.randrange(world_size)
        ranks.run(rank, world_size)
        if generator.random() < 0.3:
            ranks.tear(rank)
        if generator.random() < 0.15:
            ranks.remove()
        folder = StreamFolder.open(tmp_path)
        totals, failed, missing = by_reading_all(folder)
        assert Standing(folder).totals == totals
        for found in (status(folder), status(folder, 3)):
            assert found.totals == totals
            assert {row.video_id for row in found.failed} == failed
            assert found.num_missing == len(missing)
        assert status(folder).missing == missing
        assert len(status(folder, 3).missing) == min(3, len(missing))


def test_few_failures_are_found_without_reading_all_rows(tmp_path, monkeypatch):
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, SHARD_SIZE)
    journal = Journal(tmp_path, 0)
    for video_id in IDS:
        is_bad = video_id in (IDS[2], IDS[5])
        video = failed_video(video_id) if is_bad else stored_video(video_id)
        journal.finished(row_of(video, folder.plan.places[video_id].shard))
    monkeypatch.setattr("vadprep.features.status.Standing", None)
    monkeypatch.setattr("vadprep.features.plan.read_plan", None)
    found = status(StreamFolder.open(tmp_path), 20)
    assert (found.planned, found.done, found.num_missing) == (len(IDS), len(IDS) - 2, 0)
    assert {row.video_id for row in found.failed} == {IDS[2], IDS[5]}


def test_rows_of_an_older_version_are_counted(tmp_path):
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, SHARD_SIZE)
    journal = Journal(tmp_path, 0)
    for video_id in IDS[:5]:
        journal.finished(row_of(stored_video(video_id), 0))
    path = manifest_path(tmp_path, 0)
    old = [values[:11] for values in rows(path)]
    path.write_bytes(lines([COLUMNS, *old]))
    plan = [("video_id", "shard"), *(row[:2] for row in rows(folder.plan_path))]
    folder.plan_path.write_bytes(lines(plan, "\r\n"))
    assert status(folder, 20).done == 5
    Journal(tmp_path, 0).finished(row_of(stored_video(IDS[5]), 1))
    assert (status(folder, 20).done, status(folder).missing) == (6, tuple(IDS[6:]))


# ---------------------------------------------------------------- pace


def event(time: float, name: str, video_id: str = "", **values: object) -> dict[str, object]:
    return {"time": time, "event": name, "video_id": video_id, **values}


RUN = [
    event(0, "start", "of a run before"),
    event(100, "run", work_left=1000.0),
    event(100, "start", "a"),
    event(101, "start", "b"),
    event(200, "committed", "a", num_clips=40, work_left=600.0),
    event(201, "start", "c"),
    event(300, "failed", "b", num_clips=0, work_left=500.0),
]


def test_the_pace_of_a_rank_is_that_of_its_last_run_since_its_first_video():
    """Before that, networks were loaded: 100 s do not count."""
    third = event(400, "committed", "c", num_clips=50, work_left=300.0)
    found = pace_of_rank([*RUN, third], 7, now=400)
    assert found.running == ()
    assert found.videos_per_second == pytest.approx(2 / 200)
    assert found.clips_per_second == pytest.approx(50 / 200)
    assert found.seconds_left == pytest.approx(300 / (300 / 200))
    assert pace_of_rank(RUN[:6], 7, now=290) == Pace((Running("b", 7, 101), Running("c", 7, 201)))


def test_the_pace_is_that_of_the_last_minutes():
    ends = [
        event(10.0 * n, "committed", f"{n}", num_clips=1, work_left=1000.0 - n) for n in range(200)
    ]
    found = pace_of_rank(ends, 0, now=1990)
    assert found.videos_per_second == pytest.approx(0.1)
    assert found.seconds_left == pytest.approx(801 / 0.1)


def test_long_videos_are_looked_at_further_back():
    ends = [event(1000.0 * n, "committed", f"{n}", num_clips=5) for n in range(20)]
    assert pace_of_rank(ends, 0, now=19000).videos_per_second == pytest.approx(1e-3)


def test_nothing_is_known_at_the_start_of_a_run():
    assert pace_of_rank(RUN[:3], 0, now=150) == Pace((Running("a", 0, 100),))


DEAD = replace(this_run(0, 2), process=1 << 22)


@pytest.mark.parametrize(
    ("holder", "running"),
    [(ELSEWHERE, 1), (replace(ELSEWHERE, holds=False), 0), (DEAD, 0), (None, 0)],
    ids=["at work", "about to begin", "dead", "none"],
)
def test_only_a_run_that_holds_its_lease_is_at_work(tmp_path, holder, running):
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, SHARD_SIZE)
    journal = Journal(tmp_path, 0)
    journal.event("run", "")
    journal.event("start", IDS[0])
    if holder:
        write_lease(tmp_path, holder)
    found = status(folder, 20)
    assert len(found.pace.running) == running
    assert len(found.runs) == (holder is not None and holder.host == "other")
