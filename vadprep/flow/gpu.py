"""TV-L1 optical flow on a GPU, many pairs of frames at once.

Within a scale no pair waits for another; the programs of a pair that is done read one number and
end. Launches are replayed from a CUDA graph, and the host asks late and seldom which pairs are
done. The README has the arithmetic of the expected speed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

from vadprep.core.errors import VadprepError
from vadprep.flow import gpu_kernels as kernels
from vadprep.flow.compute import check_frames
from vadprep.flow.pyramid import TVL1, bilinear_axis

BUDGET_BYTES = 1 << 30
"""Device memory for the pairs worked on at a time, without the frames and the finished flow."""

LEAST_TRITON = (3, 4)
"""Compiles tuples in kernels; it comes with torch 2.8."""

PLANES_OF_A_PAIR = 32
"""float32 a pixel at most: 18 of the finest scale, 3 of the pyramid, up to 10 in a resize."""

TILE = (32, 32)
"""Rows and columns of a program of 4 warps. Many small programs would take long just to see that
their pair is done."""

ROWS = 8
"""Rows of a tile worked on at a time: 2 pixels a thread, which take 80 to 96 registers."""

ROUND_ITERATIONS = 4
"""Iterations from one chance to warp and filter to the next: a pair ready sooner waits for it."""

CHUNK_ROUNDS = 4
"""Rounds launched together, before the host asks whether all pairs are done."""

CHUNKS_AHEAD = 1
"""Chunks launched before the host waits for the answer about an earlier one: the device is busy."""

ALIGNMENT = 64
"""Floats. Each array starts at a multiple; otherwise Triton would compile the kernels again."""


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
        solver = _PyramidSolver(pairs, sizes, settings, device)
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


class _PyramidSolver:
    """Flow of ``pairs`` pairs of successive frames, from the coarsest scale to the finest."""

    def __init__(
        self, pairs: int, sizes: Sequence[tuple[int, int]], settings: TVL1, device: torch.device
    ) -> None:
        floats = ScaleSolver.floats(pairs, sizes[0])
        memory = torch.empty(floats, dtype=torch.float32, device=device)
        self._scales = [ScaleSolver(pairs, size, settings, memory) for size in sizes]
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
        self._rows, self._columns = (
            self._taps(source[i], target[i], steps[i], device) for i in range(2)
        )

    @staticmethod
    def _taps(
        source: int, target: int, step: float, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """First and second source pixel of each target pixel, and the second one's weight."""
        first, weight = bilinear_axis(target, source, step)
        second = (first + 1).clip(max=source - 1)
        first_, second_, weight_ = map(torch.from_numpy, (first, second, weight))
        return first_.to(device), second_.to(device), weight_.to(device)

    def __call__(self, planes: Tensor) -> Tensor:
        """float32 [..., target height, target width] of [..., source height, source width]."""
        first, second, weight = self._columns
        wide = planes[..., first] * (1 - weight) + planes[..., second] * weight
        first, second, weight = self._rows
        weight = weight[:, None]
        return wide[..., first, :] * (1 - weight) + wide[..., second, :] * weight


# --- one scale --------------------------------------------------------------------------


