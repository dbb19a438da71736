"""SLURM on this machine alone: its own daemons, ports, key and folder, ended with the block.

    python tests/slurm_node.py COMMAND ...      run a command beside it; sbatch and all the others
                                                find it by SLURM_CONF

Needs Debian's packages slurm-wlm and munge, and no root: jobs run as the user who starts it.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "sinfo")
CPUS = 2
PATIENCE = 60.0

CONFIG = """
ClusterName=vadprep
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if not shutil.which(name, path=_search_path())]


def _search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class SlurmNode:
    """The node's folder, and the environment in which SLURM's commands find it."""

    folder: Path
    host: str
    env: dict[str, str]

    def call(self, *command: str) -> str:
        """What a command of SLURM's prints; raises CalledProcessError."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def submit(self, *arguments: str | Path) -> str:
        """The number of a job that ``sbatch`` takes."""
        return self.call("sbatch", "--parsable", *map(str, arguments))

    def cancel(self, *arguments: str) -> None:
        """Have ``scancel`` signal a job. It sends again until the job has ended, and then may end
        with an error of its own: what came of it is to be seen from the job.
        """
        subprocess.run(["scancel", *arguments], env=self.env, capture_output=True, check=False)

    def jobs(self) -> list[str]:
        """Jobs that wait or run, an array's by task: ``7_1 RUNNING``."""
        return self.call("squeue", "-h", "-r", "-o", "%i %T").splitlines()

    def ended(self, job: str) -> tuple[str, str]:
        """State and exit code, ``FAILED`` and ``75:0`` (or ``0:9`` for signal 9), of a job."""
        words = dict(
            each.split("=", 1)
            for each in self.call("scontrol", "-o", "show", "job", job).split()
            if "=" in each
        )
        return words["JobState"], words["ExitCode"]

    def wait_idle(self, patience: float = PATIENCE) -> None:
        """Return when no job is left; raises RuntimeError with their list after ``patience``."""
        deadline = time.monotonic() + patience
        while jobs := self.jobs():
            if time.monotonic() > deadline:
                raise RuntimeError(f"still there after {patience:g} s: {jobs}")
            time.sleep(0.2)


@contextmanager
def slurm_node() -> Iterator[SlurmNode]:
    """A node that takes jobs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets lie there
    try:
        node = _configured(folder)
        with ExitStack() as daemons:
            daemons.enter_context(_daemon(node, "munged", "--foreground", *_munge_options(folder)))
            _wait((folder / "munge.socket").exists, node)
            daemons.enter_context(_daemon(node, "slurmctld", "-D", "-i"))
            daemons.enter_context(_daemon(node, "slurmd", "-D"))
            _wait(lambda: _is_idle(node), node)
            try:
                yield node
            finally:
                node.cancel(f"--user={getpass.getuser()}")
                node.wait_idle()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configured(folder: Path) -> SlurmNode:
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    user, ports = getpass.getuser(), _free_ports()
    config.write_text(CONFIG.format(host=host, user=user, folder=folder, ports=ports, cpus=CPUS))
    outer = ("SBATCH_", "SLURM_")  # of a job of another SLURM that this runs in
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    node = SlurmNode(folder, host, env | {"SLURM_CONF": str(config), "PATH": _search_path()})
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={_cgroup_plugin(node)}\n")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    return node


def _cgroup_plugin(node: SlurmNode) -> str:
    """None, which has a name since version 23; before, that of version 1 asks for nothing."""
    version = node.call("sinfo", "-V").split()[1]
    return "disabled" if int(version.split(".")[0]) >= 23 else "cgroup/v1"


def _munge_options(folder: Path) -> list[str]:
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    files = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    return [*files, f"--seed-file={folder}/munge.seed", "--force"]


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


@contextmanager
def _daemon(node: SlurmNode, name: str, *arguments: str) -> Iterator[None]:
    """A daemon, which dies with this process however that ends."""
    program = str(shutil.which(name, path=_search_path()))
    with open(node.folder / f"{name}.out", "wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, *arguments],
            env=node.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_idle(node: SlurmNode) -> bool:
    asked = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env=node.env, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() == "idle"


def _wait(is_ready, node: SlurmNode) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_ready():
        if time.monotonic() > deadline:
            logs = [path.read_text(errors="replace") for path in sorted(node.folder.glob("*.out"))]
            raise RuntimeError("SLURM did not start:\n" + "\n".join(each[-2000:] for each in logs))
        time.sleep(0.1)


def main(command: list[str]) -> int:
    """Exit code of a command that is run beside a node."""
    with slurm_node() as node:
        return subprocess.run(command, env=node.env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
