"""What this machine has got for the work, and what each missing piece costs.

Runs with the base install: whatever is not there is a finding, not an error.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import vadprep
from vadprep.backbones.weights.catalog import CATALOG, stored_weights, weights_folder
from vadprep.cli.text import size
from vadprep.core.errors import VadprepError
from vadprep.core.resources import core_quota, read_cgroup

PROBE_BYTES = 64 << 20
"""Written and read back to time a disk."""
SLOW_DISK = 50e6
"""Bytes a second below which a disk holds up the reading of videos."""
PROBE_FRAMES = 20
SMALL_SHARED_MEMORY = 1 << 30
SMALL_MEMORY = 4 << 30

"""Where a container finds its own limits."""

PACKAGES = {
    "numpy": "nothing runs",
    "h5py": "nothing runs",
    "click": "nothing runs",
    "torch": "no extraction, no training: features can be read, listed and verified",
    "safetensors": "no weights files, no checkpoints",
    "av": "no extraction: what decord cannot read has no second decoder",
    "decord2": "no extraction: the first decoder is missing",
    "pillow": "no extraction: frames are resized by it",
    "ray": "no extraction by several workers or GPUs",
    "numba": "no optical flow on the CPU",
    "triton": "no optical flow on a GPU",
    "pytorchvideo": "no ResNet-50 networks",
    "torchvision": "no ResNet-50 networks, no classifiers, no words for top-5",
    "matplotlib": "no plots of scores",
    "rich": "no live progress",
}
"""Packages, and what is missing without each."""

DECODER_TROUBLE = (
    VadprepError,
    ImportError,
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
)
"""What a decoder, or the codec of the probe, may be missing or raise."""

STAND_INS = {"decord2": ("decord",)}
"""Other names under which a package may be installed."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    found: str
    cost: str = ""
    """What it costs that it is missing or slow; empty where all is well."""


def examine(folder: Path) -> Iterator[Finding]:
    """Findings about this machine, and about the disk that ``folder`` is on, one by one."""
    yield Finding("vadprep", f"{vadprep.__version__}, Python {platform.python_version()}")
    yield from _packages()
    yield from _processor()
    yield _gpu()
    for decoder in ("decord", "pyav"):
        yield _decoder(decoder)
    yield _shared_memory()
    yield from _weights()
    yield from _disk(folder)


# ---------------------------------------------------------------- packages


def _packages() -> Iterator[Finding]:
    for name, cost in PACKAGES.items():
        version = _version(name)
        if version:
            yield Finding(name, version)
        else:
            yield Finding(name, "missing", f"{cost}; pip install 'vadprep[all]'")


