"""What an extraction would do, hold and take, before it is started: ``extract --dry-run``."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vadprep.core.clips import num_clips, num_flows
from vadprep.core.crops import target_size
from vadprep.core.errors import DecodeError
from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.data import Manifest, SourceIndex, size_of
from vadprep.extraction.api import Sources as FoundSources, VideoSources, plan_extraction
from vadprep.extraction.extractor import (
    CPU_THREADS,
    UNSTATED_FPS,
    Extractor,
    fixed_threads,
    make_extractor,
    stated_fps,
)
from vadprep.extraction.options import PlanOptions
from vadprep.extraction.plan import ExtractionPlan
from vadprep.extraction.timing import Stopwatch
from vadprep.features.folder import SHARD_SIZE, Plan, StreamFolder, read_spec
from vadprep.features.journal import read_rows
from vadprep.features.shard import DONE, FAILED
from vadprep.video import FrameStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

PROBED_HEADERS = 20
"""Files whose header is read where the manifest has no frame counts; the rest go by bytes."""
TIMED_VIDEOS = 3
MEASURED_SECONDS = 12.0
"""Headers are read and clips are timed for so long at most, once the network is loaded."""
STALL_SECONDS = 5.0
"""A file that gives nothing for so long is not measured."""
TIMED_CLIPS = 4
"""So many clips are timed, of each of so many videos."""

STEPS = PROBED_HEADERS + 2 * TIMED_VIDEOS
OnStep = Callable[[int, int], None]

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


class _Length(NamedTuple):
    """What is known of a file without decoding it."""

    frames: float
    fps: Fraction
    height: int
    width: int


def estimate(
    videos: VideoSources | FoundSources | None = None,
    out: str | Path | None = None,
    *,
    dataset: str | None = None,
    root: str | Path | None = None,
    retry_failed: bool = False,
    allow_missing: bool = False,
    on_step: OnStep = lambda done, total: None,
    **options: Unpack[PlanOptions],
) -> Estimate:
    """Videos, clips, bytes and time of an extraction; the arguments are those of ``extract``.

    Reads some headers and extracts a few clips of some videos, for ``MEASURED_SECONDS`` at most
    and a clip. ``on_step`` is called with the steps that are done and their number. Writes
    nothing. Raises what ``extract`` raises before it writes.
    """
    found, plan = plan_extraction(videos, out, dataset, root, allow_missing, options)
    stall_seconds = min(STALL_SECONDS, plan.stall_seconds)
    plan_here, crops = replace(plan, save_flow=None, stall_seconds=stall_seconds), 1
    if plan.device == "cpu":  # ten crops of one clip can take a minute
        crops = plan.specs[0].crops
        fewer = tuple(
            replace(each, spec=replace(each.spec, crops=1, crop_order="centre"))
            for each in plan.streams
        )
        plan_here = replace(plan_here, streams=fewer)
    index, extractor = SourceIndex(found.root, found.manifest.videos), make_extractor(plan_here)
    shares = {
        spec.stream: _share(plan, spec.stream, found.manifest, retry_failed, index)
        for spec in plan.specs
    }
    sources: dict[str, tuple[Video, Path]] = {}
    for video in found.manifest.videos:
        if any(video.video_id in left for left, *_ in shares.values()):
            with suppress(DecodeError):  # missing: counted below
                sources[video.video_id] = video, index.find(video)
    clock = _Clock(on_step)
    lengths = _lengths(list(sources.values()), extractor, clock)
    spec, used, clips = extractor.spec, dict[str, int](), dict[str, int]()
    for video_id, each in lengths.items():
        used[video_id] = spec.resampling(each.fps).count(round(each.frames))
        clips[video_id] = num_clips(used[video_id], spec.tail, spec.clip_length, spec.clip_stride)
    streams, flow_bytes = [], 0
    for spec in plan.specs:
        left, finished, shards = shares[spec.stream]
        there = left & sources.keys()
        count = sum(clips[each] for each in there)
        a_view = extractor.branches[spec.stream].dim * np.dtype(spec.dtype).itemsize
        streams.append(
            StreamEstimate(
                spec=spec,
                videos=len(there),
                done=finished[DONE],
                failed=finished[FAILED],
                missing=len(left) - len(there),
                shards=shards,
                frames=round(sum(lengths[each].frames for each in there)),
                clips=count,
                bytes=count * (spec.crops * a_view + 16),
            )
        )
        if spec.stream == "flow":
            for video_id in there:  # u and v, a byte each a pixel
                height, width = target_size(spec.resize, *lengths[video_id][2:])
                flow_bytes += 2 * height * width * num_flows(used[video_id])
    lacking = [stream.spec.stream for stream in streams if stream.videos]
    a_clip = _seconds_a_clip(extractor, lacking, list(sources.values()), clock, crops)
    on_step(STEPS, STEPS)
    total = sum(clips.values())
    return Estimate(
        streams=tuple(streams),
        clips=total,
        workers=plan.workers,
        seconds=None if math.isnan(a_clip) else a_clip * total / plan.workers,
        flow_bytes=flow_bytes if plan.save_flow else None,
    )


def _share(
    plan: ExtractionPlan, stream: str, manifest: Manifest, retry_failed: bool, index: SourceIndex
) -> tuple[set[str], Counter[str], int]:
    """Ids of this rank's videos of a stream that are left to do, how many of the others are done
    and failed, and its number of shards."""
    path, shards, size, rows, folder = plan.folder(stream), Plan(), SHARD_SIZE, {}, None
    if read_spec(path):
        folder = StreamFolder.open(path)
        shards, size, rows = folder.plan, folder.shard_size, read_rows(path)
    videos = {video.video_id: video for video in manifest.videos}
    shards.extend(videos, plan.shard_size or size)
    rank, ranks = plan.share.rank, plan.share.world_size
    left, finished = set[str](), Counter[str]()
    for video_id in videos:
        if shards.places[video_id].shard % ranks == rank:
            row = rows.get(video_id)
            if row is None or (
                folder
                and folder.is_retried(row, retry_failed, lambda each: index.has(videos[each]))
            ):
                left.add(video_id)
            else:
                finished[row.status] += 1
    return left, finished, len(shards.shards[rank::ranks])


class _Clock:
    """Counts steps, and says when the time for measuring is over."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step, self._end = on_step, time.monotonic() + MEASURED_SECONDS
        self._steps = 0

    def step(self) -> None:
        self._steps += 1
        self._on_step(min(self._steps, STEPS - 1), STEPS)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end


