"""TensorFlow's checkpoints without TensorFlow.

The checkpoints here are small or of random weights, written by ``bundles``. DeepMind's own could
not be had; their tensor names, offsets and CRCs are in the bundled table.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import bundles

from vadprep.backbones import Weights, load_weights
from vadprep.backbones.weights import deepmind
from vadprep.backbones.weights.deepmind import (
    deepmind_name,
    masked_crc32c,
    read_index,
    read_tensors,
)
from vadprep.backbones.weights.load import convert
from vadprep.core.errors import WeightsError

DATA = ".data-00000-of-00001"
RGB, FLOW = "inception_i3d", "inception_i3d_flow"
Arrays = dict[str, NDArray[np.float32]]


def test_masked_crc_is_that_of_the_format() -> None:
    content = np.random.default_rng(0).bytes(2049)
    assert masked_crc32c(content) == bundles.mask(bundles.slow_crc(content))
    assert masked_crc32c(b"123456789") == bundles.mask(0xE3069283)  # RFC 3720's check value


def small_arrays(count: int) -> Arrays:
    random = np.random.default_rng(0)
    return {
        f"RGB/inception_i3d/Mixed_{i:03}/conv_3d/w": random.normal(size=(i % 3 + 1, 2, 5))
        .astype(np.float32)
        for i in range(count)
    }  # fmt: skip


def write_small(stem: Path, count: int = 200) -> Arrays:
    """A checkpoint whose index has several blocks and restarts."""
    arrays = small_arrays(count)
    crcs = {name: bundles.mask(bundles.slow_crc(a.tobytes())) for name, a in arrays.items()}
    bundles.write_checkpoint(stem, arrays, crcs)
    return arrays


def test_checkpoint_is_read_back(tmp_path: Path) -> None:
    arrays = write_small(tmp_path / "model.ckpt")
    index = read_index(tmp_path / "model.ckpt.index")
    assert (tmp_path / "model.ckpt.index").stat().st_size > 2 * bundles.BLOCK_BYTES
    found = read_tensors(tmp_path / f"model.ckpt{DATA}", index)
    assert list(found) == sorted(arrays)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_a_flipped_bit_is_found_and_its_tensor_named(tmp_path: Path) -> None:
    write_small(tmp_path / "model.ckpt", 9)
    data = tmp_path / f"model.ckpt{DATA}"
    index = read_index(tmp_path / "model.ckpt.index")
    for name, place in index.items():
        content = bytearray(data.read_bytes())
        content[place.offset + place.size // 2] ^= 4
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} is damaged"):
            read_tensors(tmp_path / "bad", index)


@pytest.mark.parametrize("at", [3, 200, 5000, -60])
def test_a_flipped_bit_in_the_index(tmp_path: Path, at: int) -> None:
    write_small(tmp_path / "model.ckpt")
    path = tmp_path / "model.ckpt.index"
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_index(path)


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", "not an index"),
        (b"<!DOCTYPE html>" * 9, "not an index"),
        (bytes(40) + bundles.MAGIC.to_bytes(8, "little"), "damaged"),
        (b"\xff" * 40 + bundles.MAGIC.to_bytes(8, "little"), "damaged"),
        (bundles.index([(b"a", b"")], compression=1), "compressed"),
        (bundles.index([(b"a", bundles.field(1, 1))]), "damaged"),
        (bundles.index([(b"a", b"\x0b" * 9)]), "damaged"),
    ],
)
def test_not_an_index(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "x.index").write_bytes(content)
    with pytest.raises(WeightsError, match=line) as caught:
        read_index(tmp_path / "x.index")
    assert "\n" not in str(caught.value)


def test_truncated_data_file(tmp_path: Path) -> None:
    write_small(tmp_path / "model.ckpt", 9)
    data = tmp_path / f"model.ckpt{DATA}"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="ends within RGB/inception_i3d/Mixed_008"):
        read_tensors(data, read_index(tmp_path / "model.ckpt.index"))


# ---------------------------------------------------------------- DeepMind's checkpoints


def test_the_bundled_table_covers_each_tensor_once() -> None:
    for release, graph in deepmind.RELEASES.items():
        names = {deepmind_name(each) for each in deepmind.canonical_shapes(graph)} - {None}
        assert names == set(deepmind.released_crcs(release)) and len(names) == 230
    assert "Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in names  # the release's slip
    assert "Mixed_5c/Branch_2/Conv3d_0b_3x3/conv_3d/w" in names


@pytest.mark.parametrize(
    "release, size, name, offset, crc",
    [  # from the .index files of the release
        ("rgb_imagenet", 50_818_176, "Conv3d_1a_7x7/conv_3d/w", 768, 0x4D9701F3),
        ("flow_imagenet", 50_730_368, "Conv3d_1a_7x7/conv_3d/w", 768, 0x3B88BD5E),
        ("rgb_imagenet", 50_818_176, "Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w", 50_392_192,
         0xD816BAAB),
    ],
)  # fmt: skip
def test_places_of_the_release(release: str, size: int, name: str, offset: int, crc: int) -> None:
    index = deepmind.released_index(release)
    scope = {"rgb_imagenet": "RGB", "flow_imagenet": "Flow"}[release]
    entry = index[f"{scope}/inception_i3d/{name}"]
    assert (entry.offset, entry.crc) == (offset, crc)
    assert max(each.offset + each.size for each in index.values()) == size


def in_their_layout(weights: Weights, scope: str) -> Arrays:
    """Tensors by DeepMind's names, spelt out here: [t, h, w, in, out], no batch-norm scale."""
    arrays = {}
    for name, tensor in weights.state.items():
        *path, part = name.split(".")
        if part == "weight" and path[-1] == "bn":
            continue
        kind = {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        if path[-1] == "bn":
            path[-1:] = ["batch_norm", kind[part]]
        else:
            path[-1:] = [path[-1].replace("conv", "conv_3d")] if path[-1] == "conv" else [
                path[-1], "conv_3d"
            ]  # fmt: skip
            path.append({"weight": "w", "bias": "b"}[part])
        theirs = "/".join(path).replace(
            "Mixed_5b/Branch_2/Conv3d_0b_3x3", "Mixed_5b/Branch_2/Conv3d_0a_3x3"
        )
        array = (
            np.moveaxis(tensor.numpy(), (0, 1), (-1, -2)) if tensor.ndim == 5 else tensor.numpy()
        )
        arrays[f"{scope}/inception_i3d/{theirs}"] = np.ascontiguousarray(array)
    assert len(arrays) == 230
    return arrays


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("random:5", FLOW)


@pytest.fixture(scope="module")
def checkpoint(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as DeepMind's flow checkpoint; the path of its index."""
    stem = tmp_path_factory.mktemp("tf") / "model.ckpt"
    arrays = in_their_layout(weights, "Flow")
    crcs = {name: masked_crc32c(array.tobytes()) for name, array in arrays.items()}
    bundles.write_checkpoint(stem, arrays, crcs)
    return Path(f"{stem}.index")


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> Path:
    target = checkpoint.with_name("own.safetensors")
    convert(checkpoint, target)
    return target


def test_a_checkpoint_is_converted_to_the_bit(weights: Weights, converted: Path) -> None:
    own = load_weights(str(converted))
    assert (own.graph, own.sha256, own.name) == (FLOW, weights.sha256, "model.ckpt.index")
    assert all(torch.equal(own.state[name], each) for name, each in weights.state.items())


def test_without_an_index_a_file_has_to_be_one_of_the_release(
    checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / f"model.ckpt{DATA}"
    data.symlink_to(checkpoint.with_name(data.name))
    with pytest.raises(WeightsError, match="name one with --as"):
        load_weights(str(data))
    with pytest.raises(WeightsError, match="Conv3d_1a_7x7/batch_norm/beta is damaged"):
        convert(data, tmp_path / "w.safetensors", "i3d-flow-deepmind")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the random checkpoint were the release."""
    index = read_index(checkpoint)
    rows = [f"{name.split('/', 2)[2]},{entry.crc:08x}" for name, entry in index.items()]
    (tmp_path / "crcs.csv").write_text("\n".join(["tensor,flow_imagenet", *rows]))
    monkeypatch.setattr(deepmind, "TABLE", tmp_path / "crcs.csv")


def test_the_original_is_recognised(published: None, converted: Path) -> None:
    found = load_weights(str(converted))
    differing, line = deepmind.compare_with_release(found.state, FLOW)
    assert not differing and line == "original: all 230 tensors are DeepMind's flow_imagenet"


def test_changed_tensors_are_named(published: None, weights: Weights) -> None:
    names = ("Mixed_3b.Branch_0.Conv3d_0a_1x1.bn.weight", "Mixed_5c.Branch_2.Conv3d_0b_3x3.bn.bias")
    state = dict(weights.state)
    for name in names:
        state[name] = state[name].clone()
        state[name].view(torch.int32)[-1] ^= 1  # the lowest bit of one number
    differing, line = deepmind.compare_with_release(state, FLOW)
    assert differing == list(names) and line.endswith(f"; not {', '.join(names)}")
    assert "229 tensors" in line  # of a scale DeepMind has none


def test_what_it_was_made_from_stands_in_the_file(checkpoint: Path, converted: Path) -> None:
    from safetensors import safe_open

    with safe_open(converted, framework="pt") as file:
        said = file.metadata()
    assert said["graph"] == FLOW and said["source"] == "model.ckpt.index"
    assert said["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert said["provenance"].startswith("google-deepmind/kinetics-i3d from ")
