"""What a plan of many videos costs: planning it, a commit and a status, beside a small plan.

The videos are empty files and their features a few numbers; plan, journals and shards are real.
"""

from __future__ import annotations

import mmap
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vadprep.cli.text import Cells
from vadprep.core.presets import resolve
from vadprep.core.records import Report, Task
from vadprep.core.spec import Spec
from vadprep.data.manifest import read_manifest
from vadprep.extraction.run import Extraction, OnStart
from vadprep.features.folder import StreamFolder
from vadprep.features.shard import DONE, Draft
from vadprep.features.status import status
from vadprep.features.writer import Share

FOLDER_VIDEOS = 1000
COMMITS = 50
ROUNDS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class PlanCosts:
    """Costs of a plan of ``videos`` videos."""

    videos: int
    manifest_seconds: float
    """Reading the table of videos."""
    plan_seconds: float
    """Making the folder, recovering and ordering the tasks: what a first run does."""
    again_seconds: float
    """The same in a folder that is there."""
    peak_bytes: int
    """Memory at its peak above that before the table was read."""
    process_bytes: int
    """Memory of the process at its peak, with PyTorch in it."""
    commit_seconds: float
    """Median of journaling one video, with the waits for the disk."""
    commit_work: float
    """Of that, seconds of the processor."""
    status_seconds: float


@dataclass(frozen=True)
class PlanBench:
    """Costs of a small and of a large plan, measured in one run."""

    small: PlanCosts
    large: PlanCosts

    def rows(self) -> list[Cells]:
        """Lines for people."""
        both = (self.small, self.large)
        works = [1e3 * each.commit_work for each in both]
        statuses = [1e3 * each.status_seconds for each in both]
        return [
            ("videos", *(f"{each.videos:,}" for each in both), "ratio"),
            ("table of videos, s", *(f"{each.manifest_seconds:.2f}" for each in both), ""),
            ("first planning, s", *(f"{each.plan_seconds:.2f}" for each in both), ""),
            ("planning again, s", *(f"{each.again_seconds:.2f}" for each in both), ""),
            ("peak above the start, MiB", *(f"{each.peak_bytes / 2**20:.0f}" for each in both), ""),
            (
                "peak of the process, MiB",
                *(f"{each.process_bytes / 2**20:.0f}" for each in both),
                "",
            ),
            ("a commit, ms", *(f"{1e3 * each.commit_seconds:.2f}" for each in both), ""),
            ("a commit without the disk, ms", *(f"{each:.2f}" for each in works), _ratio(works)),
            ("a status, ms", *(f"{each:.1f}" for each in statuses), _ratio(statuses)),
        ]


def _ratio(values: list[float]) -> str:
    return f"{values[1] / values[0]:.2f}"


def bench_plan(videos: int = 1_000_000, small: int = 10_000) -> PlanBench:
    """Costs of a plan of ``videos`` videos beside one of ``small``, the small one first."""
    with tempfile.TemporaryDirectory() as folder:
        costs = [_measure(Path(folder) / str(count), count) for count in (small, videos)]
    return PlanBench(*costs)


def _measure(folder: Path, videos: int) -> PlanCosts:
    root, table = write_videos(folder, videos)
    spec = resolve("i3d", "cpu", ("random:0", "none"), {})
    before = _resident()
    manifest_seconds, manifest = _timed(lambda: read_manifest(table))

    def planned() -> Extraction:
        ids = (video.video_id for video in manifest.videos)
        stream = StreamFolder.prepare(folder / "out" / "rgb", spec, ids)
        extraction = Extraction([stream], manifest, root, Share())
        extraction.recover()
        extraction.tasks()
        return extraction

    plan_seconds = _timed(planned)[0]
    again_seconds, extraction = _timed(planned)
    process_bytes = _peak()
    commit_seconds, commit_work = _commit(extraction, spec)
    out = folder / "out"
    return PlanCosts(
        videos,
        manifest_seconds,
        plan_seconds,
        again_seconds,
        process_bytes - before,
        process_bytes,
        commit_seconds,
        commit_work,
        statistics.median(_timed(lambda: _status(out))[0] for _ in range(ROUNDS)),
    )


def _status(out: Path) -> None:
    status(out)


def _commit(extraction: Extraction, spec: Spec) -> tuple[float, float]:
    """Median of journaling a video: seconds, and those of the processor."""
    tasks = extraction.tasks()
    seconds: list[tuple[float, float]] = []

    def runner(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        for task in tasks[:COMMITS]:
            on_start(task)
            report = _extracted(task, spec)
            start = time.perf_counter(), time.process_time()
            yield report
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))

    extraction.run(runner, tasks)
    whole, work = zip(*seconds, strict=True)
    return statistics.median(whole), statistics.median(work)


def _extracted(task: Task, spec: Spec) -> Report:
    """The report of a video whose features are four numbers."""
    with Draft(task.targets["rgb"], spec) as draft:
        draft.append(np.zeros((1, 1, 4), np.float32))
        draft.commit({"video_id": task.video.video_id, "num_frames": 16}, np.array([[0, 16]]))
    checksums = {"rgb": draft.checksum}
    return Report(task.video.video_id, DONE, num_clips=1, num_frames=16, checksums=checksums)


def write_videos(folder: Path, videos: int) -> tuple[Path, Path]:
    """A folder with so many empty files, and a table of them with all that a table has."""
    root, table = folder / "videos", folder / "videos.csv"
    root.mkdir(parents=True)
    head = "video_id,path,split,label,category,num_frames,num_frames_scored,fps,intervals\n"
    with open(table, "w") as rows:
        rows.write(head)
        for number in range(videos):
            part, name = f"part-{number // FOLDER_VIDEOS:05d}", f"camera-{number:07d}__morning"
            if not number % FOLDER_VIDEOS:
                (root / part).mkdir()
            os.close(os.open(f"{root}/{part}/{name}.mp4", os.O_CREAT | os.O_WRONLY))
            frames = 500 + number * 7919 % 9000
            rows.write(f"{name},{part}/{name}.mp4,train,0,Normal,{frames},,25,\n")
    return root, table


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _resident() -> int:
    """Bytes of this process in memory now."""
    _, pages, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return pages * mmap.PAGESIZE


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
