"""Which clips a video has, which source frames each answers for, and the way back to frames.

    source frames     0 1 2 3 4 5 6 7 8 9 ...     as decoded
    resampled frames  s(0) s(1) s(2) ...          source index of each frame the network sees
    clip k            resampled frames 16k .. 16k+15; by another length L and stride S Sk .. Sk+L-1
    span k            source frames [s(16k), s(16k+16)); [s(Sk), s(Sk+L))
    flow t            motion from resampled frame t to t + 1; that of the last frame is zero

Without overlap each span ends where the next one starts, so spans tile the frames at any rate. A
frame in several spans has the mean of their scores. A video is taken to stand still after its last
frame: see "Flow at the end of a video" in the README.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import allowed_are

Spans = NDArray[np.int64]
"""[num_clips, 2]: the source frames [start, stop) of each clip, in order and without a gap from
frame 0 on. They tile the frames, or overlap where the stride is smaller than the clips."""

CLIP_LENGTH = 16
"""Frames of a clip, and the stride between clips, where nothing else is said."""

MOST_FRAMES = 10**8
"""Of a video: 38 days of 30 frames a second. Arrays of so many numbers are made of the number."""

TAIL_RULES: dict[str, Callable[[int, int, int], int]] = {
    "drop": lambda frames, length, stride: max(0, (frames - length) // stride + 1),
    "xd": lambda frames, length, stride: max(0, (frames - 1 - length) // stride + 1),
    "repeat-last": lambda frames, length, stride: (
        max(0, -((length - frames) // stride)) + 1 if frames else 0
    ),
}
"""Number of clips of a length, one each ``stride``, in so many (resampled) frames.

