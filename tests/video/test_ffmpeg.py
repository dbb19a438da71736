"""Pixels, times and damage of videos that ffmpeg makes, held against what ffmpeg says of them."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from support.ffmpeg import X264, cli_frames, decoded, ffmpeg, make
from support.videos import numbered_frame, read_numbers

import vadprep.video
from vadprep.core.clips import Resampling
from vadprep.core.errors import DecodeError
from vadprep.data import FrameBounds
from vadprep.extraction.extractor import resampled
from vadprep.video import expected_frames, length_note, open_frames
from vadprep.video.decoders import DECODERS
from vadprep.video.decoders.pyav import PyAVDecoder
from vadprep.video.frame_stream import check_file
from vadprep.video.timeline import timeline_of

X265 = ("-c:v", "libx265", "-x265-params", "log-level=none", "-preset", "ultrafast")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
INTERLACED = ("-flags", "+ildct+ilme")


# ---------------------------------------------------------------- pixels

PIXELS = {
    "a.mp4": X264,
    "422.mp4": (*X264, "-pix_fmt", "yuv422p"),
    "444.mp4": (*X264, "-pix_fmt", "yuv444p"),
    "ten bits.mp4": (*X264, "-pix_fmt", "yuv420p10le"),
    "422 ten bits.mp4": (*X264, "-pix_fmt", "yuv422p10le"),
    "grey.mp4": (*X264, "-pix_fmt", "gray"),
    "full.mp4": (*X264, "-pix_fmt", "yuvj420p"),
    "rgb.mp4": ("-c:v", "libx264rgb"),
    "h265 ten bits.mp4": (*X265, "-pix_fmt", "yuv420p10le"),
    "vp9 ten bits.webm": (*VP9, "-pix_fmt", "yuv420p10le"),
    "alpha.webm": (*VP9, "-pix_fmt", "yuva420p"),
    "mjpeg.avi": ("-c:v", "mjpeg"),
    "mjpeg 444.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj444p"),
    "prores.mov": ("-c:v", "prores"),
    "huffyuv.avi": ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"),
    "lossless.mkv": ("-c:v", "ffv1", "-pix_fmt", "bgr0"),
    "411.avi": ("-c:v", "rawvideo", "-pix_fmt", "yuv411p"),
    "uyvy.avi": ("-c:v", "rawvideo", "-pix_fmt", "uyvy422"),
    "top first.mp4": (*X264, *INTERLACED, "-x264-params", "tff=1", "-vf", "setfield=tff"),
    "bottom first.mp4": (*X264, *INTERLACED, "-x264-params", "bff=1", "-vf", "setfield=bff"),
    "interlaced ten bits.mp4": (*X264, *INTERLACED, "-pix_fmt", "yuv420p10le"),
    "interlaced.mpg": ("-c:v", "mpeg2video", *INTERLACED, "-vf", "setfield=tff"),
    "interlaced.ts": ("-c:v", "mpeg2video", *INTERLACED, "-vf", "setfield=tff"),
    "interlaced.mp4": ("-c:v", "mpeg2video", *INTERLACED, "-vf", "setfield=tff"),
    "interlaced 422.ts": ("-c:v", "mpeg2video", "-pix_fmt", "yuv422p", *INTERLACED),
    "odd.mkv": (*VP9, "-s", "61x45"),
    "odd width.mkv": (*VP9, "-s", "61x48"),
    "odd height.mkv": (*VP9, "-s", "64x45"),
    "narrow.mkv": (*VP9, "-s", "48x36"),
    "odd.avi": ("-c:v", "mpeg4", "-s", "61x45"),
    "odd mjpeg.avi": ("-c:v", "mjpeg", "-s", "61x45"),
    "h263.avi": ("-c:v", "h263", "-s", "128x96"),
    "mpeg2.avi": ("-c:v", "mpeg2video", "-bf", "2"),  # decord's own times are wrong
    "mpeg1.mpg": ("-c:v", "mpeg1video"),
    "444.mjpeg": ("-c:v", "mjpeg", "-pix_fmt", "yuvj444p"),
    "reordered.mxf": ("-c:v", "libx264"),  # times in the order of decoding
    "reordered.wmv": ("-c:v", "libx264"),
} | {
    f"{matrix} {levels}.mp4": (
        *X264, "-vf", f"scale=out_range={levels},setparams=colorspace={matrix}:range={levels}",
    )
    for matrix in ("bt709", "smpte170m", "bt2020nc", "bt470bg", "smpte240m")
    for levels in ("tv", "pc")
}  # fmt: skip


@pytest.mark.parametrize("name", PIXELS)
def test_both_decoders_give_the_pixels_of_ffmpeg(tmp_path: Path, name: str) -> None:
    path = make(tmp_path / name, *PIXELS[name])
    expected = cli_frames(path)
    decoder = PyAVDecoder(path)
    frames, times, lost = decoded(decoder)
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=2e-3)
    assert (lost, decoder.num_concealed, decoder.notes) == (0, 0, [])
    try:
        other = DECODERS["decord"](path, None)
        found, others, _ = decoded(other)
    except DecodeError:  # the video is left to PyAV
        assert path.suffix in (".ts", ".wmv", ".mjpeg")
    else:
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(others, times)
        assert other.end_seconds == pytest.approx(12 / 25, abs=0.01)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [(), ("-display_hflip",), ("-display_vflip",)])
def test_pictures_are_turned_and_mirrored_as_a_player_shows_them(
    tmp_path: Path, degrees: int, mirror: tuple[str, ...]
) -> None:
    sound = make(tmp_path / "sound.mp4", *X264)
    path = tmp_path / "a.mp4"
    ffmpeg("-display_rotation", degrees, *mirror, "-i", sound, "-c", "copy", path)
    expected = cli_frames(path)
    np.testing.assert_array_equal(decoded(PyAVDecoder(path))[0], expected)
    if mirror:
        with pytest.raises(DecodeError, match="decord does not mirror"):
            DECODERS["decord"](path, None)
    else:
        np.testing.assert_array_equal(decoded(DECODERS["decord"](path, None))[0], expected)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4", "flv"])
def test_another_size_in_mid_stream_is_scaled_to_the_first_with_a_note(
    tmp_path: Path, suffix: str
) -> None:
    parts = [make(tmp_path / f"{size}.ts", *X264, size=size) for size in ("64x48", "128x96")]
    whole = tmp_path / "whole.ts"
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"file {part.name}\n" for part in parts))
    ffmpeg("-f", "concat", "-i", listed, "-c", "copy", whole)
    path = tmp_path / f"a.{suffix}"
    ffmpeg("-i", whole, "-c", "copy", path)
    decoder = PyAVDecoder(path)
    frames, _, lost = decoded(decoder)
    np.testing.assert_array_equal(frames, cli_frames(path))
    assert frames.shape == (24, 48, 64, 3) and not lost
    assert decoder.notes == [
        "the frames change size from 64x48 to 128x96 at frame 12: all are scaled to the first size"
    ]
    with pytest.raises(DecodeError), open_frames(path, decoder="decord") as stream:
        list(stream)  # left to PyAV, which says so


# ---------------------------------------------------------------- times


def write_varying(path: Path, chosen: str, *options: object, length: int = 130) -> Path:
    """A video of the frames n of ``length`` that ``chosen`` takes, at their times n / 25 s."""
    filters = f"select='{chosen}'"
    source = f"testsrc2=size=64x48:rate=25:duration={length / 25}"
    passed = ("-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    ffmpeg("-f", "lavfi", "-i", source, "-vf", filters, *passed, *options, path)
    return path


VARYING = {
    "a.mp4": X264,
    "a.mkv": X264,
    "a.webm": VP9,
    "a.ts": X264,
    "a.flv": X264,
    "a.mov": ("-c:v", "mpeg4"),
    "a.nut": ("-c:v", "mpeg4"),
    "a.wmv": ("-c:v", "wmv2"),
}


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("name", VARYING)
def test_frames_of_a_variable_rate_have_their_times(
    tmp_path: Path, name: str, decoder: str
) -> None:
    ticks = [*range(30), *range(30, 130, 5)]
    path = write_varying(tmp_path / name, "lt(n,30)+not(mod(n,5))", *VARYING[name])
    if decoder == "decord" and path.suffix in (".ts", ".wmv"):
        pytest.skip("decord leaves these to PyAV")
    found = DECODERS[decoder](path, None)
    _, times, lost = decoded(found)
    np.testing.assert_allclose(times, np.array(ticks) / 25, atol=2e-3)
    assert not lost
    assert found.header.notes[0] == "the frame rate varies, from 5 to 25 frames a second"


def write_stamped(path: Path, stamps: list[int], codec: str) -> Path:
    """A video of numbered frames that begin at ``stamps`` in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number))
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_with_sound(path: Path, *options: object, frames: int) -> Path:
    """As ``make``, with a sound track of the same length."""
    silence = ("-f", "lavfi", "-t", frames / 25, "-i", "anullsrc")
    source = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25")
    ffmpeg(*source, *silence, "-frames:v", frames, *options, path)
    return path


