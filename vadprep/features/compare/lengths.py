"""What the numbers of clips of the same videos say: tail rules, and a change of frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES, num_clips

NEAR = 1.5
"""Clips by which a count may miss a common ratio: a tail rule's one, and rounding."""


@dataclass(frozen=True)
class Lengths:
    """Clips of one video in both sets, and its (resampled) frames where they are known."""

    a: int
    b: int
    frames_a: int | None = None
    frames_b: int | None = None


@dataclass(frozen=True)
class CountsFound:
    """How the counts of B relate to those of A."""

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
    """Every count fits the ratio within NEAR clips."""
    rules: tuple[tuple[str, ...], tuple[str, ...]]
    """Tail rules that fit every video whose frames are known, of A and of B."""
    where: str
    """Videos in which the counts differ, in words, where their frames tell which; else blank."""

    @property
    def same_rate(self) -> bool:
        """Both sets have as many clips of each video, up to one at its end."""
        return self.num_equal + self.fewer + self.more == self.num_videos


def look_at_counts(
    videos: Sequence[Lengths], clip_lengths: tuple[int, int] = (CLIP_LENGTH, CLIP_LENGTH)
) -> CountsFound:
    """How the counts of clips of B relate to those of A, over one or more videos.

    ``clip_lengths`` are the frames of a clip in A and in B.
    """
    a = np.array([video.a for video in videos])
    b = np.array([video.b for video in videos])
    half = len(videos) / 2
    ratio = float((b.sum() + half) / (a.sum() + half))
    same_rate = bool((np.abs(a - b) <= 1).all())
    shared = [_shared(video) if same_rate else video for video in videos]
    return CountsFound(
        num_videos=len(videos),
        num_equal=int((a == b).sum()),
        fewer=int((b == a - 1).sum()),
        more=int((b == a + 1).sum()),
        ratio=1.0 if same_rate else ratio,
        error=float(half / a.sum()),
        is_constant=bool((np.abs(b - ratio * a) <= NEAR).all()),
        rules=(
            _rules([(video.a, video.frames_a) for video in shared], clip_lengths[0]),
            _rules([(video.b, video.frames_b) for video in shared], clip_lengths[1]),
        ),
        where=_where(shared, clip_lengths[0]) if same_rate else "",
    )


def _shared(video: Lengths) -> Lengths:
    """Frames that one set knows hold for the other, too, when both are at one rate."""
    frames_a = video.frames_b if video.frames_a is None else video.frames_a
    frames_b = video.frames_a if video.frames_b is None else video.frames_b
    return Lengths(video.a, video.b, frames_a, frames_b)


def _rules(counts: Sequence[tuple[int, int | None]], length: int) -> tuple[str, ...]:
    known = [(clips, frames) for clips, frames in counts if frames is not None]
    return tuple(
        rule
        for rule in TAIL_RULES
        if known and all(num_clips(frames, rule, length) == clips for clips, frames in known)
    )


def _where(videos: Sequence[Lengths], length: int) -> str:
    known = [video for video in videos if video.frames_a is not None]
    differs = [video.a != video.b for video in known]
    multiple = [(video.frames_a or 0) % length == 0 for video in known]
    if not any(differs):
        return ""
    if differs == multiple:
        return f"on multiples of {length}"
    return f"except on multiples of {length}" if differs == [not each for each in multiple] else ""
