"""What a live session gives: scores, alarms, and what happened to a source."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Literal


@dataclass(frozen=True)
class ScoreRecord:
    """The score of one clip, without the future: the newest of the snippets that the head saw."""

    source: str
    time: float
    """Unix seconds at which the last frame of the clip came."""
    frames: tuple[int, int]
    """Frames [start, stop) of the source that the clip shows, counted from its first one."""
    seconds: tuple[float, float]
    """The same in seconds from the first frame."""
    score: float
    """In [0, 1]; the mean over the seeds of the run."""
    alarm: bool
    """Whether an alarm is on after this clip."""
    delay: float
    """Seconds from the last frame of the clip to this record."""
    lost_frames: int = 0
    """Frames that were missing, late or damaged since the record before."""
    dropped_clips: int = 0
    """Clips that were left out since the record before, because the machine is too slow."""


@dataclass(frozen=True)
class AlarmRecord:
    """An alarm went on or off."""

    source: str
    time: float
    """Unix seconds of the last frame behind the change."""
    state: Literal["on", "off"]
    seconds: tuple[float, float]
    """From the first clip of the alarm to the last one so far, in seconds of the source."""
    score: float
    """The highest so far."""


@dataclass(frozen=True)
class SourceRecord:
    """A source was connected, lost or has ended."""

    source: str
    time: float
    """Unix seconds."""
    state: Literal["connected", "lost", "changed", "failed", "ended", "kept"]
    """``changed``: the clock or the size of the frames. ``failed``: a file cannot be read.
    ``kept``: the clip of an alarm was written."""
    reason: str = ""
    lost_seconds: float = 0.0
    """With ``connected``: how long nothing came."""
    lost_frames: int = 0
    """Frames that came and are in no clip, since the record before."""
    dropped_clips: int = 0
    """As of a ScoreRecord; the rest at the end of a source."""


Record = ScoreRecord | AlarmRecord | SourceRecord

KINDS = {ScoreRecord: "score", AlarmRecord: "alarm", SourceRecord: "source"}


def as_json(record: Record) -> str:
    """One line of JSON: the fields of the record, its ``kind`` before them, ``time`` as ISO 8601.

    Names of sources in records are without user, password and query.
    """
    moment = datetime.fromtimestamp(record.time, timezone.utc)
    time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"kind": KINDS[type(record)], **asdict(record), "time": time}
    return json.dumps(fields, allow_nan=False)
