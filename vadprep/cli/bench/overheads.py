"""What an extraction takes beside its networks and TV-L1, and before its first video."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from vadprep.backbones import Backbone
from vadprep.cli.bench.extraction import repeated
from vadprep.core.errors import FeaturesError
from vadprep.core.records import RUNNING, Report, Task
from vadprep.core.spec import Spec
from vadprep.data import find_videos
from vadprep.extraction import resolve_plan
from vadprep.extraction.extractor import CPU_THREADS, Extractor, fixed_threads, network_of
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.run import Extraction, OnStart, Runner, in_process
from vadprep.extraction.streams import Branch
from vadprep.features import status
from vadprep.features.folder import StreamFolder
from vadprep.features.writer import Share
from vadprep.flow import tvl1_method
from vadprep.video.resize import loop as resize_loop

IMPORTS = "import vadprep.cli.extract, vadprep.extraction.run, vadprep.extraction.extractor"


@dataclass(frozen=True)
class Overheads:
    """Processor seconds of all processes."""

    clips: int
    whole: float
    """Of the run, from its first video to its last shard."""
    network: float
    """Of the networks alone, on the same views."""
    flow: float
    """Of TV-L1 in the run."""
    ray: float
    """Of Ray's own processes meanwhile, some of which are still starting; not in ``whole``."""

    @property
    def share(self) -> float:
        """Speed of the run as a share of that of networks and TV-L1 alone."""
        return (self.network + self.flow) / self.whole


def bench_overheads(
    clips: Path, streams: Sequence[str], repeat: int, workers: int = 1
) -> Overheads:
    """Extract the videos in ``clips``, each ``repeat`` times, by ``workers`` of a core each.

    One works in this process, several on Ray. After each video a worker runs its networks alone on
    the same views, so that both are measured on the same busy cores. Weights are random. Only
    processor seconds count, those of decoders among them, so other work on the machine disturbs
    little. Raises FeaturesError when a video fails.
    """
    manifest = repeated(find_videos(clips), repeat)
    ids = [video.video_id for video in manifest.videos]
    with tempfile.TemporaryDirectory(prefix="vadprep-bench-") as place:
        out, notes = Path(place, "features"), Path(place, "notes")
        notes.mkdir()
        plan = resolve_plan(out, streams=",".join(streams), weights="random:0", workers=workers)
        folders = [StreamFolder.prepare(out / spec.stream, spec, ids) for spec in plan.specs]
        extraction = Extraction(folders, manifest, clips.resolve(), Share())
        watch = _Watch(_runner(plan, notes))
        extraction.run(watch.run)
        done = status(out)[streams[0]]
        if not done.is_complete:
            raise FeaturesError(f"{clips}: a video failed: only good ones can be timed")
        found = {each.stem: np.loadtxt(each, ndmin=2).sum(0) for each in notes.iterdir()}
    inside, network, flow = sum(found.values())
    if str(os.getpid()) in found:  # the watch has seen the worker and what it did besides
        inside = -network
    return Overheads(done.num_clips, watch.seconds + inside, network, flow, watch.ray_seconds)


def bench_start(streams: Sequence[str], workers: int) -> Iterator[tuple[str, float, float]]:
    """What a run does before its first video: name, processor seconds, and seconds.

    Of the last but one row a run on one core has all but the first compilation, and no Ray.
    """

    def timed(name: str, act: Callable[[], object]) -> tuple[str, float, float]:
        start, used = time.perf_counter(), tree_seconds()
        act()
        return name, tree_seconds() - used, time.perf_counter() - start

    def networks() -> None:
        for each in plan.streams:
            network = network_of(each, "cpu")
            _first_batch(network, each.spec)

    def loops() -> None:
        resize_loop()
        for spec in plan.specs:
            if spec.stream == "flow":
                tvl1_method(spec.flow)(torch.zeros((2, 64, 64), dtype=torch.uint8))

    def settings() -> ExtractionPlan:
        return resolve_plan(out, streams=",".join(streams), weights="random:0", workers=1)

    yield timed("imports", lambda: subprocess.run([sys.executable, "-c", IMPORTS], check=True))
    with tempfile.TemporaryDirectory() as out:
        yield timed("settings and weights", settings)
        plan = settings()
        yield timed("networks and a batch, compiled unless cached", networks)
        yield timed("networks and a batch, from the cache", networks)
        yield timed("loops of numba, compiled unless cached", loops)
    if workers > 1:
        yield timed("Ray", partial(_start_ray, workers))


