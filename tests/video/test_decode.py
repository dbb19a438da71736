"""decode: which frames come out, and what becomes of damage, hangs, crashes and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.fake_decoder import fake_stream
from support.hostile import box, flipped, sound_video
from support.videos import (
    CODECS,
    DISPLAY_MATRICES,
    damage,
    numbered_frame,
    read_numbers,
    rotate,
    truncate,
    write_audio,
    write_video,
)
from support.waiting import wait_for

from vadprep.core.errors import DecodeError
from vadprep.video import FrameStream, count_frames, open_frames
from vadprep.video.decoders.base import SIGNS_OF_DAMAGE, FolderDecoder
from vadprep.video.decoders.pyav import PyAVDecoder

ON_CPU = ("decord", "pyav")

each_decoder = pytest.mark.parametrize("decoder", ON_CPU)


def all_frames(path: Path, decoder: str = "pyav", **options: object) -> NDArray[np.uint8]:
    with open_frames(path, decoder=decoder, **options) as stream:  # type: ignore[arg-type]
        return np.concatenate([block.copy() for block in stream])


def failure(path: Path, decoder: str = "pyav", **options: object) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        all_frames(path, decoder, **options)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    return caught.value


# ---------------------------------------------------------------- which frames


@each_decoder
@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_comes_once_and_in_order(tmp_path: Path, suffix: str, decoder: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", 150)
    with open_frames(path, decoder=decoder) as stream:
        numbers = [n for block in stream for n in read_numbers(block)]
    assert numbers == list(range(150))
    assert stream.report.num_frames == 150
    assert stream.report.repaired_frames == 0
    assert stream.report.decoder == decoder
    assert (stream.header.width, stream.header.height) == (64, 48)
    assert stream.header.fps == 25
    assert stream.header.num_frames in (150, None)


PROPERTIES: dict[str, Callable[[Path], Path]] = {
    "one frame": lambda folder: write_video(folder / "a.mp4", 1),
    "odd size": lambda folder: write_video(folder / "a.webm", 20, size=(67, 51)),
    "odd size, full range": lambda folder: write_video(
        folder / "a.avi", 20, size=(67, 51), codec="mjpeg"
    ),
    "narrow rows that decord pads": lambda folder: write_video(folder / "a.mp4", 20, size=(48, 64)),
    "variable frame rate": lambda folder: write_video(
        folder / "a.mkv", 20, ticks=[i + i // 3 * 4 for i in range(20)]
    ),
    "sound first": lambda folder: write_video(folder / "a.mp4", 30, audio=True),
    "bt709": lambda folder: write_video(folder / "a.mp4", 20, colorspace=1),
    "bt709, full range": lambda folder: write_video(
        folder / "a.mp4", 20, colorspace=1, color_range=2
    ),
}


@pytest.mark.parametrize("make", PROPERTIES.values(), ids=PROPERTIES.keys())
def test_both_decoders_give_the_same_bytes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    frames = {decoder: all_frames(path, decoder) for decoder in ON_CPU}
    assert read_numbers(frames["pyav"]) == list(range(len(frames["pyav"])))
    np.testing.assert_array_equal(frames["decord"], frames["pyav"])


def test_an_uneven_frame_rate_stays_exact(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10, fps=Fraction(30000, 1001))
    with open_frames(path) as stream:
        assert stream.header.fps == Fraction(30000, 1001)


@pytest.mark.parametrize("degrees", DISPLAY_MATRICES)
def test_a_rotation_in_the_metadata_is_applied(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    expected = np.rot90(all_frames(path), degrees // 90, axes=(1, 2))
    rotate(path, DISPLAY_MATRICES[degrees])
    for decoder in ON_CPU:
        with open_frames(path, decoder=decoder) as stream:
            turned = np.concatenate([block.copy() for block in stream])
        assert stream.header.rotation == degrees
        assert turned.shape[1:3] == (stream.header.height, stream.header.width)
        np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize(
    "name, num_frames, fps",
    [("bikes*", 250, 25), ("Deadpool*", 530, 24), ("v_GGSY1Qvo990*", 355, Fraction(981, 50))],
)
def test_real_clips(real_clips: Path, name: str, num_frames: int, fps: Fraction) -> None:
    path = next(real_clips.glob(name))
    with open_frames(path) as stream:
        frames = np.concatenate([block.copy() for block in stream])
    assert (len(frames), stream.header.num_frames) == (num_frames, num_frames)
    assert stream.header.fps == fps
    np.testing.assert_array_equal(frames, all_frames(path, "pyav"))


def test_a_name_with_a_colon_is_no_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", 3).rename(tmp_path / "b#=: 1.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(all_frames(Path("b#=: 1.mp4"), "decord")) == 3


def test_count_frames_counts_what_can_be_decoded(tmp_path: Path) -> None:
    assert count_frames(write_video(tmp_path / "a.webm", 37)) == 37


# ---------------------------------------------------------------- folders of images


def write_images(folder: Path, names: list[str], mode: str = "RGB") -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(numbered_frame(number)).convert(mode).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "suffix, mode", [("jpg", "RGB"), ("JPEG", "L"), ("png", "L"), ("tif", "L"), ("bmp", "RGB")]
)
def test_images_come_in_natural_order(tmp_path: Path, suffix: str, mode: str) -> None:
    folder = write_images(tmp_path / "a", [f"f{n}.{suffix}" for n in range(12)], mode)
    with open_frames(folder, fps=Fraction(10)) as stream:
        assert [n for block in stream for n in read_numbers(block)] == list(range(12))
    assert (stream.header.fps, stream.header.num_frames) == (10, 12)
    assert stream.report.decoder == "images"


def test_a_palette_and_16_bit_grey_become_rgb(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", ["0.png", "1.png"], "P")
    grey = numbered_frame(2)[:, :, 0].astype(np.uint16) << 8
    Image.fromarray(grey).save(folder / "2.tif")
    frames = all_frames(folder, fps=Fraction(1))
    assert read_numbers(frames) == [0, 1, 2]
    np.testing.assert_array_equal(frames[2], numbered_frame(2))


def test_broken_images_show_the_last_good_one(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", [f"{n}.png" for n in range(6)])
    for name in ("0.png", "1.png", "4.png"):
        (folder / name).write_bytes(b"no picture")
    with open_frames(folder, fps=Fraction(1)) as stream:
        assert [n for block in stream for n in read_numbers(block)] == [2, 2, 2, 3, 3, 5]
    assert stream.report.repaired_frames == 3


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", ["1.png", "2.png"])
    for name in ("Thumbs.db", ".DS_Store", "._1.png", "notes.txt"):
        (folder / name).write_bytes(b"something")
    assert len(all_frames(folder, fps=Fraction(1))) == 2


def test_images_of_two_sizes_are_an_error(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", ["1.png"])
    Image.new("RGB", (32, 32)).save(folder / "2.png")
    error = failure(folder, fps=Fraction(1))
    assert error.kind == "damaged" and "2.png" in str(error)


def test_a_folder_needs_a_frame_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fps = None"):
        open_frames(write_images(tmp_path / "a", ["1.png"]))


class Arrays(FolderDecoder):
    """The decoder that the room's README shows how to add."""

    suffixes = frozenset((".npy",))

    def read(self, file: Path) -> NDArray[np.uint8] | None:
        try:
            return np.load(file)
        except (OSError, ValueError, EOFError):
            return None


