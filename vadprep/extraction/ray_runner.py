"""Workers as Ray actors on the nodes of a session, and the videos that go to them and back.

    staff: a worker wherever a node has room   ->  it gets ready: does its node see what it must?
    hand out: ``workload`` says what to whom   ->  reports, or the news that a worker died

Only records travel, and no more of them than there are videos in the works. Nodes may leave and
join at any time.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vadprep.backbones.adaptive_batch import free_device_memory
from vadprep.core.errors import ClusterError
from vadprep.core.records import Report, Task
from vadprep.core.resources import free_memory, worker_cores
from vadprep.core.signals import call_interruptible, check_stop
from vadprep.extraction.probe import Probe
from vadprep.extraction.run import OnStart, Worker
from vadprep.extraction.workload import Load, Workload, most_videos, next_limit
from vadprep.features.shard import DONE

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: the signal that the kernel sends a process when its parent dies."""

LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are."""

MAX_STARTS = 3
"""Workers in a row that may die on a node while they get ready."""

LOST = (RayActorError, ActorUnschedulableError, OutOfMemoryError)
"""What Ray raises when a worker is no more."""


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each holds."""

    workers: int
    gpus_each: int = 0
    videos: int = 1
    """Videos in the works at once in a worker, to begin with."""
    most_videos: int = 1
    """As many at most, when the network waits for frames."""
    address: str = "local"
    out: Path | None = None
    """Folder that the nodes of a cluster must have in common."""

    @property
    def resource(self) -> str:
        """Ray's name of what a worker holds one of."""
        return "GPU" if self.gpus_each else "CPU"


@dataclass(frozen=True)
class Ready:
    """What a worker says when it could begin, or why it never will."""

    problem: str
    cores: int = 0
    free_bytes: int = 0


class Actor:
    """A worker in a process of its own.

    The extractor is built by ``ready``: what goes wrong then is told like any error of a call,
    where an error in the constructor would look like the death of the worker.
    """

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        # Ray's own watch over a worker whose node has been killed takes many seconds.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._make_worker = make_worker
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def ready(self, probe: Probe | None) -> Ready:
        if probe and (problem := probe.problem()):
            return Ready(problem)
        with self._lock:
            self._worker = self._worker or self._make_worker()
        return Ready("", worker_cores(), min(free_memory(), free_device_memory()))

    def work(self, task: Task) -> Report:
        assert self._worker is not None
        return self._worker(task)


@dataclass(eq=False)
class _Hand(Load):
    """A worker as seen from here."""

    actor: ActorHandle | None = None
    node: str = ""
    most: int = 1
    is_ready: bool = False
    is_unsure: bool = False
    """It cannot be reached: it, or its node, is dead, or the network is."""


