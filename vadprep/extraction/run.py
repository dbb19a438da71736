"""Many videos: the tasks of a run go to workers, and their reports into journals and shards.

Each stream has its own folder, plan and journal, so a kill between the commits of a video's
streams costs only the missing one, and a stream can be added later. This process alone writes
journals and final shards; workers write the files of their videos. A run that is started again
recovers: the files say what is done, whatever a kill left.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import vadprep
from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.records import Report, Task
from vadprep.core.resources import installed_version, worker_cores
from vadprep.core.signals import check_stop, request_stop, stop_on_signals
from vadprep.core.spec import Spec
from vadprep.data import Manifest, SourceIndex, size_of
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.plan import ExtractionPlan
from vadprep.features.folder import StreamFolder, check_writable, read_spec
from vadprep.features.lease import Lease, leased
from vadprep.features.writer import Share, StreamWriter
from vadprep.flow import SavedFlow

Worker = Callable[[Task], Report]
OnStart = Callable[[Task], None]
Runner = Callable[[Sequence[Task], OnStart], Generator[Report, None, None]]
"""Gives the tasks to workers, calls ``on_start`` as it does so, and yields the reports."""

SHAPING_PACKAGES = ("torch", "numpy", "pillow", "av", "decord2", "decord", "numba", "triton")
"""Packages whose version could change a number."""
NO_VERSION = "not installed under this name"
"""Of a package that is not installed: of decord and decord2 there is one."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, at its start and after each video."""

    specs: tuple[Spec, ...]
    """Of the streams that are made."""
    report: Report | None
    """What became of the last video; None at the start."""
    videos: int
    videos_left: int
    work: float
    """In ``unit``, of all videos that were left at the start."""
    work_left: float
    unit: str
    """``frames``, or ``bytes`` where the numbers of frames are not known."""


OnReport = Callable[[Progress], None]


@dataclass(frozen=True)
class Tasks:
    """What a run has to do: the videos that lack a stream, the longest first."""

    tasks: tuple[Task, ...]
    work: Mapping[str, float]
    """Id of a video -> its work in ``unit``."""
    unit: str

    def __len__(self) -> int:
        return len(self.tasks)

    def start(self, specs: Iterable[Spec]) -> Progress:
        """The progress before the first video."""
        count, work = len(self), sum(self.work.values())
        return Progress(tuple(specs), None, count, count, work, work, self.unit)


def make_tasks(
    manifest: Manifest, root: Path, lacking: Mapping[str, tuple[StreamFolder, set[str]]]
) -> Tasks:
    """The tasks of the videos of ``manifest``; ``lacking`` has for each stream its folder and the
    ids that are to be done.

    Work is frames where the manifest has those of all of them, else bytes. Raises ManifestError
    for a video that is not where its path says, and twice elsewhere.
    """
    index, tasks = SourceIndex(root), []
    for video in manifest.videos:
        targets = {
            name: folder.partial_video(folder.plan.places[video.video_id])
            for name, (folder, ids) in lacking.items()
            if video.video_id in ids
        }
        if targets:
            try:
                tasks.append(Task(video, targets, index.find(video)))
            except DecodeError as error:
                tasks.append(Task(video, targets, missing=str(error)))
    unit = "frames" if all(task.video.num_frames for task in tasks) else "bytes"
    work = {task.video.video_id: _work(task, unit) for task in tasks}
    return Tasks(tuple(sorted(tasks, key=lambda task: -work[task.video.video_id])), work, unit)


def _work(task: Task, unit: str) -> float:
    if unit == "frames":
        return float(task.video.num_frames or 0)
    return float(size_of(task.source)) if task.source else 0.0


def in_process(worker: Worker) -> Runner:
    """A runner that does one task after the other in this process."""

    def run(tasks: Sequence[Task], on_start: OnStart) -> Generator[Report, None, None]:
        for task in tasks:
            on_start(task)
            yield worker(task)

    return run


def make_runner(plan: ExtractionPlan) -> Runner:
    """In process for one worker on the CPU, else on Ray: a GPU wants several decoders."""
    if plan.workers == 1 and plan.address == "local" and plan.device == "cpu":
        return in_process(make_extractor(plan))
    from vadprep.extraction.ray_runner import on_ray, pool_of

    return on_ray(partial(make_extractor, plan.for_workers()), pool_of(plan))


def run_plan(
    plan: ExtractionPlan,
    manifest: Manifest,
    root: Path,
    on_report: OnReport | None = None,
    retry_failed: bool = False,
) -> list[StreamFolder]:
    """Extract the videos of ``manifest`` under ``root``; returns the folder of each stream.

    ``on_report`` is called at the start and after each video. Raises OutputError when the folder
    is not writable, LeaseError when another run is at work on the same shards, Stopped at a
    signal. Videos that cannot be read are in the journals, not raised.
    """
    require_decoders()
    root = root.resolve()
    check_sources(manifest, root, _planned(plan))
    check_writable(plan.folder(plan.specs[0].stream).parent)
    if plan.save_flow:
        SavedFlow.prepare(plan.save_flow.path, plan.save_flow.kind, plan.specs[-1])
    ids = [video.video_id for video in manifest.videos]
    about = provenance(plan.device)
    folders = [
        StreamFolder.prepare(plan.folder(spec.stream), spec, ids, plan.shard_size, about)
        for spec in plan.specs
    ]
    with locked_extraction(folders, manifest, root, plan.share) as extraction:
        extraction.recover()
        tasks = extraction.tasks(retry_failed)
        if tasks:
            where: dict[str, str | int] = {
                "device": plan.device,
                "workers": plan.workers,
                "cores": worker_cores(),
            }
            extraction.run(make_runner(plan), tasks, on_report, where)
        elif on_report:
            on_report(tasks.start(plan.specs))
    return folders


