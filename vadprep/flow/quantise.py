"""Flow as a network sees it: one image a frame, quantised once for all crops and clips.

    frames -> grey -> flow -> bound -> planes (u, v, mirrored u) -> crops of two planes

A mirrored crop shows a mirrored scene, where what moved right moves left: its u is -u. Rounding
is not symmetric, so -u is quantised separately and has a plane of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.clips import num_flows
from vadprep.flow.compute import TVL1, tvl1

FlowMethod = Callable[[Tensor], Tensor]
"""Flow float32 [n, h, w, 2] in px a frame between grey frames uint8 [n + 1, h, w]."""

Keep = Callable[[Tensor], None]
"""Takes images [n, h, w, 3] of a video, to save them."""

FLOW_THREADS = 1  # of TV-L1 in a worker on CPU; more workers use more cores
GREY_WEIGHTS = (9798, 19235, 3735)  # 0.299, 0.587, 0.114 by 2**-15, as OpenCV 4 and 5 hold them


def grey_of(frames: Tensor) -> Tensor:
    """Grey frames uint8 [...] of RGB frames uint8 [..., 3], to the bit those of OpenCV."""
    red, green, blue = (
        channel.int().mul_(weight)
        for channel, weight in zip(frames.unbind(-1), GREY_WEIGHTS, strict=True)
    )
    total = red.add_(green).add_(blue).add_(1 << 14)
    return total.bitwise_right_shift_(15).to(torch.uint8)


def _mediapipe(flow: Tensor, bound: int) -> Tensor:
    """trunc(255 clip01((v + bound) / 2 bound)), 0 is 127: flow_quantizer_model.cc."""
    return _quotient(flow + bound, 2 * bound).clamp_(0, 1).mul_(255).to(torch.uint8)


def _denseflow(flow: Tensor, bound: int) -> Tensor:
    """round(255 (clip(v) + bound) / 2 bound), halves to even, 0 is 128: denseflow and TSN."""
    grey = flow.double().clamp_(-bound, bound).add_(bound).mul_(255)
    return _quotient(grey, 2 * bound).round_().to(torch.uint8)


def _mmaction2(flow: Tensor, bound: int) -> Tensor:
    """trunc((clip(v) + bound) * (255 / 2 bound)) in float32, 0 is 127: mmaction2's
    flow_extraction.py. A level that is met exactly may be one off ``_mediapipe``."""
    return flow.clamp(-bound, bound).add_(bound).mul_(255 / (2 * bound)).to(torch.uint8)


def _quotient(values: Tensor, divisor: int) -> Tensor:
    """The exact quotient: on a GPU a plain number as divisor becomes a rounded reciprocal."""
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


QUANTISE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "none": lambda flow, bound: _quotient(flow.clamp(-bound, bound), bound),
    "mediapipe": _mediapipe,
    "denseflow": _denseflow,
    "mmaction2": _mmaction2,
}
"""Functions from flow float32 in px and a bound in px to images: uint8, of ``none`` float32 in
[-1, 1] (README of kinetics-i3d)."""


@dataclass(frozen=True)
class Quantisation:
    """A quantisation by name, with the bound in px."""

    name: str
    bound: int

    def mirror(self, u: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The quantised -u, from the quantised u alone.

        It is exact except for u that is beyond the bound, or exactly between two levels.
        """
        most = 255 if self.name == "denseflow" else 254  # round(255 - x) and trunc(255 - x)
        return most - np.minimum(u, np.uint8(most))

    def planes(self, flow: Tensor) -> Tensor:
        """Images [n, h, w, 3] of flow [n, h, w, 2]: u, v, and u as it is mirrored."""
        u, v = flow.unbind(-1)
        return QUANTISE[self.name](torch.stack([u, v, -u], dim=-1), self.bound)


class FlowSource(Protocol):
    """Computes the flow between frames, or reads it."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Planes [n, h, w, 3] of the flow between the next frames uint8 [n + 1, h, w, 3]."""

    def end(self) -> None:
        """Called after the last frame."""


class ComputedFlow:
    """A FlowSource that computes flow, and passes all images to ``keep``, which saves them."""

    def __init__(
        self, method: FlowMethod, quantisation: Quantisation, keep: Keep | None = None
    ) -> None:
        self._method, self._quantisation, self._keep = method, quantisation, keep

    def __call__(self, frames: Tensor) -> Tensor:
        planes = self._quantisation.planes(self._method(grey_of(frames)))
        if self._keep:
            self._keep(planes)
        return planes

    def end(self) -> None:
        pass


class FlowImages:
    """The images of the flow stream of one video, while its resized frames come in.

    Flow is computed ``step`` pairs at a time, however few frames come at once, and once for each
    pair. After the last frame comes still flow (see ``core.clips``).
    """

    def __init__(
        self, source: FlowSource, quantisation: Quantisation, flip_rule: str, step: int = 1
    ) -> None:
        self._source, self._quantisation, self._step = source, quantisation, step
        self._negates_u = flip_rule == "negate-u"
        self._held: Tensor | None = None
        """Frames whose flow to the next frame is not computed yet."""

    def add(self, frames: Tensor) -> Tensor:
        """The images [m, h, w, 3] that are complete after the next frames uint8 [n, h, w, 3]."""
        if self._held is not None:
            frames = torch.cat([self._held, frames])
        ready = num_flows(len(frames)) // self._step * self._step
        self._held = frames[ready:].clone()  # not a view that holds the block
        return self._source(frames[: ready + 1]) if ready else frames[:0]

    def flush(self) -> Tensor:
        """The remaining images, with that of the last frame; none of a video without frames."""
        last = self._held
        images = self._source(last) if last is not None and len(last) > 1 else torch.empty(0)
        self._source.end()
        if last is None:
            return images
        still = self._quantisation.planes(torch.zeros_like(last[-1:, ..., :2], dtype=torch.float32))
        return torch.cat([images, still]) if len(images) else still

    def channels(self, crop: Tensor, is_mirrored: bool) -> Tensor:
        """The two planes [..., 2] of a crop [..., 3] that the network sees."""
        if is_mirrored and self._negates_u:
            return crop[..., 1:].flip(-1)
        return crop[..., :2]


def tvl1_method(text: str) -> FlowMethod:
    """TV-L1 with the settings ``text`` of a spec, on the device of the frames.

    Raises ValueError for a bad text.
    """
    settings = TVL1.parse(text)

    def method(grey: Tensor) -> Tensor:
        if grey.is_cuda:
            from vadprep.flow.gpu import tvl1_cuda  # needs Triton

            return tvl1_cuda(grey, settings)[0]
        return torch.from_numpy(tvl1(grey.numpy(), settings, threads=FLOW_THREADS))

    return method
