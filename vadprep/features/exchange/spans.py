"""From numbers of clips and frames to tail rules and spans.

The files say nothing about frames, so the spans come from the manifest. If a tail rule gives the
number of clips, the spans follow from it. If no rule gives it, that is an error, unless the clips
are to be spread evenly.
"""

from __future__ import annotations

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
from vadprep.core.spec import UNKNOWN
from vadprep.data import FrameBounds

SEGMENTS = 32
"""Rows of a video in Sultani et al.'s files, whatever its length."""


def resampling_of(video: Video, fps: str) -> Resampling:
    """The change of frame rate to ``fps``, a value of the spec; none where that is no number.

    Raises FeaturesError if the manifest has no frame rate to change.
    """
    if fps in ("native", UNKNOWN):
        return Resampling(Fraction(1))
    if video.fps is None:
        raise FeaturesError(
            f"{video.video_id!r}: features at {fps} fps have no spans without the frame rate "
            f"of the video: fill the manifest's column fps"
        )
    return Resampling(Fraction(video.fps).limit_denominator(1001), Fraction(fps))


def matching_tails(clips: int, bounds: FrameBounds, resampling: Resampling) -> frozenset[str]:
    """Tail rules that give ``clips`` for some number of frames that the video may have."""
    least = 0 if bounds.least is None else resampling.count(bounds.least)
    most = (clips + 1) * CLIP_LENGTH if bounds.most is None else resampling.count(bounds.most)
    return frozenset(
        rule for rule in TAIL_RULES if num_clips(least, rule) <= clips <= num_clips(most, rule)
    )


def mismatch(clips: int, bounds: FrameBounds, resampling: Resampling, fps: float | None) -> str:
    """Why no tail rule gives ``clips``: the numbers that rules give, and a ratio of frame rates."""
    assert bounds.least is not None and bounds.most is not None
    ends = [resampling.count(frames) for frames in (bounds.least, bounds.most)]
    counts = [num_clips(frames, rule) for rule in TAIL_RULES for frames in ends]
    frames = f"{bounds.most}" if bounds.least == bounds.most else f"{bounds.least}-{bounds.most}"
    expected = f"{min(counts)}-{max(counts)}" if min(counts) < max(counts) else f"{counts[0]}"
    ratio = clips / max(1, max(counts))
    rates = (ratio * fps, fps) if fps else nearest_rates(ratio)
    hint = f", as {rates[0]:.3g} is to {rates[1]:.3g} fps" if rates else ""
    return (
        f"{clips} clips where {frames} frames give {expected}: {ratio:.3g} x as many{hint}: name "
        f"the rate of the features by --set fps=RATE, or spread the clips evenly by --spans stretch"
    )


def clip_spans(clips: int, bounds: FrameBounds, resampling: Resampling) -> NDArray[np.int64]:
    """Spans of clips that a tail rule gives: clip k starts at s(16k), none passes the last frame.

    int64 [clips, 2], as of all functions here.
    """
    edges = [resampling.source(CLIP_LENGTH * k) for k in range(clips + 1)]
    return _spans(np.minimum(edges, edges[-1] if bounds.most is None else bounds.most))


def even_spans(clips: int, num_frames: int) -> NDArray[np.int64]:
    """Spans of clips spread evenly over all frames, whole frames each."""
    return _spans(np.arange(clips + 1) * num_frames // clips)


def segment_spans(num_frames: int) -> NDArray[np.int64]:
    """Spans of the 32 segments that Save_C3DFeatures_32Segments.m makes of a video.

    Edges are round(linspace(1, n, 33)) of the n clips (``matlab_edges``). A segment of a short
    video may be empty. The last clip, which that code leaves out, counts to the last segment.
    """
    starts = matlab_edges(max(1, num_frames // CLIP_LENGTH), SEGMENTS) * CLIP_LENGTH
    starts[-1] = num_frames
    return _spans(starts)


def _spans(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([edges[:-1], edges[1:]], axis=1).astype(np.int64)
