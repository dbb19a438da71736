"""The rules of a frame-rate change, held against ffmpeg's filter ``fps`` on numbered frames."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from support.ffmpeg import ffmpeg
from support.standin import numbers_of, standin_extractor, standin_spec
from support.videos import numbered_frame, read_numbers, write_video

from vadprep.core.clips import Resampling
from vadprep.core.presets import resolve
from vadprep.core.records import Task, Video
from vadprep.features.shard import read_video
from vadprep.video import open_frames
from vadprep.video.frame_count import expected_frames

RATES = {
    "19.62": Fraction(1962, 100), "23.976": Fraction(24000, 1001),
    "24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30000, 1001), "30": Fraction(30),
    "60": Fraction(60),
}  # fmt: skip
USED = (24, 25, 30)
ROUNDS = {"times": "up", "near": "near", "down": "down"}
"""Rule -> what ffmpeg's option ``round`` calls it."""


def by_ffmpeg(path: Path, fps: int, rounding: str, raw: Path) -> list[object]:
    """Options of ffmpeg that write the frames that its filter chooses into ``raw``."""
    chosen = f"fps={fps}:round={rounding}"
    return [
        *("-map", "0:v:0", "-vf", chosen, "-fps_mode", "passthrough"),
        *("-pix_fmt", "rgb24", "-f", "rawvideo", raw),
    ]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", [".mp4", pytest.param(".mkv", marks=pytest.mark.slow)])
def test_each_rule_chooses_the_frames_that_ffmpeg_chooses(
    tmp_path: Path, rate: str, suffix: str
) -> None:
    """In Matroska the time stamps are whole milliseconds."""
    path = write_video(tmp_path / f"a{suffix}", 130, fps=RATES[rate])
    with open_frames(path, decoder="pyav") as stream:
        assert sum(len(block) for block in stream) == 130
    outputs: list[object] = []
    for fps, sampling in product(USED, ROUNDS):
        outputs += by_ffmpeg(path, fps, ROUNDS[sampling], tmp_path / f"{fps} {sampling}")
    ffmpeg("-i", path, *outputs)
    for fps, sampling in product(USED, ROUNDS):
        pictures = np.fromfile(tmp_path / f"{fps} {sampling}", np.uint8).reshape(-1, 48, 64, 3)
        theirs = read_numbers(pictures)
        accuracy = stream.header.tick / 2
        resampling = Resampling(
            stream.header.fps, Fraction(fps), stream.times, max(1e-6, accuracy), sampling
        )
        ours = [resampling.source(i) for i in range(resampling.count(130))]
        if suffix == ".mp4":
            assert ours == theirs
            continue
        # The end of the last frame is not known to the millisecond, and by ``times`` a frame may
        # begin half of one earlier.
        assert abs(len(ours) - len(theirs)) <= 1
        pairs = list(zip(ours, theirs, strict=False))
        late = [one - other for one, other in pairs if one != other]
        assert not late if sampling != "times" else set(late) <= {1} and len(late) <= len(pairs) / 3


def test_the_rules_differ_in_most_frames_at_60_and_23_976() -> None:
    """Why a rule has to be named: the share of frames that ``near`` chooses otherwise."""
    for rate, share in {"23.976": 0.3, "60": 0.9}.items():
        shown = [
            [Resampling(RATES[rate], Fraction(25), sampling=each).source(i) for i in range(1000)]
            for each in ("times", "near")
        ]
        assert np.mean(np.not_equal(*shown)) > share


@pytest.mark.parametrize("sampling", ROUNDS)
def test_a_rule_shapes_features_and_spans(tmp_path: Path, sampling: str) -> None:
    source = write_video(tmp_path / "a.mp4", 130, fps=60)
    spec = standin_spec(resize="32x32", crop_size=32, fps="24", sampling=sampling)
    report = standin_extractor(spec)(Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, source))
    assert report.status == "done"
    resampling = Resampling(Fraction(60), Fraction(24), sampling=sampling)
    stored = read_video(tmp_path / "a.h5")
    np.testing.assert_array_equal(stored.spans, resampling.spans(130, spec.tail))
    assert stored.spans[0, 0] == 0
    shown = [numbers_of(each[0]) for each in stored.features()]
    count = resampling.count(130) // 16 * 16
    assert np.concatenate(shown).tolist() == [resampling.source(i) for i in range(count)]


def test_the_name_up_is_that_of_the_rule_by_times() -> None:
    specs = [resolve("xd", "cpu", ("w", "0"), {"sampling": each}) for each in ("up", "times")]
    assert specs[0] == specs[1] == resolve("xd", "cpu", ("w", "0"), {})
    near = resolve("xd", "cpu", ("w", "0"), {"sampling": "near"})
    assert near.hash != specs[0].hash


def write_cut(path: Path, num_frames: int, dropped: int, gop: int) -> Path:
    """A video whose first packets are gone, as after a cut by ``-c copy``."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"g": str(gop), "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pictures = [numbered_frame(number) for number in range(num_frames)]
        frames = [av.VideoFrame.from_ndarray(each, format="rgb24") for each in pictures]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        file.mux(packets[dropped:])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_video_begins_with_the_first_frame_that_can_be_decoded(
    tmp_path: Path, suffix: str
) -> None:
    """Cut within a group of pictures: as ffmpeg, and as a camera that is joined in the middle."""
    path = write_cut(tmp_path / f"a{suffix}", 60, dropped=12, gop=20)
    with open_frames(path, decoder="pyav") as stream:
        numbers = [number for block in stream for number in read_numbers(block)]
    assert numbers == list(range(20, 60))
    assert [*stream.times[:2], stream.times[-1]] == pytest.approx([0, 0.04, 1.6], abs=0.002)
    assert "the first 8 frames cannot be decoded" in " ".join(stream.report.notes)
    assert expected_frames(stream.header, stream.report) == 40 and not stream.report.repaired_frames
    ffmpeg("-i", path, *by_ffmpeg(path, 25, "up", tmp_path / "raw"))
    theirs = read_numbers(np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, 48, 64, 3))
    resampling = Resampling(stream.header.fps, Fraction(25), stream.times, 0.002)
    assert [numbers[resampling.source(i)] for i in range(resampling.count(40))] == list(theirs)
