"""What an extraction would do, hold and take, before it is started: ``extract --dry-run``."""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from vadprep.cli.text import Cells, duration, size
from vadprep.core.clips import Resampling, num_clips, num_flows
from vadprep.core.crops import target_size
from vadprep.core.errors import DecodeError
from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.data.manifest import Manifest
from vadprep.data.sources import SourceIndex, size_of
from vadprep.extraction.config import Settings
from vadprep.extraction.costs import Costs, Machines, limit_of_run, run_seconds
from vadprep.extraction.extractor import (
    CPU_THREADS,
    UNSTATED_FPS,
    Extractor,
    fixed_threads,
    stated_fps,
)
from vadprep.extraction.run import machines_of, make_extractor, settle_specs
from vadprep.extraction.timing import Stopwatch
from vadprep.features.folder import StreamFolder, read_shard_size
from vadprep.features.journal import Row, read_rows
from vadprep.features.plan import Plan
from vadprep.features.shard import DONE, FAILED

PROBED_HEADERS = 20
"""Files whose header is read where the manifest has no frame counts; the rest go by bytes."""
PROBED_CLIPS = 4
PROBED_FRAMES = 256
TIMED_FILES = 4
"""Files of which so many clips are timed, and so many frames decoded."""
RAY_SECONDS = 7.0
"""Until Ray and its workers' imports are through; measured on a machine of two cores."""

Sources = Sequence[tuple[Video, Path]]


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it."""

    num_frames: float
    fps: Fraction
    bytes: int
    size: tuple[int, int]
    """Height and width."""

    def frames_used(self, spec: Spec) -> int:
        """Resampled frames."""
        return Resampling(self.fps, spec.fps_used()).count(round(self.num_frames))

    def clips(self, spec: Spec) -> int:
        """Clips by the tail rule of ``spec``."""
        return num_clips(self.frames_used(spec), spec.tail, spec.clip_length)

    def flow_bytes(self, spec: Spec) -> int:
        """Bytes of u and v, a byte each a pixel."""
        height, width = target_size(spec.resize, *self.size)
        return 2 * height * width * num_flows(self.frames_used(spec))


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

    def cells(self) -> list[str]:
        """Column of a table: see ``Estimate.rows``."""
        found = f"{self.done:,} done, {self.failed:,} failed, {self.missing:,} not found"
        return [
            self.spec.stream,
            f"{self.spec.preset}, {self.spec.precision}, weights {self.spec.weights}",
            f"{self.videos:,} ({found})",
            f"{self.shards:,}",
            f"{self.frames:,}",
            f"{self.clips:,} of {self.spec.crops} view{'s' if self.spec.crops != 1 else ''}",
            size(self.bytes),
        ]


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and what it would take."""

    streams: tuple[StreamEstimate, ...]
    clips: int
    """Of all videos that lack a stream."""
    machines: Machines
    seconds: float | None
    """Of the run once its workers are ready; None when no file could be timed."""
    limits: str
    """What it waits for, see ``costs.bottleneck``."""
    starting: float
    """Seconds until the workers are ready."""
    probes: tuple[Timing, ...]
    """What was measured, for each set of streams that videos lack."""
    flow_bytes: int | None
    """Of the flow that would be saved, before compression; None when none would be."""

    def rows(self) -> list[Cells]:
        """Lines for people."""
        names = (
            "stream", "spec", "videos to do", "shards", "source frames", "clips", "features"
        )  # fmt: skip
        columns = zip(*(each.cells() for each in self.streams), strict=True)
        blank = [""] * (len(self.streams) - 1)
        rows: list[Cells] = [(name, *cells) for name, cells in zip(names, columns, strict=True)]
        if self.flow_bytes is not None:
            saved = f"{size(self.flow_bytes)} at 2 bytes a pixel, before compression"
            rows.insert(0, ("flow to be saved", saved, *blank))
        return [*rows, ("time", self._time(), *blank)]

    def _time(self) -> str:
        if not self.clips:
            return "nothing to do"
        if self.seconds is None:
            return "unknown: no file could be read"
        whole = duration(self.seconds + self.starting)
        each = f"{self.seconds / self.clips:.3f} s a clip, {self.machines.workers} at once"
        return f"{whole} ({each}, measured here; {self.limits} limits)"


