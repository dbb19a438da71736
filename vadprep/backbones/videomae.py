"""VideoMAE's ViT-B as it was fine-tuned on Kinetics-400 (Tong et al. 2022, arXiv 2203.12602).

A plain vision transformer on cubes of 2 frames x 16 x 16 px, whose places are told by fixed sines.
Its tensors have the names of the official code (``modeling_finetune.py`` of MCG-NJU/VideoMAE).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM, DEPTH, HEADS = 768, 12, 12
FRAMES, SIZE = 16, 224
TUBE = (2, 16, 16)
"""Frames, rows and columns of the cube that one token stands for."""
TOKENS = FRAMES // TUBE[0] * (SIZE // TUBE[1]) * (SIZE // TUBE[2])
CLASSES = 400

LayerNorm = partial(nn.LayerNorm, eps=1e-6)  # transformers has 1e-12 and, for fc_norm, 1e-5


class Attention(nn.Module):
    """Self-attention whose keys have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(DIM))
        self.v_bias = nn.Parameter(torch.zeros(DIM))
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, dim] of the same."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        heads = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DIM, 4 * DIM)
        self.fc2 = nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, dim] of the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One layer of the transformer, norms first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(DIM), Attention()
        self.norm2, self.mlp = LayerNorm(DIM), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, token, dim] of the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Cubes of a clip as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, DIM, TUBE, stride=TUBE)

    def forward(self, clips: Tensor) -> Tensor:
        """[batch, 1568, dim] of clips [batch, 3, 16, 224, 224]: by time, then row, then column."""
        return self.proj(clips).flatten(2).transpose(1, 2)


def places(tokens: int) -> Tensor:
    """What is added to each token, float32 [tokens, dim]: sine and cosine of its number.

    Vaswani et al. 2017, section 3.5, with the number of the token in the whole clip.
    """
    number = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = 10_000.0 ** -(torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    angle = number * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


class VideoMAE(nn.Module):
    """The network with its 400 classes. ``vit_base_patch16_224`` of the official code."""

    pos_embed: Tensor

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.register_buffer("pos_embed", places(TOKENS), persistent=False)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.fc_norm = LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, 768] of clips [batch, 3, 16, 224, 224].

        The mean of the tokens that the last layer gives, then ``fc_norm``: what the official
        classifier is given. There is no class token.
        """
        x = self.patch_embed(clips) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.fc_norm(x.mean(dim=1))

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]."""
        return self.head(self(clips))
