"""The Python API of this room: videos -> features, in a folder or in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.presets import DATASET_PRESETS
from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.data import Manifest, find_videos, load_dataset, read_manifest
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.plan import STALL_SECONDS, ExtractionPlan, resolve_plan
from vadprep.extraction.run import OnReport, require_decoders, run_plan
from vadprep.features.reader import Features, StreamReader
from vadprep.features.shard import FAILED, stored_values
from vadprep.video import MAX_DAMAGE

VideoSources = str | Path | Sequence[str | Path] | Manifest


def extract(
    videos: VideoSources | None = None,
    out: str | Path | None = None,
    *,
    dataset: str | None = None,
    root: str | Path | None = None,
    preset: str | None = None,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    streams: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    specs: Mapping[str, Spec] | None = None,
    device: str | None = None,
    gpus: int | None = None,
    workers: int | None = None,
    address: str = "local",
    rank: int = 0,
    world_size: int = 1,
    shard_size: int | None = None,
    retry_failed: bool = False,
    max_damage: float = MAX_DAMAGE,
    stall_seconds: float = STALL_SECONDS,
    save_flow: str | Path | None = None,
    flow_format: str | None = None,
    flow_from: str | Path | None = None,
    on_report: OnReport | None = None,
) -> Features:
    """Extract the features of ``videos`` into the folder ``out`` and open them.

    A call with the same arguments goes on where an earlier one was stopped; what is done is not
    done again. The opened features hold every finished video of the folder.

    :param videos: a folder, a video file, a list of files, a manifest CSV or a Manifest; None
        with ``dataset``
    :param out: the feature folder; ``features/NAME`` by default
    :param dataset: name of a bundled data set, instead of ``videos``
    :param root: folder of the files of a manifest or data set; the current folder by default
    :param preset: name of a preset; that of the data set, else ``i3d``, by default
    :param weights: file, name in ``vadprep weights list``, or ``random:SEED``; by default what
        ``vadprep weights get`` has fetched
    :param flow_weights: the same for stream ``flow``; ``weights`` by default if it is random
    :param streams: ``rgb``, ``flow`` or ``rgb,flow``; those of the preset by default
    :param settings: fields of the spec that replace the preset's, as ``{"fps": "native"}``
    :param specs: stream -> spec: extract with these specs again; ``preset``, ``streams`` and
        ``settings`` come from them. Their fields that are ``unknown`` come from the preset, the
        weights and this machine
    :param device: ``cpu`` or ``cuda``; ``cuda`` by default where there is a GPU
    :param gpus: number of GPUs, with a worker on each; all by default
    :param workers: number of workers on the CPU; one for each core by default
    :param address: address of a Ray cluster to join
    :param rank: number of this run among ``world_size`` that share the folder, from 0
    :param shard_size: videos in a shard, when the folder is new
    :param retry_failed: do the videos that failed once more
    :param max_damage: share of a video's frames, 0 to 1, that may be repaired or missing
    :param stall_seconds: a decoder that gives no frame for so long is ended, and the other tried
    :param save_flow: folder in which to keep the quantised flow
    :param flow_format: of ``save_flow``: ``hdf5`` (default) or ``jpeg``
    :param flow_from: folder that ``save_flow`` has written, to read the flow instead
    :param on_report: called with a Progress at the start and after each video

    Raises SettingError (a ValueError) for a setting that cannot be used, ManifestError,
    WeightsError, SpecError when ``out`` holds features of another spec, OutputError, LeaseError
    when another run is at work on the same shards, and Stopped at a signal. A video that cannot
    be read is no error: ``vadprep.status`` lists it with its reason.
    """
    found = find_sources(videos, dataset, root)
    plan = resolve_plan(
        out or Path("features") / found.name,
        preset=preset or found.preset,
        weights=weights,
        flow_weights=flow_weights,
        streams=streams,
        settings=settings,
        specs=specs,
        device=device,
        gpus=gpus,
        workers=workers,
        address=address,
        rank=rank,
        world_size=world_size,
        shard_size=shard_size,
        max_damage=max_damage,
        stall_seconds=stall_seconds,
        save_flow=save_flow,
        flow_format=flow_format,
        flow_from=flow_from,
    )
    folders = run_plan(plan, found.manifest, found.root, on_report, retry_failed)
    return Features({folder.spec.stream: StreamReader(folder) for folder in folders})


class Sources(NamedTuple):
    """Which videos, the folder their paths are relative to, a name, and a preset if one is due."""

    manifest: Manifest
    root: Path
    name: str
    preset: str | None = None


def find_sources(
    videos: VideoSources | None, dataset: str | None = None, root: str | Path | None = None
) -> Sources:
    """The videos that ``videos`` or ``dataset`` names, see ``extract``.

    An id is the path relative to the folder that was named, or to the folder that all listed
    files have in common. Raises ManifestError when there are none, and for a ``root`` where there
    is no manifest.
    """
    if (videos is None) == (dataset is None):
        raise ManifestError("name the videos by one of videos and dataset")
    if dataset is not None:
        preset = DATASET_PRESETS.get(dataset)
        return Sources(load_dataset(dataset), Path(root or ""), dataset, preset)
    if isinstance(videos, Manifest):
        return Sources(videos, Path(root or ""), videos.path.stem)
    if isinstance(videos, (str, Path)) and Path(videos).suffix.lower() == ".csv":
        return Sources(read_manifest(videos), Path(root or ""), Path(videos).stem)
    if root is not None:
        raise ManifestError(f"root = {root}: only a manifest or data set has a root; leave it out")
    if not isinstance(videos, (str, Path)):
        return _listed(videos or ())
    path = Path(videos)
    if path.is_file():  # with the id that it has as one of its folder
        return Sources(_manifest(path, [path.name]), path.parent, path.stem)
    return Sources(find_videos(path), path, path.resolve().name)


def _listed(files: Iterable[str | Path]) -> Sources:
    paths = list(dict.fromkeys(map(os.path.abspath, files)))
    if not paths:
        raise ManifestError("the list of videos is empty")
    if gone := [path for path in paths if not os.path.exists(path)]:
        raise ManifestError(f"{gone[0]}: no such file: correct the list of videos")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    ids = [os.path.relpath(path, root) for path in paths]
    return Sources(_manifest(root, ids), root, root.name)


def _manifest(path: Path, ids: Iterable[str]) -> Manifest:
    return Manifest(path, tuple(Video(video_id=each, path=each) for each in ids))


@dataclass(frozen=True)
class VideoArrays:
    """The features of one video in memory."""

    rgb: NDArray[Any] | None
    """float16 (or the dtype of the settings) [num_clips, num_crops, dim]; None without it."""
    flow: NDArray[Any] | None
    """The same of stream ``flow``."""
    spans: NDArray[np.int64]
    """Source frames each snippet answers for: [num_clips, 2], half-open."""
    fps: float | None
    """Frames a second of the source; None for a folder of frames, which states none."""
    num_frames: int
    """Source frames decoded."""
    specs: Mapping[str, Spec]
    """Stream -> its spec."""


def extract_video(
    path: str | Path,
    *,
    preset: str | None = None,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    streams: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    fps: float | None = None,
    max_damage: float = MAX_DAMAGE,
) -> VideoArrays:
    """Extract one video file, or folder of frames, into memory; nothing is written.

    The arguments are those of ``extract``; ``fps`` is the frame rate of a folder of frames. The
    numbers are those that ``extract`` stores. Raises DecodeError when the video cannot be read.
    """
    require_decoders()
    plan = resolve_plan(
        None,
        preset=preset,
        weights=weights,
        flow_weights=flow_weights,
        streams=streams,
        settings=settings,
        device=device,
        max_damage=max_damage,
    )
    return _in_memory(plan, Path(path), fps)


def _in_memory(plan: ExtractionPlan, path: Path, fps: float | None) -> VideoArrays:
    path = path.absolute()
    if not path.exists():
        raise DecodeError(f"{path}: no such file or folder", "missing")
    specs = {spec.stream: spec for spec in plan.specs}
    arrays: dict[str, MemorySink] = {}

    def open_sink(stream: str, _: Path) -> MemorySink:  # a new one for each decoder
        arrays[stream] = MemorySink(specs[stream])
        return arrays[stream]

    task = Task(Video(path.name, path.name, fps=fps), dict.fromkeys(specs, path), path)
    report = make_extractor(plan).extract(task, open_sink)
    if report.status == FAILED:
        raise DecodeError(f"{path}: {report.reason}", report.kind)
    return VideoArrays(
        rgb=arrays["rgb"].features() if "rgb" in arrays else None,
        flow=arrays["flow"].features() if "flow" in arrays else None,
        spans=next(iter(arrays.values())).spans,
        fps=report.fps or None,
        num_frames=report.num_frames,
        specs=specs,
    )


class MemorySink:
    """Keeps the features of one stream of one video in memory."""

    checksum = 0

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._blocks: list[NDArray[Any]] = []
        self.spans: NDArray[np.int64] = np.zeros((0, 2), np.int64)

    def __enter__(self) -> MemorySink:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def append(self, features: NDArray[np.floating]) -> None:
        """Add features [n, num_crops, dim] in the spec's dtype; FeaturesError for infinite ones."""
        self._blocks.append(stored_values(features, self._spec, "the video"))

    def commit(self, attributes: object, spans: NDArray[np.int64]) -> None:
        """Take the spans: the video is complete."""
        self.spans = spans

    def features(self) -> NDArray[Any]:
        """The features [num_clips, num_crops, dim]."""
        return np.concatenate(self._blocks)
