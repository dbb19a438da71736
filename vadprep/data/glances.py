"""Glances: one clicked frame of each event, a cheap label (GlanceVAD, 2024).

They are the column ``glances`` of a manifest. Here they come from a public file of clicks, or are
drawn from the intervals of the manifest, for ablations.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from vadprep.core.errors import ManifestError
from vadprep.core.records import Video
from vadprep.data.intervals import video_intervals
from vadprep.data.manifest import Manifest, read_rows


def read_glances(manifest: Manifest, path: str | Path) -> dict[str, tuple[int, ...]]:
    """Clicked frames by id, in order, from a CSV file with the columns ``video-id, glance``.

    A click is a row. Raises ManifestError with file, line and column for an id that the manifest
    lacks, a video that is normal, and a number that is no frame of the video.
    """
    videos = {video.video_id: video for video in manifest.videos}
    found: dict[str, set[int]] = {}
    for row in read_rows(Path(path), ["video-id"], ["glance"]):
        video = videos.get(row.cells["video-id"])
        if video is None:
            raise row.error("video-id", f"no such video in {manifest.path}: correct or remove it")
        if video.label == 0:
            raise row.error("video-id", "is a normal video: remove its clicks")
        frame = row.text("glance")
        end = video.num_frames or 10**9
        if not (frame.isascii() and frame.isdecimal() and len(frame) < 10 and int(frame) < end):
            raise row.error("glance", f"write a frame of the video, from 0 to {end - 1}")
        found.setdefault(video.video_id, set()).add(int(frame))
    return {video_id: tuple(sorted(frames)) for video_id, frames in found.items()}


def drawn_glances(manifest: Manifest, seed: int) -> dict[str, tuple[int, ...]]:
    """A frame of each interval of the abnormal videos, each as likely: frames by id, in order.

    The draws of a video depend on the seed and its id alone. Videos of unknown intervals are left
    out; ManifestError when no others are abnormal.
    """
    found = {}
    for video in manifest.videos:
        if intervals := _frames_of(video, manifest.where(video)):
            id_hash = zlib.crc32(video.video_id.encode("utf-8", "surrogateescape"))
            random = np.random.default_rng((seed, id_hash))
            found[video.video_id] = tuple(int(random.integers(*each)) for each in intervals)
    if not found:
        raise ManifestError(
            f"{manifest.path}: column 'intervals': known of no abnormal video: fill them in"
        )
    return found


def _frames_of(video: Video, where: str) -> tuple[tuple[int, int], ...]:
    """Intervals in frames; empty where they are unknown."""
    if video.intervals is not None or not video.num_frames:
        return video.intervals or ()
    if video.intervals_seconds is not None and not video.fps:
        return ()
    return video_intervals(video, video.num_frames, where=where) or ()


def with_glances(manifest: Manifest, glances: dict[str, tuple[int, ...]]) -> Manifest:
    """The manifest with these glances and no others."""
    videos = (replace(each, glances=glances.get(each.video_id)) for each in manifest.videos)
    return replace(manifest, videos=tuple(videos))


def manifest_text(manifest: Manifest) -> str:
    """The CSV file of a manifest with its splits and glances, all other cells as they are."""
    text, videos = io.StringIO(), iter(manifest.videos)
    columns = list(dict.fromkeys([*manifest.columns, "split", "glances"]))
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row, video in zip(read_rows(manifest.path), videos, strict=True):
        glances = "" if video.glances is None else json.dumps(list(video.glances))
        table.writerow({**row.cells, "split": video.split, "glances": glances})
    return text.getvalue()
