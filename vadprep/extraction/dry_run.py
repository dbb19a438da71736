"""What an extraction would do, hold and take, before it is started: ``extract --dry-run``."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from vadprep.core.clips import Resampling, num_clips, num_flows
from vadprep.core.crops import target_size
from vadprep.core.errors import DecodeError
from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.data import Manifest, SourceIndex, size_of
from vadprep.extraction.extractor import (
    CPU_THREADS,
    UNSTATED_FPS,
    Extractor,
    fixed_threads,
    make_extractor,
    stated_fps,
)
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.timing import Stopwatch
from vadprep.features.folder import StreamFolder, read_shard_size, read_spec
from vadprep.features.journal import read_rows
from vadprep.features.plan import Plan
from vadprep.features.shard import DONE, FAILED

PROBED_HEADERS = 20
"""Files whose header is read where the manifest has no frame counts; the rest go by bytes."""
TIMED_VIDEOS = 3
TIMED_CLIPS = 4
"""So many clips are timed, of each of so many videos."""

Sources = Sequence[tuple[Video, Path]]


@dataclass(frozen=True)
class StreamEstimate:
    """What is left to do of one stream, and what it would hold."""

    spec: Spec
    videos: int
    done: int
    failed: int
    missing: int
    shards: int
    frames: int
    clips: int
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and what it would take."""

    streams: tuple[StreamEstimate, ...]
    clips: int
    """Of all videos that lack a stream."""
    workers: int
    seconds: float | None
    """Estimated from a short measurement on this machine: seconds a clip times clips, divided by
    the workers. None when no file could be read."""
    flow_bytes: int | None
    """Of the flow that would be saved, before compression; None when none would be."""


@dataclass(frozen=True)
class _Header:
    """What is known of a file without decoding it."""

    num_frames: float
    fps: Fraction
    bytes: int
    size: tuple[int, int]
    """Height and width."""

    def frames_used(self, spec: Spec) -> int:
        return Resampling(self.fps, spec.fps_used()).count(round(self.num_frames))

    def clips(self, spec: Spec) -> int:
        return num_clips(self.frames_used(spec), spec.tail, spec.clip_length)

    def flow_bytes(self, spec: Spec) -> int:
        """Bytes of u and v, a byte each a pixel."""
        height, width = target_size(spec.resize, *self.size)
        return 2 * height * width * num_flows(self.frames_used(spec))


def estimate(
    plan: ExtractionPlan, manifest: Manifest, root: Path, retry_failed: bool = False
) -> Estimate:
    """Videos, clips, bytes and time of an extraction; reads some headers and extracts a few clips
    of some videos. Writes nothing."""
    extractor = make_extractor(replace(plan, save_flow=None))
    left: dict[str, dict[str, Video]] = {}
    finished: dict[str, Counter[str]] = {}
    shards: dict[str, int] = {}
    for spec in plan.specs:
        name = spec.stream
        left[name], finished[name], shards[name] = _share(plan, name, manifest, retry_failed)
    sources = list(_sources({**left.get("rgb", {}), **left.get("flow", {})}.values(), root))
    headers = _headers(sources, extractor)
    streams = []
    for spec, branch in zip(plan.specs, extractor.branches.values(), strict=True):
        name = spec.stream
        there = [headers[video_id] for video_id in left[name] if video_id in headers]
        clips = sum(header.clips(spec) for header in there)
        clip_bytes = spec.crops * branch.network.dim * (2 if spec.dtype == "float16" else 4) + 16
        streams.append(
            StreamEstimate(
                spec=spec,
                videos=len(there),
                done=finished[name][DONE],
                failed=finished[name][FAILED],
                missing=len(left[name]) - len(there),
                shards=shards[name],
                frames=round(sum(each.num_frames for each in there)),
                clips=clips,
                bytes=clips * clip_bytes,
            )
        )
    saved = [headers[video_id] for video_id in left.get("flow", ()) if video_id in headers]
    return Estimate(
        streams=tuple(streams),
        clips=sum(header.clips(extractor.spec) for header in headers.values()),
        workers=plan.workers,
        seconds=_seconds(extractor, sources, left, headers, plan.workers),
        flow_bytes=sum(header.flow_bytes(plan.specs[-1]) for header in saved)
        if plan.save_flow
        else None,
    )


