"""Sultani: the MIL ranking baseline (Sultani, Chen and Shah, CVPR 2018).

    snippets -> 32 means, unit length -> 512 ReLU -> 32 -> 1 sigmoid -> scores [N, 32]

"Official" is the authors' Keras and MATLAB code (AnomalyDetectionCVPR2018), "DeepMIL" its much
used port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadConfig, HeadOutput, initialise
from vadprep.heads.layers import HIGHEST_LOGIT, Probability
from vadprep.heads.losses import squared_changes, zero_of, zipped
from vadprep.heads.sampling import sampler, segment_means, segment_of


@dataclass(frozen=True)
class SultaniConfig(HeadConfig):
    """Settings of the baseline; the defaults are the official code's, which gave UCF 75.41.

    ``DEEPMIL`` has those of the port. Left out: the choice among test evaluations (see
    ``results.MOST``), and the official code's last score for the frames up to round(30 *
    seconds): what frames after the last span score is ``coverage`` of ``training.train``.
    """

    epochs: int = 100
    """Of 200 steps."""
    steps_per_epoch: int | None = 200
    """20,000 steps."""
    batch_size: int = 60
    """30 + 30."""
    batches: Literal["shuffled", "balanced", "drawn"] = "drawn"
    """Each step draws from all videos anew (official)."""
    sampling: str = "segments-32-matlab"
    """``segments-32`` is DeepMIL's and RTFM's."""
    optimizer: Literal["adam", "adagrad"] = "adagrad"
    """``adagrad`` is the official code's, ``adam`` DeepMIL's."""
    learning_rate: float = 0.01
    """Of the official code, for ``adagrad``."""
    width: int = 512
    """Of the first hidden layer."""
    narrow: int = 32
    """Of the second."""
    dropout: float = 0.6
    """After both."""
    middle: Literal["linear", "relu"] = "linear"
    """What follows the second layer: nothing (official), or ReLU (DeepMIL)."""
    dropout_scores: bool = False
    """DeepMIL zeroes six tenths of the scores themselves in training."""
    normalize: bool = True
    """Bring each row to unit length (official); DeepMIL takes rows as they are."""
    start: Literal["normal", "uniform"] = "normal"
    """Weights before training: Xavier normal (official: Keras' glorot_normal), or Xavier uniform
    (DeepMIL)."""
    pairs: Literal["all", "zipped"] = "all"
    """``all``: each normal video against every abnormal one, summed (official). ``zipped``: i-th
    with i-th, every term a mean over the pairs (DeepMIL)."""
    sparsity: float = 8e-5
    """Weight of the sum of the abnormal scores."""
    smoothness: float = 8e-5
    """Weight of their squared changes."""
    weight_penalty: float = 1e-3
    """Weight of the squared weights of each layer, without the biases (Keras' L2 regulariser);
    DeepMIL has ``weight_decay`` instead, which takes in the biases."""
    scoring: Literal["segments", "snippets"] = "segments"
    """``segments``: score the same parts as in training and spread their scores over their
    snippets (official). ``snippets``: score each snippet (DeepMIL)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scoring == "segments" and sampler(self.sampling).edges is None:
            raise SettingError(
                f"sampling = {self.sampling!r}: scoring by segments needs segments-N"
            )


DEEPMIL = SultaniConfig(
    epochs=50,
    steps_per_epoch=25,
    batch_size=64,
    batches="balanced",
    sampling="segments-32",
    optimizer="adam",
    learning_rate=1e-4,
    weight_decay=5e-5,
    halving_epochs=10,
    middle="relu",
    dropout_scores=True,
    normalize=False,
    start="uniform",
    pairs="zipped",
    weight_penalty=0.0,
    scoring="snippets",
    seed=2333,
)
"""Settings of DeepMIL, option.py and main.py of Roc-Ng/DeepMIL, for UCF-Crime."""


class Sultani(Head):
    """Three layers on each segment, and a ranking loss between the highest scores."""

    config: SultaniConfig

    def __init__(self, dim: int, config: SultaniConfig) -> None:
        super().__init__(dim, config)
        middle = nn.ReLU() if config.middle == "relu" else nn.Identity()
        first = [nn.Linear(dim, config.width), nn.ReLU(), nn.Dropout(config.dropout)]
        second = [nn.Linear(config.width, config.narrow), middle, nn.Dropout(config.dropout)]
        last = nn.Dropout(config.dropout) if config.dropout_scores else nn.Identity()
        self.layers = nn.Sequential(
            *first, *second, nn.Linear(config.narrow, 1), Probability(lowest=-HIGHEST_LOGIT), last
        )
        xavier = {"normal": nn.init.xavier_normal_, "uniform": nn.init.xavier_uniform_}
        initialise(self.layers, xavier[config.start])

    @property
    def causal_context(self) -> int | None:
        """No snippet sees another; scores of ``segments`` are of means that hold later ones."""
        return 1 if self.config.scoring == "snippets" else None

    @property
    def online_window(self) -> int:
        """The newest snippet alone is a part: what comes before it changes no score."""
        return 1

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Scores alone, of each snippet on its own."""
        if self.config.normalize:
            rows = functional.normalize(rows, dim=2)
        return HeadOutput(scores=self.layers(rows).squeeze(2))

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weighted terms ``ranking``, ``sparsity``, ``smoothness`` and ``weights``."""
        config, abnormal = self.config, labels > 0
        shared = 1 if config.pairs == "all" else max(int(abnormal.sum()), 1)
        active = output.scores[abnormal].masked_fill(~mask[abnormal], 0.0)
        changes = squared_changes(output.scores[abnormal], mask[abnormal])
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        squares = [layer.weight.square().sum() for layer in linear]
        return {
            "ranking": ranking_loss(output.scores, labels, mask, config.pairs),
            "sparsity": config.sparsity * active.sum() / shared,
            "smoothness": config.smoothness * changes.sum() / shared,
            "weights": config.weight_penalty * torch.stack(squares).sum(),
        }

    def of_video(self, snippets: Tensor) -> HeadOutput:
        """As in ``Head``, from the scores of parts where the config says so."""
        parts, rows = self._parts(snippets)
        output = super().of_video(parts)
        return output if rows is None else replace(output, scores=output.scores[:, rows])

    def of_videos(self, videos: Sequence[Tensor]) -> list[HeadOutput]:
        """As in ``Head``, from the scores of parts where the config says so."""
        parts = [self._parts(video) for video in videos]
        outputs = super().of_videos([each for each, _ in parts])
        return [
            output if rows is None else replace(output, scores=output.scores[:, rows])
            for output, (_, rows) in zip(outputs, parts, strict=True)
        ]

    def traced(self, snippets: Tensor) -> HeadOutput:
        """As in ``Head``, from the scores of parts where the config says so."""
        if self.config.scoring == "snippets" or sampler(self.config.sampling).edges is None:
            return super().traced(snippets)
        ones = torch.ones_like(snippets[0, :, 0], dtype=torch.float64)
        edges = self._traced_edges(ones.sum())
        begins, ends = edges[:-1, None], torch.maximum(edges[1:], edges[:-1] + 1)[:, None]
        steps = ones.cumsum(dim=0) - 1
        inside = ((steps >= begins) & (steps < ends)).to(snippets)
        means = (inside / inside.sum(dim=1, keepdim=True)) @ snippets
        rows = (begins <= steps).sum(dim=0) - 1
        output = super().traced(means)
        return replace(output, scores=output.scores[:, rows])

    def _traced_edges(self, length: Tensor) -> Tensor:
        """Edges of ``sampler`` of so many snippets, float64 [N + 1], with the same rounding."""
        rule, number, *form = self.config.sampling.split("-")
        if rule != "segments":
            raise SettingError(
                f"sampling = {self.config.sampling!r}: its number of parts depends on the length: "
                "export a run of segments-N, or of scoring = snippets"
            )
        parts = torch.arange(int(number) + 1, dtype=torch.float64, device=length.device)
        if form:  # as matlab_edges
            doubled = 2 * parts * (length - 1) + int(number)
            return (doubled / (2 * int(number))).floor()
        return torch.cat([(parts[:-1] * (length / int(number))).floor(), length[None]])

    def _parts(self, snippets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Parts of a video [C, N, dim], and which of them each snippet is in; else all and None."""
        edges_of = sampler(self.config.sampling).edges
        if self.config.scoring == "snippets" or edges_of is None:
            return snippets, None
        edges = edges_of(snippets.shape[1])
        rows = torch.from_numpy(segment_of(snippets.shape[1], edges)).to(snippets.device)
        return segment_means(snippets.transpose(0, 1), edges).transpose(0, 1), rows


def ranking_loss(
    scores: Tensor, labels: Tensor, mask: Tensor, pairs: Literal["all", "zipped"]
) -> Tensor:
    """max(0, 1 - max s_a + max s_n) (eq. 6): the highest score of an abnormal video is higher.

    ``all``: summed over the abnormal videos and averaged over the normal ones. ``zipped``: mean
    over the pairs of i-th with i-th. Zero when a class is missing. ``scores`` float [N, T] in
    [0, 1], ``labels`` float [N], ``mask`` bool [N, T].
    """
    highest = scores.masked_fill(~mask, 0.0).amax(dim=1)
    abnormal, normal = highest[labels > 0], highest[labels <= 0]
    if not (len(abnormal) and len(normal)):
        return zero_of(scores)
    if pairs == "all":
        return (1 - abnormal[:, None] + normal).clamp(min=0).sum(dim=0).mean()
    abnormal, normal = zipped(highest, labels)
    return (1 - abnormal + normal).clamp(min=0).mean()
