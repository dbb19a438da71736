"""Bags: the snippets of a video with one video-level label, sampled, masked and in batches.

Features are read once and held in memory as they are stored (float16 halves the 10 to 20 GB of
a large set) and become float32 in the batch. In training every crop of a video is an item of its
own (crop = sample); in scoring the crops of a video are averaged, see ``score``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.features import VideoFeatures
from vadprep.records import FeaturesError

STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "rgb": ("rgb",),
    "flow": ("flow",),
    "concat": ("rgb", "flow"),
}
"""Streams that a head sees; ``concat`` joins them along the feature axis, rgb first."""


def streams_of(choice: str, available: Sequence[str]) -> tuple[str, ...]:
    """The streams of a choice; raises ValueError or, when one is not there, FeaturesError."""
    if choice not in STREAM_CHOICES:
        raise ValueError(f"streams = {choice!r}: allowed are {', '.join(STREAM_CHOICES)}")
    missing = set(STREAM_CHOICES[choice]) - set(available)
    if missing:
        raise FeaturesError(
            f"streams {choice!r} need {', '.join(sorted(missing))}, but the features hold only "
            f"{', '.join(available)}: extract that stream or choose another"
        )
    return STREAM_CHOICES[choice]


def read_snippets(video: VideoFeatures, streams: Sequence[str]) -> NDArray[np.floating]:
    """Snippets of one video as stored: float [num_clips, num_crops, sum of the streams' dims].

    Raises FeaturesError that names the video when streams disagree or values are not finite.
    """
    parts = [video.stream(stream) for stream in streams]
    if len({part.shape[:2] for part in parts}) > 1:
        shapes = ", ".join(f"{s} {p.shape}" for s, p in zip(streams, parts, strict=True))
        raise FeaturesError(f"{video.video_id}: streams differ in clips or crops: {shapes}")
    snippets = np.concatenate(parts, axis=2)
    if not np.isfinite(snippets).all():
        raise FeaturesError(f"{video.video_id}: features hold NaN or infinity, extract it again")
    return snippets


def uniform_rows(num_snippets: int, most: int) -> NDArray[np.int64]:
    """Which rows stand for a video: all, or ``most`` evenly spread ones when there are more.

    The rule ``uniform_extract`` of XDVioDet: linspace(0, T - 1, most) truncated to integers,
    int64 [min(T, most)]. Shorter videos are padded later, per batch, and keep their length.
    """
    if num_snippets <= most:
        return np.arange(num_snippets)
    return np.linspace(0, num_snippets - 1, most).astype(np.int64)


@dataclass(frozen=True)
class Batch:
    """Bags padded with zeros to the longest of them. N items, T snippets, D features."""

    snippets: torch.Tensor
    """float32 [N, T, D]"""
    mask: torch.Tensor
    """bool [N, T], True for real snippets; every row starts with one."""
    labels: torch.Tensor
    """float32 [N], 1 abnormal, 0 normal."""
    video_ids: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(
            self.snippets.to(device),
            self.mask.to(device),
            self.labels.to(device),
            self.video_ids,
        )


class TrainingBags:
    """Items of a training set: one for each crop of each video, in memory.

    ``labels`` maps the ids to use to 0 or 1. The order of items does not depend on the order
    of either mapping. Raises FeaturesError that names the video that cannot be trained on.
    """

    def __init__(
        self,
        features: Mapping[str, VideoFeatures],
        labels: Mapping[str, int],
        streams: Sequence[str],
        max_snippets: int,
    ) -> None:
        self.labels = dict(labels)
        self._snippets: list[torch.Tensor] = []
        self._ids: list[str] = []
        for video_id in sorted(labels):
            for crop in _sampled_crops(features[video_id], streams, max_snippets):
                self._snippets.append(torch.from_numpy(crop))
                self._ids.append(video_id)
        self.dim = _only_dim(self._ids, self._snippets)

    def __len__(self) -> int:
        """Items: videos times crops."""
        return len(self._ids)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each feature over all snippets: float64 [dim] each."""
        count = sum(len(snippets) for snippets in self._snippets)
        mean = torch.stack([each.double().sum(dim=0) for each in self._snippets]).sum(dim=0) / count
        squares = [(each.double() - mean).square().sum(dim=0) for each in self._snippets]
        return mean, (torch.stack(squares).sum(dim=0) / count).sqrt()

    def relabelled(self, labels: Mapping[str, int]) -> TrainingBags:
        """The same snippets under other labels, sharing memory."""
        if labels.keys() != self.labels.keys():
            raise ValueError("the new labels are not for the same videos")
        other = object.__new__(TrainingBags)
        other.__dict__.update(self.__dict__, labels=dict(labels))
        return other

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """All items once, shuffled by (seed, epoch) alone, so that an epoch can be repeated."""
        order = torch.randperm(len(self), generator=_generator(seed, epoch)).tolist()
        for start in range(0, len(order), batch_size):
            yield self._collate(order[start : start + batch_size])

    def _collate(self, items: Sequence[int]) -> Batch:
        chosen = [self._snippets[item] for item in items]
        video_ids = tuple(self._ids[item] for item in items)
        lengths = torch.tensor([len(snippets) for snippets in chosen])
        padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        return Batch(
            padded.float(),
            torch.arange(padded.shape[1]) < lengths[:, None],
            torch.tensor([float(self.labels[video_id]) for video_id in video_ids]),
            video_ids,
        )


def shuffled_labels(
    labels: Mapping[str, int], kinds: Mapping[str, str], seed: int
) -> dict[str, int]:
    """Labels that know nothing of the true ones: the control, about 0.5 over many seeds.

    ``kinds`` is the category of each id. Of each kind the same share is called abnormal, so
    that the dealt labels are correlated neither with the true ones nor with a kind. A free
    permutation is, by accident, on small sets: with 42 videos of three kinds of event single
    runs came out between 0.22 and 0.78 (measured).
    """
    rng = np.random.default_rng(seed)
    share = sum(labels.values()) / len(labels)
    strata: dict[tuple[int, str], list[str]] = {}
    for video_id in sorted(labels):
        strata.setdefault((labels[video_id], kinds[video_id]), []).append(video_id)
    dealt: dict[str, int] = {}
    for _, ids in sorted(strata.items()):
        called = set(rng.permutation(len(ids))[: round(share * len(ids))].tolist())
        dealt |= {video_id: int(index in called) for index, video_id in enumerate(ids)}
    return dealt


def _generator(seed: int, epoch: int) -> torch.Generator:
    # torch's CPU generator keeps only the low 32 bits of a seed, so the two are hashed into 32.
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def _sampled_crops(
    video: VideoFeatures, streams: Sequence[str], max_snippets: int
) -> list[NDArray[np.floating]]:
    """One array [T, dim] for each crop of the video."""
    snippets = read_snippets(video, streams)
    if not len(snippets):
        raise FeaturesError(f"{video.video_id}: has no snippet, it cannot be trained on")
    sampled = snippets[uniform_rows(len(snippets), max_snippets)]
    return [np.ascontiguousarray(sampled[:, crop]) for crop in range(sampled.shape[1])]


def _only_dim(ids: Sequence[str], snippets: Sequence[torch.Tensor]) -> int:
    first_of = {crop.shape[1]: video_id for video_id, crop in zip(ids, snippets, strict=True)}
    if len(first_of) != 1:
        found = ", ".join(f"{dim} ({video_id})" for dim, video_id in first_of.items())
        raise FeaturesError(f"training features differ in dimension: {found or 'no video'}")
    return next(iter(first_of))
