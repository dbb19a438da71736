"""Leases: who may work on a shard, who gives way, and who learns that its own is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import product

import pytest
from support.leases import ELSEWHERE, beating, write_lease
from support.waiting import wait_for

from vadprep.core.errors import LeaseError, OutputError
from vadprep.features import lease
from vadprep.features.lease import Run, leased, running

QUICK = {"BEAT_SECONDS": 0.05, "STALE_SECONDS": 0.6, "LOOK_SECONDS": 0.02}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setattr(lease, name, value)


def never() -> None:
    raise AssertionError("no lease is lost here")


def test_two_shares_meet_just_when_they_have_a_shard_in_common():
    for n1, n2 in product(range(1, 7), repeat=2):
        for r1, r2 in product(range(n1), range(n2)):
            common = set(range(r1, 60, n1)) & set(range(r2, 60, n2))
            assert Run(r1, n1, "a", 1).meets(Run(r2, n2, "b", 2)) == bool(common)


def test_a_lease_is_there_for_the_block_and_says_what_the_run_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with leased(tmp_path, 1, 4, never) as mine:
        for video_id in ("a", "\udcff", "c"):
            mine.started(video_id)
        mine.ended("a", 7, 120)
        mine.write()
        (found,) = running(tmp_path)
    assert (found.rank, found.world_size, found.job) == (1, 4, "17_3")
    assert found.in_flight == ("\udcff", "c")
    assert (found.videos, found.num_clips, found.num_frames) == (1, 7, 120)
    assert os.listdir(tmp_path) == []


def test_a_lease_that_becomes_shorter_can_be_read(tmp_path):
    with leased(tmp_path, 0, 1, never) as mine:
        (found,) = running(tmp_path)
        assert found.machine == Run.of_this_process(0, 1).machine
        mine.started("a long name, which is gone then")
        mine.write()
        mine.ended("a long name, which is gone then", 0, 0)
        mine.write()
        assert running(tmp_path)[0].machine


def test_the_lease_goes_on_beating(tmp_path):
    with leased(tmp_path, 0, 1, never) as mine:
        seen = set()

        def beats() -> int:
            seen.update(each.beat for each in running(tmp_path))
            mine.check()
            return len(seen)

        wait_for(lambda: beats() >= 4)


def test_a_lease_is_removed_when_the_block_fails(tmp_path):
    with pytest.raises(OutputError, match="full"), leased(tmp_path, 0, 1, never):
        raise OutputError("the disk is full")
    assert os.listdir(tmp_path) == []


def test_a_share_beside_it_is_no_matter(tmp_path):
    with beating(tmp_path, ELSEWHERE), leased(tmp_path, 1, 2, never):
        assert [each.rank for each in running(tmp_path)] == [0, 1]


def test_a_run_of_another_host_that_shows_life_refuses(tmp_path):
    with beating(tmp_path, ELSEWHERE) as path:
        with pytest.raises(LeaseError) as caught, leased(tmp_path, 0, 4, never):
            raise AssertionError("both would work on shard 0")
        assert os.listdir(tmp_path) == [path.name]
    words = str(caught.value)
    for part in ("rank 0 of 2 on host other, process 77, SLURM job 17_0", "scancel 17_0"):
        assert part in words
    assert "\n" not in words


@pytest.mark.parametrize("content", ["", "{", '{"rank": 0}', None])
def test_a_run_of_another_host_that_shows_none_is_taken_over(tmp_path, content):
    path = write_lease(tmp_path, ELSEWHERE)
    if content is not None:
        path.write_text(content)  # half written when its host died
    began = time.monotonic()
    with leased(tmp_path, 0, 1, never):
        assert not path.exists()
    assert time.monotonic() - began > QUICK["STALE_SECONDS"]


def test_a_hundred_stale_leases_are_watched_at_once(tmp_path):
    for rank in range(100):
        write_lease(tmp_path, replace(ELSEWHERE, rank=rank, world_size=100))
    began = time.monotonic()
    with leased(tmp_path, 0, 1, never):
        assert [each.host for each in running(tmp_path)] == [Run.of_this_process(0, 1).host]
    assert time.monotonic() - began < 20 * QUICK["STALE_SECONDS"]


@pytest.mark.parametrize("how", ["dead", "number used again", "zombie"])
def test_a_dead_run_of_this_machine_is_replaced_at_once(tmp_path, monkeypatch, how):
    monkeypatch.setattr(lease, "STALE_SECONDS", 3600.0)
    mine = replace(Run.of_this_process(0, 1))
    process = subprocess.Popen([sys.executable, "-c", ""])
    if how == "number used again":
        other = replace(mine, process=os.getppid(), began=1)
    else:
        other = replace(mine, process=process.pid, began=1)
    if how == "dead":
        process.wait()
    write_lease(tmp_path, other)
    if how == "zombie":
        wait_for(lambda: not running(tmp_path))
    with leased(tmp_path, 0, 1, never):
        assert [each.process for each in running(tmp_path)] == [os.getpid()]
    process.wait()


@pytest.mark.parametrize("machine", ["boot/of another container", ""])
def test_another_container_with_our_host_name_and_process_number_is_another_run(
    tmp_path, monkeypatch, machine
):
    with leased(tmp_path, 0, 1, never) as first:
        with monkeypatch.context() as there:
            there.setattr(lease, "_machine", lambda: machine)
            with pytest.raises(LeaseError, match="another run works"):
                with leased(tmp_path, 0, 1, never):
                    raise AssertionError("both would work")
        first.check()
        assert os.listdir(tmp_path) == [first.path.name]


def test_a_killed_container_is_waited_for_and_then_replaced(tmp_path, monkeypatch):
    mine = Run.of_this_process(0, 1)
    path = write_lease(tmp_path, replace(mine, machine="boot/of another container"))
    began = time.monotonic()
    with leased(tmp_path, 0, 1, never):
        assert not path.exists()
    assert time.monotonic() - began > QUICK["STALE_SECONDS"]


@pytest.mark.parametrize("host", ["h", "node-7", "node-x12-y", "a\nb"])
def test_names_of_all_versions_are_read_and_new_ones_are_read_by_older_versions(tmp_path, host):
    older = re.compile(r"lease-(\d{1,9})-of-0*([1-9]\d{0,8})-(.+)-(\d{1,9})\.json", re.DOTALL)
    for word in ("", "x5f09c2de"):
        run = replace(ELSEWHERE, host=host, word=word)
        path = write_lease(tmp_path, run)
        assert running(tmp_path) == [run]
        match = older.fullmatch(path.name)
        assert match and [int(match[n]) for n in (1, 2, 4)] == [run.rank, 2, run.process]
        path.unlink()
    words = {Run.of_this_process(0, 1).word for _ in range(9)}
    assert len(words) == 9 and all(re.fullmatch("x[0-9a-f]{8}", word) for word in words)


def test_a_run_that_cannot_be_looked_at_is_not_taken_for_dead(tmp_path, monkeypatch):
    """As of another user where /proc hides their processes."""
    other = replace(Run.of_this_process(0, 1), process=os.getppid(), began=1)
    monkeypatch.setattr(lease, "_begin_of", lambda process: 0)
    with beating(tmp_path, other), pytest.raises(LeaseError, match="another run works"):
        with leased(tmp_path, 0, 1, never):
            pass


CONTENDER = """
import sys, time
from pathlib import Path
from vadprep.features import lease
from vadprep.core.errors import LeaseError
lease.BEAT_SECONDS, lease.STALE_SECONDS, lease.LOOK_SECONDS = 0.05, 5.0, 0.01
folder, rank, world_size = Path(sys.argv[1]), *map(int, sys.argv[2:])
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    with lease.leased(folder, rank, world_size, lambda: None):
        print("holds", flush=True)
        sys.stdin.read()
