"""Workers for the cores that are ours, not for those of the whole resources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vadprep.core import resources
from vadprep.core.resources import cache_folder, free_memory, worker_cores

WORKERS = "from vadprep.core.resources import worker_cores; print(worker_cores())"


@pytest.mark.parametrize(
    ("bound_to", "given", "expected"),
    [
        (8, {}, 8),
        (8, {"SLURM_CPUS_PER_TASK": "2"}, 2),
        (8, {"SLURM_CPUS_ON_NODE": "4"}, 4),
        (8, {"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "4"}, 2),
        (1, {"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "4"}, 1),
        (8, {"SLURM_CPUS_PER_TASK": "", "SLURM_CPUS_ON_NODE": "0"}, 8),
    ],
)
def test_workers_are_for_the_cores_that_are_ours(monkeypatch, bound_to, given, expected):
    for name in resources.SLURM_CORES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda process: set(range(bound_to)))
    assert worker_cores() == expected


@pytest.mark.parametrize(
    ("prefix", "environment"), [(("taskset", "-c", "0"), {}), ((), {"SLURM_CPUS_PER_TASK": "1"})]
)
def test_one_core_gives_one_worker(prefix, environment):
    found = subprocess.run(
        [*prefix, sys.executable, "-c", WORKERS],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "1\n"


def test_a_user_without_a_home_has_a_cache_folder_all_the_same(monkeypatch):
    monkeypatch.delenv("VADPREP_CACHE", raising=False)
    monkeypatch.setattr(resources.os.path, "expanduser", lambda path: path)  # uid without account
    assert cache_folder() == Path("/.cache/vadprep")
    monkeypatch.setenv("VADPREP_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


def test_free_memory_is_bounded_by_the_control_group(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    whole = free_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < whole <= total
    limit(tmp_path, "max", 0)
    assert free_memory() > 1 << 20
    limit(tmp_path, str(100 << 20), 60 << 20)
    assert free_memory() == 40 << 20
    limit(tmp_path, str(100 << 20), 160 << 20)
    assert free_memory() == 0
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {90 << 20}\n")
    assert free_memory() == 30 << 20


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)],
)
def test_a_container_bounds_the_workers(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert worker_cores() == cores


def limit(folder: Path, most: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_the_cache_stands_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("VADPREP_CACHE", "")
    assert cache_folder() == Path("/home/a/.cache/vadprep")
    monkeypatch.setenv("VADPREP_CACHE", "/v")
    assert cache_folder() == Path("/v")
