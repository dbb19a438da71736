"""Speed and error of a network in the form that vadprep runs, beside its plain form."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vadprep.backbones import Backbone, build, engine_of, load_weights
from vadprep.backbones.backbone import tf32_only_if
from vadprep.backbones.graphs import graph_of, with_weights
from vadprep.extraction.extractor import fixed_threads


def bench_backbone(
    graph: str, device: str, precisions: Sequence[str], threads: int, rounds: int = 5
) -> list[tuple[str, float, float, float]]:
    """Plain fp32 network, then the form that vadprep runs in each precision, with random weights.

    Each with its median seconds for a clip, its speed-up, and the relative error of its features
    (Euclidean norm), both against the plain form. On a CPU these are seconds of the processor. The
    forms take turns in each round, after one round of warm-up, so that another load on the machine
    slows all of them.
    """
    weights, made_for = load_weights("random:0", graph), graph_of(graph)
    generator = torch.Generator().manual_seed(0)
    shape = (1, made_for.clip_length, made_for.size, made_for.size, made_for.channels)
    views = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    engine = engine_of(device)
    network = with_weights(build(graph), weights.state).to(device)

    def run_plain(x: Tensor) -> Tensor:
        clips: Tensor = x.permute(0, 4, 1, 2, 3).contiguous().float() / 127.5 - 1
        with tf32_only_if(False):  # the default of cuDNN would be TF32
            return network(clips)

    forms: dict[str, Callable[[Tensor], Tensor]] = {"plain fp32": run_plain}
    for precision in precisions:
        forms[f"{engine} {precision}"] = Backbone(weights, device, precision, threads=threads)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with fixed_threads(threads), torch.inference_mode():
        features = {name: form(views) for name, form in forms.items()}
        taken: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(rounds):
            for name, form in forms.items():
                start = clock()
                form(views).cpu()  # waits for the device
                taken[name].append(clock() - start)
    plain, seconds = features["plain fp32"], {n: statistics.median(t) for n, t in taken.items()}
    return [
        (name, each, seconds["plain fp32"] / each, float((output - plain).norm() / plain.norm()))
        for (name, each), output in zip(seconds.items(), features.values(), strict=True)
    ]
