"""One video -> its features, as a shard of one. Knows nothing of Ray, of plans or of ranks.

frames -> resampled -> resized -> clips of 16 -> crops -> network -> draft -> committed
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.clips import CLIP_LENGTH, Resampling, min_frames, num_clips
from vadprep.decode import Decoder, DecodeReport, FrameStream, VideoHeader, open_frames
from vadprep.records import DecodeError, Video
from vadprep.shards import DONE, FAILED, Attributes, Draft, write_failure
from vadprep.signals import check_stop
from vadprep.sources import fingerprint
from vadprep.spec import Spec
from vadprep.views import Views, ViewSettings

Block = TypeVar("Block")

MAX_REPAIRED = 0.1
"""A video fails when more than this share of its frames had to be filled in or is missing."""

SKIPPED = "skipped"
"""Status of a video that is left for the next run: its worker died, the video may be good."""

UNSTATED_FPS = Fraction(25)
"""Of a folder of images whose manifest has no fps; at the native rate it shapes nothing."""

CPU_THREADS = 1
"""Threads of the network a worker on CPU, fixed since the last bits depend on it. Cores are used
by more workers."""

FINAL_KINDS = ("missing", "empty", "no-video", "no-images", "too-short", "too-large", "no-fps")
"""Failures that another decoder cannot change."""


class Network(Protocol):
    """What ``backbones.Backbone`` is to this module."""

    device: torch.device
    dim: int

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Features [batch, dim] of uint8 views [batch, 16, size, size, 3]."""


@dataclass(frozen=True)
class Task:
    """A video to extract: its manifest row, its file, and the shard of one to write."""

    video: Video
    target: Path
    source: Path | None = None
    missing: str = ""
    """Where it was looked for, when there is no such file."""


@dataclass(frozen=True)
class Report:
    """What became of a task; small enough to travel between processes."""

    video_id: str
    status: str
    reason: str = ""
    kind: str = ""
    decoder: str = ""
    num_clips: int = 0
    num_frames: int = 0
    repaired_frames: int = 0
    fps: float = 0.0
    checksum: int = 0
    retries: tuple[str, ...] = ()
    """Reasons of the decoders that were tried before."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds a stage: decode (waiting for frames), compute, write."""


