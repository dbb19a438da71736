"""What every head is to training and scoring: a network, its loss and its config."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from vadprep.core.errors import SettingError, allowed_are
from vadprep.heads.sampling import sampler

_TYPES: dict[object, tuple[str, tuple[type, ...]]] = {
    int: ("a whole number", (int,)),
    int | None: ("a whole number, or null", (int, type(None))),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    str: ("a word", (str,)),
}
"""What a value may be, in words and as types, by annotation; else it is a Literal."""


POSITIVE = ("learning_rate", "temperature", "sigma", "glance_sigma")
"""Settings that are no counts, of which 0 makes no sense: the others are weights."""

MOST_LAYERS = 100
"""Of a transformer. Each takes memory before a size is looked at, and a file may ask for any."""


@dataclass(frozen=True)
class HeadConfig:
    """What the training loop asks of any head; each head adds its own fields."""

    epochs: int = 50
    """Passes over the items, or runs of ``steps_per_epoch`` steps."""
    steps_per_epoch: int | None = None
    """Steps between two snapshots where batches are balanced or drawn, which have no end of
    their own; None is one pass over the items of the larger class."""
    batch_size: int = 128
    """Items. Balanced and drawn batches are half abnormal, half normal."""
    batches: Literal["shuffled", "balanced", "drawn"] = "shuffled"
    """``shuffled``: every item once an epoch. ``balanced``: both classes are gone through on
    their own, an incomplete last batch dropped. ``drawn``: each step draws from all items anew."""
    sampling: str = "uniform-200"
    """Which snippets of a video a bag holds in training, see ``sampling``."""
    crops: Literal["sample", "axis"] = "sample"
    """``sample``: every crop of a video is an item. ``axis``: a video is one item with all its
    crops, whose scores are averaged before the loss. Scoring averages over crops in both."""
    optimizer: Literal["adam", "adagrad", "adamw"] = "adam"
    """``adagrad`` has the epsilon of Keras, ``adamw`` a weight decay of its own."""
    learning_rate: float = 5e-4
    """In the first epoch, see ``learning_rate_at``."""
    weight_decay: float = 0.0
    """L2 on all parameters, biases too, through the gradient."""
    cosine_epochs: int | None = None
    """Epochs until the cosine reaches zero; None keeps the learning rate constant."""
    drop_epoch: int | None = None
    """Epoch from which on the learning rate is a tenth; None for never."""
    halving_epochs: int | None = None
    """Epochs after which the learning rate is halved, again and again; None for never."""
    standardize: bool = False
    """Bring each feature to mean 0 and variance 1 over the training items first. No paper of
    the bundled heads does; features with a large constant part (random weights, box
    descriptors) are not learnt from without it (measured)."""
    seed: int = 0
    """Of the published run, used when none is asked for."""

    def __post_init__(self) -> None:
        """Raise SettingError for a value of another type, and for a number that makes no sense.

        Whole numbers count something and are positive, others are weights and 0 or more.
        """
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is str and type(value) is int:  # such as the one epoch of --set drops=4
                value = str(value)
                object.__setattr__(self, name, value)
            words, types = _TYPES.get(hint, ("", ()))
            if not words and value not in get_args(hint):
                raise SettingError(f"{name} = {value!r}: {allowed_are(value, get_args(hint))}")
            if words and type(value) not in types:
                raise SettingError(f"{name} = {value!r}: expected {words}")
            if value is None or isinstance(value, str | bool):
                continue
            if not 0 <= value < math.inf:
                raise SettingError(f"{name} = {value!r}: must be 0 or more, and finite")
            is_count = hint in (int, int | None) and name != "seed"
            if value == 0 and (is_count or name in POSITIVE):
                raise SettingError(f"{name} = {value!r}: must be positive")
            if name == "layers" and value > MOST_LAYERS:
                raise SettingError(f"layers = {value}: at most {MOST_LAYERS}")
            if "dropout" in name and value >= 1:
                raise SettingError(f"{name} = {value!r}: a share, 0 or more and below 1")
        sampler(self.sampling)
        if self.batches == "shuffled" and self.steps_per_epoch is not None:
            raise SettingError(
                f"steps_per_epoch = {self.steps_per_epoch}: shuffled batches show every item once "
                f"an epoch: leave it out, or take balanced or drawn ones"
            )
        if self.batches != "shuffled" and self.batch_size % 2:
            raise SettingError(f"batch_size = {self.batch_size}: {self.batches} ones are even")
        if self.cosine_epochs is not None and self.epochs > self.cosine_epochs:
            raise SettingError(
                f"epochs = {self.epochs}: the learning rate is zero after {self.cosine_epochs}: "
                f"set cosine_epochs to as many, or to null"
            )

    def learning_rate_at(self, epoch: int) -> float:
        """The rate of ``epoch``, counted from 0: dropped, halved, and on the cosine, as set.

        The cosine is lr (1 + cos(pi epoch / cosine_epochs)) / 2. All are functions of the epoch
        alone, so resuming needs no scheduler state.
        """
        rate = self.learning_rate
        if self.drop_epoch is not None and epoch >= self.drop_epoch:
            rate /= 10
        if self.halving_epochs is not None:
            rate /= 2 ** (epoch // self.halving_epochs)
        if self.cosine_epochs is None:
            return rate
        return rate * (1 + math.cos(math.pi * epoch / self.cosine_epochs)) / 2


@dataclass(frozen=True, kw_only=True)
class HeadOutput:
    """What a head says about N bags of T snippets, seen in C crops. Padding means nothing.

    A head whose losses look at more extends it.
    """

    scores: Tensor
    """Anomaly probability of each snippet, the mean over crops: float [N, T] in [0, 1]."""
    video: Tensor | None = None
    """Anomaly probability of each bag, float [N], from heads that have one of their own."""
    classes: Tensor | None = None
    """Probability of each of K classes of anomalies, the mean over crops: float [N, T, K]."""
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    """What the losses look at beside the scores, each crop a row: float [N * C, ...]."""


CONSTANT = 1e-6
"""A feature whose standard deviation is at most this share of its mean does not vary. Means of
parts of a constant in float32 lie up to 5e-7 of it away (parts of 1 to 6,000 rows, measured);
real changes of that size are not resolved by float32."""


ONLINE_WINDOW = 200
"""Snippets where bags of the training have no longest one."""


class Head(nn.Module):
    """Base of the heads: ``respond`` and ``loss`` are theirs."""

    shift: Tensor
    gain: Tensor

    def __init__(self, dim: int, config: HeadConfig, classes: Sequence[str] = ()) -> None:
        """``dim`` is the number of features of a snippet; ``classes`` name what it tells apart."""
        super().__init__()
        self.dim = dim
        self.config = config
        self.classes = tuple(classes)
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("gain", torch.ones(dim))

    @property
    def takes_classes(self) -> bool:
        """Whether ``loss`` asks for the classes of the bags."""
        return bool(self.classes)

    @property
    def takes_glances(self) -> bool:
        """Whether ``loss`` asks, as its last argument, for the clicked snippets: bool [N, T]."""
        return False

    @property
    def causal_context(self) -> int | None:
        """How many snippets up to a snippet its score depends on, itself included.

        1 where no snippet sees another. None where others count, too: later ones, or all before it.
        Online scores (``heads.online``) then only approximate those of a whole video.
        """
        return None

    @property
    def most_seen(self) -> int | None:
        """How many snippets up to the newest one its online score can depend on; None for all."""
        return self.causal_context

    @property
    def online_window(self) -> int:
        """Snippets that online scoring shows by default: those that count, else the longest bag of
        the training."""
        return self.most_seen or sampler(self.config.sampling).most or ONLINE_WINDOW

    def fit_standardization(self, mean: Tensor, std: Tensor) -> None:
        """From now on see (snippet - mean) / std; features that never vary stay at 0.

        ``mean`` and ``std`` are float [dim], of the training items, and go into the checkpoint.
        """
        self.shift.copy_(mean)
        varies = std > CONSTANT * mean.abs()
        self.gain.copy_(torch.where(varies, 1 / std.clamp(min=1e-12), torch.zeros_like(std)))

    def forward(self, snippets: Tensor, mask: Tensor) -> HeadOutput:
        """Response to ``snippets`` [N, C, T, dim] where ``mask`` [N, T] is True."""
        seen = snippets
        if self.config.standardize:  # padding is zeros, and stays so
            seen = (snippets - self.shift) * self.gain
            seen = seen.masked_fill(~mask[:, None, :, None], 0.0)
        crops = snippets.shape[:2]
        rows = self.respond(seen.flatten(0, 1), mask.repeat_interleave(crops[1], dim=0))
        scores = rows.scores.unflatten(0, crops).mean(dim=1)
        video, classes = (
            None if each is None else each.unflatten(0, crops).mean(dim=1)
            for each in (rows.video, rows.classes)
        )
        return replace(rows, scores=scores, video=video, classes=classes)

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Response to each crop on its own: rows [M, T, dim] where ``valid`` [M, T] is True."""
        raise NotImplementedError

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name, scalars whose sum is minimised. ``labels`` is float [N].

        Where ``takes_classes``, ``classes`` is a fourth argument, float [N, K]: 1 for each class of
        an abnormal bag; a row of zeros where it is normal or its class is unknown.
        """
        raise NotImplementedError

    def of_video(self, snippets: Tensor) -> HeadOutput:
        """Response to a whole video in float64: a bag of its own, without features.

        Means over the crops of ``snippets`` [C, T, dim], T > 0. Each crop goes through alone, so
        that no score depends on how many others there are.
        """
        mask = torch.ones(1, snippets.shape[1], dtype=torch.bool, device=snippets.device)
        # A copy each: products of rows that lie elsewhere in memory differ in the last bits.
        outputs = [
            self(crop.clone(memory_format=torch.contiguous_format)[None, None], mask)
            for crop in snippets
        ]

        def mean(crops: Sequence[Tensor | None]) -> Tensor | None:
            known = [each for each in crops if each is not None]
            return torch.cat(known).double().mean(dim=0, keepdim=True) if known else None

        scores = torch.cat([output.scores for output in outputs]).double()
        return HeadOutput(
            scores=scores.mean(dim=0, keepdim=True),
            video=mean([output.video for output in outputs]),
            classes=mean([output.classes for output in outputs]),
        )

    def traced(self, snippets: Tensor) -> HeadOutput:
        """As ``of_video`` within rounding, by tensors alone: one graph for any C and T.

        This is what becomes ONNX (``layers.is_exporting``). Memory grows with T squared where
        snippets attend to each other. Raises SettingError for settings that have no such form.
        """
        return self(snippets[None], torch.ones_like(snippets[:1, :, 0], dtype=torch.bool))

    def of_videos(self, videos: Sequence[Tensor]) -> list[HeadOutput]:
        """Responses to several videos at once, each as of ``of_video`` within rounding.

        All crops of all ``videos`` [C, T, dim] are rows of one padded batch.
        """
        crops = [crop for video in videos for crop in video]
        rows = nn.utils.rnn.pad_sequence(crops, batch_first=True)
        lengths = torch.tensor([len(crop) for crop in crops], device=rows.device)
        mask = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
        output, counts = self(rows[:, None], mask), [len(video) for video in videos]

        def means(of_crops: Tensor | None) -> Sequence[Tensor | None]:
            if of_crops is None:
                return [None] * len(videos)
            parts = of_crops.double().split(counts)
            return [part.mean(dim=0, keepdim=True) for part in parts]

        return [
            HeadOutput(
                scores=scores[:, : video.shape[1]],
                video=overall,
                classes=None if classes is None else classes[:, : video.shape[1]],
            )
            for video, scores, overall, classes in zip(
                videos,
                [part.mean(dim=0, keepdim=True) for part in output.scores.double().split(counts)],
                means(output.video),
                means(output.classes),
                strict=True,
            )
        ]

    def score(self, snippets: Tensor) -> tuple[Tensor, float | None]:
        """Scores of a whole video, float64 [T], and of the video where ``HeadOutput`` has one."""
        output = self.of_video(snippets)
        return output.scores[0], None if output.video is None else float(output.video)

    def new_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the config; the loop sets the learning rate at each epoch."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        if self.config.optimizer == "adagrad":  # epsilon as in Keras, whose code this reproduces
            return torch.optim.Adagrad(self.parameters(), rate, weight_decay=decay, eps=1e-8)
        if self.config.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), rate, weight_decay=decay)
        return torch.optim.Adam(self.parameters(), rate, weight_decay=decay)


def initialise(module: nn.Module, weight: Callable[[Tensor], object]) -> None:
    """Fill the weights of all linear and convolution layers in place, and set biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            weight(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
