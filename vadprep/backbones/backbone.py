"""A network on one device, ready to run, in batches that shrink to what the memory holds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from vadprep.backbones.engine import cpu_form, is_out_of_memory, said_by, torch_form
from vadprep.backbones.gpu_form import Replayed
from vadprep.backbones.graphs import graph_of
from vadprep.backbones.weights.load import Weights
from vadprep.core.errors import OutOfMemory, SpecError, allowed_are
from vadprep.core.log import get_logger
from vadprep.core.spec import OWN_EPS

logger = get_logger(__name__)

DTYPES = {
    "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
"""Type that activations are stored in; ``tf32`` rounds the factors of products inside."""


def has_cpu_bf16() -> bool:
    """True when this processor multiplies bfloat16 itself: emulated, a clip took 49 s, not 0.2."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def check_precision(precision: str, device: torch.device) -> None:
    """Raise SpecError when ``device`` does not have ``precision``, ValueError for another name.

    Where there is no TF32, on a CPU or an old card, fp32 serves: it is more exact.
    """
    if precision not in DTYPES:
        raise ValueError(f"{precision = }: {allowed_are(precision, DTYPES)}")
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


_FLAGS = threading.Lock()  # held while a thread changes switches of torch that all share


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


class Network(Protocol):
    """What a ``Backbone`` is for a caller."""

    device: torch.device
    dim: int

    def __call__(self, views: Tensor) -> Tensor:
        """Features [batch, dim] of views [batch, 16, size, size, channel]."""


class Backbone:
    """A network on one device in one precision: views in, float32 features out.

    ``precision`` is fp32, tf32, bf16 or fp16. On a CPU OpenVINO computes, with ``threads`` threads,
    or torch where OpenVINO is not installed. The same engine, device, batch size and number of
    threads give the same bytes; the other views of a batch do not matter. Raises ValueError for an
    unknown precision or scaling, and SpecError when the device does not have the precision.
    ``batch_norm_eps`` is that of the spec.
    """

    def __init__(
        self,
        weights: Weights,
        device: str | torch.device,
        precision: str,
        scaling: str = "[-1,1]",
        threads: int = 1,
        batch_norm_eps: str = OWN_EPS,
    ) -> None:
        self.weights, self.device, self.precision = weights, torch.device(device), precision
        check_precision(precision, self.device)
        graph = graph_of(weights.graph)
        self.dim = graph.dim
        self._lengths = graph.clip_lengths
        self._shape = (graph.clip_length, graph.size, graph.size, graph.channels)
        self._takes = graph.takes_size
        self._form: Callable[[Tensor], Tensor]
        if self.device.type == "cuda":
            form = torch_form(weights, DTYPES[precision], scaling, batch_norm_eps)
            self._form = Replayed(form.to(self.device))
        else:
            self._form = cpu_form(weights, precision, scaling, threads, batch_norm_eps)

    @torch.inference_mode()
    def __call__(self, views: Tensor) -> Tensor:
        """Features float32 [batch, dim] of views, on the device.

        Views are [batch, clip_length, size, size, channel], such as [batch, 16, 224, 224, 3]:
        uint8, or float32: 0 to 255 with fractions, flow in [-1, 1]. Raises ValueError for another
        shape or type.
        """
        is_type = views.dtype in (torch.uint8, torch.float32)
        is_shape = views.ndim == 5 and views.shape[1] in self._lengths
        is_shape &= tuple(views.shape[3:]) == (views.shape[2], self._shape[-1])
        if not is_type or not is_shape or not self._takes(views.shape[2]):
            raise ValueError(
                f"views: {views.dtype} {list(views.shape)}, expected uint8 [batch, "
                f"{', '.join(map(str, self._shape))}], or float32"
            )
        with tf32_only_if(self.precision == "tf32"):
            return self._form(views.to(self.device))


class AdaptiveBatch:
    """A network that takes any number of views, in batches padded to one size.

    Out of memory, it computes the same views in batches of half the size, and keeps that size.
    Several threads may call it at once.
    """

    def __init__(self, network: Network, batch: int) -> None:
        self._network, self.device = network, network.device
        self.batch = batch  # views that go through the network at once; never grows
        self._lock = threading.Lock()

    def __call__(self, views: Sequence[Tensor]) -> Tensor:
        """Features [len(views), dim] on the CPU; OutOfMemory when a single view is too much."""
        while True:
            size = self.batch  # one for all views, though another thread may halve it meanwhile
            padded = [*views, *[torch.zeros_like(views[0])] * (-len(views) % size)]
            parts = (torch.stack(padded[at : at + size]) for at in range(0, len(padded), size))
            try:
                return torch.cat([self._network(part).cpu() for part in parts])[: len(views)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = said_by(error)
            # Here the error is gone, and with it the tensors that its frames held.
            self._halve(size, reason)

    def _halve(self, size: int, reason: str) -> None:
        """Half of ``size`` from here on, unless another thread has seen to it."""
        with self._lock:
            if self.batch < size:
                return
            if size == 1:
                raise OutOfMemory(
                    f"a single view does not fit into the memory of {self.device} ({reason}): free "
                    "memory there, or use fewer workers or a smaller precision"
                )
            self.batch = size // 2
            logger.warning("out of memory: batches of %d views from here on", self.batch)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def free_device_memory() -> int:
    """Free bytes on the GPU of this process; ``sys.maxsize`` where it uses none."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else sys.maxsize
