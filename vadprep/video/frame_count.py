"""What was said of a video's length against what came out of it, and the likely cause in words.

Two witnesses besides the frames: the header (a count, and the time at which the video ends), and
the manifest. Both lie, harmlessly or not; nothing here decides more than what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from vadprep.core.clips import CLIP_LENGTH, TAIL_RULES, nearest_rates, num_clips

MAX_DAMAGE = 0.1
"""A video fails when more than this share of its frames had to be filled in or is missing."""

MIN_FPS, MAX_FPS = 1, 1000
"""Frame rates outside are taken for a lying header."""

RATE_TOLERANCE = 0.002
"""Of a ratio of counts against one of frame rates, besides a frame or two: 29.97 is 30."""

FEW_LEFT_OUT = 0.05
"""Share of frames left out by the time stamps up to which it is told; a variable frame rate
leaves out more."""


@dataclass(frozen=True)
class Claims:
    """Counts of frames, and times in seconds; None where nobody says."""

    decoded: int
    end: float | None = None
    """Time at which the last decoded frame ends."""
    header_frames: int | None = None
    header_seconds: float | None = None
    """Time at which the video ends by the header."""
    manifest: tuple[int | None, int | None] = (None, None)
    """Fewest and most frames by the manifest."""
    left_out: int = 0
    """Frames that the time stamps leave room for between those that came."""
    fps: Fraction = Fraction(25)
    """Frame rate by the header."""

    @property
    def claimed(self) -> int:
        """Frames that the file should have given; ``decoded`` if it is silent.

        The lower of what two witnesses say, since either may lie harmlessly: the count in the
        header, which knows nothing of an mp4's edit list, and the time at which the video is to
        end, in frames at the pace of those decoded, whatever the average frame rate claims.
        """
        claims = [self.header_frames] if self.header_frames else []
        if self.header_seconds and self.end and self.end > 0:
            claims.append(round(self.decoded * self.header_seconds / self.end))
        return min(claims, default=self.decoded)

    @property
    def missing(self) -> int:
        """Frames that the file should have given and did not."""
        return max(0, self.claimed - self.decoded)


def length_note(claims: Claims, length: int = CLIP_LENGTH) -> str:
    """Why the length is not what was said, in one line; blank where all agree.

    ``length`` is the frames of a clip. A header may be off by a frame without a word.
    """
    return "; ".join(_notes(claims, length))


def _notes(claims: Claims, length: int) -> Iterator[str]:
    decoded, is_truncated = claims.decoded, claims.missing > 1
    if is_truncated:
        yield _truncated(claims)
    else:
        yield from _odd_header(claims, length)
    if 0 < claims.left_out <= FEW_LEFT_OUT * decoded:
        yield (
            f"the time stamps leave out {_frames(claims.left_out)}: lost without a trace, or a "
            f"variable frame rate"
        )
    # The manifest may go by the whole of what has been cut off.
    count, verb = (claims.claimed, "claimed") if is_truncated else (decoded, "decoded")
    said = _other_than(count, claims.manifest)
    if said is not None and not (is_truncated and abs(said - count) <= 1):
        cause = _cause(count, said, length) or f": {count / max(1, said):.3g} x as many"
        yield f"the manifest has {_frames(said)}, {verb} are {count}{cause}"


def _other_than(decoded: int, bounds: tuple[int | None, int | None]) -> int | None:
    """The bound that ``decoded`` passes, None when it passes none."""
    least, most = bounds
    if least is not None and decoded < least:
        return least
    return most if most is not None and decoded > most else None


def _truncated(claims: Claims) -> str:
    if claims.header_seconds and claims.end and claims.end < claims.header_seconds:
        whole = f"{claims.end:.2f} s of {claims.header_seconds:.2f} s"
    else:
        whole = f"of {claims.claimed} in the header"
    return f"truncated after frame {claims.decoded} ({whole})"


def _odd_header(claims: Claims, length: int) -> Iterator[str]:
    """Claims of the header that the frames belie, though none is missing."""
    decoded, said = claims.decoded, claims.header_frames
    if not MIN_FPS <= claims.fps <= MAX_FPS:
        yield f"the header claims {float(claims.fps):.6g} frames a second"
    if said and abs(said - decoded) > 1:
        cause = _cause(decoded, said, length) or ": an edit list, or a wrong count"
        yield f"the header claims {_frames(said)}, decoded are {decoded}{cause}"
    if claims.header_seconds and claims.end and claims.header_seconds > 2 * claims.end:
        yield (
            f"the header claims {claims.header_seconds:.2f} s, the frames end at "
            f"{claims.end:.2f} s: a wrong duration"
        )


def _cause(decoded: int, said: int, length: int) -> str:
    """Likely cause of ``said`` frames where there are ``decoded``; blank where none is known."""
    if abs(decoded - said) == 1:
        return _one_off(decoded, said, length)
    rules = [rule for rule in TAIL_RULES if num_clips(decoded, rule, length) * length == said]
    if rules:
        return f": whole clips of {length} by tail rule {' or '.join(rules)}"
    ratio = decoded / max(1, said)
    rates = nearest_rates(ratio, RATE_TOLERANCE + 1.5 / max(1, said))
    return f": {ratio:.3g} = {rates[0]}/{rates[1]}, counted at another frame rate" if rates else ""


def _one_off(decoded: int, said: int, length: int) -> str:
    """What one frame more or less does to the number of clips."""
    changes = []
    for rule in TAIL_RULES:
        more = num_clips(decoded, rule, length) - num_clips(said, rule, length)
        if more:
            changes.append(f"one clip {'more' if more > 0 else 'fewer'} by tail rule {rule}")
    return f": {', '.join(changes)}" if changes else ", which changes no clip"


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"
