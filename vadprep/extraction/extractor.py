"""One video -> a shard of its own for each stream. Knows nothing of runs, Ray, plans and ranks.

decoder -> frames, resampled and resized -> ``streams.Snippets`` of each stream -> drafts
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.backbones import load_backbone
from vadprep.backbones.adaptive_batch import AdaptiveBatch
from vadprep.core.clips import Resampling, min_frames
from vadprep.core.errors import DecodeError, OutOfMemory
from vadprep.core.records import Report, Task, Video
from vadprep.core.signals import check_stop
from vadprep.core.spec import require_shared
from vadprep.data import fingerprint, frame_bounds
from vadprep.extraction.plan import STALL_SECONDS, ExtractionPlan
from vadprep.extraction.streams import Branch, FlowStage, Snippets
from vadprep.extraction.timing import Stopwatch, timed
from vadprep.features.shard import DONE, FAILED, Attributes, Draft, write_failure
from vadprep.flow import NO_FLOW_KIND, SavedFlow, tvl1_method
from vadprep.video import (
    MAX_DAMAGE,
    MAX_FPS,
    MIN_FPS,
    FrameStream,
    FrameTransform,
    expected_frames,
    length_note,
    open_frames,
)

UNSTATED_FPS = Fraction(25)
"""Of a folder of frames whose manifest has no fps; at the native rate it shapes nothing."""

CPU_THREADS = 1
"""Threads of the network in a worker on the CPU. The number is fixed, since the last bits depend
on it; more workers use more cores."""

FINAL_KINDS = (
    "missing", "empty", "unreadable", "no-video", "no-images", "too-short", "too-large", "no-fps",
    NO_FLOW_KIND,
)  # fmt: skip
"""Failures that another decoder cannot change: both read the header by PyAV."""

KILLED_KINDS = ("crashed", "stalled")
"""Failures that were the end of the decoder's process."""


class Sink(Protocol):
    """Takes the features of one stream of one video, as ``features.shard.Draft`` does."""

    checksum: int

    def __enter__(self) -> Sink: ...
    def __exit__(self, *exception: object) -> None: ...
    def append(self, features: NDArray[np.floating]) -> None:
        """The next features [n, num_crops, dim]."""

    def commit(self, attributes: Attributes, spans: NDArray[np.int64]) -> None:
        """The video is good and complete."""


OpenSink = Callable[[str, Path], Sink]
"""Opens the sink of a stream, by its name and the path of its shard."""


