"""What this machine, or our part of it, has for workers, and where we may keep things on it."""

from __future__ import annotations

import os
from pathlib import Path

SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""Variables that hold how many cores a task, or all our tasks on this node, were given."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container, or a job, sees its own limits (version 2)."""


def worker_cores() -> int:
    """Cores for workers here: those that this process is bound to, or what SLURM or a container
    allows if fewer."""
    given = (os.environ.get(name, "") for name in SLURM_CORES)
    limits = [int(each) for each in given if each.isdecimal() and int(each)]
    quota = core_quota()
    return min([len(os.sched_getaffinity(0)), *limits, *([max(1, int(quota))] if quota else [])])


def core_quota() -> float | None:
    """Cores that our control group may use, None where it has no limit."""
    quota, _, period = of_control_group("cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() else None


def of_control_group(name: str) -> str:
    """A file of our control group; empty where there is none."""
    try:
        return (CONTROL_GROUP / name).read_text().strip()
    except OSError:
        return ""


def free_memory() -> int:
    """Bytes that can still be had here: of the machine, or of our control group if fewer."""
    (line,) = (
        each for each in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in each
    )
    free = int(line.split()[1]) << 10
    limit, used = (of_control_group(f"memory.{name}") for name in ("max", "current"))
    if not (limit.isdecimal() and used.isdecimal()):  # none of our own, or without a limit: "max"
        return free
    kept = dict(line.split() for line in of_control_group("memory.stat").splitlines())
    cache = int(kept.get("inactive_file", 0))  # given back when memory is wanted
    return min(free, max(0, int(limit) - int(used) + cache))


def cache_folder() -> Path:
    """Where what can be had again is kept: ``$VADPREP_CACHE``, else ``~/.cache/vadprep``."""
    return Path(os.environ.get("VADPREP_CACHE") or Path.home() / ".cache" / "vadprep")


def half_of_memory() -> int:
    """Half of the bytes that this process may still take, by the system and by its cgroup."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * next(int(value) for name, value, *_ in lines if name == "MemAvailable:")
    limit, used = (Path("/sys/fs/cgroup", f"memory.{name}") for name in ("max", "current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, max(int(most) - int(used.read_text()), 0))
    return free // 2
