"""Export a feature folder as the files, lists and ground truth that other code bases read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.clips import frame_labels, frames_in_spans, matlab_edges
from vadprep.core.errors import FeaturesError, ManifestError, SettingError, allowed_are, counted
from vadprep.core.records import Video
from vadprep.core.spec import UNKNOWN, Spec
from vadprep.core.untrusted import reading
from vadprep.data import Manifest, choose_manifest, file_names, video_intervals
from vadprep.features.exchange.arrays import write_features
from vadprep.features.exchange.layouts import (
    IMPORTED,
    LABEL_CODES,
    LAYOUTS,
    SEGMENT_LAYOUT,
    SEGMENTS,
    VADCLIP_CLASSES,
    Target,
    target_of,
)
from vadprep.features.reader import Features, VideoFeatures, open_features

SPLITS = ("train", "test")

Places = Mapping[str, Sequence[PurePosixPath]]
"""Video id -> its files relative to the export, in the order of the crops."""


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    num_videos: int
    lists: tuple[Path, ...]
    """List files and the ground truth."""
    num_labels: int
    """Length of the flat ground truth, 16 a clip; 0 for none."""
    missing: tuple[str, ...]
    """Ids of the manifest without features: in no list, and not in the ground truth."""
    notes: tuple[str, ...]
    """What to know before the other code is run, a line each."""


@reading(FeaturesError)
def export_features(
    features: Features | str | Path,
    out: str | Path,
    *,
    layout: str,
    manifest: Manifest | str | Path | None = None,
    dataset: str | None = None,
    stream: str = "rgb",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the train and test videos of a manifest in the form of another code base into ``out``.

    Lists have the abnormal videos first, then the normal ones, each in the order of the
    manifest, as every official list has. A video's crops follow each other. Features become
    float32. Feature files of other videos that exist in ``out`` stay, and cause a note.

    :param features: a feature folder, opened or its path
    :param out: folder for the files and lists
    :param layout: the code base, a key of ``LAYOUTS``
    :param manifest: splits, labels and intervals: a Manifest or the path of its CSV
    :param dataset: name of an included data set, instead of ``manifest``
    :param stream: ``rgb`` or ``flow``
    :param on_progress: called with the number of written videos, and of all

    Raises SettingError, a ValueError, for an unknown layout; ManifestError for a video without a
    label; FeaturesError if the features lack the stream, for an id that is no safe file name, and
    for files of other videos where the code reads whole folders.
    """
    if layout not in LAYOUTS:
        raise SettingError(f"{layout = }: {allowed_are(layout, LAYOUTS)}")
    table, out = choose_manifest(dataset, manifest), Path(out)
    opened = nullcontext(features) if isinstance(features, Features) else open_features(features)
    with opened as found:
        if stream not in found.streams:
            raise FeaturesError(f"no {stream} features here, only {', '.join(found.streams)}")
        asked = _ordered(table)
        videos = [video for video in asked if video.video_id in found]
        if not videos:
            raise FeaturesError(f"no train or test video of {table.path} has features here")
        target, spec = target_of(layout, [video.video_id for video in videos]), found.specs[stream]
        if target.splits_lines and not target.relative and str(out.resolve()).split()[1:]:
            raise FeaturesError(
                f"{out}: the lists of {layout} cannot hold blanks: use another --out"
            )
        places = _places(videos, target, stream, spec.crops)
        strays = _strays(out, target, stream, places)
        if strays and not target.lists:
            raise FeaturesError(
                f"{strays}, and the code of {layout} reads all files of a folder: remove them, or "
                f"use another --out"
            )
        for done, video in enumerate(videos, start=1):
            snippets, files = found[video.video_id].stream(stream), places[video.video_id]
            if layout == SEGMENT_LAYOUT and spec.preset != IMPORTED.format(layout):
                snippets = segments_of(snippets)
            parts = snippets.swapaxes(0, 1) if target.naming.one_file_a_crop else [snippets]
            for place, part in zip(files, parts, strict=True):
                write_features(out / place, part)
            on_progress(done, len(videos))
        lists = _write_lists(videos, places, target, out, stream)
        labels = _ground_truth(found, videos) if target.ground_truth else None
        if labels is not None:
            write_features(out / target.ground_truth, labels)
            lists.append(out / target.ground_truth)
        notes = list(_notes(videos, target, spec))
        if layout == SEGMENT_LAYOUT:
            rows = f"rows of {snippets.shape[2]} numbers, {SEGMENTS} a video"
            notes.append(f"{rows}: the code expects 4096, change it there")
        if target.ground_truth and labels is None:
            notes.append(
                "no ground truth: the manifest has no intervals for an abnormal test video"
            )
        if strays:
            notes.append(f"{strays}, and in none of its lists")
        return Exported(
            num_videos=len(videos),
            lists=tuple(lists),
            num_labels=0 if labels is None else len(labels),
            missing=tuple(video.video_id for video in asked if video.video_id not in found),
            notes=tuple(notes),
        )


