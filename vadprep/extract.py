"""One video -> its features, a shard of one for each stream. Knows nothing of Ray, plans, ranks.

frames -> resampled -> resized -> snippets of each stream -> drafts -> committed
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.clips import Resampling, min_frames
from vadprep.decode import Decoder, DecodeReport, FrameStream, VideoHeader, open_frames
from vadprep.flow.formats import NO_FLOW_KIND
from vadprep.records import DecodeError, Video
from vadprep.shards import DONE, FAILED, Attributes, Draft, write_failure
from vadprep.signals import check_stop
from vadprep.snippets import Branch, Snippets
from vadprep.sources import fingerprint
from vadprep.spec import require_shared
from vadprep.stopwatch import Stopwatch, timed
from vadprep.views import Views, ViewSettings

MAX_REPAIRED = 0.1
"""A video fails when more than this share of its frames had to be filled in or is missing."""

SKIPPED = "skipped"
"""Status of a video that is left for the next run: its worker died, the video may be good."""

UNSTATED_FPS = Fraction(25)
"""Of a folder of images whose manifest has no fps; at the native rate it shapes nothing."""

CPU_THREADS = 1
"""Threads of the network a worker on CPU, fixed since the last bits depend on it. Cores are used
by more workers."""

FINAL_KINDS = (
    "missing", "empty", "no-video", "no-images", "too-short", "too-large", "no-fps", NO_FLOW_KIND
)  # fmt: skip
"""Failures that another decoder cannot change."""


@dataclass(frozen=True)
class Task:
    """A video to extract: its manifest row, its file, and for each stream the shard to write."""

    video: Video
    targets: Mapping[str, Path]
    """Stream -> a shard of this one video."""
    source: Path | None = None
    missing: str = ""
    """Where it was looked for, when there is no such file."""


@dataclass(frozen=True)
class Report:
    """What became of a task; small enough to travel between processes.

    The streams of a task share its fate: all are done, or none.
    """

    video_id: str
    status: str
    reason: str = ""
    kind: str = ""
    decoder: str = ""
    num_clips: int = 0
    num_frames: int = 0
    repaired_frames: int = 0
    fps: float = 0.0
    """Of the source; 0 where nothing states it."""
    checksums: Mapping[str, int] = field(default_factory=dict)
    """CRC-32 of the features of each stream."""
    retries: tuple[str, ...] = ()
    """Reasons of the decoders that were tried before."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds a stage, all streams together: decode (waiting for frames), resize, flow, compute,
    write."""


class Extractor:
    """Callable ``Task -> Report``: the whole way of one video through the networks.

    Raises SpecError when the streams of ``branches`` differ in what they must share.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches = {branch.spec.stream: branch for branch in branches}
        self.spec = branches[0].spec
        """Of the first stream; what it says of frames, views and clips holds for all."""
        for branch in branches[1:]:
            require_shared(branch.spec, self.spec, "the same extraction")

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
            ExitStack() as resources,
        ):
            drafts = {
                name: resources.enter_context(Draft(target, self.branches[name].spec))
                for name, target in task.targets.items()
            }
            resampling = Resampling(stream.header.fps, self.spec.fps_used())
            snippets = self.snippets(task, stream, resampling, watch)
            for name, batch in resources.enter_context(closing(snippets)):
                check_stop()
                with watch.stage("write"):
                    drafts[name].append(batch)
            report = stream.report
            spans = resampling.spans(report.num_frames, self.spec.tail, self.spec.clip_length)
            attributes = self._attributes(task, stream, resampling)
            for draft in drafts.values():
                with watch.stage("write"):
                    draft.commit(attributes, spans)
        return Report(
            video_id=task.video.video_id,
            status=DONE,
            decoder=report.decoder,
            num_clips=len(spans),
            num_frames=report.num_frames,
            repaired_frames=report.repaired_frames,
            fps=float(attributes.get("fps_source", 0.0)),
            checksums={name: draft.checksum for name, draft in drafts.items()},
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

    def snippets(
        self, task: Task, stream: FrameStream, resampling: Resampling, watch: Stopwatch
    ) -> Generator[tuple[str, NDArray[np.float32]], None, None]:
        """Stream and snippets [n, num_crops, dim], in order within each stream.

        One pass over the frames for all streams of ``task``. Raises DecodeError at the end when
        too much of the video is lost or it is too short; saved flow appears if it is good.
        """
        with ExitStack() as resources:
            views = self._views(stream.header)
            works = {
                name: self._work(self.branches[name], task, views, resources, watch)
                for name in task.targets
            }
            blocks = resampled(timed(stream, watch, "decode"), resampling)
            for frames in timed(map(views.resized, blocks), watch, "resize"):
                for name, work in works.items():
                    yield from ((name, batch) for batch in work.add(frames))
            for name, work in works.items():
                yield from ((name, batch) for batch in work.rest())
            self._check(stream, resampling)

    def _views(self, header: VideoHeader) -> Views:
        settings = ViewSettings(
            self.spec.resize,
            self.spec.filter,
            self.spec.crops,
            self.spec.crop_order,
            self.spec.crop_size,
        )
        device = next(iter(self.branches.values())).network.device
        return Views(header.height, header.width, settings, device)

    def _work(
        self, branch: Branch, task: Task, views: Views, resources: ExitStack, watch: Stopwatch
    ) -> Snippets:
        pictures = branch.pictures(task.video.video_id, resources)
        return Snippets(branch.spec, branch.network, pictures, views.boxes, watch)

    def _check(self, stream: FrameStream, resampling: Resampling) -> None:
        report = stream.report
        claimed = claimed_frames(stream.header, report)
        missing = max(0, claimed - report.num_frames)
        if report.repaired_frames + missing > MAX_REPAIRED * max(claimed, report.num_frames):
            raise DecodeError(
                f"{report.num_frames} frames decoded of {claimed} that the header claims, "
                f"{report.repaired_frames} of them repaired: more than {MAX_REPAIRED:.0%} are lost",
                "damaged",
            )
        if not len(resampling.spans(report.num_frames, self.spec.tail, self.spec.clip_length)):
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
        attributes = _known(_manifest_attributes(task.video))
        for name, target in task.targets.items():
            write_failure(target, self.branches[name].spec, attributes, reason)
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
