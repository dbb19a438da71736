"""VideoMAE ViT-B against the one of transformers, and the weights files of both projects."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

from vadprep.backbones import GRAPHS, build, load_weights
from vadprep.backbones.graphs import canonical_shapes, with_weights
from vadprep.backbones.videomae import VideoMAE
from vadprep.backbones.weights.load import state_sha256
from vadprep.cli.main import main
from vadprep.core.errors import WeightsError

GRAPH = "videomae_b"
REFERENCE = Path(__file__).with_name("videomae_by_transformers.npz")
"""Features [768] and logits [400] of ``clip`` by networks of 2 and 12 layers, float32:
``features_2``, ``logits_2`` and so on, from ``by_transformers`` with transformers 5.24.0 and torch
2.14.1, as ``np.savez`` writes them."""
State = Mapping[str, Tensor]
LAYERS = [2, pytest.param(12, marks=pytest.mark.slow)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> State:
    """Tensors of a network of two layers, which is ``videomae_b`` meanwhile."""
    return with_layers(2, monkeypatch)


def with_layers(layers: int, monkeypatch: pytest.MonkeyPatch) -> State:
    """The filters of ``random:0``; norms and biases by a formula, since those change nothing."""
    graph = replace(GRAPHS[GRAPH], build=partial(VideoMAE, layers))
    monkeypatch.setitem(GRAPHS, GRAPH, graph)
    filters = load_weights("random:0", GRAPH).state
    return {name: t if t.ndim > 1 else wave(name, len(t)) for name, t in filters.items()}


def wave(name: str, length: int) -> Tensor:
    """Around 1 for the weights of a norm and around 0 for biases, float32 [length]."""
    phase = torch.arange(length, dtype=torch.float64) + zlib.crc32(name.encode()) % 1000
    return (0.2 * torch.sin(phase) + name.endswith("weight")).float()


def clip() -> Tensor:
    """Waves in all directions, float32 [1, 3, 16, 224, 224]."""
    shape = (1, 3, 16, 224, 224)
    place = torch.arange(np.prod(shape), dtype=torch.float64).view(shape)
    return (place * 0.37 + (place / 224).floor() * 0.61).sin().float()


def transformers_names(state: State, version: int) -> dict[str, Tensor]:
    """``state`` under the names of transformers, spelt out, as version 4 and 5 have them."""
    found = {
        "videomae.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "videomae.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        **{f"fc_norm.{part}": state[f"fc_norm.{part}"] for part in ("weight", "bias")},
        **{f"classifier.{part}": state[f"head.{part}"] for part in ("weight", "bias")},
    }
    modules = {
        "attn.proj": "attention.output.dense", "norm1": "layernorm_before",
        "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    layers = sum(name.endswith("norm1.weight") for name in state)
    for layer in range(layers):
        ours, theirs = f"blocks.{layer}", f"videomae.encoder.layer.{layer}"
        for one, other in modules.items():
            for part in ("weight", "bias"):
                found[f"{theirs}.{other}.{part}"] = state[f"{ours}.{one}.{part}"]
        attention = f"{theirs}.attention.attention"
        matrices = state[f"{ours}.attn.qkv.weight"].split(768)
        for name, matrix in zip(("query", "key", "value"), matrices, strict=True):
            found[f"{attention}.{name}.weight"] = matrix.clone()
        for name in ("query", "value"):
            bias = f"{name[0]}_bias" if version == 4 else f"{name}.bias"
            found[f"{attention}.{bias}"] = state[f"{ours}.attn.{name[0]}_bias"]
    assert len(found) == 6 + 15 * layers
    return found


def by_transformers(state: State, layers: int) -> tuple[Tensor, Tensor]:
    """Features [1, 768] and logits [1, 400] by transformers, with the official epsilon of norms."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    # All else is ViT-B and 16 frames as it is.
    config = VideoMAEConfig(num_labels=400, layer_norm_eps=1e-6, num_hidden_layers=layers)
    network = VideoMAEForVideoClassification(config).eval()
    network.fc_norm.eps = 1e-6
    network.load_state_dict(transformers_names(state, 5))
    frames = clip().transpose(1, 2)
    tokens = network.videomae(frames).last_hidden_state
    return network.fc_norm(tokens.mean(1)), network(frames).logits


