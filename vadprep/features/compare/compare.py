"""Compare two feature sets: clips of all common videos, and measurements on a sample of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import FeaturesError
from vadprep.core.spec import UNKNOWN, differences
from vadprep.features.compare.alignment import (
    ClipCounts,
    VideoClips,
    best_order,
    count_clips,
    paired_clips,
)
from vadprep.features.compare.findings import Difference, Evidence, likely_differences, verdict
from vadprep.features.compare.measures import (
    Pair,
    cosines,
    crop_likeness,
    same_course,
    same_features,
    same_profile,
    same_scene,
    spread,
)
from vadprep.features.compare.sets import FeatureSet, open_pair

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


@dataclass(frozen=True)
class VideoRow:
    """One video that was read, all its clips."""

    video_id: str
    clips_a: int
    clips_b: int
    num_compared: int
    cosine_mean: float
    cosine_least: float
    largest_difference: float
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
        return dict(_without_nan(asdict(self)))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare_features(
    a: str | Path, b: str | Path, *, stream: str = "rgb", videos: int | None = SAMPLE
) -> Comparison:
    """How the features in ``b`` relate to those in ``a``, over the videos that both have.

    Each is a feature folder, or a folder of files in any layout of ``exchange``. The clips of all
    videos are counted, and ``videos`` of them are read (None: all): crops, values and their
    course in time are compared, and the result says what probably differs. One video of each set
    is in memory at a time, and some windows of clips.

    Raises FeaturesError if a folder has no features of ``stream`` (``rgb`` or ``flow``), if no
    video is in both sets, or if none can be read.
    """
    return compare(*open_pair(Path(a), Path(b), stream), videos)


def compare(a: FeatureSet, b: FeatureSet, sample: int | None = SAMPLE) -> Comparison:
    """As ``compare_features``, of sets that are open."""
    common = sorted(set(a.ids) & set(b.ids))
    if not common:
        raise FeaturesError(
            f"no video in common: A has {len(a.ids)}, such as {min(a.ids, default='')!r}, "
            f"B {len(b.ids)}, such as {min(b.ids, default='')!r}: check the ids"
        )
    forms, unread = _forms(a, b, common)
    counts = count_clips(
        [VideoClips(forms[i][0][0], forms[i][1][0], a.frames(i), b.frames(i)) for i in forms],
        (a.clip_length, b.clip_length),
    )
    chosen = _evenly(list(forms), sample)
    evidence = _studied(a, b, _evenly(chosen, STUDIED), counts)
    rows = [_row(each, a.read(each), b.read(each), evidence) for each in chosen]
    evidence = replace(evidence, **_summed(rows), by_specs=_by_specs(a, b))
    return Comparison(
        num_a=len(a.ids),
        num_b=len(b.ids),
        num_common=len(common),
        unread=tuple(unread),
        videos=tuple(rows),
        evidence=evidence,
        verdict=verdict(evidence),
        differences=tuple(likely_differences(evidence)),
        declared=_declared(a, b),
    )


def _forms(
    a: FeatureSet, b: FeatureSet, ids: Sequence[str]
) -> tuple[dict[str, tuple[Form, Form]], list[str]]:
    """Forms of the videos in both sets, and the reasons of those that cannot be read.

    Raises FeaturesError with the first reason when none can.
    """
    found, reasons = {}, []
    for video_id in ids:
        try:
            found[video_id] = a.form(video_id), b.form(video_id)
        except FeaturesError as error:
            reasons.append(str(error))
    if not found:
        raise FeaturesError(f"none of {len(ids)} videos can be read: {reasons[0]}")
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


def _studied(
    set_a: FeatureSet, set_b: FeatureSet, ids: Sequence[str], counts: ClipCounts
) -> Evidence:
    """What a window of clips of some videos shows about crops, network and values.

    Where the sets have other numbers of crops, the mean over the crops is compared.
    """
    pairs = [_window(set_a.read(each), set_b.read(each), counts) for each in ids]
    crops, dims = (tuple(x.shape[axis] for x in pairs[0]) for axis in (1, 2))
    mixed = [(a.mean(axis=1), b.mean(axis=1)) for a, b in pairs]
    course, chance = same_course(mixed)
    orders = [UNKNOWN if each.spec is None else each.spec.crop_order for each in (set_a, set_b)]
    evidence = Evidence(
        counts=counts,
        crops=(crops[0], crops[1]),
        dims=(dims[0], dims[1]),
        same_course=course,
        course_by_chance=chance,
        unit_length=(_has_unit_length(pairs, 0), _has_unit_length(pairs, 1)),
        declared_orders=(orders[0], orders[1]),
    )
    if dims[0] != dims[1]:
        return evidence
    evidence = replace(
        evidence,
        same_features=same_features(mixed),
        same_profile=same_profile(mixed),
        scene_by_chance=same_scene(mixed),
    )
    if crops[0] == crops[1] and crops[0] > 1:
        evidence = replace(evidence, order=_order(pairs))
    return replace(evidence, spread=spread([_ordered(pair, evidence) for pair in pairs]))


def _paired(a: int, b: int, counts: ClipCounts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the clips of A and of B that show the same time, where a video has so many."""
    return paired_clips(a, b, counts.ratio if counts.is_constant else b / a)


