"""The frames that were decoded against what header and manifest say, and the likely cause.

Both may be wrong, harmlessly or not. The check decides only how many frames are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES, nearest_rates, num_clips

MAX_DAMAGE = 0.1
"""A video fails when more than this share of its frames had to be filled in or is missing."""

MIN_FPS, MAX_FPS = 1, 1000
"""A header with a frame rate outside is taken to be wrong."""

RATE_TOLERANCE = 0.002
"""Of a ratio of frame counts to a ratio of frame rates, besides a frame or two: 29.97 is 30."""

FEW_SKIPPED = 0.05
"""Share of skipped frames up to which they are reported; a variable frame rate skips more."""


@dataclass(frozen=True)
class FrameCounts:
    """Numbers of frames, and times in seconds; None where nothing states them."""

    decoded: int
    end_seconds: float | None = None
    """Time at which the last decoded frame ends."""
    header_frames: int | None = None
    header_seconds: float | None = None
    """Time at which the video ends by the header."""
    manifest_bounds: tuple[int | None, int | None] = (None, None)
    """Fewest and most frames by the manifest."""
    skipped: int = 0
    """Frames that fit into the gaps between the timestamps."""
    fps: Fraction = Fraction(25)
    """Frame rate by the header."""

    @property
    def expected(self) -> int:
        """Frames that the file should have given; ``decoded`` if its header states nothing.

        The lower of two numbers, since either may be harmlessly too high: the count in the
        header, which ignores an mp4's edit list, and the time at which the video is to end, in
        frames at the pace of those decoded, whatever the header's average frame rate is.
        """
        counts = [self.header_frames] if self.header_frames else []
        if self.header_seconds and self.end_seconds and self.end_seconds > 0:
            counts.append(round(self.decoded * self.header_seconds / self.end_seconds))
        return min(counts, default=self.decoded)

    @property
    def missing(self) -> int:
        """Frames that the file should have given and did not."""
        return max(0, self.expected - self.decoded)


def length_note(counts: FrameCounts, length: int = CLIP_LENGTH) -> str:
    """Why the counts differ, in one line; empty where all agree.

    ``length`` is the frames of a clip. A difference of one frame to the header is not reported.
    """
    return "; ".join(_notes(counts, length))


def _notes(counts: FrameCounts, length: int) -> Iterator[str]:
    decoded, is_truncated = counts.decoded, counts.missing > 1
    if is_truncated:
        end, seconds = counts.end_seconds, counts.header_seconds
        if seconds and end and end < seconds:
            whole = f"{end:.2f} s of {seconds:.2f} s"
        else:
            whole = f"of {counts.expected} in the header"
        yield f"truncated after frame {decoded} ({whole})"
    else:
        yield from _header_notes(counts, length)
    if 0 < counts.skipped <= FEW_SKIPPED * decoded:
        yield (
            f"the timestamps skip {_frames(counts.skipped)}: lost without an error, or a "
            f"variable frame rate"
        )
    # The manifest may count the whole video, of which the file is only a part.
    count, source = (counts.expected, "header") if is_truncated else (decoded, "video")
    bound = _violated_bound(count, counts.manifest_bounds)
    if bound is not None and not (is_truncated and abs(bound - count) <= 1):
        cause = _cause(count, bound, length) or f": {count / max(1, bound):.3g} x as many"
        yield f"the manifest has {_frames(bound)}, the {source} has {count}{cause}"


def _violated_bound(count: int, bounds: tuple[int | None, int | None]) -> int | None:
    """The bound that ``count`` violates; None when it violates none."""
    least, most = bounds
    if least is not None and count < least:
        return least
    return most if most is not None and count > most else None


def _header_notes(counts: FrameCounts, length: int) -> Iterator[str]:
    """Statements of the header that the frames contradict, though no frame is missing."""
    decoded, stated, end = counts.decoded, counts.header_frames, counts.end_seconds
    if not MIN_FPS <= counts.fps <= MAX_FPS:
        yield f"the header says {float(counts.fps):.6g} frames a second"
    if stated and abs(stated - decoded) > 1:
        cause = _cause(decoded, stated, length) or ": an edit list, or a wrong count"
        yield f"the header says {_frames(stated)}, the video has {decoded}{cause}"
    if counts.header_seconds and end and counts.header_seconds > 2 * end:
        yield (
            f"the header says {counts.header_seconds:.2f} s, the frames end at "
            f"{end:.2f} s: a wrong duration"
        )


def _cause(decoded: int, stated: int, length: int) -> str:
    """Likely cause of ``stated`` frames where there are ``decoded``; empty where none is known."""
    if abs(decoded - stated) == 1:
        changes = []
        for rule in TAIL_RULES:
            more = num_clips(decoded, rule, length) - num_clips(stated, rule, length)
            if more:
                changes.append(f"one clip {'more' if more > 0 else 'fewer'} by tail rule {rule}")
        return f": {', '.join(changes)}" if changes else ", which changes no clip"
    rules = [rule for rule in TAIL_RULES if num_clips(decoded, rule, length) * length == stated]
    if rules:
        return f": whole clips of {length} by tail rule {' or '.join(rules)}"
    ratio = decoded / max(1, stated)
    rates = nearest_rates(ratio, RATE_TOLERANCE + 1.5 / max(1, stated))
    return f": {ratio:.3g} = {rates[0]}/{rates[1]}, counted at another frame rate" if rates else ""


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"