def without_bytes(source: Path, path: Path, start: float, stop: float) -> Path:
    """A copy of a file without the bytes between two fractions of its length."""
    content = source.read_bytes()
    path.write_bytes(content[: int(start * len(content))] + content[int(stop * len(content)) :])
    return path


HOLES = {
    "a.mkv": X264,
    "a.ts": X264,
    "mpeg2.ts": ("-c:v", "mpeg2video"),
    "reordered.ts": ("-c:v", "libx264", "-g", "12"),
    "a.flv": ("-c:v", "flv"),
    "a.mpg": ("-c:v", "mpeg2video"),
    "a.wmv": ("-c:v", "wmv2"),
    "a.webm": (*VP9, "-g", "12"),
    "h265.mkv": (*X265, "-x265-params", "log-level=none:keyint=6:open-gop=0"),
}


@pytest.mark.parametrize("cut", [(0.3, 0.4), (0.6, 0.75)])
@pytest.mark.parametrize("name", HOLES)
def test_a_hole_is_filled_counted_and_reported(
    tmp_path: Path, name: str, cut: tuple[float, float]
) -> None:
    sound = make(tmp_path / f"sound {name}", *HOLES[name], frames=100)
    path = without_bytes(sound, tmp_path / name, *cut)
    decoder = PyAVDecoder(path)
    frames, times, lost = decoded(decoder)
    # A frame is missed where it is the only one missing between two that came.
    assert 98 <= len(frames) <= 100 and lost >= 3
    assert times[-1] == pytest.approx(99 / 25, abs=0.05)
    note = next(each for each in decoder.header.notes if "missing in the time stamps" in each)
    place = re.findall(r"from (\S+) to (\S+) s", note)
    assert 4 * cut[0] - 1 < float(place[0][0]) < float(place[-1][1]) < 4 * cut[1] + 1
    whole = cli_frames(sound).astype(int)
    differences = [np.abs(frames[-1] - each).mean() for each in whole]
    assert differences[99] == min(differences) < differences[90]  # time stays right after it
    with pytest.raises(DecodeError):
        decoded(DECODERS["decord"](path, None))


