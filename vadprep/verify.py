"""What a feature folder holds, at a glance (``status``) or read to the last byte (``verify``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadprep.clips import check_spans
from vadprep.features import StreamReader
from vadprep.folder import StreamFolder
from vadprep.journal import Row, read_rows
from vadprep.records import FeaturesError, ShardError, VadprepError
from vadprep.shards import DONE, REMEDY, Shard, StoredVideo, crc32
from vadprep.spec import Spec, require_equal


@dataclass(frozen=True)
class Status:
    """How far a stream is, from the plan and the journal alone."""

    spec: Spec
    planned: int
    done: int
    failed: tuple[Row, ...]
    missing: tuple[str, ...]
    num_clips: int
    num_frames: int
    shards_planned: int
    shards_final: int

    @property
    def is_complete(self) -> bool:
        all_final = self.shards_final == self.shards_planned
        return all_final and not self.missing and not self.failed


def status(folder: StreamFolder) -> Status:
    """Done, failed and missing videos of a stream folder."""
    rows = read_rows(folder.path)
    planned = folder.plan.places
    done = [rows[video_id] for video_id in planned if _is_done(rows.get(video_id))]
    return Status(
        spec=folder.spec,
        planned=len(planned),
        done=len(done),
        failed=tuple(rows[each] for each in planned if each in rows and not _is_done(rows[each])),
        missing=tuple(each for each in planned if each not in rows),
        num_clips=sum(row.num_clips for row in done),
        num_frames=sum(row.num_frames for row in done),
        shards_planned=len(folder.plan.shards),
        shards_final=len(folder.final_shards()),
    )


def _is_done(row: Row | None) -> bool:
    return row is not None and row.status == DONE


@dataclass(frozen=True)
class Verification:
    """What ``verify`` read and what it found wrong, a line each."""

    videos: int
    clips: int
    bytes: int
    problems: tuple[str, ...]


def verify(folder: StreamFolder) -> Verification:
    """Read everything: checksums, shapes, finite values, spans against frame counts."""
    reader = StreamReader(folder)
    rows = read_rows(folder.path)
    videos, clips, size = 0, 0, 0
    unusable = dict(_unusable_shards(folder))
    problems = list(unusable.values())
    for video_id, place in folder.plan.places.items():
        if folder.shard(place.shard) in unusable:
            continue
        row = rows.get(video_id)
        if row is None:
            problems.append(f"{video_id!r}: not extracted yet; run the same extract again")
            continue
        try:
            stored = reader.stored(video_id)
            if stored.is_done != _is_done(row):
                raise FeaturesError(f"{video_id!r}: manifest and shard disagree on its status")
            if stored.is_done:
                _check_video(stored, row)
                videos, clips = videos + 1, clips + stored.shape[0]
                size += int(np.prod(stored.shape)) * np.dtype(stored.dtype).itemsize
        except ShardError as error:  # names its file
            problems.append(str(error))
        except (VadprepError, ValueError) as error:
            problems.append(f"{folder.shard(place.shard)}: {error}")
    reader.close()
    return Verification(videos, clips, size, tuple(problems))


def _check_video(stored: StoredVideo, row: Row) -> None:
    where = f"{stored.video_id!r}"
    checksum, finite = 0, True
    for block in stored.blocks():
        checksum = crc32(block, checksum)
        finite = finite and bool(np.isfinite(block).all())
    if checksum != stored.attributes["features_crc32"]:
        raise FeaturesError(f"{where}, features: checksum differs: {REMEDY}")
    if f"{checksum:08x}" != row.checksum or stored.shape[0] != row.num_clips:
        raise FeaturesError(f"{where}: the row in manifest-*.csv is of other features")
    if not finite:
        raise FeaturesError(f"{where}, features: values that are not finite")
    check_spans(stored.spans, int(stored.attributes["num_frames"]))


def _unusable_shards(folder: StreamFolder) -> Iterator[tuple[Path, str]]:
    """Shards that cannot be opened or are of another spec, and why: a line for all its videos."""
    for path in sorted((folder.path / "shards").glob("*.h5")):
        try:
            with Shard(path) as shard:
                require_equal(folder.spec, shard.spec, str(path))
        except VadprepError as error:
            yield path, str(error)
