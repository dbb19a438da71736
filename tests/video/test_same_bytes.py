"""Why a CPU and a GPU give the same frames and flow images: no step is rounded differently there.

``test_gpu.py`` compares the bytes on a card. Here each operation of torch is looked at: it is of
whole numbers, or rounds each number once, as IEEE 754 says. None is a sum of fractions, whose order
a device chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vadprep.video.resize as resize_module
from vadprep.core.filters import FILTERS, FLOAT_FILTERS
from vadprep.flow import QUANTISE, Quantisation, grey_of
from vadprep.video import FrameTransform

MOVES = {
    "_to_copy", "_unsafe_view", "alias", "arange", "cat", "clone", "copy_", "expand", "flip",
    "full", "index_select", "lift_fresh", "permute", "repeat", "select", "slice", "split", "stack",
    "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip
"""Operations that copy numbers, or round one to another type."""
ROUNDED_ONCE = {
    "abs", "add", "add_", "clamp", "clamp_", "floor", "mul", "mul_", "neg", "round_", "rsub",
    "sign", "sub",
}  # fmt: skip
SUMS = {"mm", "bmm"}


class Looked(TorchDispatchMode):
    """Asserts of every operation of floating-point numbers that all devices round it alike."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket.__name__
        tensors = [each for each in (*args, result) if isinstance(each, Tensor)]
        if any(each.is_floating_point() for each in tensors):
            self.seen.add(name)
            if name in SUMS:
                one, other = args
                assert one.dtype == other.dtype == torch.float64
                assert torch.equal(one, one.round()) and torch.equal(other, other.round())
                assert float((one.abs() @ other.abs()).max()) < 2**53
            elif name == "div":  # by a plain number a GPU multiplies by its rounded reciprocal
                assert isinstance(args[1], Tensor), "a quotient by a plain number"
            else:
                assert name in MOVES | ROUNDED_ONCE, f"{name} of fractions"
        return result


def frames(count: int, height: int = 61, width: int = 83) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def flow() -> Tensor:
    """Noise of which some is beyond 20 px, and levels that are met exactly."""
    noise = 9 * torch.randn(2, 60, 80, 2, generator=torch.Generator().manual_seed(0))
    noise[1] = (torch.linspace(-21, 21, 4800 * 2) * 255 / 40).round().view(60, 80, 2) * 40 / 255
    return noise


def transformed(frames: Tensor, filter: str, jpeg: str = "decoded", block: int = 64) -> Tensor:
    """Ten crops, resized by torch as on a GPU, so many frames at a time."""
    settings = {"resize": "40x100", "crops": 10, "crop_order": "xd", "crop_size": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize_module, "loop", lambda: None)
        transform: Any = FrameTransform(61, 83, "cpu", filter=filter, frames=jpeg, **settings)
    parts = [transform._resize, *([transform._jpeg] if transform._jpeg else [])]
    assert all(hasattr(each, "_chunk") for each in parts)
    for each in parts:
        each._chunk = block
    return transform.crop(transform.resize(frames))


RESIZED = (*FILTERS, *FLOAT_FILTERS)
WORK: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    **{each: (partial(transformed, filter=each), frames(2)) for each in RESIZED},
    "jpeg": (partial(transformed, filter="pil-bilinear", jpeg="jpeg35"), frames(2)),
    **{each: (Quantisation(each, 20).planes, flow()) for each in QUANTISE},
    "grey": (grey_of, frames(2)),
}
"""What makes numbers of a video, and what it is given."""


@pytest.mark.parametrize("name", WORK)
def test_no_step_is_rounded_otherwise_on_another_device(name: str) -> None:
    work, given = WORK[name]
    with Looked() as looked:
        work(given)
    assert looked.seen & SUMS == (SUMS if name == "jpeg" else set())
    assert bool(looked.seen) == (name in (*FLOAT_FILTERS, *QUANTISE, "jpeg"))


@pytest.mark.parametrize("name", WORK)
def test_threads_and_order_in_memory_change_nothing(name: str) -> None:
    """Of the same numbers in another order in memory, on one thread and on four."""
    work, given = WORK[name]
    channels_first = given.transpose(1, 3).contiguous().transpose(1, 3)
    every_other = torch.stack([given, given], dim=1)[:, 0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = work(given)
        for count in (1, 4):
            torch.set_num_threads(count)
            for each in (given, channels_first, every_other):
                assert torch.equal(work(each), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "filter, jpeg", [*((each, "decoded") for each in RESIZED), ("pil-bilinear", "jpeg35")]
)
def test_blocks_of_any_size_give_the_same_bytes(filter: str, jpeg: str) -> None:
    given = frames(7)
    one, some, many = (transformed(given, filter, jpeg, block) for block in (1, 3, 64))
    assert torch.equal(one, some) and torch.equal(one, many)
    assert torch.equal(one[:, 2:3], transformed(given[2:3], filter, jpeg))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.sum(), lambda x: x.mean(dim=0), lambda x: x / 40, lambda x: x @ x.T,
        lambda x: x.sqrt(), lambda x: (x.double().round() * 2.0**52) @ x.T.double().round(),
        lambda x: torch.nn.functional.interpolate(x[None, None], scale_factor=2, mode="bilinear"),
    ],
)  # fmt: skip
def test_what_devices_round_otherwise_is_found(wrong: Callable[[Tensor], Tensor]) -> None:
    numbers = torch.linspace(1, 5, 12).view(3, 4)
    with pytest.raises(AssertionError), Looked():
        wrong(numbers)
