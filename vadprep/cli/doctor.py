"""Command doctor: what this machine has, what is missing, what that costs, what to do.

Needs the base installation only: what is missing is a finding, not an error.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from fractions import Fraction
from pathlib import Path

import click

import vadprep
from vadprep.backbones.weights.catalog import CATALOG, stored_weights, weights_folder
from vadprep.cli.help import command
from vadprep.cli.options import FOLDER
from vadprep.cli.text import show, size
from vadprep.core.errors import VadprepError
from vadprep.core.resources import core_quota, installed_version, read_cgroup

PROBE_BYTES = 64 << 20
"""Written to measure the speed of a disk."""
SLOW_DISK = 50e6
"""Bytes per second below which extraction waits for the disk."""
PROBE_FRAMES = 20
SMALL_SHARED_MEMORY = 1 << 30
SMALL_MEMORY = 4 << 30

PACKAGES = {
    "numpy": "nothing works",
    "h5py": "nothing works",
    "click": "nothing works",
    "torch": "no extraction and no training",
    "safetensors": "no weights files and no checkpoints",
    "av": "no extraction: the second decoder is missing",
    "decord2": "no extraction: the first decoder is missing",
    "pillow": "no extraction: frames cannot be resized",
    "ray": "no extraction with several workers or GPUs",
    "numba": "no optical flow on the CPU",
    "triton": "no optical flow on a GPU",
    "pytorchvideo": "no ResNet-50 networks",
    "torchvision": "no ResNet-50 networks, no classifiers, no class names",
    "scikit-learn": "no metrics",
    "matplotlib": "no plots",
    "rich": "no progress bar",
}
"""Package -> what does not work without it."""

OTHER_NAMES = {"decord2": ("decord",)}
"""Other names under which a package may be installed."""

INSTALL = "pip install 'vadprep[all]'"
CPU_SPEED = "extraction on the CPU: 2 to 5 clips of one crop per second and core"

DECODER_ERRORS = (VadprepError, ImportError, OSError, LookupError, RuntimeError, ValueError)
"""What a decoder, or the codec of the probe, raises when a part is missing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    topic: str
    found: str
    cost: str = ""
    """What does not work or is slow because of it; empty when all is well."""
    remedy: str = ""
    """What to do about it."""


