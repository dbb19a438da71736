"""Prompt embeddings of class names, by CLIP: the file that ``--prompts`` of training takes.

The tokens are those of open_clip's tokenizer (extra ``clip``), which has the list of words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.backbones.clip import ClipVitB16
from vadprep.backbones.graphs import build, with_weights
from vadprep.backbones.weights.load import Weights
from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.errors import SettingError

GRAPH = "clip_vit_b16"


def tokenize(texts: Sequence[str]) -> Tensor:
    """Tokens int64 [N, 77] of texts, in small letters; a text of more is cut."""
    from open_clip.tokenizer import SimpleTokenizer  # seconds: only who needs it

    tokens: Tensor = SimpleTokenizer()(list(texts))
    return tokens


@torch.inference_mode()
def text_embeddings(weights: Weights, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings float32 [N, 512] of texts by CLIP, not of unit length."""
    network = with_weights(build(GRAPH), weights.state)
    assert isinstance(network, ClipVitB16)
    return network.encode_text(tokenize(texts)).numpy()


def write_prompts(path: Path, weights: Weights, texts: Mapping[str, str]) -> None:
    """Write a .npz file with the embedding float32 [512] of each text under the name of its class.

    The same weights and texts give the same bytes on one machine. Raises SettingError for a text
    without a word, and OutputError.
    """
    if empty := [name for name, text in texts.items() if not (name.strip() and text.strip())]:
        raise SettingError(f"class {empty[0]!r}: no text: name it as CLASS or CLASS=TEXT")
    rows = text_embeddings(weights, list(texts.values()))
    make_folder(path.parent)
    with open_atomic(path) as file:
        np.savez(file, allow_pickle=False, **dict(zip(texts, rows, strict=True)))
