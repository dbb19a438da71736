"""Resized frames against Pillow and OpenCV, and the crops of a block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.attacks import within

from vadprep.core.crops import crop_boxes, resize_taps, target_size
from vadprep.core.errors import DecodeError
from vadprep.video import FrameTransform, crop as cut, transforms
from vadprep.video.compiled_resize import CompiledResize, resize_loop
from vadprep.video.transforms import TapResize


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth patches, sharp edges and noise: uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    frame = np.asarray(smooth).copy()
    frame[height // 3 : height // 2, width // 4 : width // 2] = 255
    frame[: height // 8] = random.integers(0, 256, frame[: height // 8].shape)
    return frame


SIZES = [("short 256", 240, 320), ("short 256", 360, 640), ("256x340", 500, 333)]


@pytest.mark.parametrize("resize, height, width", SIZES)
@pytest.mark.parametrize("kernel", ["bilinear", "lanczos"])
def test_the_sums_on_a_device_are_pillows(
    resize: str, height: int, width: int, kernel: str
) -> None:
    frame, size = picture(height, width), target_size(resize, height, width)
    flag = Image.Resampling[kernel.upper()]
    # One axis at a time, because Pillow 13 swaps the passes for some stretched sizes.
    wide = Image.fromarray(frame).resize((size[1], height), flag)
    theirs = wide.resize(size[::-1], flag)
    rows = resize_taps(f"pil-{kernel}", height, size[0])
    columns = resize_taps(f"pil-{kernel}", width, size[1])
    on_device = TapResize(rows, columns, True, torch.device("cpu"))
    np.testing.assert_array_equal(on_device(torch.from_numpy(frame[None]))[0], np.asarray(theirs))
    loop = resize_loop()
    assert loop is not None
    np.testing.assert_array_equal(
        CompiledResize(rows, columns, True, loop)(frame[None])[0], np.asarray(theirs)
    )


CPU_SIZES = [
    ("short 256", 360, 640), ("short 256", 640, 360), ("short 256", 272, 272),
    ("short 64", 481, 77), ("short 256", 256, 340), ("short 300", 64, 1000),
    ("256x340", 640, 360), ("256x340", 256, 340),
]  # fmt: skip


@pytest.mark.parametrize("resize, height, width", CPU_SIZES)
@pytest.mark.parametrize("kernel", ["bilinear", "lanczos"])
@pytest.mark.parametrize("compiled", [True, False])
def test_on_the_cpu_frames_are_pillows(
    kernel: str, resize: str, height: int, width: int, compiled: bool, monkeypatch: Any
) -> None:
    if not compiled:  # as without numba
        monkeypatch.setattr(transforms, "resize_loop", lambda: None)
    frame = picture(height, width)
    size = target_size(resize, height, width)
    theirs = np.array(Image.fromarray(frame).resize(size[::-1], Image.Resampling[kernel.upper()]))
    settings: Any = {"filter": f"pil-{kernel}", "resize": resize, "crop_size": 64}
    transform = FrameTransform(height, width, "cpu", **settings)
    np.testing.assert_array_equal(transform.resize(frame[None])[0], theirs)
    ((box),) = transform.boxes
    without = FrameTransform(height, width, "cpu", margins=False, **settings)
    shown = without.resize(frame[None])
    assert shown.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(shown[0], cut(torch.from_numpy(theirs[None]), box)[0])


@pytest.mark.parametrize("filter", ["pil-bilinear", "pil-lanczos", "opencv-bilinear"])
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


@pytest.mark.parametrize("resize, height, width", SIZES)
def test_resized_frames_are_within_one_level_of_opencv(
    resize: str, height: int, width: int
) -> None:
    cv2 = pytest.importorskip("cv2")
    transform = FrameTransform(height, width, "cpu", resize=resize, filter="opencv-bilinear")
    frame = picture(height, width)
    theirs = cv2.resize(frame, transform.size[::-1], interpolation=cv2.INTER_LINEAR)
    difference = np.abs(transform.resize(frame[None])[0].numpy().astype(int) - theirs)
    assert difference.max() <= 1 and difference.mean() < 0.15


def test_frame_of_the_right_size_is_untouched() -> None:
    frame = picture(256, 340)
    transform = FrameTransform(256, 340, "cpu")
    np.testing.assert_array_equal(transform.resize(frame[None])[0].numpy(), frame)


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
