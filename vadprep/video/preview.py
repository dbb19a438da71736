"""Small copies of videos for a page: a movie that every browser plays, and thumbnails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vadprep.core.atomic import make_folder, open_atomic, write_json
from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.records import Preview, Wanted
from vadprep.core.resources import worker_cores
from vadprep.core.untrusted import read_json
from vadprep.data import SourceIndex
from vadprep.video.frame_stream import open_frames

MOST_WIDTH, MOST_HEIGHT = 1280, 360
"""Pixels of a preview; a smaller video keeps its size."""
TILE_WIDTH, TILE_HEIGHT = 160, 90
"""Pixels that a thumbnail fits into."""
TILES, COLUMNS = 100, 10
"""Thumbnails of a board, and how many of them stand in a row."""
TICKS = 90_000
"""Time stamps of a preview are multiples of this part of a second."""
PLAYED = {".mp4", ".m4v", ".mov", ".webm"}, {"h264", "vp8", "vp9", "av1"}
"""Suffixes and codecs that every browser plays, in 8 bit 4:2:0."""

Frame = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""


def make_previews(
    wanted: Sequence[Wanted],
    root: Path | None,
    folder: Path,
    names: Mapping[str, str],
    link: bool,
    on_preview: Callable[[int, int], object],
) -> dict[str, Preview]:
    """The previews of videos by id, made on all cores into ``folder / "media"``.

    ``names`` of the files are by id, without endings. Videos lie under ``root``, or at their path
    itself. With ``link`` a file that every browser plays is played itself. What an earlier call
    made of the same files is kept. A video without a preview has the reason. ``on_preview`` is
    called with the number of videos done and of all. Raises OutputError when the disk refuses,
    ManifestError when ``root`` is no folder.
    """
    make_folder(folder / "media")
    index = SourceIndex(root, [each.video for each in wanted]) if root else None
    done = 0

    def made(each: Wanted) -> Preview:
        nonlocal done
        try:
            source = index.find(each.video) if index else Path(each.video.path)
            if not source.exists():
                raise DecodeError(f"{source} is not there: name the folder of the videos")
            linked = link and plays_in_browsers(source)
            stem = folder / "media" / names[each.video.video_id]
            found = write_preview(source, stem, each, not linked)
            movie = quote(os.path.relpath(source, folder)) if linked else found.movie
            return replace(found, movie=movie)
        except (DecodeError, ManifestError) as error:
            return Preview(reason=f"There is no preview: {error}")
        finally:
            done += 1
            on_preview(done, len(wanted))

    with ThreadPoolExecutor(worker_cores()) as threads:  # decoders are processes; x264 is C
        previews = threads.map(made, wanted)
        return {
            each.video.video_id: preview for each, preview in zip(wanted, previews, strict=True)
        }


def write_preview(source: Path, stem: Path, wanted: Wanted, movie: bool) -> Preview:
    """Write ``STEM.mp4`` unless not ``movie``, ``STEM.jpg`` and ``STEM-board.jpg``.

    ``STEM.json`` says what they were made of. A folder of frames has 25 a second where its rate
    is unknown. Raises DecodeError for a video that cannot be read, OutputError when the disk
    refuses.
    """
    status = source.stat() if source.exists() else None
    about = {
        "source": [str(source), status and status.st_size, status and status.st_mtime_ns],
        "made": [*wanted[1:], movie],
    }
    movie_file, picture_file, board_file, record = (
        stem.with_name(stem.name + ending) for ending in (".mp4", ".jpg", "-board.jpg", ".json")
    )
    if found := _earlier(record, about):
        return found
    rate = Fraction(wanted.fps or 25).limit_denominator(1001)
    step, picture = max(1, ceil(wanted.num_frames / TILES)), None
    tiles, seconds = list[Image.Image](), list[float]()
    with open_frames(source, decoder="pyav", fps=rate) as stream:
        sides, index = (stream.header.width, stream.header.height), 0
        tile = _fitted(*sides, TILE_WIDTH, TILE_HEIGHT)
        size = _fitted(*sides, MOST_WIDTH, MOST_HEIGHT)
        with open_movie(movie_file, size, stream.header.fps) if movie else nullcontext() as add:
            for block in stream:
                for rgb in block:
                    if add:
                        add(rgb, stream.times[index])
                    if index % step == 0 and len(tiles) < TILES:
                        tiles.append(_resized(rgb, tile))
                        seconds.append(round(stream.times[index], 3))
                    if picture is None or index == wanted.shown:
                        picture = _resized(rgb, (2 * tile[0], 2 * tile[1]))
                    index += 1
    if picture is None:
        raise DecodeError(f"{source}: no frame could be decoded")
    board = Image.new("RGB", (tile[0] * COLUMNS, tile[1] * ceil(len(tiles) / COLUMNS)))
    for number, each in enumerate(tiles):
        board.paste(each, (number % COLUMNS * tile[0], number // COLUMNS * tile[1]))
    for file, image in ((picture_file, picture), (board_file, board)):
        with open_atomic(file) as stream_out:
            image.save(stream_out, "JPEG", quality=75)
    folder = stem.parent.name
    names = [f"{folder}/{file.name}" for file in (movie_file, picture_file, board_file)]
    made = Preview(names[0] if movie else "", names[1], names[2], tile, tuple(seconds))
    write_json(record, {**about, "preview": asdict(made)})
    return made


def plays_in_browsers(source: Path) -> bool:
    """True for a file that every browser plays as it is; False where that is not sure."""
    if source.suffix.lower() not in PLAYED[0]:
        return False
    try:
        with av.open(str(source)) as file:
            context = file.streams.video[0].codec_context
            is_known = context is not None and context.name in PLAYED[1]
            return is_known and context.pix_fmt == "yuv420p"
    except (av.FFmpegError, IndexError, OSError):
        return False


def _earlier(record: Path, about: dict[str, Any]) -> Preview | None:
    """What an earlier call made of the same file; None where anything differs or is missing."""
    try:
        found = read_json(record, DecodeError)
        preview = Preview(**found.pop("preview"))
    except (OSError, DecodeError, ValueError, KeyError, TypeError):
        return None
    files = [
        record.parent.parent / name for name in (preview.movie, preview.picture, preview.board)
    ]
    return preview if found == about and all(file.exists() for file in files) else None


def _fitted(width: int, height: int, most_width: int, most_height: int) -> tuple[int, int]:
    """Even sides in the same ratio that fit; never larger than they are."""
    scale = min(1.0, most_width / width, most_height / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _resized(rgb: Frame, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR)


@contextmanager
def open_movie(path: Path, size: tuple[int, int], fps: Fraction) -> Iterator[Callable[..., None]]:
    """A function that adds a frame, with its second, to an MP4; the file appears at the end.

    Raises OutputError when the disk refuses.
    """
    with (
        open_atomic(path) as out,
        _error_behind(),
        av.open(out, "w", format="mp4") as container,
    ):
        # Without B-frames the first time stamp is 0; with many keyframes seeking is quick.
        options = {"preset": "veryfast", "crf": "27", "bf": "0", "g": "12"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.thread_count = 1
        last = -1

        def add(rgb: Frame, seconds: float) -> None:
            nonlocal last
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(*size, "yuv420p")
            frame.time_base, last = Fraction(1, TICKS), max(last + 1, round(seconds * TICKS))
            frame.pts = last
            container.mux(stream.encode(frame))

        yield add
        container.mux(stream.encode(None))


@contextmanager
def _error_behind() -> Iterator[None]:
    """Raise the OSError of a file object behind which PyAV raises an error of its own."""
    try:
        yield
    except (av.FFmpegError, RuntimeError) as error:
        behind = error.__cause__ or error.__context__
        if isinstance(behind, OSError):
            raise behind from None
        raise
