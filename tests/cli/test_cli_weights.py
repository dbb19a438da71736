"""Weights by the command line, and what a network makes of a clip."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import message, run
from support.servers import Server
from support.videos import write_video

from vadprep.backbones import Weights, load_weights
from vadprep.backbones.weights import catalog, check
from vadprep.backbones.weights.check import (
    NORM,
    check_sample,
    is_as_published,
    kinetics_classes,
    top5,
    top_classes,
)
from vadprep.backbones.weights.load import save_weights
from vadprep.backbones.weights.names import torchvision_name
from vadprep.core.errors import DecodeError, WeightsError
from vadprep.video import first_clips, open_frames
from vadprep.video.transforms import FOLDER_FPS

NAME = "s3d"
"""The smallest network."""


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("random:8", NAME)


@pytest.fixture(scope="module")
def published(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as torchvision would publish it."""
    path = tmp_path_factory.mktemp("published") / "s3d-12345678.pth"
    torch.save({torchvision_name(NAME, n): t for n, t in weights.state.items()}, path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VADPREP_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    content = published.read_bytes()
    with Server(content) as server:
        sha256 = hashlib.sha256(content).hexdigest()[:8]
        url = f"{server.url}/s3d-{sha256}.pth"
        entry = dataclasses.replace(catalog.CATALOG[NAME], url=url, sha256=sha256)
        monkeypatch.setitem(catalog.CATALOG, NAME, entry)
        yield server


def test_a_file_is_got_converted_and_found_by_its_name(
    server: Server, cache: Path, weights: Weights
) -> None:
    assert "weights get s3d" in message(run("weights", "check", NAME))
    result = run("weights", "get", NAME)
    assert result.exit_code == 0 and "identified by its hash" in result.output
    assert f"graph s3d, {len(weights.state)} tensors" in result.output
    assert sorted(each.name for each in cache.iterdir()) == [NAME, f"{NAME}.safetensors"]
    assert load_weights(NAME, NAME).sha256 == weights.sha256
    assert catalog.stored_weights(NAME) == NAME and catalog.stored_weights("i3d_r50") is None
    (line,) = [x for x in run("weights", "list").output.splitlines() if x.startswith("s3d ")]
    assert line.endswith("ready")
    checked = run("weights", "check", NAME)
    assert checked.exit_code == 0 and "original or not: unknown" in checked.output
    assert run("weights", "get", NAME).exit_code == 0 and len(server.requests) == 1


def test_a_corrupt_file_leaves_nothing(server: Server, cache: Path) -> None:
    entry = dataclasses.replace(catalog.CATALOG[NAME], sha256="0" * 8)
    catalog.CATALOG[NAME] = entry
    assert "not the file published" in message(run("weights", "get", NAME))
    assert not any(each.is_file() for each in cache.rglob("*"))


def test_the_list_for_programs_has_everything() -> None:
    rows = {row["name"]: row for row in json.loads(run("weights", "list", "--json").output)}
    assert rows["i3d-rgb"]["git_blob"] == "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a"
    assert rows["r50-nonlocal"]["url"].endswith("/i3d_baseline_32x2_IN_pretrain_400k.pkl")
    assert {"graph", "licence", "sha256"} <= set(rows["s3d"])


def test_convert_writes_beside_the_file(published: Path, weights: Weights) -> None:
    result = run("weights", "convert", published)
    own = published.with_suffix(".safetensors")
    assert result.exit_code == 0 and weights.sha256 in result.output
    assert load_weights(str(own)).sha256 == weights.sha256
    assert "would be overwritten" in message(run("weights", "convert", own))
    wrong = message(run("weights", "convert", published, "--as", "i3d-rgb", "--out", own))
    assert "not inception_i3d" in wrong


def test_weights_without_training_have_no_graph_to_check() -> None:
    assert "name a file" in message(run("weights", "check", "random:0"))


# ---------------------------------------------------------------- words


def test_classes_stand_where_other_releases_have_them() -> None:
    """Indices of video-nonlocal-net's classids.json."""
    classes = kinetics_classes()
    places = {"abseiling": 0, "playing cricket": 227, "hurling (sport)": 161, "zumba": 399}
    places |= {"passing American football (in game)": 208, "massaging person's head": 196}
    assert {name: classes.index(name) for name in places} == places


def test_best_guesses() -> None:
    logits = torch.zeros(400)
    logits[227], logits[0], logits[399] = 9.0, 7.0, 8.0
    guesses = top_classes(logits)
    names = ["playing cricket", "zumba", "abseiling"]
    assert [label for label, _, _ in guesses[:3]] == names and len(guesses) == 5
    total = np.exp([9.0, 7.0, 8.0]).sum() + 397
    assert guesses[0][1] == pytest.approx(np.exp(9) / total)


def moving_video(path: Path, num_frames: int) -> None:
    """A folder of smooth pictures that drift."""
    path.mkdir()
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 40, 3), dtype=np.uint8))
    wide = np.asarray(coarse.resize((640, 192), Image.Resampling.BICUBIC))
    for i in range(num_frames):
        Image.fromarray(wide[:, 4 * i : 4 * i + 256]).save(path / f"{i:03}.png")


