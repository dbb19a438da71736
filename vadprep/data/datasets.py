"""The data sets themselves: the bundled lists, the files under a root, and counts of both."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import frame_labels
from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.records import Video
from vadprep.data.manifest import (
    VIDEO_SUFFIXES,
    Manifest,
    frame_bounds,
    read_manifest,
    video_intervals,
)
from vadprep.data.sources import SourceIndex, _sources

# ---------------------------------------------------------------- bundled lists


def dataset_names() -> list[str]:
    """Names of the bundled data sets, sorted."""
    return sorted(path.stem for path in _bundled_folder().glob("*.csv"))


def load_dataset(name: str) -> Manifest:
    """The bundled manifest of that name. Raises ValueError for an unknown name."""
    if name not in dataset_names():
        raise ValueError(f"data set {name!r}: bundled are {', '.join(dataset_names())}")
    return read_manifest(_bundled_folder() / f"{name}.csv")


def named_manifest(name: str) -> Manifest:
    """The bundled manifest of that name, or that in a CSV file, which a file or a path names.

    Raises ValueError for an unknown name, ManifestError for a file that is not there.
    """
    is_path = os.path.isfile(name) or name.endswith(".csv") or os.sep in name
    return read_manifest(name) if is_path else load_dataset(name)


def split_names() -> list[str]:
    """Names of the bundled split files, sorted: ``ped2-00`` to ``ped2-09``."""
    return sorted(path.stem for path in _bundled_folder().glob("splits/*.csv"))


def split_path(name: str | Path) -> Path:
    """The split file ``name``: a path, or the name of a bundled one."""
    if str(name) in split_names() and not os.path.exists(name):
        return _bundled_folder() / "splits" / f"{name}.csv"
    return Path(name)


def _bundled_folder() -> Path:
    """The folder of the bundled lists: installed, or beside the package in a source tree."""
    try:
        return Path(str(resources.files("vadprep.manifests")))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "manifests"


# ---------------------------------------------------------------- counts and checks


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split. ``frames`` sums what the manifest knows of ``num_frames``.

    ``scored_frames`` and ``positive_frames`` are those of the public ground truth, None where
    a video of the split has none.
    """

    split: str
    videos: int
    normal: int
    abnormal: int
    unlabelled: int
    frames: int
    videos_without_frames: int
    scored_frames: int | None
    positive_frames: int | None


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of a manifest. A video of several categories counts in each."""

    path: Path
    splits: tuple[SplitSummary, ...]
    categories: Mapping[str, int]
    warnings: tuple[str, ...]
    leaks: tuple[str, ...]


def summary(manifest: Manifest) -> DatasetSummary:
    """Counts of each split, in order of first appearance, and of each category."""
    splits = dict.fromkeys(video.split for video in manifest.videos)
    categories = Counter(
        category for video in manifest.videos for category in video.category.split("|") if category
    )
    return DatasetSummary(
        path=manifest.path,
        splits=tuple(_split_summary(manifest, split) for split in splits),
        categories=dict(categories.most_common()),
        warnings=manifest.warnings,
        leaks=tuple(leaks(manifest)),
    )


def _split_summary(manifest: Manifest, split: str) -> SplitSummary:
    videos = manifest.in_split(split)
    labels = Counter(video.label for video in videos)
    frames = [video.num_frames for video in videos if video.num_frames is not None]
    scored = None
    if all(v.num_frames_scored is not None and v.intervals is not None for v in videos):
        scored = public_ground_truth(manifest, split)
    return SplitSummary(
        split=split,
        videos=len(videos),
        normal=labels[0],
        abnormal=labels[1],
        unlabelled=labels[None],
        frames=sum(frames),
        videos_without_frames=len(videos) - len(frames),
        scored_frames=None if scored is None else len(scored),
        positive_frames=None if scored is None else int(scored.sum()),
    )


def public_ground_truth(manifest: Manifest, split: str = "test") -> NDArray[np.bool_]:
    """The flat frame labels that papers score on: bool [sum of num_frames_scored].

    Videos stand one after the other in the order of the manifest, each cut at its scored
    length. Where that is longer than the video (ShanghaiTech: filled up to whole clips) the
    last frame's label goes on, as in RTFM's file. Raises ManifestError for a video without
    ``num_frames_scored`` or ``intervals``, and for a split without videos.
    """
    videos = manifest.in_split(split)
    if not videos:
        raise ManifestError(f"{manifest.path}: no video has the split {split!r}")
    return np.concatenate([_scored_labels(manifest, video) for video in videos])


def _scored_labels(manifest: Manifest, video: Video) -> NDArray[np.bool_]:
    scored = video.num_frames_scored
    known = scored if video.num_frames is None else video.num_frames
    intervals = (
        None if known is None else video_intervals(video, known, where=manifest.where(video))
    )
    if scored is None or known is None or intervals is None:
        raise ManifestError(
            f"{manifest.path}: video {video.video_id!r}: no public ground truth: fill in "
            f"num_frames_scored and intervals"
        )
    labels = frame_labels(intervals, known)[:scored]
    return np.pad(labels, (0, scored - len(labels)), mode="edge")


def leaks(manifest: Manifest) -> list[str]:
    """A line for each split where the kind of file gives the label away.

    The kind is the suffix, or a folder of frames. It leaks when guessing each kind's commoner
    label makes at most a tenth of the mistakes of guessing one label for all: kinds go through
    different decoders and encoders, and a network learns such traces instead of the anomaly.
    """
    found = []
    for split in dict.fromkeys(video.split for video in manifest.videos):
        kinds: dict[str, Counter[int]] = defaultdict(Counter)
        for video in manifest.in_split(split):
            if video.label is not None:
                kinds[_kind(video.path)][video.label] += 1
        labels: Counter[int] = sum(kinds.values(), Counter())
        blind, informed = _mistakes([labels]), _mistakes(list(kinds.values()))
        if blind and informed <= blind / 10:
            counts = "; ".join(
                f"{kind}: {labels[0]} normal, {labels[1]} abnormal"
                for kind, labels in sorted(kinds.items())
            )
            found.append(
                f"split {split!r}: the kind of file gives the label away ({counts}): convert "
                f"all videos to one kind with one encoder before extracting"
            )
    return found


def _kind(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in VIDEO_SUFFIXES else "folders of frames"


def _mistakes(groups: Sequence[Counter[int]]) -> int:
    """Videos whose label is not the commoner one of their group."""
    return sum(min(labels[0], labels[1]) for labels in groups)


@dataclass(frozen=True)
class WrongLength:
    """A video of ``found`` frames outside ``at_least`` to ``at_most``; None is no bound."""

    video_id: str
    at_least: int | None
    at_most: int | None
    found: int


@dataclass(frozen=True)
class DatasetCheck:
    """What a folder holds against its manifest.

    ``missing`` are ids, ``extra`` paths relative to the root that no row asks for;
    ``ambiguous`` and ``unreadable`` map ids to reasons.
    """

    num_found: int
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    ambiguous: Mapping[str, str]
    unreadable: Mapping[str, str]
    wrong_length: tuple[WrongLength, ...]

    @property
    def complete(self) -> bool:
        """Every video is there, can be read and has its length; extra files do no harm."""
        return not (self.missing or self.ambiguous or self.unreadable or self.wrong_length)


def check(
    manifest: Manifest, root: str | Path, count_frames: Callable[[Path], int] | None = None
) -> DatasetCheck:
    """The videos of a manifest against the files under ``root``.

    ``count_frames`` gives the frames of a file or folder, or raises DecodeError; without it
    nothing is opened and ``unreadable`` and ``wrong_length`` stay empty.
    """
    index = SourceIndex(root)
    places: dict[str, Path] = {}
    missing: list[str] = []
    ambiguous: dict[str, str] = {}
    for video in manifest.videos:
        try:
            places[video.video_id] = index.find(video)
        except DecodeError:
            missing.append(video.video_id)
        except ManifestError as error:
            ambiguous[video.video_id] = str(error)
    unreadable, wrong = _check_lengths(manifest, places, count_frames)
    used = {os.path.realpath(place) for place in places.values()}
    extra = [p for p in _sources(index.root) if os.path.realpath(index.root / p) not in used]
    return DatasetCheck(
        num_found=len(places),
        missing=tuple(missing),
        extra=tuple(sorted(path.as_posix() for path in extra)),
        ambiguous=ambiguous,
        unreadable=unreadable,
        wrong_length=wrong,
    )


def _check_lengths(
    manifest: Manifest, places: Mapping[str, Path], count_frames: Callable[[Path], int] | None
) -> tuple[dict[str, str], tuple[WrongLength, ...]]:
    unreadable: dict[str, str] = {}
    wrong: list[WrongLength] = []
    if count_frames is None:
        return unreadable, ()
    for video in manifest.videos:
        if video.video_id not in places:
            continue
        try:
            num_frames = count_frames(places[video.video_id])
        except DecodeError as error:
            unreadable[video.video_id] = str(error)
            continue
        low, high = frame_bounds(video)
        if (low or 0) <= num_frames <= (high or num_frames):
            continue
        wrong.append(WrongLength(video.video_id, low, high, num_frames))
    return unreadable, tuple(wrong)
