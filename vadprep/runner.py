"""Many videos: a manifest, a folder of videos and settings -> a feature folder.

A runner is a function ``(tasks, on_start) -> reports``. ``in_process`` does one video after the
other here; ``cluster.on_ray`` spreads them over actors. Both give the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

import vadprep
from vadprep.backbones import load_backbone, load_weights, scaling_of
from vadprep.backbones.precision import check_precision
from vadprep.backbones.weights import RANDOM, random_seed, weights_path
from vadprep.crops import crop_boxes, resize_taps, target_size
from vadprep.datasets import SourceIndex
from vadprep.decode import DECODERS
from vadprep.driver import Driver, OnStart, Runner, Share, Worker
from vadprep.extract import Extractor, Report, Task
from vadprep.folder import StreamFolder, check_writable, read_spec
from vadprep.manifest import Manifest
from vadprep.records import DecodeError, ManifestError, SpecError
from vadprep.spec import PRESETS, UNKNOWN, Spec, keep_settled, resolve

SHAPING_PACKAGES = ("torch", "numpy", "pillow", "av", "decord2", "decord")
"""Packages whose version could change a number."""

GPU_VIDEOS = 4
"""Videos in the works at once for one GPU, each with a decoder of its own."""

SETTABLE = (
    "fps", "resize", "filter", "crops", "crop_order", "scaling", "tail", "decoder", "precision",
    "dtype", "batch",
)  # fmt: skip
"""Fields of a spec that an override may name; the network fixes the others."""


@dataclass(frozen=True)
class Settings:
    """What a run of ``extract`` asks for."""

    weights: str
    """File, or ``random:SEED``."""
    preset: str = "i3d"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that replace the preset's."""
    device: str = "cpu"
    workers: int = 1
    """Processes; on ``cuda`` each holds one GPU."""
    share: Share = field(default_factory=Share)
    shard_size: int | None = None
    """Videos a shard; None for what the folder was made with."""
    address: str = "local"
    """Of the Ray cluster; ``local`` starts one for this run alone."""

    def __post_init__(self) -> None:
        if self.weights.startswith(RANDOM):
            random_seed(self.weights)
        for name in self.overrides:
            if name not in SETTABLE:
                raise ValueError(f"setting {name!r}: allowed are {', '.join(SETTABLE)}")
        check_recipe(resolve(self.preset, self.device, (self.weights, ""), self.overrides))


def check_recipe(spec: Spec) -> None:
    """Raise ValueError for a recipe that cannot be computed, before anything is written."""
    for name in SETTABLE:
        if getattr(spec, name) == UNKNOWN:
            raise ValueError(f"{name} = {UNKNOWN!r}: only imported features may have that")
    for decoder in spec.decoder.split(", "):
        if decoder not in DECODERS:
            raise ValueError(f"decoder = {spec.decoder!r}: allowed are {', '.join(DECODERS)}")
    if not isinstance(spec.batch, int) or spec.batch < 1:
        raise ValueError(f"batch = {spec.batch!r}: expected a whole number above 0")
    size = target_size(spec.resize, 480, 640)
    crop_boxes(spec.crop_order, spec.crops, spec.crop_size, *size)
    resize_taps(spec.filter, 480, size[0])
    scaling_of(spec.scaling)


class Progress(Protocol):
    """Learns how a run is going."""

    def prepare(self, tasks: list[Task]) -> None:
        """What is left to do."""

    def __call__(self, report: Report) -> None:
        """What became of a video."""


class Silence:
    """A Progress that keeps still."""

    def prepare(self, tasks: list[Task]) -> None:
        pass

    def __call__(self, report: Report) -> None:
        pass


def in_process(worker: Worker) -> Runner:
    """A runner that does one task after the other in this process."""

    def run(tasks: Sequence[Task], on_start: OnStart) -> Iterator[Report]:
        for task in tasks:
            on_start(task)
            yield worker(task)

    return run


def make_runner(spec: Spec, settings: Settings) -> Runner:
    """In process for one worker on the CPU, else on Ray: a GPU wants several decoders."""
    weights = settings.weights
    if not weights.startswith(RANDOM):  # workers stand in other folders
        weights = str(weights_path(weights).resolve())
    make_worker = partial(make_extractor, spec, weights, settings.device)
    on_gpu = settings.device == "cuda"
    if settings.workers == 1 and settings.address == "local" and not on_gpu:
        return in_process(make_worker())
    from vadprep.cluster import Pool, on_ray

    pool = Pool(
        workers=settings.workers,
        gpus_each=int(on_gpu),
        videos_each=GPU_VIDEOS if on_gpu else 1,
        address=settings.address,
    )
    return on_ray(make_worker, pool)


def make_extractor(spec: Spec, weights: str, device: str) -> Extractor:
    """The extractor of a spec; raises SpecError when the weights are not the spec's."""
    loaded = load_weights(weights, spec.graph)
    if loaded.sha256 != spec.weights_sha256:
        raise SpecError(
            f"{weights}: SHA-256 {loaded.sha256[:12]}... where the spec has "
            f"{spec.weights_sha256[:12]}... ({spec.weights})"
        )
    backbone = load_backbone(spec.graph, loaded, device, spec.precision, spec.scaling)
    return Extractor(spec, backbone)


def settle_spec(out: Path, settings: Settings, stream: str = "rgb") -> Spec:
    """The spec of a run: the preset with its overrides, and what the folder has settled.

    Raises SpecError when this machine is to run it and has not got the precision.
    """
    weights = load_weights(settings.weights, PRESETS[settings.preset]["graph"])
    spec = resolve(
        settings.preset,
        settings.device,
        (weights.name, weights.sha256),
        settings.overrides,
        stream,
    )
    found = read_spec(out / stream)
    if found:
        spec = keep_settled(spec, found, settings.overrides)
    if settings.address == "local":
        check_precision(spec.precision, torch.device(settings.device))
    return spec


def check_sources(manifest: Manifest, root: Path) -> None:
    """Raise ManifestError when not one of several videos is where the manifest has it.

    A wrong root is found out before its ids are in a plan, which only grows.
    """
    index = SourceIndex(root)
    reasons = []
    for video in manifest.videos:
        try:
            index.find(video)
            return
        except DecodeError as error:
            reasons.append(str(error))
    if len(reasons) > 1:
        raise ManifestError(
            f"none of the {len(reasons)} videos of {manifest.path} is under {root}: "
            f"correct --root. {reasons[0]}"
        )


def extract_dataset(
    manifest: Manifest,
    root: Path,
    out: Path,
    settings: Settings,
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> StreamFolder:
    """Extract the videos of ``manifest`` under ``root`` into ``out``/rgb: the folder it makes.

    ``progress`` learns what is left to do and then what became of each video. Raises SpecError
    when ``out`` holds features of another spec, OutputError when it is not writable, Stopped at
    a signal. Videos that cannot be read are in the journal, not raised.
    """
    require_decoders()
    root, out = root.resolve(), out.resolve()
    spec = settle_spec(out, settings)
    check_sources(manifest, root)
    check_writable(out)
    folder = StreamFolder.prepare(
        out / spec.stream,
        spec,
        [video.video_id for video in manifest.videos],
        settings.shard_size,
        provenance(settings.device),
    )
    driver = Driver(folder, manifest, root, settings.share)
    driver.recover()
    tasks = driver.tasks(retry_failed)
    progress = progress or Silence()
    progress.prepare(tasks)
    if tasks:
        driver.run(make_runner(spec, settings), tasks, progress)
    return folder


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
        "processor": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # decord under its older name
        return "not installed under this name"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