NOT_WHOLE = {
    "a.avi": (("-c:v", "mpeg4"), "counted", "counted"),
    "h264.avi": (X264, "counted", "counted"),
    "a.mxf": (("-c:v", "mpeg2video"), "counted", "counted"),
    "a.ivf": (VP9, "counted", "counted"),
    "a.mkv": (X264, "counted", "filled"),
    "a.flv": (("-c:v", "flv"), "counted", "filled"),
    "a.rm": (("-c:v", "rv10", "-s", "176x144"), "counted", "filled"),
    "a.wmv": (("-c:v", "wmv2"), "counted", "filled"),
    "sound.wmv": (("-c:v", "wmv2", "-c:a", "wmav2"), "bytes are missing", "filled"),
    "a.ogg": (("-c:v", "libtheora", "-s", "160x120"), "it has no last page", "filled"),
    "a.gif": ((), "it has no end mark", "unseen"),
    "a.ts": (X264, "unseen", "filled"),
    "a.mpg": (("-c:v", "mpeg2video"), "unseen", "filled"),
    "a.dv": (("-s", "720x576", "-pix_fmt", "yuv420p"), "unseen", "unseen"),
    "a.h264": (X264, "unseen", "unseen"),
}
"""File -> codec, what is said of a cut end and of a hole: the table in the README of the room."""


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_what_is_missing_of_a_file_is_found_as_its_container_allows(
    tmp_path: Path, name: str
) -> None:
    options, *expected = NOT_WHOLE[name]
    sound = make_with_sound if "-c:a" in options else make
    whole = sound(tmp_path / f"whole {name}", *options, frames=60)
    assert not PyAVDecoder(whole).header.notes
    for word, lost in zip(expected, [(0.6, 1.0), (0.4, 0.6)], strict=True):
        path = without_bytes(whole, tmp_path / name, *lost)
        with open_frames(path, decoder="pyav") as stream:
            count = sum(map(len, stream))
        missing = expected_frames(stream.header, stream.report) - count
        notes = " ".join(stream.header.notes)
        assert (missing > 5) == (word == "counted")
        assert ("missing in the time stamps" in notes) == (word == "filled")
        assert (count >= 58) == (word == "filled")
        if word not in ("counted", "filled"):
            assert word in notes if word != "unseen" else not notes