def make_extractor(plan: ExtractionPlan) -> Extractor:
    """The extractor of the streams.

    Raises SpecError when the weights or the saved flow found here are not those of the plan,
    FeaturesError when there is no saved flow.
    """
    branches = []
    for stream in plan.streams:
        spec, flow = stream.spec, None
        network = load_backbone(
            spec.graph, stream.weights(), plan.device, spec.precision, spec.scaling
        )
        if spec.stream == "flow":
            if plan.flow_from:  # its folder may be another on this node
                SavedFlow.open(plan.flow_from.path, spec)
            flow = FlowStage(tvl1_method(spec.flow), plan.save_flow, plan.flow_from)
        branches.append(Branch(spec, network, flow))
    return Extractor(branches, plan.stall_seconds, plan.max_damage)


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
        self.max_damage = max_damage
        self.branches = {branch.spec.stream: branch for branch in branches}
        self.spec = branches[0].spec
        """Of the first stream; what it says of frames, views and clips holds for all."""
        for branch in branches[1:]:
            require_shared(branch.spec, self.spec, "the same extraction")
        self._networks = {
            name: AdaptiveBatch(branch.network, branch.spec.batch)
            for name, branch in self.branches.items()
        }
        self._stall_seconds = stall_seconds

    def __call__(self, task: Task) -> Report:
        """Write the shards of ``task.video``; a video that cannot be read is reported, not raised.

        Raises OutputError when the disk refuses, OutOfMemory when the network does not fit, and
        whatever is no fault of the video (a bug): those are never recorded as a bad video.
        """
        report = self.extract(task, lambda name, path: Draft(path, self.branches[name].spec))
        if report.status == FAILED:
            attributes = task.video.attributes
            for name, target in task.targets.items():
                write_failure(target, self.branches[name].spec, attributes, report.reason)
        return report

    def extract(self, task: Task, open_sink: OpenSink) -> Report:
        """Give the features of ``task.video`` to a sink for each stream, by the first decoder that
        can read it. Raises as a call does; a failure is only reported."""
        watch = Stopwatch()
        retries: list[str] = []
        reason = kind = ""
        killed = 0
        with fixed_threads(CPU_THREADS):
            for decoder in self.spec.decoder.split(", "):
                try:
                    report = self._decoded_by(decoder, task, open_sink, watch)
                    return replace(report, retries=tuple(retries))
                except torch.OutOfMemoryError as error:  # outside the network, which shrinks
                    raise OutOfMemory(
                        f"the frames of {task.video.video_id!r} or their flow do not fit into the "
                        f"GPU's memory ({str(error).partition('.')[0]}): free memory there, or use "
                        "a smaller resize"
                    ) from error
                except DecodeError as error:  # kept as text: its frames hold the video's memory
                    reason, kind = str(error), error.kind
                retries.append(f"{decoder}: {reason}")
                killed += kind in KILLED_KINDS
                if kind in FINAL_KINDS:
                    break
        if killed > 1:
            reason = f"{killed} decoders were lost over it. {'; '.join(retries)}"
        return Report(
            video_id=task.video.video_id,
            status=FAILED,
            reason=reason,
            kind=kind,
            retries=tuple(retries),
            seconds=watch.seconds,
        )

    def _decoded_by(
        self, decoder: str, task: Task, open_sink: OpenSink, watch: Stopwatch
    ) -> Report:
        if task.source is None:
            raise DecodeError(task.missing, "missing")
        with self.opened(task.video, task.source, decoder) as stream, ExitStack() as resources:
            sinks = {
                name: resources.enter_context(open_sink(name, target))
                for name, target in task.targets.items()
            }
            resampling = self.resampling(stream)
            features = self.features(task, stream, resampling, watch)
            for name, batch in resources.enter_context(closing(features)):
                check_stop()
                with watch.stage("write"):
                    sinks[name].append(batch)
            report = stream.report
            spans = resampling.spans(report.num_frames, self.spec.tail, self.spec.clip_length)
            bounds = frame_bounds(task.video)
            note = length_note(stream.header, report, bounds, self.spec.clip_length)
            attributes = self._attributes(task, stream, resampling, note)
            batch_used = self._batch_used(task)
            for name, sink in sinks.items():
                used = {"batch_used": batch_used.get(name)}
                with watch.stage("write"):
                    sink.commit({**attributes, **_known(used)}, spans)
        return Report(
            video_id=task.video.video_id,
            status=DONE,
            decoder=report.decoder,
            num_clips=len(spans),
            num_frames=report.num_frames,
            repaired_frames=report.repaired_frames,
            length_note=note,
            fps=float(attributes.get("fps_source", 0.0)),
            checksums={name: sink.checksum for name, sink in sinks.items()},
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
        name = decoder or self.spec.decoder.split(", ")[0]
        return open_frames(
            source,
            decoder=name,
            fps=stated_fps(video),
            stall_seconds=self._stall_seconds,
        )

    def resampling(self, stream: FrameStream) -> Resampling:
        """Raises DecodeError for a rate to resample from that cannot be believed."""
        used, fps = self.spec.fps_used(), stream.header.fps
        if used and not MIN_FPS <= fps <= MAX_FPS:
            raise DecodeError(
                f"{stream.path}: the header says {float(fps):.6g} frames a second, where "
                f"{MIN_FPS} to {MAX_FPS} can be resampled to {self.spec.fps}: correct the file, "
                f"or use --fps native",
                "no-fps",
            )
        return Resampling(fps, used)

    def features(
        self, task: Task, stream: FrameStream, resampling: Resampling, watch: Stopwatch
    ) -> Generator[tuple[str, NDArray[np.float32]], None, None]:
        """Stream and features [n, num_crops, dim], in order within each stream.

        One pass over the frames for all streams of ``task``. Raises DecodeError at the end when
        too much of the video is lost or it is too short; saved flow appears if it is good.
        """
        spec, header = self.spec, stream.header
        transform = FrameTransform(
            header.height,
            header.width,
            next(iter(self.branches.values())).network.device,
            resize=spec.resize,
            filter=spec.filter,
            crops=spec.crops,
            crop_order=spec.crop_order,
            crop_size=spec.crop_size,
        )
        with ExitStack() as resources:
            snippets = {
                name: Snippets(
                    self.branches[name].spec,
                    self._networks[name],
                    self.branches[name].flow_images(task.video.video_id, resources),
                    transform.boxes,
                    watch,
                )
                for name in task.targets
            }
            blocks = resampled(timed(stream, watch, "decode"), resampling)
            for frames in timed(map(transform.resize, blocks), watch, "resize"):
                for name, each in snippets.items():
                    yield from ((name, batch) for batch in each.add(frames))
            for name, each in snippets.items():
                yield from ((name, batch) for batch in each.flush())
            self._check(task, stream, resampling)

    def _batch_used(self, task: Task) -> dict[str, int]:
        """Views a batch of the streams whose batches were made smaller, by now."""
        used = {name: self._networks[name].batch for name in task.targets}
        return {
            name: batch for name, batch in used.items() if batch < self.branches[name].spec.batch
        }

    def _check(self, task: Task, stream: FrameStream, resampling: Resampling) -> None:
        report = stream.report
        expected = expected_frames(stream.header, report)
        whole = max(expected, report.num_frames)
        if report.repaired_frames + whole - report.num_frames > self.max_damage * whole:
            raise DecodeError(
                f"{report.num_frames} frames decoded of {expected} that the header states, "
                f"{report.repaired_frames} of them repaired: more than {self.max_damage:.0%} are "
                f"lost (--max-damage)",
                "damaged",
            )
        if not len(resampling.spans(report.num_frames, self.spec.tail, self.spec.clip_length)):
            need = min_frames(self.spec.tail, self.spec.clip_length)
            raise DecodeError(
                f"too short: {report.num_frames} frames give no clip by tail rule "
                f"{self.spec.tail!r}, which needs {need} at the rate used",
                "too-short",
            )

    def _attributes(
        self, task: Task, stream: FrameStream, resampling: Resampling, note: str
    ) -> Attributes:
        """What the shard says of a video; raises DecodeError when its file cannot be read again."""
        report, video, source = stream.report, task.video, task.source
        assert source is not None
        try:
            file = fingerprint(source)
        except OSError as error:
            raise DecodeError(f"{source}: cannot be read again: {error.strerror}") from error
        fps = float(resampling.fps_source) if video.fps or not source.is_dir() else None
        known: dict[str, str | int | float | None] = {
            **video.attributes,
            **file,
            "num_frames": report.num_frames,
            "num_frames_header": stream.header.num_frames,
            "repaired_frames": report.repaired_frames,
            "max_damage": self.max_damage,
            "length_note": note or None,
            "fps_source": fps,
            "fps_used": fps and float(resampling.fps_used),
            "decoder": report.decoder,
        }
        return _known(known)


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


def _known(attributes: Mapping[str, str | int | float | None]) -> Attributes:
    return {key: value for key, value in attributes.items() if value is not None}


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
