"""How long the heads train on a set of the size of XD-Violence, and what the time goes into."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.data import load_dataset
from vadprep.heads import HEADS
from vadprep.training.bags import TrainingBags
from vadprep.training.loop import losses

DIM = 1024
CROPS = 5


@dataclass(frozen=True)
class RandomVideo:
    """A video with features cut from one random block."""

    video_id: str
    snippets: NDArray[np.float16]

    def stream(self, name: str) -> NDArray[np.float16]:
        return self.snippets


Videos = Mapping[str, RandomVideo]


def random_slice(num_videos: int, seed: int = 0) -> tuple[Videos, dict[str, int]]:
    """Features and labels of ``num_videos`` videos like those of XD-Violence, in memory.

    Lengths are drawn from the test videos (those of the training videos were never published).
    A snippet has five crops of 1,024 random float16 numbers. Both labels have their shares.
    """
    manifest = load_dataset("xd")
    scored = [video.num_frames_scored or 16 for video in manifest.in_split("test")]
    random = np.random.default_rng(seed)
    lengths = random.choice(np.array(scored) // 16, num_videos)
    shape = (int(lengths.max()), CROPS, DIM)
    block = random.standard_normal(shape, np.float32).astype(np.float16)
    videos = [RandomVideo(f"{n:05d}", block[:length]) for n, length in enumerate(lengths)]
    training = [video.label for video in manifest.in_split("train")]
    num_abnormal = round(num_videos * training.count(1) / len(training))
    labels = {video.video_id: int(n < num_abnormal) for n, video in enumerate(videos)}
    return {video.video_id: video for video in videos}, labels


def time_head(
    name: str, features: Videos, labels: Mapping[str, int], device: str, steps: int
) -> tuple[float, float, int, int, int]:
    """Train a head for ``steps`` steps, after one to warm up, with the settings of XD-Violence.

    Gives seconds a step, the share of forward and backward in them (the rest makes the batch,
    moves it, and updates the weights), steps in an epoch of the slice and of the set, and epochs.
    Left out are logs, the state after an epoch, and snapshots.
    """
    _, config = HEADS[name].settings("xd")
    bags = TrainingBags(features, labels, ("rgb",), config)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head = HEADS[name].build(DIM, config).to(device).train()
    optimizer = head.new_optimizer()
    # More epochs than are used: each has a batch at least.
    batches = (batch for epoch in range(steps + 1) for batch in bags.batches(0, epoch))

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter()

    total = inside = 0.0
    for step in range(steps + 1):
        start = now()
        batch = next(batches).to(torch.device(device))
        before = now()
        loss = losses(head, batch)["total"]
        optimizer.zero_grad()
        loss.backward()
        after = now()
        optimizer.step()
        if step:
            total += now() - start
            inside += after - before
    # An epoch is a pass over all items, or a number of steps that does not depend on them.
    whole = bags.num_batches
    if not config.steps_per_epoch:
        whole = round(whole * (len(load_dataset("xd").in_split("train")) / len(labels)))
    return total / steps, inside / total, bags.num_batches, whole, config.epochs
