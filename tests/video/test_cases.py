"""Files that were once read wrongly, with their right values. They are no part of the project."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.ffmpeg import cli_frames, decoded

from vadprep.core.clips import Resampling
from vadprep.core.errors import DecodeError
from vadprep.extraction.extractor import resampled
from vadprep.video import open_frames
from vadprep.video.decoders import DECODERS
from vadprep.video.decoders.pyav import PyAVDecoder

CASES = Path(os.environ.get("VADPREP_CASES", Path(__file__).parents[3] / "shared" / "cases"))

pytestmark = pytest.mark.skipif(
    not CASES.is_dir(), reason=f"no files in {CASES} (set VADPREP_CASES)"
)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize(
    "name",
    [
        "interlaced.mp4", "interlaced.ts", "ten_bit.mp4", "display_hflip.mp4", "display_vflip.mp4",
        "hevc.mp4", "raw_30fps.h264", "variable_rate.mp4", "size_change.ts",
    ],
)  # fmt: skip
def test_sound_files_give_the_pixels_of_ffmpeg(tmp_path: Path, name: str, decoder: str) -> None:
    found = DECODERS[decoder]
    try:
        read = found(CASES / name, None)
        frames, _, lost = decoded(read)
    except DecodeError:  # left to PyAV
        assert decoder == "decord" and name not in ("interlaced.mp4", "ten_bit.mp4", "hevc.mp4")
        return
    np.testing.assert_array_equal(frames, cli_frames(CASES / name, tmp_path))
    assert (lost, read.num_concealed) == (0, 0)


def test_interlaced_video_is_the_same_in_two_containers() -> None:
    frames, others = (
        decoded(PyAVDecoder(CASES / f"interlaced.{suffix}"))[0] for suffix in ("mp4", "ts")
    )
    np.testing.assert_array_equal(frames, others)


def test_flipped_bits_in_h265_are_counted() -> None:
    damaged = PyAVDecoder(CASES / "hevc_three_flipped_bits.mp4")
    frames, times, lost = decoded(damaged)
    assert len(frames) == 100 and lost + damaged.num_concealed == 2
    np.testing.assert_allclose(times, np.arange(100) / 25, atol=1e-3)
    with pytest.raises(DecodeError):
        decoded(DECODERS["decord"](CASES / "hevc_three_flipped_bits.mp4", None))


def test_a_hole_is_reported_counted_and_filled(tmp_path: Path) -> None:
    path = CASES / "hole_in_the_middle.mkv"
    decoder = PyAVDecoder(path)
    frames, times, lost = decoded(decoder)
    pictures = cli_frames(path, tmp_path)
    assert (len(pictures), len(frames), lost) == (190, 250, 60)
    np.testing.assert_allclose(times, np.arange(250) / 25, atol=2e-3)
    np.testing.assert_array_equal(frames[187:], pictures[127:])  # they keep their time
    assert (frames[127:187] == frames[126]).all()
    assert decoder.header.notes == ("60 frames missing in the time stamps, from 5.08 to 7.48 s",)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_variable_rate_is_resampled_by_its_times(decoder: str) -> None:
    path = CASES / "variable_rate.mp4"
    whole = decoded(PyAVDecoder(path))[0]
    with open_frames(path, decoder=decoder) as stream:
        resampling = Resampling(
            stream.header.fps, Fraction(5), stream.times, stream.header.tick / 2
        )
        shown = np.concatenate(list(resampled((block.copy() for block in stream), resampling)))
    np.testing.assert_array_equal(shown, whole[[*range(0, 100, 5), *range(100, 140)]])
    assert stream.header.notes[0].startswith("the frame rate varies, from 5 to 25")


def test_a_raw_stream_has_its_own_rate() -> None:
    decoder = PyAVDecoder(CASES / "raw_30fps.h264")
    frames, times, _ = decoded(decoder)
    assert decoder.header.fps == 30 and len(frames) == 60
    np.testing.assert_allclose(times, np.arange(60) / 30)


def test_empty_slots_of_a_recorder_repeat_the_picture(tmp_path: Path) -> None:
    decoder = PyAVDecoder(CASES / "drop_frames.avi")
    frames, times, lost = decoded(decoder)
    pictures = cli_frames(CASES / "drop_frames.avi", tmp_path)
    np.testing.assert_array_equal(frames, pictures.repeat(4, axis=0)[:237])
    np.testing.assert_allclose(times, np.arange(237) / 25)
    assert decoder.header.fps == 25 and not lost


def test_another_size_in_mid_stream_is_scaled_with_a_note() -> None:
    decoder = PyAVDecoder(CASES / "size_change.ts")
    frames, _, _ = decoded(decoder)
    assert frames.shape == (80, 120, 160, 3)
    assert "change size from 160x120 to 320x240 at frame 40" in decoder.notes[0]
