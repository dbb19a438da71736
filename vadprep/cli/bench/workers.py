"""One worker against several on the same videos in one run: clips a second, and the ratio."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vadprep.core.errors import FeaturesError
from vadprep.data import find_videos
from vadprep.extraction import resolve_plan, run_plan
from vadprep.features.journal import read_events
from vadprep.features.status import status


def bench_workers(
    clips: Path, streams: Sequence[str], repeat: int, device: str = "cpu", workers: int = 2
) -> Iterator[tuple[str, int, int, float, float]]:
    """Extract the videos in the folder ``clips``, each ``repeat`` times, with one worker and with
    ``workers``, as far as there are devices for them.

    Gives stream, workers, clips, the seconds from the first video's start to the last one's end,
    and those of the start of the workers before it. Weights are random. Raises FeaturesError when
    a video fails.
    """
    manifest = find_videos(clips)
    videos = tuple(
        replace(video, video_id=f"{video.video_id} {number}")
        for number in range(repeat)
        for video in manifest.videos
    )
    manifest = replace(manifest, videos=videos)
    if device == "cuda":
        workers = min(workers, torch.cuda.device_count())
    for stream in streams:
        for count in dict.fromkeys((1, workers)):
            with tempfile.TemporaryDirectory() as out:
                plan = resolve_plan(
                    out, streams=stream, weights="random:0", device=device, workers=count
                )
                run_plan(plan, manifest, clips)
                found = status(out)[stream]
                events = list(read_events(found.folder.path))
            if not found.is_complete:
                raise FeaturesError(f"{clips}: a video failed: only good ones can be timed")
            run, start, *_ = (each.time for each in events if each.event in ("run", "start"))
            end = max(each.time for each in events if each.event == "committed")
            yield stream, count, found.num_clips, end - start, start - run
