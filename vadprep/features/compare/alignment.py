"""Which clips and crops of B belong to those of A, and what the numbers of clips say.

The numbers show another tail rule, or another frame rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES, num_clips
from vadprep.core.crops import FIVE_CROPS, crop_boxes

NEAR = 1.5
"""Clips by which a number may miss a common ratio: a tail rule's one, and rounding."""

FRAME = (256, 340)
"""Height and width in px of the frame on which the crops of two orders are compared."""


class VideoClips(NamedTuple):
    """Numbers of clips of one video in both sets, and its (resampled) frames if known."""

    a: int
    b: int
    frames_a: int | None = None
    frames_b: int | None = None


@dataclass(frozen=True)
class ClipCounts:
    """How the numbers of clips of B relate to those of A."""

    num_videos: int
    num_equal: int
    fewer: int
    """Videos in which B has one clip less than A."""
    more: int
    """Videos in which B has one clip more than A."""
    ratio: float
    """Clips of B for one of A, over all videos; half a clip is added for what a tail cuts."""
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
    videos: Sequence[VideoClips], clip_lengths: tuple[int, int] = (CLIP_LENGTH, CLIP_LENGTH)
) -> ClipCounts:
    """How the numbers of clips of B relate to those of A, over one or more videos.

    ``clip_lengths`` are the frames of a clip in A and in B.
    """
    a, b = (np.array([video[side] for video in videos]) for side in (0, 1))
    half = len(videos) / 2
    ratio = float((b.sum() + half) / (a.sum() + half))
    same_rate = bool((np.abs(a - b) <= 1).all())
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
        ratio=1.0 if same_rate else ratio,
        error=float(half / a.sum()),
        is_constant=bool((np.abs(b - ratio * a) <= NEAR).all()),
        rules=(_rules(a, frames_a, clip_lengths[0]), _rules(b, frames_b, clip_lengths[1])),
        where=_where(a != b, frames_a, clip_lengths[0]) if same_rate else "",
    )


def _rules(clips: NDArray[np.int64], frames: Sequence[int | None], length: int) -> tuple[str, ...]:
    known = [(n, count) for n, count in zip(frames, clips, strict=True) if n is not None]
    return tuple(
        rule
        for rule in TAIL_RULES
        if known and all(num_clips(n, rule, length) == count for n, count in known)
    )


def _where(differs: NDArray[np.bool_], frames: Sequence[int | None], length: int) -> str:
    known = [
        (n % length == 0, bool(d)) for n, d in zip(frames, differs, strict=True) if n is not None
    ]
    if not any(differs for _, differs in known):
        return ""
    if all(multiple == differs for multiple, differs in known):
        return f"on multiples of {length}"
    return f"except on multiples of {length}" if all(m != d for m, d in known) else ""


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