def tree_seconds() -> float:
    """Processor seconds so far of this process and all below it, those that have ended included."""
    return sum(_seconds_of(psutil.Process()).values())


def _seconds_of(process: psutil.Process) -> Counter[str]:
    """Processor seconds of a process and all below it: Ray's, those of its workers, and others."""
    try:
        words = " ".join(process.cmdline())
        seconds = sum(process.cpu_times()[:4])
        below = [_seconds_of(each) for each in process.children()]
    except psutil.NoSuchProcess:  # it has just ended
        return Counter()
    found: Counter[str] = sum(below, Counter())
    if "ray::" in words or "default_worker.py" in words:
        return Counter(workers=found.total() + seconds)
    is_ray = os.sep + "ray" + os.sep in words
    return found + Counter({"ray" if is_ray else "others": seconds})


class _Watch:
    """A runner, with the processor seconds from its first video to its last commit: of Ray's own
    processes, and of the others but the workers on Ray."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.seconds, self.ray_seconds = runner, 0.0, 0.0

    def run(self, tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        begin: list[Counter[str]] = []

        def started(task: Task) -> None:
            if not begin:
                begin.append(_seconds_of(psutil.Process()))
            on_start(task)

        for report in self._runner(tasks, started):
            yield report
            if report.status != RUNNING:
                now = _seconds_of(psutil.Process())
                self.seconds = now["others"] - begin[0]["others"]
                self.ray_seconds = now["ray"] - begin[0]["ray"]


class MeasuredWorker:
    """Extracts a video, then runs the networks alone on the same views.

    Each video is a line of numbers in a file of this process in ``notes``: the processor seconds
    of the extraction, of the networks alone, and of TV-L1.
    """

    def __init__(self, plan: ExtractionPlan, notes: Path) -> None:
        self._notes = notes / f"{os.getpid()}.txt"
        self._flow, self._networks, branches = [0.0], list[Timed](), list[Branch]()
        for each in plan.streams:
            spec = each.spec
            network = network_of(each, "cpu")
            _first_batch(network, spec)
            self._networks.append(Timed(network))
            flow = _timed_flow(spec, self._flow)
            branches.append(Branch(spec, self._networks[-1], flow))
        self._extractor, self._is_warm = Extractor(branches), False
        resize_loop()

    def __call__(self, task: Task) -> Report:
        if not self._is_warm and task.source:
            self._extractor.opened(task.video, task.source).close()
            self._is_warm = True
        self._flow[0], start = 0.0, tree_seconds()
        report = self._extractor(task)
        whole = tree_seconds() - start
        alone = sum(each.alone() for each in self._networks)
        with self._notes.open("a") as file:
            print(whole, alone, self._flow[0], file=file)
        return report


class Timed:
    """A network that keeps the views it is given, to run on them again."""

    def __init__(self, network: Backbone) -> None:
        self.network, self.device, self.dim = network, network.device, network.dim
        self.views = list[Tensor]()

    def __call__(self, views: Tensor) -> Tensor:
        self.views.append(views)
        features: Tensor = self.network(views)
        return features

    def alone(self) -> float:
        """Processor seconds for the same views again, one batch after the other, and no more."""
        views, self.views = self.views, []
        start = time.process_time()
        with fixed_threads(CPU_THREADS):
            for each in views:
                self.network(each).cpu()
        return time.process_time() - start


def _runner(plan: ExtractionPlan, notes: Path) -> Runner:
    if plan.workers == 1:
        return in_process(partial(MeasuredWorker, plan, notes))
    from vadprep.extraction.ray_runner import Pool, on_ray

    return on_ray(partial(MeasuredWorker, plan.for_workers(), notes), Pool(plan.workers))


def _start_ray(workers: int) -> None:
    from vadprep.extraction.ray_runner import Pool, ray_session

    with ray_session(Pool(workers)):
        pass


def _first_batch(network: Backbone, spec: Spec) -> None:
    shape = (spec.batch, spec.clip_length, spec.crop_size, spec.crop_size)
    with fixed_threads(CPU_THREADS):
        network(torch.zeros((*shape, 3 if spec.stream == "rgb" else 2), dtype=torch.uint8))


def _timed_flow(spec: Spec, seconds: list[float]) -> Callable[[Tensor], Tensor] | None:
    if spec.stream != "flow":
        return None
    method = tvl1_method(spec.flow)

    def timed(grey: Tensor) -> Tensor:
        start = time.process_time()
        found = method(grey)
        seconds[0] += time.process_time() - start
        return found

    return timed