class Dispatch:
    """Hands out tasks, a bounded number at a time, and collects the reports."""

    def __init__(self, make_worker: Callable[[], Worker], pool: Pool, probe: Probe | None) -> None:
        self._make_worker = make_worker
        self._pool, self._probe = pool, probe
        self._workload = Workload(())
        self._hands: list[_Hand] = []
        self._calls: dict[Any, tuple[_Hand, Task | None]] = {}
        """What has been asked of workers: a task, or whether they are ready."""
        self._unused: dict[str, str] = {}
        """Nodes that get no videos, and why not."""
        self._failed_starts: Counter[str] = Counter()
        self._nodes: dict[str, dict[str, Any]] = {}
        self._next_look = 0.0
        self._most_present = 0

    def run(self, tasks: Sequence[Task], on_start: OnStart) -> Iterator[Report]:
        """Reports of ``tasks``, in the order in which they come.

        Raises what a worker raises, and ClusterError when no node can do the work.
        """
        self._workload = Workload(tasks)
        self._tell_busy()
        while self._workload.unfinished:
            check_stop()
            self._staff()
            self._hand_out(on_start)
            if not self._calls:  # no node: one may join
                time.sleep(LOOK_SECONDS)
                continue
            ready, _ = ray.wait(list(self._calls), timeout=LOOK_SECONDS)
            for reference in ready:
                if reference in self._calls:  # else it went with its worker just now
                    yield from self._answered(reference)

    # ------------------------------------------------------------ workers and their nodes

    def _staff(self) -> None:
        """Start workers where there is room, as long as more could be of use."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._nodes = _nodes()
        wanted = min(self._pool.workers, self._workload.unfinished)
        room = {each: self._room(each) for each in self._nodes if each not in self._unused}
        while len(self._hands) < wanted and any(each > 0 for each in room.values()):
            node = max(room, key=lambda each: room[each])
            room[node] -= 1
            self._start(node)
        self._tell_size()

    def _room(self, node: str) -> int:
        there = sum(hand.node == node for hand in self._hands)
        return self._capacity(node) - there

    def _capacity(self, node: str) -> int:
        """Workers for which a node has what they hold; 0 when it is gone."""
        return int(self._nodes.get(node, {}).get("Resources", {}).get(self._pool.resource, 0))

    def _start(self, node: str) -> None:
        remote = ray.remote(Actor).options(
            num_cpus=0 if self._pool.gpus_each else 1,
            num_gpus=self._pool.gpus_each,
            max_concurrency=self._pool.most_videos,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        actor = cast(ActorHandle, remote.remote(self._make_worker))
        hand = _Hand(self._pool.videos, actor=actor, node=node)
        self._hands.append(hand)
        self._ask(hand)

    def _ask(self, hand: _Hand) -> None:
        assert hand.actor is not None
        self._calls[hand.actor.ready.remote(self._probe)] = (hand, None)

    def _tell_size(self) -> None:
        """Say once when the cluster has less than asked for; raise ClusterError for nothing."""
        usable = [each for each in self._nodes if each not in self._unused]
        present = sum(map(self._capacity, usable))
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

    def _tell_busy(self) -> None:
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

    def _leave_unused(self, node: str, reason: str) -> Iterator[Report]:
        """Take ``node`` out of the run, and say why."""
        self._unused[node] = f"{self._name(node)}: {reason}"
        logger.warning("a node gets no videos: %s", self._unused[node])
        for hand in [each for each in self._hands if each.node == node]:
            yield from self._let_go(hand, is_blamed=False)
        self._next_look = 0.0

    def _name(self, node: str) -> str:
        known = self._nodes.get(node, {})
        return f"{known.get('NodeManagerHostname', '?')} ({known.get('NodeManagerAddress', '?')})"

    # ------------------------------------------------------------ tasks and reports

    def _hand_out(self, on_start: OnStart) -> None:
        hands = [hand for hand in self._hands if hand.is_ready and not hand.is_unsure]
        while given := self._workload.hand_out(hands):
            hand, task = given
            assert isinstance(hand, _Hand) and hand.actor is not None
            on_start(task)
            self._calls[hand.actor.work.remote(task)] = (hand, task)

    def _answered(self, reference: Any) -> Iterator[Report]:
        hand, task = self._calls.pop(reference)
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            if task or not self._probe:  # no matter of the node
                raise error.cause from error
            kind, words = type(error.cause).__name__, str(error.cause).partition("\n")[0]
            yield from self._leave_unused(hand.node, f"{kind}: {words}")
        except ActorUnavailableError:
            if not hand.is_unsure or task is None:
                hand.is_unsure = True
                self._ask(hand)  # the answer comes when Ray knows what became of it
        except LOST as error:
            yield from self._lost(hand, error)
        else:
            if isinstance(answer, Ready):
                yield from self._is_ready(hand, answer)
            else:
                assert task is not None
                yield self._reported(hand, task, answer)

    def _is_ready(self, hand: _Hand, answer: Ready) -> Iterator[Report]:
        if answer.problem:
            yield from self._leave_unused(hand.node, answer.problem)
        elif hand.is_unsure:  # back again, with reports on the way lost
            yield from self._let_go(hand, is_blamed=False)
        else:
            workers = max(1, min(self._pool.workers, self._capacity(hand.node)))
            most = most_videos(answer.cores, answer.free_bytes, workers)
            hand.most = min(self._pool.most_videos, most)
            hand.limit = min(self._pool.videos, hand.most)
            hand.is_ready = True
            del self._failed_starts[hand.node]

    def _reported(self, hand: _Hand, task: Task, report: Report) -> Report:
        if report.status == DONE and not hand.is_alone:
            hand.limit = next_limit(hand.limit, report.seconds, hand.most)
        self._workload.reported(hand, task)
        return report

    def _lost(self, hand: _Hand, error: Exception) -> Iterator[Report]:
        """A worker is no more. Its videos are to blame, unless its node is gone as well."""
        self._next_look = 0.0
        is_preempted = isinstance(error, RayActorError) and error.preempted
        is_gone = is_preempted or hand.node not in _nodes()
        if is_gone:
            logger.warning("node %s is gone: its videos are done again", self._name(hand.node))
        elif hand.is_ready:
            names = ", ".join(repr(task.video.video_id) for task in hand.tasks)
            logger.warning("a worker died over %s: %s", names, error)
        else:
            yield from self._failed_start(hand, error)
            return
        yield from self._let_go(hand, is_blamed=not is_gone)

    def _failed_start(self, hand: _Hand, error: Exception) -> Iterator[Report]:
        self._failed_starts[hand.node] += 1
        is_final = isinstance(error, RayActorError) and error.actor_init_failed
        yield from self._let_go(hand, is_blamed=False)
        if is_final or self._failed_starts[hand.node] >= MAX_STARTS:
            reason = str(error).strip().splitlines()[-1]
            yield from self._leave_unused(hand.node, f"workers die there at the start: {reason}")

    def _let_go(self, hand: _Hand, is_blamed: bool) -> Iterator[Report]:
        """End a worker. What it has reported counts, and its other videos are done again."""
        assert hand.actor is not None
        for reference in [each for each, (whose, _) in self._calls.items() if whose is hand]:
            _, task = self._calls.pop(reference)
            if task and (report := _report_in(reference)):
                yield self._reported(hand, task, report)
        ray.kill(hand.actor)
        self._hands.remove(hand)
        yield from self._workload.died(hand, is_blamed)


def _nodes() -> dict[str, dict[str, Any]]:
    """What Ray says of the nodes that are alive, by their identities.

    It waits a minute for a head that is gone, as when a job is cancelled with all its processes.
    """
    return {each["NodeID"]: each for each in call_interruptible(ray.nodes) if each["Alive"]}


def _report_in(reference: Any) -> Report | None:
    """The report that has come already; None when there is none."""
    ready, _ = ray.wait([reference], timeout=0)
    try:
        return cast(Report, ray.get(reference)) if ready else None
    except RayTaskError as error:
        raise error.cause from error
    except LOST:
        return None
