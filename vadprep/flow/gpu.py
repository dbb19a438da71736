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
from torch.nn import functional

from vadprep.core.errors import VadprepError
from vadprep.flow import gpu_kernels as kernels
from vadprep.flow.compute import TVL1, bilinear_axis

BUDGET_BYTES = 1 << 30  # for the pairs worked on at a time, without frames and finished flow
LEAST_TRITON = (3, 4)  # compiles tuples in kernels; it comes with torch 2.8
PLANES_OF_A_PAIR = 32  # at most: 17 of the finest scale, 3 of the pyramid, 10 in a resize
ROUND_ITERATIONS = 4  # from one chance to warp and filter to the next: a pair ready sooner waits
CHUNK_ROUNDS = 4  # rounds launched together, before the host asks whether all pairs are done
CHUNKS_AHEAD = 1  # chunks launched before the host waits for the answer about an earlier one


def tvl1_cuda(
    frames: Tensor, settings: TVL1, budget_bytes: int = BUDGET_BYTES
) -> tuple[Tensor, Tensor]:
    """Flow from frame t to t + 1, and the iterations that each scale took, the finest first.

    ``frames`` are grey levels, uint8 [N, H, W], on a CUDA device. Flow is float32 [N-1, H, W, 2],
    px a frame, first along x, then y; iterations are int32 [N-1, scales]. The bits of a pair
    depend neither on other pairs nor on the budget.
    """
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < LEAST_TRITON:
        raise VadprepError(
            f"Triton {triton.__version__} cannot compile TV-L1, 3.4 can (pip install -U torch)"
        )
    num_pairs, height, width = len(frames) - 1, *frames.shape[1:]
    sizes, device = settings.sizes(height, width), frames.device
    flow = torch.empty((num_pairs, height, width, 2), dtype=torch.float32, device=device)
    counts = torch.empty((num_pairs, len(sizes)), dtype=torch.int32, device=device)
    if num_pairs == 0:
        return flow, counts
    most = max(1, budget_bytes // (PLANES_OF_A_PAIR * 4 * height * width))
    pairs = math.ceil(num_pairs / math.ceil(num_pairs / most))  # of batches of about one size
    step = 1 / settings.scale_step
    with torch.cuda.device_of(frames):
        for start in range(0, num_pairs, pairs):
            part = slice(start, start + pairs)
            pyramid = [frames[start : start + pairs + 1].float()]
            for size in sizes[1:]:
                pyramid.append(_resized(pyramid[-1], size, (step, step)))
            found, counts[part, -1] = solve_scale(pyramid[-1], None, settings)
            for level in reversed(range(len(sizes) - 1)):
                size, coarse = sizes[level], sizes[level + 1]
                steps = coarse[0] / size[0], coarse[1] / size[1]
                guess = _resized(found, size, steps).mul_(step)
                found, counts[part, level] = solve_scale(pyramid[level], guess, settings)
            flow[part] = found.movedim(1, -1)
    return flow, counts


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


def solve_scale(images: Tensor, guess: Tensor | None, s: TVL1) -> tuple[Tensor, Tensor]:
    """Flow float32 [pair, 2, h, w] of images float32 [pair + 1, h, w], and iterations [pair].

    It starts from a first guess, None for no motion. Chunks of rounds are launched until all pairs
    are done; the answer comes somewhat late. The first chunk compiles the kernels, which a CUDA
    graph cannot record; the second is recorded, and replayed from then on.
    """
    pairs, *size = len(images) - 1, *images.shape[1:]
    wide, tall = kernels.COLUMNS.value, kernels.TALL.value
    across, down = math.ceil(size[1] / wide), math.ceil(size[0] / tall)
    grid, tiles = (across, down, pairs), across * down
    shapes = (pairs, 2), (pairs, 2, 2), (pairs, 2, 4), (pairs, 3)
    gradients, flows, duals, warped = (images.new_empty(*shape, *size) for shape in shapes)
    errors = images.new_empty(pairs, tiles)
    # Half the difference of the two neighbours, where the border repeats its pixel.
    padded = functional.pad(images[1:], (1, 1, 1, 1), mode="replicate")
    gradients[:, 0] = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) * 0.5
    gradients[:, 1] = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) * 0.5
    flows[:, 0] = 0 if guess is None else guess
    duals[:, 0] = 0
    state = torch.zeros((pairs, kernels.STATE.value), dtype=torch.int32, device=images.device)
    state[:, kernels.TODO.value] = kernels.WARP.value

    order = kernels.exchanges(s.median**2) if s.median > 1 else ()
    steps = float(s.lambda_ * s.theta), float(s.theta), float(s.tau / s.theta)
    least = float(s.epsilon**2 * math.prod(size))
    limits = tiles, least, s.inner_iterations, s.outer_iterations, s.warps
    block = triton.next_power_of_2(tiles)
    stages = [kernels.WARP.value, *[kernels.ITERATE.value] * (ROUND_ITERATIONS - 1)]

    def chunk() -> None:
        for _ in range(CHUNK_ROUNDS):
            kernels.prepare[grid](
                state, images, gradients, flows, warped, *size, SIDE=s.median, ORDER=order
            )
            for furthest in stages:
                fields = state, flows, duals, warped, errors
                kernels.iterate[grid](*fields, *size, *steps, furthest, SIDE=s.median)
                kernels.advance[pairs,](state, errors, *limits, furthest, BLOCK=block)

    rounds = math.ceil(s.inner_iterations / ROUND_ITERATIONS) * s.warps * s.outer_iterations
    answers: deque[Callable[[], bool]] = deque()
    launch = chunk
    for number in range(math.ceil(rounds / CHUNK_ROUNDS)):
        if number == 1 and images.is_cuda:
            launch = _recorded(chunk)
        launch()
        answers.append(_asked(state))
        if len(answers) > CHUNKS_AHEAD and answers.popleft()():
            break
    iterations = state[:, kernels.ITERATIONS.value]
    return flows[torch.arange(pairs, device=images.device), (iterations % 2).long()], iterations


def _recorded(launch: Callable[[], None]) -> Callable[[], None]:
    """Not by ``torch.cuda.graph``, which frees what the allocator holds for all threads."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    return graph.replay


def _asked(state: Tensor) -> Callable[[], bool]:
    """Whether all pairs are done by now; its caller waits until the device has reached this."""
    done = (state[:, kernels.TODO.value] == kernels.DONE.value).all()
    if not done.is_cuda:
        return lambda: bool(done)
    answer = done.to("cpu", non_blocking=True)
    reached = torch.cuda.Event(blocking=True)
    reached.record()

    def wait() -> bool:
        reached.synchronize()
        return bool(answer)

    return wait
