"""With SLURM's own daemons on this machine: arrays and clusters, stopped in every way, made whole.

The jobs are those of ``slurm/``, with smaller resources; they decode for real and run the real
network, untrained.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_many import restarted, snippets
from slurm_node import SlurmNode, slurm_node
from videos import write_video

from vadprep.folder import StreamFolder
from vadprep.journal import read_rows
from vadprep.lease import Run, running
from vadprep.verify import verify

JOBS = Path(__file__).parents[1] / "slurm"
SMALL = ("--gres=none", "--cpus-per-task=1", "--mem=1800")
VIDEOS, SHARD_SIZE = 16, 2
PATIENCE = 400.0

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[SlurmNode]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(JOBS.parent))
        patch.delenv("VADPREP_ROOT", raising=False)
        patch.chdir(tmp_path_factory.mktemp("jobs"))  # where logs go unless said otherwise
        with slurm_node() as node:
            yield node


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "videos"
    folder.mkdir()
    for number in range(VIDEOS):
        write_video(folder / f"v{number:02d}.mp4", 16 * (4 + number % 5) + 3, size=(128, 96))
    return folder


def options(videos: Path, out: Path) -> list[str]:
    """Of an extraction that computes little; a network with batches of one."""
    cheap = ["--weights", "random:0", "--fps", "native", "--set", "batch=1"]
    return ["--videos", str(videos), "--out", str(out), "--shard-size", str(SHARD_SIZE), *cheap]


@pytest.fixture(scope="module")
def whole(node, videos) -> dict[str, bytes]:
    """Features and spans that one undisturbed run makes."""
    out = videos.parent / "whole"
    subprocess.run(["vadprep", "extract", *options(videos, out)], env=node.env, check=True)
    return snippets(out / "rgb")


class Array:
    """Jobs of ``extract_array.sbatch`` that work on one folder."""

    def __init__(self, node: SlurmNode, videos: Path, out: Path) -> None:
        self.node, self.videos, self.out = node, videos, out
        self.logs = out.with_name(f"{out.name}-logs")
        self.logs.mkdir()

    def submit(self, ranks: str, world_size: int, *more: str) -> str:
        """The number of the job, whose logs are ``NUMBER-RANK.log``."""
        log = f"--output={self.logs}/%A-%a.log"
        sbatch = (*SMALL, f"--array={ranks}", log, JOBS / "extract_array.sbatch", str(world_size))
        return self.node.submit(*sbatch, *options(self.videos, self.out), *more)

    def log(self, job: str, rank: int) -> str:
        return (self.logs / f"{job}-{rank}.log").read_text()

    def status(self, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["vadprep", "status", str(self.out), *more]
        return subprocess.run(command, env=self.node.env, capture_output=True, text=True)

    def at_work(self, rank: int) -> Run:
        """The run of ``rank``, once it has a video committed and another in flight."""

        def found() -> Run | None:
            if not (self.out / "rgb" / f"manifest-{rank:05d}.csv").exists():
                return None
            (stream,) = json.loads(self.status("--json").stdout)
            runs = [each for each in stream["running"] if each["rank"] == rank]
            is_busy = runs and runs[0]["in_flight"] and runs[0]["videos"]
            return Run(**runs[0]) if is_busy and stream["done"] else None

        return wait_for(found)

    def make_whole(self, world_size: int, most: int = 4) -> list[str]:
        """Submit what is missing until nothing is; returns what was submitted."""
        submitted = []
        while ranks := self.status("--missing-ranks").stdout.strip():
            assert len(submitted) < most, submitted
            submitted.append(ranks)
            self.submit(ranks, world_size)
            self.node.wait_idle(PATIENCE)
        return submitted

    def content(self) -> dict[str, bytes]:
        paths = (path for path in self.out.rglob("*") if path.is_file())
        return {str(path.relative_to(self.out)): path.read_bytes() for path in paths}


def wait_for(found: Callable[[], Run | None]) -> Run:
    deadline = time.monotonic() + PATIENCE
    while not (run := found()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return run


def require_whole(array: Array, whole: dict[str, bytes]) -> None:
    """Complete, verified, equal to the undisturbed run, and nothing but final files."""
    status = array.status()
    assert status.returncode == 0, status.stdout
    assert verify(StreamFolder.open(array.out / "rgb")).problems == ()
    assert snippets(array.out / "rgb") == whole
    assert restarted(array.out / "rgb") == []
    assert running(array.out / "rgb") == []
    assert not [name for name in array.content() if ".tmp-" in name or "partial" in name]


def test_an_array_stopped_in_every_way_is_made_whole_by_what_status_prints(
    node, videos, whole, tmp_path
):
    array = Array(node, videos, tmp_path / "features")
    job = array.submit("0-3%2", 4)

    array.at_work(0)
    shown = array.status().stdout
    assert "running, rgb: rank 0 of 4" in shown and f"SLURM job {job}_0" in shown
    node.call("scancel", f"{job}_0")
    array.at_work(1)
    node.call("scancel", "--signal=TERM", "--batch", f"{job}_1")
    os.kill(array.at_work(2).process, signal.SIGKILL)
    array.at_work(3)
    node.call("scancel", "--signal=USR1", "--batch", f"{job}_3")  # as two minutes before the end
    node.wait_idle(PATIENCE)

    assert node.ended(f"{job}_0") == ("CANCELLED", "75:0")
    assert node.ended(f"{job}_1") == ("FAILED", "75:0")
    assert node.ended(f"{job}_2") == ("FAILED", "0:9")
    assert node.ended(f"{job}_3") == ("FAILED", "75:0")
    logs = {rank: array.log(job, rank) for rank in range(4)}
    assert re.search(rf"JOB \d+ ON {node.host} CANCELLED", logs[0])
    assert "stopped by SIGTERM; all finished videos are committed" in logs[0]
    assert "stopped by SIGTERM" in logs[1] and "CANCELLED" not in logs[1]
    assert "stopped by" not in logs[2]
    assert "stopped by SIGUSR1" in logs[3]
    committed = read_rows(array.out / "rgb")
    assert 4 <= len(committed) < VIDEOS

    missing = array.status("--missing-ranks")
    assert "of 4 ranks, as the last run had" in missing.stderr
    assert missing.stdout.strip() == "0-3"
    assert array.make_whole(4) == ["0-3"]
    require_whole(array, whole)

    before = array.content()
    again = array.submit("0-2", 3)
    node.wait_idle(PATIENCE)
    assert [node.ended(f"{again}_{rank}") for rank in range(3)] == [("COMPLETED", "0:0")] * 3
    assert array.content() == before


def test_two_tasks_of_a_node_have_a_private_ray_each(node, videos, whole, tmp_path):
    temporary = Path(f"/tmp/ray-{os.getpid()}")  # short, as Ray's sockets need it
    temporary.mkdir()
    array = Array(node, videos, tmp_path / "features")
    node.env["TMPDIR"] = str(temporary)
    try:
        job = array.submit("0-1", 2, "--workers", "2")
        for rank in range(2):
            array.at_work(rank)
        assert len(list(temporary.glob("vadprep-*/session_2*"))) == 2
        node.call("scancel", f"{job}_0")  # to all its processes, Ray's too
        node.wait_idle(PATIENCE)
        assert node.ended(f"{job}_0") == ("CANCELLED", "75:0")
        assert node.ended(f"{job}_1") == ("COMPLETED", "0:0")
        assert "stopped by SIGTERM" in array.log(job, 0)
        assert array.make_whole(2) == ["0"]
        require_whole(array, whole)
        assert list(temporary.glob("vadprep-*")) == []
    finally:
        del node.env["TMPDIR"]
        subprocess.run(["rm", "-rf", str(temporary)], check=True)


def test_a_second_run_of_a_rank_is_refused_and_names_the_job_to_cancel(
    node, videos, whole, tmp_path
):
    array = Array(node, videos, tmp_path / "features")
    first = array.submit("0", 2)
    run = array.at_work(0)
    second = array.submit("0", 4)  # another array size, and shards in common
    wait_for(lambda: node.ended(f"{second}_0")[0] == "FAILED")
    words = array.log(second, 0)
    assert f"rank 0 of 2 on host {run.host}, process {run.process}, SLURM job {first}_0" in words
    assert f"scancel {first}_0" in words
    os.kill(run.process, signal.SIGKILL)
    third = array.submit("0-1", 2)
    node.wait_idle(PATIENCE)
    assert [node.ended(f"{third}_{rank}")[0] for rank in range(2)] == ["COMPLETED"] * 2
    assert "still at work" not in array.log(third, 0)  # a dead process of this host: no waiting
    require_whole(array, whole)
