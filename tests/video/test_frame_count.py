"""counts: what is missing of a video, and the words for why a length is not what was said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import h5py
import pytest
from support.standin import standin_extractor, standin_spec
from support.videos import CODECS, truncate, write_video

from vadprep.core.records import Task, Video
from vadprep.data import FrameBounds
from vadprep.video import VideoHeader, expected_frames, length_note
from vadprep.video.decoders.base import DecodeReport


class FrameCounts(NamedTuple):
    """Numbers of frames, and times in seconds, of header, decoder and manifest."""

    decoded: int
    end_seconds: float | None = None
    header_frames: int | None = None
    header_seconds: float | None = None
    bounds: tuple[int | None, int | None] = (None, None)
    fps: Fraction = Fraction(25)

    @property
    def header(self) -> VideoHeader:
        return VideoHeader(64, 48, self.fps, self.header_frames, seconds=self.header_seconds)

    @property
    def report(self) -> DecodeReport:
        return DecodeReport(self.decoded, 0, "pyav", 0.0, self.end_seconds)

    def note(self, length: int = 16, stride: int = 16) -> str:
        return length_note(self.header, self.report, FrameBounds(*self.bounds), length, stride)


EXPECTED = [
    (FrameCounts(100, 4.0), 100),
    (FrameCounts(100, 4.0, 140, 4.0), 100),  # an edit list skips 40 frames
    (FrameCounts(100, 4.0, 100, 90000.0), 100),  # a recorder's nonsense duration
    (FrameCounts(60, 4.0, None, 4.0), 60),  # a variable frame rate
    (FrameCounts(75, 3.0, 150, 6.0), 150),
    (FrameCounts(75, None, 150), 150),
]


@pytest.mark.parametrize(("counts", "expected"), EXPECTED)
def test_a_header_that_lies_harmlessly_is_no_damage(counts: FrameCounts, expected: int) -> None:
    assert expected_frames(counts.header, counts.report) == expected


def said(decoded: int, manifest: int | tuple[int | None, int | None]) -> FrameCounts:
    """A sound file, of which the manifest says something."""
    bounds = manifest if isinstance(manifest, tuple) else (manifest, manifest)
    return FrameCounts(decoded, decoded / 25, decoded, decoded / 25, bounds)


RATE = "counted at another frame rate"
NOTES = {
    # Nothing odd.
    said(100, 100): "",
    FrameCounts(100): "",
    said(100, (90, 110)): "",
    said(100, (None, 110)): "",
    FrameCounts(100, 4.0, None, 4.0): "",
    FrameCounts(99, 3.96, 100, 4.0): "",  # headers are off by one
    # Rates.
    said(1200, 1000): f"the manifest has 1000 frames, the video has 1200: 1.2 = 30/25, {RATE}",
    said(1000, 1200): f"the manifest has 1200 frames, the video has 1000: 0.833 = 25/30, {RATE}",
    said(960, 1200): f"the manifest has 1200 frames, the video has 960: 0.8 = 24/30, {RATE}",
    said(1000, 1042): f"the manifest has 1042 frames, the video has 1000: 0.96 = 24/25, {RATE}",
    said(1201, (900, 1000)): (
        f"the manifest has 1000 frames, the video has 1201: 1.2 = 30/25, {RATE}"
    ),
    said(800, (900, 1000)): "the manifest has 900 frames, the video has 800: 0.889 x as many",
    FrameCounts(1000, 40.0, 1200, 40.0): (
        f"the header says 1200 frames, the video has 1000: 0.833 = 25/30, {RATE}"
    ),
    said(1000, 1111): "the manifest has 1111 frames, the video has 1000: 0.9 x as many",
    # Whole clips, and one off.
    said(1007, 992): (
        "the manifest has 992 frames, the video has 1007: "
        "whole clips of 16 by tail rule drop or xd"
    ),
    said(1008, 992): (
        "the manifest has 992 frames, the video has 1008: "
        "whole clips of 16 by tail rule xd"
    ),
    said(1000, 1008): (
        "the manifest has 1008 frames, the video has 1000: "
        "whole clips of 16 by tail rule repeat-last"
    ),
    said(160, 159): (
        "the manifest has 159 frames, the video has 160: one clip more by tail rule drop"
    ),
    said(160, 161): (
        "the manifest has 161 frames, the video has 160: one clip fewer by tail rule xd, "
        "one clip fewer by tail rule repeat-last"
    ),
    said(150, 151): "the manifest has 151 frames, the video has 150, which changes no clip",
    # What is cut off; the manifest goes by the whole file.
    FrameCounts(60, 2.4, 150, 6.0, (150, 150)): "truncated after frame 60 (2.40 s of 6.00 s)",
    FrameCounts(60, None, 150): "truncated after frame 60 (of 150 in the header)",
    FrameCounts(60, 2.4, 150, 6.0, (300, 300)): (
        "truncated after frame 60 (2.40 s of 6.00 s); "
        f"the manifest has 300 frames, the header has 150: 0.5 = 15/30, {RATE}"
    ),
    # Lies.
    FrameCounts(100, 4.0, 140, 4.0): (
        "the header says 140 frames, the video has 100: an edit list, or a wrong count"
    ),
    FrameCounts(100, 4.0, 10**9, 4.0): (
        "the header says 1000000000 frames, the video has 100: an edit list, or a wrong count"
    ),
    FrameCounts(100, 4.0, 7, 4.0): (
        "the header says 7 frames, the video has 100: an edit list, or a wrong count"
    ),
    FrameCounts(100, 4.0, 100, 90000.0): (
        "the header says 90000.00 s, the frames end at 4.00 s: a wrong duration"
    ),
    said(100, 60): f"the manifest has 60 frames, the video has 100: 1.67 = 50/30, {RATE}",
    FrameCounts(100, 1.0, 100, 1.0, fps=Fraction(90000)): "the header says 90000 frames a second",
    said(100, 10): "the manifest has 10 frames, the video has 100: 10 x as many",
}  # fmt: skip


@pytest.mark.parametrize("counts", NOTES, ids=str)
def test_each_length_has_its_cause(counts: FrameCounts) -> None:
    assert counts.note() == NOTES[counts]


def test_a_clip_of_another_length() -> None:
    assert "whole clips of 8 by tail rule drop" in said(31, 24).note(length=8)


# ---------------------------------------------------------------- of real files


def attributes(source: Path, video: Video, max_damage: float = 0.1) -> dict[str, object]:
    spec = standin_spec(resize="32x32", crop_size=32)
    extractor = standin_extractor(spec, max_damage=max_damage)
    target = source.with_suffix(".h5")
    report = extractor(Task(video, {"rgb": target}, source))
    with h5py.File(target, "r", locking=False) as file:
        stored = dict(file["000000"].attrs)
    assert report.length_note == stored.get("length_note", b"").decode()
    return stored


@pytest.mark.parametrize("suffix", [*CODECS, ".ts"])
def test_a_sound_video_has_no_note(tmp_path: Path, suffix: str) -> None:
    codec = CODECS.get(suffix, "libx264")
    source = write_video(tmp_path / f"a{suffix}", 90, codec=codec, fps=Fraction(30000, 1001))
    assert "length_note" not in attributes(source, Video("a", source.name, num_frames=90))


def test_the_note_is_in_the_shard(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 120)
    note = attributes(source, Video("a", source.name, num_frames=100))["length_note"]
    assert note == f"the manifest has 100 frames, the video has 120: 1.2 = 30/25, {RATE}".encode()


def test_a_truncated_video_that_is_let_through_says_so(tmp_path: Path) -> None:
    source = truncate(write_video(tmp_path / "a.webm", 150), 0.6)
    stored = attributes(source, Video("a", source.name, num_frames=150), max_damage=0.5)
    frames = stored["num_frames"]
    note = f"truncated after frame {frames} ({int(frames) / 25:.2f} s of 6.00 s)"
    assert stored["length_note"] == note.encode()
    assert (stored["status"], stored["max_damage"]) == (b"done", 0.5)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_gap_in_the_timestamps_is_reported(tmp_path: Path, decoder: str) -> None:
    ticks = [number + (number > 50) for number in range(90)]
    source = write_video(tmp_path / "a.mkv", 90, ticks=ticks)
    spec = standin_spec(resize="32x32", crop_size=32, decoder=decoder)
    task = Task(Video("a", source.name), {"rgb": tmp_path / "a.h5"}, source)
    report = standin_extractor(spec)(task)
    assert report.length_note.startswith("the time stamps skip 1 frame: ")


def test_the_clips_of_a_note_are_those_of_the_spec() -> None:
    assert ": one clip more by tail rule drop" in said(88, 87).note(stride=8)
    assert ", which changes no clip" in said(88, 87).note()
