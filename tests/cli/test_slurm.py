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
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from support.commands import run as run_command
from support.kill_many import restarted, snippets
from support.slurm_node import SlurmNode, slurm_node
from support.videos import write_video
from support.waiting import wait_for

from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_rows
from vadprep.features.lease import Run, running
from vadprep.features.status import verify_stream

JOBS = Path(__file__).parents[2] / "slurm"
SMALL = ("--gres=none", "--cpus-per-task=1", "--mem=1800")
VIDEOS, SHARD_SIZE = 16, 2
PATIENCE = 400.0
T = TypeVar("T")

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


class Jobs:
    """Jobs that work on one folder."""

    def __init__(self, node: SlurmNode, videos: Path, out: Path) -> None:
        self.node, self.videos, self.out = node, videos, out
        self.logs = out.with_name(f"{out.name}-logs")
        self.logs.mkdir()

    def submit(self, ranks: str, world_size: int, *more: str) -> str:
        """The number of the job, whose logs are ``NUMBER-RANK.log``."""
        return self._submit(
            f"--array={ranks}",
            f"--output={self.logs}/%A-%a.log",
            JOBS / "extract_array.sbatch",
            world_size,
            *options(self.videos, self.out),
            *more,
        )

    def submit_cluster(self, nodes: int) -> str:
        """The number of a job of ``cluster.sbatch``, all of whose nodes of Ray are here."""
        return self._submit(
            f"--ntasks-per-node={nodes}",
            f"--output={self.logs}/%j-0.log",
            JOBS / "cluster.sbatch",
            *options(self.videos, self.out),
        )

    def _submit(self, *arguments: object) -> str:
        return self.node.submit(*SMALL, *map(str, arguments))

    def log(self, job: str, rank: int) -> str:
        return (self.logs / f"{job}-{rank}.log").read_text()

    def status(self, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["vadprep", "status", str(self.out), *more]
        return subprocess.run(command, env=self.node.env, capture_output=True, text=True)

    def at_work(self, *ranks: int, in_flight: int = 1) -> list[Run]:
        """The runs of ``ranks``, once each has a video committed and ``in_flight`` others in work;
        the workers of a run start one after the other."""

        def found() -> list[Run]:
            if not list(self.out.glob("rgb/plan.csv")):
                return []
            (stream,) = json.loads(run_command("status", self.out, "--json").stdout)
            runs = {run["rank"]: Run(**run) for run in stream["runs"]}
            busy = [
                run
                for rank in ranks
                if (run := runs.get(rank)) and run.videos and len(run.in_flight) >= in_flight
            ]
            return busy if len(busy) == len(ranks) and stream["done"] else []

        return wait_for(found, PATIENCE, pause=0.1)

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


def require_whole(jobs: Jobs, whole: dict[str, bytes]) -> None:
    """Complete, verified, equal to the undisturbed run, and nothing but final files."""
    status = jobs.status()
    assert status.returncode == 0, status.stdout
    assert verify_stream(StreamFolder.open(jobs.out / "rgb")).problems == ()
    assert snippets(jobs.out / "rgb") == whole
    assert restarted(jobs.out / "rgb") == []
    assert running(jobs.out / "rgb") == []
    assert not [name for name in jobs.content() if ".tmp-" in name or "partial" in name]


def test_an_array_stopped_in_every_way_is_made_whole_by_what_status_prints(
    node, videos, whole, tmp_path
):
    jobs = Jobs(node, videos, tmp_path / "features")
    job = jobs.submit("0-3%2", 4)

    jobs.at_work(0, 1)
    shown = run_command("status", jobs.out).stdout
    assert "running, rgb: rank 0 of 4" in shown and f"SLURM job {job}_0" in shown
    node.cancel(f"{job}_0")
    node.cancel("--signal=TERM", "--batch", f"{job}_1")
    third, _ = jobs.at_work(2, 3)
    os.kill(third.process, signal.SIGKILL)
    node.cancel("--signal=USR1", "--batch", f"{job}_3")  # as two minutes before the end
    node.wait_idle(PATIENCE)

    assert node.ended(f"{job}_0") == ("CANCELLED", "75:0")
    assert node.ended(f"{job}_1") == ("FAILED", "75:0")
    assert node.ended(f"{job}_2") == ("FAILED", "0:9")
    assert node.ended(f"{job}_3") == ("FAILED", "75:0")
    logs = {rank: jobs.log(job, rank) for rank in range(4)}
    assert re.search(rf"JOB \d+ ON {node.host} CANCELLED", logs[0])
    assert "stopped by SIGTERM; all finished videos are committed" in logs[0]
    assert "stopped by SIGTERM" in logs[1]
    assert "stopped by" not in logs[2]
    assert "stopped by SIGUSR1" in logs[3]
    committed = read_rows(jobs.out / "rgb")
    assert 4 <= len(committed) < VIDEOS

    missing = jobs.status("--missing-ranks")
    assert "of 4 ranks, as in the last run" in missing.stderr
    assert missing.stdout.strip() == "0-3"
    assert jobs.make_whole(4) == ["0-3"]
    require_whole(jobs, whole)

    before = jobs.content()
    again = jobs.submit("0-2", 3)
    node.wait_idle(PATIENCE)
    assert [node.ended(f"{again}_{rank}") for rank in range(3)] == [("COMPLETED", "0:0")] * 3
    assert jobs.content() == before


def test_two_tasks_of_a_node_have_a_private_ray_each(node, videos, whole, tmp_path):
    temporary = Path(f"/tmp/ray-{os.getpid()}")  # short, as Ray's sockets need it
    temporary.mkdir()
    jobs = Jobs(node, videos, tmp_path / "features")
    node.env["TMPDIR"] = str(temporary)
    try:
        job = jobs.submit("0-1", 2, "--workers", "2")
        jobs.at_work(0, 1)
        assert len(list(temporary.glob("vadprep.*/session_2*"))) == 2
        node.cancel(f"{job}_0")  # to all its processes, Ray's too
        node.wait_idle(PATIENCE)
        assert node.ended(f"{job}_0") == ("CANCELLED", "75:0")
        assert node.ended(f"{job}_1") == ("COMPLETED", "0:0")
        assert "stopped by SIGTERM" in jobs.log(job, 0)
        assert jobs.make_whole(2) == ["0"]
        require_whole(jobs, whole)
        assert list(temporary.glob("vadprep.*")) == []
    finally:
        del node.env["TMPDIR"]
        subprocess.run(["rm", "-rf", str(temporary)], check=True)


def test_a_second_run_of_a_rank_is_refused_and_names_the_job_to_cancel(
    node, videos, whole, tmp_path
):
    jobs = Jobs(node, videos, tmp_path / "features")
    first = jobs.submit("0", 2)
    (run,) = jobs.at_work(0)
    second = jobs.submit("0", 4)  # another array size, and shards in common
    wait_for(lambda: node.ended(f"{second}_0")[0] == "FAILED", PATIENCE, pause=0.1)
    words = jobs.log(second, 0)
    assert f"rank 0 of 2 on host {run.host}, process {run.process}, SLURM job {first}_0" in words
    assert f"scancel {first}_0" in words
    os.kill(run.process, signal.SIGKILL)
    third = jobs.submit("0-1", 2)
    node.wait_idle(PATIENCE)
    assert [node.ended(f"{third}_{rank}")[0] for rank in range(2)] == ["COMPLETED"] * 2
    assert "at work?" not in jobs.log(third, 0)  # a dead process of this host: no waiting
    require_whole(jobs, whole)


def test_a_cluster_over_an_allocation_is_stopped_cleanly_and_goes_on(node, videos, whole, tmp_path):
    jobs = Jobs(node, videos, tmp_path / "features")
    job = jobs.submit_cluster(nodes=2)
    jobs.at_work(0, in_flight=2)
    node.cancel("--signal=USR1", "--batch", job)
    node.wait_idle(PATIENCE)
    assert node.ended(job) == ("FAILED", "75:0")
    assert "stopped by SIGUSR1" in jobs.log(job, 0)
    assert not Path(f"/tmp/vadprep-{job}").exists()
    assert 1 <= len(read_rows(jobs.out / "rgb")) < VIDEOS
    job = jobs.submit_cluster(nodes=2)
    jobs.at_work(0)
    node.cancel(job)  # to all its processes, the head's too
    node.wait_idle(PATIENCE)
    assert node.ended(job) == ("CANCELLED", "75:0")
    assert "stopped by SIG" in jobs.log(job, 0)
    assert running(jobs.out / "rgb") == []
    job = jobs.submit_cluster(nodes=2)
    node.wait_idle(PATIENCE)
    assert node.ended(job) == ("COMPLETED", "0:0")
    assert not Path(f"/tmp/vadprep-{job}").exists()
    require_whole(jobs, whole)
