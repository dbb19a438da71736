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

The numbers of an annotation are read in three ways:

========== =============== =======================================================
half-open  [start, stop)   XDVioDet, DeepMIL, and the manifests here
inclusive  [start, stop]   RTFM's script for UCF-Crime
matlab     [start-1, stop) Sultani's MATLAB script: counted from 1, both included
========== =============== =======================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.manifest import Manifest
from vadprep.records import Interval, VadprepError, Video

LENGTHS: dict[str, Callable[[int], int]] = {
    "xdviodet": lambda n: 16 * ((n - 1) // 16),
    "floor": lambda n: 16 * (n // 16),
    "rtfm": lambda n: 16 * -(-n // 16),
    "frames": lambda n: n,
}
"""Length of the ground truth of a video of n frames, by rule."""

RULES = (*LENGTHS, "scored", "spans")

READINGS = {"half-open": (0, 0), "inclusive": (0, 1), "matlab": (-1, 0)}
"""What each way of reading intervals adds to their start and stop."""


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
    reading: str = "half-open",
    spans_end: Mapping[str, int] | None = None,
    num_frames: Mapping[str, int] | None = None,
) -> FlatTruth:
    """Ground truth of the videos of a split, in the order of the manifest.

    ``reading`` is one of ``READINGS``. ``spans_end`` gives, for rule ``spans``, the last frame of
    the features of each video, and ``num_frames`` decoded lengths, which win over the manifest's.
    Raises ValueError for an unknown rule or reading, GroundTruthError that lists videos of unknown
    length or intervals.
    """
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: allowed are {', '.join(RULES)}")
    if reading not in READINGS:
        raise ValueError(f"reading = {reading!r}: allowed are {', '.join(READINGS)}")
    videos = manifest.in_split(split)
    if not videos:
        raise GroundTruthError(f"{manifest.path}: no video in split {split!r}")
    counts = {v.video_id: (num_frames or {}).get(v.video_id, v.num_frames) for v in videos}
    lengths = {
        video.video_id: _length(video, rule, counts[video.video_id], spans_end or {})
        for video in videos
    }
    need = {"scored": "num_frames_scored in the manifest", "spans": "features"}
    refuse((each for each, length in lengths.items() if length is None), need.get(rule, "frames"))
    refuse((v.video_id for v in videos if intervals_of(v) is None), "intervals")
    parts = [
        _labels(video, int(lengths[video.video_id] or 0), counts[video.video_id], reading)
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


def intervals_of(video: Video) -> tuple[Interval, ...] | None:
    """Anomalous frames; none of a normal video, None where unknown."""
    return () if video.label == 0 else video.intervals


def refuse(ids: Iterable[str], what: str) -> None:
    """Raise GroundTruthError that says ``what`` is unknown of these videos, if there are any."""
    if unknown := list(ids):
        shown = ", ".join(unknown[:5]) + (", ..." if unknown[5:] else "")
        raise GroundTruthError(
            f"{what} unknown for {len(unknown)} videos ({shown}): add them, or take another rule"
        )


def marked(
    video: Video, length: int, num_frames: int | None, reading: str
) -> list[tuple[int, int]]:
    """Anomalous ranges within ``length`` labels; the last frame's label goes on past the end."""
    found = []
    earlier, later = READINGS[reading]
    for start, stop in intervals_of(video) or ():
        reaches_end = num_frames is not None and stop >= num_frames
        start, stop = max(start + earlier, 0), length if reaches_end else min(stop + later, length)
        if start < stop:
            found.append((start, stop))
    return found


def _labels(video: Video, length: int, num_frames: int | None, reading: str) -> NDArray[np.uint8]:
    labels = np.zeros(length, dtype=np.uint8)
    for start, stop in marked(video, length, num_frames, reading):
        labels[start:stop] = 1
    return labels


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
