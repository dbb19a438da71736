"""One worker against two on the same videos, and the time that the cost model foretells.

From the stages measured on the way it also tells how long the large data sets would take.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from vadprep.cli.text import Cells, duration
from vadprep.core.clips import Resampling, num_clips
from vadprep.core.errors import FeaturesError
from vadprep.core.records import Video
from vadprep.core.spec import Spec
from vadprep.data.datasets import load_dataset
from vadprep.data.manifest import Manifest, frame_bounds
from vadprep.data.sources import videos_in
from vadprep.extraction.config import Settings
from vadprep.extraction.costs import Costs, limit_of_run, run_seconds
from vadprep.extraction.estimate import Estimate, Timing, estimate
from vadprep.extraction.run import extract_dataset
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_events
from vadprep.features.status import status

WORKERS = (1, 2)
MANY = (1, 8, 64)
FPS = 25.0
"""Where the list has none."""

SIZES = {"xd": (360, 640), "ucf": (240, 320)}
"""Height and width of the frames of nearly all videos."""

HOURS = {"xd": 217.0}
"""Of all videos together, by the paper, where the length of some is not public."""

_CLOCKS = re.compile(r"#(\d\d)-(\d\d)-(\d\d)_(\d\d)-(\d\d)-(\d\d)_")
"""From when to when in its film a video of XD-Violence is, in its id."""


@dataclass(frozen=True)
class WorkersRun:
    """A run of one stream with some workers."""

    stream: str
    workers: int
    clips: int
    seconds: float
    """From the first video's start to the last one's end, without the start of the workers."""
    starting: float
    foretold: float
    """By the model behind ``extract --dry-run``, before the run."""


@dataclass(frozen=True)
class WorkersBench:
    """Runs of one and of two workers, and the large data sets by what they took."""

    runs: tuple[WorkersRun, ...]
    sets: tuple[Cells, ...]
    """Lines for people."""

    def rows(self) -> list[Cells]:
        """Lines for people."""
        head = ("stream", "workers", "clips", "s", "starting, s", "speed", "foretold, s", "off by")
        first = {run.stream: run.seconds for run in self.runs if run.workers == WORKERS[0]}
        return [
            head,
            *(
                (
                    run.stream,
                    run.workers,
                    run.clips,
                    f"{run.seconds:.1f}",
                    f"{run.starting:.1f}",
                    f"{first[run.stream] / run.seconds:.2f} x",
                    f"{run.foretold:.1f}",
                    f"{run.foretold / run.seconds - 1:+.0%}",
                )
                for run in self.runs
            ),
        ]


def bench_workers(
    clips: Path, streams: Sequence[str], repeat: int, device: str = "cpu"
) -> WorkersBench:
    """Extract the videos in the folder ``clips``, each ``repeat`` times, with one and two workers.

    Weights are random. Raises FeaturesError when a video fails.
    """
    manifest = _repeated(videos_in(clips), repeat)
    runs: list[WorkersRun] = []
    sets: list[Cells] = [("stream", "data set", "frames", "workers", "time", "limits")]
    for stream in streams:
        settings = Settings(streams=(stream,), weights="random:0", device=device)
        with tempfile.TemporaryDirectory() as folder:
            for workers in _counts(device):
                asked = replace(settings, workers=workers)
                out = Path(folder) / str(workers)
                foretold = estimate(manifest, clips, out, asked)
                runs.append(_run(manifest, clips, out, asked, foretold))
        sets += large_sets(foretold)
    return WorkersBench(tuple(runs), tuple(sets))


def _counts(device: str) -> list[int]:
    """Numbers of workers that there are devices for."""
    most = torch.cuda.device_count() if device == "cuda" else max(WORKERS)
    return [count for count in WORKERS if count <= most]


def _repeated(manifest: Manifest, repeat: int) -> Manifest:
    videos = tuple(
        replace(video, video_id=f"{video.video_id} {number}")
        for number in range(repeat)
        for video in manifest.videos
    )
    return replace(manifest, videos=videos)


def _run(
    manifest: Manifest, root: Path, out: Path, settings: Settings, foretold: Estimate
) -> WorkersRun:
    (folder,) = extract_dataset(manifest, root, out, settings)
    found = status(folder)
    if foretold.seconds is None or not found.is_complete:
        raise FeaturesError(f"{root}: a video failed: only good ones can be timed")
    seconds, starting = _times(folder)
    (stream,) = settings.streams
    return WorkersRun(
        stream, settings.workers, found.num_clips, seconds, starting, foretold.seconds
    )


def _times(folder: StreamFolder) -> tuple[float, float]:
    """Seconds of the work, and of the start of Ray's workers before it, from the events."""
    events = list(read_events(folder.path))
    run, start, *_ = (event["time"] for event in events if event["event"] in ("run", "start"))
    end = max(event["time"] for event in events if event["event"] == "committed")
    return end - start, start - run


# ---------------------------------------------------------------- the large data sets


def large_sets(here: Estimate) -> Iterator[Cells]:
    """How long each large data set takes on some numbers of workers like those of ``here``.

    Each worker has as many cores beside it as here; the start of workers is left out.
    """
    spec, machines, measured = here.streams[0].spec, here.machines, here.probes[0]
    for name, size in SIZES.items():
        videos = with_frames(load_dataset(name).videos, HOURS.get(name))
        costs = [_costs(video, spec, measured, size) for video in videos]
        for count in MANY:
            cores = max(1, count * machines.cores // machines.workers)
            many = replace(machines, workers=count, cores=cores)
            seconds = run_seconds(costs, many, measured.between)
            yield (
                spec.stream,
                name,
                sum(video.num_frames or 0 for video in videos),
                f"{count} {'GPU' if many.has_gpus else 'CPU worker'}{'s' * (count > 1)}",
                duration(seconds),
                limit_of_run(costs, many, seconds),
            )


def _costs(video: Video, spec: Spec, measured: Timing, size: tuple[int, int]) -> Costs:
    frames = video.num_frames or 0
    fps = Fraction(video.fps or FPS).limit_denominator(1001)
    used = Resampling(fps, spec.fps_used()).count(frames)
    return measured.costs(frames, num_clips(used, spec.tail, spec.clip_length), size)


def with_frames(videos: Sequence[Video], hours: float | None = None) -> list[Video]:
    """The videos with their frames: as the list has them, or by the clock in the id.

    The others share what is left of ``hours``, or are as long as the known ones in the mean.
    """
    known = {video.video_id: frames for video in videos if (frames := _frames(video))}
    others = [video for video in videos if video.video_id not in known]
    each = sum(known.values()) / len(known)
    if hours and others:
        seconds = sum(frames / (v.fps or FPS) for v in videos if (frames := known.get(v.video_id)))
        each = (3600 * hours - seconds) / len(others) * (others[0].fps or FPS)
    return [replace(video, num_frames=known.get(video.video_id, round(each))) for video in videos]


def _frames(video: Video) -> int | None:
    _, most = frame_bounds(video)
    if most is None and video.fps and (clocks := _CLOCKS.search(video.video_id)):
        hours, minutes, seconds, *end = map(int, clocks.groups())
        start = 3600 * hours + 60 * minutes + seconds
        most = round((3600 * end[0] + 60 * end[1] + end[2] - start) * video.fps)
    return most if most and most > 0 else None
