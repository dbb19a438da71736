"""The small schedule on synthetic sets that differ in kind, beside training on frame labels.

    PYTHONPATH=tests python -m support.small_schedule --kinds unit,relu,mixed --sizes 30,100,250

For each set and head: the frame AUC of ``--schedule small`` on test videos, that of the same head
trained on the label of each snippet, and their ratio: means over ``--seeds``, which share a choice,
then the AUC of each. Half of the videos are abnormal.

``unit`` resembles C3D features of UCF-Crime as Sultani's: 4,096 numbers, 32 segments, rows of unit
length. ``relu`` resembles I3D: 1,024 numbers that are 0 or more, in ten crops. ``mixed`` are 57
numbers whose units differ by up to 10,000.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from vadprep.cli.bench.train import RandomVideo
from vadprep.heads import HEADS, Head, HeadConfig
from vadprep.heads.losses import cross_entropy
from vadprep.training.bags import TrainingBags
from vadprep.training.loop import fit, new_head, set_rate
from vadprep.training.results import EvaluationSet
from vadprep.training.schedule import Choice, choose_schedule
from vadprep.training.scoring import score_videos

DIMS = {"unit": 4096, "relu": 1024, "mixed": 57}
SEGMENTS = 32
NUM_TESTS = 40
FRAME_STEPS = 300
"""Steps on frame labels, or those of the small schedule if there are more."""

LATENT = 48
"""Causes that the features of a video mix, each weaker than the one before."""
STRENGTH = 2.0
"""Of an event at its height, along a direction that is among the weaker causes: the scene itself
has a length of 2.1. An event rises and falls, so its ends cannot be told from the scene."""

Truth = Mapping[str, NDArray[np.int64]]
CPU = torch.device("cpu")


def synthetic_set(
    kind: str,
    num_train: int,
    crops: int = 10,
    seed: int = 0,
    strength: float = STRENGTH,
    num_tests: int = NUM_TESTS,
) -> tuple[dict[str, RandomVideo], Truth]:
    """Features and the label of each snippet; training videos have ids that begin with ``a``."""
    random, dim = np.random.default_rng(seed), DIMS[kind]
    scale = np.arange(1, LATENT + 1) ** -0.5
    mixing = random.normal(size=(LATENT, dim)) / np.linalg.norm(scale)
    constant = 0.5 * random.normal(size=dim)
    direction = random.normal(size=LATENT) * (np.arange(LATENT) >= 8)
    direction /= np.linalg.norm(direction)
    units, offset = 10 ** random.uniform(-2, 2, dim), 3 * random.normal(size=dim)
    features, truth = dict[str, RandomVideo](), dict[str, NDArray[np.int64]]()
    for number in range(num_train + num_tests):
        video_id = f"{'a' if number < num_train else 'b'}{number:04d}"
        causes, changes = np.zeros((SEGMENTS, LATENT)), random.normal(size=(SEGMENTS, LATENT))
        for t in range(SEGMENTS):  # half of the variance is between videos
            causes[t] = changes[t] if t == 0 else 0.7 * causes[t - 1] + 0.51**0.5 * changes[t]
        causes = scale * 0.5**0.5 * (random.normal(size=LATENT) + causes)
        labels = np.zeros(SEGMENTS, np.int64)
        if number % 2:
            length = random.integers(4, 13)
            start = random.integers(0, SEGMENTS - length + 1)
            labels[start : start + length] = 1
            height = np.sin(np.pi * (np.arange(length) + 0.5) / length)
            causes[start : start + length] += strength * height[:, None] * direction
        views = np.repeat(causes[:, None], crops if kind == "relu" else 1, axis=1)
        views = views + 0.1 * scale * random.normal(size=views.shape)
        rows = views @ mixing + constant + 0.3 * random.normal(size=(*views.shape[:2], dim))
        rows = (rows + offset) * units if kind == "mixed" else np.maximum(rows, 0)
        if kind == "unit":
            rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        features[video_id] = RandomVideo(video_id, rows.astype(np.float32))
        truth[video_id] = labels
    return features, truth


def bags_of(
    head: str, features: Mapping[str, RandomVideo], truth: Truth, **changes: Any
) -> TrainingBags:
    """The training videos under the small schedule, before it looks at them."""
    _, config = HEADS[head].settings("mine", "small", changes)
    labels = {video_id: int(truth[video_id].any()) for video_id in features if video_id[0] == "a"}
    kinds = {video_id: "event" * label for video_id, label in labels.items()}
    return TrainingBags(features, labels, ("rgb",), config, categories=kinds)  # type: ignore[arg-type]


def chosen(
    head: str, bags: TrainingBags, features: Mapping[str, RandomVideo], fixed: Sequence[str] = ()
) -> Choice:
    """What the small schedule chooses for a head, beside the settings that are ``fixed``."""
    data = EvaluationSet(features, {"rgb": None}, {}, "cut", {}, "frame_auc")  # type: ignore[arg-type]
    return choose_schedule(head, bags, fixed, data, CPU)


def fit_frames(head: Head, bags: TrainingBags, features: Any, truth: Truth, seed: int) -> None:
    """Train on the label of each snippet: cross-entropy, as many steps as the config has."""
    config, random, optimizer = head.config, np.random.default_rng(seed), head.new_optimizer()
    half = config.batch_size // 2
    by_label = [[v for v, own in bags.labels.items() if own == label] for label in (0, 1)]
    for epoch in range(config.epochs):
        head.train()
        set_rate(optimizer, config.learning_rate_at(epoch))
        for _ in range(config.steps_per_epoch or 0):
            ids = [each for own in by_label for each in random.choice(own, half)]
            rows = torch.from_numpy(np.stack([features[each].snippets for each in ids]))
            rows = rows.transpose(1, 2)
            if config.crops == "sample":
                crop = int(random.integers(rows.shape[1]))
                rows = rows[:, crop : crop + 1]
            labels = torch.from_numpy(np.stack([truth[each] for each in ids])).float()
            scores = head(rows, torch.ones(labels.shape, dtype=torch.bool)).scores
            loss = cross_entropy(scores, labels).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def frame_auc(head: Head, features: Mapping[str, RandomVideo], truth: Truth) -> float:
    """Over the snippets of the test videos."""
    ids = [video_id for video_id in features if video_id[0] == "b"]
    scores = score_videos(head, features, ids, ("rgb",))
    values = np.concatenate([scores[each].snippets for each in ids])
    return float(roc_auc_score(np.concatenate([truth[each] for each in ids]), values))


def compared(
    head: str, features: Mapping[str, RandomVideo], truth: Truth, seeds: Sequence[int] = (0,)
) -> tuple[Choice, NDArray[np.float64], NDArray[np.float64]]:
    """The choice of the small schedule; frame AUC of each seed with it, and with frame labels."""
    bags = bags_of(head, features, truth)
    choice = chosen(head, bags, features)
    config: HeadConfig = replace(bags.config, **choice.settings)
    steps = max(config.steps_per_epoch or 0, FRAME_STEPS // config.epochs)
    weak, frames = np.zeros(len(seeds)), np.zeros(len(seeds))
    for place, seed in enumerate(seeds):
        for aucs, own in ((weak, config), (frames, replace(config, steps_per_epoch=steps))):
            torch.manual_seed(seed)
            network = new_head(head, bags.with_config(own), CPU)
            if aucs is frames:
                fit_frames(network, bags, features, truth, seed)
            else:
                fit(network, bags.with_config(own), seed)
            aucs[place] = frame_auc(network, features, truth)
    return choice, weak, frames


def table(
    kinds: Sequence[str],
    sizes: Sequence[int],
    heads: Sequence[str],
    seeds: Sequence[int] = (0,),
    **options: Any,
) -> Iterator[str]:
    """A line for each set and head; ``options`` are those of ``synthetic_set``."""
    for kind in kinds:
        for size in sizes:
            features, truth = synthetic_set(kind, size, **options)
            for head in heads:
                start = time.process_time()
                choice, weak, frames = compared(head, features, truth, seeds)
                seconds = time.process_time() - start
                yield (
                    f"{kind:5} {size:3} {head:8} {weak.mean():.3f} / {frames.mean():.3f} = "
                    f"{weak.mean() / frames.mean():.3f}, each {weak.round(3)} / {frames.round(3)}"
                    f"{choice.words()}; {choice.reason}; {seconds:.0f} s"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", default=",".join(DIMS))
    parser.add_argument("--sizes", default="30,100,250")
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--crops", type=int, default=10)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--strength", type=float, default=STRENGTH)
    parser.add_argument("--tests", type=int, default=NUM_TESTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes, seeds = (
        [int(each) for each in own.split(",")] for own in (arguments.sizes, arguments.seeds)
    )
    kinds, heads = arguments.kinds.split(","), arguments.heads.split(",")
    options = {"strength": arguments.strength, "num_tests": arguments.tests}
    for line in table(kinds, sizes, heads, seeds, crops=arguments.crops, **options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