def _window(a: NDArray[np.float32], b: NDArray[np.float32], counts: ClipCounts) -> Pair:
    """Copies of paired snippets from the middle, so that the video itself is let go of."""
    ours, theirs = _paired(len(a), len(b), counts)
    start = max(0, (len(ours) - WINDOW) // 2)
    return a[ours[start : start + WINDOW]], b[theirs[start : start + WINDOW]]


def _has_unit_length(pairs: Sequence[Pair], side: int) -> bool:
    lengths = np.concatenate([np.linalg.norm(pair[side], axis=-1).ravel() for pair in pairs])
    return bool(np.abs(lengths - 1).max() < 1e-2)


def _order(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """The order of the crops with the highest correlation; unchanged if the gain is small."""
    likeness = crop_likeness(pairs)
    order, plain = best_order(likeness), tuple(range(len(likeness)))
    rows = np.arange(len(likeness))
    gain = float((likeness[rows, list(order)] - likeness[rows, rows]).mean())
    return order if gain > ORDER_GAIN else plain


def _ordered(pair: Pair, evidence: Evidence) -> Pair:
    """The pair with B's crops in the order of A's, or with the means over crops."""
    a, b = pair
    if a.shape[1] != b.shape[1]:
        return a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    return (a, b[:, list(evidence.order)]) if evidence.order else (a, b)


def _row(
    video_id: str, a: NDArray[np.float32], b: NDArray[np.float32], evidence: Evidence
) -> VideoRow:
    """All clips of a video, crop by crop; nan where the dimensions differ."""
    ours, theirs = _paired(len(a), len(b), evidence.counts)
    row = VideoRow(video_id, len(a), len(b), len(ours), math.nan, math.nan, math.nan)
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
    return replace(
        row,
        cosine_mean=float(every.mean()),
        cosine_least=float(every.min()),
        largest_difference=off / (peak or 1.0),
    )


def _summed(rows: Sequence[VideoRow]) -> dict[str, Any]:
    clips = sum(row.num_compared for row in rows)
    return {
        "num_clips": clips,
        "cosine_mean": sum(row.cosine_mean * row.num_compared for row in rows) / clips,
        "cosine_least": min(row.cosine_least for row in rows),
        "largest_difference": max(row.largest_difference for row in rows),
    }


def _declared(a: FeatureSet, b: FeatureSet) -> tuple[str, ...]:
    """Lines of fields in which the specs differ, where both know; names of weights do not count."""
    if a.spec is None or b.spec is None:
        return ()
    return tuple(line for line in differences(a.spec, b.spec) if UNKNOWN not in line)


def _by_specs(a: FeatureSet, b: FeatureSet) -> tuple[str, ...] | None:
    """Names of the fields in which two specs differ; None where one does not know all of them."""
    if a.spec is None or b.spec is None:
        return None
    ours, theirs = a.spec.identity(), b.spec.identity()
    if UNKNOWN in (*ours.values(), *theirs.values()):
        return None
    return tuple(name for name in ours if ours[name] != theirs[name])
