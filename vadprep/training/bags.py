"""Bags: the snippets of a video with one video-level label, sampled, masked and in batches.

Features are held in memory as they are stored (float16 halves the 10 to 20 GB of a large set),
as far as memory goes, and become float32 on the device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vadprep.core.errors import FeaturesError, TrainingError
from vadprep.core.resources import free_memory
from vadprep.features import VideoFeatures, read_snippets
from vadprep.heads import HeadConfig
from vadprep.heads.sampling import sampler

NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Batch:
    """Bags padded with zeros to the longest of them: N bags, C crops, T snippets, D features.

    Where a sampler gives several views of a video, the first views of all videos come first.
    """

    snippets: torch.Tensor
    """float [N, C, T, D]: as stored, float32 after ``to``."""
    mask: torch.Tensor
    """bool [N, T], True for real snippets; every row starts with one."""
    labels: torch.Tensor
    """float32 [N], 1 abnormal, 0 normal."""
    classes: torch.Tensor
    """float32 [N, K], 1 for each class of an abnormal bag; zeros where it is not known."""
    video_ids: tuple[str, ...]
    glances: torch.Tensor | None = None
    """bool [N, T], True for snippets that were clicked; None where nobody asks for it."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device, ready for a head."""
        tensors = (self.snippets, self.mask, self.labels, self.classes)
        snippets, mask, labels, classes = (x.to(device) for x in tensors)
        glances = None if self.glances is None else self.glances.to(device)
        return Batch(snippets.float(), mask, labels, classes, self.video_ids, glances)


