"""UR-DMU: dual memory units with uncertainty regulation (Zhou, Yu and Yang, AAAI 2023).

    snippets [N, T, D] -> conv -> two layers of GL-MHSA -> x [N, T, W]
                                                           | memories A (abnormal), N (normal)
                     strengths a, n [N, T] <--- read-outs a, n [N, T, W] -> mean, variance of n
    scores = classifier(x, mean(a) + mean(n)); of normal videos in training n is drawn

"Official" is the authors' code (henrryzh1/UR-DMU at 40cfdf5), which gave the published numbers.
Where it takes the first half of a batch for the normal videos, this goes by the labels.

Disputes, beside those that are settings: the published numbers are the best of a test after every
ten steps (step 1430 on UCF-Crime, 840 on XD-Violence), here they are ``best_on_test`` beside the
last step. The test of the official code on UCF-Crime unpacks two values where its loader gives
three. It scores 10 crops (5 on XD-Violence) and repeats each score for 16 frames. Others report an
AUC on UCF-Crime of 0.857 and 0.863, with features of their own 0.68 to 0.78.

Padding is masked everywhere. The official code has none: it trains on 200 segments of each video
and tests on one whole video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.heads.layers import GlobalLocalAttention, LocalNorm, Memory, Probability
from vadprep.heads.losses import cross_entropy, top_mean, top_weights, zero_of, zipped

KLAxis = Literal["time", "features"]


@dataclass(frozen=True)
class URDMUConfig(HeadConfig):
    """Settings of UR-DMU; the defaults are the official code's, the same for all its data sets.

    Left out: the best of the test evaluations after every ten steps (see ``results.MOST``). The
    official test counts 16 frames for every snippet, also where the last clip is filled up with
    repeats of the last frame: here frames past the end of a video are not scored.
    """

    epochs: int = 30
    """Of 100 steps: 3,000 steps."""
    steps_per_epoch: int | None = 100
    """Between two snapshots."""
    batches: Literal["shuffled", "balanced", "drawn"] = "balanced"
    """64 + 64 items; both classes are gone through on their own."""
    sampling: str = "segments-200"
    """In training; all snippets are scored."""
    learning_rate: float = 1e-4
    """Constant."""
    weight_decay: float = 5e-5
    """Of Adam."""
    width: int = 512
    """Of the embeddings, the memories and the feed-forward layers (W)."""
    layers: int = 2
    """Of the transformer, each of attention and feed-forward, both with the norm before them."""
    heads: int = 4
    """Of the attention."""
    head_width: int = 128
    """Of each of them."""
    local_norm: LocalNorm = "columns"
    """Local attention: weights sum to 1 over the snippets that see one (official, which divides
    a matrix by its row sums along the wrong axis), or over what one sees (``rows``)."""
    patterns: int = 60
    """Of each of the two memories (K)."""
    hidden: int = 128
    """Width of the hidden layer of the classifier."""
    dropout: float = 0.5
    """After attention and within feed-forward."""
    memory_weight: float = 0.1
    """Of the four cross-entropies of ``memory_loss``."""
    triplet_weight: float = 0.1
    """Of ``triplet_loss``."""
    triplet_margin: float = 1.0
    """Of distances between vectors of unit length."""
    kl_weight: float = 0.001
    """Of ``kl_loss``."""
    kl_axis: KLAxis = "time"
    """What the divergence is summed over: the snippets of a video (official), or the features of
    a snippet, which makes it the divergence of two Gaussians."""
    magnitude_weight: float = 1e-4
    """Of ``magnitude_loss``."""
    magnitude_margin: float = 100.0
    """Of the magnitudes of the read-outs of an abnormal and a normal video."""
    glance: bool = False
    """Train on the glances of the manifest (GlanceVAD): see ``glance_loss``."""
    glance_sigma: float = 0.1
    """Width of the kernel of a click, where a bag lasts from -1 to 1."""
    glance_ratio: float = 0.9
    """Snippets beside a click get a kernel, too, as far as they score this share of it."""
    glance_steps: int = 50
    """Step from which on they do (official: 100 on XD-Violence)."""
    seed: int = 2022
    """Official."""


GLANCE = URDMUConfig(glance=True, epochs=15, seed=0)
"""Settings of GlanceVAD (pipixin321/GlanceVAD at 18ff774) for UCF-Crime: 1,500 steps."""


@dataclass(frozen=True, kw_only=True)
class URDMUOutput(HeadOutput):
    """What the losses look at beside the scores; every crop of a bag is a row of M.

    ``features`` are the embeddings x, float [M, T, W].
    """

    abnormal_strength: Tensor
    """How far the abnormal memory knows a snippet: float [M, T] in [0, 1]."""
    normal_strength: Tensor
    """The same of the normal memory."""
    abnormal_mean: Tensor
    """Mean of the read-out of the abnormal memory, float [M, T, W]."""
    normal_mean: Tensor
    """The same of the normal memory."""
    log_variance: Tensor
    """Of the read-out of the normal memory, float [M, T, W]."""
    drawn: Tensor
    """Draw from the Gaussian of the two in training, else its mean: float [M, T, W]."""
    drawn_scores: Tensor
    """Scores with ``drawn`` in place of the mean, which normal videos are trained on: [M, T]."""


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), both with dropout."""

    def __init__(self, config: URDMUConfig) -> None:
        super().__init__()
        width = config.width
        self.attention_norm = nn.LayerNorm(width)
        self.attention = GlobalLocalAttention(
            width, config.heads, config.head_width, config.local_norm
        )
        self.dropout = nn.Dropout(config.dropout)
        first = [nn.LayerNorm(width), nn.Linear(width, width), nn.GELU()]
        second = [nn.Dropout(config.dropout), nn.Linear(width, width), nn.Dropout(config.dropout)]
        self.feed_forward = nn.Sequential(*first, *second)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """float [M, T, W] from float [M, T, W] and bool [M, T]."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.feed_forward(x)


class URDMU(Head):
    """A transformer and two memories, whose read-outs go to the classifier with the snippets."""

    config: URDMUConfig

    def __init__(self, dim: int, config: URDMUConfig) -> None:
        super().__init__(dim, config)
        width = config.width
        self.embedding = nn.Conv1d(dim, width, 3, padding=1)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.abnormal_memory = Memory(config.patterns, width)
        self.normal_memory = Memory(config.patterns, width)
        self.mean = nn.Linear(width, width)
        self.log_variance = nn.Linear(width, width)
        hidden = [nn.Linear(2 * width, config.hidden), nn.ReLU()]
        if config.glance:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.classifier = nn.Sequential(*hidden, nn.Linear(config.hidden, 1), Probability())

    @property
    def takes_glances(self) -> bool:
        """Where the config says so."""
        return self.config.glance

    def respond(self, rows: Tensor, valid: Tensor) -> URDMUOutput:
        """Scores and all that the losses need."""
        x = rows.masked_fill(~valid[:, :, None], 0.0).transpose(1, 2)
        x = self.embedding(x).relu().transpose(1, 2)
        for layer in self.layers:
            x = layer(x, valid)
        abnormal_strength, abnormal = self.abnormal_memory(x)
        normal_strength, normal = self.normal_memory(x)
        abnormal_mean, normal_mean = self.mean(abnormal), self.mean(normal)
        log_variance = self.log_variance(normal)
        drawn, scores = normal_mean, self._scores(x, abnormal_mean + normal_mean)
        drawn_scores = scores
        if self.training:
            drawn = drawn + torch.randn_like(drawn) * (log_variance / 2).exp()
            drawn_scores = self._scores(x, abnormal_mean + drawn)
        return URDMUOutput(
            scores=scores,
            features=x,
            abnormal_strength=abnormal_strength,
            normal_strength=normal_strength,
            abnormal_mean=abnormal_mean,
            normal_mean=normal_mean,
            log_variance=log_variance,
            drawn=drawn,
            drawn_scores=drawn_scores,
        )

    def _scores(self, x: Tensor, read: Tensor) -> Tensor:
        scores: Tensor = self.classifier(torch.cat([x, read], dim=2)).squeeze(2)
        return scores

    def loss(
        self, output: HeadOutput, labels: Tensor, mask: Tensor, glances: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Terms ``classification``, ``memory``, ``triplet``, ``kl``, ``magnitude``, weighted.

        With ``glances``, bool [N, T], also ``glance``; bags with a click then have no part in the
        classification.
        """
        assert isinstance(output, URDMUOutput)
        config, bags = self.config, (len(labels), -1)

        def mean_over_crops(rows: Tensor) -> Tensor:
            return rows.unflatten(0, bags).mean(dim=1)

        repeats = len(output.features) // len(labels)
        crops, crop_labels = (each.repeat_interleave(repeats, dim=0) for each in (mask, labels))
        k = num_selected(crops)
        a, n = output.abnormal_strength, output.normal_strength

        def at_top(rows: Tensor, strength: Tensor) -> Tensor:
            weights = top_weights(strength, crops, k)
            return mean_over_crops((weights[:, None] @ rows).squeeze(1))

        drawn_scores = mean_over_crops(output.drawn_scores)
        scores = torch.where(labels[:, None] > 0, output.scores, drawn_scores)
        x, is_normal = output.features, crop_labels <= 0
        triplet = triplet_loss(at_top(x, n), at_top(x, a), labels, config.triplet_margin)
        kl = kl_loss(
            output.normal_mean[is_normal],
            output.log_variance[is_normal],
            crops[is_normal],
            config.kl_axis,
        )
        magnitude = magnitude_loss(
            at_top(output.abnormal_mean, a), at_top(output.drawn, n), labels,
            config.magnitude_margin,
        )  # fmt: skip
        memory = memory_loss(mean_over_crops(a), mean_over_crops(n), labels, mask)
        top = top_mean(scores, mask, num_selected(mask))
        by_video, extra = torch.ones_like(labels, dtype=torch.bool), dict[str, Tensor]()
        if glances is not None:
            by_video = ~glances.any(dim=1)
            extra["glance"] = self._glance_loss(output.scores[~by_video], glances, mask)
        entropy = cross_entropy(top[by_video], labels[by_video])
        return {
            "classification": entropy.mean() if len(entropy) else zero_of(top),
            "memory": config.memory_weight * memory,
            "triplet": config.triplet_weight * triplet,
            "kl": config.kl_weight * kl,
            "magnitude": config.magnitude_weight * magnitude,
            **extra,
        }

    def _glance_loss(self, scores: Tensor, glances: Tensor, mask: Tensor) -> Tensor:
        """``glance_loss`` of the bags with a click, mined from step ``glance_steps`` on."""
        config, own = self.config, glances.any(dim=1)
        clicked, valid, steps = glances[own], mask[own], self.get_buffer("steps")
        if self.training:
            steps += 1
        if steps >= config.glance_steps:
            clicked = mined(scores, clicked, valid, config.glance_ratio)
        return glance_loss(scores, clicked, valid, config.glance_sigma)


