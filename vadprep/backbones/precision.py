"""Number types of the networks, and where the processor or card has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vadprep.core.errors import SpecError

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Type that activations are stored in; ``tf32`` rounds the factors of products inside."""


def has_cpu_bf16() -> bool:
    """True when this processor multiplies bfloat16 itself.

    Without the instruction PyTorch emulates it: 49 s a clip on AVX2, measured, where one
    with it needs 0.2 s.
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def check_precision(precision: str, device: torch.device) -> None:
    """Raise SpecError when ``device`` does not have ``precision``, ValueError for another name.

    Where there is no TF32, on a CPU or an old card, fp32 serves: it is more exact.
    """
    if precision not in DTYPES:
        raise ValueError(f"{precision = }: allowed are {', '.join(DTYPES)}")
    if device.type == "cpu" and precision == "fp16":
        raise SpecError(f"precision {precision} needs a GPU; on a CPU use fp32 or bf16")
    if device.type == "cpu" and precision == "bf16" and not has_cpu_bf16():
        raise SpecError(
            "precision bf16 needs a processor with AVX512-BF16 or AMX, which this one "
            "does not have (it would be emulated, a hundred times slower); use fp32"
        )
    if device.type == "cuda" and precision == "bf16":
        major, _ = torch.cuda.get_device_capability(device)
        if major < 8:
            raise SpecError(f"precision {precision} needs an Ampere GPU or newer; use fp32")


_FLAGS = threading.Lock()
"""Held while one thread changes the process-wide switches of torch, which all threads share."""


@contextmanager
def tf32_only_if(allowed: bool) -> Iterator[None]:
    """Allow TF32 products inside, or forbid them, and put the settings back afterwards.

    Inside, cuDNN takes the same algorithm each time. One thread at a time.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with _FLAGS:
        before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
