"""Flat ground truth: one label a frame, all test videos in a row, as public code wants it.

Its length is a property of the feature set, not of the data set, and files of one name differ.
With n the frames of a video:

========== ================== ==============================================================
xdviodet   16 floor((n-1)/16) XDVioDet and its descendants: flow has one frame less
floor      16 floor(n/16)     an incomplete last clip is dropped
rtfm       16 ceil(n/16)      the last frame is repeated until the clip is full (RTFM, MGFN)
frames     n                  every frame
scored     as in the manifest column ``num_frames_scored``
spans      as our own features, by their spans
========== ================== ==============================================================

Intervals are [start, stop). RTFM's script for UCF-Crime labels frame ``stop`` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.manifest import Manifest
from vadprep.records import Interval, ManifestError, VadprepError, Video

LENGTHS: dict[str, Callable[[int], int]] = {
    "xdviodet": lambda n: 16 * ((n - 1) // 16),
    "floor": lambda n: 16 * (n // 16),
    "rtfm": lambda n: 16 * -(-n // 16),
    "frames": lambda n: n,
}
"""Length of the ground truth of a video of n frames, by rule."""

RULES = (*LENGTHS, "scored", "spans")


class GroundTruthError(VadprepError):
    """A flat ground truth cannot be built, or is no such file."""


@dataclass(frozen=True)
class FlatTruth:
    """Labels of all videos in a row."""

    labels: NDArray[np.uint8]
    """1 anomalous, 0 normal: uint8 [sum of the lengths]."""
    video_ids: tuple[str, ...]
    lengths: tuple[int, ...]


def build(
    manifest: Manifest,
    rule: str,
    split: str = "test",
    inclusive: bool = False,
    spans_end: Mapping[str, int] | None = None,
    num_frames: Mapping[str, int] | None = None,
) -> FlatTruth:
    """Ground truth of the videos of a split, in the order of the manifest.

    ``spans_end`` gives, for rule ``spans``, the last frame of the features of each video, and
    ``num_frames`` decoded lengths, which win over the manifest's. Raises ValueError for an
    unknown rule, GroundTruthError that lists videos of unknown length or intervals.
    """
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: allowed are {', '.join(RULES)}")
    videos = manifest.in_split(split)
    if not videos:
        raise GroundTruthError(f"{manifest.path}: no video in split {split!r}")
    counts = {v.video_id: (num_frames or {}).get(v.video_id, v.num_frames) for v in videos}
    lengths = {
        video.video_id: _length(video, rule, counts[video.video_id], spans_end or {})
        for video in videos
    }
    need = {"scored": "num_frames_scored in the manifest", "spans": "features"}
    _refuse((each for each, length in lengths.items() if length is None), need.get(rule, "frames"))
    _refuse((v.video_id for v in videos if _intervals(v) is None), "intervals")
    parts = [
        _labels(video, int(lengths[video.video_id] or 0), counts[video.video_id], inclusive)
        for video in videos
    ]
    return FlatTruth(
        np.concatenate(parts), tuple(lengths), tuple(int(each or 0) for each in lengths.values())
    )


def _length(
    video: Video, rule: str, num_frames: int | None, spans_end: Mapping[str, int]
) -> int | None:
    if rule == "spans":
        return spans_end.get(video.video_id)
    if rule == "scored":
        return video.num_frames_scored
    return None if num_frames is None else LENGTHS[rule](num_frames)


def _intervals(video: Video) -> tuple[Interval, ...] | None:
    return () if video.label == 0 else video.intervals


def _refuse(ids: Iterable[str], what: str) -> None:
    if unknown := list(ids):
        shown = ", ".join(unknown[:5]) + (", ..." if unknown[5:] else "")
        raise GroundTruthError(
            f"{what} unknown for {len(unknown)} videos ({shown}): add them, or take another rule"
        )


def _marked(
    video: Video, length: int, num_frames: int | None, inclusive: bool
) -> list[tuple[int, int]]:
    """Anomalous ranges within ``length`` labels; the last frame's label goes on past the end."""
    found = []
    for start, stop in _intervals(video) or ():
        reaches_end = num_frames is not None and stop >= num_frames
        stop = length if reaches_end else min(stop + inclusive, length)
        if start < stop:
            found.append((start, stop))
    return found


def _labels(
    video: Video, length: int, num_frames: int | None, inclusive: bool
) -> NDArray[np.uint8]:
    labels = np.zeros(length, dtype=np.uint8)
    for start, stop in _marked(video, length, num_frames, inclusive):
        labels[start:stop] = 1
    return labels