def _ordered(manifest: Manifest) -> list[Video]:
    """Train and test videos, of each the abnormal ones first; ManifestError without a label."""
    videos = [video for split in SPLITS for video in manifest.in_split(split)]
    for video in videos:
        if video.label is None:
            raise ManifestError(
                f"{manifest.path}: video {video.video_id!r}: no label: the lists of other code "
                f"bases are in the order of labels: fill it in"
            )
    return sorted(videos, key=lambda video: (SPLITS.index(video.split), video.label == 0))


def _places(videos: Sequence[Video], target: Target, stream: str, num_crops: int) -> Places:
    """The files of each video; FeaturesError for one that would lie elsewhere or is another's."""
    places: dict[str, list[PurePosixPath]] = {}
    taken: dict[PurePosixPath, str] = {}
    for video in videos:
        video_id, places[video.video_id] = video.video_id, []
        folder = target.folder(stream, video.split, video.label or 0)
        for crop in range(num_crops if target.naming.one_file_a_crop else 1):
            place = folder / target.naming.name(video_id, crop)
            if PurePosixPath(video_id).is_absolute() or ".." in place.parts:
                raise FeaturesError(f"{video_id!r}: its file would lie outside the export")
            if set(str(place)) & set("\r\n") or (target.splits_lines and str(place).split()[1:]):
                raise FeaturesError(
                    f"{video_id!r}: the lists of this layout cannot hold a name with blanks or "
                    f"line ends: rename it in the manifest"
                )
            if place in taken:
                raise FeaturesError(f"{taken[place]!r} and {video_id!r} are both {place}")
            taken[place] = video_id
            places[video_id].append(place)
    return places


def _strays(out: Path, target: Target, stream: str, places: Places) -> str:
    """A message about feature files in the folders of the export that are not of it; or empty."""
    ours = {place for each in places.values() for place in each}
    strays = [
        place
        for folder in sorted({target.folder(stream, split, k) for split in SPLITS for k in (0, 1)})
        if (out / folder).is_dir()
        for inside, names in file_names(out / folder)
        for name in names
        if target.naming.parse(name) and (place := PurePosixPath(folder, inside, name)) not in ours
    ]
    if not strays:
        return ""
    files = counted(len(strays), "feature file")
    return f"{out}: {files} beside those of this export, the first {strays[0]}"


def segments_of(clips: NDArray[np.floating]) -> NDArray[np.float32]:
    """32 segments of clips [num_clips, num_crops, dim]: mean rows of length 1, [32, 1, dim].

    As Save_C3DFeatures_32Segments.m: segment i is the mean of the clips from its edge to the
    next, or the clip at its edge where that is none; the last clip is in no segment of its own.
    Raises FeaturesError for a row of zeros.
    """
    edges = matlab_edges(len(clips), SEGMENTS)
    parts = (clips[start : max(stop, start + 1)] for start, stop in pairwise(edges))
    rows = np.stack([part.mean(axis=(0, 1), dtype=np.float32) for part in parts])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise FeaturesError("a segment of zeros cannot be normalised: verify the features")
    scaled: NDArray[np.float32] = (rows / lengths)[:, None]
    return scaled


def _write_lists(
    videos: Sequence[Video], places: Places, target: Target, out: Path, stream: str
) -> list[Path]:
    root = "" if target.relative else f"{out.resolve()}/"
    paths = [out / name.format(stream=stream) for name in target.lists]
    for split, path in zip(SPLITS, paths, strict=False):
        label = " {}.0" if target.labelled and split == "train" else ""
        rows = [
            (f"{root}{place}", video)
            for video in videos
            if video.split == split
            for place in _listed(places[video.video_id], target, split)
        ]
        text = io.StringIO()
        if target.normal_class:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(("path", "label"))
            table.writerows((place, _class_of(video, target)) for place, video in rows)
        else:
            text.writelines(f"{place}{label.format(video.label)}\n" for place, video in rows)
        make_folder(path.parent)
        with open_atomic(path) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
    return paths


