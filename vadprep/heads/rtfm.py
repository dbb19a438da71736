"""RTFM: Robust Temporal Feature Magnitude learning (Tian et al., ICCV 2021).

    snippets [N, C, T, D] -> MTN -> dropout -> X [N, C, T, D] -> three layers -> scores [N, T]
                                               |
                                        |X| mean over crops -> the k snippets that are trained on

"Official" is the authors' code (tianyu0207/RTFM), "paper" the equations; only the first is known
to give the published numbers. Where the official code takes the first half of a batch for the
normal videos, this goes by the labels.

Padding is masked everywhere (convolutions, non-local block, batch statistics, selection). The
official code has none: it trains on 32 segments and tests on one whole video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadConfig, HeadOutput, initialise
from vadprep.heads.layers import Probability, is_exporting
from vadprep.heads.losses import cross_entropy, squared_changes, zero_of, zipped
from vadprep.heads.sampling import sampler


@dataclass(frozen=True)
class RTFMConfig(HeadConfig):
    """Settings of RTFM; the defaults are the official code's for ShanghaiTech and UCF-Crime.

    Left out: the best of the test evaluations after every five steps (see ``results.MOST``),
    and the paper's "ReLU and dropout" after the last of the three layers: with a ReLU there is no
    score in [0, 1], so the sigmoid of the official code stands there. Videos of fewer than k
    snippets, at which the official code fails, have all of theirs selected. The official ground
    truth counts 16 frames for every snippet, also where the last clip is filled up with repeats of
    the last frame (16 ceil(n / 16) labels): here frames past the end of a video are not scored.
    """

    epochs: int = 75
    """Of 200 steps."""
    steps_per_epoch: int | None = 200
    """15,000 steps (official); the paper has 50 epochs."""
    batch_size: int = 64
    """32 + 32."""
    batches: Literal["shuffled", "balanced", "drawn"] = "balanced"
    """Both classes are gone through on their own (official)."""
    sampling: str = "segments-32"
    """In training; all snippets are scored."""
    crops: Literal["sample", "axis"] = "axis"
    """Scores and magnitudes are means over the crops of a video."""
    learning_rate: float = 1e-3
    """1e-4 on XD-Violence (paper)."""
    weight_decay: float = 5e-3
    """Official; the paper has 5e-4."""
    branch_width: int | None = None
    """Channels of each of the four branches of the MTN; None for D / 4, which is the official
    512 at D = 2048. What the XD-Violence run (D = 1024) had is not known."""
    affinity: Literal["dot", "softmax"] = "dot"
    """TSA: dot products over T (official), or their softmax, an attention map."""
    affinity_width: int | None = None
    """Channels of the dot products; None for half a branch (official); the paper has D / 4."""
    dropout: float = 0.7
    """After the first two of the three layers."""
    dropout_features: bool = True
    """Drop out the MTN's output too (official); the paper speaks of the layers only."""
    k: int = 3
    """Snippets of largest magnitude that stand for a video (32 // 10)."""
    selection_dropout: float = 0.7
    """Share of the snippets that cannot be selected in a step (official; the paper has none)."""
    classification: Literal["mean", "each"] = "mean"
    """Cross-entropy of the mean of the k scores (official), or the sum over each (paper)."""
    magnitude: Literal["squared", "hinge"] = "squared"
    """See ``magnitude_loss``: ``squared`` (official) or ``hinge`` (paper, eq. 4)."""
    margin: float = 100.0
    """m: of the magnitudes of an abnormal and a normal video."""
    magnitude_weight: float = 1e-4
    """alpha; official. The paper's hinge has no weight but this one, too."""
    sparsity_norm: Literal["l2", "l1"] = "l2"
    """Of all abnormal scores of the batch: Euclidean (official), or their sum (paper)."""
    sparsity: float = 8e-3
    """Weight of that norm (official; the paper gives none)."""
    smoothness: float = 8e-4
    """Weight of the squared changes of the abnormal scores (official; the paper gives none)."""
    smooth_across: Literal["batch", "video"] = "batch"
    """``batch`` takes the last score of a video and the first of the next one for neighbours
    (official), ``video`` stops at the end of a video (paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = sampler(self.sampling).most
        if most is not None and self.k > most:
            raise SettingError(
                f"k = {self.k}: a bag of sampling {self.sampling!r} has {most} at most"
            )


class TemporalNetwork(nn.Module):
    """MTN: three dilated convolutions (PDC) and a non-local block (TSA), fused, residual."""

    def __init__(self, dim: int, config: RTFMConfig) -> None:
        super().__init__()
        width = config.branch_width or max(dim // 4, 1)
        self.pyramid = nn.ModuleList(
            nn.Conv1d(dim, width, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.pyramid_norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(3))
        self.reduce = nn.Conv1d(dim, width, 1, bias=False)
        self.non_local = NonLocal(width, config)
        self.fuse = nn.Conv1d(4 * width, dim, 3, padding=1, bias=False)
        self.fuse_norm = nn.BatchNorm1d(dim)

    def forward(self, snippets: Tensor, mask: Tensor) -> Tensor:
        """Snippets with their context, float [M, T, D], from [M, T, D] and bool [M, T]."""
        x = snippets.masked_fill(~mask[:, :, None], 0.0).transpose(1, 2)
        branches = [
            masked_norm(norm, convolution(x).relu(), mask)
            for convolution, norm in zip(self.pyramid, self.pyramid_norms, strict=True)
        ]
        branches.append(self.non_local(self.reduce(x).relu(), mask))
        fused = self.fuse(torch.cat(branches, dim=1)).relu()
        return (masked_norm(self.fuse_norm, fused, mask) + x).transpose(1, 2)


class NonLocal(nn.Module):
    """TSA: every snippet sees every other by the dot product of two embeddings.

    y = affinity g, out = norm(expand(y)) + x. The norm starts at zero, the block as identity.
    """

    def __init__(self, width: int, config: RTFMConfig) -> None:
        super().__init__()
        inner = config.affinity_width or max(width // 2, 1)
        self.affinity = config.affinity
        self.g = nn.Conv1d(width, inner, 1)
        self.theta = nn.Conv1d(width, inner, 1)
        self.phi = nn.Conv1d(width, inner, 1)
        self.expand = nn.Conv1d(inner, width, 1)
        self.norm = nn.BatchNorm1d(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """float [M, W, T] from float [M, W, T] and bool [M, T]; zero at padding."""
        g, theta, phi = (
            layer(x).masked_fill(~mask[:, None], 0.0).transpose(1, 2)
            for layer in (self.g, self.theta, self.phi)
        )
        if self.affinity == "softmax":
            logits = theta @ phi.transpose(1, 2)
            seen = logits.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2) @ g
        else:
            # (theta phi^T) g = theta (phi^T g): memory grows with T, not with T squared.
            seen = theta @ (phi.transpose(1, 2) @ g) / mask.sum(dim=1)[:, None, None]
        return masked_norm(self.norm, self.expand(seen.transpose(1, 2)), mask) + x


def masked_norm(norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Batch norm over the valid steps of float [M, W, T] alone; the others become zero.

    A single valid step (a last batch of one video of one snippet) has no variance: it is normed
    by the running statistics, as in scoring.
    """
    if is_exporting():
        normed_all: Tensor = norm(x).masked_fill(~mask[:, None], 0.0)
        return normed_all
    rows = x.transpose(1, 2)
    valid, normed = rows[mask], torch.zeros_like(rows)
    was_training = norm.training
    norm.train(was_training and len(valid) > 1)
    normed[mask] = norm(valid)
    norm.train(was_training)
    return normed.transpose(1, 2)