@pytest.mark.parametrize("layers", LAYERS)
@torch.inference_mode()
def test_features_and_logits_are_those_of_transformers(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = with_layers(layers, monkeypatch)
    network = with_weights(build(GRAPH), state)
    assert {each.eps for each in network.modules() if isinstance(each, nn.LayerNorm)} == {1e-6}
    features = network(clip())[0]
    with np.load(REFERENCE) as expected:
        for found, name in ((features, "features"), (network.head(features), "logits")):
            error = found - torch.from_numpy(expected[f"{name}_{layers}"])
            assert error.norm() < 1e-5 * found.norm()


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 12])
@torch.inference_mode()
def test_the_stored_numbers_are_those_of_transformers(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    features, logits = by_transformers(with_layers(layers, monkeypatch), layers)
    with np.load(REFERENCE) as stored:
        for found, name in ((features[0], "features"), (logits[0], "logits")):
            np.testing.assert_allclose(found.numpy(), stored[f"{name}_{layers}"], atol=2e-5)


def official(state: State, path: Path) -> None:
    """As DeepSpeed writes it, with what lies beside the weights."""
    torch.save({"module": dict(state), "epoch": 74, "lr_scheduler": None}, path)


def official_trained(state: State, path: Path) -> None:
    """As the official code writes it without DeepSpeed."""
    content = {"model": dict(state), "epoch": 74, "args": argparse.Namespace(lr=5e-4, betas=[0.9])}
    torch.save(content, path)


def transformers_4(state: State, path: Path) -> None:
    save_file(transformers_names(state, 4), path, {"format": "pt"})


def transformers_5(state: State, path: Path) -> None:
    torch.save(transformers_names(state, 5), path)


@pytest.mark.parametrize(
    "write, name",
    [
        (official, "checkpoint.pth"),
        (official_trained, "checkpoint-best.pth"),
        (transformers_4, "model.safetensors"),
        (transformers_5, "pytorch_model.bin"),
    ],
)
def test_files_of_both_projects_convert(
    tmp_path: Path, short: State, write: Callable[[State, Path], None], name: str
) -> None:
    write(short, tmp_path / name)
    target = tmp_path / "own.safetensors"
    done = CliRunner().invoke(
        main, ["weights", "convert", str(tmp_path / name), "--out", str(target)]
    )
    assert done.exit_code == 0, done.output
    assert f"graph {GRAPH}, 32 tensors, SHA-256 of them {state_sha256(short)}" in done.output
    found = load_weights(str(target))
    assert (found.graph, found.sha256) == (GRAPH, state_sha256(short))


def test_a_file_of_transformers_is_not_overwritten(tmp_path: Path, short: State) -> None:
    transformers_4(short, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    done = CliRunner().invoke(main, ["weights", "convert", str(tmp_path / "model.safetensors")])
    assert done.exit_code == 2 and "name the new file with --out" in done.output
    assert (tmp_path / "model.safetensors").read_bytes() == content


def test_another_network_under_a_usual_name_is_not_taken_for_it(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="no network of vadprep has its 1 tensor;"):
        load_weights(str(tmp_path / "model.safetensors"))


def test_weights_that_were_only_pretrained_are_refused(tmp_path: Path) -> None:
    """They have a decoder and no ``fc_norm``: their features are another thing."""
    shapes = canonical_shapes(GRAPH).items()
    encoder = {f"encoder.{n}": torch.zeros(s) for n, s in shapes if n.startswith("blocks.0")}
    torch.save({"model": encoder}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="not videomae_b as named by MCG-NJU/VideoMAE"):
        load_weights(str(tmp_path / "checkpoint.pth"), GRAPH)


@pytest.mark.parametrize(
    "name, licence, identified",
    [
        (GRAPH, "CC-BY-NC-4.0", "nothing"),
        ("clip-vit-b16", "MIT", "SHA-256"),
        ("clip-vit-b16-open_clip", "MIT", "nothing"),
    ],
)
def test_licence_and_hash_are_shown(name: str, licence: str, identified: str) -> None:
    lines = CliRunner().invoke(main, ["weights", "list"]).output.splitlines()
    (line,) = [line for line in lines if line.split()[0] == name]
    assert line.split()[3:5] == [licence, identified]
