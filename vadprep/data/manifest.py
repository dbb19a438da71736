"""The table of videos: read and checked, row by row, before anything is decoded.

A manifest is a CSV file with one row per video. Only ``path`` has to be there, and where no video
is read ``video_id`` will do:

==================  =====================================================================
video_id            opaque unique string; without the column, the path without its suffix
path                a video file or a folder of frames, relative to the root
split               train, test, ...
label               0 normal, 1 abnormal, blank unknown
category            several are separated by ``|``
num_frames          frames of the video, where known
num_frames_scored   length of the public frame-level ground truth
fps                 frames a second, also as a fraction (30000/1001)
intervals           JSON [[start, stop], ...]: anomalous source frames, half-open;
                    ``[]`` known to have none, blank unknown
intervals_seconds   the same in seconds, instead of ``intervals``
==================  =====================================================================

Every other column is kept in ``Video.extra``.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TextIO

from vadprep.core.errors import ManifestError
from vadprep.core.records import NOTHING, Interval, Video
from vadprep.data.intervals import Seconds, clip_intervals

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
"""File name endings, in lower case, that make a file a video."""

_COLUMNS = (
    "video_id path split label category num_frames num_frames_scored fps intervals "
    "intervals_seconds"
).split()
_OTHER_NAMES = {"id": "video_id", "name": "video_id", "video": "video_id"}
"""What people call columns, where spelling is no guide."""
_SPLITS = ("train", "test")
MOST_SPLITS = 5
"""Other splits that are listed, the largest first."""
_LIKENESS = 0.7
"""Similarity of two words, 0 to 1, above which one may be a typo of the other."""
_LABELS = {"": None, "0": 0, "1": 1}


@dataclass(frozen=True)
class Manifest:
    """The videos of one data set, in the order of the file.

    ``warnings`` are one line each: what reading corrected, for example ends that were cut.
    ``columns`` are those of the header, in order.
    """

    path: Path
    videos: tuple[Video, ...]
    warnings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def in_split(self, split: str) -> tuple[Video, ...]:
        """The videos of one split, in order."""
        return tuple(video for video in self.videos if video.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order of first appearance."""
        return tuple(dict.fromkeys(video.split for video in self.videos))

    def likely_typos(self) -> list[str]:
        """A line for each column name that looks misspelt, and for splits that nothing uses."""
        missing = [name for name in _COLUMNS if name not in self.columns]
        meant = {each: _meant(each, missing) for each in self.columns if each not in _COLUMNS}
        lines = [
            f"{self.path}:1: column {column!r} is not read: did you mean {name!r}?"
            for column, name in meant.items()
            if name
        ]
        splits = Counter(video.split for video in self.videos if video.split not in ("", *_SPLITS))
        if splits:
            odd = ", ".join(_odd_split(*each) for each in splits.most_common(MOST_SPLITS))
            odd += ", ..." if len(splits) > MOST_SPLITS else ""
            lines.append(f"{self.path}: train and eval take the splits train and test, not {odd}")
        return lines

    def where(self, video: Video) -> str:
        """File, line and column of a video's intervals, to open a message with."""
        if not video.line:
            return f"{self.path}: video {video.video_id!r}"
        column = "intervals" if video.intervals_seconds is None else "intervals_seconds"
        return f"{self.path}:{video.line}: column {column!r}"


def read_manifest(path: str | Path, with_paths: bool = True) -> Manifest:
    """Read a manifest from a CSV file: UTF-8, with or without BOM, any line ends.

    The columns are listed in ``vadprep/data/README.md``. Without ``with_paths`` the column
    ``path`` may be missing; the paths are blank then. Raises ManifestError for the first bad row,
    with file, line, column, value and remedy.
    """
    path = Path(path)
    videos: list[Video] = []
    lines: dict[str, int] = {}
    warnings: list[str] = []
    instead = None if with_paths else "video_id"
    for row in _read_rows(path, required=("path",), instead=instead):
        video = _video(row, warnings)
        first = lines.setdefault(video.video_id, row.line)
        if first != row.line:
            column = "video_id" if "video_id" in row.cells else "path"
            raise row.error(
                column, f"id {video.video_id!r} is in line {first} already: make it unique"
            )
        videos.append(video)
    if not videos:
        raise ManifestError(f"{path}: no videos below the header: add a row for each video")
    return Manifest(path, tuple(videos), tuple(warnings), tuple(row.cells))


def _meant(word: str, known: Sequence[str]) -> str:
    """The one of the ``known`` words that ``word`` may stand for; blank if there is none."""
    if (name := _OTHER_NAMES.get(word.lower(), "")) in known:
        return name
    return next(iter(difflib.get_close_matches(word.lower(), known, 1, _LIKENESS)), "")


