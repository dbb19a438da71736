"""A feature folder -> the tree, lists and ground truth that other code bases read."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.clips import frame_labels, frames_in_spans, matlab_edges
from vadprep.core.errors import FeaturesError, ManifestError
from vadprep.core.records import Video
from vadprep.data import Manifest, file_names, video_intervals
from vadprep.features.exchange.arrays import write_npy, write_text
from vadprep.features.exchange.layouts import LAYOUTS
from vadprep.features.exchange.spans import SEGMENTS
from vadprep.features.exchange.surveying import SEGMENTED, Request
from vadprep.features.exchange.targets import Target, target_of
from vadprep.features.reader import Features, VideoFeatures

SPLITS = ("train", "test")
STREAM_FOLDERS = {"rgb": "RGB", "flow": "Flow"}
CLASS_FOLDERS = {0: "Normal", 1: "Anomaly"}


@dataclass(frozen=True)
class Exported:
    """What an export has written."""

    num_videos: int
    lists: tuple[Path, ...]
    """List files and the ground truth."""
    num_labels: int
    """Length of the flat ground truth, 16 a clip; 0 for none."""
    missing: tuple[str, ...]
    """Ids of the manifest without features: in no list, and not in the ground truth."""
    notes: tuple[str, ...]


def export_features(
    features: Features,
    manifest: Manifest,
    out: Path,
    layout: str,
    stream: str = "rgb",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the train and test videos of ``manifest`` in a layout into ``out``.

    Lists have the abnormal videos first, then the normal ones, each in the order of the
    manifest, as every official list has; a video's crops follow each other. Features become
    float32. Feature files of other videos that are there stay, and are noted. Raises
    ManifestError for a video without a label, FeaturesError for an id that is not safe as a file
    name there, and for files of other videos where no list says which are meant; ValueError for
    an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"{layout = }: allowed are {', '.join(LAYOUTS)}")
    if stream not in features.streams:
        raise FeaturesError(f"no {stream} features here, only {', '.join(features.streams)}")
    asked = [video for split in SPLITS for video in ordered(manifest, split)]
    videos = [video for video in asked if video.video_id in features]
    if not videos:
        raise FeaturesError(f"no train or test video of {manifest.path} has features here")
    target = target_of(layout, [video.video_id for video in videos])
    spec = features.specs[stream]
    taken = _checked_places(videos, target, stream, spec.crops)
    if target.splits_lines and not target.relative and str(out.resolve()).split()[1:]:
        raise FeaturesError(f"{out}: the lists of {layout} cannot hold blanks: use another --out")
    strays = _strays(out, target, stream, taken)
    if strays and not target.lists:
        raise FeaturesError(
            f"{_said(out, strays)}, and the code of {layout} reads all files of a folder: remove "
            "them, or use another --out"
        )
    for done, video in enumerate(videos, start=1):
        snippets = features[video.video_id].stream(stream)
        if layout == SEGMENTED and spec.preset != Request(SEGMENTED).preset:
            snippets = segments_of(snippets)
        places = _places(video, target, stream, spec.crops)
        _write_video(snippets, places, target, out)
        progress(done, len(videos))
    lists = list(_write_lists(videos, target, out, stream, spec.crops))
    labels = _ground_truth(features, videos) if target.ground_truth else None
    if labels is not None:
        write_npy(out / target.ground_truth, labels)
        lists.append(out / target.ground_truth)
    return Exported(
        num_videos=len(videos),
        lists=tuple(lists),
        num_labels=0 if labels is None else len(labels),
        missing=tuple(video.video_id for video in asked if video.video_id not in features),
        notes=(
            *_notes(features, videos, target, stream, has_labels=labels is not None),
            *([f"{_said(out, strays)}, and in none of its lists"] if strays else []),
        ),
    )


def ordered(manifest: Manifest, split: str) -> list[Video]:
    """The videos of a split, abnormal ones first; raises ManifestError for one without label."""
    videos = manifest.in_split(split)
    for video in videos:
        if video.label is None:
            raise ManifestError(
                f"{manifest.path}: video {video.video_id!r}: no label: the lists of other code "
                f"bases are in the order of labels: fill it in"
            )
    return sorted(videos, key=lambda video: video.label == 0)


# ---------------------------------------------------------------- features


def _places(video: Video, target: Target, stream: str, num_crops: int) -> list[PurePosixPath]:
    """Files of a video relative to the export, in the order of the crops."""
    folder = _folder(target, stream, video.split, video.label or 0)
    num_files = num_crops if target.naming.one_file_a_crop else 1
    names = [target.naming.name(video.video_id, crop) for crop in range(num_files)]
    return [folder / name for name in names]


def _folder(target: Target, stream: str, split: str, label: int) -> PurePosixPath:
    folder = target.folders[split].replace("{stream}", STREAM_FOLDERS[stream])
    return PurePosixPath(folder.replace("{class}", CLASS_FOLDERS[label]))


def _strays(
    out: Path, target: Target, stream: str, places: Container[PurePosixPath]
) -> list[PurePosixPath]:
    """Feature files in the folders of the export that are at none of its ``places``."""
    folders = {_folder(target, stream, split, label) for split in SPLITS for label in CLASS_FOLDERS}
    there = [
        PurePosixPath(folder, inside, name)
        for folder in sorted(folders)
        if (out / folder).is_dir()
        for inside, names in file_names(out / folder)
        for name in names
        if target.naming.parse(name)
    ]
    return [place for place in there if place not in places]


def _said(out: Path, strays: Sequence[PurePosixPath]) -> str:
    return f"{out}: {len(strays)} feature files are not of this export, the first {strays[0]}"


def _checked_places(
    videos: Sequence[Video], target: Target, stream: str, num_crops: int
) -> dict[PurePosixPath, str]:
    """Each file of the export, and the id of its video.

    Raises FeaturesError for an id whose files would lie elsewhere, or be another video's.
    """
    taken: dict[PurePosixPath, str] = {}
    for video in videos:
        for place in _places(video, target, stream, num_crops):
            if PurePosixPath(video.video_id).is_absolute() or ".." in place.parts:
                raise FeaturesError(f"{video.video_id!r}: its file would lie outside the export")
            if set(str(place)) & set("\r\n") or (target.splits_lines and str(place).split()[1:]):
                raise FeaturesError(
                    f"{video.video_id!r}: the lists of this layout cannot hold a name with blanks "
                    f"or line ends: rename it in the manifest"
                )
            if place in taken:
                raise FeaturesError(f"{taken[place]!r} and {video.video_id!r} are both {place}")
            taken[place] = video.video_id
    return taken


def _write_video(
    snippets: NDArray[np.floating], places: Sequence[PurePosixPath], target: Target, out: Path
) -> None:
    if places[0].suffix == ".txt":
        write_text(out / places[0], snippets.mean(axis=1, dtype=np.float32))
    elif target.naming.one_file_a_crop:
        for crop, place in enumerate(places):
            write_npy(out / place, snippets[:, crop])
    else:
        write_npy(out / places[0], snippets)


def segments_of(clips: NDArray[np.floating]) -> NDArray[np.float32]:
    """32 segments of clips [num_clips, num_crops, dim]: mean rows of length 1, [32, 1, dim].

    As Save_C3DFeatures_32Segments.m: segment i is the mean of the clips from its edge to the
    next, or the clip at its edge where that is none; the last clip is in no segment of its own.
    Raises FeaturesError for a row of zeros.
    """
    edges = matlab_edges(len(clips), SEGMENTS)
    means = [
        clips[start : max(stop, start + 1)].mean(axis=(0, 1), dtype=np.float32)
        for start, stop in zip(edges[:-1], edges[1:], strict=True)
    ]
    rows = np.stack(means)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise FeaturesError("a segment of zeros cannot be normalised: verify the features")
    scaled: NDArray[np.float32] = (rows / lengths)[:, None]
    return scaled


# ---------------------------------------------------------------- lists and ground truth


def _write_lists(
    videos: Sequence[Video], target: Target, out: Path, stream: str, num_crops: int
) -> Iterator[Path]:
    root = "" if target.relative else f"{out.resolve()}/"
    for split, name in target.lists.items():
        lines = []
        for video in videos:
            if video.split == split:
                label = f" {video.label}.0" if target.labelled and split == "train" else ""
                places = _places(video, target, stream, num_crops)[: target.listed_crops]
                lines += [f"{root}{place}{label}\n" for place in places]
        path = out / name.replace("{stream}", stream)
        make_folder(path.parent)
        with open_atomic(path) as file:
            file.write("".join(lines).encode("utf-8", "surrogateescape"))
        yield path


def _ground_truth(features: Features, videos: Sequence[Video]) -> NDArray[np.float32] | None:
    """Labels of the test videos in a row, 16 a clip; None where intervals are unknown."""
    parts = [np.zeros(0, np.float32)]
    for video in videos:
        if video.split == "test":
            labels = clip_labels(features[video.video_id], video)
            if labels is None:
                return None
            parts.append(labels)
    return np.concatenate(parts)


def clip_labels(found: VideoFeatures, video: Video) -> NDArray[np.float32] | None:
    """What a score repeated 16 times a clip is held against: float32 [16 * num_clips], 0 or 1.

    Label j of a clip is that of the source frame it shows j-th. Clips that go on after the end
    of the video repeat its last label, as RTFM's file of ShanghaiTech does. None where intervals
    are unknown.
    """
    intervals = video_intervals(video, found.num_frames, found.fps)
    if intervals is None and video.label != 0:
        return None
    labels = frame_labels(intervals or (), found.num_frames)
    shown: NDArray[np.float32] = labels[frames_of(found.spans)].astype(np.float32).ravel()
    return shown


def frames_of(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """Source frames that the clips of ``spans`` show: int64 [num_clips, 16].

    Even steps through a span; a last span that is shorter than the first was cut at the end of
    the video, and its clip repeats the last frame.
    """
    whole = spans.copy()
    whole[-1, 1] = max(spans[-1, 1], spans[-1, 0] + spans[0, 1] - spans[0, 0])
    return np.minimum(frames_in_spans(whole), spans[-1, 1] - 1)


def _notes(
    features: Features, videos: Sequence[Video], target: Target, stream: str, has_labels: bool
) -> Iterator[str]:
    """What the official code would stumble over, a line each."""
    spec = features.specs[stream]
    if target.crop_order not in (None, spec.crop_order) and spec.crops > 1:
        yield f"crops stay in the order {spec.crop_order}, the code's own are {target.crop_order}"
    files = spec.crops if target.naming.one_file_a_crop else 1
    lines = sum(video.label == 1 and video.split == "train" for video in videos)
    lines *= min(files, target.listed_crops or files)
    if target.abnormal_lines not in (None, lines):
        yield (
            f"the training list begins with {lines} lines of abnormal videos: the code cuts it "
            f"after {target.abnormal_lines}, change that number there"
        )
    named = target.by_name
    wrong = [v for v in videos if named and (named in v.video_id) != (v.label == 0)]
    if wrong:
        yield (
            f"the code takes names with {named!r} for normal videos, which is wrong for "
            f"{len(wrong)} here, the first {wrong[0].video_id!r}: rename them in the manifest"
        )
    if target.naming.suffix.endswith(".txt"):
        dim = features[videos[0].video_id].stream(stream).shape[2]
        yield f"rows of {dim} numbers, {SEGMENTS} a video: the code expects 4096, change it there"
    if target.ground_truth and not has_labels:
        yield "no ground truth: the manifest has no intervals for an abnormal test video"