def test_a_decoder_of_numbered_npy_frames_is_one_method(tmp_path: Path) -> None:
    for number in range(12):
        np.save(tmp_path / f"{number}.npy", numbered_frame(number))
    (tmp_path / "3.npy").write_bytes(b"no array")
    frames = [frame for frame, _ in Arrays(tmp_path, Fraction(25))]
    assert frames[3] is None
    assert read_numbers(np.stack([frame for frame in frames if frame is not None])) == [
        *range(3),
        *range(4, 12),
    ]
    np.save(tmp_path / "12.npy", numbered_frame(0)[:20])
    with pytest.raises(DecodeError, match="12.npy: the frame has 64x20 pixels"):
        list(Arrays(tmp_path, Fraction(25)))


# ---------------------------------------------------------------- damage


def garbage(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


def folder_without_images(path: Path) -> Path:
    path.mkdir()
    (path / "notes.txt").touch()
    return path


def lying_header(path: Path) -> Path:
    """An uncompressed avi whose header claims 9000 x 9000 pixels."""
    content = bytearray(write_video(path, 2, codec="rawvideo").read_bytes())
    start = content.index(b"strf") + 12
    content[start : start + 8] = struct.pack("<2i", 9_000, 9_000)
    path.write_bytes(content)
    return path


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("a.mp4", lambda path: None),
    "empty": ("a.mp4", empty),
    "unreadable": ("a.mp4", garbage),
    "no-video": ("a.mp4", write_audio),
    "no-images": ("a", folder_without_images),
    "too-large": ("a.avi", lying_header),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_way_to_be_broken_has_a_name(tmp_path: Path, kind: str) -> None:
    name, make = BROKEN[kind]
    make(tmp_path / name)
    assert failure(tmp_path / name, "decord", fps=Fraction(1)).kind == kind


def test_a_truncated_mp4_has_no_index_and_is_unreadable(tmp_path: Path) -> None:
    path = truncate(write_video(tmp_path / "a.mp4", 50), 0.7)
    assert failure(path).kind == "unreadable"


@each_decoder
def test_a_truncated_webm_gives_what_is_there(tmp_path: Path, decoder: str) -> None:
    path = truncate(write_video(tmp_path / "a.webm", 90), 0.7)
    numbers = read_numbers(all_frames(path, decoder))
    assert 40 < len(numbers) < 90
    assert numbers == list(range(len(numbers)))


def test_pyav_fills_what_is_lost_and_keeps_the_time_line(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "a.mp4", 90), 0.4, 0.5)
    with open_frames(path, decoder="pyav") as stream:
        numbers = [n for block in stream for n in read_numbers(block)]
    report = stream.report
    assert report.num_frames == 90 and 5 < report.repaired_frames < 40
    # After the damage every frame is in its own place again.
    assert numbers[75:] == list(range(75, 90))
    # One or two more are smeared by the codec without its saying so.
    assert sum(n != i for i, n in enumerate(numbers)) <= report.repaired_frames + 2