@command("doctor", example="vadprep doctor features/")
@click.argument("folder", type=FOLDER, default=Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(folder: Path, as_json: bool) -> None:
    """Check this machine: what is missing and what that costs.

    FOLDER is where features will be written. Default: the current folder.
    """
    findings = list(examine(folder))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
        return
    show([("what", "found", "cost", "what to do"), *map(astuple, findings)])


def examine(folder: Path) -> Iterator[Finding]:
    """Findings about this machine, and about the disk of ``folder``, one by one."""
    yield Finding("vadprep", f"{vadprep.__version__}, Python {platform.python_version()}")
    for name, cost in PACKAGES.items():
        version = installed_version(name, *OTHER_NAMES.get(name, ()))
        yield Finding(name, version) if version else Finding(name, "missing", cost, INSTALL)
    yield _cores()
    yield _memory()
    yield from _precision()
    yield _gpu()
    for decoder in ("decord", "pyav"):
        yield _decoder(decoder)
    yield _shared_memory()
    yield from _weights()
    yield from _disk(folder)


# ---------------------------------------------------------------- processor, memory, GPU


def _cores() -> Finding:
    cores, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{cores}" + f" of the machine's {present} (affinity)" * (cores < present)
    allowed = core_quota()
    if allowed is None or allowed >= cores:
        return Finding("CPU cores", found)
    return Finding(
        "CPU cores",
        f"{found}, the container may use {allowed:g}",
        "more workers would wait for each other",
        f"--workers {max(1, int(allowed))}",
    )


def _memory() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_cgroup("memory.max")
    memory = min(memory, int(limit)) if limit.isdecimal() else memory
    if memory >= SMALL_MEMORY:
        return Finding("memory", size(memory))
    cost = "a worker and its decoder need 1 to 2 GiB"
    return Finding("memory", size(memory), cost, "--workers 1")


def _precision() -> Iterator[Finding]:
    topic = "bf16 on the CPU"
    try:
        from vadprep.backbones import has_cpu_bf16

        if has_cpu_bf16():
            yield Finding(topic, "yes: --precision bf16 takes a quarter of the time of fp32")
        else:
            cost = "extraction on the CPU uses fp32, about 4 times slower than bf16"
            yield Finding(topic, "no (needs AVX512-BF16 or AMX)", cost, "use another processor")
    except ModuleNotFoundError:  # torch is missing, and already reported
        return


def _gpu() -> Finding:
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("GPU", "unknown without torch", CPU_SPEED, INSTALL)
    if not torch.cuda.is_available():
        if torch.version.cuda:
            found = f"none (torch {torch.__version__} is for CUDA {torch.version.cuda})"
            return Finding("GPU", found, CPU_SPEED, "if there is one, update its driver")
        found = "none (this torch is built for the CPU alone)"
        return Finding("GPU", found, CPU_SPEED, "if there is one, install torch for CUDA")
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {size(card.total_memory)}" for card in cards)
    if min(card.major for card in cards) >= 8:
        return Finding("GPU", names)
    return Finding("GPU", names, "older than Ampere: no tf32 and no bf16", "--precision fp16")


def _shared_memory() -> Finding:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("/dev/shm", "none", "Ray uses files, which are slower", "mount a tmpfs")
    if free >= SMALL_SHARED_MEMORY:
        return Finding("/dev/shm", f"{size(free)} free")
    remedy = "start the container with --shm-size"
    return Finding("/dev/shm", f"{size(free)} free", "Ray may not start", remedy)


# ---------------------------------------------------------------- decoders, weights


def _decoder(name: str) -> Finding:
    """Decode a tiny video for real."""
    topic = f"decoder {name}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.avi"
            _write_probe(path)
            count = _count_frames(path, name)
    except DECODER_ERRORS as error:
        cost = "only the other decoder reads videos"
        return Finding(topic, f"does not work: {error}", cost, INSTALL)
    if count == PROBE_FRAMES:
        return Finding(topic, "works")
    found = f"{count} of {PROBE_FRAMES} frames of a test video"
    return Finding(topic, found, "frames are lost", "install another version")


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


def _weights() -> Iterator[Finding]:
    graphs = dict.fromkeys(known.graph for known in CATALOG.values())
    ready = {graph: name for graph in graphs if (name := stored_weights(graph))}
    yield Finding("folder of weights", str(weights_folder()))
    for graph, name in ready.items():
        yield Finding(f"weights of {graph}", name)
    if "inception_i3d" not in ready:
        cost, remedy = "extract needs --weights FILE", "vadprep weights get i3d-rgb"
        yield Finding("weights of inception_i3d", "none", cost, remedy)


# ---------------------------------------------------------------- disk


def _disk(folder: Path) -> Iterator[Finding]:
    try:
        yield Finding("disk space", f"{size(shutil.disk_usage(folder).free)} free in {folder}")
        with tempfile.TemporaryDirectory(prefix=".vadprep-doctor-", dir=folder) as probe:
            for check in (_speed, _locks, _links):
                yield check(Path(probe))
    except OSError as error:
        found = f"{folder}: {os.strerror(error.errno or 0)}"
        yield Finding("disk", found, "features cannot be written there", "choose another folder")


def _speed(folder: Path) -> Finding:
    """Write and flush, so that the cache of the system does not count."""
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    with open(folder / "probe", "wb") as file:
        for _ in range(PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = PROBE_BYTES / (time.perf_counter() - start)
    found = f"{size(rate)} per second written"
    if rate > SLOW_DISK:
        return Finding("disk speed", found)
    cost = "slow: shards and saved flow wait for the disk"
    return Finding("disk speed", found, cost, "write features to a local disk")


def _locks(folder: Path) -> Finding:
    try:
        with open(folder / "lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        found, cost = f"no ({os.strerror(error.errno or 0)})", "two downloads of a file may collide"
        return Finding("file locks", found, cost, "set VADPREP_CACHE to a local disk")
    return Finding("file locks", "yes")


def _links(folder: Path) -> Finding:
    try:
        (folder / "one").touch()
        os.link(folder / "one", folder / "two")
    except OSError as error:
        found = f"no ({os.strerror(error.errno or 0)})"
        cost = "two runs that start in the same second may both start"
        return Finding("hard links", found, cost, "start one run first")
    return Finding("hard links", "yes")
