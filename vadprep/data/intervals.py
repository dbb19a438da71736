"""The anomalous frames of a video: seconds and fractions to frames, and ends past its end."""

from __future__ import annotations

from collections.abc import Sequence

from vadprep.core.clips import Clock, nearest_rates
from vadprep.core.errors import ManifestError
from vadprep.core.records import Interval, Video

MAX_PAST_END = 16
"""Frames by which an interval may pass the end of its video: one clip.

Published annotations do so (5 ends of UCF-Crime by 1 or 2 frames, 71 of XD-Violence by up to
15 of the scored length); more means that frames and intervals were counted at two rates.
"""


def video_intervals(
    video: Video,
    num_frames: int,
    clock: Clock | None = None,
    where: str = "",
    notes: list[str] | None = None,
) -> tuple[Interval, ...] | None:
    """Anomalous source frames of a decoded video of ``num_frames``; None where unknown.

    Seconds are turned into frames by ``clock``, that of the decoded video, else at the rate of the
    manifest. Fractions of the length are multiplied by ``num_frames`` and rounded.
    Ends up to 16 frames past the video are cut; a line for each goes into ``notes``. Raises
    ManifestError beyond that, and for seconds without any frame rate; ``where``
    (``Manifest.where``) opens its message.
    """
    where = where or f"video {video.video_id!r}"
    clock = clock or (Clock(video.fps) if video.fps else None)
    intervals = video.intervals
    if video.intervals_seconds is not None:
        if clock is None:
            raise ManifestError(f"{where}: no frame rate turns seconds into frames: fill in fps")
        edges = [(clock.frame(a), clock.frame(b)) for a, b in video.intervals_seconds]
        intervals = tuple((start, max(stop, start + 1)) for start, stop in edges)
        if intervals and intervals[-1][1] > num_frames + MAX_PAST_END:
            stop, length = video.intervals_seconds[-1][1], clock.seconds(num_frames)
            raise ManifestError(
                f"{where}: ends at {stop:g} s, but the video has {length:.2f} s"
                f"{_remedy(stop / length, clock.fps)}"
            )
    elif video.intervals_fraction is not None:
        edges = [
            (round(a * num_frames), round(b * num_frames)) for a, b in video.intervals_fraction
        ]
        intervals = tuple((start, max(stop, start + 1)) for start, stop in edges)
    if intervals is None:
        return None
    kept, found = clip_intervals(intervals, num_frames, where, fps=clock.fps if clock else None)
    if notes is not None:
        notes += found
    return kept


def clip_intervals(
    intervals: Sequence[Interval],
    num_frames: int,
    where: str,
    counted: str = "frames",
    fps: float | None = None,
) -> tuple[tuple[Interval, ...], list[str]]:
    """Intervals cut at ``num_frames``, and a line for each that was cut or left out.

    ``where`` opens each line, ``counted`` says what the frames are. Raises ManifestError for
    an end more than 16 frames past the last one, with the frame rates that may be behind it.
    """
    notes = []
    for start, stop in intervals:
        if stop > num_frames + MAX_PAST_END:
            ratio = stop / num_frames
            raise ManifestError(
                f"{where}: interval end {stop} is {ratio:.3g} x the {num_frames} {counted}"
                f"{_remedy(ratio, fps)}"
            )
        if stop > num_frames:
            done = "cut there" if start < num_frames else "left out"
            notes.append(
                f"{where}: interval [{start}, {stop}) passes the {num_frames} {counted}: {done}"
            )
    return tuple((a, min(b, num_frames)) for a, b in intervals if a < num_frames), notes


def _remedy(ratio: float, fps: float | None) -> str:
    """What to do about an end at ``ratio`` x the length, counted at two frame rates or not."""
    rates = nearest_rates(ratio, fps=fps)
    cut = "replace a video that is cut short"
    if rates is None:
        return f": correct it, or {cut}"
    return f", as {rates[0]:.4g} is to {rates[1]:.4g} fps: count both at one frame rate, or {cut}"