class RTFM(Head):
    """MTN and a classifier, trained on the snippets of largest magnitude."""

    config: RTFMConfig

    def __init__(self, dim: int, config: RTFMConfig) -> None:
        super().__init__(dim, config)
        self.network = TemporalNetwork(dim, config)
        self.dropout = nn.Dropout(config.dropout if config.dropout_features else 0.0)
        first = [nn.Linear(dim, 512), nn.ReLU(), nn.Dropout(config.dropout)]
        second = [nn.Linear(512, 128), nn.ReLU(), nn.Dropout(config.dropout)]
        self.classifier = nn.Sequential(*first, *second, nn.Linear(128, 1), Probability())
        initialise(self, nn.init.xavier_uniform_)

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Scores, and the features [M, T, D] whose magnitude decides."""
        features = self.dropout(self.network(rows, valid))
        return HeadOutput(scores=self.classifier(features).squeeze(2), features=features)

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weighted terms ``classification``, ``magnitude``, ``sparsity``, ``smoothness``."""
        config, scores, abnormal = self.config, output.scores, labels > 0
        features = output.features.unflatten(0, (len(labels), -1))
        magnitudes = features.norm(dim=3).mean(dim=1)
        # A fresh draw for every video: what is dropped has magnitude 0 and comes last.
        eligible = torch.ones_like(magnitudes)
        eligible = functional.dropout(eligible, config.selection_dropout, self.training)
        chosen = select(magnitudes * eligible, mask, config.k)
        magnitude = magnitude_loss(features, *chosen, labels, config.margin, config.magnitude)
        active = scores[abnormal], mask[abnormal]
        return {
            "classification": classification_loss(scores, *chosen, labels, config.classification),
            "magnitude": config.magnitude_weight * magnitude,
            "sparsity": config.sparsity * active_norm(*active, config.sparsity_norm),
            "smoothness": config.smoothness * roughness(*active, config.smooth_across),
        }