def estimate(
    manifest: Manifest, root: Path, out: Path, settings: Settings, retry_failed: bool = False
) -> Estimate:
    """Plan, clips, bytes and time of an extraction; reads some headers and times a few clips.

    Writes nothing. Raises as ``extract_dataset`` does for bad settings.
    """
    start = time.perf_counter()
    specs = settle_specs(out, settings)
    extractor = make_extractor(specs, replace(settings, save_flow=None))
    machines = machines_of(settings)
    starting = time.perf_counter() - start
    if machines.workers > 1 or machines.has_gpus or settings.address != "local":
        starting += RAY_SECONDS
    shares = [_share(manifest, out / spec.stream, settings, retry_failed) for spec in specs]
    left = {video.video_id: video for share in shares for video in share.left}
    sources = list(_sources(list(left.values()), root))
    headers = _headers(sources, extractor)
    streams = tuple(
        _stream_estimate(branch.spec, branch.network.dim, share, headers)
        for branch, share in zip(extractor.branches.values(), shares, strict=True)
    )
    lacking = {
        each: tuple(share.stream for share in shares if each in share.ids) for each in headers
    }
    clips = {each: header.clips(extractor.spec) for each, header in headers.items()}
    saved = [each for each, names in lacking.items() if "flow" in names]
    run = _run_seconds(extractor, sources, lacking, headers, machines)
    return Estimate(
        streams=streams,
        machines=machines,
        clips=sum(clips.values()),
        seconds=run.seconds if run else None,
        limits=run.limits if run else "",
        starting=starting,
        probes=run.probes if run else (),
        flow_bytes=sum(headers[each].flow_bytes(specs[-1]) for each in saved)
        if settings.save_flow
        else None,
    )


@dataclass(frozen=True)
class _Share:
    """This rank's videos of one stream: those left to do, rows of the others, shards."""

    stream: str
    left: tuple[Video, ...]
    finished: tuple[Row, ...]
    shards: int

    @property
    def ids(self) -> set[str]:
        return {video.video_id for video in self.left}


def _share(manifest: Manifest, path: Path, settings: Settings, retry_failed: bool) -> _Share:
    plan, rows = Plan(), {}
    if (path / "spec.json").exists():
        plan, rows = StreamFolder.open(path).plan, read_rows(path)
    if retry_failed:
        rows = {each: row for each, row in rows.items() if row.status != FAILED}
    plan.extend(
        (video.video_id for video in manifest.videos), settings.shard_size or read_shard_size(path)
    )
    rank, ranks = settings.share.rank, settings.share.world_size
    mine = [video for video in manifest.videos if plan.places[video.video_id].shard % ranks == rank]
    return _Share(
        stream=path.name,
        left=tuple(video for video in mine if video.video_id not in rows),
        finished=tuple(rows[video.video_id] for video in mine if video.video_id in rows),
        shards=len(plan.shards[rank::ranks]),
    )


def _stream_estimate(
    spec: Spec, dim: int, share: _Share, headers: Mapping[str, Header]
) -> StreamEstimate:
    there = [headers[video.video_id] for video in share.left if video.video_id in headers]
    statuses = Counter(row.status for row in share.finished)
    clips = sum(header.clips(spec) for header in there)
    return StreamEstimate(
        spec=spec,
        videos=len(there),
        done=statuses[DONE],
        failed=statuses[FAILED],
        missing=len(share.left) - len(there),
        shards=share.shards,
        frames=round(sum(each.num_frames for each in there)),
        clips=clips,
        bytes=clips * _clip_bytes(spec, dim),
    )


def _sources(videos: Sequence[Video], root: Path) -> Iterator[tuple[Video, Path]]:
    index = SourceIndex(root)
    for video in videos:
        try:
            yield video, index.find(video)
        except DecodeError:  # missing: counted by the caller
            continue


def _headers(sources: Sources, extractor: Extractor) -> dict[str, Header]:
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
        or Header(
            video.num_frames or density * size_of(path),
            stated_fps(video) if video.fps else fps,
            size_of(path),
            sizes[len(sizes) // 2],
        )
        for video, path in sources
    }


def _read_header(video: Video, path: Path, extractor: Extractor) -> Header | None:
    try:
        with extractor.opened(path, stated_fps(video)) as stream:
            header = stream.header
    except DecodeError:
        return None
    frames = video.num_frames or header.num_frames
    if not frames:
        return None
    return Header(frames, header.fps, size_of(path), (header.height, header.width))


def _clip_bytes(spec: Spec, dim: int) -> int:
    return spec.crops * dim * (2 if spec.dtype == "float16" else 4) + 16


@dataclass(frozen=True)
class Timing:
    """What the stages of one set of streams take, measured on a few clips of some videos."""

    decoding: float
    """Of one decoder: seconds a pixel of its frames."""
    resize: float
    """Of one worker: seconds a pixel of its frames."""
    stages: Mapping[str, float]
    """The other stages of a worker, by name: seconds a clip."""
    between: float
    """Seconds until a decoder gives the header of a video."""

    def costs(self, frames: float, clips: float, size: tuple[int, int]) -> Costs:
        """Of a video of so many source frames of ``size`` and clips."""
        pixels = frames * size[0] * size[1]
        stages = {name: clips * seconds for name, seconds in self.stages.items()}
        return Costs(pixels * self.decoding, {"resize": pixels * self.resize, **stages})


@dataclass(frozen=True)
class _Run:
    """What the model says of a run, once its workers are ready."""

    seconds: float
    limits: str
    probes: tuple[Timing, ...]