except LeaseError:
    print("refused", flush=True)
"""


def test_of_many_that_begin_at_once_at_most_one_goes_on(tmp_path):
    shares = [(0, 1), (0, 1), (1, 2), (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path), *map(str, share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for share in shares
    ]
    time.sleep(1.0)
    (tmp_path / "go").touch()
    words = sorted(each.stdout.readline().strip() for each in processes)
    for each in processes:
        each.communicate()
    assert words[1:] == ["refused"] * 3
    assert os.listdir(tmp_path) == ["go"]


def test_a_lease_taken_over_stays_so_and_ends_the_run_before_it_commits(tmp_path):
    told = threading.Event()
    with pytest.raises(LeaseError, match="taken over") as caught:
        with leased(tmp_path, 0, 1, told.set) as mine:
            mine.path.unlink()
            with pytest.raises(LeaseError):
                mine.check()
            with pytest.raises(LeaseError):
                mine.write()
            assert told.wait(20)
            raise OutputError("whatever that has led to")
    assert isinstance(caught.value.__context__.__context__, OutputError)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_does_not_end_the_beating(tmp_path, monkeypatch):
    real, failed = os.fsync, []

    def fsync(file: int) -> None:
        if len(failed) < 3:
            failed.append(1)
            raise OSError(28, "No space left on device")
        real(file)

    with leased(tmp_path, 0, 1, never):
        monkeypatch.setattr(lease.os, "fsync", fsync)
        (before,) = running(tmp_path)
        wait_for(lambda: running(tmp_path)[0].beat >= before.beat + 4)
        assert len(failed) == 3
