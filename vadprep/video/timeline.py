"""When the frames of a video file are shown, by the time stamps of its packets.

stamps (s)   0.00  0.04  0.08        0.36  0.40        each lasts 0.04 s
hole                          ^^^^^^                   6 frames are missing before place 3
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HOLE_FRAMES = 2  # a longer distance is a hole, unless the frame before says that it lasts
HOLE_GAPS = 5  # distances that one hole may change: frames are lost on both sides of its edges
VARYING_SHARE = 0.05  # with more distances that differ from the usual one, the rate is variable
MAX_DRIFT = 0.5  # seconds by which time stamps may differ from the average rate unreported
MAX_PAUSE = 600.0  # seconds; a longer distance is a jump of the clock, and counts as one frame
MAX_SLOTS = 100  # slots of an AVI to one picture, on the average
MOST_PLACES = 5  # holes that a note names


@dataclass(frozen=True)
class Timeline:
    """The frames that the packets of a video announce, in display order. None is decoded for it."""

    stamps: NDArray[np.float64]
    """Seconds at which each frame begins, by the clock of the file: [n], increasing."""
    step: float
    """The usual distance between two frames in seconds."""
    holes: dict[int, int] = field(default_factory=dict)
    """Place of a frame -> how many frames are missing before it."""
    jumps: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Seconds by which the clock has jumped before each frame: [n]."""
    notes: tuple[str, ...] = ()
    """What a user should know of the times, each in one phrase."""

    def seconds(self, place: int) -> float:
        """Seconds from the first frame to the one at ``place``, past the last one in steps."""
        if not len(self.stamps):
            return place * self.step
        at = min(place, len(self.stamps) - 1)
        known = float(self.stamps[at] - self.stamps[0] - self.jumps[at])
        return known + (place - at) * self.step


def timeline_of(shown: NDArray[np.float64], fps: float, slots: bool = False) -> Timeline:
    """The timeline of packets, from start and duration in seconds (0: unknown) of each: [n, 2].

    ``fps`` is the average frame rate by the header. With ``slots`` the times count equal slots of
    1 / fps, and those without a packet are holes.
    """
    stamps, first = np.unique(shown[:, 0], return_index=True)
    if not len(stamps):
        return Timeline(stamps, 1 / fps)
    durations = shown[first, 1]
    distances = np.diff(stamps)
    step = 1 / fps if slots or not len(distances) else float(np.median(distances))
    excess = np.where(distances > MAX_PAUSE, distances - step, 0)
    distances, notes = distances - excess, []
    varying = np.abs(distances / step - 1) > 0.5
    if slots:
        found = varying if distances.sum() < MAX_SLOTS * step * len(stamps) else np.zeros(0)
    elif varying.sum() > max(HOLE_GAPS, VARYING_SHARE * len(varying)):
        slow, fast = 1 / np.quantile(distances, (0.95, 0.05))
        notes.append(f"the frame rate varies, from {slow:.4g} to {fast:.4g} frames a second")
        found = np.zeros(0)
    else:
        found = distances - np.maximum(durations[:-1], step) > (HOLE_FRAMES - 0.5) * step
        skipped = varying & (distances > step) & ~found & (durations[:-1] < 1.5 * step)
        if skipped.any():
            notes.append(
                f"the time stamps skip {frames_text(int(skipped.sum()))}: lost without an error, "
                "or a variable frame rate"
            )
    holes = {
        place + 1: round(distances[place] / step) - 1 for place in np.flatnonzero(found).tolist()
    }
    times = np.concatenate([[0.0], np.cumsum(distances)])
    if holes and not slots:
        named = [f"from {times[k - 1] + step:.2f} to {times[k]:.2f} s" for k in holes]
        more = ["..."] if len(holes) > MOST_PLACES else []
        missing = f"{frames_text(sum(holes.values()))} missing in the time stamps"
        notes.append(f"{missing}, {', '.join(named[:MOST_PLACES] + more)}")
    for place in np.flatnonzero(excess)[:1].tolist():
        notes.append(f"the time stamps jump by {excess[place]:.0f} s at {times[place]:.2f} s")
    drift = float(np.abs(times - np.arange(len(times)) / fps).max())
    if drift > MAX_DRIFT and not holes:
        notes.append(f"time stamps and average frame rate differ by up to {drift:.2f} s")
    jumps = np.concatenate([[0.0], np.cumsum(excess)])
    return Timeline(stamps, step, holes, jumps, tuple(notes))


def frames_text(count: int) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} frame{'s' * (count != 1)}"
