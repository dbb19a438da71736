"""VadCLIP: a binary and an alignment branch on CLIP features (Wu et al., AAAI 2024).

    snippets [N, T, D] -> transformer -> two graphs -> x [N, T, H] -> MLP -> binary scores (C)
                                                            |                     |
    texts [1 + K, H] of normal and classes  -> + visual prompt (x weighted by C) -> cosines (A)

"Official" is the authors' code (nwpu-zxr/VadCLIP at 8f554d1), which gave the published numbers. It
sees 512 numbers of CLIP ViT-B/16 for 16 frames. Features of another dimension, such as I3D, go
through a linear map first, which is not in the paper.

Texts: the paper sends each class name with 20 learnt tokens through the text encoder of CLIP, which
stays frozen. Here training has no text encoder. ``--prompts FILE.npz`` gives an embedding of H
numbers for ``normal`` and for each category, which stays frozen (``vadprep weights prompts`` makes
it by CLIP's text encoder); what is learnt is an offset of H numbers for each, from 0. WITHOUT the
file the embeddings themselves are learnt from random numbers: binary branch and classes are
trained, but nothing of CLIP's language is in them, and the published numbers are out of reach.
Names of classes are the categories of the abnormal training videos. Without any there is one class
beside normal, which is given no name.

Disputes, beside those that are settings: the best of many tests on the test split is kept, by the
AUC of branch C (UCF-Crime) or the AP of branch A (XD-Violence), and its weights are loaded again
after every epoch, so the test split selects inside the training; the optimiser goes on with the
state of the weights that were dropped. Crop 5 is the only one that is tested on UCF-Crime, and crop
0 on XD-Violence; here the scores of all crops are averaged. The AP on XD-Violence is step-wise
(``frame_ap``), where most papers have the trapezoid. The official code masks padding in the cosine
graph and in the losses alone; here it is masked everywhere. Others who trained it, with other seeds
or features, report an AUC on UCF-Crime of 0.50 to 0.87 (``vadprep recipes``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vadprep.core.errors import SettingError
from vadprep.heads.base import Head, HeadConfig, HeadOutput
from vadprep.heads.layers import Probability, is_exporting, near_weights
from vadprep.heads.losses import cross_entropy, top_mean, zero_of


@dataclass(frozen=True)
class VadCLIPConfig(HeadConfig):
    """Settings of VadCLIP; the defaults are the official code's for UCF-Crime."""

    epochs: int = 10
    """Official; the best of many tests is taken there, see above."""
    batch_size: int = 128
    """64 of each class; on XD-Violence 96 of both, shuffled."""
    batches: Literal["shuffled", "balanced", "drawn"] = "balanced"
    """Official on UCF-Crime, where an epoch ends with the smaller class: 125 steps, here 127.
    ``shuffled`` on XD-Violence."""
    sampling: str = "means-256"
    """Official: means of 256 parts of a longer video."""
    optimizer: Literal["adam", "adagrad", "adamw"] = "adamw"
    """Official."""
    learning_rate: float = 2e-5
    """1e-5 on XD-Violence."""
    weight_decay: float = 0.01
    """The default of AdamW, which the official code takes."""
    drops: str = "4,8"
    """Epochs from which on the rate is a tenth of the one before; 3,6,10 on XD-Violence."""
    branch: Literal["binary", "alignment"] = "binary"
    """Whose anomaly score counts: C on UCF-Crime; A, 1 - p(normal), on XD-Violence."""
    hidden: int = 512
    """Width of all layers and of the texts (H)."""
    heads: int = 1
    """Of the transformer."""
    layers: int = 2
    """Of the transformer; 1 on XD-Violence."""
    length: int = 256
    """Snippets that are seen at once; longer videos are seen in pieces of so many."""
    window: int = 8
    """Snippets that attend to each other, block by block; 64 on XD-Violence."""
    graphs: bool = True
    """Graphs of similar and of near snippets; false for the transformer alone."""
    similar: float = 0.7
    """Cosines up to this are 0 in the graph of similar snippets, before the softmax."""
    temperature: float = 0.07
    """Of the cosines between snippets and texts."""
    text_weight: float = 0.1
    """Weight of the mean |cosine| between the texts of normal and of classes; 1e-4 on
    XD-Violence."""
    prompts: str = ""
    """SHA-256 of the file of prompt embeddings, set by ``--prompts``; blank for none."""
    seed: int = 234
    """Official."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length % self.window:
            raise SettingError(f"window = {self.window}: must divide length = {self.length}")
        if self.hidden % (2 * self.heads):
            raise SettingError(f"hidden = {self.hidden}: must be a multiple of 2 * {self.heads}")
        if not all(each.strip().isdecimal() for each in self.drops.split(",") if self.drops):
            raise SettingError(f"drops = {self.drops!r}: expected epochs such as 4,8, or nothing")

    def learning_rate_at(self, epoch: int) -> float:
        """As in ``HeadConfig``, and a tenth from each epoch of ``drops`` on."""
        drops = [int(each) for each in self.drops.split(",") if self.drops]
        return super().learning_rate_at(epoch) / 10 ** sum(epoch >= each for each in drops)


@dataclass(frozen=True, kw_only=True)
class VadCLIPOutput(HeadOutput):
    """The answers of both branches, each crop a row."""

    binary: Tensor = field(default_factory=lambda: torch.empty(0))
    """Branch C: float [N * C, T] in [0, 1]."""
    cosines: Tensor = field(default_factory=lambda: torch.empty(0))
    """Branch A: cosines with the texts by the temperature, float [N * C, T, 1 + K]."""


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the GELU of CLIP."""
    return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """Two linear layers with QuickGELU and four times the width between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """float [..., width] from the same."""
        changed: Tensor = self.second(quick_gelu(self.first(x)))
        return changed


class WindowedBlock(nn.Module):
    """A transformer layer, norms first, in which snippets see those of their own window."""

    def __init__(self, config: VadCLIPConfig) -> None:
        super().__init__()
        width = config.hidden
        self.heads, self.window = config.heads, config.window
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.parts, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = MLP(width)
        nn.init.xavier_uniform_(self.parts.weight)
        for layer in (self.parts, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """float [M, L, H] from float [M, L, H] and bool [M, L]; ``window`` divides L."""
        parts = self.parts(self.norm(x)).unflatten(1, (-1, self.window))
        query, key, value = (
            each.unflatten(3, (self.heads, -1)).transpose(2, 3) for each in parts.chunk(3, dim=3)
        )
        logits = query @ key.transpose(3, 4) / math.sqrt(query.shape[4])
        hidden = ~mask.unflatten(1, (-1, self.window))[:, :, None, None]
        # The lowest number, not -inf: a window of padding alone sees nothing.
        weights = logits.masked_fill(hidden, torch.finfo(x.dtype).min).softmax(dim=4)
        x = x + self.output((weights @ value).transpose(2, 3).flatten(3).flatten(1, 2))
        changed: Tensor = x + self.mlp(self.norm_mlp(x))
        return changed


class GraphLayer(nn.Module):
    """QuickGELU(A X W + residual): X itself, or a convolution over 5 snippets to another width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, out, bias=False)
        self.residual = nn.Conv1d(width, out, 5, padding=2) if width != out else None
        nn.init.xavier_uniform_(self.map.weight)

    def forward(self, x: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """float [M, L, out] from float [M, L, width], [M, L, L] and bool [M, L]."""
        seen = x.masked_fill(~mask[:, :, None], 0.0)
        kept = seen
        if self.residual is not None:
            kept = self.residual(seen.transpose(1, 2)).transpose(1, 2)
        return quick_gelu(adjacency @ self.map(seen) + kept)


def similarity_graph(x: Tensor, mask: Tensor, least: float) -> Tensor:
    """softmax over the valid j of cos(x_i, x_j), where it is above ``least``, else of 0.

    float [M, L, L] from float [M, L, H] and bool [M, L]. Rows sum to 1.
    """
    norms = x.norm(dim=2)
    cosines = x @ x.transpose(1, 2) / (norms[:, :, None] * norms[:, None] + 1e-20)
    kept = functional.threshold(cosines, least, 0.0)
    return kept.masked_fill(~mask[:, None], torch.finfo(x.dtype).min).softmax(dim=2)


def distance_graph(x: Tensor, mask: Tensor) -> Tensor:
    """exp(-|i - j| / e) for valid j, else 0: float [M, L, L]; rows do not sum to 1."""
    steps = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    return near_weights(steps, steps) * mask[:, None].to(x.dtype)


class VadCLIP(Head):
    """Local transformer and graphs, a binary classifier, and cosines with the texts of classes."""

    config: VadCLIPConfig
    anchors: Tensor

    def __init__(self, dim: int, config: VadCLIPConfig, classes: Sequence[str] = ()) -> None:
        super().__init__(dim, config, classes)
        width, half = config.hidden, config.hidden // 2
        self.project = nn.Linear(dim, width) if dim != width else nn.Identity()
        self.positions = nn.Parameter(torch.empty(config.length, width).normal_(std=0.01))
        self.blocks = nn.ModuleList([WindowedBlock(config) for _ in range(config.layers)])
        if config.graphs:
            self.similar = nn.ModuleList([GraphLayer(width, half), GraphLayer(half, half)])
            self.near = nn.ModuleList([GraphLayer(width, half), GraphLayer(half, half)])
            self.join = nn.Linear(width, width)
        self.mlp, self.classifier = MLP(width), nn.Linear(width, 1)
        self.probability = Probability()
        self.mlp_text = MLP(width)
        num_texts = 1 + max(1, len(classes))
        self.register_buffer("anchors", torch.zeros(num_texts, width))
        self.offsets = nn.Parameter(torch.empty(num_texts, width).normal_(std=width**-0.5))

    def set_prompts(self, prompts: Tensor) -> None:
        """Take the embeddings of normal and of each class, float [1 + K, H], which stay frozen."""
        self.anchors.copy_(prompts)
        nn.init.zeros_(self.offsets)

    @property
    def texts(self) -> Tensor:
        """Embeddings of normal and of each class before the visual prompt: float [1 + K, H]."""
        return self.anchors + self.offsets

    @property
    def most_seen(self) -> int:
        """A longer window would be cut into pieces, with the newest snippet in the last one."""
        return self.config.length

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """Snippets with their context: float [M, L, H] from float [M, L, dim] and bool [M, L]."""
        x = self.project(x) + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        if not self.config.graphs:
            return x
        parts = []
        for layers, graph in (
            (self.similar, similarity_graph(x, mask, self.config.similar)),
            (self.near, distance_graph(x, mask)),
        ):
            part = x
            for layer in layers:
                part = layer(part, graph, mask)
            parts.append(part)
        joined: Tensor = self.join(torch.cat(parts, dim=2))
        return joined

    def align(self, x: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
        """Cosines of snippets and texts by the temperature: float [M, L, 1 + K].

        The visual prompt, the sum of x weighted by the ``logits`` [M, L] of branch C at unit
        length, is added to each text, then an MLP.
        """
        weighted = (logits.masked_fill(~mask, 0.0)[:, None] @ x).squeeze(1)
        texts = self.texts + functional.normalize(weighted, dim=1)[:, None]
        texts = texts + self.mlp_text(texts)
        found = functional.normalize(x, dim=2) @ functional.normalize(texts, dim=2).transpose(1, 2)
        return found / self.config.temperature

    def respond(self, rows: Tensor, valid: Tensor) -> VadCLIPOutput:
        """Both branches; pieces of ``length`` snippets are seen on their own."""
        count, window = rows.shape[1], self.config.window
        length = self.config.length
        if not is_exporting():
            length = min(length, count + -count % window)  # no more padding than is needed
        more = -count % length
        x = functional.pad(rows, (0, 0, 0, more)).unflatten(1, (-1, length)).flatten(0, 1)
        mask = functional.pad(valid, (0, more)).unflatten(1, (-1, length)).flatten(0, 1)
        x = self.encode(x, mask)
        logits = self.classifier(x + self.mlp(x)).squeeze(2)
        cosines = self.align(x, logits, mask)
        binary, cosines = (
            each.unflatten(0, (len(rows), -1)).flatten(1, 2)[:, :count]
            for each in (self.probability(logits), cosines)
        )
        shares = cosines.softmax(dim=2)
        return VadCLIPOutput(
            scores=binary if self.config.branch == "binary" else 1 - shares[..., 0],
            classes=shares[..., 1:] if self.classes else None,
            binary=binary,
            cosines=cosines,
        )

    def loss(
        self, output: HeadOutput, labels: Tensor, mask: Tensor, classes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted terms ``classification`` (C), ``alignment`` (A), ``texts``; arguments as in
        ``Head``. Crops are averaged before."""
        assert isinstance(output, VadCLIPOutput)
        crops = (len(labels), -1)
        binary = output.binary.unflatten(0, crops).mean(dim=1)
        cosines = output.cosines.unflatten(0, crops).mean(dim=1)
        if not self.classes:
            classes = (labels > 0).to(cosines)[:, None]
        elif classes is None:
            classes = cosines.new_zeros(len(labels), len(self.classes))
        k = mask.sum(dim=1) // 16 + 1
        return {
            "classification": cross_entropy(top_mean(binary, mask, k), labels).mean(),
            "alignment": alignment_loss(cosines, labels, classes, mask),
            "texts": self.config.text_weight * text_loss(self.texts),
        }


def alignment_loss(cosines: Tensor, labels: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
    """MIL-Align: -sum over c of y_c log softmax_c(m), the mean over bags (eq. 7 to 9).

    m_c is the mean of the floor(T / 16) + 1 largest of a bag for class c; y is 1 for normal, or
    shared equally by the classes of an abnormal bag. A bag of unknown class is left out.
    ``cosines`` float [N, T, 1 + K], ``labels`` [N], ``classes`` [N, K], ``mask`` bool [N, T].
    """
    count = cosines.shape[2]
    k = (mask.sum(dim=1) // 16 + 1).repeat_interleave(count)
    each = cosines.transpose(1, 2).flatten(0, 1)
    means = top_mean(each, mask.repeat_interleave(count, dim=0), k).unflatten(0, (-1, count))
    is_normal = labels <= 0
    targets = torch.cat([is_normal.to(classes)[:, None], classes], dim=1)
    known = is_normal | (classes.sum(dim=1) > 0)
    if not known.any():
        return zero_of(cosines)
    targets = targets[known] / targets[known].sum(dim=1, keepdim=True)
    return -(targets * means[known].log_softmax(dim=1)).sum(dim=1).mean()


def text_loss(texts: Tensor) -> Tensor:
    """Mean of |cos| between the first text, of normal, and those of the classes, [1 + K, H]."""
    unit = functional.normalize(texts, dim=1)
    return (unit[1:] @ unit[0]).abs().mean()
