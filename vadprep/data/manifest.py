"""The table of videos, a CSV file: read and checked, row by row, before anything is decoded.

The README of this folder lists the columns.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from vadprep.core.errors import ManifestError, counted
from vadprep.core.records import NOTHING, Video
from vadprep.core.untrusted import open_regular
from vadprep.core.video_files import id_of_path
from vadprep.data.intervals import MAX_PAST_END, clip_intervals

_Number = TypeVar("_Number", int, float)

_COLUMNS = (
    "video_id path split label category num_frames num_frames_scored fps intervals "
    "intervals_seconds intervals_fraction glances"
).split()
_INTERVALS = ("intervals", "intervals_seconds", "intervals_fraction")
_OTHER_NAMES = {"id": "video_id", "name": "video_id", "video": "video_id"}
"""What people call columns, where spelling is no guide."""
_SPLITS = ("train", "test")
MOST_SPLITS = 5  # other splits that are listed, the largest first
_MOST_BYTES = 1 << 30  # of a table: some million videos
_MOST_LINE = 1 << 20  # characters of a line, and lines of a row
_OWN = ("intervals_raw", "intervals_hf2vad")  # extra columns of the included lists
_LIKENESS = 0.7  # similarity of two words, 0 to 1, above which one may be a typo of the other


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
        lines = [
            f"{self.path}:1: column {column!r} is not read: did you mean {name!r}?"
            for column in self.columns
            if column not in (*_COLUMNS, *_OWN) and (name := _meant(column, missing))
        ]
        others = ("", "validation", *_SPLITS)
        splits = Counter(video.split for video in self.videos if video.split not in others)
        odd = []
        for split, count in splits.most_common(MOST_SPLITS):
            meant = _meant(split, _SPLITS)
            hint = f", did you mean {meant!r}?" if meant else ""
            odd.append(f"{split!r} ({count} video{'s' * (count != 1)}{hint})")
        if odd:
            listed = ", ".join([*odd, "..."] if len(splits) > MOST_SPLITS else odd)
            lines.append(
                f"{self.path}: train and eval take the splits train and test, not {listed}"
            )
        return lines

    def where(self, video: Video) -> str:
        """File, line and column of a video's intervals, to open a message with."""
        if not video.line:
            return f"{self.path}: video {video.video_id!r}"
        given = [column for column in _INTERVALS[1:] if getattr(video, column) is not None]
        return f"{self.path}:{video.line}: column {[*given, 'intervals'][0]!r}"


def _meant(word: str, known: Sequence[str]) -> str:
    """The one of the ``known`` words that ``word`` may stand for; blank if there is none."""
    if (name := _OTHER_NAMES.get(word.lower(), "")) in known:
        return name
    return next(iter(difflib.get_close_matches(word.lower(), known, 1, _LIKENESS)), "")


def read_manifest(path: str | Path, with_paths: bool = True) -> Manifest:
    """Read a manifest from a CSV file: UTF-8, with or without BOM, any line ends.

    The columns are listed in ``README.md`` beside this file. Without ``with_paths`` the column
    ``path`` may be missing; the paths are blank then. Raises ManifestError for the first bad row,
    with file, line, column, value and remedy.
    """
    path = Path(path)
    videos: list[Video] = []
    lines: dict[str, int] = {}
    warnings: list[str] = []
    for row in read_rows(path, ["path"] if with_paths else ["path", "video_id"]):
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


def apply_splits(manifest: Manifest, split_file: str | Path) -> Manifest:
    """The manifest with the splits of a file with the columns ``video_id, split``.

    A video that the file leaves out gets the split '' and a warning. Raises ManifestError for
    a bad row and for an id that the manifest lacks.
    """
    path = Path(split_file)
    known = {video.video_id for video in manifest.videos}
    splits: dict[str, str] = {}
    for row in read_rows(path, ["video_id"], ["split"]):
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
        warnings += (
            f"{path}: {counted(len(left_out), 'video')} left out, now in no split: {names}",
        )
    videos = tuple(replace(v, split=splits.get(v.video_id, "")) for v in manifest.videos)
    return replace(manifest, videos=videos, warnings=warnings)


