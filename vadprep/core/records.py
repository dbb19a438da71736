"""The records that several rooms pass on: a video, a task, a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Interval = tuple[int, int]
"""Half-open range of source frames [start, stop)."""

NOTHING: Mapping[str, str] = {}
"""Shared by all videos without extra columns. Not a mapping proxy: that cannot be pickled."""


@dataclass(frozen=True, slots=True)
class Video:
    """One manifest row: one file (or folder of frames) with one id.

    ``label`` is 0 (normal), 1 (abnormal) or None (unknown). ``intervals`` are the anomalous
    source frames: ``()`` known to have none, None unknown. At most one of ``intervals``,
    ``intervals_seconds`` and ``intervals_fraction`` (of the length of the video, 0 to 1) is given:
    see ``data.video_intervals``. ``num_frames`` and ``fps`` are what
    the manifest says, not what was decoded. ``published`` are the intervals as they were written,
    where reading cut them at ``num_frames``. ``line`` is that of the row, 0 where there is none.
    """

    video_id: str
    path: str
    split: str = ""
    label: int | None = None
    category: str = ""
    num_frames: int | None = None
    num_frames_scored: int | None = None
    fps: float | None = None
    intervals: tuple[Interval, ...] | None = None
    intervals_seconds: tuple[tuple[float, float], ...] | None = None
    extra: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    published: tuple[Interval, ...] | None = None
    line: int = field(default=0, compare=False)
    intervals_fraction: tuple[tuple[float, float], ...] | None = None
    glances: tuple[int, ...] | None = None
    """A clicked frame of each anomalous event, in order; None unknown."""

    @property
    def attributes(self) -> dict[str, str | int]:
        """What a shard stores of the row: id, path, split, category, and the label if known."""
        names = ("video_id", "path", "split", "label", "category")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


SKIPPED = "skipped"
"""Status of a video that the next run tries again: its worker died, the video may be good."""


RUNNING = "running"
"""Status of a report on a video that is still in work: what is done of it so far."""


@dataclass(frozen=True)
class Task:
    """A video to extract: its manifest row, its file, and for each stream the shard to write."""

    video: Video
    targets: Mapping[str, Path]
    """Stream -> a shard of this one video."""
    source: Path | None = None
    missing: str = ""
    """Where the file was searched, when there is none."""


@dataclass(frozen=True)
class Report:
    """What became of a task: all its streams are done, or none; or how far it is."""

    video_id: str
    status: str
    reason: str = ""
    kind: str = ""
    decoder: str = ""
    num_clips: int = 0
    num_frames: int = 0
    repaired_frames: int = 0
    length_note: str = ""
    """Why the number of frames differs from header or manifest."""
    fps: float = 0.0
    """Frame rate of the source; 0 where nothing states it."""
    checksums: Mapping[str, int] = field(default_factory=dict)
    """CRC-32 of the features of each stream."""
    retries: tuple[str, ...] = ()
    """Reasons of the decoders that were tried before."""
    batch_used: Mapping[str, int] = field(default_factory=dict)
    """Stream -> views a batch, where memory sufficed for fewer than the spec has."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds a stage, all streams together: decode (waiting for frames), resize, flow, compute,
    write; and decoding, those of the decoder, which works beside."""
    share: float = 0.0
    """How much of a video in work is done, 0 to 1; 0 where its length is not known."""


class Wanted(NamedTuple):
    """A video whose preview is wanted."""

    video: Video
    num_frames: int
    fps: float | None
    shown: int
    """The frame of the single picture."""


@dataclass(frozen=True)
class Preview:
    """What a page shows of a video itself. Files are relative to the folder of the pages."""

    movie: str = ""
    """What a browser plays, with the time stamps of the video; blank for nothing."""
    picture: str = ""
    """JPEG of one frame."""
    board: str = ""
    """JPEG of up to 100 thumbnails, ten in a row, read row by row."""
    tile: tuple[int, int] = (0, 0)
    """Width and height of a thumbnail in pixels."""
    seconds: tuple[float, ...] = ()
    """When each thumbnail is shown."""
    reason: str = ""
    """Why there are no pictures; blank where there are some."""
