"""Many videos on Ray: a session of our own on this machine, or a cluster that is joined.

Ray knows the nodes, reserves what a worker holds, and reports a death. This module does what Ray
does not: a node is asked first whether it can do the work, a video is blamed only for a death
that it has caused (``workload``), and a worker gets more videos while its network waits. Only
tasks and reports travel; a worker writes the features of its videos itself.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vadprep.backbones.backbone import free_device_memory
from vadprep.core.atomic import temporary_folder
from vadprep.core.errors import ClusterError, VadprepError, counted
from vadprep.core.log import get_logger
from vadprep.core.records import RUNNING, Report, Task
from vadprep.core.resources import free_memory, worker_cores
from vadprep.core.signals import STOP_SIGNALS, call_interruptible, check_stop, is_main_thread
from vadprep.extraction.run import OnStart, Runner, Worker, steps_of
from vadprep.extraction.workload import (
    Load,
    NodeCheck,
    Workload,
    most_videos,
    next_limit,
    node_check,
)
from vadprep.features.shard import DONE

logger = get_logger(__name__)

OBJECT_STORE_BYTES = 100 << 20
"""Only tasks and reports pass through Ray's object store."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning without GPUs
    "RAY_USAGE_STATS_ENABLED": "0",
}

LONGEST_TEMP = 17
"""Characters of the folder for temporary files: Ray's sockets are 90 more, of 107 allowed."""

START_SECONDS = 120.0
"""What Ray may take for its start on this machine. It takes 2 to 10 s."""

UNNEEDED = ("monitor.py", "log_monitor.py", "dashboard.py")
"""Programs that Ray starts beside its own: autoscaler, forwarding of logs, usage statistics. A
session on this machine has no use for them, and at its end the first takes a second to stop."""

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: the signal that the kernel sends a process when its parent dies."""

LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are, while nothing is reported."""

