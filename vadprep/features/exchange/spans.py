"""Counts of clips against counts of frames: the tail rule behind them, and their spans.

The files say nothing of frames, so the spans come from the manifest: a count that a tail rule
gives fixes them, and one that none gives is an error, unless the clips are to be spread evenly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import (
    CLIP_LENGTH,
    TAIL_RULES,
    Resampling,
    matlab_edges,
    nearest_rates,
    num_clips,
)
from vadprep.core.errors import FeaturesError
from vadprep.core.records import Video
from vadprep.data import frame_bounds

SEGMENTS = 32
"""Rows of a video in Sultani et al.'s files, whatever its length."""


@dataclass(frozen=True)
class Length:
    """Fewest and most source frames that a video may have, None where the manifest has none."""

    least: int | None
    most: int | None

    @classmethod
    def of(cls, video: Video) -> Length:
        """What the manifest says: ``num_frames``, else the bounds that some lists have."""
        return cls(*frame_bounds(video))

    @property
    def is_known(self) -> bool:
        return self.least is not None and self.most is not None


def resampling(video: Video, fps_used: Fraction | None) -> Resampling:
    """Frame-rate change of the features: none where ``fps_used`` is None.

    Raises FeaturesError when the manifest has no frame rate to change.
    """
    if fps_used is None:
        return Resampling(Fraction(1))
    if video.fps is None:
        raise FeaturesError(
            f"{video.video_id!r}: features at {fps_used} fps have no spans without the frame rate "
            f"of the video: fill the manifest's column fps"
        )
    return Resampling(Fraction(video.fps).limit_denominator(1001), fps_used)


def fitting_rules(clips: int, length: Length, rate: Resampling) -> frozenset[str]:
    """Tail rules that give ``clips`` for some number of frames that the video may have."""
    least = 0 if length.least is None else rate.count(length.least)
    most = (clips + 1) * CLIP_LENGTH if length.most is None else rate.count(length.most)
    return frozenset(
        rule for rule in TAIL_RULES if num_clips(least, rule) <= clips <= num_clips(most, rule)
    )


def common_rules(fits: Iterable[frozenset[str]]) -> frozenset[str]:
    """Rules that fit every video."""
    return frozenset(TAIL_RULES).intersection(*fits)


def misfit(clips: int, length: Length, rate: Resampling, fps: float | None) -> str:
    """Why no tail rule gives ``clips``: the counts that rules give, and a ratio of frame rates."""
    assert length.least is not None and length.most is not None
    counts = [
        num_clips(rate.count(frames), rule)
        for rule in TAIL_RULES
        for frames in (length.least, length.most)
    ]
    frames = str(length.most) if length.least == length.most else f"{length.least}-{length.most}"
    expected = f"{min(counts)}-{max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    ratio = clips / max(1, max(counts))
    rates = (ratio * fps, fps) if fps else nearest_rates(ratio)
    hint = f", as {rates[0]:.3g} is to {rates[1]:.3g} fps" if rates else ""
    return (
        f"{clips} clips where {frames} frames give {expected}: {ratio:.3g} x as many{hint}: name "
        f"the rate of the features by --set fps=RATE, or spread the clips evenly by --spans stretch"
    )


def fitted_spans(clips: int, length: Length, rate: Resampling) -> NDArray[np.int64]:
    """Spans of clips that fit a tail rule: clip k from s(16k) on, none past the last frame."""
    edges = [rate.source(CLIP_LENGTH * k) for k in range(clips + 1)]
    most = edges[-1] if length.most is None else length.most
    return _spans(np.minimum(edges, most))


def stretched_spans(clips: int, num_frames: int) -> NDArray[np.int64]:
    """Spans of clips spread evenly over all frames, whole frames each."""
    return _spans(np.arange(clips + 1) * num_frames // clips)


def segment_spans(num_frames: int) -> NDArray[np.int64]:
    """Spans of the 32 segments that Save_C3DFeatures_32Segments.m makes of a video.

    Edges are round(linspace(1, n, 33)) of the n clips, half away from zero, as MATLAB rounds; a
    segment of a short video may be empty. The last clip, which that code leaves out, counts to
    the last segment.
    """
    starts = matlab_edges(max(1, num_frames // CLIP_LENGTH), SEGMENTS) * CLIP_LENGTH
    starts[-1] = num_frames
    return _spans(starts)


def _spans(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([edges[:-1], edges[1:]], axis=1).astype(np.int64)
