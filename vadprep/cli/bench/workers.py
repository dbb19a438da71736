"""One worker against several on the same videos in one run: clips a second, and the ratio."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from vadprep.core.errors import FeaturesError
from vadprep.data import Manifest, find_videos
from vadprep.extraction import resolve_plan, run_plan
from vadprep.features.journal import read_events
from vadprep.features.status import stream_status


class WorkersRun(NamedTuple):
    """A run of one stream with some workers."""

    stream: str
    workers: int
    clips: int
    seconds: float
    """From the first video's start to the last one's end, without the start of the workers."""
    starting: float
    """Seconds of the start of the workers before it."""


def bench_workers(
    clips: Path, streams: Sequence[str], repeat: int, device: str = "cpu", workers: int = 2
) -> list[WorkersRun]:
    """Extract the videos in the folder ``clips``, each ``repeat`` times, with one worker and with
    ``workers``, as far as there are devices for them.

    Weights are random. Raises FeaturesError when a video fails.
    """
    manifest = _repeated(find_videos(clips), repeat)
    if device == "cuda":
        workers = min(workers, torch.cuda.device_count())
    runs = []
    for stream in streams:
        with tempfile.TemporaryDirectory() as folder:
            for count in dict.fromkeys((1, workers)):
                runs.append(_run(manifest, clips, Path(folder) / str(count), stream, count, device))
    return runs


def _repeated(manifest: Manifest, repeat: int) -> Manifest:
    videos = tuple(
        replace(video, video_id=f"{video.video_id} {number}")
        for number in range(repeat)
        for video in manifest.videos
    )
    return replace(manifest, videos=videos)


def _run(
    manifest: Manifest, root: Path, out: Path, stream: str, workers: int, device: str
) -> WorkersRun:
    plan = resolve_plan(out, streams=stream, weights="random:0", device=device, workers=workers)
    (folder,) = run_plan(plan, manifest, root)
    found = stream_status(folder)
    if not found.is_complete:
        raise FeaturesError(f"{root}: a video failed: only good ones can be timed")
    events = list(read_events(folder.path))
    run, start, *_ = (event.time for event in events if event.event in ("run", "start"))
    end = max(event.time for event in events if event.event == "committed")
    return WorkersRun(stream, workers, found.num_clips, end - start, start - run)
