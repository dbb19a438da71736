"""An extraction with the stand-in network, as a program of its own that can be interrupted.

python tests/interrupted.py FOLDER VIDEOS process|ray WORKERS [STREAMS]

FOLDER is that of stream rgb; of several STREAMS (rgb,flow) it holds a folder each.

Ends as the command line does: 0, or the exit code of the error, 75 for a stop by a signal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from support.standin import standin_extractor, standin_spec

from vadprep.core.errors import VadprepError
from vadprep.core.records import Report
from vadprep.data import find_videos
from vadprep.extraction.ray_runner import Pool, on_ray
from vadprep.extraction.run import Progress, Runner, in_process, locked_extraction
from vadprep.features.folder import StreamFolder
from vadprep.features.writer import Share

SPECS = {
    stream: standin_spec(stream, crops=10, resize="64x64", crop_size=48)
    for stream in ("rgb", "flow")
}
SPEC = SPECS["rgb"]
SHARD_SIZE = 3
RGB = ("rgb",)

make_standin = partial(standin_extractor, SPEC)


def make_runner(name: str, workers: int = 1, streams: Sequence[str] = RGB) -> Runner:
    """The runner ``process`` or ``ray``."""
    make = partial(standin_extractor, *(SPECS[stream] for stream in streams))
    if name == "process":
        return in_process(make)
    return on_ray(make, Pool(workers))


def stream_paths(folder: Path, streams: Sequence[str]) -> dict[str, Path]:
    """Stream -> its folder."""
    return {name: folder / name if len(streams) > 1 else folder for name in streams}


def extract_all(
    folder: Path, videos: Path, runner: Runner, streams: Sequence[str] = RGB
) -> list[Report]:
    """Reports of what was left to do in ``folder``; the features of all ``videos`` are there."""
    manifest = find_videos(videos)
    ids = [video.video_id for video in manifest.videos]
    reports: list[Report] = []

    def collect(progress: Progress) -> None:
        if progress.report:
            reports.append(progress.report)

    folders = [
        StreamFolder.prepare(path, SPECS[name], ids, SHARD_SIZE)
        for name, path in stream_paths(folder, streams).items()
    ]
    with locked_extraction(folders, manifest, videos, Share()) as extraction:
        extraction.recover()
        extraction.run(runner, collect)
    return reports


def main(arguments: list[str]) -> int:
    """Exit code of an extraction."""
    folder, videos, runner, workers, *rest = arguments
    streams = rest[0].split(",") if rest else RGB
    try:
        runner_of_it = make_runner(runner, int(workers), streams)
        extract_all(Path(folder), Path(videos), runner_of_it, streams)
    except VadprepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