def _odd_split(split: str, count: int) -> str:
    meant = _meant(split, _SPLITS)
    hint = f", did you mean {meant!r}?" if meant else ""
    return f"{split!r} ({count} video{'s' * (count != 1)}{hint})"


def apply_splits(manifest: Manifest, split_file: str | Path) -> Manifest:
    """The manifest with the splits of a file with the columns ``video_id, split``.

    A video that the file leaves out gets the split '' and a warning. Raises ManifestError for
    a bad row and for an id that the manifest lacks.
    """
    path = Path(split_file)
    known = {video.video_id for video in manifest.videos}
    splits: dict[str, str] = {}
    for row in _read_rows(path, required=("video_id", "split")):
        video_id = row.cells["video_id"]
        if video_id not in known:
            raise row.error("video_id", f"no such video in {manifest.path}: correct or remove it")
        if video_id in splits:
            raise row.error("video_id", "is in this file twice: remove one")
        splits[video_id] = row.text("split")
    left_out = [video.video_id for video in manifest.videos if video.video_id not in splits]
    warnings = manifest.warnings
    if left_out:
        names = ", ".join(map(repr, left_out[:3])) + (", ..." if left_out[3:] else "")
        warnings += (f"{path}: {len(left_out)} videos left out, now in no split: {names}",)
    videos = tuple(replace(v, split=splits.get(v.video_id, "")) for v in manifest.videos)
    return replace(manifest, videos=videos, warnings=warnings)


@dataclass(frozen=True)
class _Row:
    """One row of a CSV file, with what an error message needs."""

    path: Path
    line: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        return self.cells.get(column, "").strip()

    def where(self, column: str) -> str:
        return f"{self.path}:{self.line}: column {column!r}"

    def error(self, column: str, remedy: str) -> ManifestError:
        value = self.cells.get(column, "")
        shown = value if len(value) <= 60 else value[:57] + "..."
        return ManifestError(f"{self.where(column)}: {shown!r}: {remedy}")


