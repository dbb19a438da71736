"""The Python API of this room: videos -> features, in a folder or in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.arguments import NUMBER, PATH, PATHS, TEXT, check_kind, check_kinds
from vadprep.core.atomic import temporary_folder
from vadprep.core.errors import DecodeError, ManifestError, SettingError, ShardError, SpecError
from vadprep.core.presets import DATASET_PRESETS
from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.data import Manifest, ids_of_paths, load_dataset, paths_of_videos, read_manifest
from vadprep.data.sources import ALL_FRAME_SUFFIXES, list_videos, source_paths
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.options import FeatureOptions, PlanOptions, checked
from vadprep.extraction.plan import ExtractionPlan, resolve_plan
from vadprep.extraction.run import OnReport, check_sources, run_plan
from vadprep.features.folder import stream_folders
from vadprep.features.reader import Features
from vadprep.features.shard import FAILED, read_video

if TYPE_CHECKING:
    from typing_extensions import Unpack

VideoSources = str | Path | Sequence[str | Path] | Manifest


def extract(
    videos: VideoSources | Sources | None = None,
    out: str | Path | None = None,
    *,
    dataset: str | None = None,
    root: str | Path | None = None,
    retry_failed: bool = False,
    allow_missing: bool = False,
    on_report: OnReport | None = None,
    **options: Unpack[PlanOptions],
) -> Features:
    """Extract the features of ``videos`` into the folder ``out`` and open them.

    A call with the same arguments goes on where an earlier one was stopped; what is done is not
    done again. The opened features hold every finished video of the folder.

    :param videos: a folder, a video file, a list of files, a manifest CSV or a Manifest; None
        with ``dataset``
    :param out: the feature folder; ``features/NAME`` by default
    :param dataset: name of an included data set, instead of ``videos``
    :param root: folder of the files of a manifest or data set; the current folder by default
    :param preset: name of a preset; by default that of the features in ``out`` to which a stream
        is added, else that of the data set, else ``i3d``
    :param weights: file, name in ``vadprep weights list``, or ``random:SEED``; by default what
        ``vadprep weights get`` has fetched
    :param flow_weights: the same for stream ``flow``; ``weights`` by default if it is random
    :param streams: ``rgb``, ``flow`` or ``rgb,flow``; those of the preset by default
    :param settings: fields of the spec that replace the preset's, as ``{"fps": "native"}``
    :param specs: stream -> spec: extract with these specs again; streams and settings come from
        them, and fields that are ``unknown`` from ``preset``, the weights and this machine
    :param device: ``cpu`` or ``cuda``, or a torch.device; ``cuda`` by default where there is a GPU
    :param gpus: number of GPUs, with a worker on each; all by default
    :param workers: number of workers on the CPU; one for each core by default
    :param address: address of a Ray cluster to join; ``local`` by default: this machine alone
    :param rank: number of this run among those that share the folder, from 0, the default
    :param world_size: how many they are, 1 by default; rank R does every ``world_size``-th shard
        from R on
    :param shard_size: videos in a shard, when the folder is new; 64 by default
    :param retry_failed: do again the videos that failed, and those whose file was replaced; without
        it only those whose files were missing and are there now
    :param allow_missing: go on when the files of more than half of the videos are missing
    :param max_damage: share of a video's frames, 0 to 1, that may be repaired or missing; 0.1 by
        default
    :param stall_seconds: a decoder that gives no frame for so long, 60 s by default, is ended, and
        the other tried
    :param save_flow: folder in which to keep the quantised flow
    :param flow_format: of ``save_flow``: ``hdf5`` (default), ``jpeg``, ``denseflow`` or
        ``mmaction2``
    :param flow_from: folder of flow that is read instead of computed, which ``save_flow``,
        denseflow, dense_flow or mmaction2 has written
    :param on_report: called with a Progress at the start, after each video, and in between while
        videos are in work

    Raises SettingError (a ValueError) for a setting that cannot be used, ManifestError,
    WeightsError, SpecError when ``out`` holds features of another spec, OutputError, LeaseError
    when another run is at work on the same shards, and Stopped at a signal. A video that cannot
    be read is no error: ``vadprep.status`` lists it with its reason. In another thread than the
    main one no signal stops the call, and no handler of signals is changed.
    """
    found, plan = plan_extraction(videos, out, dataset, root, allow_missing, options)
    folders = run_plan(plan, found.manifest, found.root, on_report, retry_failed)
    return Features({folder.spec.stream: folder for folder in folders})


class Sources(NamedTuple):
    """Which videos, the folder their paths are relative to, a name, and a preset if one is due."""

    manifest: Manifest
    root: Path
    name: str
    preset: str | None = None


SOURCE_KINDS = {
    "videos": PATHS._replace(types=(*PATH.types, Manifest, Sources)),
    **dict.fromkeys(("out", "root"), PATH),
    "dataset": TEXT,
}


def plan_extraction(
    videos: VideoSources | Sources | None,
    out: str | Path | None,
    dataset: str | None,
    root: str | Path | None,
    allow_missing: bool,
    options: PlanOptions,
) -> tuple[Sources, ExtractionPlan]:
    """The videos that ``extract`` is called for, and the plan to extract them."""
    options = checked(options, PlanOptions)
    if isinstance(videos, Iterator):
        videos = list(videos)
    check_kinds(SOURCE_KINDS, {"videos": videos, "out": out, "root": root, "dataset": dataset})
    found = find_sources(videos, dataset, root, out)
    plan = resolve_plan(
        out or Path("features") / found.name,
        default_preset=found.preset,
        check=lambda folders: check_sources(found.manifest, found.root, folders, allow_missing),
        **options,
    )
    return found, plan


def find_sources(
    videos: VideoSources | Sources | None,
    dataset: str | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
) -> Sources:
    """The videos that ``videos`` or ``dataset`` names, see ``extract``.

    Files are named by ``ids_of_paths``, relative to the folder that was named, or to the one that
    all listed files have in common; those that ``out`` has features of keep their ids. Raises
    ManifestError when there are none, and for a ``root`` where there is no manifest; SettingError
    without ``out`` for videos that have no folder in common.
    """
    if isinstance(videos, Sources):
        return videos
    if (videos is None) == (dataset is None):
        raise ManifestError("name the videos by one of videos and dataset")
    if dataset is not None:
        preset = DATASET_PRESETS.get(dataset)
        return Sources(load_dataset(dataset), Path(root or ""), dataset, preset)
    if isinstance(videos, Manifest):
        return Sources(videos, Path(root or ""), videos.path.stem)
    if isinstance(videos, str | Path) and Path(videos).suffix.lower() == ".csv":
        return Sources(read_manifest(videos), Path(root or ""), Path(videos).stem)
    if root is not None:
        raise ManifestError(f"root = {root}: only a manifest or data set has a root; leave it out")
    if isinstance(videos, str | Path) and not Path(videos).is_file():
        folder, paths, name = Path(videos), paths_of_videos(videos), Path(videos).resolve().name
    else:
        places = [video.path for video in list_videos(videos or ()).videos]
        if not places:
            raise ManifestError("the list of videos is empty")
        folder = Path(os.path.commonpath([os.path.dirname(place) for place in places]))
        paths = [os.path.relpath(place, folder) for place in places]
        name = Path(videos).stem if isinstance(videos, str | Path) else folder.name
    if not name and out is None:
        where = "the videos have no folder in common"
        raise SettingError(f"{where} but {folder}: name the feature folder by out")
    ids = _ids_for(Path(out or Path("features") / name), paths)
    return Sources(Manifest(folder, tuple(Video(ids[each], each) for each in paths)), folder, name)


def _ids_for(out: Path, paths: Sequence[str]) -> dict[str, str]:
    """``ids_of_paths`` beside the features in ``out``."""
    folders = stream_folders(out).values()

    def made_of(video_id: str) -> str:
        for folder in folders:
            with suppress(ShardError, SpecError):
                if video_id in folder.plan.places and (stored := folder.find(video_id)):
                    return str(stored.attributes.get("path", ""))
        return ""

    planned = {video_id for folder in folders for video_id in folder.plan.places}
    return ids_of_paths(paths, planned, made_of)


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
    path: str | Path, *, fps: float | None = None, **options: Unpack[FeatureOptions]
) -> VideoArrays:
    """Extract one video file, or folder of frames, into memory; the disk holds nothing afterwards.

    The arguments are ``preset``, ``weights``, ``flow_weights``, ``streams``, ``settings``,
    ``device`` and ``max_damage`` of ``extract``; ``fps`` is the frame rate of a folder of frames.
    The numbers are those that ``extract`` stores. Each call reads weights and compiled network
    again, about as long as one or two clips take. Raises DecodeError when the video cannot be
    read; SettingError for a folder of videos and for ``fps`` of a file; SettingError, WeightsError
    and SpecError as ``extract`` does.
    """
    options = checked(options, FeatureOptions)
    check_kind("path", path, PATH)
    check_kinds({"fps": NUMBER}, {"fps": fps})
    if fps is not None and not 0 < fps < math.inf:
        raise SettingError(f"fps = {fps}: expected a number above 0")
    source = Path(path).absolute()
    if not source.exists():
        raise DecodeError(f"{source}: no such file or folder", "missing")
    if fps is not None and not source.is_dir():
        raise SettingError(
            f"fps = {fps}: fps is the rate of a folder of frames; to resample use "
            f"settings={{'fps': {fps:g}}}"
        )
    if _is_folder_of_videos(source):
        raise SettingError(f"{source}: a folder of videos: use vadprep.extract")
    plan = resolve_plan(None, **options)
    specs = {spec.stream: spec for spec in plan.specs}
    with temporary_folder() as folder:
        targets = {stream: folder / f"{stream}.h5" for stream in specs}
        video = Video(source.name, source.name, fps=fps)
        report = make_extractor(plan)(Task(video, targets, source))
        if report.status == FAILED:
            reason = report.reason.removeprefix(f"{source}: ")
            if report.kind == "no-fps":  # the reason names options of the command
                reason = "a folder has no frame rate: name it by fps, or settings={'fps': 'native'}"
            raise DecodeError(f"{source}: {reason}", report.kind)
        stored = {stream: read_video(target) for stream, target in targets.items()}
        arrays = {stream: each.features() for stream, each in stored.items()}
        spans = next(iter(stored.values())).spans
    return VideoArrays(
        rgb=arrays.get("rgb"),
        flow=arrays.get("flow"),
        spans=spans,
        fps=report.fps or None,
        num_frames=report.num_frames,
        specs=specs,
    )


def _is_folder_of_videos(path: Path) -> bool:
    """True for a folder that holds no image itself, and a video somewhere."""
    if not path.is_dir():
        return False
    suffixes = {each.suffix.lower() for each in path.iterdir()}
    return not suffixes & ALL_FRAME_SUFFIXES and next(source_paths(path), None) is not None