def test_decord_calls_the_same_file_damaged(tmp_path: Path) -> None:
    path = damage(write_video(tmp_path / "a.mp4", 90), 0.4, 0.5)
    assert failure(path, "decord").kind == "damaged"


def test_a_frame_that_the_codec_patched_up_is_no_good_one_to_decord(tmp_path: Path) -> None:
    """decord gives every frame of it, and says nothing."""
    good = write_video(tmp_path / "a.mp4", 90, size=(160, 120)).read_bytes()
    path = tmp_path / "b.mp4"
    path.write_bytes(flipped(good, seed=1, start=0.2, stop=0.5, bits=4))
    with open_frames(path, decoder="pyav") as stream:
        assert sum(map(len, stream)) == 90
    assert stream.report.repaired_frames > 0
    error = failure(path, "decord")
    assert error.kind == "damaged" and "decord: " in str(error)


def test_decord_shows_no_neighbour_for_a_frame_that_it_misses(tmp_path: Path) -> None:
    """Without times every other frame stands for two, and none is missing by the count."""
    path = tmp_path / "a.mp4"
    box(b"stts", 16, 0)(path, sound_video(path).read_bytes())
    assert "recovered from nearest frames" in str(failure(path, "decord"))


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "libx264"), (".m2ts", "mpeg2video")])
def test_decord_is_not_asked_for_a_transport_stream(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    """It gives the first group of pictures up and shows the last frame instead."""
    path = write_video(tmp_path / f"a{suffix}", 96, codec=codec)
    assert "decord misreads the container mpegts" in str(failure(path, "decord"))
    assert read_numbers(all_frames(path)) == list(range(96))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".flv", "flv"), (".mpg", "mpeg2video"), (".wmv", "wmv2"), (".mov", "libx264")],
)
def test_decord_reads_other_containers_as_pyav_does(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = write_video(tmp_path / f"a{suffix}", 96, codec=codec)
    assert read_numbers(all_frames(path, "decord")) == list(range(96))
    np.testing.assert_array_equal(all_frames(path, "decord"), all_frames(path, "pyav"))


def test_a_harmless_remark_of_the_codec_is_no_damage() -> None:
    assert not SIGNS_OF_DAMAGE.search("[h264 @ 0x1] co located POCs unavailable")
    assert not SIGNS_OF_DAMAGE.search("[mpeg4 @ 0x1] Video uses a non-standard and wasteful way")
    assert SIGNS_OF_DAMAGE.search("[h264 @ 0x1] concealing 231 DC, 231 AC, 231 MV errors in B")


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ts"])
def test_a_playlist_is_not_followed(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / "secret.ts", 20, codec="libx264")
    (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.ts\n")
    assert "text, not a video" in str(failure(tmp_path / name))
    # PyAV refuses them, too, whatever they begin with.
    with pytest.raises(DecodeError, match="its format is not read"):
        PyAVDecoder(tmp_path / name)


# ---------------------------------------------------------------- the child


def fake(then: str, num_frames: int = 100, stall_seconds: float = 30.0) -> FrameStream:
    return fake_stream(Path("fake.mp4"), "fake", num_frames, then, stall_seconds)


def child_of(stream: FrameStream) -> psutil.Process:
    assert stream._process is not None
    return psutil.Process(stream._process.pid)


def test_the_child_loads_no_more_than_it_needs() -> None:
    """Each worker has a server of it: torch alone would take seconds."""
    code = "import sys, vadprep.video.decoder_process; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "vadprep.video.decoders.pyav" in loaded
    assert not {"torch", "av", "decord", "PIL", "h5py", "ray", "numba", "click"} & set(loaded)


def test_a_hang_is_called_stalled() -> None:
    stream = fake("print('lost at sea', file=sys.stderr); time.sleep(60)", stall_seconds=0.3)
    child = child_of(stream)
    with pytest.raises(DecodeError, match=r"fake.mp4: fake gave nothing for 0.3 s") as caught:
        list(stream)
    assert caught.value.kind == "stalled"
    assert not child.is_running()


def test_a_crash_names_the_signal() -> None:
    then = "os.write(2, b'first\\nlast words\\n'); os.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(DecodeError, match="killed by SIGSEGV: last words") as caught:
        list(fake(then))
    assert caught.value.kind == "crashed"


def test_an_unexpected_exception_is_reported() -> None:
    with pytest.raises(DecodeError, match="exit code 1: KeyError: 'no such'") as caught:
        list(fake("raise KeyError('no such')"))
    assert caught.value.kind == "crashed"


def test_the_child_stops_when_its_slots_are_full() -> None:
    with fake("pass", 10_000) as stream:
        blocks = iter(stream)
        first = next(blocks)
        child = child_of(stream)
        wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
        # The child may fill the three slots and no more: the block in hand is not touched.
        assert first[0, 0, 0, 0] == 0 and first[-1, 0, 0, 0] == len(first) - 1
        assert sum(map(len, blocks)) + len(first) == 10_000


def test_close_ends_a_stopped_child_at_once() -> None:
    stream = fake("pass", 10_000)
    child = child_of(stream)
    wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
    stream.close()
    stream.close()
    assert not child.is_running()


PARENT = """
import sys, time
from pathlib import Path
from vadprep.video import open_frames
stream = open_frames(Path(sys.argv[1]), decoder=sys.argv[2])
print(stream._process.pid, flush=True)
time.sleep(60)
"""


@each_decoder
def test_the_child_imports_nothing_from_the_working_directory(
    tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", 20)
    for name in ("av", "decord", "numbers", "numpy", "vadprep"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert read_numbers(all_frames(path, decoder)) == list(range(20))


@each_decoder
def test_the_child_dies_with_its_parent(tmp_path: Path, decoder: str) -> None:
    path = write_video(tmp_path / "a.mp4", 1000)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), decoder], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 2.0)


def test_signals_of_a_stop_do_not_reach_the_child(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 600)
    with open_frames(path) as stream:
        child = child_of(stream)
        assert os.getpgid(child.pid) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            child.send_signal(number)
        assert sum(map(len, stream)) == 600


def test_nothing_leaks(tmp_path: Path) -> None:
    good = write_video(tmp_path / "a.mp4", 200)
    bad = garbage(tmp_path / "b.mp4")
    me = psutil.Process()
    before = me.num_fds(), len(me.children())
    for _ in range(3):
        all_frames(good)
        open_frames(good, decoder="pyav").close()
        failure(bad)
        with open_frames(good, decoder="pyav") as stream:
            next(iter(stream))
    assert (me.num_fds(), len(me.children())) == before


def test_a_stream_that_is_dropped_leaves_no_process(tmp_path: Path) -> None:
    child = child_of(open_frames(write_video(tmp_path / "a.mp4", 200), decoder="pyav"))
    assert not psutil.pid_exists(child.pid)


@pytest.mark.slow
@each_decoder
def test_memory_stays_flat_however_long_the_video(tmp_path: Path, decoder: str) -> None:
    path = write_video(tmp_path / "a.mp4", 1000, size=(640, 360))
    with open_frames(path, decoder=decoder) as stream:
        child = child_of(stream)
        sizes = []
        for _ in stream:
            time.sleep(0.03)  # slower than the decoder, so that it could run ahead
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends before its reader
                sizes.append(child.memory_info().rss)
    assert max(sizes) - sizes[0] < 150 << 20


@pytest.mark.parametrize(
    "options", [{"decoder": "cv2"}, {"stall_seconds": 0}], ids=lambda value: next(iter(value))
)
def test_bad_arguments(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        open_frames(tmp_path / "a.mp4", **options)  # type: ignore[arg-type]


def test_the_report_comes_after_the_frames(tmp_path: Path) -> None:
    with open_frames(write_video(tmp_path / "a.mp4", 5), decoder="pyav") as stream:
        with pytest.raises(ValueError, match="after the last block"):
            _ = stream.report