def probe(extractor: Extractor, names: Sequence[str], sources: Sources) -> Timing | None:
    """Time the stages on the first clips of some of ``sources``; None when none can be read."""
    step = max(1, len(sources) // TIMED_FILES)
    probes = []
    with fixed_threads(CPU_THREADS):  # as in the run itself
        _warm_up(extractor, names)
        for video, path in [*sources[::step], *sources][: 2 * TIMED_FILES]:
            try:
                task = Task(video, dict.fromkeys(names, path), path)
                probes.append(_probed(extractor, task))
            except DecodeError:
                continue
            if len(probes) == TIMED_FILES:
                break
    return _mean(probes) if probes else None


def _mean(probes: Sequence[Timing]) -> Timing:
    names = dict.fromkeys(name for each in probes for name in each.stages)
    return Timing(
        statistics.fmean(each.decoding for each in probes),
        statistics.fmean(each.resize for each in probes),
        {name: statistics.fmean(each.stages.get(name, 0.0) for each in probes) for name in names},
        statistics.fmean(each.between for each in probes),
    )


def _probed(extractor: Extractor, task: Task) -> Timing:
    """The stages of one video, from its first to its last timed clip."""
    assert task.source is not None
    decoding, between = _decoding(extractor, task)
    watch, clips = Stopwatch(), dict.fromkeys(task.targets, 0)
    laps: list[tuple[int, dict[str, float]]] = []
    with extractor.opened(task.source, stated_fps(task.video)) as stream:
        pixels = stream.header.height * stream.header.width
        resampling = Resampling(stream.header.fps, extractor.spec.fps_used())
        with closing(extractor.snippets(task, stream, resampling, watch)) as snippets:
            for name, batch in snippets:
                clips[name] += len(batch)
                laps.append((min(clips.values()), watch.seconds))
                if laps[-1][0] > PROBED_CLIPS:
                    break
    count, seconds = _between_laps(laps)
    frames = max(count, 1) * extractor.spec.clip_length / _repeats(resampling)
    stages = {
        name: spent / max(count, 1)
        for name, spent in seconds.items()
        if name not in ("decode", "resize")
    }
    return Timing(decoding, seconds.get("resize", 0.0) / (frames * pixels), stages, between)


def _between_laps(laps: Sequence[tuple[int, dict[str, float]]]) -> tuple[int, dict[str, float]]:
    """Clips and seconds a stage from the first clip to the last, or of all when there is one."""
    (first, before), (last, after) = laps[0], laps[-1]
    if first == last:
        return last, after
    return last - first, {name: after[name] - before.get(name, 0.0) for name in after}


def _repeats(resampling: Resampling) -> float:
    """Resampled frames a source frame."""
    return max(resampling.count(1000), 1) / 1000


def _decoding(extractor: Extractor, task: Task) -> tuple[float, float]:
    """Seconds of a decoder a pixel, and until it gives the header."""
    assert task.source is not None
    begun = time.perf_counter()
    with extractor.opened(task.source, stated_fps(task.video)) as stream:
        pixels = stream.header.height * stream.header.width
        start, frames = time.perf_counter(), 0
        for block in stream:
            frames += len(block)
            if frames >= PROBED_FRAMES:
                break
        return (time.perf_counter() - start) / (frames * pixels), start - begun


def _run_seconds(
    extractor: Extractor,
    sources: Sources,
    lacking: Mapping[str, tuple[str, ...]],
    headers: Mapping[str, Header],
    machines: Machines,
) -> _Run | None:
    """How long it takes and what limits; None when no video can be read."""
    groups: dict[tuple[str, ...], list[tuple[Video, Path]]] = defaultdict(list)
    for video, path in sources:
        groups[lacking[video.video_id]].append((video, path))
    costs: list[Costs] = []
    probes: list[Timing] = []
    for names, group in groups.items():
        found = probe(extractor, names, group)
        if found is None:
            return None
        probes.append(found)
        for video, _ in group:
            header = headers[video.video_id]
            costs.append(found.costs(header.num_frames, header.clips(extractor.spec), header.size))
    if not costs:
        return _Run(0.0, "", ())
    between = max(each.between for each in probes)
    seconds = run_seconds(costs, machines, between)
    return _Run(seconds, limit_of_run(costs, machines, seconds), tuple(probes))


def _warm_up(extractor: Extractor, names: Sequence[str]) -> None:
    """Run each network once, and the flow, which may have to be compiled."""
    for branch in map(extractor.branches.__getitem__, names):
        spec, device = branch.spec, branch.network.device
        channels = 2 if branch.flow else 3
        shape = (spec.batch, spec.clip_length, spec.crop_size, spec.crop_size, channels)
        branch.network(torch.zeros(shape, dtype=torch.uint8, device=device))
        if branch.flow and not branch.flow.read_from:
            branch.flow.method(torch.zeros((2, 64, 64), dtype=torch.uint8, device=device))
