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
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from vadprep.core.presets import resolve
from vadprep.core.records import Report, Task
from vadprep.data import read_manifest
from vadprep.extraction.run import Extraction, OnStart
from vadprep.features.draft import Draft
from vadprep.features.folder import StreamFolder
from vadprep.features.shard import DONE
from vadprep.features.status import status
from vadprep.features.writer import Share

FOLDER_VIDEOS = 1000
COMMITS = 50
ROUNDS = 5


def bench_plan(videos: int) -> dict[str, float]:
    """Costs of a plan of ``videos`` videos, each with its unit.

    ``first planning`` makes the folder, recovers and orders the tasks, as a first run does. A
    commit journals one video; without the disk only the processor's time counts.
    """
    spec = resolve("i3d", "cpu", ("random:0", "none"), {})
    commits: list[tuple[float, float]] = []

    def runner(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        for task in tasks[:COMMITS]:
            on_start(task)
            with Draft(task.targets["rgb"], spec) as draft:
                draft.append(np.zeros((1, 1, 4), np.float32))
                draft.commit(task.video.attributes | {"num_frames": 16}, np.array([[0, 16]]))
            start = time.perf_counter(), time.process_time()
            yield Report(task.video.video_id, DONE, num_clips=1, checksums={"rgb": draft.checksum})
            commits.append((time.perf_counter() - start[0], time.process_time() - start[1]))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, table = write_videos(folder, videos)
        _, pages, *_ = map(int, Path("/proc/self/statm").read_text().split())
        clock = [time.perf_counter()]
        manifest = read_manifest(table)
        clock.append(time.perf_counter())
        for _ in range(2):
            ids = [video.video_id for video in manifest.videos]
            stream = StreamFolder.prepare(folder / "out" / "rgb", spec, ids)
            extraction = Extraction([stream], manifest, root, Share())
            extraction.recover()
            extraction.tasks()
            clock.append(time.perf_counter())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        extraction.run(runner)
        statuses = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            status(folder / "out")
            statuses.append(time.perf_counter() - start)
    table_seconds, first_seconds, again_seconds = np.diff(clock).tolist()
    whole, work = (1e3 * statistics.median(each) for each in zip(*commits, strict=True))
    return {
        "table of videos, s": table_seconds,
        "first planning, s": first_seconds,
        "planning again, s": again_seconds,
        "peak above the start, MiB": (peak - pages * mmap.PAGESIZE) / 2**20,
        "peak of the process, MiB": peak / 2**20,
        "a commit, ms": whole,
        "a commit without the disk, ms": work,
        "a status, ms": 1e3 * statistics.median(statuses),
    }


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