def _lengths(sources: Sources, extractor: Extractor, clock: _Clock) -> dict[str, _Length]:
    """Frames of each video: from the manifest, its header, or its bytes beside probed files."""
    probed: dict[str, _Length] = {}
    density = []
    decoder = extractor.spec.decoder.split(", ")[-1]  # the one that reads what others leave to it
    for video, path in sources[:: max(1, len(sources) // PROBED_HEADERS)]:
        if probed and clock.is_over:
            break
        clock.step()
        with suppress(DecodeError), extractor.opened(video, path, decoder) as stream:
            header = stream.header
            if frames := video.num_frames or header.likely_frames:
                probed[video.video_id] = _Length(frames, header.fps, header.height, header.width)
                density.append(frames / size_of(path))
    per_byte = statistics.median(density or [0.0])
    fps = Fraction(statistics.median([each.fps for each in probed.values()] or [UNSTATED_FPS]))
    sizes = sorted(each[2:] for each in probed.values()) or [(1, 1)]
    return {
        video.video_id: probed.get(video.video_id)
        or _Length(
            video.num_frames or per_byte * size_of(path),
            stated_fps(video) if video.fps else fps,
            *sizes[len(sizes) // 2],
        )
        for video, path in sources
    }


def _seconds_a_clip(
    extractor: Extractor, names: Sequence[str], sources: Sources, clock: _Clock, crops: int
) -> float:
    """Seconds of one worker for a clip of the streams ``names``; NaN when no file can be read. The
    time of the network is multiplied by ``crops``, those that the extractor leaves out.

    Measured over the first clips of some of ``sources``, but for the very first, which wait for
    the decoder to start and for what has to be compiled.
    """
    step = max(1, len(sources) // TIMED_VIDEOS)
    measured: list[float] = []
    with fixed_threads(CPU_THREADS):  # as in the run itself
        for video, path in [*sources[::step], *sources][: 2 * TIMED_VIDEOS]:
            if measured and clock.is_over:
                break
            clock.step()
            task = Task(video, dict.fromkeys(names, path), path)
            for decoder in extractor.spec.decoder.split(", "):
                with suppress(DecodeError), extractor.opened(video, path, decoder) as stream:
                    measured += _timed(extractor, task, stream, clock, crops)
                    break
            if len(measured) == TIMED_VIDEOS:
                break
    return statistics.fmean(measured or [math.nan])


def _timed(
    extractor: Extractor, task: Task, stream: FrameStream, clock: _Clock, crops: int
) -> list[float]:
    """Seconds for a clip of an opened video, in a list; none if it has too few clips."""
    clips, watch = dict.fromkeys(task.targets, 0), Stopwatch()
    laps = [(0, time.perf_counter(), 0.0)]
    with closing(extractor.features(task, stream, watch)) as features:
        for name, batch in features:
            clips[name] += len(batch)
            if min(clips.values()) > laps[-1][0]:
                computed = watch.seconds.get("compute", 0.0)
                laps.append((min(clips.values()), time.perf_counter(), computed))
            is_enough = laps[-1][0] > TIMED_CLIPS and len(laps) > 2
            if is_enough or (clock.is_over and len(laps) > 1):
                break
    (first, began, before), (last, ended, after) = laps[1 if len(laps) > 2 else 0], laps[-1]
    if last <= first:
        return []
    seconds = ended - began + (crops - 1) * (after - before)
    return [seconds / (last - first)]
