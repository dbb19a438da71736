"""Measures of two sets of snippets that show the same clips, from sums that hold few of them.

Features of one network resemble each other whatever the video, and those of one video resemble
each other whatever the network. So the tests for "same network" and "same video" look at what is
left when the mean of each video is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Snippets of the same clips of one video in A and in B."""

MOST_FEATURES = 256
"""Features among which each is looked for."""
FEWEST_CLIPS = 8
"""Fewest clips for a test on the course in time."""


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
