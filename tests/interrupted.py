"""An extraction with the stand-in network, as a program of its own that can be interrupted.

python tests/interrupted.py FOLDER VIDEOS process|ray WORKERS

Ends as the command line does: 0, or the exit code of the error, 75 for a stop by a signal.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from standin import standin_extractor, standin_spec

from vadprep.cluster import Pool, on_ray
from vadprep.datasets import videos_in
from vadprep.driver import Driver, Runner, Share, Worker
from vadprep.extract import Report
from vadprep.folder import StreamFolder
from vadprep.records import VadprepError
from vadprep.runner import in_process

SPEC = standin_spec(crops=10, resize="64x64", crop_size=48)
SHARD_SIZE = 3

make_standin = partial(standin_extractor, SPEC)


def make_runner(name: str, workers: int) -> Runner:
    """The runner ``process`` or ``ray``."""
    if name == "process":
        worker: Worker = make_standin()
        return in_process(worker)
    return on_ray(make_standin, Pool(workers))


def extract_all(folder: Path, videos: Path, runner: Runner) -> list[Report]:
    """Reports of what was left to do in ``folder``; the features of all ``videos`` are there."""
    manifest = videos_in(videos)
    ids = [video.video_id for video in manifest.videos]
    reports: list[Report] = []
    driver = Driver(StreamFolder.prepare(folder, SPEC, ids, SHARD_SIZE), manifest, videos, Share())
    driver.recover()
    if tasks := driver.tasks():
        driver.run(runner, tasks, reports.append)
    return reports


def main(arguments: list[str]) -> int:
    """Exit code of an extraction."""
    folder, videos, runner, workers = arguments
    try:
        extract_all(Path(folder), Path(videos), make_runner(runner, int(workers)))
    except VadprepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
