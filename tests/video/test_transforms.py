"""Resized frames against Pillow and OpenCV, and the crops of a block."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.attacks import within
from support.standin import standin_extractor, standin_spec
from support.videos import write_video

import vadprep.video.resize as resize_module
from vadprep.core.crops import crop_boxes, target_size
from vadprep.core.errors import DecodeError
from vadprep.core.filters import FILTERS, PIL_KERNELS, frame_taps
from vadprep.core.records import Task, Video
from vadprep.video import FrameTransform
from vadprep.video.resize import CompiledResize, TorchResize, loop


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth patches, sharp edges and noise: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    frame = np.asarray(smooth).copy()
    frame[height // 3 : height // 2, width // 4 : width // 2] = 255
    frame[: height // 8] = random.integers(0, 256, frame[: height // 8].shape)
    return frame


SIZES = [
    ("short 256", 240, 320), ("short 256", 360, 640), ("256x340", 500, 333), ("224x224", 480, 640),
    ("short 64", 481, 77), ("short 256", 64, 48), ("256x340", 256, 500), ("short 32", 1, 1),
]  # fmt: skip
SWAPPED = [("256x340", 288, 352), ("256x256", 300, 300), ("256x340", 640, 360)]
"""Sizes of which Pillow 13 makes the vertical pass first for some."""
PILLOW = {name: Image.Resampling[name.removeprefix("pil-").upper()] for name in PIL_KERNELS}
OPENCV = {
    "opencv-bilinear": cv2.INTER_LINEAR, "opencv-cubic": cv2.INTER_CUBIC,
    "opencv-area": cv2.INTER_AREA,
}  # fmt: skip


def by_pillow(frame: NDArray[np.uint8], size: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """One axis at a time, the horizontal one first whatever the version of Pillow."""
    wide = Image.fromarray(frame).resize((size[1], frame.shape[0]), PILLOW[name])
    return np.array(wide.resize(size[::-1], PILLOW[name]))


def on_both(
    frames: NDArray[np.uint8], size: tuple[int, int], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """By the compiled loop, and by torch as on a GPU."""
    taps, resize_frames = frame_taps(name, frames.shape[1:3], size), loop()
    assert resize_frames is not None
    on_device = TorchResize(taps, torch.device("cpu"))(torch.from_numpy(frames))
    return CompiledResize(taps, resize_frames)(frames), on_device.numpy()


@pytest.mark.parametrize("resize, height, width", SIZES + SWAPPED)
@pytest.mark.parametrize("name", PIL_KERNELS)
def test_frames_are_pillows_to_the_bit_on_every_device(
    resize: str, height: int, width: int, name: str
) -> None:
    frame, size = picture(height, width), target_size(resize, height, width)
    theirs = by_pillow(frame, size, name)
    for ours in on_both(frame[None], size, name):
        np.testing.assert_array_equal(ours[0], theirs)


@pytest.mark.parametrize("name", PIL_KERNELS)
@pytest.mark.parametrize("resize, height, width", [("short 256", 360, 640), ("256x340", 240, 320)])
def test_frames_are_those_of_one_call_of_pillow(
    resize: str, height: int, width: int, name: str
) -> None:
    """At sizes where every version makes the horizontal pass first."""
    frame, size = picture(height, width), target_size(resize, height, width)
    transform = FrameTransform(height, width, "cpu", filter=name, resize=resize)
    theirs = Image.fromarray(frame).resize(size[::-1], PILLOW[name])
    np.testing.assert_array_equal(transform.resize(frame[None])[0], np.array(theirs))


@pytest.mark.parametrize("resize, height, width", SIZES)
@pytest.mark.parametrize("name", OPENCV)
def test_frames_are_within_one_level_of_opencv(
    resize: str, height: int, width: int, name: str
) -> None:
    """OpenCV's own paths round in different places: up to an eighth of the values differ by one."""
    frame, size = picture(height, width), target_size(resize, height, width)
    theirs = cv2.resize(frame, size[::-1], interpolation=OPENCV[name])
    compiled, on_device = on_both(frame[None], size, name)
    np.testing.assert_array_equal(compiled, on_device)
    difference = np.abs(compiled[0].astype(int) - theirs)
    assert difference.max() <= 1 and difference.mean() < 0.15


@pytest.mark.parametrize("name", ["opencv-bilinear", "opencv-area"])
def test_halves_of_a_frame_are_opencvs_to_the_bit(name: str) -> None:
    frame = picture(480, 640)
    theirs = cv2.resize(frame, (320, 240), interpolation=OPENCV[name])
    for ours in on_both(frame[None], (240, 320), name):
        np.testing.assert_array_equal(ours[0], theirs)


@pytest.mark.parametrize(
    "resize, height, width",
    [("short 224", 240, 427), ("short 224", 180, 100), ("128x171", 240, 320)],
)
def test_fractions_of_levels_are_those_of_torch(resize: str, height: int, width: int) -> None:
    """``scale_factor`` where the aspect is kept, ``size`` where it is not."""
    frame = picture(height, width)
    transform = FrameTransform(
        height, width, "cpu", resize=resize, filter="torch-bilinear", crop_size=112
    )
    floats = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    if resize.startswith("short"):
        settings = {"scale_factor": 224 / min(height, width), "recompute_scale_factor": False}
    else:
        settings = {"size": transform.size}
    theirs = torch.nn.functional.interpolate(floats, mode="bilinear", **settings)[0]
    ours = transform.resize(frame[None])[0]
    assert ours.dtype == torch.float32 and tuple(ours.shape[:2]) == transform.size
    torch.testing.assert_close(ours.permute(2, 0, 1), theirs, rtol=0, atol=1e-4)
    part = FrameTransform(
        height, width, "cpu", resize=resize, filter="torch-bilinear", crop_size=112, margins=False
    )
    assert torch.equal(part.crop(part.resize(frame[None])), transform.crop(ours[None]))


