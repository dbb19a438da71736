"""One video -> a shard of its own for each stream. Knows nothing of runs, Ray, plans and ranks.

decoder -> frames, resampled and resized -> ``streams.Snippets`` of each stream -> drafts
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.backbones import Backbone, check_engine
from vadprep.core.clips import Resampling, min_frames
from vadprep.core.errors import DecodeError, OutOfMemory, counted
from vadprep.core.records import RUNNING, Report, Task, Video
from vadprep.core.signals import check_stop
from vadprep.core.spec import require_shared
from vadprep.data import fingerprint, frame_bounds
from vadprep.extraction.options import STALL_SECONDS
from vadprep.extraction.plan import ExtractionPlan, StreamPlan
from vadprep.extraction.streams import Branch, Snippets
from vadprep.extraction.timing import Stopwatch, timed
from vadprep.features.draft import Draft, write_failure
from vadprep.features.shard import DONE, FAILED, MISSING
from vadprep.flow import NO_FLOW_KIND, tvl1_method
from vadprep.video import (
    MAX_DAMAGE,
    MAX_FPS,
    MIN_FPS,
    FrameStream,
    FrameTransform,
    expected_frames,
    length_note,
    open_frames,
    require_nvdec,
)

UNSTATED_FPS = Fraction(25)
"""Of a folder of frames whose manifest has no fps; at the native rate it shapes nothing."""

CPU_THREADS = 1
"""Threads of the network in a worker on the CPU. The number is fixed, since the last bits depend
on it; more workers use more cores."""

FINAL_KINDS = (
    MISSING, "empty", "unreadable", "no-video", "no-images", "too-short", "too-large", "no-fps",
    NO_FLOW_KIND,
)  # fmt: skip
"""Failures that another decoder cannot change: both read the header by PyAV."""

KILLED_KINDS = ("crashed", "stalled")
"""Failures that were the end of the decoder's process."""


def make_extractor(plan: ExtractionPlan) -> Extractor:
    """The extractor of the streams.

    Raises SpecError when the weights, the engine or the saved flow found here are not those of the
    plan, FeaturesError when there is no saved flow, SettingError when nvdec cannot serve here.
    """
    if plan.engine:
        check_engine(plan.engine, plan.device)
    if "nvdec" in plan.specs[0].decoder.split(", "):  # without it, another would serve unseen
        require_nvdec(plan.device)
    branches = []
    for stream in plan.streams:
        spec, flow = stream.spec, None
        network = network_of(stream, plan.device)
        if spec.stream == "flow":
            if plan.flow_from:  # its folder may be another on this node
                plan.flow_from.check(spec)
            else:
                flow = tvl1_method(spec.flow)
        branches.append(Branch(spec, network, flow, plan.save_flow, plan.flow_from))
    return Extractor(branches, plan.stall_seconds, plan.max_damage)


def network_of(stream: StreamPlan, device: str) -> Backbone:
    """The network of a stream on ``device``; raises as ``StreamPlan.weights`` and ``Backbone``."""
    spec, weights = stream.spec, stream.weights()
    settings = spec.precision, spec.scaling, CPU_THREADS, spec.batch_norm_eps
    return Backbone(weights, device, *settings)