def test_top5_sees_what_torchvision_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """27 frames at 25 a second are 17 at 15, so one clip of 16; transforms by torchvision."""
    from torchvision.models.video import S3D_Weights

    moving_video(tmp_path / "video", 27)
    with open_frames(tmp_path / "video", fps=FOLDER_FPS) as stream:
        frames = np.concatenate([block.copy() for block in stream])
    seen: list[torch.Tensor] = []

    def network(clips: torch.Tensor) -> torch.Tensor:
        seen.append(clips)
        return torch.zeros(len(clips), 400)

    monkeypatch.setattr(check, "classifier", lambda weights: network)
    top5(Weights("w", "", NAME, {}, ""), first_clips(tmp_path / "video", NAME))
    transforms = S3D_Weights.KINETICS400_V1.transforms()
    resampled = frames[[i * 25 // 15 for i in range(16)]]
    expected = transforms(torch.from_numpy(resampled).permute(0, 3, 1, 2))
    (clip,) = seen
    assert clip.shape == (1, 3, 16, 224, 224)
    levels = (clip[0] - expected).abs() * 255 * torch.tensor(transforms.std).view(3, 1, 1, 1)
    assert (levels <= 1.001).float().mean() > 0.999


@pytest.mark.slow
def test_top5_of_a_real_network(weights: Weights, tmp_path: Path) -> None:
    moving_video(tmp_path / "video", 54)
    guesses = top5(weights, first_clips(tmp_path / "video", NAME))
    logits = [logit for _, _, logit in guesses]
    assert logits == sorted(logits, reverse=True)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Logits [400] that a stand-in for every network gives."""
    logits = torch.linspace(-3, 9, 400)
    monkeypatch.setattr(
        check, "classifier", lambda weights: lambda clips: logits.expand(len(clips), -1)
    )
    return logits


def test_top5_prints_words(
    instant: torch.Tensor, weights: Weights, published: Path, tmp_path: Path
) -> None:
    moving_video(tmp_path / "video", 27)
    lines = run("weights", "top5", published, tmp_path / "video").output.splitlines()
    assert lines[0].split() == ["class", "probability", "logit"]
    assert [line.split()[0] for line in lines[1:6]] == [
        "zumba",
        "yoga",
        "yawning",
        "writing",
        "wrestling",
    ]
    assert lines[6] == f"s3d, weights {published.name}, views of preset s3d, centre crop"


def test_a_video_too_short_for_a_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", 20)
    with pytest.raises(DecodeError, match="12 frames at 15 fps, a clip has 16"):
        first_clips(tmp_path / "short.mp4", "r3d_18")


# ---------------------------------------------------------------- the sample clip


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """A tiny clip in the form of the sample."""
    np.save(tmp_path / "flow.npy", np.zeros((1, 9, 4, 4, 2), np.float32))
    return tmp_path / "flow.npy"


@pytest.mark.parametrize("factor, is_equal", [(1, True), (1.0005, True), (1.01, False)])
@pytest.mark.parametrize("changed", ["zumba", "norm"])
def test_the_sample_is_compared_with_what_is_published(
    instant: torch.Tensor, flow: Path, monkeypatch: pytest.MonkeyPatch, factor: float,
    is_equal: bool, changed: str,
) -> None:  # fmt: skip
    norm, logits = float(np.linalg.norm(instant.numpy())), {"yoga": instant[398].item()}
    values = {"norm": norm, "zumba": 9.0}
    values[changed] += 9.0 * (factor - 1)
    published = logits | {"zumba": values["zumba"], NORM: values["norm"]}
    monkeypatch.setitem(check.PUBLISHED, "inception_i3d_flow", published)
    pairs = check_sample(Weights("w", "", "inception_i3d_flow", {}, ""), flow)
    assert is_as_published(pairs) == is_equal and pairs[NORM][0] == pytest.approx(norm)


def test_check_prints_what_is_not_the_original(
    instant: torch.Tensor, flow: Path, tmp_path: Path
) -> None:
    save_weights(load_weights("random:9", "inception_i3d_flow"), tmp_path / "w.safetensors")
    shown = run("weights", "check", tmp_path / "w.safetensors", "--sample", flow)
    assert shown.exit_code == 1
    assert "NOT the original: 0 tensors are DeepMind's flow_imagenet" in shown.output
    assert "15.9570" in shown.output and "NOT as published" in shown.output


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x93NUMPY\x01\x00"])
def test_a_sample_that_is_no_array(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    own = Weights("w", "", "inception_i3d", {}, "")
    with pytest.raises(WeightsError, match="not a whole .npy file of numbers"):
        check_sample(own, tmp_path / "x.npy")


def test_a_sample_of_the_other_stream(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 4, 4, 2), np.float32))
    own = Weights("w", "", "inception_i3d", {}, "")
    with pytest.raises(WeightsError, match="v_CricketShot_g04_c01_rgb.npy"):
        check_sample(own, tmp_path / "x.npy")


def test_extract_takes_the_weights_that_are_here(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", 20)
    command = ("extract", "--videos", tmp_path, "--out", tmp_path / "f", "--workers", "1")
    assert "vadprep weights get i3d-rgb" in run(*command).output
    cache.mkdir(parents=True)
    catalog.converted_path("i3d-rgb-deepmind").write_bytes(b"")
    assert "i3d-rgb-deepmind.safetensors" in message(run(*command))
