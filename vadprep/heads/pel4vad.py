"""PEL4VAD: prompt-enhanced context features (Pu, Wu, Yang and Wang, IEEE TIP 2024).

    snippets [N, T, D] -> context -> linear -> v [N, T, H] -> linear -> causal conv -> scores [N, T]
                                               |                                         |
                              prompts --- prompt loss ------------------------------- weights, MIL

"Official" is the authors' code (yujiangpu20/PEL4VAD at eeb31f4), which gave the published numbers.

Without prompt embeddings only the MIL part is trained: context, classifier and the loss ``mil``.
The published numbers are with them. ``vadprep train pel4vad --prompts FILE.npz`` adds the loss
``prompt``: the file holds an array of H numbers for ``normal`` and for each category of the
abnormal training videos. The authors' are means of CLIP ViT-B/16 text features of concepts of
ConceptNet. Scores need no prompts.

Disputes, beside those that are settings: the published numbers are the best of a test after every
epoch, with seeds and smoothing of scores (``evaluation.smoothing``) chosen for each data set on the
test split. The official code masks padding only in the selection of the MIL loss; here it is masked
everywhere. Of a video with several categories the official code takes the first (XD-Violence), or
the mean of their prompts but the first as its class (ShanghaiTech): here the prompt is the mean,
and two videos are alike if they share a category.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.heads.ddl import mil_loss
from vadprep.heads.layers import Probability, row_blocks
from vadprep.heads.losses import zero_of

Norm = Literal["time", "features", "none"]


@dataclass(frozen=True)
class PEL4VADConfig(HeadConfig):
    """Settings of PEL4VAD; the defaults are the official code's for XD-Violence.

    Left out: the best of the test evaluations after every epoch (see ``results.MOST``), the split
    into several heads, which mixes time and heads and is not used by any published setting, and a
    prompt loss of 0 where it is not a number.
    """

    cosine_epochs: int | None = 60
    """Of 50 that are trained."""
    attention: bool = True
    """False leaves the context out, so that no snippet sees another before the classifier."""
    width: int = 128
    """Of queries, keys and values."""
    window: int = 9
    """Snippets that the local softmax sees, the snippet itself in their middle."""
    gamma: float = 0.06
    """Start of w in the distance term exp(-|w d^2 - b|), which is learnt."""
    bias: float = 0.02
    """Start of b, which is learnt, too."""
    norm: Norm = "none"
    """After signed square roots, unit length over ``time`` (official on UCF-Crime and
    ShanghaiTech: the default axis of the library), over ``features``, or ``none`` of both."""
    norm_scale: float = 1.0
    """Start of the weights of the layer norm after the context, which are learnt."""
    hidden: int = 512
    """Width of v (H), that of the prompts: half of 1,024 features."""
    embedding: int = 300
    """Width of what the classifier sees."""
    dropout: float = 0.1
    """After both linear layers."""
    kernel: int = 3
    """Snippets that the causal classifier sees."""
    temperature: float = 0.05
    """Start of what cosines are divided by in the prompt loss, which is learnt."""
    lambda_prompt: float = 1.0
    """Weight of the prompt loss (lambda)."""
    sharpness: float = 10.0
    """Of the weights of snippets, exp(sharpness score) - 1, in the prompt loss."""
    prompts: str = ""
    """SHA-256 of the file of prompt embeddings, set by ``--prompts``; blank for none."""
    seed: int = 4
    """Official; 9 on UCF-Crime, 0 on ShanghaiTech."""


class ContextAggregation(nn.Module):
    """TCA: one map of similarities and distances, with a global and a local softmax, mixed.

    map = Q K^T / sqrt(W) + exp(-|w d^2 - b|) for snippets that are d apart. The two are mixed as
    a softmax(map) V + (1 - a) softmax(map within the window) V, where a is the sigmoid of a number
    that is learnt and starts at 0. Then the norm of the config, and a linear map to D.
    """

    def __init__(self, dim: int, config: PEL4VADConfig) -> None:
        super().__init__()
        self.window, self.norm = config.window, config.norm
        self.query, self.key, self.value = (nn.Linear(dim, config.width) for _ in range(3))
        self.output = nn.Linear(config.width, dim)
        self.mix = nn.Parameter(torch.tensor(0.0))
        self.gamma = nn.Parameter(torch.tensor(float(config.gamma)))
        self.bias = nn.Parameter(torch.tensor(float(config.bias)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """float [M, T, D] from float [M, T, D] and bool [M, T].

        In scoring the rows are worked off in blocks, so memory grows with T, not T squared.
        """
        query, key, value = self.query(x), self.key(x), self.value(x)
        count, scale, share = x.shape[1], 1 / math.sqrt(query.shape[2]), self.mix.sigmoid()
        times = torch.arange(count, device=x.device)
        lowest, blocks = torch.finfo(x.dtype).min, []  # a row of padding may see nothing
        for rows in row_blocks(query.shape[0], count, self.training):
            apart = times[rows, None] - times
            near = torch.exp(-(self.gamma * (apart**2).to(x.dtype) - self.bias).abs())
            logits = query[:, rows] @ key.transpose(1, 2) * scale + near
            logits = logits.masked_fill(~mask[:, None], lowest)
            first = self.window // 2  # from i - first to i - first + window - 1
            outside = (apart > first) | (apart <= first - self.window)
            local = logits.masked_fill(outside, lowest).softmax(dim=2)
            blocks.append((share * logits.softmax(dim=2) + (1 - share) * local) @ value)
        seen = torch.cat(blocks, dim=1)
        if self.norm != "none":
            seen = signed_root(seen.masked_fill(~mask[:, :, None], 0.0))
            seen = functional.normalize(seen, dim=1 if self.norm == "time" else 2)
        mixed: Tensor = self.output(seen)
        return mixed


def signed_root(x: Tensor) -> Tensor:
    """sqrt(x) where x > 0 and -sqrt(-x) elsewhere, with a gradient of 0 at 0."""
    return x.sign() * x.abs().clamp(min=1e-24).sqrt()


class PEL4VAD(Head):
    """Context, two linear layers and a causal classifier, trained by MIL and by prompts."""

    config: PEL4VADConfig
    prompts: Tensor | None

    def __init__(self, dim: int, config: PEL4VADConfig) -> None:
        super().__init__(dim, config)
        self.context = ContextAggregation(dim, config) if config.attention else None
        self.norm = nn.LayerNorm(dim)
        nn.init.constant_(self.norm.weight, config.norm_scale)
        # A 1x1 convolution over time is a linear map of each snippet.
        self.visual = nn.Linear(dim, config.hidden)
        self.embed = nn.Linear(config.hidden, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv1d(config.embedding, 1, config.kernel)
        self.probability = Probability()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        self.register_buffer("prompts", None, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(module.weight)

    @property
    def causal_context(self) -> int | None:
        """Without the attention: what the causal classifier sees."""
        return None if self.config.attention else self.config.kernel

    @property
    def takes_classes(self) -> bool:
        """Only the prompt loss asks for the categories of a video."""
        return self.prompts is not None

    def set_prompts(self, prompts: Tensor) -> None:
        """Train with the embeddings of normal and of each class, float [1 + K, H].

        They are no part of a checkpoint: scoring does not need them.
        """
        self.prompts = prompts.to(next(self.parameters()))

    def respond(self, rows: Tensor, valid: Tensor) -> HeadOutput:
        """Scores, and the visual vectors v [M, T, H] as features."""
        x = self.norm(rows if self.context is None else rows + self.context(rows, valid))
        visual = self.dropout(functional.gelu(self.visual(x)))
        embedded = self.dropout(functional.gelu(self.embed(visual)))
        # Zeros on the left only: a score sees its snippet and those before it, never padding.
        causal = functional.pad(embedded.transpose(1, 2), (self.config.kernel - 1, 0))
        scores = self.probability(self.classifier(causal).squeeze(1))
        return HeadOutput(scores=scores, features=visual)

    def loss(
        self, output: HeadOutput, labels: Tensor, mask: Tensor, classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted terms ``mil`` and, with prompts, ``prompt``. ``classes`` as in ``Head``."""
        terms = {"mil": mil_loss(output.scores, labels, mask)}
        if self.prompts is not None and classes is not None:
            config = self.config
            visual = output.features.unflatten(0, (len(labels), -1)).mean(dim=1)
            pooled = pooled_snippets(output.scores, visual, mask, config.sharpness)
            prompt = prompt_loss(*pooled, self.prompts, labels, classes, self.log_scale.exp())
            terms["prompt"] = config.lambda_prompt * prompt
        return terms


