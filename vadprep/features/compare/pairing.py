"""Which clip of B shows what a clip of A shows, and which crop."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vadprep.core.crops import FIVE_CROPS, crop_boxes

FRAME = (256, 340)
"""Height and width in px of the frame on which the crops of two orders are compared."""


def paired_clips(a: int, b: int, ratio: float = 1.0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the clips of A and of B that show the same time: two int64 [n].

    ``ratio`` is the clips of B for one of A. The set with fewer clips keeps each of them once;
    the other gives the clip in whose time the middle of that one lies.
    """
    if ratio <= 1:
        fewer = np.arange(min(b, int(np.ceil(a * ratio))))
        return np.minimum(((fewer + 0.5) / ratio).astype(np.int64), a - 1), fewer
    theirs, ours = paired_clips(b, a, 1 / ratio)
    return ours, theirs


def best_order(similarity: NDArray[np.floating]) -> tuple[int, ...]:
    """Crop of B for each crop of A that makes the sum of similarities [A, B] largest.

    Exact, over sets of taken crops: 10 crops are 10,240 steps.
    """
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    num_crops = len(similarity)
    for row in range(num_crops):
        step: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {}
        for taken, (total, order) in best.items():
            for crop in set(range(num_crops)) - taken:
                sum_, key = total + float(similarity[row, crop]), taken | {crop}
                if key not in step or sum_ > step[key][0]:
                    step[key] = (sum_, (*order, crop))
        best = step
    return best[frozenset(range(num_crops))][1]


def named_orders(order: tuple[int, ...]) -> list[tuple[str, str]]:
    """Pairs of named orders, of A and of B, between which ``order`` leads.

    ``order[i]`` is the crop of B that shows what crop i of A shows.
    """
    if len(order) not in (5, 10):
        return []
    views = {name: crop_boxes(name, len(order), 224, *FRAME) for name in FIVE_CROPS}
    pairs = [pair for two in combinations(FIVE_CROPS, 2) for pair in (two, two[::-1])]
    return [(a, b) for a, b in pairs if _leads(order, views[a], views[b])]


def _leads(order: tuple[int, ...], a: tuple[object, ...], b: tuple[object, ...]) -> bool:
    return all(a[i] == b[crop] for i, crop in enumerate(order))
