"""CLIP in small: a network of its form that runs in milliseconds, and its weights in files."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vadprep.backbones.clip import CONTEXT, DIM, WORDS, ClipVitB16
from vadprep.backbones.graphs import GRAPHS, Graph

NAME = "clip_vit_b16"
WIDTH, TEXT_WIDTH, LAYERS = 128, 64, 2


def small_graph(
    monkeypatch: pytest.MonkeyPatch, size: int = 224, width: int = WIDTH, layers: int = LAYERS
) -> None:
    """Make ``clip_vit_b16`` a network of few narrow layers."""
    network = partial(ClipVitB16, size, width, TEXT_WIDTH, layers)
    lengths = GRAPHS[NAME].clip_lengths
    graph = Graph(DIM, network, size, clip_lengths=lengths, of_frames=True)
    monkeypatch.setitem(GRAPHS, NAME, graph)


def open_clip_network(size: int, width: int, text_width: int, layers: int) -> nn.Module:
    """open_clip's own network of those sizes, every tensor random; the test is skipped without."""
    model = pytest.importorskip("open_clip.model")
    torch.manual_seed(0)
    vision = {"image_size": size, "layers": layers, "width": width, "patch_size": 16}
    text = {
        "context_length": CONTEXT,
        "vocab_size": WORDS,
        "width": text_width,
        "heads": text_width // 64,
        "layers": layers,
    }
    network = model.CLIP(DIM, vision, text, quick_gelu=True).eval()
    with torch.no_grad():
        for each in network.parameters():  # biases and norms would do nothing
            each.add_(0.1 * torch.randn(each.shape) * (each.std() if each.ndim > 1 else 1))
    return network


def floats(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without counters."""
    return {k: v.clone() for k, v in network.state_dict().items() if v.is_floating_point()}
