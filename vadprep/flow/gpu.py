"""TV-L1 optical flow on a GPU, many pairs of frames at once.

Why it should be fast, for 340 x 256 px and the default settings (arithmetic, not measurement). A
pair of real clips takes 7 to 27 million iterations of a pixel, as counted on the CPU. One of them
reads 9 and writes 6 float32, 60 bytes. At the 3.0 TB/s that copies reach on an H100 this is 20 ps,
so at most 0.54 ms a pair; at the 4.3 of an H200, 0.38 ms. Compiled for both, ``iterate`` is about
250 instructions a pixel, 9 ps on 132 multiprocessors at 1.7 GHz, of them 28 loads, 6 ps from the
first cache: both hide behind memory. Warps and medians, one or two for 20 iterations, add 0.1 to
0.2 ms. In all that is below 0.8 ms a pair on an H100, if launches do not spoil it: the two of an
iteration take 3 to 4 us. So many pairs are worked on at once, 96 by default, which give the memory
170 us of work an iteration at the finest scale and 28 at the coarsest. They do not fit into the
L2 cache, but the 9 that do would be iterated faster than launched. Within a scale no pair waits
for another; the programs of a pair that is done read one number and end. Launches are replayed
from a CUDA graph, and the host asks late and seldom who is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from vadprep.core.errors import VadprepError
from vadprep.flow import check_frames
from vadprep.flow import gpu_kernels as kernels
from vadprep.flow.bilinear import axis
from vadprep.flow.pyramid import TVL1
from vadprep.flow.scale import Scale

BUDGET_BYTES = 1 << 30
"""Device memory for the pairs worked on at a time, without the frames and the finished flow."""

LEAST_TRITON = (3, 4)
"""Compiles tuples in kernels; it comes with torch 2.8."""

PLANES_OF_A_PAIR = 32
"""float32 a pixel at most: 18 of the finest scale, 3 of the pyramid, up to 10 in a resize."""


def tvl1_cuda(frames: Tensor, settings: TVL1, budget_bytes: int = BUDGET_BYTES) -> Tensor:
    """Flow from frame t to t + 1, float32 [N-1, H, W, 2], px a frame, first along x, then y.

    ``frames`` are grey levels, uint8 [N, H, W], on a CUDA device. The bits of a pair depend
    neither on other pairs nor on the budget. Raises ValueError for any other frames.
    """
    return counted_tvl1_cuda(frames, settings, budget_bytes)[0]


def counted_tvl1_cuda(
    frames: Tensor, settings: TVL1, budget_bytes: int = BUDGET_BYTES
) -> tuple[Tensor, Tensor]:
    """Flow as of ``tvl1_cuda``, and the iterations it took, int32 [N-1, scales], finest first."""
    _check(frames)
    num_pairs, height, width = len(frames) - 1, *frames.shape[1:]
    sizes = settings.sizes(height, width)
    shape, device = (num_pairs, height, width, 2), frames.device
    flow = torch.empty(shape, dtype=torch.float32, device=device)
    counts = torch.empty((num_pairs, len(sizes)), dtype=torch.int32, device=device)
    if num_pairs == 0:
        return flow, counts
    pairs, starts = _batches(num_pairs, budget_bytes // (PLANES_OF_A_PAIR * 4 * height * width))
    with torch.cuda.device_of(frames):
        solver = _Solver(pairs, sizes, settings, device)
        for start in starts:
            found, iterations = solver(frames[start : start + pairs + 1])
            flow[start : start + pairs] = found.movedim(1, -1)
            counts[start : start + pairs] = iterations
    return flow, counts


def iteration_bytes(height: int, width: int) -> int:
    """Bytes that one iteration of one pair moves at least, at a scale of this size."""
    return kernels.PLANES_MOVED * 4 * height * width


def _check(frames: Tensor) -> None:
    check_frames(tuple(frames.shape), str(frames.dtype))
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < LEAST_TRITON:
        raise VadprepError(
            f"Triton {triton.__version__} cannot compile TV-L1, 3.4 can (pip install -U torch)"
        )
    interpreted = not isinstance(kernels.iterate, triton.JITFunction)
    if not frames.is_cuda and not interpreted:
        raise ValueError(f"frames: on {frames.device}, expected a CUDA device")


def _batches(num_pairs: int, most: int) -> tuple[int, list[int]]:
    """Pairs of a batch and the first pair of each; the last may repeat a few of the one before.

    Batches of one size share their memory and their CUDA graphs.
    """
    count = math.ceil(num_pairs / max(1, most))
    pairs = math.ceil(num_pairs / count)
    return pairs, [min(batch * pairs, num_pairs - pairs) for batch in range(count)]


class _Solver:
    """Flow of ``pairs`` pairs of successive frames, from the coarsest scale to the finest."""

    def __init__(
        self,
        pairs: int,
        sizes: Sequence[tuple[int, int]],
        settings: TVL1,
        device: torch.device,
    ) -> None:
        floats = Scale.floats(pairs, sizes[0])
        memory = torch.empty(floats, dtype=torch.float32, device=device)
        self._scales = [Scale(pairs, size, settings, memory) for size in sizes]
        step = 1 / settings.scale_step
        steps = list(zip(sizes, sizes[1:], strict=False))
        self._shrink = [_Resize(fine, coarse, (step, step), device) for fine, coarse in steps]
        self._grow = [
            _Resize(coarse, fine, (coarse[0] / fine[0], coarse[1] / fine[1]), device)
            for fine, coarse in steps
        ]
        self._factor = step

    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [pair, 2, H, W] of uint8 [pair + 1, H, W], and iterations int32 [pair, scale]."""
        pyramid = [frames.float()]
        for shrink in self._shrink:
            pyramid.append(shrink(pyramid[-1]))
        flow = self._scales[-1].solve(pyramid[-1], None)
        for scale in reversed(range(len(self._grow))):
            start = self._grow[scale](flow).mul_(self._factor)
            flow = self._scales[scale].solve(pyramid[scale], start)
        return flow, torch.stack([scale.iterations for scale in self._scales], dim=1)


class _Resize:
    """Bilinear resize of planes, source pixels ``steps`` (along y, along x) apart, as OpenCV's.

    Not ``torch.nn.functional.interpolate``, which computes places in float32.
    """

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        steps: tuple[float, float],
        device: torch.device,
    ) -> None:
        self._rows = _taps(source[0], target[0], steps[0], device)
        self._columns = _taps(source[1], target[1], steps[1], device)

    def __call__(self, planes: Tensor) -> Tensor:
        """float32 [..., target height, target width] of [..., source height, source width]."""
        first, second, weight = self._columns
        wide = planes[..., first] * (1 - weight) + planes[..., second] * weight
        first, second, weight = self._rows
        weight = weight[:, None]
        return wide[..., first, :] * (1 - weight) + wide[..., second, :] * weight


def _taps(
    source: int, target: int, step: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """First and second source pixel of each target pixel, and the second one's weight."""
    first, weight = axis(target, source, step)
    second = (first + 1).clip(max=source - 1)
    return (
        torch.from_numpy(first).to(device),
        torch.from_numpy(second).to(device),
        torch.from_numpy(weight).to(device),
    )
