"""Compare two feature sets: clips of all common videos, and measurements on a sample of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import Resampling
from vadprep.core.errors import FeaturesError, counted
from vadprep.core.spec import UNKNOWN, Spec, differences
from vadprep.core.untrusted import reading
from vadprep.data import hint_of_ids
from vadprep.features.compare.findings import Difference, Evidence, likely_differences, verdict
from vadprep.features.compare.measures import (
    ClipCounts,
    ClipForm,
    Pair,
    VideoClips,
    best_order,
    cosines,
    count_clips,
    crop_likeness,
    paired_clips,
    same_course,
    same_features,
    same_profile,
    same_scene,
    spread,
)
from vadprep.features.exchange.arrays import Tree, form_of, read_features, read_tree
from vadprep.features.exchange.layouts import ALL_NAMINGS
from vadprep.features.folder import required_folders, stream_folders
from vadprep.features.reader import Features, open_features
from vadprep.features.remote import AnyPath, as_path

SAMPLE = 20
"""Number of videos that are read by default, evenly among the common ones."""
STUDIED = 20
"""Number of these from which crops, network and values are studied."""
WINDOW = 32
"""Clips of each of those, in its middle: their snippets are held in memory together."""
BLOCK = 256
"""Clips of a video that are compared at once."""
ORDER_GAIN = 0.02
"""Mean correlation that another order of the crops must gain to be believed."""

Form = tuple[int, int, int]
"""[num_clips, num_crops, dim] of a video."""


@dataclass
class VideoRow:
    """One video that was read, all its clips; nan where the dimensions differ."""

    video_id: str
    clips_a: int
    clips_b: int
    num_compared: int
    cosine_mean: float = math.nan
    cosine_least: float = math.nan
    largest_difference: float = math.nan
    """Largest |a - b|, as a fraction of the largest |a|."""


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison: what was read, what was measured, and what explains it."""

    num_a: int
    num_b: int
    num_common: int
    unread: tuple[str, ...]
    """Videos that could not be read, with the reason."""
    videos: tuple[VideoRow, ...]
    """The sample."""
    evidence: Evidence
    verdict: str
    differences: tuple[Difference, ...]
    declared: tuple[str, ...]
    """Fields in which the two specs differ, ``field: A / B``, where both are known."""

    def as_json(self) -> dict[str, Any]:
        """The same as values for JSON; nan becomes None."""
        text = json.dumps(asdict(self))
        return dict(json.loads(text, parse_constant=lambda name: None))


@reading(FeaturesError)
def compare_features(
    a: str | Path, b: str | Path, *, stream: str = "rgb", videos: int | None = SAMPLE
) -> Comparison:
    """How the features in ``b`` relate to those in ``a``, over the videos that both have.

    Each is a feature folder, or the URL of one, or a folder of files in any layout of
    ``exchange``. The clips of all videos are counted, and ``videos`` of them are read (None: all):
    crops, values and their course in time are compared, and the result says what probably
    differs. One video of each set is in memory at a time, and some windows of clips.

    Raises FeaturesError if a folder has no features of ``stream`` (``rgb`` or ``flow``), if no
    video is in both sets, or if none can be read.
    """
    return compare(*open_pair(as_path(a), as_path(b), stream), videos)


def compare(a: FeatureSet, b: FeatureSet, sample: int | None = SAMPLE) -> Comparison:
    """As ``compare_features``, of sets that are open."""
    common = sorted(set(a.ids) & set(b.ids))
    if not common:
        raise FeaturesError(
            f"no video in common: A has {len(a.ids)}, such as {min(a.ids, default='')!r}, "
            f"B {len(b.ids)}, such as {min(b.ids, default='')!r}: check the ids"
            + hint_of_ids(a.ids, b.ids, "B")
        )
    forms, unread = _forms(a, b, common)
    pairs = forms.items()
    lengths = [VideoClips(x[0], y[0], a.frames(i), b.frames(i)) for i, (x, y) in pairs]
    counts = count_clips(lengths, (a.clip_form, b.clip_form))
    chosen = _evenly(list(forms), sample)
    one, other = forms[chosen[0]]
    evidence = Evidence(counts, crops=(one[1], other[1]), dims=(one[2], other[2]))
    studied = _evenly(chosen, STUDIED)
    _study(evidence, [_window(a.read(each), b.read(each), counts) for each in studied])
    rows = [_row(each, a.read(each), b.read(each), evidence) for each in chosen]
    clips = sum(row.num_compared for row in rows)
    evidence.num_clips = clips
    evidence.cosine_mean = sum(row.cosine_mean * row.num_compared for row in rows) / clips
    evidence.cosine_least = min(row.cosine_least for row in rows)
    evidence.largest_difference = max(row.largest_difference for row in rows)
    orders = [each.spec.crop_order if each.spec else UNKNOWN for each in (a, b)]
    evidence.declared_orders = orders[0], orders[1]
    declared: list[str] = []
    if a.spec and b.spec:
        lines = differences(a.spec, b.spec)
        declared = [line for line in lines if UNKNOWN not in line]
        if len(declared) == len(lines):  # both are complete
            evidence.by_specs = tuple(line.partition(":")[0] for line in lines)
    return Comparison(
        num_a=len(a.ids),
        num_b=len(b.ids),
        num_common=len(common),
        unread=tuple(unread),
        videos=tuple(rows),
        evidence=evidence,
        verdict=verdict(evidence),
        differences=tuple(likely_differences(evidence)),
        declared=tuple(declared),
    )


