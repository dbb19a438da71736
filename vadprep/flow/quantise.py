"""Flow as a network sees it: one picture a frame, quantised once for all crops and clips.

    frames -> grey -> flow -> bound -> planes (u, v, mirrored u) -> crops of two planes

A mirrored crop shows a mirrored scene, where what moved right moves left: its u is -u. Rounding
is not symmetric, so -u is quantised for itself and stands in a plane of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.core.clips import num_flows
from vadprep.flow import TVL1, tvl1

FlowMethod = Callable[[Tensor], Tensor]
"""Flow float32 [n, h, w, 2] in px a frame between grey frames uint8 [n + 1, h, w]."""

FLOW_THREADS = 1
"""Threads of TV-L1 a worker on CPU; cores are used by more workers."""

GREY_WEIGHTS = (9798, 19235, 3735)
"""0.299, 0.587, 0.114 in units of 2**-15, as OpenCV 4 and 5 hold them."""


def grey_of(frames: Tensor) -> Tensor:
    """Grey frames uint8 [...] of RGB frames uint8 [..., 3], to the bit those of OpenCV."""
    red, green, blue = (
        channel.int().mul_(weight)
        for channel, weight in zip(frames.unbind(-1), GREY_WEIGHTS, strict=True)
    )
    total = red.add_(green).add_(blue).add_(1 << 14)
    return total.bitwise_right_shift_(15).to(torch.uint8)


# --- quantisation -------------------------------------------------------------------------


def _scaled(flow: Tensor, bound: int) -> Tensor:
    """Flow within the bound in [-1, 1]."""
    return _quotient(flow.clamp(-bound, bound), bound)


def _mediapipe(flow: Tensor, bound: int) -> Tensor:
    return _quotient(flow + bound, 2 * bound).clamp_(0, 1).mul_(255).to(torch.uint8)


def _denseflow(flow: Tensor, bound: int) -> Tensor:
    grey = flow.double().clamp_(-bound, bound).add_(bound).mul_(255)
    return _quotient(grey, 2 * bound).round_().to(torch.uint8)


def _quotient(values: Tensor, divisor: int) -> Tensor:
    """On a GPU a number as divisor would become a product with its reciprocal, and round else."""
    return values / torch.full((), divisor, dtype=values.dtype, device=values.device)


QUANTISE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "none": _scaled,
    "mediapipe": _mediapipe,
    "denseflow": _denseflow,
}
"""Pictures of flow float32 in px, with a bound in px.

========= ==================================== ================= =========================
none      clip(v) / bound                      float32 [-1, 1]   README of kinetics-i3d
mediapipe trunc(255 * clip01((v + 20) / 40))   uint8, 0 is 127   flow_quantizer_model.cc
denseflow round(255 * (clip(v) + 20) / 40)     uint8, 0 is 128   denseflow, TSN (to even)
========= ==================================== ================= =========================
"""


@dataclass(frozen=True)
class Quantisation:
    """A quantisation by name, with the bound in px."""

    name: str
    bound: int

    def mirrored(self, u: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the quantised -u is for a quantised u, where only that is known.

        Right but for u that is beyond the bound, or just between two levels.
        """
        most = 254 if self.name == "mediapipe" else 255  # trunc(255 - x) and round(255 - x)
        return most - np.minimum(u, np.uint8(most))

    def planes(self, flow: Tensor) -> Tensor:
        """Pictures [n, h, w, 3] of flow [n, h, w, 2]: u, v, and u as it is mirrored."""
        u, v = flow.unbind(-1)
        return QUANTISE[self.name](torch.stack([u, v, -u], dim=-1), self.bound)


# --- from frames to pictures --------------------------------------------------------------


class FlowSource(Protocol):
    """Computes the flow between frames, or reads it."""

    def __call__(self, frames: Tensor) -> Tensor:
        """Planes [n, h, w, 3] of the flow between the next frames uint8 [n + 1, h, w, 3]."""

    def end(self) -> None:
        """No more frames come."""