# ---------------------------------------------------------------- check


@dataclass(frozen=True)
class VideoCheck:
    """What a foreign ground truth says of one video."""

    video_id: str
    start: int
    length: int
    rules: tuple[str, ...]
    """Rules that give this length."""
    wrong: int
    """Labels that are not the manifest's."""
    lost: bool
    """Anomalous by the manifest, and without a single anomalous label here."""


@dataclass(frozen=True)
class Check:
    """Which rule a foreign ground truth follows, and where it says something else."""

    videos: tuple[VideoCheck, ...]
    """In order; empty when no combination of rules gives the length of the file."""
    rules: tuple[str, ...]
    """Each of them explains every length by itself; empty when none does."""
    inclusive: bool
    """Whether frame ``stop`` of an interval is anomalous, too."""
    num_labels: int
    totals: Mapping[str, int]
    """Length that each rule alone would give, of those that are known for all videos."""
    lost: Mapping[str, tuple[int, int]]
    """By category: videos that were marked normal throughout, and of how many. Only of
    categories that have any."""

    @property
    def is_sound(self) -> bool:
        """True when one rule explains all lengths and every label is the manifest's."""
        return bool(self.rules) and not any(video.wrong for video in self.videos)


def check(labels: NDArray[np.bool_], manifest: Manifest, ids: Sequence[str] | None = None) -> Check:
    """Explain a foreign ground truth: one rule for all videos, else one for each.

    ``labels`` bool [L]; ``ids`` is the order of its videos, that of split test by default. Of
    several explanations, the one with the fewest labels that are not the manifest's. Raises
    ManifestError for ids that the manifest lacks.
    """
    videos = _in_order(manifest, ids)
    _refuse((video.video_id for video in videos if _intervals(video) is None), "intervals")
    candidates = [_candidates(video) for video in videos]
    _refuse((v.video_id for v, c in zip(videos, candidates, strict=True) if not c), "frames")
    single = {
        rule: [found[rule] for found in candidates]
        for rule in LENGTHS
        if all(len(found.get(rule, ())) == 1 for found in candidates)
    }
    totals = {rule: sum(lengths[0] for lengths in found) for rule, found in single.items()}
    attempts = _attempts(labels, videos, single, [()] * len(videos))
    if not attempts:
        mixed = [tuple({n for each in found.values() for n in each}) for found in candidates]
        nearest = min(totals, key=lambda rule: abs(totals[rule] - len(labels)), default="")
        attempts = _attempts(labels, videos, {"": mixed}, single.get(nearest, mixed))
    if not attempts:
        return Check((), (), False, len(labels), totals, {})
    wrong = [sum(cost for _, _, cost in each.placed) for each in attempts]
    best = attempts[wrong.index(min(wrong))]
    checks = _checks(labels, videos, candidates, best)
    equal = [e for e in attempts if (e.inclusive, e.placed) == (best.inclusive, best.placed)]
    return Check(
        videos=checks,
        rules=tuple(each.rule for each in equal if each.rule),
        inclusive=best.inclusive,
        num_labels=len(labels),
        totals=totals,
        lost=_lost_categories(checks, {video.video_id: video for video in videos}),
    )


def _in_order(manifest: Manifest, ids: Sequence[str] | None) -> list[Video]:
    by_id = {video.video_id: video for video in manifest.videos}
    if ids is None:
        ids = [video.video_id for video in manifest.in_split("test")]
    unknown = [each for each in ids if each not in by_id]
    if unknown or not ids:
        raise ManifestError(
            f"{manifest.path}: lacks {len(unknown)} of {len(ids)} listed videos: "
            f"{', '.join(unknown[:10])}"
        )
    return [by_id[each] for each in ids]


def _candidates(video: Video) -> dict[str, tuple[int, ...]]:
    """Lengths that each rule may give; none without any count of frames.

    Where only the scored length of XDVioDet's rule is known, n is one of 16 numbers.
    """
    counts: Sequence[int] = ()
    if video.num_frames is not None:
        counts = (video.num_frames,)
    elif video.num_frames_scored is not None:
        counts = range(video.num_frames_scored + 1, video.num_frames_scored + 17)
    return {
        rule: tuple(sorted({length(n) for n in counts}))
        for rule, length in LENGTHS.items()
        if counts and not (rule == "frames" and len(counts) > 1)
    }


