"""Resize weights against Pillow's response to single pixels, and as whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vadprep.core.crops import Box
from vadprep.core.filters import FILTERS, PIL_KERNELS, Size, frame_taps

PILLOW = {name: Image.Resampling[name.removeprefix("pil-").upper()] for name in PIL_KERNELS}


def matrix(name: str, source: int, target: int) -> np.ndarray:
    """The weights of a resize as a dense matrix [target, source]."""
    taps = frame_taps(name, (1, source), (1, target)).columns
    dense = np.zeros((target, source))
    columns = taps.first[:, None] + np.arange(taps.fixed.shape[1])
    np.put_along_axis(dense, columns, taps.fixed / 2.0**taps.bits, axis=1)
    return dense


@pytest.mark.parametrize("name", PIL_KERNELS)
@pytest.mark.parametrize("source, target", [(640, 455), (64, 455), (455, 455), (5, 2), (1, 7)])
def test_pil_weights_are_pillows_response_to_single_pixels(
    name: str, source: int, target: int
) -> None:
    impulses = Image.fromarray(np.eye(source, dtype=np.float32))
    response = np.asarray(impulses.resize((target, source), PILLOW[name]))
    np.testing.assert_allclose(matrix(name, source, target), response.T, atol=1e-6)


def test_opencv_weights_do_not_average_when_shrinking() -> None:
    first = matrix("opencv-bilinear", 8, 2)[0]
    np.testing.assert_array_equal(first, [0, 0.5, 0, 0, 0, 0, 0, 0][:1] + [0.5, 0.5] + [0] * 5)


def test_unknown_filter_is_refused() -> None:
    with pytest.raises(ValueError, match="pil-bicubic"):
        frame_taps("bicubic", (4, 4), (2, 2))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("source, target", [((7, 640), (3, 455)), ((480, 33), (256, 340))])
def test_a_flat_picture_stays_flat(name: str, source: Size, target: Size) -> None:
    """Weights sum to 1 within less than half a grey level in 255."""
    taps = frame_taps(name, source, target)
    for axis in (taps.rows, taps.columns):
        sums = axis.fixed.sum(axis=1) / 2.0**axis.bits
        np.testing.assert_allclose(sums, 1, atol=0.25 / 255)


@pytest.mark.parametrize("name", FILTERS)
def test_sums_fit_into_32_bits(name: str) -> None:
    """Of the worst picture, 255 where weights are positive, through both passes."""
    for source in (3, 64, 240, 500, 1080):
        taps = frame_taps(name, (source, source), (256, 256))
        most = 255 * np.abs(taps.columns.fixed.astype(np.int64)).sum(axis=1).max()
        assert most + (1 << taps.shift >> 1) < 2**31
        most = 255 if taps.clamps else (most >> taps.shift) + 1
        total = most * np.abs(taps.rows.fixed.astype(np.int64)).sum(axis=1).max()
        assert total + (1 << taps.end_shift >> 1) < 2**31


def test_the_weights_of_a_part_are_those_of_the_whole() -> None:
    whole = frame_taps("pil-lanczos", (240, 320), (256, 341))
    part = whole.part(Box(16, 58, 224, 200))
    np.testing.assert_array_equal(part.rows.fixed, whole.rows.fixed[16:240])
    np.testing.assert_array_equal(part.columns.first, whole.columns.first[58:258])