def _version(package: str) -> str:
    """Version of a package, empty when it is not installed."""
    for name in (package, *STAND_INS.get(package, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


# ---------------------------------------------------------------- processor, memory, GPU


def _processor() -> Iterator[Finding]:
    yield _cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_cgroup("memory.max")
    memory = min(memory, int(limit)) if limit.isdecimal() else memory
    cost = "a worker and its decoder take 1 to 2 GiB" if memory < SMALL_MEMORY else ""
    yield Finding("memory", size(memory), cost)
    try:
        from vadprep.backbones.precision import has_cpu_bf16
    except ModuleNotFoundError:
        return
    if has_cpu_bf16():
        yield Finding(
            "bf16 on the CPU", "yes: --precision bf16 takes a quarter of the time of fp32"
        )
    else:
        cost = "extraction on the CPU is fp32 alone, some 4 times as slow as bf16"
        yield Finding("bf16 on the CPU", "no (needs AVX512-BF16 or AMX)", cost)


def _cores() -> Finding:
    cores, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{cores}" + f" of the machine's {present} (affinity)" * (cores < present)
    allowed = core_quota()
    if allowed is not None and allowed < cores:
        cost = f"more would wait for each other: {max(1, int(allowed))} workers at once"
        return Finding("CPU cores", f"{found}, the container may use {allowed:g}", cost)
    return Finding("CPU cores", found)


def _gpu() -> Finding:
    cost = "extraction on the CPU: 2 to 5 clips of one view a second and core"
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("GPU", "unknown without torch", cost)
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} is for CUDA {torch.version.cuda}"
        why = built if torch.version.cuda else "this torch is built for the CPU alone"
        return Finding("GPU", f"none ({why})", cost)
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {size(card.total_memory)}" for card in cards)
    old = min(card.major for card in cards) < 8
    return Finding(
        "GPU", names, "older than Ampere: no TF32 and no bf16, fp16 alone" if old else ""
    )


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("/dev/shm", "none", "Ray works through files, which is slower")
    cost = "Ray may refuse to start; containers have an option --shm-size"
    return Finding("/dev/shm", f"{size(free)} free", cost if free < SMALL_SHARED_MEMORY else "")


# ---------------------------------------------------------------- decoders


def _decoder(name: str) -> Finding:
    """Decode a tiny video for real."""
    topic = f"decoder {name}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.avi"
            _write_probe(path)
            count = _count_frames(path, name)
    except DECODER_TROUBLE as error:
        return Finding(topic, f"does not work: {error}", "videos are left to the other decoder")
    if count != PROBE_FRAMES:
        found = f"{count} of {PROBE_FRAMES} frames of a probe"
        return Finding(topic, found, "frames are lost: install another version")
    return Finding(topic, "works")


def _write_probe(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height = 64, 48
        for i in range(PROBE_FRAMES):
            pixels = np.full((48, 64, 3), 8 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _count_frames(path: Path, name: str) -> int:
    from vadprep.video import open_frames

    with open_frames(path, decoder=name) as stream:
        return sum(len(block) for block in stream)


# ---------------------------------------------------------------- weights


def _weights() -> Iterator[Finding]:
    graphs = dict.fromkeys(known.graph for known in CATALOG.values())
    ready = {graph: name for graph in graphs if (name := stored_weights(graph))}
    yield Finding("weights kept in", str(weights_folder()))
    for graph, name in ready.items():
        yield Finding(f"weights of {graph}", name)
    if "inception_i3d" not in ready:
        cost = "extract wants --weights FILE; vadprep weights get i3d-rgb"
        yield Finding("weights of inception_i3d", "none", cost)


# ---------------------------------------------------------------- disk


def _disk(folder: Path) -> Iterator[Finding]:
    checks: dict[str, Callable[[Path], Finding]] = {
        "disk speed": _speed,
        "file locks": _locks,
        "hard links": _links,
    }
    try:
        yield Finding("disk space", f"{size(shutil.disk_usage(folder).free)} free in {folder}")
        with tempfile.TemporaryDirectory(prefix=".vadprep-doctor-", dir=folder) as probe:
            for check in checks.values():
                yield check(Path(probe))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        yield Finding("disk", f"{folder}: {why}", "features cannot be written there")


def _speed(folder: Path) -> Finding:
    """Written and flushed, so that the cache of the system does not count."""
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    with open(folder / "probe", "wb") as file:
        for _ in range(PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = PROBE_BYTES / (time.perf_counter() - start)
    cost = "" if rate > SLOW_DISK else "slow: shards and saved flow wait for it"
    return Finding("disk speed", f"{size(rate)} a second written", cost)


def _locks(folder: Path) -> Finding:
    try:
        with open(folder / "lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        cost = "two downloads of one file may meet; nothing else needs locks"
        return Finding("file locks", f"no ({os.strerror(error.errno or 0)})", cost)
    return Finding("file locks", "yes")


def _links(folder: Path) -> Finding:
    try:
        (folder / "one").touch()
        os.link(folder / "one", folder / "two")
    except OSError as error:
        cost = "two runs that start a folder at the same moment may both think they were first"
        return Finding("hard links", f"no ({os.strerror(error.errno or 0)})", cost)
    return Finding("hard links", "yes")
