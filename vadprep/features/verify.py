"""What a feature folder holds, read to the last byte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadprep.core.clips import check_spans
from vadprep.core.errors import FeaturesError, ShardError, SpecError, VadprepError
from vadprep.core.spec import UNKNOWN, Spec, require_equal
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.journal import Row, read_rows
from vadprep.features.reader import StreamReader
from vadprep.features.remote import AnyPath, as_path
from vadprep.features.shard import REMEDY, Shard, StoredVideo, crc32


@dataclass(frozen=True)
class Verification:
    """What ``verify`` read and what it found wrong, a line each."""

    path: Path
    videos: int
    clips: int
    bytes: int
    problems: tuple[str, ...]


def verify(path: str | AnyPath) -> dict[str, Verification]:
    """Stream -> what was read and found wrong, of features in a folder or at a URL.

    Raises FeaturesError when there are no features or a table is damaged.
    """
    return {name: verify_stream(each) for name, each in required_folders(as_path(path)).items()}


def verify_stream(folder: StreamFolder) -> Verification:
    """Read everything: checksums, shapes, finite values, spans against frame counts.

    What is damaged is a problem, not an exception, and the rest is read none the less; only a
    damaged table (plan.csv, manifest-*.csv) raises FeaturesError.
    """
    rows = read_rows(folder.path)
    unusable = dict(_unusable_shards(folder))
    problems = list(unusable.values())
    videos = clips = size = 0
    dim: int | None = None
    with closing(StreamReader(folder)) as reader:
        for video_id, place in folder.plan.places.items():
            path, _ = folder.location(place)
            if path in unusable:
                continue
            if video_id not in rows:
                problems.append(f"{video_id!r}: not extracted yet; run the same extract again")
                continue
            try:
                stored = reader.stored(video_id)
                _check(stored, rows[video_id], folder.spec, dim)
            except (ShardError, SpecError) as error:  # names its file
                problems.append(str(error))
            except (VadprepError, ValueError) as error:
                problems.append(f"{path}: {video_id!r}: {error}")
            else:
                if stored.is_done:
                    dim = dim or stored.shape[2]
                    videos, clips = videos + 1, clips + stored.shape[0]
                    size += math.prod(stored.shape) * np.dtype(stored.dtype).itemsize
    return Verification(folder.path, videos, clips, size, tuple(problems))


def _check(stored: StoredVideo, row: Row, spec: Spec, dim: int | None) -> None:
    """Raise FeaturesError or ValueError for the first thing that is wrong with a video."""
    if stored.is_done != row.is_done:
        raise FeaturesError("manifest and shard disagree on its status")
    if not stored.is_done:
        return
    for name, found, expected in (
        ("crops", stored.shape[1], spec.crops),
        ("dtype", stored.dtype, spec.dtype),
        ("dimension", stored.shape[2], dim),
    ):
        if found != expected and expected not in (None, UNKNOWN):
            raise FeaturesError(f"features: {name} {found}, expected {expected}: {REMEDY}")
    checksum, finite = 0, True
    for block in stored.blocks():
        checksum = crc32(block, checksum)
        finite = finite and bool(np.isfinite(block).all())
    if checksum != stored.attributes["features_crc32"]:
        raise FeaturesError(f"features: checksum differs: {REMEDY}")
    if f"{checksum:08x}" != row.checksum or stored.shape[0] != row.num_clips:
        raise FeaturesError("the row in manifest-*.csv is of other features")
    if not finite:
        raise FeaturesError("features: values that are not finite")
    check_spans(stored.spans, int(stored.attributes["num_frames"]))


def _unusable_shards(folder: StreamFolder) -> Iterator[tuple[Path, str]]:
    """Shards that cannot be opened or are of another spec, and why: a line for all its videos."""
    for path in map(folder.shard, sorted(folder.final_shards())):
        try:
            with Shard(path) as shard:
                require_equal(folder.spec, shard.spec, str(path))
        except VadprepError as error:
            yield path, str(error)
