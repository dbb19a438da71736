"""TV-L1 of each back end against OpenCV's: speed and agreement, in one run on the same pairs.

TV-L1 that stops early is chaotic where motion ends. So the difference between a back end and
OpenCV stands beside that of OpenCV and itself, when noise of 1e-4 of a grey level is added.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vadprep.core.errors import DecodeError
from vadprep.core.resources import worker_cores
from vadprep.data import find_videos
from vadprep.flow import grey_of, tvl1
from vadprep.video import open_frames

SIZES = ((224, 224), (256, 340))
"""Height and width: what TV-L1 is usually quoted for."""
NOISE = 1e-4
"""Standard deviation, in grey levels, of the noise that shows how chaotic the method is."""
BASE = "OpenCV"
SELF = "OpenCV, noise of 1e-4 grey levels added"

Flow = NDArray[np.float32]
Method = Callable[[NDArray[np.uint8]], Flow]


class FlowTiming(NamedTuple):
    """One back end at one size, over the pairs of all videos: seconds a pair (median of the
    videos' means), its speed-up over OpenCV, and the mean and the 99th percentile of the lengths
    of the difference to OpenCV's flow in px. The last three are None without OpenCV."""

    size: tuple[int, int]
    backend: str
    seconds: float
    speedup: float | None = None
    mean: float | None = None
    p99: float | None = None


def bench_flow(
    videos: Sequence[Path], pairs: int, sizes: Sequence[tuple[int, int]] = SIZES
) -> tuple[int, list[FlowTiming], list[str]]:
    """Every back end of this machine on ``pairs`` pairs of each video, at each size.

    Gives the number of pairs of all videos, the timings by size, OpenCV first where it is
    installed, and what could not be measured. A folder stands for the videos in it. The back ends
    take turns video by video, so that another load on the machine slows them all. Raises
    DecodeError for a video that cannot be read or has fewer frames, ManifestError for a folder
    without videos.
    """
    found = [[p / v.path for v in find_videos(p).videos] if p.is_dir() else [p] for p in videos]
    files = sum(found, [])
    methods, notes = available()
    timings = []
    for size in sizes:
        for method in methods.values():  # ours are compiled, on a GPU partly for each size
            method(np.zeros((2, *size), np.uint8))
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        flows: dict[str, list[Flow]] = {name: [] for name in methods}
        for file in files:
            frames = grey_frames(file, size, pairs + 1)
            for name, method in methods.items():
                start = time.perf_counter()
                flows[name].append(method(frames))
                seconds[name].append((time.perf_counter() - start) / pairs)
        for name, taken in seconds.items():
            against = []
            if BASE in seconds and name != BASE:
                pairs_of_flow = zip(flows[name], flows[BASE], strict=True)
                off = [np.linalg.norm(a - b, axis=-1).ravel() for a, b in pairs_of_flow]
                errors, speedups = np.concatenate(off), np.array(seconds[BASE]) / taken
                against = [np.median(speedups), errors.mean(), np.quantile(errors, 0.99)]
            timings.append(FlowTiming(size, name, statistics.median(taken), *map(float, against)))
    return len(files) * pairs, timings, notes


def available() -> tuple[dict[str, Method], list[str]]:
    """Back ends of this machine by name, and a line for each that is missing."""
    cores, notes = worker_cores(), []
    methods: dict[str, Method] = {}
    try:
        import cv2
    except ModuleNotFoundError:
        notes.append("OpenCV is not installed (pip install 'opencv-contrib-python-headless>=5')")
    else:
        methods[BASE] = lambda frames: opencv_flow(cv2, frames, 0.0)
        methods[SELF] = lambda frames: opencv_flow(cv2, frames, NOISE)
        notes.append(f"OpenCV {cv2.__version__} (before 5 its warps were rounded to 1/32 px)")
    methods["CPU, 1 thread"] = lambda frames: tvl1(frames, threads=1)
    if cores > 1:
        methods[f"CPU, {cores} threads"] = lambda frames: tvl1(frames, threads=cores)
    if torch.cuda.is_available():
        methods[torch.cuda.get_device_name()] = lambda frames: tvl1(frames, device="cuda")
    else:
        notes.append("no CUDA device here: the GPU back end was not measured")
    return methods, notes


def opencv_flow(cv2: Any, frames: NDArray[np.uint8], noise: float) -> Flow:
    """OpenCV's flow [N - 1, H, W, 2] on one core, with its defaults, which are ours too."""
    shown: NDArray[Any] = frames
    if noise:
        noisy = frames + np.random.default_rng(0).normal(0, noise, frames.shape)
        shown = (noisy / 255).astype(np.float32)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        solver = cv2.optflow.DualTVL1OpticalFlow_create()
        pairs = zip(shown[:-1], shown[1:], strict=True)
        return np.stack([solver.calc(before, after, None) for before, after in pairs])
    finally:
        cv2.setNumThreads(threads)


def grey_frames(video: Path, size: tuple[int, int], count: int) -> NDArray[np.uint8]:
    """``count`` neighbouring grey frames [count, H, W] from the middle of a video."""
    with open_frames(video, fps=Fraction(1) if video.is_dir() else None) as stream:
        start = max(0, ((stream.header.num_frames or count) - count) // 2)
        every = (frame for block in stream for frame in block)
        frames = [frame for _, frame in zip(range(start + count), every, strict=False)]
    if len(frames) < count:
        raise DecodeError(f"{video}: {len(frames)} frames where {count} are asked for", "too-short")
    height, width = size
    images = map(Image.fromarray, frames[-count:])
    small = (each.resize((width, height), Image.Resampling.BILINEAR) for each in images)
    return grey_of(torch.from_numpy(np.stack([*map(np.asarray, small)]))).numpy()
