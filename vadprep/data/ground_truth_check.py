"""Which rule a foreign flat ground truth follows, video by video, and which labels it has lost.

A file is nothing but labels in a row. Each rule of ``groundtruth`` gives each video a length, and
the lengths have to add up to the file; the manifest's intervals tell where it went another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import ManifestError
from vadprep.core.records import Video
from vadprep.data.ground_truth import (
    LENGTHS,
    READINGS,
    Decoded,
    as_decoded,
    marked,
    refuse,
    with_intervals,
)
from vadprep.data.manifest import Manifest

DERIVED = ("scored", "spans")
"""Lengths that are read off the manifest or off features, and follow no formula."""


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
    """Each of them explains every length by itself; empty when none does. ``DERIVED`` ones only
    where no other does."""
    reading: str
    """How it reads the numbers of intervals (``groundtruth.READINGS``)."""
    num_labels: int
    totals: Mapping[str, int]
    """Length that each rule alone would give, of those that are known for all videos."""
    lost: Mapping[str, tuple[int, int]]
    """By category: videos that were marked normal throughout, and of how many. Only of
    categories that have any."""

    @property
    def usual_rule(self) -> str:
        """The rule that explains most videos; blank without videos."""
        counts = Counter(rule for video in self.videos for rule in video.rules)
        return max(counts, key=lambda rule: counts[rule], default="")

    @property
    def odd(self) -> tuple[VideoCheck, ...]:
        """Videos of another than the usual rule or with wrong labels, the most wrong first."""
        usual = self.usual_rule
        odd = [each for each in self.videos if each.wrong or usual not in each.rules]
        return tuple(sorted(odd, key=lambda each: -each.wrong))

    @property
    def is_sound(self) -> bool:
        """True when one rule explains all lengths and every label is the manifest's."""
        return bool(self.rules) and not any(video.wrong for video in self.videos)


