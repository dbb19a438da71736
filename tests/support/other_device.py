"""A device beside the CPU, on a machine without one: what mixes the two fails, as with CUDA.

    with other_device() as device:
        head.to(device)(snippets.to(device), mask.to(device))

Tensors of it are computed on the CPU, but say that they are on ``meta``. Operations on tensors of
both devices raise RuntimeError. As with CUDA, a number (a tensor without dimensions) of the CPU may
meet tensors of the device, and so may indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

DEVICE = torch.device("meta")
MAY_MIX = ("copy_", "_to_copy", "index", "index_put", "_index_put_impl_")


class OnDevice(Tensor):
    """A tensor on the other device, which holds its values on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        found = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        found.held = held
        return found

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Inside, ``meta`` is a device that computes. Modules that are moved get new parameters."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    inference_mode, torch.inference_mode = torch.inference_mode, torch.no_grad
    try:
        with _Operations(), _Numbers():
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch.inference_mode = inference_mode


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """``torch.tensor`` of numbers goes by the CPU; for ``meta`` itself it would forget them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and "device" in kwargs:
            device = kwargs.pop("device")
            return torch.tensor(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the values."""
    name = func._schema.name.split("::")[1]
    tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
    on_device = [each for each in tensors if isinstance(each, OnDevice)]
    others = [each for each in tensors if not isinstance(each, OnDevice) and each.dim()]
    if on_device and others and name not in MAY_MIX:
        raise RuntimeError(f"{func}: tensors of two devices: {shapes(on_device)} {shapes(others)}")
    target = kwargs.get("device")
    is_there = bool(on_device) if target is None else torch.device(target) == DEVICE
    if name in ("_to_copy", "copy_", "_local_scalar_dense") and target is None:
        is_there = isinstance(args[0], OnDevice)
    held = {
        key: torch.device("cpu") if key == "device" and value is not None else value
        for key, value in kwargs.items()
    }
    result = func(*tree_map(value_of, args), **tree_map(value_of, held))
    changed = {id(each.held): each for each in on_device}
    if func._schema.is_mutable:  # the tensor itself comes back
        return tree_map(lambda each: changed.get(id(each), each), result)
    return tree_map(on_device_of, result) if is_there else result


def on_device_of(each: Any) -> Any:
    return OnDevice(each) if isinstance(each, Tensor) else each


def value_of(each: Any) -> Any:
    return each.held if isinstance(each, OnDevice) else each


def shapes(tensors: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(each.shape) for each in tensors]
