"""Many videos: the tasks of a run go to workers, and their reports into journals and shards.

Each stream has its own folder, plan and journal, so a kill between the commits of a video's
streams costs only the missing one, and a stream can be added later. This process alone writes
journals and final shards; workers write the files of their videos. A run that is started again
recovers: the files say what is done, whatever a kill left.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import vadprep
from vadprep.backbones import conv3d_fault
from vadprep.core.errors import DecodeError, ManifestError, counted
from vadprep.core.log import get_logger
from vadprep.core.records import RUNNING, Report, Task
from vadprep.core.resources import installed_version, worker_cores
from vadprep.core.signals import check_stop, stop_on_signals
from vadprep.core.spec import Spec
from vadprep.data import Manifest, SourceIndex, hint_of_ids, size_of
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.plan import ExtractionPlan
from vadprep.features.engines import AGREEMENT, engines_of
from vadprep.features.folder import StreamFolder, read_spec
from vadprep.features.lease import Lease, leased
from vadprep.features.writer import Share, StreamWriter
from vadprep.flow import SavedFlow
from vadprep.video import close_idle_servers

_LOG = get_logger(__name__)

Worker = Callable[[Task], Report]
"""Does a task. A method ``steps(task)``, if any, yields reports on the way to the last one."""
OnStart = Callable[[Task], None]
Runner = Callable[[Sequence[Task], OnStart], Generator[Report, None, None]]
"""Gives the tasks to workers, calls ``on_start`` as it does so, and yields the reports; now and
then one of status ``running``, on a video that is in work."""

SHAPING_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "av",
    "decord2",
    "decord",
    "torchcodec",
    "numba",
    "triton",
)
"""Packages whose version could change a number."""
MOST_NAMED = 5
"""Videos that a warning names."""
MOST_MISSING = 0.5
"""Share of the videos of a manifest whose files may be missing: above it, the root is wrong."""
NO_VERSION = "not installed under this name"
"""Of a package that is not installed: of decord and decord2 there is one."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: at its start, after each video, and now and then in between."""

    specs: tuple[Spec, ...]
    """Of the streams that are made."""
    report: Report | None
    """What became of the last video; None at the start, and between two videos."""
    videos: int
    videos_left: int
    work: float
    """In ``unit``, of all videos that were left at the start."""
    work_left: float
    """Without what is done of the videos in work."""
    unit: str
    """``frames``, or ``bytes`` where the numbers of frames are not known."""
    running: tuple[Report, ...] = ()
    """How far the videos in work are, as far as that is known."""

    @property
    def is_start(self) -> bool:
        """True of the first one, when no video has been started yet."""
        return self.report is None and not self.running


OnReport = Callable[[Progress], None]


class Tasks(NamedTuple):
    """What a run has to do: the videos that lack a stream, the longest first."""

    tasks: Sequence[Task]
    work: Mapping[str, float]
    """Id of a video -> its work in ``unit``."""
    unit: str


def in_process(make_worker: Callable[[], Worker]) -> Runner:
    """A runner that does one task after the other in this process."""

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        worker = make_worker()
        try:
            for task in tasks:
                on_start(task)
                yield from steps_of(worker, task)
        finally:
            close_idle_servers()

    return run


def steps_of(worker: Worker, task: Task) -> Iterator[Report]:
    """The reports of a worker on a task; the last one says what became of it."""
    steps = getattr(worker, "steps", None)
    yield from steps(task) if steps else [worker(task)]


def make_runner(plan: ExtractionPlan) -> Runner:
    """In process for one worker on the CPU, else on Ray: a GPU wants several decoders."""
    if plan.workers == 1 and plan.address == "local" and plan.device == "cpu":
        return in_process(partial(make_extractor, plan))
    from vadprep.extraction.ray_runner import GPU_POOL, Pool, on_ray

    pool = replace(GPU_POOL if plan.device == "cuda" else Pool(1), workers=plan.workers)
    pool = replace(pool, address=plan.address, out=plan.out)
    return on_ray(partial(make_extractor, plan.for_workers()), pool)


def run_plan(
    plan: ExtractionPlan,
    manifest: Manifest,
    root: Path,
    on_report: OnReport | None = None,
    retry_failed: bool = False,
) -> list[StreamFolder]:
    """Extract the videos of ``manifest`` under ``root``; returns the folder of each stream.

    ``check_sources`` says beforehand whether they are there.

    ``on_report`` is called at the start, after each video, and in between while videos are in
    work. Raises OutputError when the folder is not writable, LeaseError when another run is at work
    on the same shards, Stopped at a signal. Videos that cannot be read are in the journals, not
    raised.
    """
    root, paths = root.resolve(), [plan.folder(spec.stream) for spec in plan.specs]
    warn_of_conv3d(plan)
    if plan.save_flow:
        SavedFlow.prepare(plan.save_flow.path, plan.save_flow.form, plan.specs[-1])
    ids = [video.video_id for video in manifest.videos]
    about = provenance(plan.device, plan.engine)
    folders = [
        StreamFolder.prepare(path, spec, ids, plan.shard_size, about)
        for path, spec in zip(paths, plan.specs, strict=True)
    ]
    for folder in folders:
        warn_of_other_engine(folder, plan.engine)
    with locked_extraction(folders, manifest, root, plan.share) as extraction:
        extraction.recover()
        where = {
            "device": plan.device,
            "engine": plan.engine,
            "workers": plan.workers,
            "cores": worker_cores(),
        }
        extraction.run(make_runner(plan), on_report, retry_failed, **where)
    return folders


