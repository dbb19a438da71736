"""Folders of images: orientation, formats, numbering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.videos import numbered_frame, read_numbers

from vadprep.core.errors import DecodeError
from vadprep.video import open_frames
from vadprep.video.decoders.base import ImageFolder
from vadprep.video.decoders.container_end import note_of_cut
from vadprep.video.decoders.pyav import PyAVDecoder

PICTURE = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)


def as_shown(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The picture of an EXIF orientation as a viewer shows it."""
    return {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]


def frames_in(folder: Path) -> tuple[ImageFolder, list[np.ndarray | None]]:
    decoder = ImageFolder(folder, 25)
    return decoder, [frame for frame, _ in decoder]


@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_a_viewer_shows_them(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(PICTURE).save(tmp_path / f"0.{suffix}", exif=exif, **lossless)
    _, (frame,) = frames_in(tmp_path)
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.fromarray(PICTURE).save(plain / f"0.{suffix}", **lossless)
    _, (picture,) = frames_in(plain)
    np.testing.assert_array_equal(frame, as_shown(picture, orientation))


def save_pages(path: Path) -> None:
    pages = [Image.fromarray(numbered_frame(number)) for number in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


REFUSED = {
    "fractions": (
        lambda folder: Image.fromarray(np.full((48, 64), 0.5, np.float32)).save(folder / "0.tif"),
        "0.tif: it holds fractions: convert it",
    ),
    "pages": (lambda folder: save_pages(folder / "0.tiff"), "0.tiff: it has several pages"),
    "an animation": (
        lambda folder: save_pages(folder / "0.webp"),
        "0.webp: it has several pages, or is animated",
    ),
    "one number": (
        lambda folder: [
            Image.fromarray(PICTURE).save(folder / name) for name in ("1.png", "1.jpg", "2.png")
        ],
        "are one frame: remove one",
    ),
    "leading zeros": (
        lambda folder: [Image.fromarray(PICTURE).save(folder / n) for n in ("f1.png", "f01.png")],
        "are one frame: remove one",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_one_meaning_is_refused(tmp_path: Path, kind: str) -> None:
    make, words = REFUSED[kind]
    make(tmp_path)
    with pytest.raises(DecodeError, match=words):
        frames_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "pages", "words"),
    [
        ("a.webp", 3, "it is an animated WebP, which FFmpeg does not read: convert it to GIF"),
        ("a.webp", 1, "it is an image: name the folder that holds the frames of a video"),
        ("a.png", 1, "it is an image: name the folder"),
    ],
)
def test_an_image_is_no_video(tmp_path: Path, name: str, pages: int, words: str) -> None:
    first, *others = [Image.fromarray(numbered_frame(number)) for number in range(pages)]
    profile = bytes(128)  # stands in front of the animation
    first.save(tmp_path / name, save_all=pages > 1, append_images=others, icc_profile=profile)
    with pytest.raises(DecodeError, match=words):
        PyAVDecoder(tmp_path / name)


@pytest.mark.parametrize(("end", "is_cut"), [(b";", 0), (b";\0\0", 0), (b";\r\n", 0), (b"", 1)])
def test_what_follows_the_end_mark_of_a_gif_is_no_cut(
    tmp_path: Path, end: bytes, is_cut: int
) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a, pixels" + end)
    note, _ = note_of_cut(tmp_path / "a.gif", "gif")
    assert bool(note) == is_cut


def test_an_animated_gif_has_its_own_times(tmp_path: Path) -> None:
    pages = [Image.fromarray(numbered_frame(number)) for number in range(20)]
    lasting = [40] * 10 + [120] * 10
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=lasting)
    with open_frames(tmp_path / "a.gif") as stream:
        frames = np.concatenate([block.copy() for block in stream])
    assert read_numbers(frames) == list(range(20))
    ends = np.cumsum([0, *lasting]) / 1000
    np.testing.assert_allclose(stream.times[:-1], ends[:-1], atol=1e-6)
    assert "the frame rate varies" in stream.report.notes[0]


def test_missing_numbers_are_noted(tmp_path: Path) -> None:
    for number in (1, 2, 5, 9):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"frame_{number:04d}.png")
    decoder, frames = frames_in(tmp_path)
    assert len(frames) == 4
    assert decoder.notes == ["5 frame numbers missing between the first and last"]


def test_an_image_of_another_format_is_not_opened(tmp_path: Path) -> None:
    """EPS would start Ghostscript."""
    Image.fromarray(PICTURE).save(tmp_path / "0.eps")
    (tmp_path / "0.eps").rename(tmp_path / "0.png")
    with pytest.raises(DecodeError, match="it has 1 frame, and none can be read"):
        frames_in(tmp_path)