class TrainingBags:
    """Items of a training set: one for each crop of each video, or one for each video.

    ``labels`` maps the ids to use to 0 or 1. The order of items does not depend on the order
    of either mapping. Raises FeaturesError that names the video that cannot be trained on.
    """

    def __init__(
        self,
        features: Mapping[str, VideoFeatures],
        labels: Mapping[str, int],
        streams: Sequence[str],
        config: HeadConfig,
        most_bytes: int | None = None,
        categories: Mapping[str, str] | None = None,
        glances: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """``most_bytes`` of features are held in memory: half of what is free by default.

        ``categories`` of abnormal videos by id, several separated by ``|``, become ``classes``.
        ``glances``, clicked frames of them by id, become those of a batch.
        """
        self.labels, self.config = dict(labels), config
        self._classes_of = {
            video_id: [name for name in (categories or {}).get(video_id, "").split("|") if name]
            for video_id, label in labels.items()
            if label == 1
        }
        self.classes = tuple(sorted({name for own in self._classes_of.values() for name in own}))
        self._features, self._streams = features, streams
        self._sampler = sampler(config.sampling)
        self._glances: dict[str, NDArray[np.int64]] | None = None
        if glances is not None:
            self._glances = {each: self._places(each, glances[each]) for each in glances}
        shapes = self._hold(free_memory() // 2 if most_bytes is None else most_bytes)
        self.dim = _only({each: shape[2] for each, shape in shapes.items()}, "dimension")
        self._items: list[tuple[str, slice]] = []
        if config.crops == "axis":
            _only({each: shape[1] for each, shape in shapes.items()}, "number of crops")
            self._items = [(video_id, slice(None)) for video_id in shapes]
        else:
            for video_id, shape in shapes.items():
                self._items += [(video_id, slice(crop, crop + 1)) for crop in range(shape[1])]

    def _places(self, video_id: str, frames: Sequence[int]) -> NDArray[np.int64]:
        """Where clicked frames are in the bag of a video; the last snippet if they are after it."""
        spans = self._features[video_id].spans
        rows = np.searchsorted(spans[:, 0], frames, side="right") - 1
        return self._sampler.places(len(spans), rows.clip(min=0))

    def _clicked(self, video_ids: Sequence[str], length: int) -> torch.Tensor | None:
        """``Batch.glances`` of bags of ``length`` snippets."""
        if self._glances is None:
            return None
        clicked = torch.zeros(len(video_ids), length, dtype=torch.bool)
        for row, video_id in enumerate(video_ids):
            clicked[row, torch.from_numpy(self._glances.get(video_id, NO_ROWS))] = True
        return clicked

    def __len__(self) -> int:
        """Items: videos times crops, or videos."""
        return len(self._items)

    def _hold(self, room: int) -> dict[str, tuple[int, ...]]:
        """Read all videos, hold those that fit into ``room`` bytes; shapes [T, C, D] by id.

        Held are all crops of all snippets as rows of one array, after a row of zeros, so that a
        batch is one gather. Of types that differ it is float32.
        """
        self._first: dict[str, int] = {}
        """Row of the first crop of the first snippet of each video that is held."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        parts, num_rows, most = list[torch.Tensor](), 1, room
        for video_id in sorted(self.labels):
            snippets = self._read(video_id)
            self._shapes[video_id] = tuple(snippets.shape)
            if snippets.nbytes <= room:
                room -= snippets.nbytes
                self._first[video_id] = num_rows
                parts.append(snippets.flatten(0, 1))
                num_rows += len(parts[-1])
        widths = {part.shape[1] for part in parts}
        if len(widths) > 1:  # an error that the caller names
            self._first, parts = {}, []
        kind = torch.float32 if len({part.dtype for part in parts}) > 1 else None
        dim = widths.pop() if parts else 0
        while kind and (num_rows - 1) * dim * kind.itemsize > most:  # float16 takes twice the room
            num_rows = self._first.popitem()[1]
            parts.pop()
        self._rows = torch.empty(num_rows, dim, dtype=kind or (parts[0].dtype if parts else None))
        self._rows[0] = 0
        for first in reversed(self._first.values()):  # each part is let go of once it is copied
            part = parts.pop()
            self._rows[first : first + len(part)] = part
        return self._shapes

    def _read(self, video_id: str) -> torch.Tensor:
        """float [T, C, D], sampled where that is not random."""
        snippets = torch.from_numpy(read_snippets(self._features[video_id], self._streams))
        if not len(snippets):
            raise FeaturesError(f"{video_id}: has no snippet, it cannot be trained on")
        if not self._sampler.is_random:
            snippets = self._sampler.take(snippets, 0, np.random.default_rng(0))
        return snippets

    def _snippets(self, video_id: str) -> torch.Tensor:
        """As ``_read``, from memory where the video is held."""
        if video_id not in self._first:
            return self._read(video_id)
        shape, first = self._shapes[video_id], self._first[video_id]
        return self._rows[first : first + shape[0] * shape[1]].view(shape)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each feature over all snippets: float64 [dim] each.

        Each crop is joined to those before it (Chan, Golub and LeVeque 1979), so that no more
        than a video is held where features are streamed, and each is read once.
        """
        count, mean, squares = 0, *torch.zeros(2, self.dim, dtype=torch.float64)
        for video_id in sorted(self.labels):
            for rows in self._snippets(video_id).unbind(dim=1):
                variance, own = torch.var_mean(rows.double(), dim=0, correction=0)
                step, share = own - mean, len(rows) / (count + len(rows))
                squares += len(rows) * variance + count * share * step.square()
                mean += share * step
                count += len(rows)
        return mean, (squares / count).sqrt()

    def relabelled(self, labels: Mapping[str, int]) -> TrainingBags:
        """The same snippets under other labels, sharing memory, without glances.

        An abnormal video is of every class: it is trained on, and its own class is told by none.
        """
        other = copy(self)
        other._glances = None if self._glances is None else {}
        other.labels = dict(labels)
        other._classes_of = {each: list(self.classes) for each in labels if labels[each] == 1}
        return other

    def of(self, video_ids: Collection[str]) -> TrainingBags:
        """The bags of these videos alone, sharing memory."""
        other = copy(self)
        other.labels = {each: label for each, label in self.labels.items() if each in video_ids}
        other._items = [item for item in self._items if item[0] in video_ids]
        return other

    def with_config(self, config: HeadConfig) -> TrainingBags:
        """The same bags under settings with the same sampling and crops, sharing memory."""
        other = copy(self)
        other.config = config
        return other

    def of_label(self, label: int) -> list[int]:
        """Items of the videos of a label."""
        return [n for n, (video_id, _) in enumerate(self._items) if self.labels[video_id] == label]

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        config = self.config
        if config.batches == "shuffled":
            return -(-len(self) // config.batch_size)
        larger = max(len(self.of_label(label)) for label in (0, 1))
        return config.steps_per_epoch or -(-larger // (config.batch_size // 2))

    def repeated(self) -> str:
        """A warning for a class that is smaller than its half of a batch, else an empty string."""
        if self.config.batches == "shuffled":
            return ""
        half = self.config.batch_size // 2
        counts = {name: len(self.of_label(n)) for n, name in enumerate(("normal", "abnormal"))}
        few = [f"{count} {name}" for name, count in counts.items() if count < half]
        return f"{' and '.join(few)} items for {half} a batch: drawn with replacement" * bool(few)

    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, by (seed, epoch) alone, so that an epoch can be repeated."""
        size, count, rule = self.config.batch_size, self.num_batches, self.config.batches
        order = _permutation(len(self), seed, epoch) if rule == "shuffled" else []
        by_label = {label: self.of_label(label) for label in (1, 0)}
        if rule != "shuffled" and size * self.dim * self._rows.itemsize > free_memory():
            raise no_room(size)  # before the items of a batch are listed
        for index, step in enumerate(range(epoch * count, (epoch + 1) * count)):
            items = order[index * size : (index + 1) * size]
            if rule != "shuffled":
                for label, own in by_label.items():
                    items += half_batch(own, size // 2, rule == "balanced", (seed, label, step))
            chosen = [self._items[item] for item in items]
            video_ids = tuple(video_id for video_id, _ in chosen) * self._sampler.num_views
            with room_for(size):
                snippets, mask = self._padded(chosen * self._sampler.num_views, step, seed)
            labels = torch.tensor([float(self.labels[video_id]) for video_id in video_ids])
            named = [self._classes_of.get(video_id, []) for video_id in video_ids]
            rows = [[float(name in each) for name in self.classes] for each in named]
            classes = torch.tensor(rows).reshape(len(rows), len(self.classes))
            clicked = self._clicked(video_ids, mask.shape[1])
            yield Batch(snippets, mask, labels, classes, video_ids, clicked)

    def _padded(
        self, items: Sequence[tuple[str, slice]], step: int, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bags of videos and crops, sampled and padded, [N, C, T, D], and their mask [N, T]."""
        random = np.random.default_rng((seed, step))
        if any(video_id not in self._first for video_id, _ in items):
            bags = [self._snippets(video_id)[:, crops] for video_id, crops in items]
            if self._sampler.is_random:
                bags = [
                    self._sampler.take(bag, self.labels[video_id], random)
                    for bag, (video_id, _) in zip(bags, items, strict=True)
                ]
            padded = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True).transpose(1, 2)
            lengths = torch.tensor([len(bag) for bag in bags])
            return padded, torch.arange(padded.shape[2]) < lengths[:, None]
        taken = list[NDArray[np.int64]]()  # row numbers of each bag [C, t]
        for video_id, crops in items:
            length, num_crops = self._shapes[video_id][:2]
            rows = np.arange(length)
            if self._sampler.is_random and self._sampler.rows is not None:
                rows = self._sampler.rows(length, self.labels[video_id], random)
            crop = np.arange(num_crops)[crops, None]
            taken.append(self._first[video_id] + rows * num_crops + crop)
        lengths = torch.tensor([numbers.shape[1] for numbers in taken])
        index = np.zeros((len(taken), len(taken[0]), int(lengths.max())), np.int64)
        for bag, numbers in zip(index, taken, strict=True):
            bag[:, : numbers.shape[1]] = numbers
        snippets = self._rows.index_select(0, torch.from_numpy(index.reshape(-1)))
        return snippets.view(*index.shape, -1), torch.arange(index.shape[2]) < lengths[:, None]


@contextmanager
def room_for(batch_size: int) -> Iterator[None]:
    """Raise TrainingError where memory is too small for what the block does with a batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch has no other of its own on a CPU
        known = (MemoryError, torch.OutOfMemoryError)
        if not isinstance(error, known) and "can't allocate memory" not in str(error):
            raise
        raise no_room(batch_size) from error


def no_room(batch_size: int) -> TrainingError:
    """The error for a batch that is too large for memory."""
    return TrainingError(f"batch_size = {batch_size}: a batch does not fit into memory: lower it")


def half_batch(items: Sequence[int], half: int, passes: bool, entropy: Sequence[int]) -> list[int]:
    """``half`` of the ``items`` of a class. ``entropy`` is (seed, class, step).

    With ``passes`` the steps go through a shuffled order of all items, leave its incomplete end
    and shuffle again; else each step draws without replacement. A class of fewer than ``half``
    items is repeated in each batch: every item floor or ceil (half / items) times.
    """
    *which, step = entropy
    repeats = -(-half // len(items))
    if repeats > 1:
        order = [each for r in range(repeats) for each in _permutation(len(items), *which, step, r)]
        return [items[each] for each in order[:half]]
    steps_of_a_pass = len(items) // half if passes else 1
    order = _permutation(len(items), *which, step // steps_of_a_pass)
    start = step % steps_of_a_pass * half
    return [items[each] for each in order[start : start + half]]


def _permutation(num_items: int, *entropy: int) -> list[int]:
    # torch's CPU generator keeps only the low 32 bits of a seed, so all is hashed into 32.
    mixed = np.random.SeedSequence(entropy).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    return torch.randperm(num_items, generator=generator).tolist()


def _only(of_videos: Mapping[str, int], what: str) -> int:
    """The value that all videos have; raises FeaturesError that names a video for each."""
    first_of: dict[int, str] = {}
    for video_id, value in of_videos.items():
        first_of.setdefault(value, video_id)
    if len(first_of) != 1:
        found = ", ".join(f"{value} ({video_id})" for value, video_id in first_of.items())
        raise FeaturesError(f"training features differ in {what}: {found or 'no video'}")
    return next(iter(first_of))