def _share(
    plan: ExtractionPlan, stream: str, manifest: Manifest, retry_failed: bool
) -> tuple[dict[str, Video], Counter[str], int]:
    """This rank's videos of a stream that are left to do, by id, how many of the others are done
    and failed, and its number of shards."""
    folder, shards, rows = plan.folder(stream), Plan(), {}
    if read_spec(folder):
        shards, rows = StreamFolder.open(folder).plan, read_rows(folder)
    if retry_failed:
        rows = {each: row for each, row in rows.items() if row.status != FAILED}
    ids = (video.video_id for video in manifest.videos)
    shards.extend(ids, plan.shard_size or read_shard_size(folder))
    rank, ranks = plan.share.rank, plan.share.world_size
    mine = {
        video.video_id: video
        for video in manifest.videos
        if shards.places[video.video_id].shard % ranks == rank
    }
    return (
        {video_id: video for video_id, video in mine.items() if video_id not in rows},
        Counter(rows[video_id].status for video_id in mine if video_id in rows),
        len(shards.shards[rank::ranks]),
    )


def _sources(videos: Iterable[Video], root: Path) -> Iterator[tuple[Video, Path]]:
    index = SourceIndex(root)
    for video in videos:
        try:
            yield video, index.find(video)
        except DecodeError:  # missing: counted by the caller
            continue


def _headers(sources: Sources, extractor: Extractor) -> dict[str, _Header]:
    """Frames of each video: from the manifest, its header, or its bytes beside probed files."""
    step = max(1, len(sources) // PROBED_HEADERS)
    probed = {
        video.video_id: header
        for video, path in sources[::step]
        if (header := _read_header(video, path, extractor))
    }
    density = statistics.median([h.num_frames / h.bytes for h in probed.values()] or [0.0])
    fps = Fraction(statistics.median([h.fps for h in probed.values()] or [UNSTATED_FPS]))
    sizes = sorted(h.size for h in probed.values()) or [(1, 1)]
    return {
        video.video_id: probed.get(video.video_id)
        or _Header(
            video.num_frames or density * size_of(path),
            stated_fps(video) if video.fps else fps,
            size_of(path),
            sizes[len(sizes) // 2],
        )
        for video, path in sources
    }


def _read_header(video: Video, path: Path, extractor: Extractor) -> _Header | None:
    try:
        with extractor.opened(video, path) as stream:
            header = stream.header
    except DecodeError:
        return None
    frames = video.num_frames or header.num_frames
    if not frames:
        return None
    return _Header(frames, header.fps, size_of(path), (header.height, header.width))


def _seconds(
    extractor: Extractor,
    sources: Sources,
    left: Mapping[str, Mapping[str, Video]],
    headers: Mapping[str, _Header],
    workers: int,
) -> float | None:
    """Seconds of the run, each set of streams that videos lack measured for itself."""
    groups: dict[tuple[str, ...], list[tuple[Video, Path]]] = defaultdict(list)
    for video, path in sources:
        groups[tuple(name for name in left if video.video_id in left[name])].append((video, path))
    total = 0.0
    for names, group in groups.items():
        seconds = seconds_a_clip(extractor, names, group)
        if seconds is None:
            return None
        clips = sum(headers[video.video_id].clips(extractor.spec) for video, _ in group)
        total += clips * seconds
    return total / workers


def seconds_a_clip(extractor: Extractor, names: Sequence[str], sources: Sources) -> float | None:
    """Seconds of one worker for a clip of the streams ``names``, from the first clips of some of
    ``sources``; None when none can be read."""
    step = max(1, len(sources) // TIMED_VIDEOS)
    measured: list[float] = []
    with fixed_threads(CPU_THREADS):  # as in the run itself
        for video, path in [*sources[::step], *sources][: 2 * TIMED_VIDEOS]:
            try:
                measured.append(_measured(extractor, Task(video, dict.fromkeys(names, path), path)))
            except DecodeError:
                continue
            if len(measured) == TIMED_VIDEOS:
                break
    return statistics.fmean(measured) if measured else None


def _measured(extractor: Extractor, task: Task) -> float:
    """Seconds a clip of one video: from the first clips on, or of all when they come at once.

    The first clips wait for the decoder to start and for what has to be compiled.
    """
    assert task.source is not None
    clips = dict.fromkeys(task.targets, 0)
    laps = [(0, time.perf_counter())]
    with extractor.opened(task.video, task.source) as stream:
        features = extractor.features(task, stream, extractor.resampling(stream), Stopwatch())
        with closing(features):
            for name, batch in features:
                clips[name] += len(batch)
                if min(clips.values()) > laps[-1][0]:
                    laps.append((min(clips.values()), time.perf_counter()))
                if laps[-1][0] > TIMED_CLIPS and len(laps) > 2:
                    break
    (first, began), (last, ended) = laps[1 if len(laps) > 2 else 0], laps[-1]
    return (ended - began) / max(last - first, 1)