class Extractor:
    """Callable ``Task -> Report``: the whole way of one video through the networks.

    A decoder that gives nothing for ``stall_seconds`` is ended; ``max_damage`` is the share of
    frames, 0 to 1, that may be repaired or missing in a video. Raises SpecError when the streams
    of ``branches`` differ in what they must share.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        stall_seconds: float = STALL_SECONDS,
        max_damage: float = MAX_DAMAGE,
    ) -> None:
        self.branches = {branch.spec.stream: branch for branch in branches}
        self.spec = branches[0].spec
        """Of the first stream; what it says of frames, views and clips holds for all."""
        for branch in branches[1:]:
            require_shared(branch.spec, self.spec, "the same extraction")
        self._stall_seconds, self._max_damage = stall_seconds, max_damage

    def __call__(self, task: Task) -> Report:
        """Write the shards of ``task.video``, by the first decoder that can read it; the last of
        the reports of ``steps``."""
        *_, report = self.steps(task)
        return report

    def steps(self, task: Task) -> Iterator[Report]:
        """Reports on ``task.video``: how far it is after each batch, then what became of it.

        A video that cannot be read is reported, not raised. Raises OutputError when the disk
        refuses, OutOfMemory when the network does not fit, and whatever is no fault of the video
        (a bug): those are never recorded as a bad video.
        """
        video, watch = task.video, Stopwatch()
        retries: list[str] = []
        reason, kinds = "", list[str]()
        with fixed_threads(CPU_THREADS):
            for decoder in self.spec.decoder.split(", "):
                try:
                    report = yield from self._decoded_by(decoder, task, watch)
                    yield replace(report, retries=tuple(retries))
                    return
                except torch.OutOfMemoryError as error:  # outside the network, which shrinks
                    raise OutOfMemory(
                        f"the frames of {video.video_id!r} or their flow do not fit into the "
                        f"GPU's memory ({str(error).partition('.')[0]}): free memory there, or use "
                        "a smaller resize"
                    ) from error
                except DecodeError as error:  # kept as text: its frames hold the video's memory
                    reason = str(error)
                    kinds.append(error.kind)
                retries.append(f"{decoder}: {reason}")
                if kinds[-1] in FINAL_KINDS:
                    break
        if len(kinds) > 1 and all(kind in KILLED_KINDS for kind in kinds):
            reason = f"{len(kinds)} decoders were lost over it. {'; '.join(retries)}"
        for name, target in task.targets.items():
            write_failure(target, self.branches[name].spec, video.attributes, reason, kinds[-1])
        yield Report(
            video_id=video.video_id,
            status=FAILED,
            reason=reason,
            kind=kinds[-1],
            retries=tuple(retries),
            seconds=watch.seconds,
        )

    def _decoded_by(
        self, decoder: str, task: Task, watch: Stopwatch
    ) -> Generator[Report, None, Report]:
        if task.source is None:
            raise DecodeError(task.missing, MISSING)
        video, spec = task.video, self.spec
        with self.opened(video, task.source, decoder) as stream, ExitStack() as resources:
            drafts = {
                name: resources.enter_context(Draft(target, self.branches[name].spec))
                for name, target in task.targets.items()
            }
            features = self.features(task, stream, watch)
            clips, whole = dict.fromkeys(drafts, 0), self._clips_by_header(stream)
            for name, batch in resources.enter_context(closing(features)):
                check_stop()
                with watch.stage("write"):
                    drafts[name].append(batch)
                clips[name] += len(batch)
                count = min(clips.values())
                share = min(1.0, count / whole) if whole else 0.0
                frames = round(share * stream.header.likely_frames)
                yield Report(
                    video.video_id, RUNNING, num_clips=count, num_frames=frames, share=share
                )
            report, resampling = stream.report, self._resampling(stream)
            form = spec.clip_length, spec.clip_stride
            spans = resampling.spans(report.num_frames, spec.tail, *form)
            note = length_note(stream.header, report, frame_bounds(video), *form)
            try:
                file = fingerprint(task.source)
            except OSError as error:
                where = f"{task.source}: cannot be read again"
                raise DecodeError(f"{where}: {error.strerror}") from error
            fps = float(resampling.fps_source) if video.fps or not task.source.is_dir() else None
            about = {
                **video.attributes,
                **file,
                "num_frames": report.num_frames,
                "num_frames_header": stream.header.num_frames,
                "repaired_frames": report.repaired_frames,
                "max_damage": self._max_damage,
                "length_note": note or None,
                "fps_source": fps,
                "fps_used": fps and float(resampling.fps_used),
                "decoder": report.decoder,
            }
            times = None
            if fps and not task.source.is_dir():
                stamps = np.array(stream.times)
                late = stamps - np.arange(len(stamps)) / fps
                times = stamps if np.abs(late).max() > 0.5 / fps else None
            batch_used = {
                name: used for name in drafts if (used := self.branches[name].reduced_batch)
            }
            for name, draft in drafts.items():
                stored = {**about, "batch_used": batch_used.get(name)}
                with watch.stage("write"):
                    draft.commit({k: v for k, v in stored.items() if v is not None}, spans, times)
        return Report(
            video_id=video.video_id,
            status=DONE,
            decoder=report.decoder,
            num_clips=len(spans),
            num_frames=report.num_frames,
            repaired_frames=report.repaired_frames,
            length_note=note,
            fps=fps or 0.0,
            checksums={name: draft.checksum for name, draft in drafts.items()},
            batch_used=batch_used,
            seconds={**watch.seconds, "decoding": round(report.seconds, 4)},
        )

    def opened(self, video: Video, source: Path, decoder: str = "") -> FrameStream:
        """Frames of a video by ``decoder``, else by the first of the spec.

        A folder of frames has no frame rate of its own; files state theirs. Raises DecodeError
        as ``open_frames`` does, and when a folder is to be resampled from an unknown rate.
        """
        if not video.fps and source.is_dir() and self.spec.fps_used():
            raise DecodeError(
                f"{source}: a folder of frames has no frame rate to resample to "
                f"{self.spec.fps}: fill the manifest's column fps, or use --fps native",
                "no-fps",
            )
        return open_frames(
            source,
            decoder=decoder or self.spec.decoder.split(", ")[0],
            fps=stated_fps(video),
            stall_seconds=self._stall_seconds,
        )

    def _clips_by_header(self, stream: FrameStream) -> float:
        """About so many clips the video has; 0 where nothing says how long it is."""
        rate = float((self.spec.fps_used() or stream.header.fps) / stream.header.fps)
        return stream.header.likely_frames * rate / self.spec.clip_stride

    def _resampling(self, stream: FrameStream) -> Resampling:
        """Raises DecodeError for a rate to resample from that cannot be believed."""
        used, fps = self.spec.fps_used(), stream.header.fps
        if used and not MIN_FPS <= fps <= MAX_FPS:
            raise DecodeError(
                f"{stream.path}: the header says {float(fps):.6g} frames a second, where "
                f"{MIN_FPS} to {MAX_FPS} can be resampled to {self.spec.fps}: correct the file, "
                f"or use --fps native",
                "no-fps",
            )
        return self.spec.resampling(fps, stream.times, stream.header.tick / 2)

    def features(
        self, task: Task, stream: FrameStream, watch: Stopwatch
    ) -> Generator[tuple[str, NDArray[np.float32]], None, None]:
        """Stream and features [n, num_crops, dim], in order within each stream.

        One pass over the frames for all streams of ``task``. Raises DecodeError at the end when
        too much of the video is lost or it is too short; saved flow appears if it is good.
        """
        spec, header, resampling = self.spec, stream.header, self._resampling(stream)
        device = self.branches[spec.stream].batches.device
        needs_all = "flow" in task.targets  # TV-L1 takes whole frames
        transform = FrameTransform.of(spec, header.height, header.width, device, needs_all)
        with ExitStack() as resources:
            snippets = {}
            for name in task.targets:
                branch = self.branches[name]
                flow = branch.flow_images(task.video.video_id, resources, task.video.path)
                snippets[name] = Snippets(branch, flow, transform.boxes, watch)
            blocks = resampled(timed(stream, watch, "decode"), resampling)
            for frames in timed(map(transform.resize, blocks), watch, "resize"):
                for name, each in snippets.items():
                    yield from ((name, batch) for batch in each.add(frames))
            for name, each in snippets.items():
                yield from ((name, batch) for batch in each.flush())
            report, expected = stream.report, expected_frames(header, stream.report)
            whole = max(expected, report.num_frames)
            if report.repaired_frames + whole - report.num_frames > self._max_damage * whole:
                raise DecodeError(
                    f"{counted(report.num_frames, 'frame')} decoded of {expected:,} that the "
                    f"header states, {report.repaired_frames} of them repaired: more than "
                    f"{self._max_damage:.0%} are lost (--max-damage)",
                    "damaged",
                )
            if not len(
                resampling.spans(report.num_frames, spec.tail, spec.clip_length, spec.clip_stride)
            ):
                need = min_frames(spec.tail, spec.clip_length)
                raise DecodeError(
                    f"too short: no clip in {counted(report.num_frames, 'frame')} by tail rule "
                    f"{spec.tail!r}, which needs {need} at the rate used",
                    "too-short",
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


def resampled(
    blocks: Iterable[NDArray[np.uint8]], resampling: Resampling
) -> Iterator[NDArray[np.uint8]]:
    """Blocks of resampled frames from blocks of source frames, both [n, H, W, 3] in order.

    No block is longer than the longest source block.
    """
    seen = 0
    for block in blocks:
        repeats = [resampling.repeats(seen + i) for i in range(len(block))]
        seen += len(block)
        if all(count == 1 for count in repeats):
            yield block
            continue
        shown = np.repeat(np.arange(len(block)), repeats)
        for start in range(0, len(shown), len(block)):
            yield block[shown[start : start + len(block)]]
