"""CSL-TAL: consistency-based self-supervised learning (Panariello et al., 2022).

    snippets x [N, T, D] -> causal conv -> attention lambda [N, T] in (0, 1)
    sum over t of lambda_t x_t -> g -> video score [N]
    psi_t = lambda_t g(x_t), the weighted T-CAM -> scores [N, T]

Each video is in a batch twice, as two random samplings of itself (``blocks-3``), and the
attentions of the two are pulled together. "Official" is the authors' code (aimagelab/CSL-TAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadConfig, HeadOutput, initialise
from vadprep.heads.layers import HIGHEST_LOGIT, Probability
from vadprep.heads.losses import cross_entropy, squared_changes
from vadprep.heads.sampling import sampler

KERNEL = 3
"""Snippets that the convolution sees: t - 2, t - 1, t. The official one has five taps, of which
the two in the future are zeroed before every step."""


@dataclass(frozen=True)
class CSLTALConfig(HeadConfig):
    """Settings of CSL-TAL; the defaults are the official code's for XD-Violence.

    Left out: the best of many test evaluations (see ``results.MOST``). The standard metrics are
    of all snippets and of the mean over crops; the paper's own protocol is reported beside them.
    """

    batch_size: int = 8
    """Videos; each is in a batch twice."""
    sampling: str = "blocks-3"
    """A random row of each three, drawn anew for each view; up to 6 snippets are all taken."""
    learning_rate: float = 1e-4
    """Until ``drop_epoch``; a tenth of it from then on."""
    drop_epoch: int | None = 30
    """Official; the paper drops at 10."""
    attention: Literal["gated", "three", "two"] = "gated"
    """After the convolution: tanh(V x) sigmoid(U x) and one layer (official, also what its
    replication command trains), ``three`` layers (official without the gate), ``two`` (paper)."""
    alignment: float = 0.5
    """gamma, of the replication command and the paper (the code's own default is 0.55); 0 is the
    paper's ablation."""
    alignment_over: Literal["mean", "sum"] = "mean"
    """Over the snippets of a video: mean (official) or sum (paper)."""
    sparsity: float = 2e-3
    """Weight of the sum of the attentions (official; the paper prints 2e-8, having the two
    weights swapped)."""
    smoothness: float = 2e-8
    """Weight of the squared changes of the attention (official; the paper prints 0.002). Later
    the authors left it out (0), since it pulls against the alignment."""
    divide: bool = True
    """Divide the loss by the number of snippets in the batch (official; the paper does not)."""
    proposals: Literal["runs", "largest"] = "runs"
    """What ``csl_tal_subsampled`` takes for proposals: every run of frames above 0.35, with its
    mean score (official), or the ``largest`` alone, with its sum over two frames less (paper,
    eq. 7)."""
    width: int | None = None
    """Channels of the convolution, which the attention sees; None for as many as features
    (official)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sampler(self.sampling).num_views != 2:
            raise SettingError(f"sampling = {self.sampling!r}: two views need blocks-N")


class GatedAttention(nn.Module):
    """sigmoid(w (tanh(V x) sigmoid(U x))), 256 units; weights N(0, 0.001), biases 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.content = nn.Linear(dim, 256)
        self.gate = nn.Linear(dim, 256)
        self.output = nn.Linear(256, 1)
        self.probability = Probability(lowest=-HIGHEST_LOGIT)
        initialise(self, partial(nn.init.normal_, std=0.001))

    def forward(self, x: Tensor) -> Tensor:
        """float [..., 1] in (0, 1) from float [..., dim]."""
        gated = self.output(self.content(x).tanh() * self.gate(x).sigmoid())
        return self.probability(gated)


class CSLTAL(Head):
    """Causal attention over snippets, and one classifier for snippets and for their sum."""

    config: CSLTALConfig

    def __init__(self, dim: int, config: CSLTALConfig) -> None:
        super().__init__(dim, config)
        width = config.width or dim
        self.convolution = nn.Conv1d(dim, width, KERNEL)
        bound = (5 * dim) ** -0.5  # torch's default for the five taps of the official code
        for parameter in self.convolution.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        if config.attention == "gated":
            self.attention: nn.Module = GatedAttention(width)
        else:
            widths = (width, 1024, 256) if config.attention == "three" else (width, 256)
            layers = [each for pair in pairwise(widths) for each in (nn.Linear(*pair), nn.ReLU())]
            last = Probability(lowest=-HIGHEST_LOGIT)
            self.attention = nn.Sequential(*layers, nn.Linear(256, 1), last)
        self.classifier = nn.Sequential(
            nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, 1), Probability()
        )
        initialise(self.classifier, nn.init.xavier_normal_)

    @property
    def causal_context(self) -> int:
        """The convolution sees the snippet and those before it; the classifier the snippet."""
        return KERNEL

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Weighted T-CAM as scores, the video scores, and lambda [M, T] as features."""
        past = functional.pad(rows.transpose(1, 2), (KERNEL - 1, 0))
        attention = self.attention(self.convolution(past).transpose(1, 2)).squeeze(2)
        weights = attention.masked_fill(~valid, 0.0)
        # A sum, not a mean: long videos have large features.
        video = self.classifier((weights[:, None] @ rows).squeeze(1)).squeeze(1)
        scores = attention * self.classifier(rows).squeeze(2)
        return HeadOutput(scores=scores, video=video, features=attention)

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weighted terms ``classification``, ``alignment``, ``sparsity`` and ``smoothness``."""
        assert output.video is not None
        config = self.config
        attention = output.features.unflatten(0, (len(labels), -1)).mean(dim=1)
        align = alignment_loss(attention, mask, config.alignment_over)
        active = attention.masked_fill(~mask, 0.0).sum()
        terms = {
            "classification": cross_entropy(output.video, labels).mean(),
            "alignment": config.alignment * align,
            "sparsity": config.sparsity * active,
            "smoothness": config.smoothness * squared_changes(attention, mask).sum(),
        }
        shared = mask.sum() if config.divide else 1
        return {name: term / shared for name, term in terms.items()}


def alignment_loss(attention: Tensor, mask: Tensor, over: Literal["mean", "sum"]) -> Tensor:
    """Sum over videos of the mean, or sum, over t of (lambda^A_t - lambda^B_t)^2.

    ``attention`` float [2 N, T] and ``mask`` bool [2 N, T]: the first views A of N videos, then
    their second views B, of the same lengths.
    """
    first, second = attention.chunk(2)
    valid = mask.chunk(2)[0]
    squares = (first - second).square().masked_fill(~valid, 0.0).sum(dim=1)
    return (squares / valid.sum(dim=1) if over == "mean" else squares).sum()
