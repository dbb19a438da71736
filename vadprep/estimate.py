"""What an extraction would do, hold and take, before it is started: ``extract --dry-run``."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from vadprep.clips import Resampling, num_clips
from vadprep.datasets import SourceIndex
from vadprep.decode import open_frames
from vadprep.extract import (
    CPU_THREADS,
    UNSTATED_FPS,
    Extractor,
    Stopwatch,
    fixed_threads,
    stated_fps,
)
from vadprep.folder import Plan, StreamFolder, read_shard_size
from vadprep.journal import Row, read_rows
from vadprep.manifest import Manifest
from vadprep.records import DecodeError, Video
from vadprep.runner import Settings, make_extractor, settle_spec
from vadprep.shards import DONE, FAILED
from vadprep.sources import size_of
from vadprep.spec import Spec
from vadprep.tables import Cells, duration, size

PROBED_HEADERS = 20
"""Files whose header is read where the manifest has no frame counts; the rest go by bytes."""
PROBED_CLIPS = 8
"""Clips timed."""
TIMED_FILES = 5
"""Files tried until one can be timed."""


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it."""

    num_frames: float
    fps: Fraction
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and what it would take."""

    spec: Spec
    workers: int
    videos: int
    done: int
    failed: int
    missing: int
    shards: int
    frames: int
    clips: int
    bytes: int
    seconds_per_clip: float | None
    """Of one worker; None when no file could be timed."""

    def rows(self) -> list[Cells]:
        """Lines for people."""
        time_left = "unknown: no file could be read" if self.videos else "nothing to do"
        if self.seconds_per_clip is not None:
            each = f"{self.seconds_per_clip:.3f} s a clip, {self.workers} at once, measured here"
            time_left = f"{duration(self.clips * self.seconds_per_clip / self.workers)} ({each})"
        found = f"{self.done:,} done, {self.failed:,} failed, {self.missing:,} not found"
        return [
            ("spec", f"{self.spec.preset}, {self.spec.precision}, weights {self.spec.weights}"),
            ("videos to do", f"{self.videos:,} ({found})"),
            ("shards", f"{self.shards:,}"),
            ("source frames", f"{self.frames:,}"),
            ("clips", f"{self.clips:,} of {self.spec.crops} views"),
            ("features", size(self.bytes)),
            ("time", time_left),
        ]


def estimate(manifest: Manifest, root: Path, out: Path, settings: Settings) -> Estimate:
    """Plan, clips, bytes and time of an extraction; reads some headers and times a few clips.

    Writes nothing. Raises as ``extract_dataset`` does for bad settings.
    """
    spec = settle_spec(out, settings)
    extractor = make_extractor(spec, settings.weights, settings.device)
    share, rows, shards = _share(manifest, out / spec.stream, settings)
    left = [video for video in share if video.video_id not in rows]
    statuses = Counter(rows[each.video_id].status for each in share if each.video_id in rows)
    sources = list(_sources(left, root))
    headers = _headers(sources)
    clips = [_clips(each, spec) for each in headers]
    return Estimate(
        spec=spec,
        workers=settings.workers,
        videos=len(sources),
        done=statuses[DONE],
        failed=statuses[FAILED],
        missing=len(left) - len(sources),
        shards=shards,
        frames=round(sum(each.num_frames for each in headers)),
        clips=sum(clips),
        bytes=sum(clips) * _clip_bytes(spec, extractor.backbone.dim),
        seconds_per_clip=_seconds_per_clip(extractor, sources),
    )


def _share(
    manifest: Manifest, path: Path, settings: Settings
) -> tuple[list[Video], dict[str, Row], int]:
    """Videos of this rank's share, the finished ones of all ranks, the share's shards."""
    plan, rows = Plan(), {}
    if (path / "spec.json").exists():
        plan, rows = StreamFolder.open(path).plan, read_rows(path)
    plan.extend(
        (video.video_id for video in manifest.videos), settings.shard_size or read_shard_size(path)
    )
    share = settings.share
    mine = [
        video
        for video in manifest.videos
        if plan.places[video.video_id].shard % share.world_size == share.rank
    ]
    return mine, rows, len(plan.shards[share.rank :: share.world_size])


def _sources(videos: Sequence[Video], root: Path) -> Iterator[tuple[Video, Path]]:
    index = SourceIndex(root)
    for video in videos:
        try:
            yield video, index.find(video)
        except DecodeError:  # missing: counted by the caller
            continue


def _headers(sources: Sequence[tuple[Video, Path]]) -> list[Header]:
    """Frames of each video: from the manifest, its header, or its bytes beside probed files."""
    step = max(1, len(sources) // PROBED_HEADERS)
    probed = {
        path: header for video, path in sources[::step] if (header := _read_header(video, path))
    }
    density = statistics.median([h.num_frames / h.bytes for h in probed.values()] or [0.0])
    fps = statistics.median([h.fps for h in probed.values()] or [UNSTATED_FPS])
    return [
        probed.get(path)
        or Header(
            video.num_frames or density * size_of(path),
            stated_fps(video) if video.fps else Fraction(fps),
            size_of(path),
        )
        for video, path in sources
    ]


def _read_header(video: Video, path: Path) -> Header | None:
    fps = stated_fps(video)
    try:
        with open_frames(path, fps=fps) as stream:
            frames, fps = stream.header.num_frames, stream.header.fps
    except DecodeError:
        return None
    frames = video.num_frames or frames
    return Header(frames, fps, size_of(path)) if frames else None


def _clips(header: Header, spec: Spec) -> int:
    resampling = Resampling(header.fps, spec.fps_used())
    return num_clips(resampling.count(round(header.num_frames)), spec.tail, spec.clip_length)


def _clip_bytes(spec: Spec, dim: int) -> int:
    return spec.crops * dim * (2 if spec.dtype == "float16" else 4) + 16


def _seconds_per_clip(extractor: Extractor, sources: Sequence[tuple[Video, Path]]) -> float | None:
    """Seconds one worker takes for a clip, waiting for its decoder included."""
    with fixed_threads(CPU_THREADS):  # as in the run itself
        _warm_up(extractor)
        for video, path in sources[:TIMED_FILES]:
            try:
                return _time_clips(extractor, video, path)
            except DecodeError:
                continue
    return None


def _warm_up(extractor: Extractor) -> None:
    size = extractor.spec.crop_size
    shape = (extractor.spec.batch, extractor.spec.clip_length, size, size, 3)
    extractor.backbone(torch.zeros(shape, dtype=torch.uint8, device=extractor.backbone.device))


def _time_clips(extractor: Extractor, video: Video, path: Path) -> float:
    with open_frames(path, fps=stated_fps(video)) as stream:
        resampling = Resampling(stream.header.fps, extractor.spec.fps_used())
        start, clips = time.perf_counter(), 0
        for batch in extractor.features(stream, resampling, Stopwatch()):
            clips += len(batch)
            if clips >= PROBED_CLIPS:
                break
        spent = time.perf_counter() - start
    if not clips:
        raise DecodeError(f"{path}: fewer frames than a clip has", "too-short")
    return spent / clips
