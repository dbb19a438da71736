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
import shutil
import signal
import socket
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vadprep.backbones.adaptive_batch import free_device_memory
from vadprep.core.atomic import disk_errors, is_alive
from vadprep.core.errors import ClusterError
from vadprep.core.records import Report, Task
from vadprep.core.resources import free_memory, worker_cores
from vadprep.core.signals import STOP_SIGNALS, call_interruptible, check_stop
from vadprep.extraction.node_check import NodeCheck, node_check
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.run import OnStart, Runner, Worker
from vadprep.extraction.workload import Load, Workload, most_videos, next_limit
from vadprep.features.shard import DONE

logger = logging.getLogger(__name__)

GPU_VIDEOS, MOST_GPU_VIDEOS = 4, 16
"""Videos in progress at once for one GPU, each with a decoder of its own: to begin with, and at
most, while the network waits for frames and there are cores and memory for them."""

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

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: the signal that the kernel sends a process when its parent dies."""

LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are."""

MAX_STARTS = 3
"""Workers in a row that may die on a node while they get ready."""

LOST = (RayActorError, ActorUnschedulableError, OutOfMemoryError)
"""What Ray raises when a worker, or the way to it, is lost."""


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each holds."""

    workers: int
    gpus_each: int = 0
    videos: int = 1
    """Videos in progress at once in a worker, to begin with."""
    most_videos: int = 1
    """As many at most, when the network waits for frames."""
    address: str = "local"
    out: Path | None = None
    """Folder that the nodes of a cluster must have in common."""

    @property
    def resource(self) -> str:
        """Ray's name of what a worker holds one of."""
        return "GPU" if self.gpus_each else "CPU"


def pool_of(plan: ExtractionPlan) -> Pool:
    """The workers of a plan."""
    if plan.device == "cpu":
        return Pool(plan.workers, address=plan.address, out=plan.out)
    return Pool(plan.workers, 1, GPU_VIDEOS, MOST_GPU_VIDEOS, plan.address, plan.out)


def on_ray(make_worker: Callable[[], Worker], pool: Pool) -> Runner:
    """A runner over ``pool.workers`` actors, each with the worker that ``make_worker`` builds.

    An exception of ours in a worker (disk full, a bug) ends the run as it would in process. The
    videos of a worker that dies are done again, once. Raises ClusterError when no cluster can be
    joined, or no node of it can do the work.
    """

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        is_shared = pool.address != "local" and pool.out
        checking = node_check(tasks, pool.out) if is_shared and pool.out else nullcontext()
        with _session(pool), checking as check:
            yield from RayWorkers(make_worker, pool, check).run(tasks, on_start)

    return run


# ---------------------------------------------------------------- workers


@dataclass(frozen=True)
class Ready:
    """What a worker says when it could begin, or why it never will."""

    problem: str
    cores: int = 0
    free_bytes: int = 0


