"""How long the heads train on a set of the size of XD-Violence, and what the time goes into."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.data.datasets import load_dataset
from vadprep.heads import HEADS
from vadprep.training.bags import Batch, TrainingBags
from vadprep.training.loop import losses

DIM = 1024
CROPS = 5


@dataclass(frozen=True)
class HeadTiming:
    """One head on the slice: seconds a step, and the share of forward and backward."""

    head: str
    seconds_a_step: float
    share: float
    """Of the time of a step, spent in forward and backward; the rest makes the batch, moves it,
    and updates the weights."""
    steps_of_slice: int
    steps_of_whole: int
    epochs: int

    def cells(self) -> tuple[object, ...]:
        """A line for people: seconds, percent, hours."""
        whole = self.steps_of_whole * self.seconds_a_step
        return (
            self.head,
            self.seconds_a_step,
            f"{100 * self.share:.0f} %",
            self.steps_of_slice * self.seconds_a_step,
            whole,
            whole * self.epochs / 3600,
        )


@dataclass(frozen=True)
class TrainBench:
    """Timings of the heads on one slice."""

    device: str
    threads: int
    num_videos: int
    timings: tuple[HeadTiming, ...]

    def rows(self) -> list[tuple[object, ...]]:
        """Lines for people."""
        head = (
            f"XD-Violence settings, {self.device}, {self.threads} thread(s)",
            "s a step",
            "forward + backward",
            f"s an epoch of {self.num_videos} videos",
            "s an epoch of all",
            "h in all",
        )
        return [head, *(timing.cells() for timing in self.timings)]


@dataclass(frozen=True)
class _RandomVideo:
    """A video with features cut from one random block."""

    video_id: str
    snippets: NDArray[np.float16]

    def stream(self, name: str) -> NDArray[np.float16]:
        return self.snippets


def bench_train(
    heads: Sequence[str], device: str, num_videos: int, steps: int, seed: int = 0
) -> TrainBench:
    """Train each head for ``steps`` steps, after one to warm up, on random features.

    The slice has lengths drawn from the test videos of XD-Violence (those of the training videos
    were never published), five crops of 1,024 float16 numbers, and its shares of both labels.
    They are held in memory, so nothing is read. A step is the batch, forward, backward and the
    update; the test that each term is finite, the logs, the state after an epoch and the
    snapshots, each of which scores the test split, are left out.
    """
    manifest = load_dataset("xd")
    scored = [video.num_frames_scored or 16 for video in manifest.in_split("test")]
    random = np.random.default_rng(seed)
    lengths = random.choice(np.array(scored) // 16, num_videos)
    shape = (int(lengths.max()), CROPS, DIM)
    block = random.standard_normal(shape, np.float32).astype(np.float16)
    features = {
        f"{n:05d}": _RandomVideo(f"{n:05d}", block[:length]) for n, length in enumerate(lengths)
    }
    training = [video.label for video in manifest.in_split("train")]
    num_abnormal = round(num_videos * training.count(1) / len(training))
    labels = {video_id: int(n < num_abnormal) for n, video_id in enumerate(features)}
    timings = tuple(_timed(name, features, labels, device, steps, len(training)) for name in heads)
    return TrainBench(device, torch.get_num_threads(), num_videos, timings)


def _timed(
    name: str,
    features: dict[str, _RandomVideo],
    labels: dict[str, int],
    device: str,
    steps: int,
    num_training: int,
) -> HeadTiming:
    kind = HEADS[name]
    config = kind.settings("xd", "published", {}).config
    bags = TrainingBags(features, labels, ("rgb",), config)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head = kind.build(DIM, config).to(device).train()
    optimizer = head.new_optimizer()
    batches = _endless(bags)
    total = inside = 0.0
    for step in range(steps + 1):
        _wait(device)
        start = time.perf_counter()
        batch = next(batches).to(torch.device(device))
        _wait(device)
        before = time.perf_counter()
        loss = losses(head, batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        _wait(device)
        after = time.perf_counter()
        optimizer.step()
        _wait(device)
        if step:
            total += time.perf_counter() - start
            inside += after - before
    # An epoch is a pass over all items, or a number of steps that does not depend on them.
    grown = 1.0 if config.steps_per_epoch else num_training / len(labels)
    in_all = round(bags.num_batches * grown)
    return HeadTiming(name, total / steps, inside / total, bags.num_batches, in_all, config.epochs)


def _endless(bags: TrainingBags) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from bags.batches(0, epoch)
        epoch += 1


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
