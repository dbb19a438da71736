"""What is to be put behind ``sbatch --array=``, from the folder alone."""

from __future__ import annotations

import json

import pytest
from support.commands import message, run
from support.stored import failed_video, small_spec, stored_video, write_folder

from vadprep.features import journal, ranks
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Journal
from vadprep.features.ranks import array_of, last_world_size, missing_ranks


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
    assert missing_ranks([folder], 1) == [0]


def test_parts_beside_a_final_shard_are_work_left(folder):
    folder.partial(5).mkdir()
    assert missing_ranks([folder], 4) == [1]


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


def test_only_the_end_of_a_long_file_is_read(folder, monkeypatch):
    monkeypatch.setattr(ranks, "TAIL_BYTES", 300)
    events = Journal(folder.path, 0)
    for number in range(100):
        events.event("start", f"v{number}", world_size=number)
    assert last_world_size([folder]) == 99
    with (folder.path / "events-00000.jsonl").open("a") as stream:
        stream.write('{"event": "sta')  # a kill amid the line
    assert last_world_size([folder]) == 99


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
    assert "of 4 ranks, as the last run had" in result.stderr
    result = run("status", path, "--missing-ranks", "--world-size", 2)
    assert (result.exit_code, result.stdout) == (1, "0-1\n")
    assert "as asked" in result.stderr


def test_a_plan_that_is_not_there_yet_is_no_complete_one(folder):
    (folder.path / "plan.csv").unlink()
    path = folder.path.parent
    words = message(run("status", path, "--missing-ranks", "--world-size", 4))
    assert "plan.csv" in words and "extract" in words
    assert json.loads(run("status", path, "--json").stdout)[0]["planned"] == 0
