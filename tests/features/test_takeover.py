"""Runs that meet: the second is refused, the dead and the suspended are replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import run as run_command
from support.interrupted import SPEC
from support.kill_many import files_in, make_videos
from support.leases import ELSEWHERE, beating, write_lease
from support.stored import small_spec, stored_video, write_folder
from support.waiting import wait_for

from vadprep.core import atomic as files
from vadprep.core.errors import LeaseError
from vadprep.core.records import Video
from vadprep.data import Manifest
from vadprep.extraction.run import Extraction, locked_extraction
from vadprep.features import lease
from vadprep.features.folder import StreamFolder
from vadprep.features.lease import running
from vadprep.features.writer import Share

TESTS = Path(__file__).parents[1]
IDS = [f"v{number}" for number in range(4)]
MANIFEST = Manifest(Path("m.csv"), tuple(Video(each, each, num_frames=9) for each in IDS))


def test_a_second_run_is_refused_before_it_touches_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.02)
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, IDS, 2)
    with beating(folder.path, ELSEWHERE):
        before = files_in(folder.path)
        with pytest.raises(LeaseError):
            with locked_extraction([folder], MANIFEST, tmp_path, Share(0, 1)):
                raise AssertionError("no driver without a lease")
        assert files_in(folder.path) == before


def test_the_owner_removes_what_other_hosts_left_in_its_shards_alone(tmp_path):
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, IDS, 2)
    left, in_use = [], []
    for shard in range(2):
        folder.partial(shard).mkdir()
        left.append(folder.partial(shard) / "000000.h5.tmp-elsewhere-1-0")
        left.append(folder.shard(shard).with_name(f"{folder.shard(shard).name}.tmp-elsewhere-1-0"))
        name, file = files.create_temporary(folder.partial(shard) / "000000.h5")
        left.append(name)
        in_use.append(file)
    for path in left:
        path.touch()
    Extraction([folder], MANIFEST, tmp_path, Share(1, 2)).recover()
    assert all(path.exists() for path in left), "without a lease nothing of others is removed"
    with locked_extraction([folder], MANIFEST, tmp_path, Share(1, 2)) as driver:
        driver.recover()
    assert [path.exists() for path in left] == [True, True, True, False, False, True]
    for file in in_use:
        file.close()


SUSPENDED = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from vadprep.features import lease
lease.BEAT_SECONDS, lease.STALE_SECONDS, lease.LOOK_SECONDS = 0.1, 1.0, 0.05
from support import interrupted
sys.exit(interrupted.main(sys.argv[1:]))
"""


def extraction(folder: Path, videos: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUSPENDED, str(folder), str(videos), "process", "1"],
        env=os.environ
        | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_in_flight(folder: Path) -> None:
    wait_for(lambda: any(each.in_flight and each.videos for each in running(folder)))


@pytest.mark.slow
def test_a_second_run_ends_with_the_error_and_a_killed_one_is_replaced_at_once(tmp_path):
    videos = make_videos(tmp_path / "videos", 60)  # to outlast the start of the second
    first = extraction(tmp_path / "f", videos)
    wait_in_flight(tmp_path / "f")
    second = extraction(tmp_path / "f", videos)
    _, words = second.communicate(timeout=60)
    assert second.returncode == 1 and first.poll() is None
    assert f"process {first.pid}; wait for its end, or end it (kill {first.pid} there)" in words
    os.killpg(first.pid, signal.SIGKILL)  # not waited for: a zombie is dead, too
    third = extraction(tmp_path / "f", videos)
    _, words = third.communicate(timeout=60)
    assert third.returncode == 0, words
    assert "Watching" not in words
    first.communicate()
    assert not list((tmp_path / "f").glob("lease-*"))


@pytest.mark.slow
def test_a_suspended_run_that_was_taken_over_writes_nothing_more(tmp_path):
    videos = make_videos(tmp_path / "videos", 6)
    folder = tmp_path / "f"
    first = extraction(folder, videos)
    wait_in_flight(folder)
    os.kill(first.pid, signal.SIGSTOP)
    second = extraction(folder, videos)
    _, words = second.communicate(timeout=60)
    assert second.returncode == 0, words
    assert "another run?" in words and "taken over" in words
    before = {name: (folder / name).read_bytes() for name in files_in(folder)}
    os.kill(first.pid, signal.SIGCONT)
    _, words = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "another run has taken over this run's shards" in words
    assert {name: (folder / name).read_bytes() for name in files_in(folder)} == before


# ---------------------------------------------------------------- status


def test_status_names_the_runs_at_work(tmp_path):
    path = tmp_path / "rgb"
    write_folder(path, [stored_video("a")], small_spec())
    write_lease(path, replace(ELSEWHERE, videos=3, in_flight=("b.mp4",)))
    quiet = write_lease(path, replace(ELSEWHERE, rank=1))
    os.utime(quiet, (time.time() - 600, time.time() - 600))
    result = run_command("status", tmp_path)
    lines = [line for line in result.stdout.splitlines() if line.startswith("running, rgb: ")]
    assert len(lines) == 2
    assert "rank 0 of 2 on host other, process 77, SLURM job 17_0: 3 videos done" in lines[0]
    assert "1 in work (b.mp4), last sign of life 0." in lines[0]
    assert "NO SIGN OF LIFE for 10 min" in lines[1]
    found = json.loads(run_command("status", tmp_path, "--json").stdout)
    assert [each["host"] for each in found[0]["runs"]] == ["other", "other"]