@dataclass(frozen=True)
class Row:
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


def read_rows(path: Path, *required: Sequence[str]) -> Iterator[Row]:
    """The rows below the header; of each of the ``required`` columns, one name has to be there.

    Raises ManifestError for what is not a table.
    """
    before = 0

    def bounded(file: io.TextIOWrapper) -> Iterator[str]:
        while line := file.readline(_MOST_LINE):
            if len(line) == _MOST_LINE or reader.line_num - before == _MOST_LINE:
                raise csv.Error("a row has no end")
            if "\0" in line:
                raise csv.Error(f"a NUL in line {reader.line_num + 1}")
            yield line

    try:
        with open_regular(path, ManifestError, _MOST_BYTES) as file:
            # Strict, or one quote that is never closed swallows the rest of the file.
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.reader(bounded(text), strict=True)
            columns = [name.strip() for name in next(reader, [])]
            if not any(columns):
                raise ManifestError(f"{path}:1: no header: the first line names the columns")
            for names in required:
                if not set(names) & set(columns):
                    raise ManifestError(
                        f"{path}:1: no column {names[0]!r} among {', '.join(columns)}: add it "
                        f"(the separator is a comma)"
                    )
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise ManifestError(f"{path}:1: column {twice[0]!r} is there twice: rename one")
            before = reader.line_num
            for cells in reader:
                line, before = before + 1, reader.line_num  # a quoted cell may hold line breaks
                if cells and len(cells) != len(columns):
                    raise ManifestError(
                        f"{path}:{line}: {counted(len(cells), 'cell')} under "
                        f"{counted(len(columns), 'column')}: quote a cell that holds a comma"
                    )
                if cells:
                    yield Row(path, line, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise ManifestError(f"{path}: not CSV ({error}): check the quotes") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}: check the path") from None


def _video(row: Row, warnings: list[str]) -> Video:
    """The video of one row; what was corrected is added to ``warnings``."""
    if row.text("label") not in ("", "0", "1", "0.0", "1.0"):  # fractions are of pandas
        raise row.error("label", "write 0 (normal), 1 (abnormal) or nothing")
    label, fps = int(float(row.text("label"))) if row.text("label") else None, _fps(row)
    num_frames, scored = _count(row, "num_frames"), _count(row, "num_frames_scored")
    intervals, seconds = _pairs(row, "intervals", int), _pairs(row, "intervals_seconds", float)
    fraction = _pairs(row, "intervals_fraction", float)
    if fraction and fraction[-1][1] > 1:
        raise row.error("intervals_fraction", "fractions of the length are from 0 to 1")
    pairs = dict(zip(_INTERVALS, (intervals, seconds, fraction), strict=True))
    present = [column for column, given in pairs.items() if given is not None]
    if present[1:]:
        raise row.error(present[1], f"{present[0]} are there too: keep one of the two")
    for column, given in pairs.items():
        if label == 0 and given:
            raise row.error(column, "label 0 is a normal video: write [] or label 1")
        if label == 1 and given == ():
            raise row.error(column, "label 1 is abnormal somewhere: leave blank where unknown")
    published = None
    if intervals:
        where = row.where("intervals")
        if num_frames is not None:
            kept, notes = clip_intervals(intervals, num_frames, where, fps=fps)
            published, intervals = intervals if notes else None, kept
            warnings.extend(notes)
        elif scored is not None:
            # The video is as long or up to a clip longer, and unknown: keep the ends. Only
            # the public ground truth stops at the scored length.
            warnings.extend(clip_intervals(intervals, scored, where, "scored frames", fps)[1])
    path = row.cells.get("path", "")
    if "path" in row.cells and not path.strip():
        raise row.error("path", "write the file or folder of frames, relative to the root")
    video_id = row.cells.get("video_id")
    if video_id is None:
        video_id = id_of_path(path)
    elif not video_id.strip():
        raise row.error("video_id", "blank: write any unique text, or drop the column")
    return Video(
        video_id=video_id,
        path=path,
        split=sys.intern(row.text("split")),  # the same for many rows
        label=label,
        category=sys.intern(_categories(row.text("category"))),
        num_frames=num_frames,
        num_frames_scored=scored,
        fps=fps,
        intervals=intervals,
        intervals_seconds=seconds,
        intervals_fraction=fraction,
        glances=_glances(row, label, num_frames),
        extra={name: cell for name, cell in row.cells.items() if name not in _COLUMNS} or NOTHING,
        published=published,
        line=row.line,
    )


