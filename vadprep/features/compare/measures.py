"""Measures of two sets of snippets that show the same clips, from sums that hold few of them.

Features of one network resemble each other whatever the video, and those of one video resemble
each other whatever the network. So the tests for "same network" and "same video" look at what is
left when the mean of each video is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES, num_clips
from vadprep.core.crops import FIVE_CROPS, crop_boxes

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Snippets of the same clips of one video in A and in B."""

MOST_FEATURES = 256
"""Features among which each is looked for."""
FEWEST_CLIPS = 8
"""Fewest clips for a test on the course in time."""
NEAR = 1.5
"""Clips by which a number may miss a common ratio: a tail rule's one, and rounding."""
FRAME = (256, 340)
"""Height and width in px of the frame on which the crops of two orders are compared."""


@dataclass(frozen=True)
class Spread:
    """How features vary over the clips of a video, in B against A."""

    correlation: float
    """Of the features when the mean of each video is taken away."""
    scale: float
    """Of the same: root mean square in B for one in A."""
    shift: float
    """Of the mean over all features: B - scale * A, as a fraction of A's."""


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of each snippet [..., dim] with its partner; two of zeros are alike."""
    product = np.einsum("...d,...d->...", a, b, dtype=np.float64)
    lengths = [np.linalg.norm(each.astype(np.float64), axis=-1) for each in (a, b)]
    norm = lengths[0] * lengths[1]
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    return np.where(both_zero, 1.0, product / np.where(norm == 0, 1.0, norm))


def spread(pairs: Sequence[Pair]) -> Spread:
    """Correlation, scale and shift over pairs of snippets [num_clips, num_crops, dim]."""
    centred = [(_centred(a), _centred(b)) for a, b in pairs]
    aa = sum(float(np.vdot(a, a)) for a, _ in centred)
    ab = sum(float(np.vdot(a, b)) for a, b in centred)
    bb = sum(float(np.vdot(b, b)) for _, b in centred)
    if not aa or not bb:
        return Spread(math.nan, math.nan, math.nan)
    scale = math.sqrt(bb / aa)
    means = [float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1)]
    shift = (means[1] - scale * means[0]) / means[0] if means[0] else math.nan
    return Spread(ab / math.sqrt(aa * bb), scale, shift)


def _centred(values: NDArray[np.float32], axis: int = 0) -> NDArray[np.float32]:
    """Values [num_clips, ...] without their mean over the clips, or another axis."""
    return values - values.mean(axis=axis, keepdims=True)


def same_features(pairs: Sequence[Pair]) -> float:
    """Share of the features of A whose likeliest partner among those of B has the same number.

    ``pairs`` are [num_clips, dim], crops averaged. Features are compared by their course over
    the clips. By chance 1 / MOST_FEATURES, where the networks or the videos are not the same;
    nan where there are too few clips or features to tell.
    """
    if sum(len(a) for a, _ in pairs) < FEWEST_CLIPS:
        return math.nan
    a, b = (np.concatenate([_centred(pair[side]) for pair in pairs]) for side in (0, 1))
    chosen = np.argsort(-np.minimum(a.std(axis=0), b.std(axis=0)))[:MOST_FEATURES]
    course = [_unit(each[:, chosen].T.astype(np.float64)) for each in (a, b)]
    found = np.argmax(course[0] @ course[1].T, axis=1) == np.arange(len(chosen))
    return float(found.mean())


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths == 0, 1.0, lengths)


def _video_means(pairs: Sequence[Pair], side: int) -> NDArray[np.float64]:
    """The mean snippet of each video in A (side 0) or in B: [num_videos, dim]."""
    return np.stack([pair[side].mean(axis=0, dtype=np.float64) for pair in pairs])


def same_profile(pairs: Sequence[Pair]) -> float:
    """Correlation over the features of their means in A and in B.

    High for one network on any videos, near 0 for two networks.
    """
    return _correlation(*(_video_means(pairs, side).mean(axis=0) for side in (0, 1)))


def same_scene(pairs: Sequence[Pair]) -> float:
    """Share of other videos of B that are nearer to a video of A than its own partner is.

    By the mean snippet of each video around that of all, [num_clips, dim] each: videos that
    hardly change have no course, but each has its own scene. 0.5 for different videos; it means
    something for one network alone. nan where there are fewer than three videos.
    """
    if len(pairs) < 3:
        return math.nan
    means = [_video_means(pairs, side) for side in (0, 1)]
    a, b = (_unit(each - each.mean(axis=0)) for each in means)
    alike = a @ b.T
    nearer = (alike >= np.diagonal(alike)[:, None]).sum(axis=1) - 1
    return float(nearer.mean() / (len(pairs) - 1))


def same_course(pairs: Sequence[Pair]) -> tuple[float, float]:
    """How alike the clips of a video are, in A against B, whatever the networks: two numbers.

    First the correlation over the pairs of clips of a video [num_clips, dim], where the mean
    likeness of clips so far apart in time is taken away; the mean over the videos. Clips of a
    video that changes slowly correlate with those of any other such, so the second is the share
    of other partners that correlate as well: other videos of B, or where there are none the
    same one shifted in time. It is 0.5 for different videos. Both nan where videos are too short.
    """
    grams = [(_gram(a), _gram(b)) for a, b in pairs if len(a) >= FEWEST_CLIPS]
    if not grams:
        return math.nan, math.nan
    own, by_chance = [], []
    for number, (a, b) in enumerate(grams):
        if len(grams) > 2:
            partners = [other for i, (_, other) in enumerate(grams) if i != number]
        else:
            partners = [np.roll(b, shift, axis=(0, 1)) for shift in range(2, len(b) - 1)]
        own.append(_course(a, b))
        by_chance.append(np.mean([_course(a, other) >= own[-1] for other in partners]))
    return float(np.mean(own)), float(np.mean(by_chance))


def _gram(snippets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Products of all clips of a video, [num_clips, num_clips]."""
    centred = _centred(snippets).astype(np.float64)
    products: NDArray[np.float64] = centred @ centred.T
    return products


