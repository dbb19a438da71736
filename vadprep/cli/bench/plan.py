"""The cost of a plan of many videos: planning, a commit and a status, beside a small plan.

The videos are empty files and their features a few numbers. Plan, journals and shards are real.
"""

from __future__ import annotations

import mmap
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from vadprep.core.presets import resolve
from vadprep.core.records import Report, Task
from vadprep.core.spec import Spec
from vadprep.data import read_manifest
from vadprep.extraction.run import Extraction, OnStart
from vadprep.features.folder import StreamFolder
from vadprep.features.shard import DONE, Draft
from vadprep.features.status import status
from vadprep.features.writer import Share

FOLDER_VIDEOS = 1000
COMMITS = 50
ROUNDS = 5

T = TypeVar("T")


class PlanCosts(NamedTuple):
    """Costs of a plan of some videos."""

    table_seconds: float
    """Reading the table of videos."""
    plan_seconds: float
    """Making the folder, recovering and ordering the tasks: what a first run does."""
    again_seconds: float
    """The same in a folder that exists."""
    peak_mib: float
    """Memory at its peak above that before the table was read."""
    process_mib: float
    """Memory of the process at its peak, with PyTorch in it."""
    commit_ms: float
    """Median of journaling one video, with the waits for the disk."""
    commit_work_ms: float
    """Of that, time of the processor."""
    status_ms: float


def bench_plan(videos: int) -> PlanCosts:
    """Costs of a plan of ``videos`` videos."""
    spec = resolve("i3d", "cpu", ("random:0", "none"), {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, table = write_videos(folder, videos)
        _, pages, *_ = map(int, Path("/proc/self/statm").read_text().split())
        table_seconds, manifest = _timed(lambda: read_manifest(table))

        def planned() -> Extraction:
            ids = (video.video_id for video in manifest.videos)
            stream = StreamFolder.prepare(folder / "out" / "rgb", spec, ids)
            extraction = Extraction([stream], manifest, root, Share())
            extraction.recover()
            extraction.tasks()
            return extraction

        plan_seconds = _timed(planned)[0]
        again_seconds, extraction = _timed(planned)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        commit_seconds, commit_work = _commit(extraction, spec)
        seconds = statistics.median(
            _timed(lambda: status(folder / "out"))[0] for _ in range(ROUNDS)
        )
    above = peak - pages * mmap.PAGESIZE
    return PlanCosts(
        table_seconds, plan_seconds, again_seconds, above / 2**20, peak / 2**20,
        1e3 * commit_seconds, 1e3 * commit_work, 1e3 * seconds,
    )  # fmt: skip


def _commit(extraction: Extraction, spec: Spec) -> tuple[float, float]:
    """Median of journaling a video: seconds, and those of the processor."""
    seconds: list[tuple[float, float]] = []

    def runner(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        for task in tasks[:COMMITS]:
            on_start(task)
            report = _extracted(task, spec)
            start = time.perf_counter(), time.process_time()
            yield report
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))

    extraction.run(runner)
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
