"""A folder with videos, a manifest, features and a run, for tests of train, eval and score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import run, without_network
from support.videos import write_video

from vadprep.heads import head_kind

CAUTION = "weights random:0, NEVER TRAINED"
VIDEOS = [
    ("a", "train", 0, "[]"),
    ("b", "train", 1, '"[[16, 32]]"'),
    ("c", "test", 0, "[]"),
    ("d", "test", 1, '"[[0, 16]]"'),
]
"""Name, split, label, intervals."""


@contextmanager
def cheaply(epochs: int = 3) -> Iterator[pytest.MonkeyPatch]:
    """Inside, there is no network, and heads ddl are narrow and train for three epochs."""
    published = head_kind("ddl").published
    with without_network() as patch:
        patch.setitem(published, "xd", replace(published["xd"], epochs=epochs, width=16))
        yield patch


def write_manifest(path: Path, rows: Sequence[tuple[object, ...]] = VIDEOS) -> Path:
    """A manifest of ``rows``; each video lies in NAME.mp4."""
    lines = [",".join(map(str, (name, f"{name}.mp4", *others))) for name, *others in rows]
    path.write_text("\n".join(["video_id,path,split,label,intervals", *lines]) + "\n")
    return path


def ok(*arguments: object) -> str:
    """What a command printed that went well."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def train(place: Path, out: Path, *options: object) -> str:
    """Train ddl on the features of ``place``."""
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", out)
    return ok("train", "ddl", *named, *options)


def make_place(place: Path) -> Path:
    """Put videos, a manifest m.csv, their features f and a run r on them into ``place``."""
    (place / "videos").mkdir()
    for number, (name, *_) in enumerate(VIDEOS):
        write_video(place / "videos" / f"{name}.mp4", 33 + 16 * number)
    manifest = write_manifest(place / "m.csv")
    options = ("--weights", "random:0", "--workers", "1", "--fps", "native", "--crops", "5")
    with cheaply():
        root = place / "videos"
        ok("extract", "--manifest", manifest, "--root", root, "--out", place / "f", *options)
        output = train(place, place / "r")
    assert f"{place / 'r'}: {CAUTION}\n" in output
    return place
