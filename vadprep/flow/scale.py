"""One scale of TV-L1 on a GPU: its arrays, and the launches until every pair is done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from vadprep.flow import gpu_kernels as kernels
from vadprep.flow.pyramid import TVL1

TILE = (32, 32)
"""Rows and columns of a program of 4 warps. Many small ones would take long just to see that
their pair rests."""

ROWS = 8
"""Rows of a tile worked on at a time: 2 pixels a thread, which take 80 to 96 registers."""

ROUND_ITERATIONS = 4
"""Iterations from one chance to warp and filter to the next: a pair ready sooner waits for it."""

CHUNK_ROUNDS = 4
"""Rounds launched together, before it is asked whether all pairs are done."""

CHUNKS_AHEAD = 1
"""Chunks launched before the answer about an earlier one is awaited: the device never idles."""

ALIGNMENT = 64
"""Floats: each array starts at a multiple, as Triton would compile others in another way."""


class Scale:
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
        """Launch chunks of rounds until all pairs are done, of which it learns somewhat late."""
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
        """Whether all pairs are done by now; who calls it waits until the device has come here."""
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
            BLOCK=_power_of_two(tiles),
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


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