def pooled_snippets(
    scores: Tensor, visual: Tensor, mask: Tensor, sharpness: float
) -> tuple[Tensor, Tensor]:
    """Foreground and background of each bag: means of its snippets, float [N, H] each.

    Weights are exp(c s) - 1 and exp(c (1 - s)) - 1 for a score s, divided by their sum. ``scores``
    float [N, T] in [0, 1], ``visual`` float [N, T, H], ``mask`` bool [N, T].
    """
    found = []
    for each in (scores, 1 - scores):
        weights = torch.expm1(sharpness * each).masked_fill(~mask, 0.0)
        weights = functional.normalize(weights, p=1, dim=1)
        found.append((weights[:, None] @ visual).squeeze(1))
    return found[0], found[1]


def prompt_loss(
    foreground: Tensor,
    background: Tensor,
    prompts: Tensor,
    labels: Tensor,
    classes: Tensor,
    scale: Tensor,
) -> Tensor:
    """KL(q || p), the mean over rows: vectors of snippets point to the prompt of their class.

    Rows are the foreground of every bag, and the background of abnormal ones, which counts as
    normal, as normal bags do. With cosines c_ij of vector i and the prompt of row j, p_i =
    softmax_j(scale c_ij) and q_i = softmax_j(10 [class of i = class of j]).

    ``foreground`` and ``background`` float [N, H], ``prompts`` float [1 + K, H] with the normal one
    first, ``labels`` [N], ``classes`` [N, K]. The foreground of an abnormal bag of unknown class is
    left out.
    """
    is_abnormal, known = labels > 0, classes.sum(dim=1) > 0
    belongs = torch.cat([(~is_abnormal).to(classes)[:, None], classes], dim=1)
    kept, normal = known | ~is_abnormal, torch.zeros_like(belongs[is_abnormal])
    normal[:, 0] = 1
    belongs = torch.cat([belongs[kept], normal])
    vectors = torch.cat([foreground[kept], background[is_abnormal]])
    if not len(vectors):
        return zero_of(foreground)
    texts = (belongs / belongs.sum(dim=1, keepdim=True)) @ prompts
    logits = scale * functional.normalize(vectors, dim=1) @ functional.normalize(texts, dim=1).T
    alike = (belongs @ belongs.T > 0).to(logits)
    return functional.kl_div(
        logits.log_softmax(dim=1), (10 * alike).softmax(dim=1), reduction="batchmean"
    )
