"""The runner on Ray: actors that hold a GPU, or a CPU core, and pull videos.

Tasks and reports travel, features never do: a worker writes its videos' files itself.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from vadprep.driver import OnStart, Runner, Worker
from vadprep.extract import SKIPPED, Report, Task
from vadprep.files import disk_errors, is_alive
from vadprep.signals import STOP_SIGNALS

logger = logging.getLogger(__name__)

WORKER_ATTEMPTS = 2
"""Workers that may die over one video before it is left for the next run."""

OBJECT_STORE_BYTES = 100 << 20
"""Only tasks and reports pass through Ray's object store."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning without GPUs
    "RAY_USAGE_STATS_ENABLED": "0",
}


PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: the signal that the kernel sends a process when its parent dies."""

LONGEST_SOCKET = 107
"""Characters of the path of a Unix socket; Ray's lie in its session's folder."""
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest below the session's folder."""


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each holds."""

    workers: int
    gpus_each: int = 0
    videos_each: int = 1
    """Videos in the works at once in a worker, so that their decoders keep a GPU busy."""
    address: str = "local"


class _Actor:
    """A worker in a process of its own.

    The extractor is built at the first task: what goes wrong then is told like any error of a
    task, where an error in the constructor would look like the death of the worker.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        # Ray's own watch over a worker whose node has been killed takes many seconds.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def work(self, task: Task) -> Report:
        with self._lock:
            self._worker = self._worker or self._make_worker()
        return self._worker(task)


def on_ray(make_worker: Callable[[], Worker], pool: Pool) -> Runner:
    """A runner over ``pool.workers`` actors, each with the worker that ``make_worker`` builds.

    An exception of ours in a worker (disk full, a bug) ends the run as it would in process. A
    worker that dies is replaced and its videos are done again, once.
    """

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        with _Session(pool):
            yield from _Dispatch(make_worker, pool).run(tasks, on_start)

    return run


class _Session:
    """A Ray session of our own, ended when the block ends."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._folder: Path | None = None

    def __enter__(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if self._pool.address == "local":
            self._folder = _session_folder()
        try:
            with _held_signals():
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


class _Dispatch:
    """Hands out tasks, a bounded number at a time, and collects the reports."""

    def __init__(self, make_worker: Callable[[], Worker], pool: Pool) -> None:
        self._make_worker = make_worker
        self._pool = pool
        self._actors: list[ActorHandle] = []
        self._deaths: Counter[str] = Counter()
        self._in_flight: dict[Any, tuple[int, ActorHandle, Task]] = {}

    def run(self, tasks: Sequence[Task], on_start: OnStart) -> Iterator[Report]:
        left = list(reversed(tasks))
        workers = min(self._pool.workers, len(tasks))
        self._actors = [self._actor() for _ in range(workers)]
        free = list(range(workers)) * self._pool.videos_each
        while left or self._in_flight:
            while left and free:
                self._send(free.pop(), left.pop(), on_start)
            ready, _ = ray.wait(list(self._in_flight), timeout=0.5)
            for reference in ready:
                worker, actor, task = self._in_flight.pop(reference)
                free.append(worker)
                report = self._result(reference, task)
                if report is None:
                    self._replace(worker, actor)
                    report = self._given_up(task)
                if report is None:
                    left.append(task)
                else:
                    yield report

    def _actor(self) -> ActorHandle:
        remote = ray.remote(_Actor).options(
            num_cpus=0 if self._pool.gpus_each else 1,
            num_gpus=self._pool.gpus_each,
            max_concurrency=self._pool.videos_each,
        )
        return cast(ActorHandle, remote.remote(self._make_worker))

    def _replace(self, worker: int, dead: ActorHandle) -> None:
        if self._actors[worker] is dead:  # else another of its videos has told before
            self._actors[worker] = self._actor()

    def _given_up(self, task: Task) -> Report | None:
        """After a death over ``task``: a report when it is left, None when it is done again."""
        video_id = task.video.video_id
        self._deaths[video_id] += 1
        if self._deaths[video_id] < WORKER_ATTEMPTS:
            return None
        reason = f"{WORKER_ATTEMPTS} workers died over it; run again, with more memory?"
        return Report(video_id, SKIPPED, reason)

    def _send(self, worker: int, task: Task, on_start: OnStart) -> None:
        on_start(task)
        actor = self._actors[worker]
        self._in_flight[actor.work.remote(task)] = (worker, actor, task)

    def _result(self, reference: Any, task: Task) -> Report | None:
        """The report, or None when the worker died."""
        try:
            report: Report = ray.get(reference)
            return report
        except RayTaskError as error:
            raise error.cause from error
        except (RayActorError, OutOfMemoryError) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise  # no death: the worker cannot even be sent there
            logger.warning("a worker died over %r: %s", task.video.video_id, error)
            return None
