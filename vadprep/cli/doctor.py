"""Command doctor: what this machine has, what is missing, what that costs, what to do.

Needs the base installation only: what is missing is a finding, not an error.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import click

import vadprep
from vadprep.backbones.weights.catalog import CATALOG, stored_weights, weights_folder
from vadprep.cli.help import command
from vadprep.cli.options import FOLDER
from vadprep.cli.text import show, size
from vadprep.core.errors import SpecError, VadprepError
from vadprep.core.resources import core_quota, installed_version, read_cgroup

PROBE_BYTES = 64 << 20
"""Written to measure the speed of a disk."""
SLOW_DISK = 50e6
"""Bytes per second below which extraction waits for the disk."""
PROBE_FRAMES = 20
SMALL_SHARED_MEMORY = 1 << 30
SMALL_MEMORY = 4 << 30
INSTALL = "pip install 'vadprep[all]'"
CPU_SPEED = "extraction on the CPU: 2 to 5 clips of one crop per second and core"
DECODER_ERRORS = (VadprepError, ImportError, OSError, LookupError, RuntimeError, ValueError)
"""What a decoder, or the codec of the probe, raises when a part is missing."""
PACKAGES = {
    **dict.fromkeys(("numpy", "h5py", "click"), "nothing works"),
    "torch": "no extraction and no training",
    "openvino": "networks on the CPU take up to 3 times as long",
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
    "scipy": "no training of csltal",
    "tensorboard": "no training",
    "matplotlib": "no plots",
    "open-clip-torch": "no prompts from class names (weights prompts)",
    "rich": "no progress bar",
}
"""Package -> what does not work without it."""


class Finding(NamedTuple):
    """One thing that was checked."""

    topic: str
    found: str
    cost: str = ""
    """What does not work or is slow because of it; empty when all is well."""
    remedy: str = ""
    """What to do about it."""


def _found(topic: str, found: str, is_good: bool, cost: str, remedy: str) -> Finding:
    return Finding(topic, found) if is_good else Finding(topic, found, cost, remedy)


@command("doctor", example="vadprep doctor features/")
@click.argument("folder", type=FOLDER, default=Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(folder: Path, as_json: bool) -> None:
    """Check this machine: what is missing and what that costs.

    FOLDER is where features will be written. Default: the current folder.
    """
    findings = list(examine(folder))
    if as_json:
        click.echo(json.dumps([each._asdict() for each in findings], indent=2))
        return
    show([("what", "found", "cost", "what to do"), *findings])


def examine(folder: Path) -> Iterator[Finding]:
    """Findings about this machine, and about the disk of ``folder``, one by one."""
    with ThreadPoolExecutor() as pool:
        decoders = pool.map(_decoder, ("decord", "pyav"))  # while torch is loaded
        yield from _of_machine()
        yield from decoders
    yield Finding("folder of weights", str(weights_folder()))
    for graph in dict.fromkeys(known.graph for known in CATALOG.values()):
        stored = stored_weights(graph)
        if stored or graph == "inception_i3d":
            cost, remedy = "extract needs --weights FILE", "vadprep weights get i3d-rgb"
            yield _found(f"weights of {graph}", stored or "none", bool(stored), cost, remedy)
    yield from _disk(folder)


def _of_machine() -> Iterator[Finding]:
    yield Finding("vadprep", f"{vadprep.__version__}, Python {platform.python_version()}")
    for name, cost in PACKAGES.items():
        version = installed_version(name, *(["decord"] if name == "decord2" else []))
        yield _found(name, version or "missing", bool(version), cost, INSTALL)
    yield from _processor()
    yield _gpu()
    yield from _conv3d()


def _processor() -> Iterator[Finding]:
    cores, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    allowed = core_quota() or cores
    found = f"{cores}" + f" of the machine's {present} (affinity)" * (cores < present)
    found += f", the container may use {allowed:g}" * (allowed < cores)
    cost, remedy = "more workers would wait for each other", f"--workers {max(1, int(allowed))}"
    yield _found("CPU cores", found, allowed >= cores, cost, remedy)

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_cgroup("memory.max")
    memory = min(memory, int(limit)) if limit.isdecimal() else memory
    cost = "a worker and its decoder need 1 to 2 GiB"
    yield _found("memory", size(memory), memory >= SMALL_MEMORY, cost, "--workers 1")

    cost = "Ray keeps its objects on the disk"
    remedy = "start the container with --shm-size"
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    is_enough = free >= SMALL_SHARED_MEMORY
    yield _found("/dev/shm", f"{size(free)} free", is_enough, cost, remedy)

    with suppress(ModuleNotFoundError):  # without torch, which is reported already
        yield _engine()
        from vadprep.backbones import has_cpu_bf16

        found = "no (needs AVX512-BF16 or AMX)"
        if has_bf16 := has_cpu_bf16():
            found = "yes: --precision bf16 takes about half the time of fp32"
        cost = "extraction on the CPU uses fp32, about half as fast as bf16"
        yield _found("bf16 on the CPU", found, has_bf16, cost, "use another processor")


def _engine() -> Finding:
    """What runs the networks on the CPU, and whether it does."""
    from vadprep.backbones import engine_of, try_engine

    engine, slow = engine_of("cpu"), PACKAGES["openvino"]
    if not engine.startswith("openvino"):
        found = f"{engine}, because openvino is not installed"
        return Finding("networks on the CPU", found, slow, INSTALL)
    try:
        try_engine()
    except SpecError as error:
        return Finding("networks on the CPU", "openvino does not work", "no extraction", str(error))
    return Finding("networks on the CPU", engine)


def _gpu() -> Finding:
    try:
        import torch
    except ModuleNotFoundError:
        return Finding("GPU", "unknown without torch", CPU_SPEED, INSTALL)
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
        remedy = "for an NVIDIA GPU: install its driver and a torch for its version of CUDA"
        return Finding("GPU", f"none (torch {torch.__version__} is {built})", CPU_SPEED, remedy)
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = ", ".join(f"{card.name} {size(card.total_memory)}" for card in cards)
    is_new = min(card.major for card in cards) >= 8
    return _found("GPU", names, is_new, "older than Ampere: no tf32, no bf16", "--precision fp16")


def _conv3d() -> Iterator[Finding]:
    """A finding where Conv3d is known to be slow or wrong on the GPU of this machine."""
    with suppress(ModuleNotFoundError):
        import torch

        from vadprep.backbones import conv3d_fault

        fault = conv3d_fault(torch.__version__, torch.backends.cudnn.version() or 0)
        if fault and torch.cuda.is_available():
            found, remedy = fault
            yield Finding("cuDNN", found, "slow extraction, or useless features", remedy)


def _decoder(name: str) -> Finding:
    """Write a tiny video and decode it for real."""
    topic = f"decoder {name}"
    try:
        import av
        import numpy as np

        from vadprep.video import open_frames

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "probe.avi"
            with av.open(str(path), "w") as container:
                stream = container.add_stream("mpeg4", rate=Fraction(25))
                stream.width, stream.height = 64, 48
                for i in range(PROBE_FRAMES):
                    pixels = np.full((48, 64, 3), 8 * i, dtype=np.uint8)
                    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
            with open_frames(path, decoder=name) as frames:
                count = sum(len(block) for block in frames)
    except DECODER_ERRORS as error:
        cost = "only the other decoder reads videos"
        return Finding(topic, f"does not work: {error}", cost, INSTALL)
    is_good = count == PROBE_FRAMES
    found = "works" if is_good else f"{count} of {PROBE_FRAMES} frames of a test video"
    return _found(topic, found, is_good, "frames are lost", "install another version")


def _disk(folder: Path) -> Iterator[Finding]:
    try:
        yield Finding("disk space", f"{size(shutil.disk_usage(folder).free)} free in {folder}")
        with (
            tempfile.TemporaryDirectory(prefix=".vadprep-doctor-", dir=folder) as probe,
            open(Path(probe, "probe"), "wb") as file,
        ):
            block, start = os.urandom(1 << 20), time.perf_counter()
            for _ in range(PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())  # so that the cache of the system does not count
            rate = PROBE_BYTES / (time.perf_counter() - start)
            cost, remedy = "shards and saved flow wait for the disk", "write to a local disk"
            found = f"{size(rate)} per second written"
            yield _found("disk speed", found, rate > SLOW_DISK, cost, remedy)
    except OSError as error:
        found = f"{folder}: {os.strerror(error.errno or 0)}"
        yield Finding("disk", found, "features cannot be written there", "choose another folder")