def _listed(files: Sequence[PurePosixPath], target: Target, split: str) -> Sequence[PurePosixPath]:
    """The files of a video that a list has; those of one crop alone have no other to be tested."""
    if target.tested_crop is None or split != "test":
        return files[: target.listed_crops]
    return files[target.tested_crop :][:1] or files[:1]


def _class_of(video: Video, target: Target) -> str:
    """The class of a video as the code calls it: its category; on XD-Violence the codes that end
    its name, such as ``B2-0-0``. ManifestError for an abnormal video without a category."""
    if video.label == 0:
        return target.normal_class
    if target.normal_name and LABEL_CODES in video.video_id:
        return video.video_id.rpartition(LABEL_CODES)[2]
    if not video.category:
        raise ManifestError(
            f"video {video.video_id!r}: no category: the lists of this layout have the class of "
            "each abnormal video: fill in the column category of the manifest"
        )
    return video.category


def _ground_truth(features: Features, videos: Sequence[Video]) -> NDArray[np.float32] | None:
    """Labels of the test videos in a row, 16 a clip; None if intervals are unknown."""
    tests = [video for video in videos if video.split == "test"]
    parts = [clip_labels(features[video.video_id], video) for video in tests]
    known = [part for part in parts if part is not None]
    return np.concatenate([np.zeros(0, np.float32), *known]) if len(known) == len(parts) else None


def clip_labels(found: VideoFeatures, video: Video) -> NDArray[np.float32] | None:
    """The labels for scores that are repeated 16 times a clip: float32 [16 * num_clips], 0 or 1.

    Label j of a clip is that of the source frame it shows j-th. Clips that go on after the end
    of the video repeat its last label, as RTFM's file of ShanghaiTech does. None if intervals
    are unknown.
    """
    intervals = video_intervals(video, found.num_frames, found.clock)
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


def _class_notes(videos: Sequence[Video], target: Target, spec: Spec) -> Iterator[str]:
    """What to change in code that has the names of the classes in it."""
    if spec.graph not in ("clip_vit_b16", UNKNOWN):
        yield f"features of {spec.graph}: the code expects 512 numbers of CLIP ViT-B/16"
    if not target.normal_name:
        classes = {_class_of(video, target) for video in videos}
        if odd := sorted(classes - VADCLIP_CLASSES):
            yield (
                f"classes that the code does not know: {', '.join(odd)}: name all of yours in "
                "label_map of ucf_train.py and ucf_test.py, and their number by --classes-num"
            )
    if spec.crops <= (target.tested_crop or 0):
        yield f"the code tests crop {target.tested_crop}, the lists here have crop 0"
    yield (
        "files of segments and labels for the code's mAP are not written: make_gt_mAP_ucf.py or "
        "make_gt_mAP_xd.py beside its lists makes them, of annotations and a test list of crop 0"
    )


def _notes(videos: Sequence[Video], target: Target, spec: Spec) -> Iterator[str]:
    """What does not fit the official code, a line each."""
    if target.crop_order not in (None, spec.crop_order) and spec.crops > 1:
        yield f"crops stay in the order {spec.crop_order}, the code's own are {target.crop_order}"
    if spec.clip_stride not in (spec.clip_length, UNKNOWN):
        yield (
            f"clips overlap ({spec.clip_length} frames, one each {spec.clip_stride}): the code "
            "counts a frame once for each clip that shows it"
        )
    files = spec.crops if target.naming.one_file_a_crop else 1
    lines = sum(video.label == 1 and video.split == "train" for video in videos)
    lines *= min(files, target.listed_crops or files)
    if target.abnormal_lines not in (None, lines):
        yield (
            f"the training list begins with {lines} lines of abnormal videos: the code cuts it "
            f"after {target.abnormal_lines}, change that number there"
        )
    if target.normal_class:
        yield from _class_notes(videos, target, spec)
    named = target.normal_name
    wrong = [v for v in videos if named and (named in v.video_id) != (v.label == 0)]
    if wrong:
        yield (
            f"the code takes names with {named!r} for normal videos, which is wrong for "
            f"{len(wrong)} here, the first {wrong[0].video_id!r}: rename them in the manifest"
        )
