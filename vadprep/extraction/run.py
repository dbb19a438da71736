"""Many videos: a manifest, a folder of videos and settings -> feature folders, one a stream.

A runner is a function ``(tasks, on_start) -> reports``. ``in_process`` does one video after the
other here; ``cluster.on_ray`` spreads them over actors. Both give the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Container, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

import vadprep
from vadprep.backbones import load_backbone, load_weights
from vadprep.backbones.precision import check_precision
from vadprep.core.errors import DecodeError, ManifestError, SpecError
from vadprep.core.presets import keep_precision_and_batch, resolve, values_of
from vadprep.core.records import Report, Task
from vadprep.core.resources import free_memory, worker_cores
from vadprep.core.spec import STREAMS, Spec, require_equal, require_shared
from vadprep.data.manifest import Manifest
from vadprep.data.sources import SourceIndex
from vadprep.extraction.config import Settings
from vadprep.extraction.costs import Machines
from vadprep.extraction.driver import OnStart, Runner, Worker, sole_driver
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.streams import Branch, FlowStage
from vadprep.extraction.tasks import Tasks
from vadprep.extraction.workload import most_videos
from vadprep.features.folder import StreamFolder, check_writable, read_spec
from vadprep.features.status import status
from vadprep.flow.quantise import tvl1_method
from vadprep.flow.saved import KINDS, SavedFlow

SHAPING_PACKAGES = ("torch", "numpy", "pillow", "av", "decord2", "decord", "numba", "triton")
"""Packages whose version could change a number."""

GPU_VIDEOS = 4
"""Videos in the works at once for one GPU, each with a decoder of its own, to begin with."""

MOST_GPU_VIDEOS = 16
"""As many at most, while the network waits for frames and there are cores and memory for them."""


class Progress(Protocol):
    """Learns how a run is going."""

    def prepare(self, tasks: Tasks) -> None:
        """What is left to do."""

    def __call__(self, report: Report) -> None:
        """What became of a video."""


class Silence:
    """A Progress that keeps still."""

    def prepare(self, tasks: Tasks) -> None:
        pass

    def __call__(self, report: Report) -> None:
        pass


def in_process(worker: Worker) -> Runner:
    """A runner that does one task after the other in this process."""

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        for task in tasks:
            on_start(task)
            yield worker(task)

    return run


def make_runner(specs: Sequence[Spec], settings: Settings, out: Path) -> Runner:
    """In process for one worker on the CPU, else on Ray: a GPU wants several decoders."""
    make_worker = partial(make_extractor, specs, settings.anywhere())
    on_gpu = settings.device == "cuda"
    if settings.workers == 1 and settings.address == "local" and not on_gpu:
        return in_process(make_worker())
    from vadprep.extraction.cluster import Pool, on_ray

    pool = Pool(
        workers=settings.workers,
        gpus_each=int(on_gpu),
        videos=GPU_VIDEOS if on_gpu else 1,
        most_videos=MOST_GPU_VIDEOS if on_gpu else 1,
        address=settings.address,
        out=out,
    )
    return on_ray(make_worker, pool)


def make_extractor(specs: Sequence[Spec], settings: Settings) -> Extractor:
    """The extractor of the streams; raises SpecError when the weights are not the specs'."""
    branches = [_make_branch(spec, settings) for spec in specs]
    return Extractor(branches, settings.stall_seconds, settings.max_damage)


def _make_branch(spec: Spec, settings: Settings) -> Branch:
    weights = settings.weights_of(spec.stream)
    loaded = load_weights(weights, spec.graph)
    if loaded.sha256 != spec.weights_sha256:
        raise SpecError(
            f"{weights}: SHA-256 {loaded.sha256[:12]}... where the spec has "
            f"{spec.weights_sha256[:12]}... ({spec.weights})"
        )
    network = load_backbone(spec.graph, loaded, settings.device, spec.precision, spec.scaling)
    flow = _flow_stage(spec, settings) if spec.stream == "flow" else None
    return Branch(spec, network, flow)


def _flow_stage(spec: Spec, settings: Settings) -> FlowStage:
    save, read = settings.save_flow, settings.flow_from
    return FlowStage(
        tvl1_method(spec.flow),
        SavedFlow(save[0], KINDS[save[1]]) if save else None,
        SavedFlow.open(read, spec) if read else None,
    )


def settle_specs(out: Path, settings: Settings) -> list[Spec]:
    """The spec of each stream of a run: the preset with its overrides, and what folders settled.

    Raises SpecError when this machine is to run it and has not got the precision, when a folder
    holds features of another spec, and when it holds another stream of other frames or clips.
    """
    specs = specs_of(out, settings)
    for stream in STREAMS:
        found, place = read_spec(out / stream), str(out / stream)
        try:
            if found and stream in specs:
                require_equal(specs[stream], found, place)
            elif found:
                require_shared(next(iter(specs.values())), found, place)
        except SpecError as error:
            raise SpecError(f"{error}{_or_removed(out / stream)}") from None
    return list(specs.values())


def specs_of(out: Path, settings: Settings) -> dict[str, Spec]:
    """The spec of each stream of a run, by stream, not yet held against the features in ``out``.

    Raises SpecError when this machine is to run it and has not got the precision.
    """
    return {stream: _settle_spec(out, settings, stream) for stream in settings.streams}