def warn_of_conv3d(plan: ExtractionPlan) -> None:
    """Log what Conv3d does wrong with the versions here, where ``plan`` computes in 16 bits."""
    fault = conv3d_fault(torch.__version__, torch.backends.cudnn.version() or 0)
    in_16_bits = any(spec.precision in ("bf16", "fp16") for spec in plan.specs)
    if fault and in_16_bits and plan.device == "cuda":
        _LOG.warning("%s: %s", *fault)


class Extraction:
    """The streams of a run together: a video is one task, for whatever streams it lacks."""

    def __init__(
        self,
        folders: Sequence[StreamFolder],
        manifest: Manifest,
        root: Path,
        share: Share,
        leases: Sequence[Lease | None] = (None, None),
    ) -> None:
        self.manifest, self.root, self.share = manifest, root, share
        self.streams = [
            StreamWriter(folder, share, lease)
            for folder, lease in zip(folders, leases, strict=False)
        ]

    def recover(self) -> None:
        """Bring the journals up to the files, and finish what a kill left half done."""
        for stream in self.streams:
            stream.recover()

    def tasks(self, retry_failed: bool = False) -> Tasks:
        """What is left to do, the longest video first.

        Work is frames where the manifest has those of all videos, else bytes. Raises
        ManifestError for a video that is not where its path says, and twice elsewhere. Without
        ``retry_failed``, done videos whose file was replaced are named in a warning.
        """
        ids = [video.video_id for video in self.manifest.videos]
        index = SourceIndex(self.root, self.manifest.videos)
        tasks, there, replaced = list[Task](), set[str](), list[str]()
        for video in self.manifest.videos:
            with suppress(DecodeError, ManifestError):
                source = index.find(video)
                there.add(video.video_id)
                if any([each.is_replaced(video.video_id, source) for each in self.streams]):
                    replaced.append(video.video_id)
        if replaced and not retry_failed:
            more = ", ..." if len(replaced) > MOST_NAMED else ""
            _LOG.warning(
                "%s replaced since the features were made: %s%s: the features stay; extract "
                "--retry-failed makes them again",
                *(
                    counted(len(replaced), "video"),
                    ", ".join(map(repr, replaced[:MOST_NAMED])),
                    more,
                ),
            )
        for stream in self.streams:
            stream.lacking(ids, retry_failed, set(replaced), there)
        for video in self.manifest.videos:
            targets = {}
            for stream in self._streams_of(video.video_id):
                place = stream.folder.plan.places[video.video_id]
                targets[stream.folder.spec.stream] = stream.folder.partial_video(place)
            if targets:
                try:
                    tasks.append(Task(video, targets, index.find(video)))
                except DecodeError as error:
                    tasks.append(Task(video, targets, missing=str(error)))
        unit = "frames" if all(task.video.num_frames for task in tasks) else "bytes"
        work = {}
        for task in tasks:
            size = task.source and size_of(task.source)
            work[task.video.video_id] = (task.video.num_frames if unit == "frames" else size) or 0
        return Tasks(sorted(tasks, key=lambda task: -work[task.video.video_id]), work, unit)

    def run(
        self,
        runner: Runner,
        on_report: OnReport | None = None,
        retry_failed: bool = False,
        **where: Any,
    ) -> None:
        """Do the tasks, committing each as it is reported and each shard as it is complete.

        ``where`` is what the events say of the machine. Raises Stopped when a signal has arrived;
        what is finished stays finished.
        """
        tasks, work, unit = self.tasks(retry_failed)
        specs, total = tuple(stream.folder.spec for stream in self.streams), sum(work.values())
        progress = Progress(specs, None, len(tasks), len(tasks), total, total, unit)
        left: dict[str, Any] = {"videos_left": len(tasks), "work_left": total}
        for stream in self.streams:
            stream.begin(
                rank=self.share.rank,
                world_size=self.share.world_size,
                host=socket.gethostname(),
                process=os.getpid(),
                **left,
                unit=unit,
                **where,
            )
        if on_report:
            on_report(progress)
        if not tasks:
            return

        def now(report: Report | None = None) -> Progress:
            in_work = sum(each.share * work[each.video_id] for each in running.values())
            left_now = left | {"work_left": left["work_left"] - in_work}
            return replace(progress, report=report, running=tuple(running.values()), **left_now)

        try:
            with closing(runner(tasks, self._start)) as reports:
                running, unfinished = dict[str, Report](), set(work)
                for report in reports:
                    if report.status == RUNNING:
                        if report.video_id in unfinished:  # else this one was overtaken
                            running[report.video_id] = report
                            if on_report:
                                on_report(now())
                        check_stop()
                        continue
                    unfinished.remove(report.video_id)
                    running.pop(report.video_id, None)
                    left["videos_left"] -= 1
                    left["work_left"] -= work[report.video_id]
                    for stream in self._streams_of(report.video_id):
                        stream.commit(report, **left)
                    if on_report:
                        on_report(now(report))
                    check_stop()
        finally:  # nothing half written stays behind
            for stream in self.streams:
                stream.sweep()

    def _streams_of(self, video_id: str) -> list[StreamWriter]:
        return [stream for stream in self.streams if video_id in stream.expected]

    def _start(self, task: Task) -> None:
        for stream in self._streams_of(task.video.video_id):
            stream.start(task.video.video_id)


