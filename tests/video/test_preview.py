"""Previews: same frames at the same times, small, kept where nothing changed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.full_disk import full_disk
from support.unknown_codec import with_unknown_codec
from support.videos import read_numbers, write_images, write_video

from vadprep.core.errors import OutputError
from vadprep.core.records import Preview, Video, Wanted
from vadprep.video.preview import make_previews, open_movie, plays_in_browsers


def made(
    source: Path,
    out: Path,
    num_frames: int,
    shown: int = 0,
    fps: float | None = None,
    **options: bool,
) -> Preview:
    wanted = Wanted(Video("a", source.name), num_frames, fps, shown)
    link = options.get("link", False)
    found = make_previews(
        [wanted], source.parent, out, {"a": "0-a"}, link, lambda done, total: None
    )
    return found["a"]


def frames_of(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    return np.stack([each.to_ndarray(format="rgb24") for each in frames]), [f.time for f in frames]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_the_preview_has_the_frames_of_the_video_at_their_times(
    tmp_path: Path, suffix: str
) -> None:
    source = write_video(tmp_path / f"a{suffix}", 30, fps=25)
    found = made(source, tmp_path / "out", 30, shown=7)
    frames, times = frames_of(tmp_path / "out" / found.movie)
    assert read_numbers(frames) == list(range(30))
    assert times == pytest.approx(np.arange(30) / 25, abs=1e-3)
    assert found.seconds == pytest.approx(np.arange(30) / 25, abs=1e-3)
    assert size_of(tmp_path / "out" / found.board) == (10 * found.tile[0], 3 * found.tile[1])
    assert size_of(tmp_path / "out" / found.picture) == (2 * found.tile[0], 2 * found.tile[1])


def test_a_folder_of_frames_and_a_large_video_have_one_too(tmp_path: Path) -> None:
    found = made(write_images(tmp_path / "frames", 12), tmp_path / "out", 12)
    frames, times = frames_of(tmp_path / "out" / found.movie)
    assert len(frames) == 12 and times == pytest.approx(np.arange(12) / 25, abs=1e-3)
    large = write_video(tmp_path / "large.mp4", 4, size=(1920, 1080))
    found = made(large, tmp_path / "out2", 4)
    frames, _ = frames_of(tmp_path / "out2" / found.movie)
    assert frames.shape == (4, 360, 640, 3) and found.tile == (160, 90)


def test_what_cannot_be_shown_has_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(bytes(range(256)) * 40)
    found = made(tmp_path / "broken.mp4", tmp_path / "out", 4)
    assert not found.movie and "broken.mp4" in found.reason
    found = made(tmp_path / "gone.mp4", tmp_path / "out", 4)
    assert not found.movie and "gone.mp4" in found.reason
    assert not list((tmp_path / "out" / "media").iterdir())


def test_a_preview_is_kept_until_its_video_changes(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 5)
    movie = tmp_path / "out" / made(source, tmp_path / "out", 5).movie
    before = movie.stat().st_mtime_ns
    made(source, tmp_path / "out", 5)
    assert movie.stat().st_mtime_ns == before
    write_video(source, 6)
    made(source, tmp_path / "out", 6)
    assert len(frames_of(movie)[0]) == 6


def test_a_file_that_browsers_play_is_linked_where_that_is_asked_for(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a #1.mp4", 5, codec="libx264")
    other = write_video(tmp_path / "b.avi", 5)
    assert plays_in_browsers(source) and not plays_in_browsers(other)
    found = made(source, tmp_path / "out", 5, link=True)
    assert found.movie == "../a%20%231.mp4" and found.board
    assert made(other, tmp_path / "out", 5, link=True).movie == "media/0-a.mp4"


def test_a_file_that_no_decoder_knows_is_not_linked(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 5, codec="libx264")
    source.write_bytes(with_unknown_codec(source.read_bytes()))
    assert not plays_in_browsers(source)
    assert "no decoder" in made(source, tmp_path / "out", 5, link=True).reason


def test_a_disk_that_fills_up_within_a_movie_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """FFmpeg writes then, and PyAV raises an error of its own."""
    source, noise = tmp_path / "a.mp4", np.random.default_rng(0)
    with open_movie(source, (160, 120), Fraction(25)) as add:
        for place in range(25):
            add(noise.integers(0, 255, (120, 160, 3), dtype=np.uint8), place / 25)
    with full_disk(30_000), pytest.raises(OutputError, match=r"0-a.mp4: .*; the disk is full"):
        made(source, tmp_path / "out", 25)
    assert not list((tmp_path / "out" / "media").iterdir())
