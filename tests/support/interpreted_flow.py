"""Runs in a process of its own, as Triton reads its settings when it is first imported."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE = (32, 64)
"""A tile that holds a small image, as the interpreter takes its time for each tile."""


def interpret() -> None:
    """Make this process interpret kernels, on the CPU."""
    os.environ["TRITON_INTERPRET"] = "1"


def interpreted_flow(
    frames: NDArray[np.uint8],
    settings: Any,
    tile: tuple[int, int] = WHOLE,
    rows: int = WHOLE[0],
    budget_bytes: int = 1 << 30,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Flow [N-1, H, W, 2] and iterations [N-1, scales] by the interpreter."""
    import torch
    import triton.language as tl

    from vadprep.flow import gpu, gpu_kernels as kernels

    torch.set_num_threads(1)
    kernels.TALL, kernels.COLUMNS, kernels.ROWS = map(tl.constexpr, (*tile, rows))
    gpu.CHUNK_ROUNDS, gpu.CHUNKS_AHEAD = 1, 0  # no more launches than are needed
    flow, counts = gpu.tvl1_cuda(torch.from_numpy(frames), settings, budget_bytes)
    return flow.numpy(), counts.numpy()


def compiled_for_an_h100(sizes: list[tuple[int, int]], settings: Any) -> dict[str, int]:
    """How many times each kernel is compiled for sm_90 when scales of these sizes are launched.

    The launches do nothing, so the settings must allow one round only.
    """
    import torch
    import triton
    from triton.backends.compiler import GPUTarget

    from vadprep.flow.gpu import solve_scale

    class Absent:
        """Stands for the driver of a GPU that is not here."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    codes: dict[str, set[bytes]] = {}
    launch = triton.JITFunction.run

    def compile_only(self: Any, *values: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *values, warmup=True, **options)
        codes.setdefault(self.fn.__name__, set()).add(kernel.asm["cubin"])

    triton.runtime.driver.set_active(Absent())
    triton.JITFunction.run = compile_only
    for size in sizes:
        solve_scale(torch.zeros(3, *size), None, settings)
    return {name: len(found) for name, found in codes.items()}
