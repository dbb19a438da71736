"""CLIP's ViT-B/16 (Radford et al. 2021): an image tower for features, a text tower for prompts.

Both are a transformer with norms first and x sigmoid(1.702 x) between the linear layers. Tensors
have the names of openai/CLIP, which open_clip kept. The module is ours and not open_clip's, because
engines convert it and a CUDA graph records it; the tests hold it against open_clip's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIM = 512
"""Numbers of an embedding, of an image or a text."""
PATCH = 16
"""Side in px of the part of a picture that a token stands for."""
HEAD_WIDTH = 64
"""Of each head of attention: 12 heads for images, 8 for texts."""
WORDS, CONTEXT = 49408, 77
"""Tokens that there are, and those of a text."""


class Attention(nn.Module):
    """Self-attention with heads of 64 numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        """float [N, token, width] of the same; ``is_causal`` hides later tokens."""
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = parts.unflatten(2, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class MLP(nn.Module):
    """Two linear layers with four times the width between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, token, width] of the same."""
        inner = self.c_fc(x)
        changed: Tensor = self.c_proj(inner * torch.sigmoid(1.702 * inner))
        return changed


class Block(nn.Module):
    """A layer of the transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        """float [N, token, width] of the same."""
        x = x + self.attn(self.ln_1(x), is_causal)
        changed: Tensor = x + self.mlp(self.ln_2(x))
        return changed


class Transformer(nn.Module):
    """The layers, one after the other."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width) for _ in range(layers)])

    def forward(self, x: Tensor, is_causal: bool = False) -> Tensor:
        """float [N, token, width] of the same."""
        for block in self.resblocks:
            x = block(x, is_causal)
        return x


class ImageTower(nn.Module):
    """Embeddings of pictures, read from the token of the class."""

    def __init__(self, size: int, width: int, layers: int) -> None:
        super().__init__()
        tokens = (size // PATCH) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, PATCH, stride=PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, layers)
        self.proj = nn.Parameter(torch.empty(width, DIM))

    def forward(self, pictures: Tensor) -> Tensor:
        """float [N, 512] of scaled pictures [N, 3, size, size]; not of unit length."""
        patches = self.conv1(pictures).flatten(2).transpose(1, 2)
        first = self.class_embedding + torch.zeros_like(patches[:, :1])
        tokens = torch.cat([first, patches], dim=1) + self.positional_embedding
        tokens = self.transformer(self.ln_pre(tokens))
        embeddings: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return embeddings


class ClipVitB16(nn.Module):
    """Both towers; the image tower as a network of clips, each the mean of its frames.

    The defaults are CLIP's; smaller ones are for tests.
    """

    def __init__(
        self, size: int = 224, width: int = 768, text_width: int = 512, layers: int = 12
    ) -> None:
        super().__init__()
        self.visual = ImageTower(size, width, layers)
        self.token_embedding = nn.Embedding(WORDS, text_width)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, text_width))
        self.transformer = Transformer(text_width, layers)
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.empty(text_width, DIM))
        self.logit_scale = nn.Parameter(torch.empty(()))
        """Natural logarithm of the factor of cosines in training; features do not use it."""

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, 512] of scaled clips [batch, 3, T, size, size].

        The mean of the embeddings of the T frames, which are not made unit length before.
        """
        frames = clips.transpose(1, 2)
        embeddings: Tensor = self.visual(frames.flatten(0, 1))
        return embeddings.unflatten(0, (-1, frames.shape[1])).float().mean(dim=1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embeddings float [N, 512] of texts, int64 [N, 77] tokens; not of unit length.

        They are read from the last token of a text, which has the highest number.
        """
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, is_causal=True))
        ends = x[torch.arange(len(x)), tokens.argmax(dim=1)]
        embeddings: Tensor = ends @ self.text_projection
        return embeddings