def check(
    labels: NDArray[np.bool_],
    manifest: Manifest,
    ids: Sequence[str] | None = None,
    decoded: Mapping[str, Decoded] | None = None,
) -> Check:
    """Explain a foreign ground truth: one rule for all videos, else one for each.

    ``labels`` bool [L]; ``ids`` is the order of its videos, that of split test by default; lengths
    and rates of ``decoded`` win over the manifest's. Of several explanations, the one with the
    fewest labels that are not the manifest's. Where one rule fits but leaves wrong labels,
    rules that differ by video are believed if they leave none and set apart fewer videos than
    that. Raises ManifestError for ids that the manifest lacks.
    """
    seen = decoded or {}
    videos = with_intervals(as_decoded(_in_order(manifest, ids), seen))
    candidates = [_candidates(video, seen.get(video.video_id)) for video in videos]
    refuse((v.video_id for v, c in zip(videos, candidates, strict=True) if not c), "num_frames")
    single = {
        rule: [found[rule] for found in candidates]
        for rule in (*LENGTHS, *DERIVED)
        if all(len(found.get(rule, ())) == 1 for found in candidates)
    }
    totals = {rule: sum(lengths[0] for lengths in found) for rule, found in single.items()}
    nearest = min(totals, key=lambda rule: abs(totals[rule] - len(labels)), default="")
    mixed = [tuple({n for each in found.values() for n in each}) for found in candidates]
    attempts = _all_attempts(labels, videos, single, mixed, single.get(nearest))
    if not attempts:
        return Check((), (), "", len(labels), totals, {})
    best = _best(attempts, labels)
    checks = _checks(labels, videos, candidates, best)
    equal = [e for e in attempts if (e.reading, e.placed) == (best.reading, best.placed)]
    rules = [each.rule for each in equal if each.rule]
    return Check(
        videos=checks,
        rules=tuple(each for each in rules if each not in DERIVED) or tuple(rules),
        reading=best.reading,
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


def _candidates(video: Video, seen: Decoded | None) -> dict[str, tuple[int, ...]]:
    """Lengths that each rule may give; none without any count of frames.

    Where only the scored length of XDVioDet's rule is known, n is one of 16 numbers.
    """
    counts: Sequence[int] = ()
    if video.num_frames is not None:
        counts = (video.num_frames,)
    elif video.num_frames_scored is not None:
        counts = range(video.num_frames_scored + 1, video.num_frames_scored + 17)
    found = {
        rule: tuple(sorted({length(n) for n in counts}))
        for rule, length in LENGTHS.items()
        if counts and not (rule == "frames" and len(counts) > 1)
    }
    if found and video.num_frames_scored is not None:
        found["scored"] = (video.num_frames_scored,)
    if seen:
        found["spans"] = (seen.spans_end,)
    return found


Lengths = Sequence[Sequence[int]]
"""Lengths that each video may have."""

_WRONG = 2**20
"""What a wrong label costs; a length that is not the usual one costs 1."""


@dataclass(frozen=True)
class _Attempt:
    """One way to cut the file into videos."""

    rule: str
    reading: str
    placed: list[tuple[int, int, int]]
    """Start, length and number of wrong labels of each video."""
    odd: int
    """Videos whose length is not the usual one."""

    @property
    def wrong(self) -> int:
        """Labels that are not the manifest's."""
        return sum(cost for _, _, cost in self.placed)


def _all_attempts(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    single: Mapping[str, Lengths],
    mixed: Lengths,
    usual: Lengths | None,
) -> list[_Attempt]:
    """Those of one rule for all videos, or of rules that differ by video if they are likelier."""
    alone = _attempts(labels, videos, single)
    fewest = min((each.wrong for each in alone), default=None)
    if fewest == 0:
        return alone
    mixtures = _attempts(labels, videos, {"": mixed}, usual)
    if fewest is None:
        return mixtures
    return [each for each in mixtures if not each.wrong and each.odd < fewest] or alone


def _attempts(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    rules: Mapping[str, Lengths],
    usual: Lengths | None = None,
) -> list[_Attempt]:
    """The best way under each rule and reading of intervals, where there is one.

    ``usual`` are lengths that are to be preferred; all that a rule allows by default.
    """
    found = []
    for rule, allowed in rules.items():
        normally = usual or allowed
        for reading in READINGS:
            if placed := _explain(labels, videos, allowed, normally, reading):
                lengths = (length for _, length, _ in placed)
                odd = sum(n not in few for n, few in zip(lengths, normally, strict=True))
                found.append(_Attempt(rule, reading, placed, odd))
    return found


def _best(attempts: Sequence[_Attempt], labels: NDArray[np.bool_]) -> _Attempt:
    """The attempt with the fewest wrong labels.

    Of its readings the one that errs least where anything is anomalous: the intervals of a video
    that was marked normal throughout are shorter by one reading, and no likelier for that.
    """

    def wrong_where_marked(attempt: _Attempt) -> int:
        return sum(cost for at, length, cost in attempt.placed if labels[at : at + length].any())

    rule = min(attempts, key=lambda each: each.wrong).rule
    readings = [each for each in attempts if each.rule == rule]
    return min(readings, key=lambda each: (wrong_where_marked(each), each.wrong))


def _explain(
    labels: NDArray[np.bool_],
    videos: Sequence[Video],
    allowed: Lengths,
    usual: Lengths,
    reading: str,
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
            wrong = _wrong(before, ends[fits], length, video, reading)
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
        wrong = _wrong(before, np.array([end - length]), length, video, reading)
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
            bool(marked(video, length, attempt.reading))
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
    reading: str,
) -> NDArray[np.int64]:
    """Labels that are not the manifest's if the video starts at each of ``starts``.

    ``before[i]`` counts the anomalous labels in front of i.
    """
    wrong = before[starts + length] - before[starts]
    for start, stop in marked(video, length, reading):
        wrong = wrong + (stop - start) - 2 * (before[starts + stop] - before[starts + start])
    return wrong


def _lost_categories(
    checks: Sequence[VideoCheck], videos: Mapping[str, Video]
) -> dict[str, tuple[int, int]]:
    lost: dict[str, list[bool]] = {}
    for each in checks:
        video = videos[each.video_id]
        for category in video.category.split("|") if video.intervals else ():
            lost.setdefault(category, []).append(each.lost)
    return {name: (sum(flags), len(flags)) for name, flags in sorted(lost.items()) if any(flags)}