def num_selected(mask: Tensor) -> Tensor:
    """k of each bag, floor(T / 16) + 1 with T without padding: int64 [N] from bool [N, T]."""
    return mask.sum(dim=1) // 16 + 1


def memory_loss(abnormal: Tensor, normal: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Sum of four cross-entropies, means over videos or snippets, of the strengths of memories.

    An abnormal video: its k snippets that the abnormal memory knows best are known, and the k
    that the normal memory knows least are not. A normal video: the normal memory knows every
    snippet, and the abnormal one none. ``abnormal`` and ``normal`` are float [N, T] in [0, 1].
    A class that is missing adds nothing.
    """
    is_abnormal, k, terms = labels > 0, num_selected(mask), zero_of(abnormal)
    if is_abnormal.any():
        ours = mask[is_abnormal], k[is_abnormal]
        for strengths in (abnormal, 1 - normal):
            top = top_mean(strengths[is_abnormal], *ours)
            terms = terms + cross_entropy(top, torch.ones_like(top)).mean()
    if not is_abnormal.all():
        every = mask & ~is_abnormal[:, None]
        for strengths in (normal, 1 - abnormal):
            known = strengths[every]
            terms = terms + cross_entropy(known, torch.ones_like(known)).mean()
    return terms


def triplet_loss(normal: Tensor, abnormal: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over pairs of max(0, |n - p| - |n - a| + margin), all of unit length.

    n is the mean embedding of the snippets of a normal video that the normal memory knows best,
    p the same of an abnormal video, and a that of those that the abnormal memory knows best: it
    lies farther off. ``normal`` and ``abnormal`` are those means of each video, float [N, W], by
    memory; the i-th normal video goes with the i-th abnormal one. Zero when a class is missing.
    """
    positive, anchor = zipped(functional.normalize(normal, dim=1), labels)
    negative, _ = zipped(functional.normalize(abnormal, dim=1), labels)
    if not len(anchor):
        return zero_of(normal)
    return functional.triplet_margin_loss(anchor, positive, negative, margin)


def kl_loss(mean: Tensor, log_variance: Tensor, mask: Tensor, axis: KLAxis) -> Tensor:
    """Divergence of N(mean, variance) from N(0, 1), -(1 + log v - m^2 - v) / 2, of normal videos.

    Summed over the snippets of a video and averaged over videos and features (``time``), or
    summed over the features and averaged over all snippets. float [M, T, W] and bool [M, T].
    Zero without a video.
    """
    if not len(mean):
        return zero_of(mean)
    terms = (1 + log_variance - mean**2 - log_variance.exp()) / -2
    terms = terms.masked_fill(~mask[:, :, None], 0.0)
    if axis == "time":
        return terms.sum(dim=1).mean()
    return terms.sum() / mask.sum()


def magnitude_loss(abnormal: Tensor, normal: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over pairs of max(0, margin - |a| + |n|), a and n of an abnormal and a normal video.

    ``abnormal`` and ``normal`` are mean read-outs of each video, float [N, W], by memory; the i-th
    normal video goes with the i-th abnormal one. Zero when a class is missing.
    """
    first, _ = zipped(abnormal.norm(dim=1), labels)
    _, second = zipped(normal.norm(dim=1), labels)
    terms = (margin - first + second).clamp(min=0)
    return terms.mean() if len(terms) else zero_of(abnormal)


def mined(scores: Tensor, clicked: Tensor, mask: Tensor, ratio: float) -> Tensor:
    """Clicked snippets and those beside them that score nearly as high: bool [N, T].

    From each click outwards to both sides, as far as a snippet scores ``ratio`` of the click or
    more; the next click and the ends of the bag stop it. (The official code compares one of the
    sides between two clicks with the other click, by a misspelt name.)
    """
    grown = clicked.clone()
    lengths = mask.sum(dim=1).tolist()
    for n, (row, length) in enumerate(zip(scores.detach().tolist(), lengths, strict=True)):
        clicks = clicked[n].nonzero().flatten().tolist()
        for click in clicks:
            for step in (-1, 1):
                t = click + step
                while 0 <= t < length and t not in clicks and row[t] >= ratio * row[click]:
                    grown[n, t] = True
                    t += step
    return grown


def kernels(clicked: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """What scores should be around clicks, float64 [N, T] in [0, 1]; 0 where no click is.

    Of each click exp(-d^2 / (2 sigma^2)), where a bag lasts from -1 to 1, brought to [0, 1] over
    the bag; then the highest of all, brought to [0, 1] again. One snippet is 1.
    """
    found = torch.zeros(clicked.shape, dtype=torch.float64)
    for n, length in enumerate(mask.sum(dim=1).tolist()):
        clicks = clicked[n].nonzero().flatten().cpu().double()
        if len(clicks):
            apart = 2 * (clicks[:, None] - torch.arange(length)) / max(length - 1, 1)
            highest = _stretched(torch.exp(-(apart**2) / (2 * sigma**2))).max(dim=0).values
            found[n, :length] = _stretched(highest)
    return found.to(clicked.device)


def _stretched(x: Tensor) -> Tensor:
    """Rows brought from their lowest and highest to 0 and 1; constant ones become 1."""
    lowest, highest = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
    apart = highest - lowest
    return torch.where(apart > 0, (x - lowest) / apart.clamp(min=1e-300), torch.ones_like(x))


def glance_loss(scores: Tensor, clicked: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """Mean cross-entropy of all valid scores to ``kernels`` around clicks (GlanceVAD).

    ``scores`` float [N, T] in [0, 1], ``clicked`` and ``mask`` bool [N, T]; zero without a bag.
    """
    if not len(scores):
        return zero_of(scores)
    target = kernels(clicked, mask, sigma).to(scores)
    return cross_entropy(scores, target)[mask].mean()
