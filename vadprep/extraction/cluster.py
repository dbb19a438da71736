"""The runner on Ray: a session of our own on this machine, or a cluster that is joined.

Tasks and reports travel, features never do: a worker writes its videos' files itself.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from vadprep.core.atomic import disk_errors, is_alive
from vadprep.core.errors import ClusterError
from vadprep.core.records import Report, Task
from vadprep.core.signals import STOP_SIGNALS
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.probe import probe_of
from vadprep.extraction.ray_runner import Dispatch
from vadprep.extraction.ray_runner import Pool as Pool
from vadprep.extraction.run import OnStart, Runner, Worker

OBJECT_STORE_BYTES = 100 << 20
"""Only tasks and reports pass through Ray's object store."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning without GPUs
    "RAY_USAGE_STATS_ENABLED": "0",
}

LONGEST_SOCKET = 107
"""Characters of the path of a Unix socket; Ray's lie in its session's folder."""
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest below the session's folder."""


def on_ray(make_worker: Callable[[], Worker], pool: Pool) -> Runner:
    """A runner over ``pool.workers`` actors, each with the worker that ``make_worker`` builds.

    An exception of ours in a worker (disk full, a bug) ends the run as it would in process. A
    worker that dies is replaced and its videos are done again, once. In a cluster each node is
    asked first whether it can do the work; a node that joins later gets its share.
    """

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        is_shared = pool.address != "local" and pool.out
        probing = probe_of(tasks, pool.out) if is_shared and pool.out else nullcontext()
        with _Session(pool), probing as probe:
            yield from Dispatch(make_worker, pool, probe).run(tasks, on_start)

    return run


GPU_VIDEOS = 4
"""Videos in the works at once for one GPU, each with a decoder of its own, to begin with."""

MOST_GPU_VIDEOS = 16
"""As many at most, while the network waits for frames and there are cores and memory for them."""


def pool_of(plan: ExtractionPlan) -> Pool:
    """The workers of a plan."""
    on_gpu = plan.device == "cuda"
    return Pool(
        workers=plan.workers,
        gpus_each=int(on_gpu),
        videos=GPU_VIDEOS if on_gpu else 1,
        most_videos=MOST_GPU_VIDEOS if on_gpu else 1,
        address=plan.address,
        out=plan.out,
    )


class _Session:
    """A Ray session of our own, or a cluster; ended, or left, when the block ends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._folder: Path | None = None

    def __enter__(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if self._pool.address == "local":
            self._folder = _session_folder()
        try:
            with _held_signals(), _joining(self._pool.address):
                ray.init(
                    address=self._pool.address,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **self._local(),
                )
        except BaseException:  # a signal that was held back, too
            self.__exit__()
            raise

    def _local(self) -> dict[str, Any]:
        """What only a session that starts here can choose."""
        if self._folder is None:
            return {}
        return {
            "num_cpus": self._pool.workers,
            "num_gpus": self._pool.workers * self._pool.gpus_each,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(self._folder),
        }

    def __exit__(self, *exception: object) -> None:
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _joining(address: str) -> Iterator[None]:
    """Turn what Ray raises when there is no such cluster into a ClusterError."""
    try:
        yield
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "local":
            raise
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"--address {address}: no cluster could be joined: {reason}") from error


def _session_folder() -> Path:
    """A new folder for Ray's files; those that killed runs of this host left are removed.

    Its name tells the host, since nodes may share the folder for temporary files.
    """
    host = zlib.crc32(socket.gethostname().encode())  # as a number: the path has to be short
    prefix = f"vadprep-{host:08x}-"
    parent = Path(tempfile.gettempdir())
    if len(str(parent / f"{prefix}{os.getpid()}" / SOCKET)) > LONGEST_SOCKET:
        parent = Path("/tmp")
    for left in parent.glob(f"{prefix}*"):
        process = left.name.removeprefix(prefix)
        if process.isdecimal() and (int(process) == os.getpid() or not is_alive(int(process))):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{prefix}{os.getpid()}"
    with disk_errors(folder):
        folder.mkdir(mode=0o700)
    return folder


@contextmanager
def _held_signals() -> Iterator[None]:
    """Hold back the signals that stop a run while Ray starts, which is a matter of seconds.

    An exception in the midst of its start could be swallowed there or leave processes behind.
    Ray also puts its own handler of SIGTERM in place of ours, which comes back afterwards.
    """
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: held.append(number))
        for number in STOP_SIGNALS
    }
    try:
        yield
    except SystemExit:  # by Ray's handler
        held.append(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])