def select(magnitudes: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k valid snippets of largest magnitude of each video, the largest first.

    Row numbers int64 [N, k] and which of them count, bool [N, k]: a video of T < k has T.
    """
    taken = min(k, magnitudes.shape[1])
    rows = magnitudes.masked_fill(~mask, -torch.inf).topk(taken, dim=1).indices
    return rows, mask.gather(1, rows)


def _mean_over(values: Tensor, count: Tensor) -> Tensor:
    """Mean over the last axis of float [..., k] where bool [..., k]."""
    return values.masked_fill(~count, 0.0).sum(dim=-1) / count.sum(dim=-1)


def classification_loss(
    scores: Tensor, chosen: Tensor, count: Tensor, labels: Tensor, form: Literal["mean", "each"]
) -> Tensor:
    """Mean over videos of the cross-entropy of the chosen scores.

    Of their ``mean`` (official), or the sum over ``each`` (paper, eq. 5). ``scores`` float [N, T]
    in [0, 1], ``chosen`` and ``count`` of ``select``, ``labels`` [N].
    """
    taken = scores.gather(1, chosen)
    if form == "mean":
        return cross_entropy(_mean_over(taken, count), labels).mean()
    return cross_entropy(taken, labels[:, None]).masked_fill(~count, 0.0).sum(dim=1).mean()


def magnitude_loss(
    features: Tensor,
    chosen: Tensor,
    count: Tensor,
    labels: Tensor,
    margin: float,
    form: Literal["squared", "hinge"],
) -> Tensor:
    """Mean over crops and pairs of the i-th abnormal (a) and the i-th normal (n) video.

    ``squared`` (official): (|m - |mean x_a|| + |mean x_n|)^2, mean x being the mean of the chosen
    features of a crop. ``hinge`` (paper, eq. 4): max(0, m - (g_a - g_n)), g being the mean of
    their norms. Zero when a class is missing. ``features`` float [N, C, T, D].
    """
    _, crops, _, dim = features.shape
    kept = features.gather(2, chosen[:, None, :, None].expand(-1, crops, -1, dim))
    if form == "squared":
        sums = kept.masked_fill(~count[:, None, :, None], 0.0).sum(dim=2)
        abnormal, normal = zipped((sums / count.sum(dim=1)[:, None, None]).norm(dim=2), labels)
        terms = ((margin - abnormal).abs() + normal) ** 2
    else:
        norms = kept.norm(dim=3)
        abnormal, normal = zipped(_mean_over(norms, count[:, None].expand_as(norms)), labels)
        terms = (margin - (abnormal - normal)).clamp(min=0)
    return terms.mean() if len(terms) else zero_of(features)


def active_norm(scores: Tensor, mask: Tensor, norm: Literal["l2", "l1"]) -> Tensor:
    """Norm of all valid scores of the abnormal videos as one vector."""
    return scores[mask].norm(p=2 if norm == "l2" else 1)


def roughness(scores: Tensor, mask: Tensor, across: Literal["batch", "video"]) -> Tensor:
    """Sum of (s_t+1 - s_t)^2 over the valid scores of the abnormal videos, see RTFMConfig."""
    if across == "video":
        return squared_changes(scores, mask).sum()
    flat = scores[mask]
    return (flat[1:] - flat[:-1]).square().sum()