def _read_rows(path: Path, required: tuple[str, ...], instead: str | None = None) -> Iterator[_Row]:
    """The rows below the header. Raises ManifestError for what is not a table.

    ``instead`` is a column that serves as well as the required ones.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _rows(path, lines, required, instead)
    except csv.Error as error:
        raise ManifestError(f"{path}: not CSV ({error}): check the quotes") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}: check the path") from None


def _rows(
    path: Path, lines: TextIO, required: tuple[str, ...], instead: str | None
) -> Iterator[_Row]:
    # Strict, or one quote that is never closed swallows the rest of the file.
    reader = csv.reader(lines, strict=True)
    columns = [name.strip() for name in next(reader, [])]
    where = f"{path}:1"
    if not any(columns):
        raise ManifestError(f"{where}: no header: the first line names the columns")
    for name in required:
        if name not in columns and instead not in columns:
            raise ManifestError(
                f"{where}: no column {name!r} among {', '.join(columns)}: add it "
                f"(the separator is a comma)"
            )
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise ManifestError(f"{where}: column {twice[0]!r} is there twice: rename one")
    before = reader.line_num
    for cells in reader:
        line, before = before + 1, reader.line_num  # a quoted cell may hold line breaks
        if not cells:
            continue
        if len(cells) != len(columns):
            raise ManifestError(
                f"{path}:{line}: {len(cells)} cells under {len(columns)} columns: "
                f"quote a cell that holds a comma"
            )
        yield _Row(path, line, dict(zip(columns, cells, strict=True)))


def _video(row: _Row, warnings: list[str]) -> Video:
    """The video of one row; what was corrected is added to ``warnings``."""
    label, intervals, seconds = _label(row), _frame_intervals(row), _second_intervals(row)
    _check_label(row, label, intervals, seconds)
    num_frames, scored = _count(row, "num_frames"), _count(row, "num_frames_scored")
    fps, published = _fps(row), None
    if intervals:
        where = row.where("intervals")
        if num_frames is not None:
            kept, notes = clip_intervals(intervals, num_frames, where, fps=fps)
            published, intervals = intervals if notes else None, kept
            warnings.extend(notes)
        elif scored is not None:
            # The video is as long or up to a clip longer, and unknown: keep the ends. Only
            # the public ground truth stops at the scored length.
            notes = clip_intervals(intervals, scored, where, "scored frames", fps)[1]
            warnings.extend(notes)
    return Video(
        video_id=_video_id(row),
        path=_path(row) if "path" in row.cells else "",
        split=sys.intern(row.text("split")),  # the same for many rows
        label=label,
        category=sys.intern(row.text("category")),
        num_frames=num_frames,
        num_frames_scored=scored,
        fps=fps,
        intervals=intervals,
        intervals_seconds=seconds,
        extra={name: cell for name, cell in row.cells.items() if name not in _COLUMNS} or NOTHING,
        published=published,
        line=row.line,
    )


def _path(row: _Row) -> str:
    if not row.text("path"):
        raise row.error("path", "write the file or folder of frames, relative to the root")
    return row.cells["path"]


def _video_id(row: _Row) -> str:
    """The id as written, no character changed, or the path without a video suffix."""
    if "video_id" in row.cells:
        if not row.text("video_id"):
            raise row.error("video_id", "blank: write any unique text, or drop the column")
        return row.cells["video_id"]
    path = PurePosixPath(_path(row))
    # Only a suffix that is one: names of XD-Violence go on after their first dot.
    return str(path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path)


def _label(row: _Row) -> int | None:
    try:
        return _LABELS[row.text("label")]
    except KeyError:
        raise row.error("label", "write 0 (normal), 1 (abnormal) or nothing") from None


def _check_label(
    row: _Row,
    label: int | None,
    intervals: Sequence[Interval] | None,
    seconds: Seconds | None,
) -> None:
    if intervals is not None and seconds is not None:
        raise row.error("intervals_seconds", "intervals are there too: keep one of the two")
    column = "intervals" if intervals is not None else "intervals_seconds"
    given = intervals if intervals is not None else seconds
    if label == 0 and given:
        raise row.error(column, "label 0 is a normal video: write [] or label 1")
    if label == 1 and given is not None and not given:
        raise row.error(column, "label 1 is abnormal somewhere: leave blank where unknown")


def _count(row: _Row, column: str) -> int | None:
    text = row.text(column)
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) == 0:
        raise row.error(column, "write a whole number above 0, or nothing")
    return int(text)


def _fps(row: _Row) -> float | None:
    text = row.text("fps")
    if not text:
        return None
    above, _, below = text.partition("/")
    try:
        fps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        fps = math.nan
    if not 0 < fps < math.inf:
        raise row.error("fps", "write a number above 0, such as 25 or 30000/1001, or nothing")
    return fps


def _frame_intervals(row: _Row) -> tuple[Interval, ...] | None:
    pairs = _pairs(row, "intervals")
    if pairs is None:
        return None
    if any(type(edge) is not int for pair in pairs for edge in pair):
        raise row.error("intervals", "frames are whole numbers: [[start, stop], ...]")
    return tuple((int(start), int(stop)) for start, stop in pairs)


def _second_intervals(row: _Row) -> Seconds | None:
    pairs = _pairs(row, "intervals_seconds")
    return None if pairs is None else tuple((float(a), float(b)) for a, b in pairs)


def _pairs(row: _Row, column: str) -> list[tuple[float, float]] | None:
    """[start, stop) pairs of a JSON cell: numbers, in order, none overlapping the next."""
    text = row.text(column)
    if not text:
        return None
    try:
        pairs = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.error(column, f"not JSON ({error}): write [[start, stop], ...]") from None
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise row.error(column, "write pairs of numbers: [[start, stop], ...]")
    last_stop = 0.0
    for start, stop in pairs:
        if not last_stop <= start < stop:
            raise row.error(
                column,
                f"[{start}, {stop}) after {last_stop}: intervals start at 0 or later, end "
                f"after they start, and are in order without overlap",
            )
        last_stop = stop
    return [(start, stop) for start, stop in pairs]


def _is_pair(pair: object) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(edge) in (int, float) and abs(edge) < 2**53 for edge in pair)
    )


class FrameBounds(NamedTuple):
    """Fewest and most frames that a video may have; None where there is no bound."""

    least: int | None
    most: int | None

    def allow(self, num_frames: int) -> bool:
        """True when ``num_frames`` is within the bounds."""
        return (self.least or 0) <= num_frames <= (self.most or num_frames)

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least}"
        if self.least is None or self.most is None:
            return f"at least {self.least}" if self.most is None else f"at most {self.most}"
        return f"{self.least} to {self.most}"


def frame_bounds(video: Video) -> FrameBounds:
    """Bounds of the number of frames: ``num_frames``, else two extra columns, else None.

    The bundled lists have the columns ``num_frames_min`` and ``num_frames_max`` where only clips
    were published, as for the test videos of XD-Violence.
    """
    if video.num_frames is not None:
        return FrameBounds(video.num_frames, video.num_frames)
    bounds = [video.extra.get(f"num_frames_{end}", "") for end in ("min", "max")]
    return FrameBounds(*(int(bound) if bound.isdecimal() else None for bound in bounds))