@pytest.mark.parametrize(("fps", "drift"), [(25.0, 0), (25.2, 0), (25.5, 0.78), (24.0, 1.66)])
def test_a_header_whose_rate_is_not_that_of_the_times_is_named(fps: float, drift: float) -> None:
    pairs = np.stack([np.arange(1000) / 25, np.full(1000, 0.04)], axis=1)
    notes = timeline_of(pairs, fps).notes
    words = f"time stamps and average frame rate differ by up to {drift:.2f} s"
    assert notes == ((words,) if drift else ())


def test_a_long_pause_that_a_frame_states_is_no_hole(tmp_path: Path) -> None:
    path = write_varying(tmp_path / "a.mp4", "lt(n,60)+gte(n,100)", *X264, length=160)
    decoder = PyAVDecoder(path)
    _, times, lost = decoded(decoder)
    assert not lost and times[60] == pytest.approx(4.0)


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264"])
@pytest.mark.parametrize("every", [2, 4])
def test_empty_slots_of_an_avi_repeat_the_picture(tmp_path: Path, every: int, codec: str) -> None:
    path = tmp_path / "a.avi"
    source = "testsrc2=size=64x48:rate=25:duration=2"
    options = ("-fps_mode", "vfr", "-enc_time_base", "1/25", "-bf", "0")
    chosen = f"select='not(mod(n,{every}))'"
    ffmpeg("-f", "lavfi", "-i", source, "-vf", chosen, "-c:v", codec, *options, path)
    frames, times, lost = decoded(PyAVDecoder(path))
    pictures = cli_frames(path)
    count = (len(pictures) - 1) * every + 1
    assert len(frames) == count and not lost
    np.testing.assert_allclose(times, np.arange(count) / 25)
    np.testing.assert_array_equal(frames, pictures.repeat(every, axis=0)[:count])


def test_a_jump_of_the_clock_takes_no_memory_and_no_time(tmp_path: Path) -> None:
    sound = make(tmp_path / "a.ts", *X264, frames=25)
    late = tmp_path / "late.ts"
    ffmpeg("-i", sound, "-c", "copy", "-output_ts_offset", 50_000, late)
    path = tmp_path / "both.ts"
    path.write_bytes(sound.read_bytes() + late.read_bytes())
    decoder = PyAVDecoder(path)
    _, times, lost = decoded(decoder)
    assert lost <= 1 and len(times) in (50, 51) and times[-1] < 3
    assert any("jump by 4999" in note or "jump by 5000" in note for note in decoder.header.notes)


@pytest.mark.parametrize("rate", ["30", "24", "30000/1001", "50", "15"])
@pytest.mark.parametrize("name", ["a.h264", "a.hevc", "a.m2v"])
def test_a_raw_stream_has_the_rate_that_it_states(tmp_path: Path, name: str, rate: str) -> None:
    codec = {"a.h264": X264, "a.hevc": X265, "a.m2v": ("-c:v", "mpeg2video")}[name]
    if name == "a.m2v" and rate == "15":
        pytest.skip("MPEG-2 knows no 15 frames a second")
    path = make(tmp_path / name, *codec, frames=30, fps=rate)
    decoder = PyAVDecoder(path)
    frames, times, lost = decoded(decoder)
    assert decoder.header.fps == Fraction(rate) and len(frames) == 30 and not lost
    assert times[-1] == pytest.approx(29 / Fraction(rate)) and not decoder.header.notes


