"""Training steps and scoring of each head, ours against a loop as in the official codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, RandomSampler

from vadprep.data import load_dataset
from vadprep.heads import HEADS, Head, HeadConfig
from vadprep.heads.sampling import sampler
from vadprep.training.bags import Batch, TrainingBags
from vadprep.training.loop import train_step
from vadprep.training.scoring import score_videos

DIM = 1024
CROPS = 5
SCORED = 40
"""Test videos that are scored."""


@dataclass(frozen=True)
class RandomVideo:
    """A video with features cut from one random block."""

    video_id: str
    snippets: NDArray[np.float16]

    fps = 24.0
    times = None

    def stream(self, name: str) -> NDArray[np.float16]:
        return self.snippets

    @property
    def num_clips(self) -> int:
        return len(self.snippets)

    @property
    def num_frames(self) -> int:
        return 16 * len(self.snippets)

    @property
    def spans(self) -> NDArray[np.int64]:
        return 16 * np.arange(len(self.snippets))[:, None] + np.array([0, 16])


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


@dataclass(frozen=True)
class HeadTimes:
    """What training and scoring with one head takes, ours beside a plain loop. On a CPU all are
    processor seconds, which other work on the machine changes less than the clock."""

    step: float
    """Seconds of one of our steps."""
    plain_step: float
    arithmetic: float
    """Share of forward, loss, backward and optimiser in our step; the rest makes the batch."""
    scoring: float
    """Seconds to score a test video of five crops."""
    plain_scoring: float
    steps: int
    """In an epoch of the whole XD-Violence."""
    epochs: int


def time_head(
    name: str, features: Videos, labels: Mapping[str, int], folder: Path, device: str, steps: int
) -> HeadTimes:
    """Train a head for ``steps`` steps of each loop in turn, after one of each to warm up.

    Settings are those of XD-Violence. Network and losses of both loops are the same, so that the
    ratio is that of the loops. Left out are logs, the state after an epoch, and metrics.
    """
    _, config = HEADS[name].settings("xd")
    bags = TrainingBags(features, labels, ("rgb",), config)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head = HEADS[name].build(bags.dim, config).to(device).train()
    optimizer, place = head.new_optimizer(), torch.device(device)
    # More epochs than are used: each has a batch at least.
    ours = (batch for epoch in range(steps + 1) for batch in bags.batches(0, epoch))
    plain = plain_batches(write_npy(features, folder, config), labels, config)
    now = partial(_now, device)
    times: dict[str, list[float]] = {"step": [], "plain": [], "inside": []}
    for _ in range(steps + 1):
        for kind, batches in (("plain", plain), ("step", ours)):
            start = now()
            batch = next(batches).to(place)
            before = now()
            train_step(head, optimizer, batch)
            after = now()
            times[kind].append(after - start)
            if kind == "step":
                times["inside"].append(after - before)
    inside, step = (sum(times[each][1:]) for each in ("inside", "step"))
    tested = dict(list(features.items())[:SCORED])
    scoring, plain_scoring = (
        min(_spent(now, each, head, tested, folder) for _ in range(2)) / len(tested)
        for each in (_score_ours, _score_plainly)
    )
    # An epoch is a pass over all items, or a number of steps that does not depend on them.
    whole = bags.num_batches
    if not config.steps_per_epoch:
        whole = round(whole * (len(load_dataset("xd").in_split("train")) / len(labels)))
    return HeadTimes(
        step=step / steps,
        plain_step=sum(times["plain"][1:]) / steps,
        arithmetic=inside / step,
        scoring=scoring,
        plain_scoring=plain_scoring,
        steps=whole,
        epochs=config.epochs,
    )


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _spent(now: Callable[[], float], work: Callable[..., None], *arguments: Any) -> float:
    start = now()
    work(*arguments)
    return now() - start


def _score_ours(head: Head, videos: Videos, folder: Path) -> None:
    score_videos(head, videos, list(videos), ("rgb",))


# ---------------------------------------------------------------- a loop as in the official codes


class NpyItems(Dataset[tuple[list[torch.Tensor], int]]):
    """Items as in the data sets of RTFM, XDVioDet and AR-Net: one .npy file each in float32, which
    is read and sampled anew whenever the item is asked for."""

    def __init__(self, items: Sequence[tuple[Path, int]], config: HeadConfig) -> None:
        self.items, self.sampler = items, sampler(config.sampling)
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[list[torch.Tensor], int]:
        path, label = self.items[index]
        snippets = torch.from_numpy(np.load(path))  # [T, C, D]
        views = []
        for _ in range(self.sampler.num_views):
            crops = [self.sampler.take(each, label, self.random) for each in snippets.unbind(1)]
            views.append(torch.stack(crops, dim=1))
        return views, label


def write_npy(features: Videos, folder: Path, config: HeadConfig) -> dict[str, list[Path]]:
    """Files of each video: one with all crops where a head takes them together, else one a crop."""
    paths: dict[str, list[Path]] = {}
    for video_id, video in features.items():
        snippets = video.snippets
        parts = [snippets] if config.crops == "axis" else np.split(snippets, CROPS, axis=1)
        paths[video_id] = [
            folder / f"{video_id}__{config.crops}{number}.npy" for number in range(len(parts))
        ]
        for path, part in zip(paths[video_id], parts, strict=True):
            if not path.exists():
                np.save(path, part.astype(np.float32))
    return paths


def plain_batches(
    paths: Mapping[str, Sequence[Path]], labels: Mapping[str, int], config: HeadConfig
) -> Iterator[Batch]:
    """Batches without end from DataLoaders in this process: one of all items, or, for batches of
    half each class, one of each class, begun again where it ends."""
    items = [(path, labels[video_id]) for video_id, each in paths.items() for path in each]
    size, parts = config.batch_size, [items]
    if config.batches != "shuffled":
        size, parts = size // 2, [[each for each in items if each[1] == label] for label in (1, 0)]

    def passes(part: Sequence[tuple[Path, int]]) -> Iterator[list[Any]]:
        data, is_few = NpyItems(part, config), len(part) < size
        order = RandomSampler(data, replacement=is_few, num_samples=size if is_few else None)
        while True:
            yield from DataLoader(data, size, sampler=order, drop_last=True, collate_fn=list)

    for found in zip(*map(passes, parts), strict=True):
        drawn = [each for part in found for each in part]
        views = [views[n] for n in range(len(drawn[0][0])) for views, _ in drawn]
        truth = torch.tensor([float(label) for _, label in drawn]).repeat(len(drawn[0][0]))
        padded = torch.nn.utils.rnn.pad_sequence(views, batch_first=True).transpose(1, 2)
        lengths = torch.tensor([len(view) for view in views])
        mask = torch.arange(padded.shape[2]) < lengths[:, None]
        yield Batch(padded, mask, truth, torch.zeros(len(views), 0), ("",) * len(views))


def _score_plainly(head: Head, videos: Videos, folder: Path) -> None:
    """As the official tests do: one video at a time, its crops as a batch, read from its files."""
    place = next(head.parameters()).device
    head.eval()
    with torch.no_grad():
        for video_id in videos:
            files = sorted(folder.glob(f"{video_id}__{head.config.crops}*.npy"))
            snippets = np.concatenate([np.load(each) for each in files], axis=1)
            inputs = torch.from_numpy(snippets).to(place).transpose(0, 1)
            head.of_videos([inputs])[0].scores.cpu().numpy()
