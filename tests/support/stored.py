"""Small specs, shards and feature folders for tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.presets import resolve
from vadprep.core.spec import Spec
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Journal, Row
from vadprep.features.reader import Features
from vadprep.features.shard import (
    DONE,
    FAILED,
    StoredVideo,
    crc32,
    opened_shard,
    read_video,
    write_shard,
)

ODD_IDS = (
    "..",
    "a/b",
    "two\nlines",
    "lone\rreturn",
    "Überfall_日本",
    "Bad.Boys__#00=1",
    "quote\"d, 'x'",
    "\udcff.mp4",
)


def small_spec(**overrides: Any) -> Spec:
    return resolve("i3d", "cpu", ("random:0", "0" * 64), overrides)


def stored_video(
    video_id: str, num_clips: int = 3, num_crops: int = 1, dim: int = 4, **attributes: Any
) -> StoredVideo:
    """A done video whose features depend on its id."""
    seed = int.from_bytes(video_id.encode("utf-8", "surrogateescape")[-4:], "little")
    features = np.random.default_rng(seed).random((num_clips, num_crops, dim)).astype(np.float16)
    edges = 16 * np.arange(num_clips + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    known = {
        "video_id": video_id,
        "status": DONE,
        "split": "train",
        "label": 0,
        "num_frames": 16 * num_clips + 5,
        "fps_source": 25.0,
        "features_crc32": crc32(features),
        "spans_crc32": crc32(spans),
    }
    return StoredVideo(
        known | attributes, features.shape, "float16", spans, lambda: iter([features])
    )


FLOW = resolve("i3d", "cpu", ("w", "0"), {}, "flow")
VIDEOS = [stored_video(each, num_clips=n + 1) for n, each in enumerate(ODD_IDS)]
"""Of odd ids, each with another number of clips."""


def features_of(video: StoredVideo) -> np.ndarray:
    return np.concatenate(list(video.blocks()))


def shapes_of(features: Features, ids: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
    """Shapes of the features of some videos, and the process that read them.

    It stands here, for a process that is spawned imports the module of what it calls.
    """
    return [features[each].rgb.shape for each in ids], os.getpid()


def videos_in(path: Path) -> list[StoredVideo]:
    """All videos of a shard."""
    with opened_shard(path) as (file, _):
        groups = list(file)
    return [read_video(path, group) for group in groups]


def failed_video(video_id: str, reason: str = "broken") -> StoredVideo:
    return StoredVideo({"video_id": video_id, "status": FAILED, "reason": reason})


def write_folder(
    path: Path, videos: list[StoredVideo], spec: Spec | None = None, shard_size: int = 2
) -> StreamFolder:
    """A complete feature folder of one stream."""
    spec = spec or small_spec()
    folder = StreamFolder.prepare(path, spec, [each.video_id for each in videos], shard_size)
    journal = Journal(path, 0)
    for number in range(len(folder.plan.shards)):
        part = videos[number * shard_size : (number + 1) * shard_size]
        write_shard(folder.shard(number), spec, part)
        for video in part:
            journal.add(row_of(video, number))
    return folder


def row_of(video: StoredVideo, shard: int) -> Row:
    checksum = f"{int(video.attributes.get('features_crc32', 0)):08x}"
    frames = int(video.attributes.get("num_frames", 0))
    reason = str(video.attributes.get("reason", ""))
    status = str(video.attributes["status"])
    return Row(
        video.video_id, shard, status, video.shape[0], frames, 0, 25.0, "", checksum, reason, 1.0
    )