``drop`` leaves out an incomplete last clip; ``xd`` keeps one frame back for the flow of the last
pair (XDVioDet); ``repeat-last`` repeats the last frame until the last clip is full. The scripts of
RTFM and UR-DMU also score the repeats: they count 16 ceil(n / 16) frames, spans here end at n.
"""


def num_clips(
    num_frames: int, tail: str, length: int = CLIP_LENGTH, stride: int | None = None
) -> int:
    """Clips of ``num_frames`` resampled frames, one each ``stride`` frames (``length`` by default);
    raises ValueError for an unknown tail rule."""
    if tail not in TAIL_RULES:
        raise ValueError(f"{tail = }: {allowed_are(tail, TAIL_RULES)}")
    return TAIL_RULES[tail](num_frames, length, stride or length)


def min_frames(tail: str, length: int = CLIP_LENGTH) -> int:
    """Fewest resampled frames that give one clip under a tail rule."""
    return next(n for n in range(1, 2 * length + 1) if num_clips(n, tail, length))


def num_flows(num_frames: int) -> int:
    """Flows between ``num_frames`` frames: all that have to be computed, or stored."""
    return max(num_frames - 1, 0)


SAMPLINGS = ("times", "index", "near", "down")
"""Rules of a frame-rate change, as a spec has them; ``Resampling`` says what they do."""
SAMPLING_NAMES = {"up": "times"}
"""Other names of a rule."""

_EXACT = 1e-6  # seconds by which times may miss what they stand for, as floats


class Resampling:
    """Frame-rate change: which source frames are seen. No frame is blended or re-encoded.

    A source frame that begins at t seconds has the place t * fps_used, rounded to a whole number.
    Resampled frame i shows the last source frame whose place is i or less. ``sampling`` is one of:

    - ``times``: rounded up, so that frame i shows what is on screen at i / fps_used;
    - ``near``: rounded to the nearest number, halves up;
    - ``down``: rounded down;
    - ``index``: rounded up, as if all frames lasted equally long: frame i shows the source frame
      floor(i * fps_source / fps_used), in exact rational arithmetic.

    The first three are ffmpeg's filter ``fps`` with ``round=up``, ``near`` (its default) and
    ``down``. With ``fps_used=None`` every frame is seen once.

    ``times`` are seconds from the first frame to each one, in order, and at the end those to the
    end of the video; None where all frames last equally long. The list may still grow: what is
    asked of a frame takes the begin of the next. Time stamps are rounded, so by ``times`` a frame
    begins ``tolerance`` seconds earlier; ``near`` and ``down`` take them as they are, like ffmpeg.
    """

    def __init__(
        self,
        fps_source: Fraction,
        fps_used: Fraction | None = None,
        times: Sequence[float] | None = None,
        tolerance: float = _EXACT,
        sampling: str = "times",
    ) -> None:
        if fps_source <= 0 or (fps_used is not None and fps_used <= 0):
            raise ValueError(f"{fps_source = }, {fps_used = }: frame rates are positive")
        if sampling not in SAMPLINGS:
            raise ValueError(f"{sampling = }: {allowed_are(sampling, SAMPLINGS)}")
        self.fps_source = fps_source
        self.fps_used = fps_source if fps_used is None else fps_used
        self._step = fps_source / self.fps_used
        self._times = None if fps_used is None or sampling == "index" else times
        self._tolerance = tolerance
        # By how much of a frame a place moves before it is rounded down; None: it is rounded up.
        self._shift = {"near": Fraction(1, 2), "down": Fraction(0)}.get(sampling)

    def source(self, index: int) -> int:
        """s(index): source frame shown by resampled frame ``index``."""
        if self._shift is None:
            if self._times is None:
                return floor(index * self._step)
            shown = float(index / self.fps_used) + self._tolerance
            return max(0, bisect_right(self._times, shown) - 1)
        place = index + 1 - self._shift  # at which a frame comes too late
        if self._times is None:
            return ceil(place * self._step) - 1
        return max(0, bisect_left(self._times, float(place / self.fps_used) - _EXACT) - 1)

    def begin(self, index: int) -> int:
        """First source frame that resampled frame ``index`` answers for: 0, then s(index)."""
        return self.source(index) if index else 0

    def count(self, num_source_frames: int) -> int:
        """Number of resampled frames i with s(i) < ``num_source_frames``."""
        if self._times is None:
            place = num_source_frames / self._step
            return ceil(place) if self._shift is None else floor(place + self._shift)
        return self.place(self._times[num_source_frames]) if num_source_frames else 0

    def place(self, seconds: float) -> int:
        """First resampled frame that may show a source frame which begins at ``seconds``."""
        if self._shift is None:
            return max(0, ceil((seconds - self._tolerance) * self.fps_used))
        return floor((seconds + _EXACT) * self.fps_used + self._shift)

    def repeats(self, source_index: int) -> int:
        """How many resampled frames show source frame ``source_index`` (0 when skipped)."""
        return self.count(source_index + 1) - self.count(source_index)

    def spans(
        self,
        num_source_frames: int,
        tail: str,
        length: int = CLIP_LENGTH,
        stride: int | None = None,
    ) -> Spans:
        """Spans of all clips. Frames that ``repeat-last`` makes up answer for nothing."""
        stride = stride or length
        clips = num_clips(self.count(num_source_frames), tail, length, stride)
        edges = [
            [min(self.begin(stride * k + end), num_source_frames) for end in (0, length)]
            for k in range(clips)
        ]
        return np.array(edges, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Clock:
    """The way between source frames of a video and seconds from its first frame."""

    fps: float
    """Average source frames a second."""
    times: NDArray[np.float64] | None = None
    """Seconds at which each frame begins, and the last one ends: float64 [num_frames + 1]. None
    where all frames last equally long."""

    def seconds(self, frame: int) -> float:
        """When a source frame begins; past the last one in steps of the average rate."""
        if self.times is None:
            return frame / self.fps
        last = len(self.times) - 1
        return float(self.times[min(frame, last)]) + max(0, frame - last) / self.fps

    def frame(self, seconds: float) -> int:
        """The source frame whose begin is nearest, so that ``seconds(frame)`` gives it back."""
        if self.times is None:
            return round(seconds * self.fps)
        last = len(self.times) - 1
        if seconds >= self.times[last]:
            return last + round((seconds - float(self.times[last])) * self.fps)
        after = int(np.searchsorted(self.times, seconds))
        is_before = after and seconds - self.times[after - 1] <= self.times[after] - seconds
        return after - 1 if is_before else after


def frames_in_spans(spans: Spans, count: int = CLIP_LENGTH) -> NDArray[np.int64]:
    """``count`` source frames of each span in even steps: int64 [num_clips, count]."""
    return np.asarray(spans[:, :1] + np.arange(count) * np.diff(spans) // count)


def segment_edges(num_snippets: int, segments: int) -> NDArray[np.int64]:
    """Edges of equal parts: linspace(0, T, segments + 1) truncated, int64 [segments + 1].

    The rule ``process_feat`` of RTFM and its descendants, with its rounding: in float64, i (T / 50)
    may fall short of a whole number, and so edge 25 of T = 58 is 28, not 29. Of 32 segments every
    edge is exact. Part i is the rows edges[i] .. edges[i + 1] - 1, or row edges[i] where there are
    none (T < segments).
    """
    return np.linspace(0, num_snippets, segments + 1, dtype=np.int64)


def matlab_edges(num_snippets: int, segments: int) -> NDArray[np.int64]:
    """Edges of Sultani's script: round(linspace(1, T, segments + 1)), counted from 0.

    Halves are rounded up, as MATLAB does. The last edge is T - 1, not T: the script never
    counts the last snippet in, unless it is alone.
    """
    doubled = 2 * np.arange(segments + 1) * (num_snippets - 1) + segments
    return doubled // (2 * segments)


COMMON_FPS = (30, 25, 24, 60, 50, 15, 20, 12, 10)
"""Frame rates by how likely they are behind a ratio of counts."""


def nearest_rates(
    ratio: float, tolerance: float = 0.02, fps: float | None = None
) -> tuple[float, float] | None:
    """The two common frame rates whose quotient is nearest to ``ratio``; None when none is near.

    With ``fps`` the second is that one. Near is within ``tolerance`` of the ratio; a ratio of 1
    is no change of rate, nor is 30 to 29.97 fps.
    """
    others = COMMON_FPS if fps is None else (fps,)
    pairs = [(one, other) for other in others for one in COMMON_FPS if abs(one - other) > 0.5]
    best = min(pairs, key=lambda pair: abs(pair[0] / pair[1] - ratio))
    return best if abs(best[0] / best[1] - ratio) < tolerance * ratio else None


COVERAGES = ("cut", "hold")
"""What frames after the last span score: ``cut`` leaves them out, ``hold`` repeats the last."""


def frame_scores(
    scores: NDArray[np.floating], spans: Spans, num_frames: int, coverage: str = "cut"
) -> NDArray[np.float64]:
    """Scores of source frames from snippet scores [num_clips], each spread over its span. A frame
    in several spans has the mean of their scores.

    Returns float64 [last stop] with ``cut`` and [num_frames] with ``hold``.
    Raises ValueError when the shapes disagree, or as ``check_spans``.
    """
    if coverage not in COVERAGES:
        raise ValueError(f"{coverage = }: {allowed_are(coverage, COVERAGES)}")
    check_spans(spans, num_frames)
    if scores.shape != spans.shape[:1]:
        raise ValueError(f"{scores.shape = } does not fit {spans.shape = }")
    if np.array_equal(spans[1:, 0], spans[:-1, 1]):
        spread = np.repeat(scores.astype(np.float64), spans[:, 1] - spans[:, 0])
    else:
        frames, values = np.arange(spans[-1, 1]), scores.astype(np.float64)
        begun, ended = (np.searchsorted(spans[:, end], frames, "right") for end in (0, 1))
        first, more = values[ended], np.zeros(len(frames))  # the mean of equal scores is that score
        for nth in range(1, int((begun - ended).max(initial=0))):
            other = np.minimum(ended + nth, begun - 1)
            more += np.where(ended + nth < begun, values[other] - first, 0.0)
        spread = first + more / (begun - ended)
    if coverage == "hold" and len(scores):
        spread = np.pad(spread, (0, num_frames - len(spread)), constant_values=scores[-1])
    return spread


def check_spans(spans: Spans, num_frames: int, may_overlap: bool = True) -> None:
    """Raise ValueError unless ``spans`` [num_clips, 2] cover [0, last stop <= num_frames) in order
    and without a gap. Unless they ``may_overlap``, they have to tile it."""
    if spans.ndim != 2 or spans.shape[1] != 2:
        raise ValueError(f"{spans.shape = }: expected [num_clips, 2]")
    if not len(spans):
        return
    gaps = spans[1:, 0] - spans[:-1, 1]
    if spans[0, 0] != 0 or np.any(gaps > 0) or (np.any(gaps < 0) and not may_overlap):
        raise ValueError("spans do not tile the frames: a gap or an overlap")
    is_backwards = np.any(spans[:, 1] < spans[:, 0]) or np.any(np.diff(spans, axis=0) < 0)
    if is_backwards or spans[-1, 1] > num_frames:
        raise ValueError(f"spans run backwards or past the {num_frames} frames of the video")


def frame_labels(intervals: tuple[tuple[int, int], ...], num_frames: int) -> NDArray[np.bool_]:
    """True for the source frames inside any interval [start, stop): bool [num_frames]."""
    labels = np.zeros(num_frames, dtype=bool)
    for start, stop in intervals:
        labels[start:stop] = True
    return labels


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Unbroken runs of True in ``flags`` [n], half-open [start, stop), in order."""
    padded = np.concatenate([[False], flags, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
