"""The frames that were decoded against what header and manifest say, and the likely cause.

Both may be wrong, harmlessly or not. The check decides only how many frames are missing.
"""

from __future__ import annotations

from vadprep.core.clips import TAIL_RULES, nearest_rates, num_clips
from vadprep.data import FrameBounds
from vadprep.video.decoders.base import MAX_FPS, MIN_FPS, DecodeReport, VideoHeader
from vadprep.video.timeline import frames_text

MAX_DAMAGE = 0.1  # a video fails when more of its frames had to be filled in or is missing
RATE_TOLERANCE = 0.002  # of a ratio of frame counts to one of frame rates: 29.97 is 30


def expected_frames(header: VideoHeader, report: DecodeReport) -> int:
    """Frames that the file should have given; the decoded ones if its header states nothing.

    The lower of two numbers, since either may be harmlessly too high: the count in the
    header, which ignores an mp4's edit list, and the time at which the video is to end, in
    frames at the pace of those decoded, whatever the header's average frame rate is.
    """
    counts = [header.num_frames] if header.num_frames else []
    if header.seconds and report.end_seconds and report.end_seconds > 0:
        seconds = header.seconds - report.skipped_seconds
        counts.append(round(report.num_frames * seconds / report.end_seconds))
    return min(counts, default=report.num_frames)


def length_note(
    header: VideoHeader, report: DecodeReport, bounds: FrameBounds, length: int, stride: int
) -> str:
    """Why the counts differ, in one line; empty where all agree, or the header is off by one.

    ``bounds`` are those of the manifest; ``length`` and ``stride`` those of the clips.
    """
    notes = []
    decoded, expected = report.num_frames, expected_frames(header, report)
    end, stated = report.end_seconds, header.num_frames
    seconds = header.seconds and header.seconds - report.skipped_seconds
    # The manifest may count the whole video, of which the file is only a part.
    is_truncated = expected - decoded > 1
    count, source = (expected, "header") if is_truncated else (decoded, "video")
    if is_truncated:
        is_timed = seconds and end and end < seconds
        whole = f"{end:.2f} s of {seconds:.2f} s" if is_timed else f"of {expected} in the header"
        notes.append(f"truncated after frame {decoded} ({whole})")
    else:  # what the frames contradict, though none is missing
        if not MIN_FPS <= header.fps <= MAX_FPS:
            notes.append(f"the header says {float(header.fps):.6g} frames a second")
        if stated and abs(stated - decoded) > 1:
            cause = _cause(decoded, stated, length, stride) or ": an edit list, or a wrong count"
            notes.append(f"the header says {frames_text(stated)}, the video has {decoded}{cause}")
        if seconds and end and seconds > 2 * end:
            times = f"the header says {seconds:.2f} s, the frames end at {end:.2f} s"
            notes.append(f"{times}: a wrong duration")
    notes += report.notes
    bound = bounds.least if count < (bounds.least or 0) else bounds.most
    if bound and not bounds.allow(count) and not (is_truncated and abs(bound - count) <= 1):
        cause = _cause(count, bound, length, stride) or f": {count / bound:.3g} x as many"
        notes.append(f"the manifest has {frames_text(bound)}, the {source} has {count}{cause}")
    return "; ".join(notes)


def _cause(decoded: int, stated: int, length: int, stride: int) -> str:
    """Likely cause of ``stated`` frames where there are ``decoded``; empty where none is known."""
    if abs(decoded - stated) == 1:
        changes = []
        for rule in TAIL_RULES:
            ours, theirs = (num_clips(n, rule, length, stride) for n in (decoded, stated))
            more = ours - theirs
            if more:
                changes.append(f"one clip {'more' if more > 0 else 'fewer'} by tail rule {rule}")
        return f": {', '.join(changes)}" if changes else ", which changes no clip"
    rules = [rule for rule in TAIL_RULES if num_clips(decoded, rule, length) * length == stated]
    if rules:
        return f": whole clips of {length} by tail rule {' or '.join(rules)}"
    ratio = decoded / stated
    rates = nearest_rates(ratio, RATE_TOLERANCE + 1.5 / stated)
    return f": {ratio:.3g} = {rates[0]}/{rates[1]}, counted at another frame rate" if rates else ""
