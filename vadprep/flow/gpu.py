"""TV-L1 optical flow on a GPU, many pairs of frames at once.

Within a scale no pair waits for another; the programs of a pair that is done read one number and
end. Launches are replayed from a CUDA graph, and the host asks late and seldom which pairs are
done. The README has the arithmetic of the expected speed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
import triton
from torch import Tensor

from vadprep.core.errors import VadprepError
from vadprep.flow import gpu_kernels as kernels
from vadprep.flow.compute import TVL1, bilinear_axis, check_frames

BUDGET_BYTES = 1 << 30
"""Device memory for the pairs worked on at a time, without the frames and the finished flow."""

LEAST_TRITON = (3, 4)
"""Compiles tuples in kernels; it comes with torch 2.8."""

PLANES_OF_A_PAIR = 32
"""float32 a pixel at most: 18 of the finest scale, 3 of the pyramid, up to 10 in a resize."""

ROUND_ITERATIONS = 4
"""Iterations from one chance to warp and filter to the next: a pair ready sooner waits for it."""

CHUNK_ROUNDS = 4
"""Rounds launched together, before the host asks whether all pairs are done."""

CHUNKS_AHEAD = 1
"""Chunks launched before the host waits for the answer about an earlier one: the device is busy."""

ALIGNMENT = 64
"""Floats. Each array starts at a multiple; otherwise Triton would compile the kernels again."""


def tvl1_cuda(
    frames: Tensor, settings: TVL1, budget_bytes: int = BUDGET_BYTES
) -> tuple[Tensor, Tensor]:
    """Flow from frame t to t + 1, and the iterations that each scale took, the finest first.

    ``frames`` are grey levels, uint8 [N, H, W], on a CUDA device. Flow is float32 [N-1, H, W, 2],
    px a frame, first along x, then y; iterations are int32 [N-1, scales]. The bits of a pair
    depend neither on other pairs nor on the budget. Raises ValueError for any other frames.
    """
    check_frames(tuple(frames.shape), str(frames.dtype))
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < LEAST_TRITON:
        raise VadprepError(
            f"Triton {triton.__version__} cannot compile TV-L1, 3.4 can (pip install -U torch)"
        )
    interpreted = not isinstance(kernels.iterate, triton.JITFunction)
    if not frames.is_cuda and not interpreted:
        raise ValueError(f"frames: on {frames.device}, expected a CUDA device")

    num_pairs, height, width = len(frames) - 1, *frames.shape[1:]
    sizes, device = settings.sizes(height, width), frames.device
    flow = torch.empty((num_pairs, height, width, 2), dtype=torch.float32, device=device)
    counts = torch.empty((num_pairs, len(sizes)), dtype=torch.int32, device=device)
    if num_pairs == 0:
        return flow, counts
    # Batches of one size share memory and CUDA graphs: the last may repeat pairs of the one before.
    most = max(1, budget_bytes // (PLANES_OF_A_PAIR * 4 * height * width))
    count = math.ceil(num_pairs / most)
    pairs = math.ceil(num_pairs / count)
    with torch.cuda.device_of(frames):
        floats = ScaleSolver.floats(pairs, sizes[0])
        memory = torch.empty(floats, dtype=torch.float32, device=device)
        scales = [ScaleSolver(pairs, size, settings, memory) for size in sizes]
        for batch in range(count):
            start = min(batch * pairs, num_pairs - pairs)
            found = _coarse_to_fine(frames[start : start + pairs + 1], scales, settings.scale_step)
            flow[start : start + pairs] = found.movedim(1, -1)
            counts[start : start + pairs] = torch.stack([each.iterations for each in scales], dim=1)
    return flow, counts


def iteration_bytes(height: int, width: int) -> int:
    """Bytes that one iteration of one pair moves at least, at a scale of this size."""
    return kernels.PLANES_MOVED * 4 * height * width


def _coarse_to_fine(frames: Tensor, scales: list[ScaleSolver], scale_step: float) -> Tensor:
    """Flow float32 [pair, 2, H, W] of frames uint8 [pair + 1, H, W], by scales, finest first."""
    pyramid, step = [frames.float()], 1 / scale_step
    for scale in scales[1:]:
        pyramid.append(_resized(pyramid[-1], scale.size, (step, step)))
    flow = scales[-1].solve(pyramid[-1], None)
    for level in reversed(range(len(scales) - 1)):
        size, coarse = scales[level].size, scales[level + 1].size
        steps = coarse[0] / size[0], coarse[1] / size[1]
        flow = scales[level].solve(pyramid[level], _resized(flow, size, steps).mul_(step))
    return flow


def _resized(planes: Tensor, size: tuple[int, int], steps: tuple[float, float]) -> Tensor:
    """Planes [..., h, w] resized bilinearly to ``size``, source pixels ``steps`` (y, x) apart.

    As OpenCV's. Not ``torch.nn.functional.interpolate``, which computes places in float32.
    """
    for axis, shape in ((-1, (-1,)), (-2, (-1, 1))):
        count = planes.shape[axis]
        first, weights = bilinear_axis(size[axis], count, steps[axis])
        left = torch.from_numpy(first).to(planes.device)
        right = (left + 1).clamp(max=count - 1)
        weight = torch.from_numpy(weights).to(planes.device).view(shape)
        kept = planes.index_select(axis, left) * (1 - weight)
        planes = kept + planes.index_select(axis, right) * weight
    return planes


class ScaleSolver:
    """Solves a fixed number of pairs at one scale, in memory that scales may share in turn."""

    def __init__(self, pairs: int, size: tuple[int, int], settings: TVL1, memory: Tensor) -> None:
        """``memory``: ``floats`` float32 at least, whatever their values."""
        self.size = size
        self._pairs, self._settings = pairs, settings
        self._order = kernels.exchanges(settings.median**2) if settings.median > 1 else ()
        arrays, start = [], 0
        for shape in _shapes(pairs, size):
            arrays.append(memory[start : start + math.prod(shape)].view(shape))
            start += _aligned(shape)
        self._images, self._gradients, self._flows, self._duals, self._warped, self._errors = arrays
        shape = (pairs, kernels.STATE.value)
        self._state = torch.empty(shape, dtype=torch.int32, device=memory.device)
        self._launches = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    @staticmethod
    def floats(pairs: int, size: tuple[int, int]) -> int:
        """Float32 of memory that a scale of this size takes."""
        return sum(map(_aligned, _shapes(pairs, size)))

    @property
    def iterations(self) -> Tensor:
        """Iterations of each pair in the last call of ``solve``, int32 [pair]."""
        return self._state[:, kernels.ITERATIONS.value]

    def solve(self, images: Tensor, flow: Tensor | None) -> Tensor:
        """Flow float32 [pair, 2, h, w] of images float32 [pair + 1, h, w], from a first guess.

        The guess None is no motion. Chunks of rounds are launched until all pairs are done; the
        answer comes somewhat late.
        """
        self._images.copy_(images)
        _gradient(images[1:], 1, out=self._gradients[:, 1])
        _gradient(images[1:], 2, out=self._gradients[:, 0])
        self._flows[:, 0] = 0 if flow is None else flow
        self._duals[:, 0] = 0
        self._state.zero_()
        self._state[:, kernels.TODO.value] = kernels.WARP.value

        settings = self._settings
        rounds = math.ceil(settings.inner_iterations / ROUND_ITERATIONS)
        rounds *= settings.warps * settings.outer_iterations
        answers: deque[Callable[[], bool]] = deque()
        for _ in range(math.ceil(rounds / CHUNK_ROUNDS)):
            self._launch()
            answers.append(self._asked())
            if len(answers) > CHUNKS_AHEAD and answers.popleft()():
                break
        turn = (self.iterations % 2).long()
        return self._flows[torch.arange(self._pairs, device=turn.device), turn]

    def _launch(self) -> None:
        """The first launch compiles the kernels, the second is recorded, and then replayed.

        Not by ``torch.cuda.graph``, which frees what the allocator holds for all threads.
        """
        self._launches += 1
        if self._launches == 1 or not self._state.is_cuda:  # a graph cannot record a compilation
            self._chunk()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(torch.cuda.Stream()):
                self._graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._chunk()
                finally:
                    self._graph.capture_end()
        self._graph.replay()

    def _asked(self) -> Callable[[], bool]:
        """Whether all pairs are done by now; its caller waits until the device has reached this."""
        done = (self._state[:, kernels.TODO.value] == kernels.DONE.value).all()
        if not done.is_cuda:
            return lambda: bool(done)
        answer = done.to("cpu", non_blocking=True)
        reached = torch.cuda.Event(blocking=True)
        reached.record()

        def wait() -> bool:
            reached.synchronize()
            return bool(answer)

        return wait

    def _chunk(self) -> None:
        s, state, (height, width) = self._settings, self._state, self.size
        wide, tall = _tiles(self.size)
        tiles, grid, pairs = wide * tall, (wide, tall, self._pairs), (self._pairs,)
        images = self._images, self._gradients, self._flows, self._warped
        fields = self._flows, self._duals, self._warped, self._errors
        steps = float(s.lambda_ * s.theta), float(s.theta), float(s.tau / s.theta)
        least = float(s.epsilon**2 * (height * width))
        numbers = tiles, least, s.inner_iterations, s.outer_iterations, s.warps
        block = triton.next_power_of_2(tiles)
        stages = [kernels.WARP.value, *[kernels.ITERATE.value] * (ROUND_ITERATIONS - 1)]
        for _ in range(CHUNK_ROUNDS):
            kernels.prepare[grid](state, *images, *self.size, SIDE=s.median, ORDER=self._order)
            for furthest in stages:
                kernels.iterate[grid](state, *fields, *self.size, *steps, furthest, SIDE=s.median)
                kernels.advance[pairs](state, self._errors, *numbers, furthest, BLOCK=block)


def _gradient(images: Tensor, axis: int, out: Tensor) -> None:
    """Half the difference of the two neighbours, where the border repeats its pixel."""
    last = images.shape[axis] - 1
    places = torch.arange(last + 1, device=images.device)
    after = images.index_select(axis, (places + 1).clamp(max=last))
    before = images.index_select(axis, (places - 1).clamp(min=0))
    out.copy_(after.sub_(before).mul_(0.5))


def _shapes(pairs: int, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of the arrays of a scale: images, gradients, flows, duals, warped, errors."""
    planes = [(pairs + 1,), (pairs, 2), (pairs, 2, 2), (pairs, 2, 4), (pairs, 3)]
    return [*((*shape, *size) for shape in planes), (pairs, math.prod(_tiles(size)))]


def _aligned(shape: tuple[int, ...]) -> int:
    return math.ceil(math.prod(shape) / ALIGNMENT) * ALIGNMENT


def _tiles(size: tuple[int, int]) -> tuple[int, int]:
    """Tiles along x and along y."""
    tall, wide = kernels.TALL.value, kernels.COLUMNS.value
    return math.ceil(size[1] / wide), math.ceil(size[0] / tall)
