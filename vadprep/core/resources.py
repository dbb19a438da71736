"""What this process may use of the machine: cores, memory, packages, and a folder for caches."""

from __future__ import annotations

import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path

SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""Variables with the number of cores that a task, or all our tasks on this node, were given."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container or a job finds its own limits (cgroup version 2)."""


def worker_cores() -> int:
    """Cores that this process is bound to, or the limit of SLURM or of a container if lower."""
    given = (os.environ.get(name, "") for name in SLURM_CORES)
    limits = [int(each) for each in given if each.isdecimal() and int(each)]
    if quota := core_quota():
        limits.append(max(1, int(quota)))
    return min([len(os.sched_getaffinity(0)), *limits])


def core_quota() -> float | None:
    """Cores that the control group of this process may use, None where it has no limit."""
    quota, _, period = read_cgroup("cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() else None


def read_cgroup(name: str) -> str:
    """Text of a file of the control group; empty where there is none."""
    try:
        return (CONTROL_GROUP / name).read_text().strip()
    except OSError:
        return ""


def free_memory() -> int:
    """Bytes that this process can still take: free on the machine, or in its control group if less.

    The file cache of the control group counts as free: the system gives it back on demand.
    """
    table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(table["MemAvailable"].split()[0]) << 10
    limit, used = read_cgroup("memory.max"), read_cgroup("memory.current")
    if not (limit.isdecimal() and used.isdecimal()):  # no control group, or no limit: "max"
        return free
    statistics = dict(line.split() for line in read_cgroup("memory.stat").splitlines())
    cache = int(statistics.get("inactive_file", 0))
    return min(free, max(0, int(limit) - int(used) + cache))


def installed_version(*names: str) -> str:
    """Version of a package by the first of its ``names`` that is installed; empty for none."""
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


def cache_folder() -> Path:
    """``$VADPREP_CACHE``, else ``~/.cache/vadprep``: files that can be made or fetched again.

    A user without a home has ``/``, as in a container.
    """
    home = os.path.expanduser("~")
    folder = Path("/" if home == "~" else home, ".cache", "vadprep")
    return Path(os.environ.get("VADPREP_CACHE") or folder)
