"""The parts of ``vadprep bench gpu``: what is measured, each in a function that yields rows.

Peaks are measured, not looked up: a large product of matrices in each precision, and a copy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from vadprep.backbones import (
    GRAPHS,
    Backbone,
    build,
    check_precision,
    load_weights,
    tf32_only_if,
)
from vadprep.backbones.backbone import DTYPES
from vadprep.backbones.engine import is_out_of_memory, torch_form
from vadprep.cli.bench.train import random_slice, time_head
from vadprep.core.errors import FeaturesError, SettingError, VadprepError, counted
from vadprep.data import find_videos
from vadprep.extraction import resolve_plan, run_plan
from vadprep.extraction.timing import stage_seconds
from vadprep.features import read_events, status
from vadprep.flow import TVL1, tvl1
from vadprep.video import open_frames, require_nvdec

ITERATION_BYTES = 60
"""That TV-L1 reads and writes for a pixel in an iteration (README of ``flow``)."""
FPS = 25
CLIP_FRAMES = 16


class Row(NamedTuple):
    """One measurement; ``value`` is None for what could not be measured, ``note`` says why."""

    what: str
    value: float | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    seconds: float
    """That a network, a product or a copy is repeated."""
    side: int
    """Of the matrices whose product shows the peak."""
    copied: int
    """Bytes."""
    graphs: tuple[str, ...]
    precisions: tuple[str, ...]
    """The most useful first: what does not fit the time is left out at the end."""
    batches: tuple[int, ...]
    compiled: str
    """Back end of torch.compile; empty for none."""
    flow: tuple[int, int]
    """Height and width of the frames of TV-L1."""
    pairs: int
    frames: int
    """Of a video that is decoded or extracted; at 340x256, as data sets have it."""
    processes: tuple[int, ...]
    videos: int
    """That are extracted, at most; all are the same file."""
    crops: tuple[int, ...]
    streams: tuple[str, ...]
    heads: tuple[str, ...]
    features: int
    """Videos that heads train on."""
    steps: int
    tests: Path
    """Folder of the tests, in a checkout of the sources."""


class Bench(NamedTuple):
    """What a part gets."""

    device: str
    sizes: Sizes
    deadline: float
    """Of ``time.monotonic``: what has not begun by then is left out."""
    known: Mapping[str, float]
    """Values of the rows before."""

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline


Part = Callable[[Bench], Iterator[Row]]


def per_second(run: Callable[[], object], seconds: float, device: str) -> float:
    """Runs a second: until ``seconds`` are over, after a warm-up.

    On a GPU the second call of a network is recorded as a CUDA graph, and the third replays it.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(3 if device == "cuda" else 1):
        run()
    wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not count:
        run()
        count += 1
        if count % 8 == 0 or device == "cpu":
            wait()
    wait()
    return count / (time.perf_counter() - start)


def usable_precisions(bench: Bench) -> list[str]:
    """Those of the sizes that the device has."""
    usable = []
    for precision in bench.sizes.precisions:
        try:
            check_precision(precision, torch.device(bench.device))
            usable.append(precision)
        except VadprepError:
            pass
    return usable