class WorkerProcess:
    """A Ray actor: a worker in a process of its own.

    The extractor is built by ``ready``: what goes wrong then is reported like any error of a
    call, where an error in the constructor would look like the death of the worker.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        # Ray's own watch over a worker whose node has been killed takes many seconds.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def ready(self, check: NodeCheck | None) -> Ready:
        if check and (problem := check.problem()):
            return Ready(problem)
        with self._lock:
            self._worker = self._worker or self._make_worker()
        free = min(free_memory(), free_device_memory())
        return Ready("", worker_cores(), free)

    def work(self, task: Task) -> Report:
        assert self._worker is not None
        return self._worker(task)


@dataclass(eq=False, kw_only=True)
class _Handle(Load):
    """A worker as seen from here."""

    actor: Any
    node: str
    most: int = 1
    is_ready: bool = False
    was_ready: bool = False


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
        self._nodes: dict[str, dict[str, Any]] = {}
        self._unused: dict[str, str] = {}
        """Nodes that get no videos, and why not."""
        self._failed_starts: Counter[str] = Counter()
        self._next_look = 0.0
        self._most_present = 0

    def run(self, tasks: Sequence[Task], on_start: OnStart) -> Iterator[Report]:
        """Reports of ``tasks``, in the order in which they come."""
        self._workload = Workload(tasks)
        self._warn_of_busy_cluster()
        while self._workload.unfinished:
            check_stop()
            yield from self._look()
            ready = [each for each in self._handles if each.is_ready]
            while given := self._workload.hand_out(ready):
                handle, task = given
                on_start(task)
                self._calls[handle.actor.work.remote(task)] = (handle, task)
            if not self._calls:  # no node: one may join
                time.sleep(LOOK_SECONDS)
                continue
            answered, _ = ray.wait(list(self._calls), timeout=LOOK_SECONDS)
            for reference in answered:
                if reference in self._calls:  # else it went with its worker just now
                    yield from self._take(reference)

    def _look(self) -> Iterator[Report]:
        """Let go of nodes that are gone, and start workers where there is room for more."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._nodes |= (nodes := _nodes())
        for handle in [each for each in self._handles if each.node not in nodes]:
            yield from self._drop_gone(handle)
        usable = {each: self._capacity(each) for each in nodes if each not in self._unused}
        wanted = min(self._pool.workers, self._workload.unfinished)
        room = {
            node: capacity - sum(each.node == node for each in self._handles)
            for node, capacity in usable.items()
        }
        while len(self._handles) < wanted and any(each > 0 for each in room.values()):
            node = max(room, key=lambda each: room[each])
            room[node] -= 1
            self._start(node)
        self._report_size(sum(usable.values()))

    def _capacity(self, node: str) -> int:
        """Workers for which a node has what they hold."""
        return int(self._nodes[node].get("Resources", {}).get(self._pool.resource, 0))

    def _start(self, node: str) -> None:
        actor = ray.remote(WorkerProcess).options(
            num_cpus=0 if self._pool.gpus_each else 1,
            num_gpus=self._pool.gpus_each,
            max_concurrency=self._pool.most_videos,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        handle = _Handle(self._pool.videos, actor=actor.remote(self._make_worker), node=node)
        self._handles.append(handle)
        self._ask(handle)

    def _ask(self, handle: _Handle) -> None:
        """Ask a worker to get ready, or whether it can be reached again."""
        handle.is_ready = False
        self._calls[handle.actor.ready.remote(self._check)] = (handle, None)

    def _take(self, reference: Any) -> Iterator[Report]:
        """Take the answer of a worker, or the news that it is lost."""
        handle, task = self._calls.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            if task or not self._check:  # no matter of the node
                raise error.cause from error
            kind, words = type(error.cause).__name__, str(error.cause).partition("\n")[0]
            yield from self._leave_unused(handle.node, f"{kind}: {words}")
        except ActorUnavailableError:
            if handle.is_ready or task is None:
                self._ask(handle)  # the answer comes when Ray knows what became of it
        except LOST as error:
            yield from self._lost(handle, error)
        else:
            if task:
                yield self._reported(handle, task, answer)
            else:
                yield from self._is_ready(handle, answer)

    def _reported(self, handle: _Handle, task: Task, report: Report) -> Report:
        if report.status == DONE and not handle.is_alone:
            handle.limit = next_limit(handle.limit, report.seconds, handle.most)
        self._workload.reported(handle, task)
        return report

    def _is_ready(self, handle: _Handle, answer: Ready) -> Iterator[Report]:
        if answer.problem:
            yield from self._leave_unused(handle.node, answer.problem)
            return
        if handle.was_ready:  # only the way to it was lost: it may still work at lost videos
            yield from self._drop(handle, is_blamed=False)
            return
        workers = max(1, min(self._pool.workers, self._capacity(handle.node)))
        most = most_videos(answer.cores, answer.free_bytes, workers)
        handle.most = min(self._pool.most_videos, most)
        handle.limit = min(self._pool.videos, handle.most)
        handle.is_ready = handle.was_ready = True
        del self._failed_starts[handle.node]

    def _lost(self, handle: _Handle, error: Exception) -> Iterator[Report]:
        """A worker is no more.

        Its videos are to blame for its death, unless its node is gone as well.
        """
        self._next_look = 0.0  # there another is started
        if getattr(error, "preempted", False) or handle.node not in _nodes():
            yield from self._drop_gone(handle)
        elif handle.was_ready:
            names = ", ".join(repr(task.video.video_id) for task in handle.tasks)
            logger.warning("a worker died over %s: %s", names, error)
            yield from self._drop(handle, is_blamed=True)
        else:
            self._failed_starts[handle.node] += 1
            yield from self._drop(handle, is_blamed=False)
            is_final = getattr(error, "actor_init_failed", False)
            if is_final or self._failed_starts[handle.node] >= MAX_STARTS:
                reason = f"workers die there at the start: {str(error).strip().splitlines()[-1]}"
                yield from self._leave_unused(handle.node, reason)

    def _drop_gone(self, handle: _Handle) -> Iterator[Report]:
        if handle.tasks:
            name = self._name(handle.node)
            logger.warning("node %s is gone: its videos are done again", name)
        yield from self._drop(handle, is_blamed=False)

    def _leave_unused(self, node: str, reason: str) -> Iterator[Report]:
        """Take ``node`` out of the run, and say why."""
        self._unused[node] = f"{self._name(node)}: {reason}"
        logger.warning("a node gets no videos: %s", self._unused[node])
        for handle in [each for each in self._handles if each.node == node]:
            yield from self._drop(handle, is_blamed=False)
        self._next_look = 0.0

    def _drop(self, handle: _Handle, is_blamed: bool) -> Iterator[Report]:
        """End a worker. What it has reported counts, and its other videos are done again."""
        for reference in [each for each, (whose, _) in self._calls.items() if whose is handle]:
            _, task = self._calls.pop(reference)
            if task and (report := _report_in(reference)):
                yield self._reported(handle, task, report)
        ray.kill(handle.actor)
        self._handles.remove(handle)
        yield from self._workload.died(handle, is_blamed)

    def _name(self, node: str) -> str:
        known = self._nodes[node]
        return f"{known['NodeManagerHostname']} ({known['NodeManagerAddress']})"

    def _report_size(self, present: int) -> None:
        """Say once when the cluster has less than asked for; raise ClusterError for nothing."""
        kind = self._pool.resource
        if self._unused and not present:
            reasons = "; ".join(self._unused.values())
            raise ClusterError(f"no node of the cluster can do the work. {reasons}")
        if not present and not self._most_present:
            raise ClusterError(
                f"the cluster at {self._pool.address} has no {kind}s: see ray status"
            )
        if present < self._pool.workers and not self._most_present:
            logger.warning(
                "%d workers are asked for and the cluster has %ss for %d: more are started when "
                "nodes join",
                *(self._pool.workers, kind, present),
            )
        self._most_present = max(self._most_present, present)

    def _warn_of_busy_cluster(self) -> None:
        """Say that workers will wait, when others hold what they need. Before they are started."""
        kind = self._pool.resource
        total, free = (
            int(there.get(kind, 0))
            for there in map(call_interruptible, (ray.cluster_resources, ray.available_resources))
        )
        if free < min(total, self._pool.workers):
            logger.warning(
                "%d of the cluster's %d %ss are in use: workers wait until they are free, see "
                "ray status",
                *(total - free, total, kind),
            )


def _nodes() -> dict[str, dict[str, Any]]:
    """What Ray says of the nodes that are alive, by their identities.

    It waits a minute for a head that is gone, as when a job is cancelled with all its processes.
    """
    return {each["NodeID"]: each for each in call_interruptible(ray.nodes) if each["Alive"]}


def _report_in(reference: Any) -> Report | None:
    """The report that has come already; None when there is none."""
    ready, _ = ray.wait([reference], timeout=0)
    try:
        return ray.get(reference) if ready else None
    except RayTaskError as error:
        raise error.cause from error
    except LOST:
        return None


# ---------------------------------------------------------------- the session


@contextmanager
def _session(pool: Pool) -> Iterator[None]:
    """A Ray session of our own, ended with the block, or a cluster, which is left then."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {}
    folder = _session_folder() if pool.address == "local" else None
    if folder:  # what only a session that starts here can choose
        options = {
            "num_cpus": pool.workers,
            "num_gpus": pool.workers * pool.gpus_each,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_temp_dir": str(folder),
        }
    try:
        with _held_signals():
            try:
                ray.init(
                    address=pool.address,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **options,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                if folder:
                    raise
                reason = str(error).strip().splitlines()[0]
                raise ClusterError(
                    f"--address {pool.address}: no cluster could be joined: {reason}"
                ) from error
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


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