def _forms(
    a: FeatureSet, b: FeatureSet, ids: Sequence[str]
) -> tuple[dict[str, tuple[Form, Form]], list[str]]:
    """Forms of the videos in both sets, and the reasons of those that cannot be read.
    Raises FeaturesError with the first reason when none can."""
    found, reasons = {}, []
    for video_id in ids:
        try:
            found[video_id] = a.form(video_id), b.form(video_id)
        except FeaturesError as error:
            reasons.append(str(error))
    if not found:
        raise FeaturesError(f"none of {counted(len(ids), 'video')} can be read: {reasons[0]}")
    # All videos of a set share crops and dimension.
    views = {each: (one[1:], other[1:]) for each, (one, other) in found.items()}
    usual = Counter(views.values()).most_common(1)[0][0]
    for each in [each for each in found if views[each] != usual]:
        reasons.append(f"{each!r}: crops and dimensions are {views[each]}")
        del found[each]
    return found, reasons


def _evenly(ids: Sequence[str], most: int | None) -> list[str]:
    if most is None or len(ids) <= most:
        return list(ids)
    return [ids[each] for each in np.linspace(0, len(ids) - 1, most).astype(int)]


def _paired(a: int, b: int, counts: ClipCounts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the clips of A and of B that show the same time, where a video has so many."""
    ratio = counts.ratio if counts.is_constant else b / a
    one, other = (form.length / form.stride for form in counts.forms)
    return paired_clips(a, b, ratio, (one, other))


def _window(a: NDArray[np.float32], b: NDArray[np.float32], counts: ClipCounts) -> Pair:
    """Copies of paired snippets from the middle, so that the video itself is let go of."""
    ours, theirs = _paired(len(a), len(b), counts)
    start = max(0, (len(ours) - WINDOW) // 2)
    return a[ours[start : start + WINDOW]], b[theirs[start : start + WINDOW]]


def _study(evidence: Evidence, pairs: Sequence[Pair]) -> None:
    """Add what a window of clips of some videos shows about crops, network and values."""
    mixed = [(a.mean(axis=1), b.mean(axis=1)) for a, b in pairs]
    evidence.same_course, evidence.course_by_chance = same_course(mixed)
    off = [[np.abs(np.linalg.norm(each, axis=-1) - 1).max() for each in pair] for pair in pairs]
    unit_a, unit_b = (all(each < 1e-2 for each in side) for side in zip(*off, strict=True))
    evidence.unit_length = unit_a, unit_b
    if evidence.dims[0] != evidence.dims[1]:
        return
    evidence.same_features = same_features(mixed)
    evidence.same_profile = same_profile(mixed)
    evidence.scene_by_chance = same_scene(mixed)
    if evidence.crops[0] == evidence.crops[1] > 1:
        likeness = crop_likeness(pairs)
        order, rows = best_order(likeness), np.arange(len(likeness))
        gain = float((likeness[rows, list(order)] - likeness[rows, rows]).mean())
        evidence.order = order if gain > ORDER_GAIN else tuple(rows.tolist())
    evidence.spread = spread([_ordered(pair, evidence) for pair in pairs])


def _ordered(pair: Pair, evidence: Evidence) -> Pair:
    """The pair with B's crops in the order of A's, or with the means over crops."""
    a, b = pair
    if a.shape[1] != b.shape[1]:
        return a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    return (a, b[:, list(evidence.order)]) if evidence.order else (a, b)


def _row(
    video_id: str, a: NDArray[np.float32], b: NDArray[np.float32], evidence: Evidence
) -> VideoRow:
    """All clips of a video, crop by crop."""
    ours, theirs = _paired(len(a), len(b), evidence.counts)
    row = VideoRow(video_id, len(a), len(b), len(ours))
    if evidence.dims[0] != evidence.dims[1]:
        return row
    alike, off, peak = [], 0.0, 0.0
    for start in range(0, len(ours), BLOCK):
        part = slice(start, start + BLOCK)
        x, y = _ordered((a[ours[part]], b[theirs[part]]), evidence)
        alike.append(cosines(x, y))
        off = max(off, float(np.abs(x - y).max()))
        peak = max(peak, float(np.abs(x).max()))
    every = np.concatenate(alike)
    row.cosine_mean, row.cosine_least = float(every.mean()), float(every.min())
    row.largest_difference = off / (peak or 1.0)
    return row


class FeatureSet:
    """Features of one stream by video id."""

    ids: tuple[str, ...]
    spec: Spec | None = None
    """What is known of how they were made; None for a tree."""

    @property
    def clip_form(self) -> ClipForm:
        """Length and stride of its clips, 16 where they are unknown."""
        if not self.spec or UNKNOWN in (self.spec.clip_length, self.spec.clip_stride):
            return ClipForm()
        return ClipForm(self.spec.clip_length, int(self.spec.clip_stride))

    def form(self, video_id: str) -> Form:
        """Of a video, without reading it."""
        raise NotImplementedError

    def read(self, video_id: str) -> NDArray[np.float32]:
        """Features of a video, float32 [num_clips, num_crops, dim]."""
        raise NotImplementedError

    def frames(self, video_id: str) -> int | None:
        """Frames of the video at the rate of the features, where that is known."""
        return None


class FolderSet(FeatureSet):
    """One stream of a feature folder of ours."""

    def __init__(self, features: Features, stream: str) -> None:
        self._features, self._stream = features, stream
        self.ids, self.spec = tuple(features), features.specs[stream]

    def form(self, video_id: str) -> Form:
        video = self._features[video_id]
        return video.num_clips, video.num_crops, video.dim

    def read(self, video_id: str) -> NDArray[np.float32]:
        return self._features[video_id].stream(self._stream).astype(np.float32)

    def frames(self, video_id: str) -> int | None:
        video = self._features[video_id]
        spec = self._features.specs[self._stream]
        if spec.fps == "native":
            return video.num_frames
        rates = [video.attributes.get(f"fps_{name}") for name in ("source", "used")]
        if None in rates:
            return None
        source, used = (Fraction(float(fps)).limit_denominator(1001) for fps in rates if fps)
        return Resampling(source, used, sampling=spec.sampling_used).count(video.num_frames)


class TreeSet(FeatureSet):
    """The files of another code base; its ids are file names without what the naming adds."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        named = tree.places.items()
        self.ids = tuple(p if len(places) > 1 else name for name, places in named for p in places)

    def form(self, video_id: str) -> Form:
        """The form of the first file. Others that differ are found when the video is read."""
        crops = self._tree.find(video_id)
        first = form_of({0: crops.get(0, next(iter(crops.values())))})
        return first.num_clips, first.num_crops if len(crops) == 1 else len(crops), first.dim

    def read(self, video_id: str) -> NDArray[np.float32]:
        return read_features(self._tree.find(video_id)).astype(np.float32)


def open_set(path: AnyPath, stream: str, wanted: Collection[str] = ()) -> FeatureSet:
    """The features of a stream in ``path``; a tree is read in the naming that has ``wanted``.
    Raises FeaturesError when there are none."""
    if isinstance(path, Path) and not path.is_dir():
        raise FeaturesError(f"{path}: no such folder: correct the path")
    folders = stream_folders(path) if isinstance(path, Path) else required_folders(path)
    if not folders:
        assert isinstance(path, Path)
        return TreeSet(read_tree(path, ALL_NAMINGS, stream, wanted))
    if stream not in folders:
        there = ", ".join(folders)
        raise FeaturesError(f"{path}: no {stream} features there, only {there}: --stream {there}")
    return FolderSet(open_features(folders[stream].path), stream)


def open_pair(a: AnyPath, b: AnyPath, stream: str) -> tuple[FeatureSet, FeatureSet]:
    """Both sets, a tree in the naming that has the ids of the other where that is ours."""
    if stream_folders(a) or not stream_folders(b):
        first = open_set(a, stream)
        return first, open_set(b, stream, first.ids)
    second = open_set(b, stream)
    return open_set(a, stream, second.ids), second
