"""Which files are videos, and the id of a video that is named by its file."""

from __future__ import annotations

from pathlib import PurePosixPath

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avi .dav .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t "
    ".m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .obu .ogg .ogv .qt "
    ".rm .rmvb .tp .ts .vob .webm .wmv .y4m".split()
)
"""File name endings, in lower case, that make a file a video."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over, such as ``._a.mp4``."""
    return name.startswith(".")


def is_video(name: str) -> bool:
    """Whether a file of this name is a video; hidden ones are not."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES and not is_hidden(name)


def id_of_path(path: str) -> str:
    """``path`` without the suffix of a video: ``cam/a.b.mp4`` is ``cam/a.b``, which is itself."""
    # Only a suffix that is one: names of XD-Violence go on after their first dot.
    whole = PurePosixPath(path)
    return str(whole.with_suffix("") if whole.suffix.lower() in VIDEO_SUFFIXES else whole)
