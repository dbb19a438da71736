"""A live source on one core: the delay of its records."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import av
import numpy as np

from vadprep.extraction import resolve_plan
from vadprep.heads import head_kind
from vadprep.online import ScoreRecord, SourceRecord, live
from vadprep.training import Checkpoint

WIDTH, HEIGHT, RATE = 320, 240, 25


class LiveDelays(NamedTuple):
    """Seconds from the last frame of a clip to its record, and what was dropped."""

    clips: int
    median: float
    highest: float
    dropped_clips: int


def bench_live(seconds: float) -> LiveDelays:
    """The delays of a file that plays as if live, by Inception-I3D RGB with random weights.

    Decoder, network and head share one core. The first clip, which meets a cold network, does not
    count.
    """
    plan = resolve_plan(None, preset="i3d", weights="random:0", device="cpu", workers=1)
    kind = head_kind("ddl")
    head = kind.network(1024, kind.config(), ()).eval()
    run = Checkpoint("ddl", head, "rgb", {"rgb": plan.specs[0]}, 0)
    delays, dropped = list[float](), 0
    with tempfile.TemporaryDirectory() as place, one_core():
        video = write_noise(Path(place, "camera.mp4"), round(RATE * seconds))
        with live(run, video, speed=1, device="cpu") as session:
            for record in session:
                if isinstance(record, ScoreRecord):
                    delays.append(record.delay)
                if isinstance(record, ScoreRecord | SourceRecord):
                    dropped += record.dropped_clips
    delays = delays[1:]
    return LiveDelays(len(delays), median(delays), max(delays), dropped)


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and those that it starts, on one core inside."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def write_noise(path: Path, num_frames: int) -> Path:
    """A video of blurred noise that moves, 320x240 at 25 frames a second."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (HEIGHT // 16, 2 * WIDTH // 16, 3), np.uint8)
    wide = coarse.repeat(16, axis=0).repeat(16, axis=1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            left = 2 * number % WIDTH
            picture = np.ascontiguousarray(wide[:, left : left + WIDTH])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode(None))
    return path
