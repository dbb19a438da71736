"""Flat ground truth: one label a frame, all test videos in a row, as public code wants it.

Its length is a property of the feature set, not of the data set, and files of one name differ.
With n the frames of a video:

========== ================== ==============================================================
xdviodet   16 floor((n-1)/16) XDVioDet and its descendants: flow has one frame less
floor      16 floor(n/16)     an incomplete last clip is dropped
rtfm       16 ceil(n/16)      the last clip is filled up (RTFM, MGFN)
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

Where a row is longer than its video, the last label goes on to its end under ``half-open``
(RTFM's ground truth of ShanghaiTech). The two others read the ends as they were published, a few
of which pass the last frame, and repeat nothing: so RTFM's script gives UCF-Crime its 84,343
anomalous labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, num_clips
from vadprep.core.errors import VadprepError
from vadprep.core.records import Video
from vadprep.data.intervals import video_intervals
from vadprep.data.manifest import Manifest

LENGTHS: dict[str, Callable[[int], int]] = {
    "xdviodet": lambda n: CLIP_LENGTH * num_clips(n, "xd"),
    "floor": lambda n: CLIP_LENGTH * num_clips(n, "drop"),
    "rtfm": lambda n: CLIP_LENGTH * num_clips(n, "repeat-last"),
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


@dataclass(frozen=True)
class Decoded:
    """What the features of a video know of it."""

    num_frames: int
    spans_end: int
    """Source frame that the last span stops at, 0 without a span."""
    fps: float | None = None


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
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: allowed are {', '.join(RULES)}")
    if reading not in READINGS:
        raise ValueError(f"reading = {reading!r}: allowed are {', '.join(READINGS)}")
    seen = decoded or {}
    videos = as_decoded(manifest.in_split(split), seen)
    if not videos:
        raise GroundTruthError(f"{manifest.path}: no video in split {split!r}")
    lengths = {video.video_id: length_by_rule(video, rule, seen) for video in videos}
    need = {"scored": "num_frames_scored in the manifest", "spans": "features"}
    lacking = (each for each, length in lengths.items() if length is None)
    refuse(lacking, need.get(rule, "num_frames"), "add them, or take another rule")
    videos = with_intervals(videos)
    known = tuple(length or 0 for length in lengths.values())
    parts = [labels_of(*each, reading) for each in zip(videos, known, strict=True)]
    return FlatTruth(np.concatenate(parts), tuple(lengths), known)


def as_decoded(videos: Iterable[Video], decoded: Mapping[str, Decoded]) -> list[Video]:
    """The videos with the lengths and rates of ``decoded``, where it knows them."""
    return [
        replace(video, num_frames=found.num_frames, fps=found.fps or video.fps)
        if (found := decoded.get(video.video_id))
        else video
        for video in videos
    ]


def length_by_rule(video: Video, rule: str, decoded: Mapping[str, Decoded]) -> int | None:
    """Number of labels of a video under one of ``RULES``; None where it is unknown."""
    if rule == "spans":
        return decoded[video.video_id].spans_end if video.video_id in decoded else None
    if rule == "scored":
        return video.num_frames_scored
    return None if video.num_frames is None else LENGTHS[rule](video.num_frames)


def with_intervals(videos: Iterable[Video]) -> list[Video]:
    """The videos with their anomalous frames, those in seconds turned into frames.

    Raises GroundTruthError that lists the videos whose intervals, or frames and rate to count
    them in, are unknown.
    """
    videos = [_in_frames(video) for video in videos]
    uncounted = (v for v in videos if v.intervals_seconds is not None and v.intervals is None)
    refuse(
        (video.video_id for video in uncounted),
        "num_frames or fps for intervals_seconds",
        "add them to the manifest, or name --features",
    )
    refuse((video.video_id for video in videos if video.intervals is None), "intervals")
    return videos


def _in_frames(video: Video) -> Video:
    if video.label == 0:
        return replace(video, intervals=(), intervals_seconds=None, published=None)
    if video.intervals_seconds is None or video.num_frames is None or video.fps is None:
        return video
    return replace(video, intervals=video_intervals(video, video.num_frames))


def refuse(ids: Iterable[str], what: str, remedy: str = "add them to the manifest") -> None:
    """Raise GroundTruthError that says ``what`` is unknown of these videos, if there are any."""
    if unknown := list(ids):
        shown = ", ".join(unknown[:5]) + (", ..." if unknown[5:] else "")
        raise GroundTruthError(f"{what} unknown for {len(unknown)} videos ({shown}): {remedy}")


def labels_of(video: Video, length: int, reading: str) -> NDArray[np.uint8]:
    """Labels of one video of ``with_intervals``: uint8 [length], 1 anomalous."""
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
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise GroundTruthError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:  # numpy's message advises to run what is in it
        raise GroundTruthError(f"{path}: not a .npy file of numbers: save it by np.save") from error
    flat = np.ravel(found)
    if found.size != max(found.shape, default=0) or not np.isin(flat, (0, 1)).all():
        raise GroundTruthError(f"{path}: {found.dtype} {found.shape}: expected a row of 0 and 1")
    return flat.astype(bool)
