"""The nouns that several modules share, and the family of errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class VadprepError(Exception):
    """What goes wrong in the world around us, in one line that names the remedy.

    ``exit_code`` is what the command line ends with: 2 for what has to be put right before
    anything can run, 1 for what stopped a run, 75 for a stop by a signal.
    """

    exit_code = 2


class ManifestError(VadprepError):
    """A manifest or split file has a bad row: names file, line and column."""


class SpecError(VadprepError):
    """Two specs differ where they must not, or a spec asks for what is not there."""


class WeightsError(VadprepError):
    """A weights file is missing, damaged, or made for another network."""


class FeaturesError(VadprepError):
    """A feature folder is missing, mixed or inconsistent."""


class ShardError(FeaturesError):
    """A shard file is damaged or not a shard: names file and video."""


class CheckpointError(VadprepError):
    """A run folder or checkpoint is missing, damaged, or does not fit the features."""


class DecodeError(VadprepError):
    """One video cannot be read. ``kind`` is a word for tables, the message one for people."""

    exit_code = 1

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class OutputError(VadprepError):
    """The output disk is full, gone or not writable. What was committed is safe."""

    exit_code = 1


class LeaseError(VadprepError):
    """Another run works on the same shards, or has taken them over. Nothing is harmed."""

    exit_code = 1


class OutOfMemory(VadprepError):
    """The network does not fit into memory, however small its batches. No video's fault."""

    exit_code = 1


class ClusterError(VadprepError):
    """A Ray cluster cannot be joined, or no node of it can do the work: each with its reason."""


class TrainingError(VadprepError):
    """Training cannot go on, for example at the first loss that is not finite."""

    exit_code = 1


class Stopped(VadprepError):
    """A signal asked for a stop: everything finished is committed, run the command again."""

    exit_code = 75


Interval = tuple[int, int]
"""Half-open range of source frames [start, stop)."""

NOTHING: Mapping[str, str] = {}
"""Shared by all videos without extra columns; a mapping proxy could not be pickled."""


@dataclass(frozen=True, slots=True)
class Video:
    """One manifest row: one file (or folder of frames) with one id.

    ``label`` is 0 (normal), 1 (abnormal) or None (unknown). ``intervals`` are the anomalous
    source frames: ``()`` known to have none, None unknown. ``num_frames`` and ``fps`` are what
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


SKIPPED = "skipped"
"""Status of a video that is left for the next run: its worker died, the video may be good."""


@dataclass(frozen=True)
class Task:
    """A video to extract: its manifest row, its file, and for each stream the shard to write."""

    video: Video
    targets: Mapping[str, Path]
    """Stream -> a shard of this one video."""
    source: Path | None = None
    missing: str = ""
    """Where it was looked for, when there is no such file."""


@dataclass(frozen=True)
class Report:
    """What became of a task; small enough to travel between processes.

    The streams of a task share its fate: all are done, or none.
    """

    video_id: str
    status: str
    reason: str = ""
    kind: str = ""
    decoder: str = ""
    num_clips: int = 0
    num_frames: int = 0
    repaired_frames: int = 0
    length_note: str = ""
    """Why the number of frames is not what header or manifest say, see ``claims``."""
    fps: float = 0.0
    """Of the source; 0 where nothing states it."""
    checksums: Mapping[str, int] = field(default_factory=dict)
    """CRC-32 of the features of each stream."""
    retries: tuple[str, ...] = ()
    """Reasons of the decoders that were tried before."""
    batch_used: Mapping[str, int] = field(default_factory=dict)
    """Stream -> views a batch, where memory sufficed for fewer than the spec has."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds a stage, all streams together: decode (waiting for frames), resize, flow, compute,
    write; and decoding, those of the decoder, which works beside."""
