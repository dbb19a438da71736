"""What an extraction takes beside its networks and TV-L1."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vadprep.backbones import Backbone
from vadprep.core.errors import FeaturesError
from vadprep.core.spec import Spec
from vadprep.data import Manifest, find_videos
from vadprep.extraction import resolve_plan
from vadprep.extraction.extractor import CPU_THREADS, Extractor, fixed_threads
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.run import Extraction, Worker, in_process
from vadprep.extraction.streams import Branch
from vadprep.features import status
from vadprep.features.folder import StreamFolder
from vadprep.features.writer import Share
from vadprep.flow import tvl1_method

IMPORTS = "import vadprep.cli.extract, vadprep.extraction.run, vadprep.extraction.extractor"


class Timed:
    """A network, with the processor seconds of this process that it takes."""

    def __init__(self, network: Backbone) -> None:
        self.network, self.device, self.dim = network, network.device, network.dim
        self.seconds, self.views = 0.0, list[Tensor]()

    def __call__(self, views: Tensor) -> Tensor:
        self.views.append(views)
        start = time.process_time()
        features: Tensor = self.network(views)
        self.seconds += time.process_time() - start
        return features

    def alone(self) -> float:
        """Processor seconds for the same views again, one batch after the other, and no more."""
        views, self.views = self.views, []
        start = time.process_time()
        with fixed_threads(CPU_THREADS):
            for each in views:
                self.network(each).cpu()
        return time.process_time() - start


@dataclass(frozen=True)
class Overheads:
    """Processor seconds of all processes, over the rounds."""

    clips: int
    whole: float
    """Of the run, from its planning to its last shard, without the start."""
    network: float
    """Of the networks alone, on the same views."""
    flow: float
    """Of TV-L1 in the run."""

    @property
    def share(self) -> float:
        """Speed of the run as a share of that of networks and TV-L1 alone."""
        return (self.network + self.flow) / self.whole


def bench_overheads(clips: Path, streams: Sequence[str], repeat: int) -> Overheads:
    """Extract the videos in ``clips``, ``repeat`` times over in folders of their own, in process.

    After each run its networks compute the same views alone. Weights are random. Only processor
    seconds count, those of the decoders among them, so other work on the machine disturbs little.
    The views of a run are held in memory. Raises FeaturesError when a video fails.
    """
    manifest, flow = find_videos(clips), [0.0]
    with tempfile.TemporaryDirectory(prefix="vadprep-bench-") as out:
        plan = resolve_plan(out, streams=",".join(streams), weights="random:0", workers=1)
        timed = {
            each.spec.stream: Timed(
                Backbone(each.weights(), "cpu", each.spec.precision, each.spec.scaling)
            )
            for each in plan.streams
        }
        branches = [
            Branch(each, timed[each.stream], _timed_flow(each.flow, flow, each.stream))
            for each in plan.specs
        ]
        for spec in plan.specs:  # to warm up
            _first_batch(timed[spec.stream].network, spec)
        whole, network, found = 0.0, 0.0, 0
        for number in range(repeat):
            start, place = _used(), Path(out, str(number))
            _run(plan, manifest, clips, Extractor(branches), place)
            whole += _used() - start
            network += sum(each.alone() for each in timed.values())
            done = status(place)[streams[0]]
            if not done.is_complete:
                raise FeaturesError(f"{clips}: a video failed: only good ones can be timed")
            found += done.num_clips
    return Overheads(found, whole, network, flow[0])


def bench_start(streams: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Processor seconds of what a run in process does before its first video, the second time."""
    start = _used()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    yield "imports", _used() - start
    with tempfile.TemporaryDirectory() as out:
        start = _used()
        plan = resolve_plan(out, streams=",".join(streams), weights="random:0", workers=1)
        yield "settings and weights", _used() - start
        start = _used()
        for each in plan.streams:
            network = Backbone(each.weights(), "cpu", each.spec.precision, each.spec.scaling)
            _first_batch(network, each.spec)
        yield "networks, and the first batch of each", _used() - start


def _first_batch(network: Backbone, spec: Spec) -> None:
    shape = (spec.batch, spec.clip_length, spec.crop_size, spec.crop_size)
    with fixed_threads(CPU_THREADS):
        network(torch.zeros((*shape, 3 if spec.stream == "rgb" else 2), dtype=torch.uint8))


def _timed_flow(name: str, seconds: list[float], stream: str) -> Callable[[Tensor], Tensor] | None:
    if stream != "flow":
        return None
    method = tvl1_method(name)

    def timed(grey: Tensor) -> Tensor:
        start = time.process_time()
        found = method(grey)
        seconds[0] += time.process_time() - start
        return found

    return timed


def _run(
    plan: ExtractionPlan, manifest: Manifest, root: Path, extractor: Worker, out: Path
) -> None:
    ids = [video.video_id for video in manifest.videos]
    folders = [StreamFolder.prepare(out / spec.stream, spec, ids) for spec in plan.specs]
    extraction = Extraction(folders, manifest, root.resolve(), Share())
    extraction.recover()
    extraction.run(in_process(lambda: extractor))


def _used() -> float:
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(each)[:2]) for each in whose)