def peaks(bench: Bench) -> Iterator[Row]:
    """Operations a second of a large product in each precision, and bytes a second of a copy."""
    side, seconds = bench.sizes.side, bench.sizes.seconds
    for precision in usable_precisions(bench):
        factors = [
            torch.randn(side, side, device=bench.device, dtype=DTYPES[precision]) for _ in "ab"
        ]
        with tf32_only_if(precision == "tf32"):
            rate = per_second(partial(torch.matmul, *factors), seconds, bench.device)
        yield Row(f"peak {precision}", 2 * side**3 * rate / 1e12, "TFLOP/s", f"product of {side}²")
    source = torch.zeros(bench.sizes.copied, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    rate = per_second(lambda: target.copy_(source), seconds, bench.device)
    yield Row("memory", 2 * len(source) * rate / 1e9, "GB/s", "copy, read and written")


@cache
def clip_flops(graph: str) -> int:
    """Floating-point operations of a clip, counted without computing it; two a multiplication."""
    made_for = GRAPHS[graph]
    shape = (1, made_for.channels, made_for.clip_length, made_for.size, made_for.size)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(graph)(torch.empty(shape))
    return counter.get_total_flops()


def random_views(graph: str, batch: int, device: str) -> torch.Tensor:
    made_for = GRAPHS[graph]
    shape = (batch, made_for.clip_length, made_for.size, made_for.size, made_for.channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def networks(bench: Bench) -> Iterator[Row]:
    """Clips a second of each network by precision and batch, and their share of the peak."""
    left_out, weights = 0, cache(load_weights)
    for precision in usable_precisions(bench):
        for graph in bench.sizes.graphs:
            if bench.is_late():
                left_out += len(bench.sizes.batches)
                continue
            backbone = Backbone(weights("random:0", graph), bench.device, precision)
            peak = 1e12 * bench.known.get(f"peak {precision}", 0)
            for batch in bench.sizes.batches:
                name = f"{graph} {precision} x {batch}"
                views = random_views(graph, batch, bench.device)
                try:
                    rate = batch * per_second(
                        partial(backbone, views), bench.sizes.seconds, bench.device
                    )
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    yield Row(name, None, note="out of memory")
                    continue
                share = f"{rate * clip_flops(graph) / peak:.0%} of peak" if peak else ""
                yield Row(name, rate, "clips/s", share)
            del backbone
    if left_out:
        yield Row("networks", None, note=f"{counted(left_out, 'form')} left out: no time")


def compiling(bench: Bench) -> Iterator[Row]:
    """What torch.compile would gain, over the form that vadprep runs."""
    graph, precision = bench.sizes.graphs[0], usable_precisions(bench)[-1]
    name = f"torch.compile, {graph}"
    if not bench.sizes.compiled:
        yield Row(name, None, note="not measured on this device")
        return
    weights, batch = load_weights("random:0", graph), bench.sizes.batches[0]
    form = torch_form(weights, DTYPES[precision], "[-1,1]").to(bench.device)
    compiled = torch.compile(form, backend=bench.sizes.compiled)
    views, backbone = (
        random_views(graph, batch, bench.device),
        Backbone(weights, bench.device, precision),
    )
    rates = []
    for each in (backbone, compiled):
        with torch.inference_mode():
            run = partial(each, views)
            rates.append(per_second(run, bench.sizes.seconds, bench.device))
    yield Row(name, rates[1] / rates[0], "x ours", f"{precision} x {batch}")


def scene(height: int, width: int, count: int) -> NDArray[np.uint8]:
    """Grey frames [count, height, width] of a smooth pattern that moves by 2 px a frame."""
    noise = torch.rand(
        1, 1, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(0)
    )
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")[0, 0]
    still = (255 * smooth.clamp(0, 1)).byte().numpy()
    return np.stack([np.roll(still, 2 * number, axis=1) for number in range(count)])


def optical_flow(bench: Bench) -> Iterator[Row]:
    """Pairs a second of TV-L1, its share of the memory's speed, its agreement with the CPU."""
    height, width = bench.sizes.flow
    frames, size = scene(height, width, bench.sizes.pairs + 1), f"{width}x{height}"

    def rate(settings: TVL1) -> float:
        tvl1(frames[:3], settings, bench.device)  # compiles
        start = time.perf_counter()
        tvl1(frames, settings, bench.device)
        return bench.sizes.pairs / (time.perf_counter() - start)

    yield Row(f"TV-L1 {size}", rate(TVL1()), "pairs/s", "default settings")
    # A known number of iterations: epsilon 0 ends no warp early.
    fixed = TVL1(epsilon=0, outer_iterations=1)
    iterations = fixed.warps * fixed.outer_iterations * fixed.inner_iterations
    pixels = sum(rows * columns for rows, columns in fixed.sizes(height, width))
    found = rate(fixed)
    moved, memory = found * pixels * iterations * ITERATION_BYTES, bench.known.get("memory", 0)
    share = f"{moved / 1e9 / memory:.0%} of the memory's speed" if memory else ""
    yield Row(f"TV-L1 {size}, {iterations} iterations", found, "pairs/s", share)
    few = frames[: min(len(frames), 9)]
    lengths = np.linalg.norm(tvl1(few, device=bench.device) - tvl1(few), axis=-1)
    yield Row("TV-L1 against the CPU", float(lengths.mean()), "px apart",
              f"99 %: {np.quantile(lengths, 0.99):.3f} px")  # fmt: skip


def write_scene(path: Path, size: tuple[int, int], count: int) -> Path:
    """A video of ``scene`` in H.264, ``size`` (width, height)."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number, grey in enumerate(scene(size[1], size[0], count)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="gray")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoding(bench: Bench) -> Iterator[Row]:
    """Frames a second of 1 to 16 decoders side by side, and of the GPU's."""
    with tempfile.TemporaryDirectory() as folder:
        small = write_scene(Path(folder, "small.mp4"), (340, 256), bench.sizes.frames)
        cases = [(small, "340x256", "decord", count) for count in bench.sizes.processes]
        big = write_scene(Path(folder, "big.mp4"), (1280, 720), bench.sizes.frames // 8)
        cases.append((big, "1280x720", "decord", 1))
        try:
            require_nvdec(bench.device)
            cases += [(big, "1280x720", "nvdec", count) for count in (1, 4)]
        except SettingError:
            why = "no CUDA device" if bench.device == "cpu" else "torchcodec does not load"
            yield Row("decoding by nvdec", None, note=why)
        for path, size, decoder, count in cases:
            if not bench.is_late():
                rate = decoded_per_second(path, decoder, count)
                note = "a process" if count == 1 else f"{count} processes"
                yield Row(f"decoding {size}, {decoder}", rate, "frames/s", note)


def decoded_per_second(path: Path, decoder: str, processes: int) -> float:
    """Frames a second when so many processes decode the same file, starts included."""

    def count_all(_: int) -> int:
        with open_frames(path, decoder=decoder) as stream:
            return sum(map(len, stream))

    start = time.perf_counter()
    with ThreadPoolExecutor(processes) as threads:
        total = sum(threads.map(count_all, range(processes)))
    return total / (time.perf_counter() - start)


def extraction(bench: Bench) -> Iterator[Row]:
    """Clips a second end to end, and what takes the time of the worker."""
    cases = [(stream, crops) for stream in bench.sizes.streams for crops in bench.sizes.crops]
    cases = [(stream, crops) for stream, crops in cases if stream == "rgb" or crops == 1]
    with tempfile.TemporaryDirectory() as folder:
        video = write_scene(Path(folder, "scene.mp4"), (340, 256), bench.sizes.frames)
        for number, (streams, crops) in enumerate(cases):
            name = f"extraction {streams}, {crops} crop{'s' * (crops > 1)}"
            left = (bench.deadline - time.monotonic()) / (len(cases) - number)
            count = videos_for(left, streams, crops, bench)
            if left <= 0:
                yield Row(name, None, note="left out, for lack of time")
                continue
            place = Path(folder, str(number))
            (place / "videos").mkdir(parents=True)
            for copy in range(count):
                os.link(video, place / "videos" / f"{copy}.mp4")
            rate, limit = extracted_per_second(place, streams, crops, bench.device)
            yield Row(name, rate, "clips/s", limit)


def videos_for(seconds: float, streams: str, crops: int, bench: Bench) -> int:
    """Videos that about half of ``seconds`` suffice for, by what networks and TV-L1 were measured
    at; the rest is for the start."""
    rates = [
        rate for what, rate in bench.known.items()
        if what.startswith("inception_i3d ") and what.endswith(f" x {max(bench.sizes.batches)}")
    ]  # fmt: skip
    height, width = bench.sizes.flow
    cost = crops / min(rates, default=1.0)
    if "flow" in streams:
        cost = 2 * cost + CLIP_FRAMES / bench.known.get(f"TV-L1 {width}x{height}", 1.0)
    return max(
        1, min(bench.sizes.videos, int(seconds / 2 / cost * CLIP_FRAMES / bench.sizes.frames))
    )


def extracted_per_second(folder: Path, streams: str, crops: int, device: str) -> tuple[float, str]:
    """Clips a second from the first video's start to the last one's end, and what limits them."""
    plan = resolve_plan(
        folder / "out", streams=streams, weights="random:0", device=device, workers=1,
        settings={"crops": crops},
    )  # fmt: skip
    run_plan(plan, find_videos(folder / "videos"), folder / "videos")
    stream = streams.split(",")[0]
    done = status(folder / "out")[stream]
    if not done.is_complete:
        raise FeaturesError(f"{folder}: a video failed")
    events = list(done.folder.events())
    start = min(each.time for each in events if each.event == "start")
    end = max(each.time for each in events if each.event == "committed")
    spent = stage_seconds(read_events(folder / "out" / streams.split(",")[-1])).seconds
    stage = max(spent, key=lambda name: spent[name])
    return done.num_clips / (end - start), f"{stage} is {spent[stage] / sum(spent.values()):.0%}"


def training(bench: Bench) -> Iterator[Row]:
    """Steps a second of each head, with the settings of XD-Violence."""
    features, labels = random_slice(bench.sizes.features)
    with tempfile.TemporaryDirectory() as folder:
        for head in bench.sizes.heads:
            if bench.is_late():
                yield Row(f"training {head}", None, note="left out, for lack of time")
                continue
            place, steps = Path(folder), bench.sizes.steps
            found = time_head(head, features, labels, place, bench.device, steps)
            share = f"{found.plain_step / found.step:.1f} x a plain loop"
            yield Row(f"training {head}", 1 / found.step, "steps/s", share)


def gpu_tests(bench: Bench) -> Iterator[Row]:
    """The tests that are marked ``gpu``."""
    if not bench.sizes.tests.is_dir():
        yield Row("tests of the GPU", None, note="run it from a checkout")
        return
    files = [
        each for each in bench.sizes.tests.rglob("test_*.py") if "mark.gpu" in each.read_text()
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", *map(str, files)]
    seconds = max(1.0, bench.deadline - time.monotonic())
    where = bench.sizes.tests.parent
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=where)
    except subprocess.TimeoutExpired:
        yield Row("tests of the GPU", None, note=f"not through after {seconds:.0f} s")
        return
    lines = done.stdout.splitlines()
    counts = {
        what: int(n)
        for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout[-200:])
    }
    note = ", ".join(f"{n} {what}" for what, n in counts.items() if what != "passed")
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            name = line.split(" - ")[0].rpartition("::")[2]
            yield Row("failed test", None, note=name.replace("_", " "))
    yield Row("tests of the GPU", counts.get("passed", 0), "passed", note)
