"""Extraction: its memory for short and for long videos, and its speed with several workers."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vadprep.core.errors import FeaturesError, VadprepError
from vadprep.core.presets import resolve
from vadprep.core.records import Task, Video
from vadprep.core.spec import STREAMS
from vadprep.data import Manifest, find_videos
from vadprep.extraction import resolve_plan, run_plan
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.streams import Branch
from vadprep.features import DONE, status

FPS = 25
SIZE = (160, 120)
GOP_FRAMES = 250
SAMPLE_SECONDS = 0.05
RESIZE = 32
"""Side in px of the squares that frames become, so that two hours of video take minutes."""


class NoNetwork:
    """Gives zeros in the place of features."""

    device = torch.device("cpu")
    dim = 1024

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(views), self.dim)


def bench_memory(minutes: Sequence[float]) -> Iterator[tuple[float, int, int, float, int]]:
    """Memory of extracting both streams of a video of each length with one crop and with ten.

    Decoder, resize, quantised flow, crops and writer are real; networks and TV-L1, whose memory is
    known, are left out. Gives minutes, crops, number of frames, seconds, and the peak in bytes of
    this process and its decoder above the start. Raises VadprepError when a video fails.
    """
    fields: dict[str, Any] = {"fps": "native", "resize": f"{RESIZE}x{RESIZE}", "crop_size": RESIZE}
    for length in minutes:
        with tempfile.TemporaryDirectory() as folder:
            video = write_loop(Path(folder, "a.mp4"), round(60 * length * FPS))
            for count in (1, 10):
                fields["crops"] = count
                rgb, flow = (resolve("i3d", "cpu", ("-", "-"), fields, each) for each in STREAMS)
                still = Branch(flow, NoNetwork(), lambda grey: torch.zeros(*grey[1:].shape, 2))
                branches = [Branch(rgb, NoNetwork()), still]
                targets = {name: Path(folder, f"{count}-{name}.h5") for name in STREAMS}
                start = time.perf_counter()
                with peak_memory() as peak:
                    report = Extractor(branches)(Task(Video("video", video.name), targets, video))
                if report.status != DONE:
                    raise VadprepError(f"{video}: {report.reason}")
                seconds = time.perf_counter() - start
                yield length, count, report.num_frames, seconds, peak[0]


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """A list whose only number is, after the block, the peak in bytes above the start."""
    first = tree_bytes()
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], tree_bytes() - first)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def tree_bytes() -> int:
    """Proportional set size, in bytes, of this process and its children: shared pages count once.

    Without pages of files, whose shares change with whatever else runs on the machine.
    """
    import psutil

    me, kib = psutil.Process(os.getpid()), 0
    for process in (me, *me.children(recursive=True)):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            continue
        sizes = {name: int(line.split()[1]) for line in lines if (name := line.split(":")[0])}
        kib += sizes.get("Pss", 0) - sizes.get("Pss_File", 0)
    return kib << 10


def write_loop(path: Path, num_frames: int) -> Path:
    """A video of ``num_frames`` frames of grey bars that move, over and over."""
    import av

    bars = [np.roll(np.arange(SIZE[0], dtype=np.uint8), number) for number in range(GOP_FRAMES)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", GOP_FRAMES
        for number in range(num_frames):
            picture = np.broadcast_to(bars[number % GOP_FRAMES], SIZE[::-1])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def bench_workers(
    clips: Path, streams: Sequence[str], repeat: int, device: str = "cpu", workers: int = 2
) -> Iterator[tuple[str, int, int, float, float]]:
    """Extract the videos in the folder ``clips``, each ``repeat`` times, with one worker and with
    ``workers``, as far as there are devices for them, with random weights.

    Gives stream, workers, clips, the seconds from the first video's start to the last one's end,
    and those of the start of the workers before it. Raises FeaturesError when a video fails.
    """
    manifest = repeated(find_videos(clips), repeat)
    if device == "cuda":
        workers = min(workers, torch.cuda.device_count())
    for stream in streams:
        for count in dict.fromkeys((1, workers)):
            with tempfile.TemporaryDirectory() as out:
                plan = resolve_plan(
                    out, streams=stream, weights="random:0", device=device, workers=count
                )
                run_plan(plan, manifest, clips)
                done = status(out)[stream]
                events = list(done.folder.events())
            if not done.is_complete:
                raise FeaturesError(f"{clips}: a video failed: only good ones can be timed")
            run, start, *_ = (each.time for each in events if each.event in ("run", "start"))
            end = max(each.time for each in events if each.event == "committed")
            yield stream, count, done.num_clips, end - start, start - run


def repeated(manifest: Manifest, count: int) -> Manifest:
    """Each video ``count`` times, under ids of their own."""
    numbered = [(video, f"{video.video_id} {n}") for n in range(count) for video in manifest.videos]
    videos = tuple(replace(video, video_id=video_id) for video, video_id in numbered)
    return replace(manifest, videos=videos)
