"""DDL: Discriminative Dynamics Learning with LA-Net (Pu and Wu, ICME 2022).

No official code is public. Where the paper is silent, this follows the later public code of the
same authors (marked "siblings": cma_xdVioDet, PEL4VAD); each choice is noted where it is made.

    snippets [N, T, D] -> LA-Net -> MLP -> embeddings [N, T, F] -> causal conv -> scores [N, T]
                                               |                                  |
                                              f_t -------- DA loss -------- delta_t, MIL, DR

Padding is masked everywhere (softmax, prior, top-k, dynamics), so it changes neither scores nor
losses; the siblings mask only the top-k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.heads.layers import Probability, row_blocks
from vadprep.heads.losses import cross_entropy, top_mean, zero_of, zipped

Pairs = Literal["means", "all", "zipped"]


@dataclass(frozen=True)
class DDLConfig(HeadConfig):
    """Settings of DDL; the defaults are those published for XD-Violence.

    Left out of what the siblings do: the best of many test evaluations (see ``results.MOST``), a
    head split that mixes time and heads, a prior that is learnt, an MLP without its second GELU,
    masks on the top-k alone, and scores smoothed at the test, which the paper does not have.
    """

    cosine_epochs: int | None = 60
    """Siblings; the paper says cosine, for 50 epochs."""
    attention: bool = True
    """False leaves it out of LA-Net, so that no snippet sees another before the classifier."""
    heads: int = 4
    """Of the attention (h)."""
    width: int = 128
    """Total width of the attention, over all heads (D_h)."""
    sigma: float = 6.0
    """Variance of the distance prior, in snippets squared."""
    prior: Literal["post", "pre", "none"] = "post"
    """``post`` adds the prior to the softmax (paper), ``pre`` to its argument (siblings),
    ``none`` is the paper's ablation."""
    scaling: Literal["width", "head", "none"] = "width"
    """Dot products are divided by sqrt(total width) (siblings), sqrt(head width), or not."""
    norm_scale: float = 1.0
    """Start of the weights of its layer norm, which are learnt."""
    hidden: int = 512
    """Width of the first layer of the MLP."""
    embedding: int = 128
    """Width of its second layer, whose output is x^F."""
    dropout: float = 0.1
    """After both."""
    kernel: int = 5
    """Snippets that the causal classifier sees (K)."""
    lambda_dr: float = 2.0
    """Weight of the dynamics ranking loss (lambda 1); 0 is the paper's ablation."""
    lambda_da: float = 1.0
    """Weight of the dynamics alignment loss (lambda 2); 0 is the paper's ablation."""
    zeta: float = 0.0
    """Margin of the dynamics ranking loss."""
    pairs: Pairs = "means"
    """What the ranking loss compares, which the paper leaves open: the ``means`` of the two
    classes of a batch, ``all`` pairs, or i-th with i-th (``zipped``, for balanced batches)."""
    detach: Literal["none", "scores"] = "none"
    """``scores`` stops the gradient of the alignment loss through the score dynamics."""
    seed: int = 4
    """Siblings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise SettingError(f"width = {self.width}: must be a multiple of {self.heads} heads")


class LocalAwareAttention(nn.Module):
    """LA-Net: self-attention plus a fixed prior for near snippets, residual, layer norm.

    Per head A = softmax(Q K^T / scale) + G with G_ij = exp(-(i - j)^2 / (2 sigma)) and head =
    A X W. The rows of A sum to about 1 + sqrt(2 pi sigma): left so, layer norm follows. Linear
    maps have no bias, as the equations are written.
    """

    def __init__(self, dim: int, config: DDLConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.sigma = config.sigma
        self.prior = config.prior
        width = {"width": config.width, "head": config.width // config.heads, "none": 1}
        self.scale = 1 / math.sqrt(width[config.scaling])
        self.has_attention = config.attention
        if config.attention:
            self.query = nn.Linear(dim, config.width, bias=False)
            self.key = nn.Linear(dim, config.width, bias=False)
            self.value = nn.Linear(dim, config.width, bias=False)
            self.output = nn.Linear(config.width, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, config.norm_scale)

    def forward(self, snippets: Tensor, mask: Tensor) -> Tensor:
        """Snippets with their context, float [N, T, D], from [N, T, D] and bool [N, T].

        In scoring the rows are worked off in blocks, so memory grows with T, not T squared.
        """
        if not self.has_attention:
            return self.norm(snippets)
        # A transpose, never a mere reshape: [N, T, heads * width] to [N, heads, T, width].
        query, key, value = (
            layer(snippets).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        count, hidden = snippets.shape[1], ~mask[:, None, None]
        times = torch.arange(count, device=snippets.device)
        curve = torch.exp(-(times.double() ** 2) / (2 * self.sigma))  # of G, by distance
        blocks = []
        for rows in row_blocks(query.shape[0] * self.heads, count, self.training):
            logits = query[:, :, rows] @ key.transpose(2, 3) * self.scale
            prior = curve[(times[rows, None] - times).abs()].to(logits)
            if self.prior == "pre":
                logits = logits + prior
            weights = logits.masked_fill(hidden, -math.inf).softmax(dim=3)
            if self.prior == "post":
                weights = weights + prior.masked_fill(hidden, 0.0)
            blocks.append(weights @ value)
        heads = torch.cat(blocks, dim=2).transpose(1, 2).flatten(2)
        return self.norm(snippets + self.output(heads))


class DDL(Head):
    """LA-Net, MLP and causal classifier, trained by MIL and two losses on dynamics."""

    config: DDLConfig

    def __init__(self, dim: int, config: DDLConfig) -> None:
        super().__init__(dim, config)
        self.attention = LocalAwareAttention(dim, config)
        # A 1x1 convolution over time is a linear map of each snippet.
        first = [nn.Linear(dim, config.hidden), nn.GELU(), nn.Dropout(config.dropout)]
        second = [nn.Linear(config.hidden, config.embedding), nn.GELU(), nn.Dropout(config.dropout)]
        self.mlp = nn.Sequential(*first, *second)
        self.classifier = nn.Conv1d(config.embedding, 1, config.kernel)
        self.probability = Probability()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)

    @property
    def causal_context(self) -> int | None:
        """Without the attention: what the causal classifier sees."""
        return None if self.config.attention else self.config.kernel

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Scores, and the embeddings [M, T, F] before the classifier as features."""
        embeddings = self.mlp(self.attention(rows, valid))
        # Zeros on the left only: the score of a snippet sees itself and K - 1 before it, and
        # padding on the right is never seen.
        causal = functional.pad(embeddings.transpose(1, 2), (self.config.kernel - 1, 0))
        scores = self.probability(self.classifier(causal).squeeze(1))
        return HeadOutput(scores=scores, features=embeddings)

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """MIL + lambda1 DR + lambda2 DA: weighted terms ``mil``, ``dr``, ``da``."""
        config = self.config
        aligned = output.scores.detach() if config.detach == "scores" else output.scores
        ranking = dynamics_ranking_loss(output.scores, labels, mask, config.zeta, config.pairs)
        embeddings = output.features.unflatten(0, (len(labels), -1)).mean(dim=1)
        alignment = dynamics_alignment_loss(aligned, embeddings, mask)
        return {
            "mil": mil_loss(output.scores, labels, mask),
            "dr": config.lambda_dr * ranking,
            "da": config.lambda_da * alignment,
        }


