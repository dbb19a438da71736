"""Scores of videos for people and programs: one a frame, and where they are high.

SCORES/scores.json        every video with its alarms, in frames and in seconds, and its files
SCORES/000000-NAME.csv    frame, seconds, score of the first video; 000001-NAME.csv, ...
SCORES/000000-NAME.png    its plot

An alarm is a run of frames that score the threshold or more. NAME is the end of the video's id, as
far as it is safe in a name. Files of earlier scores in the same folder go. Frames after the last
span have no score and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import open_atomic, write_json
from vadprep.core.errors import CheckpointError
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.plots import plot_video, safe_name
from vadprep.evaluation.scores import Origin, read_json

NAMES = ("frames", "plot")
"""Keys of scores.json that name files."""


def write_alarms(
    folder: Path,
    scores: Mapping[str, VideoScores],
    threshold: float,
    origin: Origin,
    about: Mapping[str, Any],
    plots: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Write the files above, all of them at once each; returns the alarms of each video.

    ``about`` goes into scores.json as it is. Raises OutputError when the disk refuses.
    """
    earlier = files_of(folder)
    videos, found = list[dict[str, Any]](), dict[str, list[dict[str, Any]]]()
    for index, (video_id, video) in enumerate(scores.items()):
        frames = video.frames()
        name = f"{index:06d}-{safe_name(video_id)}"
        names = {"frames": f"{name}.csv", "plot": f"{name}.png" if plots else None}
        write_frames(folder / f"{name}.csv", frames, video.fps)
        if plots:
            plot_video(folder / f"{name}.png", video_id, video, None, origin.caution())
        found[video_id] = video.alarms(threshold)
        videos.append(
            {
                "video_id": video_id,
                **names,
                "num_frames": video.num_frames,
                "num_frames_scored": len(frames),
                "fps": video.fps,
                "score": video.of_video() if len(video.snippets) else None,
                "alarms": found[video_id],
            }
        )
    record = {**about, **origin.as_json(), "threshold": threshold, "videos": videos}
    write_json(folder / "scores.json", record)
    for name in earlier - files_of(folder):
        (folder / name).unlink(missing_ok=True)
    return found


def files_of(folder: Path) -> set[str]:
    """Names of the CSVs and plots that scores.json in ``folder`` names; none without one."""
    try:
        videos = read_json(folder / "scores.json").get("videos")
    except CheckpointError:
        return set()
    listed = videos if isinstance(videos, list) else []
    named = [str(each.get(key)) for each in listed if isinstance(each, dict) for key in NAMES]
    return {name for name in named if re.fullmatch(r"\d{6,}-[^/]*\.(csv|png)", name)}


def write_frames(path: Path, frames: NDArray[np.float64], fps: float | None) -> None:
    """Write ``frame,seconds,score``, a line a scored frame; seconds are blank without ``fps``."""
    seconds = (f"{frame / fps:.3f}" if fps else "" for frame in range(len(frames)))
    lines = (
        f"{frame},{time},{score:.6f}\n"
        for frame, (time, score) in enumerate(zip(seconds, frames.tolist(), strict=True))
    )
    with open_atomic(path) as stream:
        stream.write(("frame,seconds,score\n" + "".join(lines)).encode())
