"""Small trees of feature files as other code bases write them, and manifests of their videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from support.stored import small_spec, stored_video, write_folder

from vadprep.core.records import Video
from vadprep.data import Manifest
from vadprep.features.folder import StreamFolder

IDS = {
    "UCF-Crime": ["Abuse001_x264", "Normal_Videos001_x264", "Arson011_x264", "Normal_Videos_003"],
    "XD-Violence": [
        "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0",
        "v=T-LH8Gv5zzY__#1_label_A",
        "Bad.Boys.1995__#00-38-16_00-38-50_label_B2-0-0",
        "The...End__#2_label_A",
    ],
    "ShanghaiTech": ["01_0014", "01_014", "01_0015", "01_002"],
}
"""Ids as the data sets have them: abnormal, normal, abnormal, normal."""


def manifest_of(ids: Sequence[str], num_frames: Sequence[int | None] | int = 53) -> Manifest:
    """Videos of split train, train, test, test, with labels 1, 0, 1, 0."""
    counts = [num_frames] * len(ids) if isinstance(num_frames, int) else num_frames
    videos = [
        Video(
            video_id=video_id,
            path=f"{video_id}.mp4",
            split="train" if index % 4 < 2 else "test",
            label=1 - index % 2,
            category="" if index % 2 else "Arson",
            num_frames=frames,
            fps=30.0,
            intervals=((20, 40),) if index % 4 == 2 else () if index % 2 else None,
        )
        for index, (video_id, frames) in enumerate(zip(ids, counts, strict=True))
    ]
    return Manifest(Path("m.csv"), tuple(videos))


def feature_folder(path: Path, ids: Sequence[str], crops: int, dim: int = 6) -> StreamFolder:
    """Features of three clips a video, for 53 frames."""
    videos = [stored_video(video_id, num_crops=crops, dim=dim) for video_id in ids]
    spec = small_spec(crops=crops, crop_order="xd")
    return write_folder(path / "rgb", videos, spec)


def per_crop_files(
    root: Path, clips: Mapping[str, int], crops: int = 5, dim: int = 6, seed: int = 0
) -> Path:
    """Files ``ID__0.npy``, ... with random numbers under a new folder."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for video_id, count in clips.items():
        for crop in range(crops):
            np.save(root / f"{video_id}__{crop}.npy", rng.random((count, dim), np.float32))
    return root