MAX_STARTS = 3
"""Workers in a row that may die on a node while they get ready."""


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each holds."""

    workers: int
    gpus_each: int = 0
    videos: int = 1
    """Videos in progress at once in a worker, each with a decoder of its own, to begin with."""
    most_videos: int = 1
    """As many at most, when the network waits for frames and there are cores and memory."""
    address: str = "local"
    out: Path | None = None
    """Folder that the nodes of a cluster must have in common."""


GPU_POOL = Pool(1, gpus_each=1, videos=4, most_videos=16)


def on_ray(make_worker: Callable[[], Worker], pool: Pool) -> Runner:
    """A runner over ``pool.workers`` actors, each with the worker that ``make_worker`` builds.

    An exception of ours in a worker (disk full, a bug) ends the run as it would in process. The
    videos of a worker that dies are done again, once. Raises ClusterError when no cluster can be
    joined, or no node of it can do the work.
    """

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        with ExitStack() as resources:
            resources.enter_context(ray_session(pool))
            check = None
            if pool.address != "local" and pool.out:
                check = resources.enter_context(node_check(tasks, pool.out))
            yield from RayWorkers(make_worker, pool, check).run(tasks, on_start)

    return run


class WorkerProcess:
    """A Ray actor: a worker in a process of its own, one of ``workers`` on its node.

    The extractor is built by ``ready``: what goes wrong then is reported like any error of a
    call, where an error in the constructor would look like the death of the worker.
    """

    def __init__(
        self, make_worker: Callable[[], Worker], check: NodeCheck | None, workers: int
    ) -> None:
        # Ray's own watch over a worker whose node has been killed takes many seconds.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._make_worker, self._check, self._workers = make_worker, check, workers
        self._worker: Worker | None = None
        self._running: dict[str, Report] = {}
        self._lock = threading.Lock()

    def ready(self) -> int:
        """How many videos it can have in progress. Raises ClusterError for an unable node."""
        if self._check:
            self._check.require()
        with self._lock:
            self._worker = self._worker or self._make_worker()
        return most_videos(worker_cores(), min(free_memory(), free_device_memory()), self._workers)

    def work(self, task: Task) -> Report:
        assert self._worker is not None
        for report in steps_of(self._worker, task):
            self._running[task.video.video_id] = report
        return self._running.pop(task.video.video_id)

    def running(self) -> list[Report]:
        """How far the videos in work are; of those that have just ended there is none."""
        return [each for each in list(self._running.values()) if each.status == RUNNING]


@dataclass(eq=False, kw_only=True)
class _Handle(Load):
    """A worker as seen from here."""

    actor: Any
    node: str
    host: str
    most: int = 1
    is_ready: bool = False
    was_ready: bool = False
    question: Any = None
    """Asked of it and not answered yet: how far its videos are."""


class RayWorkers:
    """Hands out tasks, a bounded number at a time, and collects the reports.

    Nodes may leave and join at any time.
    """

    def __init__(
        self, make_worker: Callable[[], Worker], pool: Pool, check: NodeCheck | None
    ) -> None:
        self._make_worker, self._pool, self._check = make_worker, pool, check
        self._workload = Workload(())
        self._handles: list[_Handle] = []
        self._calls: dict[Any, tuple[_Handle, Task | None]] = {}
        """What workers have been asked: a task, or whether they are ready."""
        self._reports: list[Report] = []
        """Not passed on yet."""
        self._unused: dict[str, str] = {}
        """Nodes that get no videos, and why not."""
        self._failed_starts: Counter[str] = Counter()
        self._is_size_known = False
        self._looked = 0.0

    def run(self, tasks: Sequence[Task], on_start: OnStart) -> Iterator[Report]:
        """Reports of ``tasks``, in the order in which they come."""
        self._workload = Workload(tasks)
        while self._workload.unfinished:
            check_stop()
            self._look()
            ready = [each for each in self._handles if each.is_ready]
            while given := self._workload.hand_out(ready):
                handle, task = given
                on_start(task)
                self._calls[handle.actor.work.remote(task)] = (handle, task)
            if self._calls:
                answered, _ = ray.wait(list(self._calls), timeout=LOOK_SECONDS)
                for reference in answered:  # one at most
                    self._take(reference)
            else:  # no node: one may join
                time.sleep(LOOK_SECONDS)
            yield from self._reports
            self._reports.clear()
            yield from self._in_work()

    def _in_work(self) -> Iterator[Report]:
        """How far the videos in work are, once in ``LOOK_SECONDS``."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for handle in [each for each in self._handles if each.tasks]:
            if handle.question and ray.wait([handle.question], timeout=0)[0]:
                with suppress(RayError):  # its death is found out by its tasks
                    yield from ray.get(handle.question)
                handle.question = None
            handle.question = handle.question or handle.actor.running.remote()

    def _look(self) -> None:
        """Let go of nodes that are gone, and start workers where there is room for more."""
        nodes = _nodes()
        for handle in [each for each in self._handles if each.node not in nodes]:
            self._drop_gone(handle)
        kind = "GPU" if self._pool.gpus_each else "CPU"
        capacity = Counter(
            {
                node: int(about["Resources"].get(kind, 0))
                for node, about in nodes.items()
                if node not in self._unused
            }
        )
        self._check_size(capacity.total(), kind)
        room = capacity - Counter(each.node for each in self._handles)  # the positive alone
        wanted = min(self._pool.workers, self._workload.unfinished)
        while room and len(self._handles) < wanted:
            ((node, _),) = room.most_common(1)
            room -= Counter([node])
            actor = ray.remote(WorkerProcess).options(
                num_cpus=0 if self._pool.gpus_each else 1,
                num_gpus=self._pool.gpus_each,
                max_concurrency=self._pool.most_videos + 1,  # one for ``running``
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            there = min(self._pool.workers, capacity[node])
            handle = _Handle(
                self._pool.videos,
                actor=actor.remote(self._make_worker, self._check, there),
                node=node,
                host=f"{nodes[node]['NodeManagerHostname']} ({nodes[node]['NodeManagerAddress']})",
            )
            self._handles.append(handle)
            self._ask(handle)

    def _check_size(self, present: int, kind: str) -> None:
        """Raise ClusterError when no worker can run; say once when fewer can than asked for."""
        if self._unused and not present:
            reasons = "; ".join(self._unused.values())
            raise ClusterError(f"no node of the cluster can do the work. {reasons}")
        if self._is_size_known:
            return
        self._is_size_known = True
        if not present:
            raise ClusterError(
                f"the cluster at {self._pool.address} has no {kind}s: see ray status"
            )
        if present < self._pool.workers:
            logger.warning(
                "%s asked for, and the cluster has %ss for %d: more are started when nodes join",
                *(counted(self._pool.workers, "worker"), kind, present),
            )
        free = int(call_interruptible(ray.available_resources).get(kind, 0))
        if free < min(present, self._pool.workers):
            logger.warning(
                "%d of the cluster's %d %ss are in use: workers wait until they are free, see "
                "ray status",
                *(present - free, present, kind),
            )

    def _ask(self, handle: _Handle) -> None:
        """Ask a worker to get ready, or whether it can be reached again."""
        handle.is_ready = False
        self._calls[handle.actor.ready.remote()] = (handle, None)

    def _take(self, reference: Any) -> None:
        """Take the answer of a worker, or the news that it is lost."""
        handle, task = self._calls.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            if task or not self._check:  # no matter of the node
                raise error.cause from error
            kind, words = type(error.cause).__name__, str(error.cause).partition("\n")[0]
            is_ours = isinstance(error.cause, VadprepError)
            self._leave_unused(handle, words if is_ours else f"{kind}: {words}")
        except ActorUnavailableError:
            if handle.is_ready or task is None:
                self._ask(handle)  # the answer comes when Ray knows what became of it
        except RayError as error:  # the worker, or the way to it, is lost
            self._lost(handle, error)
        else:
            if task:
                self._reported(handle, task, answer)
            elif handle.was_ready:  # only the way to it was lost: it may still work at lost videos
                self._drop(handle)
            else:
                handle.most = min(self._pool.most_videos, answer)
                handle.limit = min(self._pool.videos, handle.most)
                handle.is_ready = handle.was_ready = True
                del self._failed_starts[handle.node]

    def _reported(self, handle: _Handle, task: Task, report: Report) -> None:
        if report.status == DONE and not handle.is_alone:
            handle.limit = next_limit(handle.limit, report.seconds, handle.most)
        self._workload.reported(handle, task)
        self._reports.append(report)

    def _lost(self, handle: _Handle, error: Exception) -> None:
        """A worker is no more: by the fault of its videos, unless its node is gone as well."""
        if getattr(error, "preempted", False) or handle.node not in _nodes():
            self._drop_gone(handle)
        elif handle.was_ready:
            names = ", ".join(repr(task.video.video_id) for task in handle.tasks)
            logger.warning("a worker died over %s: %s", names, error)
            self._drop(handle, is_blamed=True)
        else:
            self._failed_starts[handle.node] += 1
            self._drop(handle)
            if self._failed_starts[handle.node] >= MAX_STARTS:
                reason = str(error).strip().splitlines()[-1]
                self._leave_unused(handle, f"workers die there at the start: {reason}")

    def _drop_gone(self, handle: _Handle) -> None:
        if handle.tasks:
            logger.warning("node %s is gone: its videos are done again", handle.host)
        self._drop(handle)

    def _leave_unused(self, handle: _Handle, reason: str) -> None:
        """Take the node of a worker out of the run, and say why."""
        self._unused[handle.node] = f"{handle.host}: {reason}"
        logger.warning("a node gets no videos: %s", self._unused[handle.node])
        for each in [each for each in self._handles if each.node == handle.node]:
            self._drop(each)

    def _drop(self, handle: _Handle, is_blamed: bool = False) -> None:
        """End a worker. What it has reported counts, and its other videos are done again."""
        for reference in [key for key, call in self._calls.items() if call[0] is handle]:
            _, task = self._calls.pop(reference)
            with suppress(RayError):  # no report yet, or none any more
                if task:
                    self._reported(handle, task, ray.get(reference, timeout=0))
        ray.kill(handle.actor)
        self._handles.remove(handle)
        self._reports += self._workload.died(handle, is_blamed)


def _nodes() -> dict[str, dict[str, Any]]:
    """What Ray says of the nodes that are alive, by their identities.

    It waits a minute for a head that is gone, as when a job is cancelled with all its processes.
    """
    return {each["NodeID"]: each for each in call_interruptible(ray.nodes) if each["Alive"]}


@contextmanager
def ray_session(pool: Pool) -> Iterator[None]:
    """A Ray session of our own, ended with the block, or a cluster, which is left then.

    Raises ClusterError when Ray does not start or no cluster can be joined.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Under uv run, Ray would pack the working directory for its workers.
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    # As for Ray's clients, workers do not look into the working directory for modules.
    options: dict[str, Any] = {"job_config": JobConfig(_client_job=True)}
    is_local = pool.address == "local"
    with ExitStack() as resources:
        if is_local:
            folder = resources.enter_context(temporary_folder(LONGEST_TEMP))
            if not os.access(os.path.expanduser("~"), os.W_OK):  # where Ray keeps its token
                # It stays: Ray reads it once in a process.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            options |= {  # what only a session that starts here can choose
                "num_cpus": pool.workers,
                "num_gpus": pool.workers * pool.gpus_each,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(folder),
            }
            if not os.access("/dev/shm", os.W_OK):
                options["_plasma_directory"] = str(folder)
        resources.callback(ray.shutdown)
        with _held_signals(), _bounded_start(is_local) as before:
            try:
                ray.init(
                    address=pool.address,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **options,
                )
            except Exception as error:  # Ray raises whatever it meets
                lines = str(error).strip().splitlines() or [type(error).__name__]
                where, remedy = f"--address {pool.address}: no cluster could be joined", ""
                if is_local:
                    where, remedy = "Ray does not start here", "; --workers 1 needs no Ray"
                raise ClusterError(f"{where}: {lines[0]}{remedy}") from error
        if is_local:
            _end_unneeded(before)
        yield


def _end_unneeded(before: Collection[psutil.Process]) -> None:
    """End those of Ray's programs here that the session does without: children that were not there
    ``before`` its start, and whose program is of Ray's package."""
    package = os.path.dirname(os.path.abspath(ray.__file__))
    for process in set(psutil.Process().children()) - set(before):
        with suppress(psutil.Error):
            for word in process.cmdline():
                if os.path.basename(word) in UNNEEDED and word.startswith(f"{package}/"):
                    process.kill()


@contextmanager
def _bounded_start(is_local: bool) -> Iterator[Collection[psutil.Process]]:
    """End the processes that Ray starts in the block when it fails or takes START_SECONDS: then it
    fails, for it cannot reach them. Gives the processes that were there before."""
    before = set(psutil.Process().children(recursive=True))

    def end() -> None:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    clock = threading.Timer(START_SECONDS, end)
    try:
        if is_local:
            clock.start()
        yield before
    except ClusterError:
        end()
        raise
    finally:
        clock.cancel()


@contextmanager
def _held_signals() -> Iterator[None]:
    """Hold back the signals that stop a run while Ray starts, which is a matter of seconds.

    An exception in the midst of its start could be swallowed there or leave processes behind.
    Ray also puts its own handler of SIGTERM in place of ours, which comes back afterwards.
    Outside of the main thread there are no handlers.
    """
    if not is_main_thread():
        yield
        return
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
