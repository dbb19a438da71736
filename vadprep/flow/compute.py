"""TV-L1 of frames in memory, on the device that the caller names."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import VadprepError
from vadprep.core.resources import worker_cores
from vadprep.flow.pyramid import TVL1

MIN_SIZE = 3
"""px. Shortest side that has a gradient everywhere."""


def tvl1(
    frames: NDArray[np.uint8],
    settings: TVL1 | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Forward flow of each pair of neighbours: float32 [N - 1, H, W, 2], (u, v) in px a frame.

    TV-L1 (Zach, Pock and Bischof 2007) in the form of OpenCV's CPU class, with its defaults.
    ``frames`` is grey uint8 [N, H, W]. On the CPU ``threads`` pairs are worked on at once, by
    default one a core that this process may use; the flow does not depend on their number.
    Raises ValueError for other frames, and for a device that is neither ``cpu`` nor ``cuda``;
    VadprepError when there is no CUDA device.
    """
    settings = settings or TVL1()
    check_frames(frames.shape, str(frames.dtype))
    if device == "cpu":
        from vadprep.flow.cpu import tvl1_cpu

        return tvl1_cpu(frames, settings, threads or usable_cores())
    if device == "cuda":
        return _tvl1_cuda(frames, settings)
    raise ValueError(f"{device = }: allowed are cpu, cuda")


def _tvl1_cuda(frames: NDArray[np.uint8], settings: TVL1) -> NDArray[np.float32]:
    import torch

    from vadprep.flow.gpu import tvl1_cuda

    if not torch.cuda.is_available():
        raise VadprepError("flow on cuda: no CUDA device is seen here, cpu needs none")
    return tvl1_cuda(torch.from_numpy(frames).cuda(), settings).cpu().numpy()


def check_frames(shape: tuple[int, ...], dtype: str) -> None:
    """Raise ValueError unless frames of that kind are grey uint8 [N, H, W] with flow."""
    if len(shape) != 3 or dtype.removeprefix("torch.") != "uint8":
        raise ValueError(f"frames {dtype} {list(shape)}: expected grey uint8 [N, height, width]")
    if shape[0] < 1 or min(shape[1:]) < MIN_SIZE:
        raise ValueError(f"frames {list(shape)}: expected 1 or more, with sides of {MIN_SIZE} px")


def usable_cores() -> int:
    """Cores for this process: ``worker_cores``, or OMP_NUM_THREADS if fewer.

    Ray sets that variable to a worker's share.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = worker_cores()
    return min(cores, int(limit)) if limit.isdecimal() and int(limit) else cores