def _or_removed(path: Path) -> str:
    """The remedy against a folder that nothing was made in, such as one of a mistyped command.

    It is not given another spec by itself: a run may have read the old one and be about to begin.
    """
    found = status(StreamFolder.open(path), most=0)
    is_idle = not found.done and not found.runs
    return ", or remove that folder: no video in it is done" if is_idle else ""


def _settle_spec(out: Path, settings: Settings, stream: str) -> Spec:
    graph = values_of(settings.preset, stream)["graph"]
    weights = load_weights(settings.weights_of(stream), graph)
    spec = resolve(
        settings.preset,
        settings.device,
        (weights.name, weights.sha256),
        settings.overrides,
        stream,
    )
    if stream == "flow" and settings.flow_from:
        spec = replace(spec, flow_source=SavedFlow.open(settings.flow_from, spec).kind)
    found = read_spec(out / stream)
    if found:
        spec = keep_precision_and_batch(spec, found, settings.overrides)
    if settings.address == "local":
        check_precision(spec.precision, torch.device(settings.device))
    return spec


def check_sources(manifest: Manifest, root: Path, planned: Container[str] = ()) -> None:
    """Raise ManifestError when not one of several videos is where the manifest has it, or when one
    that is not ``planned`` yet is not there and twice elsewhere.

    A wrong root or path is found out before its ids are in a plan, which only grows.
    """
    index, found = SourceIndex(root), False
    for video in manifest.videos:
        if found and video.video_id in planned:
            continue
        with suppress(DecodeError):
            found = index.has(video) or bool(index.find(video))
    if not found and len(manifest.videos) > 1:
        raise ManifestError(
            f"none of the {len(manifest.videos)} videos of {manifest.path} is under {root}, where "
            f"its path says or elsewhere (the first: {manifest.videos[0].path}): correct --root"
        )


def _planned(out: Path, streams: Sequence[str]) -> set[str]:
    """Ids that stand in the plans of all ``streams`` already."""
    folders = [StreamFolder.open(out / each) for each in streams if read_spec(out / each)]
    plans = [folder.plan.places.keys() for folder in folders]
    return set.intersection(*map(set, plans)) if len(plans) == len(streams) else set()


def extract_dataset(
    manifest: Manifest,
    root: Path,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> list[StreamFolder]:
    """Extract the videos of ``manifest`` under ``root`` into ``out``/rgb, ``out``/flow: the
    folders it makes, in the order of ``settings.streams``.

    ``progress`` learns what is left to do and then what became of each video. Raises SpecError
    when ``out`` holds features of another spec, OutputError when it is not writable, LeaseError
    when another run is at work on the same shards, Stopped at a signal. Videos that cannot be
    read are in the journals, not raised.
    """
    require_decoders()
    root, out = root.resolve(), out.resolve()
    specs = settle_specs(out, settings)
    check_sources(manifest, root, _planned(out, settings.streams))
    check_writable(out)
    if settings.save_flow:
        path, form = settings.save_flow
        SavedFlow.prepare(path, KINDS[form], specs[-1])
    folders = [_prepared(out, spec, manifest, settings) for spec in specs]
    progress = progress or Silence()
    with sole_driver(folders, manifest, root, settings.share) as driver:
        driver.recover()
        tasks = driver.tasks(retry_failed)
        progress.prepare(tasks)
        if tasks:
            runner = make_runner(specs, settings, out)
            driver.run(runner, tasks, progress, **_where(settings))
    return folders


def machines_of(settings: Settings) -> Machines:
    """Where a run with ``settings`` runs, were every node of a cluster like this machine.

    On a GPU with as many decoders as it may come to.
    """
    on_gpu, cores = settings.device == "cuda", worker_cores()
    most = most_videos(cores, free_memory(), settings.workers)
    decoders = min(MOST_GPU_VIDEOS, most) if on_gpu else 1
    return Machines(settings.workers, decoders, cores, on_gpu)


def _where(settings: Settings) -> dict[str, str | int]:
    """What the events are to say of where it runs."""
    machines = machines_of(settings)
    return {
        "device": settings.device,
        "workers": machines.workers,
        "decoders": machines.decoders,
        "cores": machines.cores,
    }


def _prepared(out: Path, spec: Spec, manifest: Manifest, settings: Settings) -> StreamFolder:
    return StreamFolder.prepare(
        out / spec.stream,
        spec,
        [video.video_id for video in manifest.videos],
        settings.shard_size,
        provenance(settings.device),
    )


def require_decoders() -> None:
    """Raise ModuleNotFoundError when a decoder is not installed.

    Without this each video would fail, or be left to the other decoder without a word.
    """
    for name in ("decord", "av"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def provenance(device: str) -> dict[str, str]:
    """What merely happened: versions and machine. Not part of a spec's identity."""
    return {
        "vadprep": vadprep.__version__,
        "python": sys.version.split()[0],
        **{name: _version(name) for name in SHAPING_PACKAGES},
        "machine": platform.platform(),
        "processor": _gpu_name() if device == "cuda" else _cpu_name(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # decord under its older name
        return "not installed under this name"


def _gpu_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "GPUs of other nodes"  # the driver of a cluster needs none


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