def test_without_numba_torch_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = picture(240, 320)[None]
    expected = FrameTransform(240, 320, "cpu").resize(frame)
    monkeypatch.setattr(resize_module, "loop", lambda: None)
    transform = FrameTransform(240, 320, "cpu")
    assert isinstance(transform._resize, TorchResize)
    assert torch.equal(transform.resize(frame), expected)


WITHOUT_PILLOW = """
import hashlib, sys
sys.modules["PIL"] = None  # an import of it raises
import numpy as np
from vadprep.core.filters import FILTERS
from vadprep.video import FrameTransform
frames = np.random.default_rng(0).integers(0, 256, (2, 288, 352, 3), dtype=np.uint8)
for name in FILTERS:
    resized = FrameTransform(288, 352, "cpu", resize="256x340", filter=name).resize(frames)
    print(name, hashlib.sha256(resized.numpy().tobytes()).hexdigest())
"""
"""Of a size at which versions of Pillow differ."""


def test_no_version_of_pillow_shapes_a_resized_frame() -> None:
    """The bytes of a process that has no Pillow are those of Pillow up to version 12."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert list(found) == list(FILTERS)
    frames = np.random.default_rng(0).integers(0, 256, (2, 288, 352, 3), dtype=np.uint8)
    for name in PIL_KERNELS:
        theirs = np.stack([by_pillow(frame, (256, 340), name) for frame in frames])
        assert found[name] == hashlib.sha256(theirs.tobytes()).hexdigest()


@pytest.mark.parametrize("filter", ["pil-bilinear", "opencv-cubic", "opencv-area"])
@pytest.mark.parametrize("count, order", [(1, "centre"), (5, "gowtham"), (10, "mmaction")])
def test_crops_are_the_same_where_only_they_are_resized(
    filter: str, count: int, order: str
) -> None:
    block = np.stack([picture(240, 427, seed) for seed in range(2)])
    settings: Any = {"filter": filter, "crops": count, "crop_order": order}
    whole, part = (
        FrameTransform(240, 427, "cpu", margins=margins, **settings) for margins in (True, False)
    )
    assert torch.equal(whole.crop(whole.resize(block)), part.crop(part.resize(block)))


def test_resized_frames_share_no_memory_with_the_block() -> None:
    block = picture(256, 340)[None]
    resized = FrameTransform(256, 340, "cpu").resize(block)
    before = resized.clone()
    block[:] = 0
    assert torch.equal(resized, before)


def test_frame_of_the_right_size_is_untouched() -> None:
    frame = picture(256, 340)
    transform = FrameTransform(256, 340, "cpu")
    np.testing.assert_array_equal(transform.resize(frame[None])[0].numpy(), frame)


def test_features_do_not_ask_pillow_to_resize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resize(*arguments: object) -> None:
        raise AssertionError("Pillow resizes")

    monkeypatch.setattr(Image.Image, "resize", resize)
    source = write_video(tmp_path / "a.mp4", 16, size=(352, 288))
    spec = standin_spec(resize="256x340", filter="pil-lanczos")
    report = standin_extractor(spec)(Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, source))
    assert report.status == "done", report.reason


def test_frames_do_not_depend_on_their_block() -> None:
    block = np.stack([picture(240, 320, seed) for seed in range(3)])
    transform = FrameTransform(240, 320, "cpu")
    together = transform.resize(block)
    assert torch.equal(together[1:2], transform.resize(torch.from_numpy(block[1:2])))


def test_ten_crops_are_the_boxes_of_the_resized_block() -> None:
    block = np.stack([picture(256, 341, seed) for seed in range(2)])
    transform = FrameTransform(256, 341, "cpu", crops=10, crop_order="xd")
    crops = transform.crop(transform.resize(block))
    assert crops.shape == (10, 2, 224, 224, 3)
    for box, crop in zip(crop_boxes("xd", 10, 224, 256, 341), crops, strict=True):
        part = block[:, box.top : box.top + 224, box.left : box.left + 224]
        expected = part[:, :, ::-1] if box.mirrored else part
        np.testing.assert_array_equal(crop.numpy(), expected)


def test_block_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="240"):
        FrameTransform(240, 320, "cpu").resize(picture(256, 320)[None])


def test_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than a crop"):
        FrameTransform(240, 320, "cpu", resize="200x300")


@pytest.mark.parametrize(
    ("width", "height", "resized"),
    [(16000, 2, "2048000x256"), (2, 16000, "256x2048000"), (1000, 30, "8533x256"), (1, 1, "")],
)
def test_a_thin_frame_that_would_be_resized_to_a_huge_one_is_refused(
    width: int, height: int, resized: str
) -> None:
    """It fails alone: 16000x2 with a shorter side of 256 would have two million columns."""
    if width * height == 1:
        assert FrameTransform(1, 1, "cpu", resize="short 256").size == (256, 256)
        return
    with (
        within(),
        pytest.raises(DecodeError, match=f"pixels would be resized to {resized}") as found,
    ):
        FrameTransform(height, width, "cpu", resize="short 256")
    assert found.value.kind == "too-large"
