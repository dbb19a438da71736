"""OpenCV's TV-L1, which ours is compared with: pair by pair, and by its own sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vadprep.cli.bench.flow import SELF, SIZES, bench_flow
from vadprep.flow import TVL1

MOST = 1.5
"""Difference to OpenCV allowed, in units of OpenCV's own when noise of 1e-4 grey levels is added:
TV-L1 that stops early is chaotic where motion ends."""


def opencv_flow(before: NDArray, after: NDArray, settings: TVL1) -> NDArray[np.float32]:
    """OpenCV's flow [H, W, 2] between grey images [H, W], uint8 or float32 in 0 to 1."""
    cv2 = pytest.importorskip("cv2")
    solver = cv2.optflow.DualTVL1OpticalFlow_create(
        tau=settings.tau,
        lambda_=settings.lambda_,
        theta=settings.theta,
        nscales=settings.scales,
        warps=settings.warps,
        epsilon=settings.epsilon,
        innnerIterations=settings.inner_iterations,
        outerIterations=settings.outer_iterations,
        scaleStep=settings.scale_step,
        medianFiltering=settings.median,
    )
    return solver.calc(before, after, None)


def check_agreement(clips: Sequence[Path], pairs: int) -> set[str]:
    """Assert that every back end of this machine agrees with OpenCV; returns their names.

    On the same ``pairs`` pairs of each clip, at each size, with the default settings.
    """
    num_pairs, timings, _ = bench_flow(clips, pairs)
    assert num_pairs == pairs * len(clips)
    names = set()
    for size in SIZES:
        _, own, *ours = (each for each in timings if each.size == size)
        assert own.backend == SELF and own.mean > 0
        for found in ours:
            assert found.mean <= MOST * own.mean and found.p99 <= MOST * own.p99, (found, own)
            names.add(found.backend)
    return names