def _course(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of the likeness of clips in two videos, as far as the shorter one goes."""
    length = min(len(a), len(b))
    above = np.triu_indices(length, 1)
    return _correlation(*(_likeness(gram[:length, :length])[above] for gram in (a, b)))


def _likeness(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of the clips of a video around their mean, without the mean cosine at a distance."""
    rows = gram - gram.mean(axis=0)
    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.maximum(np.diagonal(centred), 0))
    alike = centred / np.maximum(np.outer(lengths, lengths), np.finfo(np.float64).tiny)
    apart = np.abs(np.subtract.outer(np.arange(len(gram)), np.arange(len(gram))))
    means = np.bincount(apart.ravel(), alike.ravel()) / np.bincount(apart.ravel())
    left: NDArray[np.float64] = alike - means[apart]
    return left


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else math.nan


def crop_likeness(pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Correlation of each crop of A with each of B: float64 [crops of A, crops of B].

    ``pairs`` are [num_clips, num_crops, dim]. What all crops of a clip share is taken away, so
    that a crop differs from its neighbours.
    """
    own = [(_centred(a, axis=1), _centred(b, axis=1)) for a, b in pairs]
    products = sum(np.einsum("tid,tjd->ij", a, b, dtype=np.float64) for a, b in own)
    norms = [
        np.sqrt(sum(np.einsum("tid,tid->i", pair[side], pair[side]) for pair in own))
        for side in (0, 1)
    ]
    outer = np.outer(norms[0], norms[1])
    likeness: NDArray[np.float64] = products / np.where(outer == 0, 1.0, outer)
    return likeness


class VideoClips(NamedTuple):
    """Numbers of clips of one video in both sets, and its (resampled) frames if known."""

    a: int
    b: int
    frames_a: int | None = None
    frames_b: int | None = None


class ClipForm(NamedTuple):
    """Frames of a clip, and from the begin of one to that of the next."""

    length: int = CLIP_LENGTH
    stride: int = CLIP_LENGTH


@dataclass(frozen=True)
class ClipCounts:
    """How the numbers of clips of B relate to those of A."""

    num_videos: int
    num_equal: int
    fewer: int
    """Videos in which B has one clip less than A."""
    more: int
    """Videos in which B has one clip more than A."""
    forms: tuple[ClipForm, ClipForm]
    """Of the clips of A and of B."""
    ratio: float
    """Clips of B for one of A in the same time; half a clip is added for what a tail cuts."""
    error: float
    """By how much the ratio may be off: half a clip a video."""
    is_constant: bool
    """Every number agrees with the ratio within NEAR clips."""
    rules: tuple[tuple[str, ...], tuple[str, ...]]
    """Tail rules that give the clips of every video whose frames are known, of A and of B."""
    where: str
    """Videos in which the numbers differ, in words, if their frames show which; else blank."""

    @property
    def same_rate(self) -> bool:
        """Both sets have as many clips of each video, up to one at its end."""
        return self.num_equal + self.fewer + self.more == self.num_videos


def count_clips(
    videos: Sequence[VideoClips], forms: tuple[ClipForm, ClipForm] = (ClipForm(), ClipForm())
) -> ClipCounts:
    """How the numbers of clips of B relate to those of A, over one or more videos."""
    a, b = (np.array([video[side] for video in videos]) for side in (0, 1))
    half = len(videos) / 2
    # Time in strides: the last of clips that overlap is longer than one.
    time_a, time_b = (n + f.length / f.stride - 1 for n, f in zip((a, b), forms, strict=True))
    ratio = float((time_b.sum() + half) / (time_a.sum() + half))
    same_rate = bool((np.abs(a - b) <= 1).all()) and forms[0].stride == forms[1].stride
    frames_a, frames_b = ([video[side] for video in videos] for side in (2, 3))
    if same_rate:  # frames that one set knows are those of the other, too
        frames_a, frames_b = (
            [y if x is None else x for x, y in zip(one, other, strict=True)]
            for one, other in ((frames_a, frames_b), (frames_b, frames_a))
        )
    return ClipCounts(
        num_videos=len(videos),
        num_equal=int((a == b).sum()),
        fewer=int((b == a - 1).sum()),
        more=int((b == a + 1).sum()),
        forms=forms,
        ratio=1.0 if same_rate else ratio,
        error=float(half / a.sum()),
        is_constant=bool((np.abs(time_b - ratio * time_a) <= NEAR).all()),
        rules=(_rules(a, frames_a, forms[0]), _rules(b, frames_b, forms[1])),
        where=_where(a != b, frames_a, forms[0]) if same_rate else "",
    )


def _rules(
    clips: NDArray[np.int64], frames: Sequence[int | None], form: ClipForm
) -> tuple[str, ...]:
    known = [(n, count) for n, count in zip(frames, clips, strict=True) if n is not None]
    return tuple(
        rule
        for rule in TAIL_RULES
        if known and all(num_clips(n, rule, *form) == count for n, count in known)
    )


def _where(differs: NDArray[np.bool_], frames: Sequence[int | None], form: ClipForm) -> str:
    over = form.length % form.stride
    known = [
        (n % form.stride == over, bool(d))
        for n, d in zip(frames, differs, strict=True)
        if n is not None
    ]
    if not any(differs for _, differs in known):
        return ""
    multiples = f"on multiples of {form.stride}" + f" plus {over}" * bool(over)
    if all(multiple == differs for multiple, differs in known):
        return multiples
    return f"except {multiples}" if all(m != d for m, d in known) else ""


def paired_clips(
    a: int, b: int, ratio: float = 1.0, overlaps: tuple[float, float] = (1, 1)
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the clips of A and of B that show the same time: two int64 [n].

    ``ratio`` is the clips of B for one of A; ``overlaps`` are length by stride of the clips of A
    and of B. The set with fewer clips keeps each of them once; the other gives the clip whose
    middle is nearest to that of the one.
    """
    if ratio <= 1:
        fewer = np.arange(min(b, int(np.ceil(a * ratio))))
        middles = fewer + overlaps[1] / 2  # in strides of B
        nearest = np.floor(middles / ratio - (overlaps[0] - 1) / 2).astype(np.int64)
        return nearest.clip(0, a - 1), fewer
    theirs, ours = paired_clips(b, a, 1 / ratio, overlaps[::-1])
    return ours, theirs


def best_order(similarity: NDArray[np.floating]) -> tuple[int, ...]:
    """Crop of B for each crop of A that makes the sum of similarities [A, B] largest.

    Exact, over sets of taken crops: 10 crops are 10,240 steps.
    """
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    for row in similarity:
        step: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {}
        for taken, (total, order) in best.items():
            for crop in set(range(len(row))) - taken:
                key, found = taken | {crop}, (total + float(row[crop]), (*order, crop))
                if key not in step or found[0] > step[key][0]:
                    step[key] = found
        best = step
    return best[frozenset(range(len(similarity)))][1]


def named_orders(order: tuple[int, ...]) -> list[tuple[str, str]]:
    """Pairs of named orders, of A and of B, between which ``order`` leads.

    ``order[i]`` is the crop of B that shows what crop i of A shows.
    """
    if len(order) not in (5, 10):
        return []
    views = {name: crop_boxes(name, len(order), 224, *FRAME) for name in FIVE_CROPS}
    return [
        (a, b)
        for a, b in permutations(FIVE_CROPS, 2)
        if all(views[a][i] == views[b][crop] for i, crop in enumerate(order))
    ]
