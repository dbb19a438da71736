"""How far a folder is, how fast it goes on, why a video is missing, and which ranks have work."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.commands import message, run
from support.leases import ELSEWHERE, write_lease
from support.stored import (
    ODD_IDS,
    failed_video,
    row_of,
    small_spec,
    stored_video,
    write_folder,
)

from vadprep.data import ids as ids_module
from vadprep.features import journal
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Event, Journal, Row, csv_bytes, read_rows
from vadprep.features.lease import Run
from vadprep.features.status import (
    Pace,
    array_of,
    last_world_size,
    missing_ranks,
    rank_pace,
    status,
    stream_status,
)

IDS = [*ODD_IDS, *(f'v{n}, "q"\n' for n in range(6))]


def test_the_rows_of_older_versions_are_read_and_added_to(tmp_path):
    """They have columns of running totals."""
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, 4)
    rows = [row_of(stored_video(each), 0) for each in IDS[:5]]
    more = ("against", "total_done", "last_notable")
    old = [(*Row._fields, *more), *((*row, "0@1.5", 3, 0) for row in rows)]
    (tmp_path / "manifest-00000.csv").write_bytes(csv_bytes(old))
    assert list(read_rows(tmp_path).values()) == rows
    Journal(tmp_path, 0).add(row_of(stored_video(IDS[5]), 1))
    found = stream_status(folder)
    assert (found.done, found.missing) == (6, tuple(IDS[6:]))


def test_a_video_that_was_done_again_counts_once(tmp_path):
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, 4)
    for rank, video in enumerate([failed_video(IDS[0]), stored_video(IDS[0])]):
        Journal(tmp_path, rank).add(row_of(video, 0)._replace(time=10.0 + rank))
    Journal(tmp_path, 0).add(row_of(stored_video("of no plan"), 0))
    found = stream_status(folder)
    assert (found.done, found.failed, len(found.missing)) == (1, (), len(IDS) - 1)


def test_status_says_why_a_video_is_missing(tmp_path):
    path = tmp_path / "f" / "rgb"
    videos = [stored_video("good.mp4"), failed_video("bad.mp4", "no frames")]
    write_folder(path, videos)
    StreamFolder.prepare(path, small_spec(), ["good.mp4", "bad.mp4", "later.mp4", "now.mp4"], 2)
    write_lease(path, replace(ELSEWHERE, in_flight=("now.mp4",)))
    found = status(tmp_path / "f")["rgb"]
    assert found.why("good.mp4").startswith(f"done: 3 clips in {path}/shards/shard-00000.h5")
    assert found.why("bad.mp4").startswith("failed: no frames")
    assert "not extracted yet" in found.why("later.mp4") and "shard-00001" in found.why("later.mp4")
    assert "being extracted by rank 0" in found.why("now.mp4")
    assert "not in" in found.why("gud.mp4") and "'good.mp4'" in found.why("gud.mp4")
    result = run("status", tmp_path / "f", "--video", "bad.mp4")
    assert (result.exit_code, result.stdout) == (1, f"rgb: {found.why('bad.mp4')}\n")
    assert run("status", tmp_path / "f", "--video", "good.mp4").exit_code == 0


def test_in_a_long_plan_an_id_is_compared_with_few(folder, monkeypatch):
    StreamFolder.prepare(folder.path, small_spec(), ["a long name.mp4", "another name.mp4"])
    monkeypatch.setattr(ids_module, "MOST_COMPARED", 1)
    found = status(folder.path.parent)["rgb"]
    assert found.why("a long name").endswith("similar ids: 'a long name.mp4'")


# ---------------------------------------------------------------- pace


def event(time: float, name: str, video_id: str = "", **values: object) -> Event:
    return Event(time, name, video_id, **values)


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
    found = rank_pace([*RUN, third], now=400)
    assert found.videos_per_second == pytest.approx(2 / 200)
    assert found.clips_per_second == pytest.approx(50 / 200)
    assert found.seconds_left == pytest.approx(300 / (300 / 200))
    assert rank_pace(RUN[:4], now=190) == Pace()


def test_the_pace_is_that_of_the_last_minutes():
    ends = [
        event(10.0 * n, "committed", f"{n}", num_clips=1, work_left=1000.0 - n) for n in range(200)
    ]
    found = rank_pace(ends, now=1990)
    assert found.videos_per_second == pytest.approx(0.1)
    assert found.seconds_left == pytest.approx(801 / 0.1)


def test_long_videos_are_looked_at_further_back():
    ends = [event(1000.0 * n, "committed", f"{n}", num_clips=5) for n in range(20)]
    assert rank_pace(ends, now=19000).videos_per_second == pytest.approx(1e-3)


DEAD = replace(Run.of_this_process(0, 2), process=1 << 22)


@pytest.mark.parametrize(
    ("holder", "running"), [(ELSEWHERE, 1), (DEAD, 0), (None, 0)], ids=["works", "dead", "none"]
)
def test_only_a_run_with_a_lease_is_running(tmp_path, holder, running):
    folder = StreamFolder.prepare(tmp_path, small_spec(), IDS, 4)
    Journal(tmp_path, 0).event("run")
    Journal(tmp_path, 0).event("start", IDS[0])
    if holder:
        write_lease(tmp_path, replace(holder, in_flight=(IDS[0],)))
    found = stream_status(folder)
    assert len(found.running) == len(found.runs) == running


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("missing", "text"),
    [([], ""), ([0], "0"), ([0, 2, 3], "0,2-3"), ([0, 1, 2, 7], "0-2,7"), ([4, 5], "4-5")],
)
def test_ranks_as_sbatch_takes_them(missing, text):
    assert array_of(missing) == text


@pytest.fixture
def folder(tmp_path) -> StreamFolder:
    """Six final shards of one video; the third has failed."""
    videos = [failed_video("v2") if n == 2 else stored_video(f"v{n}") for n in range(6)]
    return write_folder(tmp_path / "f" / "rgb", videos, small_spec(), shard_size=1)


def test_a_rank_is_missing_while_a_shard_of_it_is_not_final(folder):
    assert missing_ranks([folder], 4) == []
    folder.shard(1).unlink()
    folder.shard(4).unlink()
    assert missing_ranks([folder], 4) == [0, 1]
    assert missing_ranks([folder], 3) == [1]
    folder.partial(3).mkdir()  # parts beside a final shard are work left
    assert missing_ranks([folder], 4) == [0, 1, 3]


def test_a_rank_is_missing_when_it_is_in_one_of_the_streams(folder, tmp_path):
    videos = [stored_video(f"v{n}") for n in range(6)]
    flow = write_folder(tmp_path / "f" / "flow", videos, small_spec(), shard_size=1)
    flow.shard(3).unlink()
    assert missing_ranks([folder, flow], 4) == [3]


def test_the_world_size_is_that_of_the_newest_start(folder, tmp_path, monkeypatch):
    assert last_world_size([folder]) is None
    for at, rank, world_size in ((1e9, 3, 4), (3e9, 0, 8), (2e9, 3, 7)):
        monkeypatch.setattr(journal.time, "time", lambda at=at: at)
        Journal(folder.path, rank).event("start", "v0", world_size=world_size)
    Journal(folder.path, 0).event("committed", "v0")
    assert last_world_size([folder]) == 8
    other = write_folder(tmp_path / "f" / "flow", [stored_video("v0")])
    assert last_world_size([folder, other]) == 8
    monkeypatch.setattr(journal, "LAST_BYTES", 300)
    monkeypatch.setattr(journal.time, "time", lambda: 4e9)
    events = Journal(folder.path, 0)
    for number in range(100):
        events.event("start", f"v{number}", world_size=number + 10)
    with (folder.path / "events-00000.jsonl").open("a") as stream:
        stream.write('{"event": "sta')  # a kill amid the line
    assert last_world_size([folder]) == 109


def test_status_prints_the_missing_ranks_and_nothing_else(folder):
    path = folder.path.parent
    assert "add --world-size" in message(run("status", path, "--missing-ranks"))
    complete = run("status", path, "--missing-ranks", "--world-size", 4)
    assert (complete.exit_code, complete.stdout) == (0, "")
    for shard in (0, 2, 3):
        folder.shard(shard).unlink()
    Journal(folder.path, 0).event("start", "v0", world_size=4)
    result = run("status", path, "--missing-ranks")
    assert (result.exit_code, result.stdout) == (1, "0,2-3\n")
    assert "of 4 ranks, as in the last run" in result.stderr
    result = run("status", path, "--missing-ranks", "--world-size", 2)
    assert (result.exit_code, result.stdout) == (1, "0-1\n")


def test_a_plan_that_is_not_there_yet_is_no_complete_one(folder):
    (folder.path / "plan.csv").unlink()
    path = folder.path.parent
    words = message(run("status", path, "--missing-ranks", "--world-size", 4))
    assert "plan.csv" in words and "extract" in words
    assert json.loads(run("status", path, "--json").stdout)[0]["planned"] == 0