@contextmanager
def locked_extraction(
    folders: Sequence[StreamFolder], manifest: Manifest, root: Path, share: Share
) -> Iterator[Extraction]:
    """An Extraction of shards that no other run works on for the time of the block.

    Raises LeaseError when another run does, Stopped when a signal arrives inside the block.
    """
    with stop_on_signals() as request_stop, ExitStack() as held:
        leases = [
            held.enter_context(leased(each.path, share.rank, share.world_size, request_stop))
            for each in folders
        ]
        yield Extraction(folders, manifest, root, share, leases)


def check_sources(
    manifest: Manifest, root: Path, folders: Sequence[Path], allow_missing: bool = False
) -> None:
    """Find out a wrong root, path or manifest before its ids are in a plan, which only grows.

    Raises ManifestError when more than ``MOST_MISSING`` of the videos are not there, of several at
    least, unless ``allow_missing``; and for one that is not there and twice elsewhere. Videos that
    are finished in all ``folders`` may be gone. Logs a warning when the folders have other ids.
    """
    opened = [StreamFolder.open(each) for each in folders if read_spec(each)]
    finished: set[str] = set()
    if len(opened) == len(folders):
        finished = set.intersection(*(set(each.rows()) for each in opened))
    ids = {video.video_id for video in manifest.videos}
    index = SourceIndex(root, manifest.videos)
    left = [video for video in manifest.videos if video.video_id not in finished]
    missing = [video for video in left if not index.has(video)]
    count, total = len(missing), len(manifest.videos)
    if total > 1 and count > MOST_MISSING * total and not allow_missing:
        share = (
            f"{count:,} of the {total:,} videos ({count / total:.0%}) of {manifest.path} are not"
        )
        if count == total:
            share = f"none of the {total:,} videos of {manifest.path} is"
        raise ManifestError(
            f"{share} under {root.resolve()}, where the paths say or elsewhere (the first: "
            f"{missing[0].path}): correct --root, or go on without them by --allow-missing"
        )
    for folder in opened[:1]:
        planned = folder.plan.places.keys()
        known, new = sorted(planned - ids), sorted(ids - planned)
        if known and new:
            is_other = len(known) == len(planned)
            _LOG.warning(
                "%s: its plan has %s that %s lacks (such as %r); new ones: %d (such as %r)%s%s",
                *(folder.path.parent, counted(len(known), "video")),
                *(manifest.path, known[0], len(new), new[0]),
                "; no id is in both: is this the right --out?" if is_other else "",
                hint_of_ids(new, known, "the features"),
            )


def warn_of_other_engine(folder: StreamFolder, engine: str) -> None:
    """Log a line when features of ``folder`` were made by another engine than ``engine``."""
    done = [video_id for video_id, row in folder.rows().items() if row.is_done]
    if others := sorted(engines_of(folder, done) - {engine}):
        _LOG.warning(
            "%s: its features were made by %s, new ones are by %s: %s; for one engine throughout "
            "choose another --out",
            *(folder.path, ", ".join(others), engine, AGREEMENT),
        )


def provenance(device: str, engine: str) -> dict[str, str]:
    """What merely happened: versions and machine. Not part of a spec's identity."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor())
    if device == "cuda":  # of a cluster this process may have no GPU itself
        is_here = torch.cuda.is_available()
        processor = torch.cuda.get_device_name() if is_here else "GPUs of other nodes"
    return {
        "vadprep": vadprep.__version__,
        "python": sys.version.split()[0],
        **{name: installed_version(name) or NO_VERSION for name in SHAPING_PACKAGES},
        "engine": engine,
        "machine": platform.platform(),
        "processor": processor,
    }
