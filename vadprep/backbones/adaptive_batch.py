"""A network whose batches shrink to what the memory holds."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vadprep.core.errors import OutOfMemory

logger = logging.getLogger(__name__)

MEMORY_ERRORS = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
"""Words of a RuntimeError that means too little memory, by torch, by the CPU's allocator or by a
CUDA library."""


class Network(Protocol):
    """What a ``Backbone`` is for a caller."""

    device: torch.device
    dim: int

    def __call__(self, views: Tensor) -> Tensor:
        """Features [batch, dim] of views [batch, 16, size, size, channel]."""


class AdaptiveBatch:
    """A network that takes any number of views, in batches padded to one size.

    Out of memory, it computes the same views in batches of half the size, and keeps that size.
    All threads that call it share the size.
    """

    def __init__(self, network: Network, batch: int) -> None:
        self._network, self._lock = network, threading.Lock()
        self.device = network.device
        self.batch = batch
        """Views that go through the network at once; never grows."""

    def __call__(self, views: Sequence[Tensor]) -> Tensor:
        """Features [len(views), dim] on the CPU.

        Raises OutOfMemory when a single view is too much.
        """
        while True:
            batch = self.batch
            parts = [views[start : start + batch] for start in range(0, len(views), batch)]
            try:
                return torch.cat([self._features(part, batch) for part in parts])
            except (RuntimeError, MemoryError) as error:
                text = str(error)
                if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
                    words in text for words in MEMORY_ERRORS
                ):
                    raise
                reason = text.partition("\n")[0] or type(error).__name__
            # Here the error is gone, and with it the tensors that its frames held.
            self._halve(batch, reason)

    def _features(self, views: Sequence[Tensor], batch: int) -> Tensor:
        padding = [torch.zeros_like(views[0])] * (batch - len(views))
        return self._network(torch.stack([*views, *padding])).cpu()[: len(views)]

    def _halve(self, batch: int, reason: str) -> None:
        if batch == 1:
            raise OutOfMemory(
                f"a single view does not fit into the memory of {self.device} ({reason}): free "
                "memory there, or use fewer workers or a smaller precision"
            )
        with self._lock:
            self.batch = min(self.batch, batch // 2)
        logger.warning("out of memory: batches of %d views from here on", self.batch)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def free_device_memory() -> int:
    """Free bytes on the GPU of this process; ``sys.maxsize`` where it uses none."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else sys.maxsize
