"""Boxes on frames whose pixels say where they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vadprep.core.crops import Box, crop_boxes, target_size


def cut(frame: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    part = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    return part[:, ::-1] if box.mirrored else part


def coordinates(height: int, width: int) -> NDArray[np.int64]:
    """[height, width, 2]: each pixel holds its row and column."""
    return np.stack(np.mgrid[:height, :width], axis=-1)


@pytest.mark.parametrize(
    "resize, frame, expected",
    [
        ("short 256", (240, 320), (256, 341)),
        ("short 256", (320, 240), (341, 256)),
        ("short 256", (360, 640), (256, 455)),
        ("short 256", (256, 256), (256, 256)),
        ("256x340", (720, 1280), (256, 340)),
    ],
)
def test_target_size(resize: str, frame: tuple[int, int], expected: tuple[int, int]) -> None:
    assert target_size(resize, *frame) == expected


@pytest.mark.parametrize("resize", ["", "short", "short x", "short 0", "256", "0x3", "1x2x3"])
def test_unknown_resize_is_refused(resize: str) -> None:
    with pytest.raises(ValueError, match="resize"):
        target_size(resize, 240, 320)


# Rows and columns of the first pixel, and of the direction, on a 256 x 340 frame.
TL, TR, BL, BR, C = (0, 0), (0, 116), (32, 0), (32, 116), (16, 58)


@pytest.mark.parametrize(
    "order, expected",
    [
        ("torchvision", [TL, TR, BL, BR, C]),
        ("gowtham", [TL, TR, C, BL, BR]),
        ("xd", [C, TL, TR, BL, BR]),
        ("mmaction", [TL, TR, BL, BR, C]),
    ],
)
def test_five_crops_in_order(order: str, expected: list[tuple[int, int]]) -> None:
    boxes = crop_boxes(order, 5, 224, 256, 340)
    assert [(box.top, box.left) for box in boxes] == expected
    assert not any(box.mirrored for box in boxes)


@pytest.mark.parametrize("order", ["torchvision", "gowtham", "xd"])
def test_last_five_of_ten_are_the_five_of_the_mirrored_frame(order: str) -> None:
    frame = coordinates(256, 341)
    ten = crop_boxes(order, 10, 224, 256, 341)
    for box, of_mirrored in zip(ten[:5], ten[5:], strict=True):
        np.testing.assert_array_equal(cut(frame, of_mirrored), cut(frame[:, ::-1], box))


def test_mmaction_flips_each_crop_itself() -> None:
    frame = coordinates(256, 342)
    ten = crop_boxes("mmaction", 10, 224, 256, 342)
    for plain, mirrored in zip(ten[::2], ten[1::2], strict=True):
        np.testing.assert_array_equal(cut(frame, mirrored), cut(frame, plain)[:, ::-1])
    assert (ten[2].left, ten[8].left) == (116, 58)  # (342 - 224) // 4 = 29, 2 px short


def test_torchvision_order_is_that_of_torchvision() -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    torch = pytest.importorskip("torch")
    frame = coordinates(257, 341)
    theirs = transforms.ten_crop(torch.from_numpy(frame).permute(2, 0, 1), 224)
    for box, crop in zip(crop_boxes("torchvision", 10, 224, 257, 341), theirs, strict=True):
        np.testing.assert_array_equal(cut(frame, box), crop.permute(1, 2, 0).numpy())


def test_one_crop_is_the_centre() -> None:
    assert crop_boxes("centre", 1, 224, 256, 341) == (Box(16, 58, 224, 224),)


@pytest.mark.parametrize("order", ["centre", "xd", "torchvision"])
def test_half_a_pixel_of_the_centre_goes_where_the_rule_says(order: str) -> None:
    """Half of 127 px is 63.5, and 64 is even; half of 117 px is 58.5, and 58 is even."""
    for width, lefts in {351: (64, 63), 341: (58, 58)}.items():
        for rounding, left in zip(("even", "floor"), lefts, strict=True):
            boxes = crop_boxes(order, 1 if order == "centre" else 5, 224, 256, width, rounding)
            assert Box(16, left, 224, 224) in boxes
    with pytest.raises(ValueError, match="centre_rounding = 'up': allowed are even, floor"):
        crop_boxes(order, 1, 224, 256, 341, "up")


@pytest.mark.parametrize(
    "order, count, height", [("xd", 3, 256), ("centre", 5, 256), ("abc", 1, 256), ("xd", 1, 223)]
)
def test_impossible_crops_are_refused(order: str, count: int, height: int) -> None:
    with pytest.raises(ValueError):
        crop_boxes(order, count, 224, height, 341)