class Stopwatch:
    """Seconds a stage, added up. What a stage within another takes counts for the inner alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """The sums so far, to a tenth of a millisecond."""
        return {name: round(seconds, 4) for name, seconds in self._seconds.items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the block to stage ``name``."""
        start, around = time.perf_counter(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + spent - self._inner
            self._inner = around + spent


class Extractor:
    """Callable ``Task -> Report``: the whole way of one video through one network."""

    def __init__(self, spec: Spec, backbone: Network) -> None:
        self.spec = spec
        self.backbone = backbone

    def __call__(self, task: Task) -> Report:
        """Extract ``task.video``; a video that cannot be read is reported, not raised.

        Raises OutputError when the disk refuses, and whatever is no fault of the video (out of
        memory, a bug): those are never recorded as a bad video.
        """
        watch = Stopwatch()
        retries: list[str] = []
        reason = kind = ""
        with fixed_threads(CPU_THREADS):
            for decoder in self.spec.decoder.split(", "):
                try:
                    return self._extract(task, decoder, watch, retries)
                except DecodeError as error:  # kept as text: its frames hold the video's memory
                    reason, kind = str(error), error.kind
                retries.append(f"{decoder}: {reason}")
                if kind in FINAL_KINDS:
                    break
        return self._fail(task, reason, kind, retries, watch)

    def _extract(self, task: Task, decoder: str, watch: Stopwatch, retries: list[str]) -> Report:
        if task.source is None:
            raise DecodeError(task.missing, "missing")
        fps = self._folder_fps(task.video, task.source)
        with (
            open_frames(task.source, decoder=cast(Decoder, decoder), fps=fps) as stream,
            Draft(task.target, self.spec) as draft,
        ):
            resampling = Resampling(stream.header.fps, self.spec.fps_used())
            for batch in self.features(stream, resampling, watch):
                check_stop()
                with watch.stage("write"):
                    draft.append(batch)
            report = stream.report
            spans = resampling.spans(report.num_frames, self.spec.tail, self.spec.clip_length)
            self._check(stream, len(spans))
            with watch.stage("write"):
                draft.commit(self._attributes(task, stream, resampling), spans)
        return Report(
            video_id=task.video.video_id,
            status=DONE,
            decoder=report.decoder,
            num_clips=len(spans),
            num_frames=report.num_frames,
            repaired_frames=report.repaired_frames,
            fps=float(resampling.fps_source),
            checksum=draft.checksum,
            retries=tuple(retries),
            seconds=watch.seconds,
        )

    def _folder_fps(self, video: Video, source: Path) -> Fraction:
        """Frame rate of a folder of images, which has none of its own; files state theirs.

        Raises DecodeError when it is needed for resampling and the manifest has none.
        """
        if video.fps:
            return stated_fps(video)
        if source.is_dir() and self.spec.fps_used():
            raise DecodeError(
                f"{source}: a folder of images has no frame rate to resample to "
                f"{self.spec.fps}: fill the manifest's column fps, or use --fps native",
                "no-fps",
            )
        return UNSTATED_FPS

    def features(
        self, stream: FrameStream, resampling: Resampling, watch: Stopwatch
    ) -> Iterator[NDArray[np.float32]]:
        """Features of the clips in order, [n, num_crops, dim] each."""
        header = stream.header
        settings = ViewSettings(
            self.spec.resize,
            self.spec.filter,
            self.spec.crops,
            self.spec.crop_order,
            self.spec.crop_size,
        )
        views = Views(header.height, header.width, settings, self.backbone.device)
        blocks = resampled(timed(stream, watch, "decode"), resampling)
        resized = timed(map(views.resized, blocks), watch, "resize")
        clips = map(views.cut, clips_of(resized, self.spec.tail, self.spec.clip_length))
        yield from grouped(clips, self.backbone, self.spec, watch)

    def _check(self, stream: FrameStream, clips: int) -> None:
        report = stream.report
        claimed = claimed_frames(stream.header, report)
        missing = max(0, claimed - report.num_frames)
        if report.repaired_frames + missing > MAX_REPAIRED * max(claimed, report.num_frames):
            raise DecodeError(
                f"{report.num_frames} frames decoded of {claimed} that the header claims, "
                f"{report.repaired_frames} of them repaired: more than {MAX_REPAIRED:.0%} are lost",
                "damaged",
            )
        if not clips:
            need = min_frames(self.spec.tail, self.spec.clip_length)
            raise DecodeError(
                f"too short: {report.num_frames} frames give no clip by tail rule "
                f"{self.spec.tail!r}, which needs {need} at the rate used",
                "too-short",
            )

    def _attributes(self, task: Task, stream: FrameStream, resampling: Resampling) -> Attributes:
        report, video = stream.report, task.video
        assert task.source is not None
        is_stated = video.fps or not task.source.is_dir()
        fps = float(resampling.fps_source) if is_stated else None
        known: dict[str, str | int | float | None] = {
            **_manifest_attributes(video),
            **_fingerprint(task.source),
            "num_frames": report.num_frames,
            "num_frames_header": stream.header.num_frames,
            "repaired_frames": report.repaired_frames,
            "fps_source": fps,
            "fps_used": fps and float(resampling.fps_used),
            "decoder": report.decoder,
        }
        return _known(known)

    def _fail(
        self, task: Task, reason: str, kind: str, retries: list[str], watch: Stopwatch
    ) -> Report:
        write_failure(task.target, self.spec, _known(_manifest_attributes(task.video)), reason)
        return Report(
            video_id=task.video.video_id,
            status=FAILED,
            reason=reason,
            kind=kind,
            retries=tuple(retries),
            seconds=watch.seconds,
        )


def stated_fps(video: Video) -> Fraction:
    """The frame rate that the manifest states, or UNSTATED_FPS."""
    return Fraction(video.fps).limit_denominator(1001) if video.fps else UNSTATED_FPS


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """``count`` threads for torch on the CPU inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(source: Path) -> Mapping[str, str | int]:
    try:
        return fingerprint(source)
    except OSError as error:
        raise DecodeError(f"{source}: cannot be read again: {error.strerror}") from error


def _known(attributes: Mapping[str, str | int | float | None]) -> Attributes:
    return {key: value for key, value in attributes.items() if value is not None}


def _manifest_attributes(video: Video) -> dict[str, str | int | float | None]:
    return {
        "video_id": video.video_id,
        "path": video.path,
        "split": video.split,
        "label": video.label,
        "category": video.category,
    }


def claimed_frames(header: VideoHeader, report: DecodeReport) -> int:
    """Number of frames that the file should have given; ``report.num_frames`` if it is silent.

    The lower of what two witnesses say, since either may lie harmlessly: the count in the
    header, which knows nothing of an mp4's edit list, and the time at which the video is to
    end, in frames at the pace of those decoded, whatever the average frame rate claims.
    """
    claims = [header.num_frames] if header.num_frames else []
    if header.seconds and report.end and report.end > 0:
        claims.append(round(report.num_frames * header.seconds / report.end))
    return min(claims, default=report.num_frames)


def timed(blocks: Iterable[Block], watch: Stopwatch, stage: str) -> Iterator[Block]:
    """``blocks``, with the time spent waiting for each added to ``stage``."""
    iterator = iter(blocks)
    while True:
        with watch.stage(stage):
            block = next(iterator, None)
        if block is None:
            return
        yield block


def resampled(
    blocks: Iterable[NDArray[np.uint8]], resampling: Resampling
) -> Iterator[NDArray[np.uint8]]:
    """Blocks of resampled frames from blocks of source frames, both [n, H, W, 3] in order.

    No block is longer than the longest source block, or than the repeats of one frame.
    """
    seen = 0
    for block in blocks:
        repeats = [resampling.repeats(seen + i) for i in range(len(block))]
        seen += len(block)
        if all(count == 1 for count in repeats):
            yield block
            continue
        step = max(1, len(block) // max(1, *repeats))
        for start in range(0, len(block), step):
            part = slice(start, start + step)
            if any(repeats[part]):
                yield np.repeat(block[part], repeats[part], axis=0)


def clips_of(
    blocks: Iterable[torch.Tensor], tail: str, length: int = CLIP_LENGTH
) -> Iterator[torch.Tensor]:
    """Clips [length, h, w, 3] from blocks [n, h, w, 3] in order, as the tail rule has them.

    A clip is given out as soon as the rule is sure to keep it, so that at most a block and a
    clip are held.
    """
    waiting: list[torch.Tensor] = []
    seen = given = 0
    for block in blocks:
        waiting += block.unbind()
        seen += len(block)
        while min(num_clips(seen, tail, length), seen // length) > given:
            yield torch.stack(waiting[:length])
            del waiting[:length]
            given += 1
    if num_clips(seen, tail, length) > given:
        yield torch.stack(waiting + [waiting[-1]] * (length - len(waiting)))


def grouped(
    clips: Iterable[torch.Tensor], backbone: Network, spec: Spec, watch: Stopwatch
) -> Iterator[NDArray[np.float32]]:
    """Features [n, num_crops, dim] of clips [num_crops, 16, size, size, 3].

    The views of all clips of the video pass in order through batches of ``spec.batch``; the
    last is padded with zeros. So a snippet never depends on its neighbours or on the moment.
    """
    pending: list[torch.Tensor] = []
    ready: list[torch.Tensor] = []
    for clip in clips:
        pending += clip.unbind()
        while len(pending) >= spec.batch:
            with watch.stage("compute"):
                ready += backbone(torch.stack(pending[: spec.batch])).cpu().unbind()
            del pending[: spec.batch]
        whole = len(ready) // spec.crops * spec.crops
        if whole:
            yield torch.stack(ready[:whole]).view(-1, spec.crops, backbone.dim).numpy()
            del ready[:whole]
    if pending:
        padding = [torch.zeros_like(pending[0])] * (spec.batch - len(pending))
        with watch.stage("compute"):
            ready += backbone(torch.stack(pending + padding)).cpu()[: len(pending)].unbind()
        yield torch.stack(ready).view(-1, spec.crops, backbone.dim).numpy()
