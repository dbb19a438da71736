"""Flat ground truth: one label a frame, all test videos in a row, as public code wants it.

``RULES`` give the length of each video, ``READINGS`` what the numbers of an annotation mean.
Where a row is longer than its video, the last label goes on to its end under ``half-open``
(RTFM's ground truth of ShanghaiTech). The two others read the ends as they were published, a few
of which pass the last frame, and repeat nothing: so RTFM's script gives UCF-Crime its 84,343
anomalous labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vadprep.core.array_files import read_npy
from vadprep.core.clips import CLIP_LENGTH, Clock, num_clips
from vadprep.core.errors import ManifestError, VadprepError, allowed_are, counted
from vadprep.core.records import Video
from vadprep.data.intervals import video_intervals
from vadprep.data.manifest import Manifest

LENGTHS: dict[str, Callable[[int], int]] = {
    "xdviodet": lambda n: CLIP_LENGTH * num_clips(n, "xd"),  # and its descendants
    "floor": lambda n: CLIP_LENGTH * num_clips(n, "drop"),
    "rtfm": lambda n: CLIP_LENGTH * num_clips(n, "repeat-last"),  # and MGFN
    "frames": lambda n: n,
}
"""Length of the ground truth of a video of n frames, by rule."""

RULES = (*LENGTHS, "scored", "spans")
"""``scored``: the column ``num_frames_scored``. ``spans``: as the spans of our own features."""

READINGS = {
    "half-open": (0, 0),  # [start, stop): XDVioDet, DeepMIL, and the manifests here
    "inclusive": (0, 1),  # [start, stop]: RTFM's script for UCF-Crime
    "matlab": (-1, 0),  # Sultani's script: counted from 1, both included
}
"""What each way of reading intervals adds to their start and stop."""


MOST_LABELS = 1 << 30
"""Frames in all: more than a year of video. Beyond it a count of frames is wrong."""


class GroundTruthError(VadprepError):
    """A flat ground truth cannot be built, or is no such file."""


@dataclass(frozen=True)
class FlatTruth:
    """Labels of all videos in a row."""

    labels: NDArray[np.uint8]
    """1 anomalous, 0 normal: uint8 [sum of the lengths]."""
    video_ids: tuple[str, ...]
    lengths: tuple[int, ...]


class Decoded(Protocol):
    """What the features of a video know of it, as ``features.VideoFeatures``."""

    @property
    def num_frames(self) -> int: ...
    @property
    def fps(self) -> float | None: ...
    @property
    def clock(self) -> Clock | None: ...
    @property
    def spans(self) -> NDArray[np.int64]: ...


def build_ground_truth(
    manifest: Manifest,
    rule: str,
    split: str = "test",
    reading: str = "half-open",
    decoded: Mapping[str, Decoded] | None = None,
) -> FlatTruth:
    """Ground truth of the videos of a split, in the order of the manifest.

    ``reading`` is one of ``READINGS``. ``decoded`` is needed for rule ``spans``; its lengths and
    rates win over the manifest's. Raises ValueError for an unknown rule or reading,
    GroundTruthError that lists videos of unknown length or intervals.
    """
    for name, value, allowed in (("rule", rule, RULES), ("reading", reading, READINGS)):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: {allowed_are(value, allowed)}")
    seen = decoded or {}
    videos = _with_intervals(manifest.in_split(split), seen)
    if not videos:
        raise GroundTruthError(f"{manifest.path}: no video in split {split!r}")
    lengths = {video.video_id: _length(video, rule, seen) for video in videos}
    need = {"scored": "num_frames_scored in the manifest", "spans": "features"}
    lacking = [each for each, length in lengths.items() if length is None]
    other = "take another rule" if rule in need or decoded else "name --features"
    _refuse(lacking, need.get(rule, "num_frames"), f"add them, or {other}")
    known = tuple(length or 0 for length in lengths.values())
    _bound(known)
    parts = [_labels(*each, reading) for each in zip(videos, known, strict=True)]
    return FlatTruth(np.concatenate(parts), tuple(lengths), known)


def _with_intervals(videos: Iterable[Video], decoded: Mapping[str, Decoded]) -> list[Video]:
    """The videos with the lengths and rates of ``decoded``, and their intervals in frames.

    Raises GroundTruthError that lists the videos whose intervals, or frames and rate to count
    them in, are unknown.
    """
    known = []
    for video in videos:
        if found := decoded.get(video.video_id):
            video = replace(video, num_frames=found.num_frames, fps=found.fps or video.fps)
        clock = found.clock if found else None
        if video.label == 0:
            video = replace(video, intervals=(), published=None)
        elif video.intervals is None and video.num_frames and _can_count(video):
            video = replace(video, intervals=video_intervals(video, video.num_frames, clock))
        known.append(video)
    unknown = [video for video in known if video.intervals is None]
    remedy = "add them to the manifest"
    for column, what in (("seconds", "num_frames or fps"), ("fraction", "num_frames")):
        given = [v.video_id for v in unknown if getattr(v, f"intervals_{column}") is not None]
        _refuse(given, f"{what} for intervals_{column}", f"{remedy}, or name --features")
    _refuse([video.video_id for video in unknown], "intervals", remedy)
    return known


def _can_count(video: Video) -> bool:
    """True when seconds or fractions of a video of known length can be turned into frames."""
    has_seconds = video.intervals_seconds is not None and video.fps is not None
    return video.intervals_fraction is not None or has_seconds


def _refuse(ids: Sequence[str], what: str, remedy: str) -> None:
    """Raise GroundTruthError that says ``what`` is unknown of these videos, if there are any."""
    if ids:
        shown = ", ".join(ids[:5]) + (", ..." if ids[5:] else "")
        raise GroundTruthError(
            f"{what} unknown for {counted(len(ids), 'video')} ({shown}): {remedy}"
        )


def _bound(lengths: Iterable[int]) -> None:
    """Raise GroundTruthError for more than MOST_LABELS in all."""
    if (total := sum(lengths)) > MOST_LABELS:
        raise GroundTruthError(
            f"{total:,} labels are more than a year of video: correct num_frames"
        )


def _length(video: Video, rule: str, decoded: Mapping[str, Decoded]) -> int | None:
    """Number of labels of a video under one of ``RULES``; None where it is unknown."""
    if rule == "spans":
        if video.video_id not in decoded:
            return None
        spans = decoded[video.video_id].spans
        return int(spans[-1, 1]) if len(spans) else 0
    if rule == "scored":
        return video.num_frames_scored
    return None if video.num_frames is None else LENGTHS[rule](video.num_frames)


def _labels(video: Video, length: int, reading: str) -> NDArray[np.uint8]:
    """Labels of one video of ``_with_intervals``: uint8 [length], 1 anomalous."""
    labels = np.zeros(length, dtype=np.uint8)
    earlier, later = READINGS[reading]
    as_read = reading == "half-open"
    intervals = video.intervals if as_read or video.published is None else video.published
    for start, stop in intervals or ():
        goes_on = as_read and video.num_frames is not None and stop >= video.num_frames
        labels[max(start + earlier, 0) : length if goes_on else stop + later] = 1
    return labels


def read_ground_truth(path: Path) -> NDArray[np.bool_]:
    """Labels in a .npy file, bool [L]; raises GroundTruthError for anything but zeros and ones."""
    try:
        found = read_npy(path, GroundTruthError)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GroundTruthError(f"{path}: cannot be read: {error.strerror}") from None
    flat = np.ravel(found)
    if found.size != max(found.shape, default=0) or not np.isin(flat, (0, 1)).all():
        raise GroundTruthError(f"{path}: {found.dtype} {found.shape}: expected a row of 0 and 1")
    return flat.astype(bool)


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
    """What rule somebody's flat ground truth follows, and the videos that do not follow it.

    The rule whose lengths add up to the file is taken, and each video is compared.
    """

    rules: tuple[str, ...]
    """Rules that give this length and these labels. Empty if no rule gives the length."""
    rule: str
    """The rule by which the file was cut into videos. If no rule gives the length, the one that
    agrees with the manifest for the most videos from the start."""
    reading: str
    """How the numbers of intervals are read: a key of ``READINGS``."""
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
    ``decoded`` as in ``build_ground_truth``. Of several rules of the right length, the one with
    the fewest wrong labels is taken. Raises ManifestError for ids that the manifest lacks,
    GroundTruthError for unknown lengths.
    """
    by_id, seen = {video.video_id: video for video in manifest.videos}, decoded or {}
    order = [video.video_id for video in manifest.in_split("test")] if ids is None else ids
    unknown = [each for each in order if each not in by_id]
    if unknown or not order:
        raise ManifestError(
            f"{manifest.path}: lacks {len(unknown)} of {len(order)} listed videos: "
            f"{', '.join(unknown[:10])}"
        )
    videos = _with_intervals([by_id[each] for each in order], seen)
    lengths = {}
    for rule in RULES:
        known = [n for video in videos if (n := _length(video, rule, seen)) is not None]
        if len(known) == len(videos):
            _bound(known)
            lengths[rule] = known
    if not lengths:
        unknown = [video.video_id for video in videos if video.num_frames is None]
        _refuse(unknown, "num_frames", "add them to the manifest")
    totals = {rule: sum(each) for rule, each in lengths.items()}
    right = [rule for rule, total in totals.items() if total == len(labels)]
    attempts = {
        (rule, reading): tuple(_compared(labels, videos, lengths[rule], reading))
        for rule in right or totals
        for reading in READINGS
    }

    def num_wrong(attempt: tuple[str, str], marked: bool = False) -> int:
        return sum(each.wrong for each in attempts[attempt] if not (marked and each.lost))

    def num_before_wrong(attempt: tuple[str, str]) -> int:
        return next((i for i, each in enumerate(attempts[attempt]) if each.wrong), len(videos))

    if right:
        rule, _ = min(attempts, key=num_wrong)
        # A video that is marked normal throughout does not show how intervals are read.
        readings = [(rule, reading) for reading in READINGS]
        best = min(readings, key=lambda each: (num_wrong(each, marked=True), num_wrong(each)))
    else:
        near = {rule: -abs(total - len(labels)) for rule, total in totals.items()}
        best = max(attempts, key=lambda each: (num_before_wrong(each), near[each[0]]))
    rule, reading = best
    equal = [each for each in right if lengths[each] == lengths[rule]]
    lost: dict[str, list[bool]] = {}
    for each, video in zip(attempts[best], videos, strict=True):
        for category in video.category.split("|") if video.intervals else ():
            lost.setdefault(category, []).append(each.lost)
    return Check(
        rules=tuple(each for each in equal if each in LENGTHS) or tuple(equal),
        rule=rule,
        reading=reading,
        num_labels=len(labels),
        totals=totals,
        videos=attempts[best],
        lost={name: (sum(each), len(each)) for name, each in sorted(lost.items()) if any(each)},
    )


def _compared(
    labels: NDArray[np.bool_], videos: Sequence[Video], lengths: Sequence[int], reading: str
) -> Iterator[VideoCheck]:
    start = 0
    for video, length in zip(videos, lengths, strict=True):
        expected = _labels(video, length, reading).astype(bool)
        found = labels[start : start + length]
        wrong = int((found != expected[: len(found)]).sum()) + length - len(found)
        lost = bool(len(found) and expected.any() and not found.any())
        yield VideoCheck(video.video_id, start, length, wrong, lost)
        start += length
