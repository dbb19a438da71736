"""What an extraction costs stage by stage, and what that means for machines of any size.

A worker takes a clip through its stages one after the other (resize, flow, compute, write); its
decoders work beside it in processes of their own. So a clip can take no less than the worker's
stages together, nor less than its share of the decoders; and all that runs on the processor, the
decoders and without a GPU the workers too, shares the cores. What is the scarcest limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

DECODER, WORKER, PROCESSOR = "decoder", "worker", "processor"
LONGEST = "longest video"

WAITING_FOR_ONE = 1.25
"""Times as long as with all at work to the end, from which on the longest video is to blame."""

MOST_SIMULATED = 20_000
"""Videos; the end of a run of more is a small part of it."""

TICK = 1e-9
"""Seconds, and share of a video, below which nothing is left."""


@dataclass(frozen=True)
class Machines:
    """Where it runs: workers (each a GPU, or a core), decoders a worker, cores of all."""

    workers: int
    decoders: int = 1
    cores: int = 1
    has_gpus: bool = False


@dataclass(frozen=True)
class Costs:
    """Seconds of one clip, or of all clips of one video."""

    decoding: float
    """By one decoder, without its waits."""
    stages: Mapping[str, float]
    """By one worker, without its waits for the decoder."""

    @property
    def working(self) -> float:
        """Seconds of a worker."""
        return sum(self.stages.values())

    def on_processor(self, machines: Machines) -> float:
        """Seconds of a core."""
        return self.decoding + (0.0 if machines.has_gpus else self.working)


def total(videos: Sequence[Costs]) -> Costs:
    """Costs of all videos together."""
    stages: Counter[str] = Counter()
    for each in videos:
        stages.update(each.stages)
    return Costs(sum(each.decoding for each in videos), stages)


def limits(costs: Costs, machines: Machines) -> dict[str, float]:
    """Seconds that a clip takes at least for each of decoders, workers and cores."""
    return {
        WORKER: costs.working / machines.workers,
        DECODER: costs.decoding / (machines.workers * machines.decoders),
        PROCESSOR: costs.on_processor(machines) / machines.cores,
    }


def seconds_a_clip(costs: Costs, machines: Machines) -> float:
    """Of all workers together, once all are at work."""
    return max(limits(costs, machines).values())


def bottleneck(costs: Costs, machines: Machines) -> str:
    """What limits: the decoders, the cores, or the longest stage of the workers, by name."""
    found = limits(costs, machines)
    scarcest = max(found, key=lambda each: found[each])
    if scarcest == DECODER or not costs.stages:
        return DECODER
    longest = max(costs.stages, key=lambda each: costs.stages[each])
    return longest if scarcest == WORKER else f"{PROCESSOR}, for {longest}"


def limit_of_run(videos: Sequence[Costs], machines: Machines, seconds: float) -> str:
    """What limits a run of ``seconds``: what is scarcest, or its longest video at the end."""
    together = total(videos)
    is_waiting = seconds > WAITING_FOR_ONE * seconds_a_clip(together, machines)
    slots = machines.workers * machines.decoders
    return LONGEST if is_waiting and len(videos) > slots else bottleneck(together, machines)


def gains(costs: Costs, machines: Machines) -> dict[str, float]:
    """How many times as fast it would be with one more of each."""
    now = seconds_a_clip(costs, machines)
    more = {
        "decoder a worker": replace(machines, decoders=machines.decoders + 1),
        "GPU" if machines.has_gpus else "worker": replace(machines, workers=machines.workers + 1),
        "core": replace(machines, cores=machines.cores + 1),
        "worker with a core": replace(
            machines, workers=machines.workers + 1, cores=machines.cores + 1
        ),
    }
    return {name: now / seconds_a_clip(costs, each) for name, each in more.items()}


def run_seconds(videos: Sequence[Costs], machines: Machines, between: float = 0.0) -> float:
    """Seconds until all ``videos`` are done, the longest first; before each, ``between`` pass.

    A video has one decoder, so the longest may keep everybody waiting at the end.
    """
    decoding = np.array([each.decoding for each in videos])
    working = np.array([each.working for each in videos])
    processor = np.array([each.on_processor(machines) for each in videos])
    alone = np.maximum(decoding, working)
    costs = np.stack([decoding, working, processor])[:, np.argsort(-alone, kind="stable")]
    if len(videos) > MOST_SIMULATED:
        return _by_sums(costs, machines, between)
    return _simulated(costs, machines, between)


def _by_sums(costs: NDArray[np.float64], machines: Machines, between: float) -> float:
    """Seconds of videos with ``costs`` [3, videos], as if they could be cut at will."""
    decoding, working, processor = costs.sum(axis=1)
    slots = machines.workers * machines.decoders
    pauses = costs.shape[1] * between
    return max(
        float((decoding + pauses) / slots),
        float(working / machines.workers + pauses / slots),
        float(processor / machines.cores),
    )


def _simulated(costs: NDArray[np.float64], machines: Machines, between: float) -> float:
    """Seconds until the videos with ``costs`` [3, videos] are done, begun in their order."""
    slots = machines.workers * machines.decoders
    seconds, begun = 0.0, min(slots, costs.shape[1])
    running, left = np.arange(begun), np.ones(begun)
    while len(running):
        decoding, working, processor = costs[:, running]
        busy = len(running)
        shared = max(1.0, busy / machines.workers)
        slowed = np.maximum(working * shared, processor * busy / machines.cores)
        durations = np.maximum(decoding, slowed) + between + TICK
        step = float((left * durations).min())
        seconds += step
        left = left - step / durations
        going = left > TICK
        running, left = running[going], left[going]
        new = min(busy - len(running), costs.shape[1] - begun)
        running = np.concatenate([running, np.arange(begun, begun + new)])
        left = np.concatenate([left, np.ones(new)])
        begun += new
    return seconds
