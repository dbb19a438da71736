"""How fast this machine is, measured in one run on the same input."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vadprep.backbones import build, load_backbone, load_weights
from vadprep.backbones.graphs import graph_of, with_weights
from vadprep.backbones.precision import tf32_only_if
from vadprep.extraction.extractor import fixed_threads

ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """One form of the network: median seconds a clip, and its features against plain fp32."""

    form: str
    seconds_per_clip: float
    speedup: float
    """Of the plain form's time over this one's."""
    relative_error: float
    """Of the features, in the Euclidean norm."""


@dataclass(frozen=True)
class BackboneBench:
    """Timings of one network, the plain fp32 form first."""

    graph: str
    device: str
    threads: int
    batch: int
    timings: tuple[Timing, ...]

    def rows(self) -> list[tuple[object, ...]]:
        """Lines for people."""
        head = (
            f"{self.graph}, {self.device}, {self.threads} thread(s), batch {self.batch}",
            "s a clip",
            "speed-up",
            "feature error",
        )
        return [
            head,
            *((t.form, t.seconds_per_clip, t.speedup, t.relative_error) for t in self.timings),
        ]


def bench_backbone(
    graph: str,
    device: str,
    precisions: Sequence[str],
    threads: int,
    batch: int = 1,
    rounds: int = ROUNDS,
) -> BackboneBench:
    """Plain fp32 network against the inference form in each precision, random weights.

    The forms take turns in each round, so that a neighbour on the machine slows all of them,
    and the median over rounds counts; one round before is warm-up.
    """
    weights, form = load_weights("random:0", graph), graph_of(graph)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, form.clip_length, form.size, form.size, form.channels)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    plain = with_weights(build(graph), weights.state).to(device)

    def run_plain(x: Tensor) -> Tensor:
        clips: Tensor = x.permute(0, 4, 1, 2, 3).contiguous().float() / 127.5 - 1
        with tf32_only_if(False):  # the default of cuDNN would be TF32
            return plain(clips)

    forms: dict[str, Callable[[Tensor], Tensor]] = {"plain fp32": run_plain}
    for precision in precisions:
        forms[f"folded {precision}"] = load_backbone(graph, weights, device, precision)
    with fixed_threads(threads), torch.inference_mode():
        features = {name: form(views) for name, form in forms.items()}
        seconds = _interleaved(forms, views, rounds)
    timings = tuple(_timing(name, seconds, features, batch) for name in forms)
    return BackboneBench(graph, device, threads, batch, timings)


def _interleaved(
    forms: dict[str, Callable[[Tensor], Tensor]], views: Tensor, rounds: int
) -> dict[str, float]:
    """Median seconds of one call of each form."""
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            form(views).cpu()  # waits for the device
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _timing(
    name: str, seconds: dict[str, float], features: dict[str, Tensor], batch: int
) -> Timing:
    plain = features["plain fp32"]
    error = float((features[name] - plain).norm() / plain.norm())
    return Timing(name, seconds[name] / batch, seconds["plain fp32"] / seconds[name], error)