@pytest.mark.parametrize("name", ["a.mjpeg", "a.obu"])
def test_a_raw_stream_without_a_rate_is_said_to_have_25(tmp_path: Path, name: str) -> None:
    codec = ("-c:v", "mjpeg") if name == "a.mjpeg" else ("-c:v", "libsvtav1", "-preset", "12")
    decoder = PyAVDecoder(make(tmp_path / name, *codec, fps=30))
    assert decoder.header.fps == 25
    assert "states no frame rate: 25 is assumed" in decoder.header.notes[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.gif", ()),
        ("a.y4m", ()),
        ("a.ivf", VP9),
        ("a.mxf", ("-c:v", "mpeg2video")),
        ("a.dv", ("-s", "720x576", "-pix_fmt", "yuv420p")),
    ],
)
def test_other_containers_of_pictures_are_video(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    path = make(tmp_path / name, *options, fps=25 if name in ("a.mxf", "a.dv") else 10)
    with open_frames(path, decoder="pyav") as stream:
        frames = np.concatenate([block.copy() for block in stream])
    np.testing.assert_array_equal(frames, cli_frames(path))
    # The begin of each frame, and the end of the last one.
    expected = [float(k / stream.header.fps) for k in range(13)]
    assert stream.times == pytest.approx(expected, abs=0.01)


def test_several_video_streams_are_named(tmp_path: Path) -> None:
    one = make(tmp_path / "1.mp4", *X264)
    two = make(tmp_path / "2.mp4", *X264, size="128x96")
    path = tmp_path / "a.mkv"
    ffmpeg("-i", one, "-i", two, "-map", "0", "-map", "1", "-c", "copy", path)
    (note,) = PyAVDecoder(path).header.notes
    assert re.match("stream [01] of 2 video streams is read: to read another, copy it", note)


CLOCKS = {
    "long sound.wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
    "long sound.mp4": (*X264, "-c:a", "aac"),
    "long sound.mkv": (*X264, "-c:a", "aac"),
    "long sound.ts": (*X264, "-c:a", "aac"),
    "long sound.flv": ("-c:v", "flv", "-c:a", "aac"),
    "long sound.avi": ("-c:v", "mpeg4", "-c:a", "mp3"),
    "long sound.webm": (*VP9, "-c:a", "libopus"),
    "long sound.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "late.mkv": (*X264, "-output_ts_offset", "0.2"),
    "late.ts": (*X264, "-output_ts_offset", "40000"),
    "late.mp4": (*X264, "-output_ts_offset", "3"),
    "late.flv": ("-c:v", "flv", "-output_ts_offset", "3"),
    "late.webm": (*VP9, "-output_ts_offset", "3"),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_length_begin_and_end_are_read_on_the_clock_of_the_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sound = ["-f", "lavfi", "-t", 6, "-i", "anullsrc"] if name.startswith("long") else []
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"]
    ffmpeg(*source, *sound, *CLOCKS[name], path)
    with open_frames(path, decoder="pyav") as stream:
        count = sum(len(block) for block in stream)
    whole = 51 if path.suffix == ".avi" else 50  # the second slot of the AVI is empty
    assert count == whole and not length_note(
        stream.header, stream.report, FrameBounds(None, None), 16, 16
    )
    assert expected_frames(stream.header, stream.report) == whole
    assert stream.report.end_seconds == pytest.approx(2, abs=0.05)


# ---------------------------------------------------------------- damage

DAMAGE = {
    "FFV1 with checksums": ("a.mkv", "-c:v", "ffv1", "-slicecrc", "1"),
    "AV1": ("a.mp4", "-c:v", "libsvtav1", "-preset", "12"),
    "H.264": ("a.mp4", "-c:v", "libx264", "-preset", "veryfast"),
    "MPEG-4": ("a.avi", "-c:v", "mpeg4", "-q:v", "3"),
    "H.263": ("a.avi", "-c:v", "h263"),
    "MPEG-2": ("a.ts", "-c:v", "mpeg2video", "-q:v", "3"),
    "FLV1": ("a.flv", "-c:v", "flv", "-q:v", "3"),
    "WMV2": ("a.wmv", "-c:v", "wmv2", "-q:v", "3"),
    "MJPEG": ("a.avi", "-c:v", "mjpeg"),
    "H.265": ("a.mp4", *X265),
    "H.265 with hashes": ("a.mp4", *X265[:3], "log-level=none:hash=1", *X265[4:]),
    "ProRes": ("a.mov", "-c:v", "prores"),
    "VP8": ("a.webm", "-c:v", "libvpx", "-deadline", "realtime"),
    "VP9": ("a.webm", *VP9),
}
"""Codecs of the table in the README of the room: file, and how it is encoded."""


def share_noticed(sound: Path, flips: int, seed: int = 0) -> tuple[int, int]:
    """Of single flipped bits that change a frame: how many are noticed, and how many there are."""
    content, draw = sound.read_bytes(), random.Random(seed)
    whole = decoded(PyAVDecoder(sound))[0]
    noticed = changed = 0
    for _ in range(flips):
        damaged = bytearray(content)
        place = draw.randrange(len(content) // 10, len(content) * 9 // 10)
        damaged[place] ^= 1 << draw.randrange(8)
        path = sound.with_stem("flipped")
        path.write_bytes(damaged)
        try:
            decoder = PyAVDecoder(path)
            frames, _, lost = decoded(decoder)
        except DecodeError:
            noticed, changed = noticed + 1, changed + 1
            continue
        differs = frames.shape != whole.shape or not np.array_equal(frames, whole)
        changed += differs
        noticed += differs and bool(lost or decoder.num_concealed)
    return noticed, changed


@pytest.mark.parametrize("codec", DAMAGE)
def test_the_readme_says_how_many_flipped_bits_are_noticed(tmp_path: Path, codec: str) -> None:
    """Encoders of other machines make other bytes: shares within an eighth are the same."""
    readme = (Path(vadprep.video.__file__).parent / "README.md").read_text()
    (row,) = re.findall(rf"^\| {re.escape(codec)} \| (\d+) of (\d+) \|", readme, re.M)
    name, *options = DAMAGE[codec]
    sound = make(tmp_path / name, *options, frames=40, size="128x96")
    noticed, changed = share_noticed(sound, 40)
    stated = int(row[0]) / int(row[1])
    assert changed >= 30 and abs(noticed / changed - stated) <= 1 / 8, f"{noticed} of {changed}"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "hevc"])
def test_hashes_of_pictures_are_compared_by_the_decoder_that_can(
    tmp_path: Path, suffix: str
) -> None:
    hashed = DAMAGE["H.265 with hashes"][1:]
    sound, plain = make(tmp_path / f"a.{suffix}", *hashed), make(tmp_path / f"b.{suffix}", *X265)
    decoder = PyAVDecoder(sound)
    np.testing.assert_array_equal(decoded(decoder)[0], decoded(PyAVDecoder(plain))[0])
    assert decoder.has_hashes and not decoder.num_concealed
    assert not PyAVDecoder(plain).has_hashes
    with pytest.raises(DecodeError, match="decord"):
        decoded(DECODERS["decord"](sound, None))


def test_a_joint_of_two_transport_streams_is_no_damage(tmp_path: Path) -> None:
    """Its reader takes the last packet before it for cut."""
    sound = make(tmp_path / "a.ts", *X264)
    path = tmp_path / "b.ts"
    path.write_bytes(2 * sound.read_bytes())
    decoder = PyAVDecoder(path)
    frames, _, lost = decoded(decoder)
    assert (len(frames), lost, decoder.num_concealed) == (24, 0, 0)


def scrambled(content: bytes) -> bytes:
    """A transport stream whose packets of pictures are encrypted."""
    packets = [bytearray(content[start : start + 188]) for start in range(0, len(content), 188)]
    for packet in packets:
        if (packet[1] & 31, packet[2]) == (1, 0):
            packet[3] |= 128
            packet[4:] = bytes(184)
    return b"".join(packets)


MP4 = "its index is missing (moov atom not found): a recording or download was cut off; repair it"
SERVER = "text, not a video; a web page or an answer of a server: download the video again"
NO_VIDEOS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty.mp4": (lambda sound: b"", "the file is empty"),
    "cut.mp4": (lambda sound: sound[: len(sound) // 2], MP4),
    "begun.mp4": (lambda sound: sound[:20], MP4),
    "preallocated.mp4": (lambda sound: sound[:100] + bytes(9000), MP4),
    "page.mp4": (lambda sound: b"\xef\xbb\xbf<html>" + "Schlüssel".encode() * 9, SERVER),
    "json.mp4": (lambda sound: b'{"error": "quota"}', SERVER),
    "xml.mp4": (lambda sound: b'<?xml version="1.0"?><Code>AccessDenied</Code>', SERVER),
    "pointer.mp4": (lambda sound: b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    "list.mp4": (lambda sound: b"#EXTM3U\na.ts\n", "playlists are not followed"),
    "zeros.mp4": (lambda sound: bytes(9000), "it begins with zeros: a download or copy"),
    "a.zip.mp4": (lambda sound: b"PK\x03\x04" + sound, "it is an archive: unpack it"),
    "a.gz.mp4": (gzip.compress, "it is an archive: unpack it"),
    "noise.mp4": (lambda sound: b"%PDF" + 99 * b"\xff\xfe", "no video format was recognized"),
    "codec.mp4": (lambda sound: sound.replace(b"avc1", b"zzzz"), "no decoder for its codec"),
    "encrypted.mp4": (
        lambda sound: re.sub(b"mdat.{200}", b"mdat" + bytes(200), sound, flags=re.S) + b"senc",
        "no frame can be decoded: it is encrypted: decrypt it",
    ),
    "broken.mp4": (
        lambda sound: re.sub(b"mdat.{200}", b"mdat" + bytes(200), sound, flags=re.S),
        "no frame can be decoded: it is damaged, cut off, or encrypted",
    ),
}  # fmt: skip
"""File -> how it is made of a sound one, and words of the reason."""


def reason(path: Path) -> str:
    with pytest.raises(DecodeError) as caught:
        check_file(path)
        PyAVDecoder(path)
    return str(caught.value)


@pytest.fixture(scope="module")
def sound_mp4(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("sound") / "a.mp4", *X264, frames=1).read_bytes()


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_the_reason_names_cause_and_remedy(tmp_path: Path, name: str, sound_mp4: bytes) -> None:
    change, words = NO_VIDEOS[name]
    (tmp_path / name).write_bytes(change(sound_mp4))
    assert words in reason(tmp_path / name)


def test_the_reason_names_encryption_and_images(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ts", *X264)
    path.write_bytes(scrambled(path.read_bytes()))
    assert "it is encrypted: decrypt it, or export it" in reason(path)
    image = make(tmp_path / "a.png", frames=1)
    assert "it is an image: name the folder that holds the frames" in reason(image)


def test_a_frame_of_h265_that_does_not_come_is_counted(tmp_path: Path) -> None:
    """Three flipped bits, one of them in the type of a unit: its frame is lost without an error."""
    sound = make(tmp_path / "a.mp4", *X265, frames=50)
    content = bytearray(sound.read_bytes())
    with av.open(str(sound)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    content[places[20] + 4] ^= 0x7E  # the type of the unit
    path = tmp_path / "b.mp4"
    path.write_bytes(content)
    decoder = PyAVDecoder(path)
    frames, times, lost = decoded(decoder)
    assert len(frames) == 50 and lost == 1
    np.testing.assert_allclose(times, np.arange(50) / 25, atol=2e-3)


@pytest.mark.parametrize("seed", range(10))
def test_at_a_rate_the_frame_on_screen_is_chosen(tmp_path: Path, seed: int) -> None:
    """Held against a plain search over the time stamps that were written, in milliseconds."""
    draw = random.Random(seed)
    suffix, codec = draw.choice([(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")])
    stamps = np.cumsum([0, *(draw.choice([20, 33, 40, 100, 170, 400]) for _ in range(80))])
    path = write_stamped(tmp_path / f"a{suffix}", stamps.tolist(), codec)
    used = Fraction(draw.choice([5, 10, 25]))
    with open_frames(path, decoder=draw.choice(["decord", "pyav"])) as stream:
        resampling = Resampling(stream.header.fps, used, stream.times, stream.header.tick / 2)
        blocks = (block.copy() for block in stream)
        shown = np.concatenate(list(resampled(blocks, resampling)))
    end = 1000 * stream.times[-1]
    moments = np.arange(0, end - 1e-6, float(1000 / used))
    expected = [int(np.flatnonzero(stamps <= moment + 1e-6)[-1]) for moment in moments]
    assert read_numbers(shown) == expected
    spans = resampling.spans(len(stamps), "drop")
    assert spans[0, 0] == 0 and (spans[1:, 0] == spans[:-1, 1]).all()
    assert spans[:, 0].tolist() == expected[: 16 * len(spans) : 16]