def num_selected(labels: Tensor, mask: Tensor) -> Tensor:
    """k of each bag: floor(T / 16) + 1 when abnormal, 1 when normal; T without padding.

    int64 [N] from labels float [N] and mask bool [N, T].
    """
    lengths = mask.sum(dim=1)
    return torch.where(labels > 0, lengths // 16 + 1, torch.ones_like(lengths))


def mil_loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy between video labels and the mean p of each bag's top-k scores (eq. 6).

    mean over n of -y_n log p_n - (1 - y_n) log(1 - p_n); the paper prints only the first part.
    ``scores`` float [N, T] in [0, 1], ``labels`` float [N], ``mask`` bool [N, T].
    """
    return cross_entropy(top_mean(scores, mask, num_selected(labels, mask)), labels).mean()


def dynamics_ranking_loss(
    scores: Tensor, labels: Tensor, mask: Tensor, zeta: float, pairs: Pairs = "means"
) -> Tensor:
    """max(0, zeta - E_a + E_n): scores of abnormal videos should change more (DR loss).

    E is the mean of the k largest delta_t^2 = (s_t - s_t+1)^2 of a video. E_a and E_n are its
    means over the abnormal and the normal videos of the batch, or, with other ``pairs``, those
    of two videos, and the loss is the mean over pairs. Zero when a class is missing; a video of
    one snippet has no dynamics and is left out.
    """
    neighbours = mask[:, 1:] & mask[:, :-1]
    squared = (scores[:, 1:] - scores[:, :-1]) ** 2
    energy = top_mean(squared, neighbours, num_selected(labels, mask))
    moving = neighbours.any(dim=1)
    abnormal, normal = energy[moving & (labels > 0)], energy[moving & (labels <= 0)]
    if not (len(abnormal) and len(normal)):
        return zero_of(energy)
    if pairs == "means":
        return (zeta - abnormal.mean() + normal.mean()).clamp(min=0)
    if pairs == "all":
        return (zeta - abnormal[:, None] + normal).clamp(min=0).mean()
    abnormal, normal = zipped(energy[moving], labels[moving])
    return (zeta - abnormal + normal).clamp(min=0).mean()


def dynamics_alignment_loss(scores: Tensor, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Mean of -delta_t log(f_t + 1e-7): scores change where features do (DA loss).

    delta_t = |s_t - s_t+1|, f_t = 1 - cos(x_t, x_t+1). The mean runs over the t of a video,
    then over videos with at least two snippets. f is kept at 0 or above: rounding puts the
    cosine of equal snippets (a frozen picture) above 1 by more than 1e-7, and the logarithm
    would be NaN.
    """
    pairs = mask[:, 1:] & mask[:, :-1]
    delta = (scores[:, 1:] - scores[:, :-1]).abs()
    cosine = functional.cosine_similarity(embeddings[:, 1:], embeddings[:, :-1], dim=2)
    terms = -delta * torch.log((1 - cosine).clamp(min=0) + 1e-7)
    num_pairs = pairs.sum(dim=1)
    per_video = terms.masked_fill(~pairs, 0.0).sum(dim=1) / num_pairs.clamp(min=1)
    return per_video.sum() / (num_pairs > 0).sum().clamp(min=1)
