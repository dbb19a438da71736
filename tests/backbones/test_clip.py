"""CLIP: both towers and the tokens are those of open_clip; prompts are the texts' embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.clips import (
    LAYERS,
    NAME,
    TEXT_WIDTH,
    WIDTH,
    floats,
    open_clip_network,
    small_graph,
)
from support.commands import message, run

from vadprep.backbones import Backbone, Weights, build, load_weights, with_weights
from vadprep.backbones.clip import CONTEXT, DIM
from vadprep.backbones.prompts import text_embeddings, tokenize
from vadprep.training.prompts import read_prompts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXTS = ["normal", "roadAccidents", "a car accident, at night!", "", "Prügelei", "so " * 200]


@pytest.mark.parametrize(
    "sizes",
    [
        (32, WIDTH, TEXT_WIDTH, LAYERS),
        pytest.param((224, 768, 512, 12), marks=pytest.mark.slow),
    ],
    ids=["small", "ViT-B/16"],
)
@torch.inference_mode()
def test_both_towers_equal_open_clips(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same random weights under the same names: largest difference / largest value."""
    theirs = open_clip_network(*sizes)
    if sizes[0] == 32:
        small_graph(monkeypatch, 32)
    ours = with_weights(build(NAME), floats(theirs))
    pictures = torch.randn(3, 3, sizes[0], sizes[0])
    tokens = tokenize(TEXTS)
    for found, expected in (
        (ours.visual(pictures), theirs.encode_image(pictures)),
        (ours.encode_text(tokens), theirs.encode_text(tokens)),
    ):
        assert expected.std() > 0.01 and found.shape == (len(expected), DIM)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_a_clip_is_the_mean_of_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    small_graph(monkeypatch, 32)
    network = with_weights(build(NAME), load_weights("random:0", NAME).state)
    clips = torch.randn(2, 3, 5, 32, 32)
    found = network(clips)
    for clip, row in zip(clips, found, strict=True):
        frames = [network.visual(frame[None])[0] for frame in clip.unbind(1)]
        torch.testing.assert_close(row, torch.stack(frames).mean(dim=0))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) < 0.9


def test_tokens_are_open_clips() -> None:
    theirs = pytest.importorskip("open_clip").get_tokenizer("ViT-B-16-quickgelu")
    tokens = tokenize(TEXTS)
    assert torch.equal(tokens, theirs(TEXTS)) and tokens.shape == (len(TEXTS), CONTEXT)
    # Start, "normal", end: as in the vocabulary that OpenAI published.
    assert tokens[0, :4].tolist() == [49406, 5967, 49407, 0]


def test_the_engine_runs_the_frames_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clips of 16 frames and of one, as ``pooling`` asks for."""
    small_graph(monkeypatch)
    weights = load_weights("random:0", NAME)
    plain = with_weights(build(NAME), weights.state)
    backbone = Backbone(weights, "cpu", "fp32", "clip")
    mean, std = (torch.tensor(x).view(1, 3, 1, 1, 1) * 255 for x in (CLIP_MEAN, CLIP_STD))
    for frames in (16, 1):
        views = torch.randint(0, 256, (2, frames, 224, 224, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected = plain((views.permute(0, 4, 1, 2, 3).float() - mean) / std)
        found = backbone(views)
        assert found.shape == (2, DIM)
        assert (found - expected).norm() < 1e-4 * expected.norm()


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# ---------------------------------------------------------------- prompts


def test_prompts_of_class_names_are_those_that_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("open_clip")
    small_graph(monkeypatch, 32)
    out = tmp_path / "new" / "prompts.npz"
    command = ("weights", "prompts", "random:0", "fighting", "B6=a car accident", "--out", out)
    assert "3 embeddings" in run(*command).output
    first, found = out.read_bytes(), read_prompts(out, DIM)
    weights = load_weights("random:0", NAME)
    expected = text_embeddings(weights, ["normal", "fighting", "a car accident"])
    np.testing.assert_array_equal(found.of(["fighting", "B6"]).numpy(), expected)
    assert np.linalg.matrix_rank(expected) == 3
    run(*command)
    assert out.read_bytes() == first


@pytest.mark.parametrize("named, word", [("=text", "CLASS=TEXT"), ("fire=", "'fire'")])
def test_a_class_without_a_text_is_refused(
    named: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_graph(monkeypatch, 32)
    out = tmp_path / "p.npz"
    assert word in message(run("weights", "prompts", "random:0", named, "--out", out))
    assert not out.exists()


def test_clip_names_no_classes_of_kinetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vadprep.backbones.weights.check import classifier
    from vadprep.core.errors import SettingError

    small_graph(monkeypatch, 32)
    weights: Weights = load_weights("random:0", NAME)
    with pytest.raises(SettingError, match="no classes of Kinetics-400"):
        classifier(weights)