class ComputedFlow:
    """A FlowSource that computes; ``keep`` is shown all pictures, to be saved."""

    def __init__(
        self,
        method: FlowMethod,
        quantisation: Quantisation,
        keep: Callable[[Tensor], None] | None = None,
    ) -> None:
        self._method, self._quantisation, self._keep = method, quantisation, keep

    def __call__(self, frames: Tensor) -> Tensor:
        planes = self._quantisation.planes(self._method(grey_of(frames)))
        if self._keep:
            self._keep(planes)
        return planes

    def end(self) -> None:
        pass


class FlowPictures:
    """The pictures of the flow stream of one video, as its resized frames come.

    Flow is asked for ``step`` pairs at a time, however few frames come at once, and each pair is
    seen once. After the last frame comes still flow (see ``clips``).
    """

    def __init__(
        self, source: FlowSource, quantisation: Quantisation, flip_rule: str, step: int = 1
    ) -> None:
        self._source, self._quantisation, self._step = source, quantisation, step
        self._negates_u = flip_rule == "negate-u"
        self._held: Tensor | None = None
        """Frames whose flow to the next one is still to be asked for."""

    def add(self, frames: Tensor) -> Tensor:
        """The next pictures [m, h, w, 3] that are ready, after frames uint8 [n, h, w, 3]."""
        if self._held is not None:
            frames = torch.cat([self._held, frames])
        ready = num_flows(len(frames)) // self._step * self._step
        self._held = frames[ready:].clone()  # not a view that holds the block
        return self._source(frames[: ready + 1]) if ready else frames[:0]

    def rest(self) -> Tensor:
        """The other pictures, that of the last frame too; of a video without frames none."""
        last = self._held
        pictures = self._source(last) if last is not None and len(last) > 1 else torch.empty(0)
        self._source.end()
        if last is None:
            return pictures
        still = self._quantisation.planes(torch.zeros_like(last[-1:, ..., :2], dtype=torch.float32))
        return torch.cat([pictures, still]) if len(pictures) else still

    def seen(self, crop: Tensor, is_mirrored: bool) -> Tensor:
        """The two planes [..., 2] of a crop [..., 3] that the network sees."""
        if is_mirrored and self._negates_u:
            return crop[..., 1:].flip(-1)
        return crop[..., :2]


# --- TV-L1 by its text in a spec ----------------------------------------------------------


def settings_text(settings: TVL1) -> str:
    """The settings as they stand in a spec: ``tvl1 tau=0.25 lambda=0.15 ...``."""
    values = asdict(settings).items()
    return " ".join(["tvl1", *(f"{name.rstrip('_')}={value}" for name, value in values)])


def parsed_settings(text: str) -> TVL1:
    """The settings that ``settings_text`` wrote; raises ValueError for any other text."""
    defaults = {name.rstrip("_"): (name, value) for name, value in asdict(TVL1()).items()}
    try:
        pairs = [part.split("=") for part in text.split()[1:]]
        values = {defaults[name][0]: type(defaults[name][1])(value) for name, value in pairs}
        settings = TVL1(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"flow = {text!r}: {error}") from error
    if settings_text(settings) != text:
        raise ValueError(f"flow = {text!r}: expected each setting once, as {settings_text(TVL1())}")
    return settings


def tvl1_method(text: str) -> FlowMethod:
    """TV-L1 with the settings ``text`` of a spec, on the device of the frames.

    Raises ValueError for a bad text.
    """
    settings = parsed_settings(text)

    def method(grey: Tensor) -> Tensor:
        if grey.is_cuda:
            from vadprep.flow.gpu import tvl1_cuda  # needs Triton

            return tvl1_cuda(grey, settings)
        return torch.from_numpy(tvl1(grey.numpy(), settings, threads=FLOW_THREADS))

    return method