def _categories(text: str) -> str:
    """``fire|theft`` of ``fire | theft|fire``: each once, without blanks around."""
    return "|".join(dict.fromkeys(name for each in text.split("|") if (name := each.strip())))


def _count(row: Row, column: str) -> int | None:
    text = re.sub(r"\.0+$", "", row.text(column))  # as pandas writes a column with blanks
    if text and not re.fullmatch("0*[1-9][0-9]{,8}", text):
        raise row.error(column, "write a whole number above 0 and below 10^9, or nothing")
    return int(text) if text else None


def _fps(row: Row) -> float | None:
    text = row.text("fps")
    if not text:
        return None
    above, _, below = text.partition("/")
    try:
        fps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        fps = math.nan
    if not 1e-6 <= fps <= 1e6:
        raise row.error(
            "fps", "write a number above 0 and up to 10^6, such as 25 or 30000/1001, or nothing"
        )
    return fps


def _pairs(
    row: Row, column: str, number: type[_Number]
) -> tuple[tuple[_Number, _Number], ...] | None:
    """[start, stop) pairs of a JSON cell: numbers, in order, none overlapping the next."""
    text = row.text(column)
    if not text:
        return None
    try:
        pairs = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.error(column, f"not JSON ({error}): write [[start, stop], ...]") from None
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise row.error(column, "write pairs of numbers: [[start, stop], ...]")
    if number is int and any(type(edge) is float for pair in pairs for edge in pair):
        raise row.error(column, "frames are whole numbers: [[start, stop], ...]")
    last_stop = 0
    for start, stop in pairs:
        if not last_stop <= start < stop:
            raise row.error(
                column,
                f"[{start}, {stop}) after {last_stop}: intervals start at 0 or later, end "
                f"after they start, and are in order without overlap",
            )
        last_stop = stop
    return tuple((number(start), number(stop)) for start, stop in pairs)


def _glances(row: Row, label: int | None, num_frames: int | None) -> tuple[int, ...] | None:
    """Clicked frames of a JSON cell, in order, each once."""
    text = row.text("glances")
    if not text:
        return None
    try:
        frames = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.error("glances", f"not JSON ({error}): write [frame, ...]") from None
    if not isinstance(frames, list) or any(type(each) is not int for each in frames):
        raise row.error("glances", "write whole frames: [frame, ...]")
    if frames and label == 0:
        raise row.error("glances", "label 0 is a normal video: leave it blank, or write label 1")
    end = num_frames or 10**9
    if frames != sorted(set(frames)) or any(not 0 <= each < end for each in frames):
        raise row.error("glances", f"frames are from 0 to {end - 1}, in order and each once")
    return tuple(frames)


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

    def nearly_allow(self, num_frames: int) -> bool:
        """True when it is at most a clip outside, as lengths that decoders or papers count are."""
        nearest = min(max(num_frames, self.least or 0), self.most or num_frames)
        return abs(nearest - num_frames) <= MAX_PAST_END

    def __str__(self) -> str:
        if self.least is None or self.most is None:
            return f"at least {self.least}" if self.most is None else f"at most {self.most}"
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


def frame_bounds(video: Video) -> FrameBounds:
    """Bounds of the number of frames: ``num_frames``, else two extra columns, else None.

    The bundled lists have the columns ``num_frames_min`` and ``num_frames_max`` where only clips
    were published, as for the test videos of XD-Violence.
    """
    if video.num_frames is not None:
        return FrameBounds(video.num_frames, video.num_frames)
    bounds = [video.extra.get(f"num_frames_{end}", "") for end in ("min", "max")]
    are_counts = (re.fullmatch("[0-9]{1,9}", bound) for bound in bounds)
    return FrameBounds(*(int(found[0]) if found else None for found in are_counts))