class ScaleSolver:
    """Solves a fixed number of pairs at one scale, in memory that scales may share in turn."""

    def __init__(self, pairs: int, size: tuple[int, int], settings: TVL1, memory: Tensor) -> None:
        """``memory``: ``floats`` float32 at least, whatever their values."""
        self._pairs, self._size, self._settings = pairs, size, settings
        self._order = kernels.exchanges(settings.median**2) if settings.median > 1 else ()
        self._grid = (*_tiles(size), pairs)
        arrays = _carved(memory, _shapes(pairs, size))
        self._images, self._gradients, self._flows, self._duals, self._warped, self._errors = arrays
        shape = (pairs, kernels.STATE.value)
        self._state = torch.empty(shape, dtype=torch.int32, device=memory.device)
        self._launched = _Launched(memory.is_cuda)

    @staticmethod
    def floats(pairs: int, size: tuple[int, int]) -> int:
        """Float32 of memory that a scale of this size takes."""
        return sum(_aligned(math.prod(shape)) for shape in _shapes(pairs, size))

    @property
    def iterations(self) -> Tensor:
        """Iterations of each pair in the last call of ``solve``, int32 [pair]."""
        return self._state[:, kernels.ITERATIONS.value]

    def solve(self, images: Tensor, flow: Tensor | None) -> Tensor:
        """Flow float32 [pair, 2, h, w] of images float32 [pair + 1, h, w], from a first guess.

        The guess None is no motion.
        """
        self._start(images, flow)
        self._run()
        turn = (self.iterations % 2).long()
        return self._flows[torch.arange(self._pairs, device=turn.device), turn]

    def _start(self, images: Tensor, flow: Tensor | None) -> None:
        self._images.copy_(images)
        _gradient(images[1:], 1, out=self._gradients[:, 1])
        _gradient(images[1:], 2, out=self._gradients[:, 0])
        self._flows[:, 0] = 0 if flow is None else flow
        self._duals[:, 0] = 0
        self._state.zero_()
        self._state[:, kernels.TODO.value] = kernels.WARP.value

    def _run(self) -> None:
        """Launch chunks of rounds until all pairs are done; the answer comes somewhat late."""
        settings = self._settings
        rounds = math.ceil(settings.inner_iterations / ROUND_ITERATIONS)
        rounds *= settings.warps * settings.outer_iterations
        answers: deque[Callable[[], bool]] = deque()
        for _ in range(math.ceil(rounds / CHUNK_ROUNDS)):
            self._launched(self._chunk)
            answers.append(self._asked())
            if len(answers) > CHUNKS_AHEAD and answers.popleft()():
                return

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
        for _ in range(CHUNK_ROUNDS):
            self._prepare()
            self._iterate(kernels.WARP.value)
            for _ in range(ROUND_ITERATIONS - 1):
                self._iterate(kernels.ITERATE.value)

    def _prepare(self) -> None:
        kernels.prepare[self._grid](
            self._state,
            self._images,
            self._gradients,
            self._flows,
            self._warped,
            *self._size,
            SIDE=self._settings.median,
            ORDER=self._order,
            TALL=TILE[0],
            ROWS=ROWS,
            COLUMNS=TILE[1],
            enable_fp_fusion=True,
        )

    def _iterate(self, furthest: int) -> None:
        settings = self._settings
        kernels.iterate[self._grid](
            self._state,
            self._flows,
            self._duals,
            self._warped,
            self._errors,
            *self._size,
            float(settings.lambda_ * settings.theta),
            float(settings.theta),
            float(settings.tau / settings.theta),
            furthest,
            SIDE=settings.median,
            TALL=TILE[0],
            ROWS=ROWS,
            COLUMNS=TILE[1],
            enable_fp_fusion=True,
        )
        tiles = self._grid[0] * self._grid[1]
        kernels.advance[(self._pairs,)](
            self._state,
            self._errors,
            tiles,
            float(settings.epsilon**2 * math.prod(self._size)),
            furthest,
            settings.inner_iterations,
            settings.outer_iterations,
            settings.warps,
            BLOCK=triton.next_power_of_2(tiles),
            enable_fp_fusion=True,
        )


class _Launched:
    """Makes the same launches at each call: the second call records them, to be replayed.

    The first compiles the kernels, which a CUDA graph cannot record. Holds no reference to what
    launches, whose memory a cycle would keep until the next garbage collection.
    """

    def __init__(self, on_cuda: bool) -> None:
        self._on_cuda = on_cuda
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, launch: Callable[[], None]) -> None:
        self._calls += 1
        if self._calls == 1 or not self._on_cuda:
            launch()
            return
        self._graph = self._graph or _recorded(launch)
        self._graph.replay()


def _recorded(launch: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Not by ``torch.cuda.graph``, which frees what the allocator holds for all threads."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    return graph


def _gradient(images: Tensor, axis: int, out: Tensor) -> None:
    """Half the difference of the two neighbours, where the border repeats its pixel."""
    last = images.shape[axis] - 1
    places = torch.arange(last + 1, device=images.device)
    after = images.index_select(axis, (places + 1).clamp(max=last))
    before = images.index_select(axis, (places - 1).clamp(min=0))
    out.copy_(after.sub_(before).mul_(0.5))


def _shapes(pairs: int, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of the arrays of a scale: images, gradients, flows, duals, warped, errors."""
    return [
        (pairs + 1, *size),
        (pairs, 2, *size),
        (pairs, 2, 2, *size),
        (pairs, 2, 4, *size),
        (pairs, 3, *size),
        (pairs, math.prod(_tiles(size))),
    ]


def _carved(memory: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Arrays of these shapes, one after the other in flat memory."""
    found, start = [], 0
    for shape in shapes:
        found.append(memory[start : start + math.prod(shape)].view(shape))
        start += _aligned(math.prod(shape))
    return found


def _aligned(count: int) -> int:
    return math.ceil(count / ALIGNMENT) * ALIGNMENT


def _tiles(size: tuple[int, int]) -> tuple[int, int]:
    """Tiles along x and along y."""
    return math.ceil(size[1] / TILE[1]), math.ceil(size[0] / TILE[0])
