"""Smoothing of the scores of a video before the metrics, as PEL4VAD does (TIP 2024).

    slide-7    each score becomes the mean of itself and the six after it
    fixed-8    each block of eight scores becomes its mean

Other numbers are allowed. Beyond the end of a video scores count as 0, as in the official code, so
the last scores fall. The authors chose rule and number for each data set on the test split:
slide-7 on UCF-Crime, fixed-8 on XD-Violence, slide-3 on ShanghaiTech.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import SettingError

WIDTHS = range(2, 10_000)
"""Scores that are averaged."""


def parse_smoothing(rule: str) -> tuple[str, int]:
    """``slide`` or ``fixed``, and the number of scores; raises SettingError for another rule."""
    found = re.fullmatch(r"(slide|fixed)-(\d{1,5})", rule)
    if not found or int(found[2]) not in WIDTHS:
        raise SettingError(
            f"smoothing = {rule!r}: allowed are slide-N and fixed-N, N scores of {WIDTHS[0]} to "
            f"{WIDTHS[-1]}, such as slide-7"
        )
    return found[1], int(found[2])


def smoothed(scores: NDArray[np.float64], rule: str) -> NDArray[np.float64]:
    """The scores of a video, smoothed: float64 [T] from float64 [T]."""
    kind, width = parse_smoothing(rule)
    count = len(scores)
    if not count:
        return scores
    if kind == "slide":
        return np.convolve(scores, np.full(width, 1 / width))[width - 1 :]
    blocks = np.pad(scores, (0, -count % width)).reshape(-1, width)
    return np.repeat(blocks.mean(axis=1), width)[:count]