Lengths = Sequence[Sequence[int]]
"""Lengths that each video may have."""

_WRONG = 2**20
"""What a wrong label costs; a length that is not the usual one costs 1."""


@dataclass(frozen=True)
class _Attempt:
    """One way to cut the file into videos."""

    rule: str
    inclusive: bool
    placed: list[tuple[int, int, int]]
    """Start, length and number of wrong labels of each video."""


def _attempts(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    rules: Mapping[str, Lengths],
    usual: Lengths,
) -> list[_Attempt]:
    """The best way under each rule and both kinds of intervals, where there is one."""
    return [
        _Attempt(rule, inclusive, placed)
        for rule, allowed in rules.items()
        for inclusive in (False, True)
        if (placed := _explain(labels, videos, allowed, usual, inclusive)) is not None
    ]


def _explain(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    allowed: Lengths,
    usual: Lengths,
    inclusive: bool,
) -> list[tuple[int, int, int]] | None:
    """Allowed lengths that add up to the file with the fewest wrong labels; None when none do.

    Goes through the videos and keeps, for every place where one may end, the best way there.
    """
    before = np.concatenate([[0], np.cumsum(labels)])
    ends, costs = np.zeros(1, np.int64), np.zeros(1, np.int64)
    steps = []
    for video, lengths, normally in zip(videos, allowed, usual, strict=True):
        ways = []
        for length in lengths:
            fits = np.flatnonzero(ends + length <= len(labels))
            wrong = _wrong(before, ends[fits], length, video, inclusive)
            cost = costs[fits] + _WRONG * wrong + (length not in normally)
            ways.append((ends[fits] + length, cost, np.full(len(fits), length)))
        all_ends, all_costs, taken = (np.concatenate(each) for each in zip(*ways, strict=True))
        order = np.lexsort((all_costs, all_ends))
        best = order[np.diff(all_ends[order], prepend=-1) > 0]
        ends, costs = all_ends[best], all_costs[best]
        steps.append((ends, taken[best]))
    if len(labels) not in ends:
        return None
    placed, end = [], len(labels)
    for video, (ends, taken) in zip(reversed(videos), reversed(steps), strict=True):
        length = int(taken[np.searchsorted(ends, end)])
        wrong = _wrong(before, np.array([end - length]), length, video, inclusive)
        placed.append((end - length, length, int(wrong[0])))
        end -= length
    return placed[::-1]


def _checks(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    candidates: Sequence[Mapping[str, tuple[int, ...]]],
    attempt: _Attempt,
) -> tuple[VideoCheck, ...]:
    return tuple(
        VideoCheck(
            video.video_id,
            start,
            length,
            tuple(rule for rule, lengths in known.items() if length in lengths),
            wrong,
            bool(_marked(video, length, video.num_frames, attempt.inclusive))
            and not labels[start : start + length].any(),
        )
        for video, known, (start, length, wrong) in zip(
            videos, candidates, attempt.placed, strict=True
        )
    )


def _wrong(
    before: NDArray[np.int64],
    starts: NDArray[np.int64],
    length: int,
    video: Video,
    inclusive: bool,
) -> NDArray[np.int64]:
    """Labels that are not the manifest's if the video starts at each of ``starts``.

    ``before[i]`` counts the anomalous labels in front of i.
    """
    marked = _marked(video, length, video.num_frames, inclusive)
    wrong = before[starts + length] - before[starts]
    for start, stop in marked:
        wrong = wrong + (stop - start) - 2 * (before[starts + stop] - before[starts + start])
    return wrong


def _lost_categories(
    checks: Sequence[VideoCheck], videos: Mapping[str, Video]
) -> dict[str, tuple[int, int]]:
    lost: dict[str, list[bool]] = {}
    for each in checks:
        video = videos[each.video_id]
        for category in video.category.split("|") if _intervals(video) else ():
            lost.setdefault(category, []).append(each.lost)
    return {name: (sum(flags), len(flags)) for name, flags in sorted(lost.items()) if any(flags)}


def read_flat(path: Path) -> NDArray[np.bool_]:
    """Labels in a .npy file, bool [L]; raises GroundTruthError for anything but zeros and ones."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GroundTruthError(f"{path}: not a .npy file of numbers: {error}") from error
    flat = np.ravel(found)
    if found.size != max(found.shape, default=0) or not np.isin(flat, (0, 1)).all():
        raise GroundTruthError(f"{path}: {found.dtype} {found.shape}: expected a row of 0 and 1")
    return flat.astype(bool)
