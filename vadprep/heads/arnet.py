"""AR-Net: dynamic multiple-instance learning and centre loss (Wan et al., ICME 2020).

    snippets [N, T, D] -> linear D -> D, ReLU, dropout -> linear, sigmoid -> scores [N, T]

No snippet sees another. "Official" is the authors' code (wanboyang/Anomaly_AR_Net_ICME_2020),
"paper" the equations; where they differ, the first is known to give the published numbers.
Published on rgb and flow features joined (``--streams concat``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vadprep.heads.base import Head, HeadConfig, HeadOutput, initialise
from vadprep.heads.layers import Probability
from vadprep.heads.losses import cross_entropy, top_values, zero_of


@dataclass(frozen=True)
class ARNetConfig(HeadConfig):
    """Settings of AR-Net; the defaults are the official code's for ShanghaiTech.

    Left out: the best of 23 test evaluations, one after every 200 steps (see ``results.MOST``),
    and the signs of eqs. 2 and 5, which are misprints. The rows that ``jitter-300`` may draw are
    those of the code for every length; the draws are not, since its generator is another one.
    """

    epochs: int = 20
    """Of 238 steps."""
    steps_per_epoch: int | None = 238
    """4,760 steps. The code calls 238 draws an epoch, one for each training video."""
    batch_size: int = 60
    """Videos, 30 of each class."""
    batches: Literal["shuffled", "balanced", "drawn"] = "drawn"
    """30 + 30, each step without replacement (official and paper)."""
    sampling: str = "jitter-300"
    """At most 300 snippets, by two rules (official); the paper takes all: ``uniform-999999``."""
    learning_rate: float = 1e-4
    """Of Adam, constant."""
    weight_decay: float = 5e-4
    """Official; the paper has none."""
    dropout: float = 0.7
    """Between the two layers; the official code has a switch for it."""
    alpha: int = 4
    """Every alpha-th snippet of a video is selected: k = ceil(T / alpha)."""
    selection: Literal["batch", "video"] = "batch"
    """``batch`` averages over all selected snippets of the batch, so that long videos weigh more
    (official), ``video`` over those of each video first (paper, eq. 5)."""
    center: Literal["padded", "masked"] = "padded"
    """See ``center_loss``: ``padded`` (official) or ``masked`` (paper, eq. 7)."""
    center_weight: float = 20.0
    """lambda; 0 is the paper's ablation."""
    width: int | None = None
    """Of the hidden layer; None for that of the features (official and paper)."""


class ARNet(Head):
    """Two layers on each snippet."""

    config: ARNetConfig

    def __init__(self, dim: int, config: ARNetConfig) -> None:
        super().__init__(dim, config)
        width = config.width or dim
        self.layers = nn.Sequential(
            nn.Linear(dim, width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, 1),
            Probability(),
        )
        initialise(self.layers, nn.init.xavier_uniform_)

    @property
    def causal_context(self) -> int:
        """No snippet sees another."""
        return 1

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Scores alone; zeros at padding have one, too."""
        return HeadOutput(scores=self.layers(rows).squeeze(2))

    def loss(self, output: HeadOutput, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weighted terms ``dmil`` and ``center``."""
        config, scores = self.config, output.scores
        return {
            "dmil": dynamic_mil_loss(scores, labels, mask, config.alpha, config.selection),
            "center": config.center_weight * center_loss(scores, labels, mask, config.center),
        }


def dynamic_mil_loss(
    scores: Tensor, labels: Tensor, mask: Tensor, alpha: int, selection: Literal["batch", "video"]
) -> Tensor:
    """Cross-entropy of the ceil(T / alpha) highest scores of each video (eq. 5, DMIL).

    The mean over all of them, or over each video's and then over videos, see ``ARNetConfig``;
    the equation lacks the minus sign. ``scores`` float [N, T] in [0, 1], ``labels`` float [N],
    ``mask`` bool [N, T].
    """
    ordered, chosen = top_values(scores, mask, -(-mask.sum(dim=1) // alpha))
    # Padding is -inf here, and a NaN gradient times zero is NaN.
    entropy = cross_entropy(ordered.masked_fill(~chosen, 0.5), labels[:, None])
    entropy = entropy.masked_fill(~chosen, 0.0)
    if selection == "batch":
        return entropy.sum() / chosen.sum()
    return (entropy.sum(dim=1) / chosen.sum(dim=1)).mean()


def center_loss(
    scores: Tensor, labels: Tensor, mask: Tensor, form: Literal["padded", "masked"]
) -> Tensor:
    """Mean over normal videos of the variance of their scores. Zero without a normal video.

    ``masked`` (paper, eq. 7): 1/T sum (s_t - mean s)^2. ``padded`` (official): the unbiased
    variance of a row, with the scores of its padding; the longest video of a batch decides how
    many these are. Zero where rows have one snippet. Arguments as in ``dynamic_mil_loss``.
    """
    normal, valid = scores[labels <= 0], mask[labels <= 0]
    if not len(normal) or (form == "padded" and normal.shape[1] == 1):
        return zero_of(scores)
    if form == "padded":
        return normal.var(dim=1).mean()
    lengths = valid.sum(dim=1)
    means = normal.masked_fill(~valid, 0.0).sum(dim=1) / lengths
    squares = (normal - means[:, None]).square().masked_fill(~valid, 0.0)
    return (squares.sum(dim=1) / lengths).mean()
