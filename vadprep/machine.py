"""What this machine, or our part of it, has for workers."""

from __future__ import annotations

import os
from pathlib import Path

SLURM_CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")
"""Variables that hold how many cores a task, or all our tasks on this node, were given."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container, or a job, sees its own limits (version 2)."""


def worker_cores() -> int:
    """Cores for workers here: those that this process is bound to, or what SLURM gave if fewer."""
    given = (os.environ.get(name, "") for name in SLURM_CORES)
    limits = [int(each) for each in given if each.isdecimal() and int(each)]
    return min([len(os.sched_getaffinity(0)), *limits])


def free_memory() -> int:
    """Bytes that can still be had here: of the machine, or of our control group if fewer."""
    (line,) = (
        each for each in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in each
    )
    free = int(line.split()[1]) << 10
    try:
        limit, used = (
            int((CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current")
        )
    except (OSError, ValueError):  # no control group of our own, or one without a limit: "max"
        return free
    return min(free, max(0, limit - used))