class Extraction:
    """The streams of a run together: a video is one task, for whatever streams it lacks."""

    def __init__(
        self,
        folders: Sequence[StreamFolder],
        manifest: Manifest,
        root: Path,
        share: Share,
        leases: Mapping[Path, Lease] | None = None,
    ) -> None:
        self.manifest = manifest
        self.root = root
        self.share = share
        self.streams = {
            each.spec.stream: StreamWriter(each, share, (leases or {}).get(each.path))
            for each in folders
        }

    def recover(self) -> None:
        """Bring the journals up to the files, and finish what a kill left half done."""
        for stream in self.streams.values():
            stream.recover()

    def tasks(self, retry_failed: bool = False) -> Tasks:
        """What is left to do, the longest video first."""
        ids = [video.video_id for video in self.manifest.videos]
        lacking = {
            name: (stream.folder, stream.lacking(ids, retry_failed))
            for name, stream in self.streams.items()
        }
        return make_tasks(self.manifest, self.root, lacking)

    def run(
        self,
        runner: Runner,
        tasks: Tasks,
        on_report: OnReport | None = None,
        where: Mapping[str, str | int] | None = None,
    ) -> None:
        """Run ``tasks``, committing each as it is reported and each shard as it is complete.

        ``where`` is what the events say of the machine. Raises Stopped when a signal has arrived;
        what is finished stays finished.
        """
        progress = tasks.start(stream.folder.spec for stream in self.streams.values())
        for stream in self.streams.values():
            stream.begin(
                rank=self.share.rank,
                world_size=self.share.world_size,
                host=socket.gethostname(),
                process=os.getpid(),
                videos_left=progress.videos_left,
                work_left=progress.work_left,
                unit=tasks.unit,
                **(where or {}),
            )
        if on_report:
            on_report(progress)
        try:
            with closing(runner(tasks.tasks, self._start)) as reports:
                for report in reports:
                    progress = replace(
                        progress,
                        report=report,
                        videos_left=progress.videos_left - 1,
                        work_left=progress.work_left - tasks.work[report.video_id],
                    )
                    left = {"videos_left": progress.videos_left, "work_left": progress.work_left}
                    for stream in self._streams_of(report.video_id):
                        stream.commit(report, **left)
                    if on_report:
                        on_report(progress)
                    check_stop()
        finally:  # nothing half written stays behind
            for stream in self.streams.values():
                stream.sweep()

    def _streams_of(self, video_id: str) -> list[StreamWriter]:
        return [stream for stream in self.streams.values() if video_id in stream.expected]

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
    with stop_on_signals(), ExitStack() as held:
        leases = {
            path: held.enter_context(leased(path, share.rank, share.world_size, request_stop))
            for path in (each.path for each in folders)
        }
        yield Extraction(folders, manifest, root, share, leases)


def check_sources(manifest: Manifest, root: Path, planned: Container[str] = ()) -> None:
    """Raise ManifestError when not one of several videos is where the manifest has it, or when one
    that is not ``planned`` yet is not there and twice elsewhere.

    A wrong root or path is found out before its ids are in a plan, which only grows.
    """
    index, found = SourceIndex(root), False
    for video in manifest.videos:
        if found and video.video_id in planned:
            continue
        with suppress(DecodeError):
            found = index.has(video) or bool(index.find(video))
    if not found and len(manifest.videos) > 1:
        raise ManifestError(
            f"none of the {len(manifest.videos)} videos of {manifest.path} is under {root}, where "
            f"its path says or elsewhere (the first: {manifest.videos[0].path}): correct --root"
        )


def _planned(plan: ExtractionPlan) -> set[str]:
    """Ids that are in the plans of all streams already."""
    paths = [plan.folder(spec.stream) for spec in plan.specs]
    if not all(map(read_spec, paths)):
        return set()
    return set.intersection(*(set(StreamFolder.open(path).plan.places) for path in paths))


def require_decoders() -> None:
    """Raise ModuleNotFoundError when a decoder is not installed.

    Without this each video would fail, or be left to the other decoder without a word.
    """
    for name in ("decord", "av"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def provenance(device: str) -> dict[str, str]:
    """What merely happened: versions and machine. Not part of a spec's identity."""
    return {
        "vadprep": vadprep.__version__,
        "python": sys.version.split()[0],
        **{name: installed_version(name) or NO_VERSION for name in SHAPING_PACKAGES},
        "machine": platform.platform(),
        "processor": _gpu_name() if device == "cuda" else _cpu_name(),
    }


def _gpu_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "GPUs of other nodes"  # this process needs none in a cluster


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
