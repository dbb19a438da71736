"""Compare a flat ground truth that somebody published with the manifest.

A file holds only labels in a row. Each rule of ``ground_truth`` gives every video a length. The
rule whose lengths add up to the file is taken, and each video is compared with the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import ManifestError
from vadprep.core.records import Video
from vadprep.data.ground_truth import (
    LENGTHS,
    READINGS,
    RULES,
    Decoded,
    as_decoded,
    labels_of,
    length_by_rule,
    refuse,
    with_intervals,
)
from vadprep.data.manifest import Manifest


@dataclass(frozen=True)
class VideoCheck:
    """One video: its place in the file, and how its labels differ from the manifest."""

    video_id: str
    start: int
    length: int
    wrong: int
    """Labels that differ from the manifest. Labels past the end of the file count as wrong."""
    lost: bool
    """The manifest has anomalous labels here, and the file has none."""


@dataclass(frozen=True)
class Check:
    """The rule that a flat ground truth follows, and the videos that do not follow it."""

    rules: tuple[str, ...]
    """Rules that give this length and these labels. Empty if no rule gives the length."""
    rule: str
    """The rule by which the file was cut into videos. If no rule gives the length, the one that
    agrees with the manifest for the most videos from the start."""
    reading: str
    """How the numbers of intervals are read: a key of ``ground_truth.READINGS``."""
    num_labels: int
    totals: Mapping[str, int]
    """Number of labels by each rule whose lengths are known for all videos."""
    videos: tuple[VideoCheck, ...]
    """All videos, in the order of the file."""
    lost: Mapping[str, tuple[int, int]]
    """Category -> number of lost videos, number of abnormal videos; where any video is lost."""

    @property
    def odd(self) -> tuple[VideoCheck, ...]:
        """Videos with wrong labels. Most wrong first; in file order if no rule gives the length."""
        odd = [video for video in self.videos if video.wrong]
        return tuple(sorted(odd, key=lambda video: -video.wrong) if self.rules else odd)

    @property
    def is_sound(self) -> bool:
        """True when a rule gives the length and every label is the manifest's."""
        return bool(self.rules) and not self.odd


def check_ground_truth(
    labels: NDArray[np.bool_],
    manifest: Manifest,
    ids: Sequence[str] | None = None,
    decoded: Mapping[str, Decoded] | None = None,
) -> Check:
    """Find the rule of a flat ground truth, and the videos whose labels differ.

    ``labels`` is bool [L]. ``ids`` is the order of the videos in it, by default the split test.
    Lengths and rates of ``decoded`` win over the manifest's and make rule ``spans`` known. Of
    several rules of the right length, the one with the fewest wrong labels is taken. Raises
    ManifestError for ids that the manifest lacks, GroundTruthError for unknown lengths.
    """
    seen = decoded or {}
    videos = with_intervals(as_decoded(_in_order(manifest, ids), seen))
    by_rule = {rule: [length_by_rule(video, rule, seen) for video in videos] for rule in RULES}
    lengths = {rule: list(_known(each)) for rule, each in by_rule.items() if None not in each}
    if not lengths:
        refuse((video.video_id for video in videos if video.num_frames is None), "num_frames")
    totals = {rule: sum(each) for rule, each in lengths.items()}
    right = [rule for rule, total in totals.items() if total == len(labels)]
    attempts = {
        (rule, reading): tuple(_compared(labels, videos, lengths[rule], reading))
        for rule in right or totals
        for reading in READINGS
    }
    rule, reading = min(attempts, key=lambda each: _num_wrong(attempts[each]))
    if right:
        # A video that is marked normal throughout does not show how intervals are read.
        reading = min(READINGS, key=lambda each: _num_wrong(attempts[rule, each], marked=True))
    else:
        near = {rule: -abs(total - len(labels)) for rule, total in totals.items()}
        agrees = {
            each: (_num_before_wrong(checks), near[each[0]]) for each, checks in attempts.items()
        }
        rule, reading = max(agrees, key=lambda each: agrees[each])
    equal = [each for each in right if lengths[each] == lengths[rule]]
    checks = attempts[rule, reading]
    return Check(
        rules=tuple(each for each in equal if each in LENGTHS) or tuple(equal),
        rule=rule,
        reading=reading,
        num_labels=len(labels),
        totals=totals,
        videos=checks,
        lost=_lost_categories(checks, videos),
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


def _known(lengths: Sequence[int | None]) -> Iterator[int]:
    return (length for length in lengths if length is not None)


def _num_wrong(checks: Sequence[VideoCheck], marked: bool = False) -> tuple[int, int]:
    """Number of wrong labels, those of videos with anomalous labels first if ``marked``."""
    wrong = sum(video.wrong for video in checks)
    return sum(video.wrong for video in checks if not video.lost) if marked else wrong, wrong


def _num_before_wrong(checks: Sequence[VideoCheck]) -> int:
    """Number of videos before the first with wrong labels."""
    return next((i for i, video in enumerate(checks) if video.wrong), len(checks))


def _compared(
    labels: NDArray[np.bool_], videos: Sequence[Video], lengths: Sequence[int], reading: str
) -> Iterator[VideoCheck]:
    start = 0
    for video, length in zip(videos, lengths, strict=True):
        expected = labels_of(video, length, reading).astype(bool)
        found = labels[start : start + length]
        wrong = int((found != expected[: len(found)]).sum()) + length - len(found)
        lost = bool(len(found) and expected.any() and not found.any())
        yield VideoCheck(video.video_id, start, length, wrong, lost)
        start += length


def _lost_categories(
    checks: Sequence[VideoCheck], videos: Sequence[Video]
) -> dict[str, tuple[int, int]]:
    flags: dict[str, list[bool]] = {}
    for each, video in zip(checks, videos, strict=True):
        for category in video.category.split("|") if video.intervals else ():
            flags.setdefault(category, []).append(each.lost)
    return {name: (sum(lost), len(lost)) for name, lost in sorted(flags.items()) if any(lost)}
