"""Tensor names of other projects, spelt out here, and the files that hold them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vadprep.backbones import Weights, load_weights
from vadprep.backbones.graphs import canonical_shapes
from vadprep.backbones.weights.catalog import CATALOG
from vadprep.backbones.weights.formats import read_file
from vadprep.backbones.weights.load import convert
from vadprep.backbones.weights.names import NAMINGS, PIERGIAJ, RESNET, caffe2_name, rename
from vadprep.core.errors import WeightsError

BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}
"""Bottlenecks of each layer of a ResNet-50."""
NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
NONLOCAL, EIGHT = "i3d_r50_nonlocal", "i3d_r50"


def resnet_names() -> dict[str, tuple[str, str]]:
    """Name in pytorchvideo -> names in Tushar-N/pytorch-resnet3d and in caffe2."""
    found = {
        "blocks.0.conv.weight": ("conv1.weight", "conv1_w"),
        "blocks.6.proj.weight": ("fc.weight", "pred_w"),
        "blocks.6.proj.bias": ("fc.bias", "pred_b"),
    }
    for tensor, short in NORM.items():
        found[f"blocks.0.norm.{tensor}"] = (f"bn1.{tensor}", f"res_conv1_bn_{short}")
    for layer, count in BLOCKS.items():
        for i in range(count):
            ours = f"blocks.{layer + (layer > 1)}.res_blocks.{i}"
            units = [(f"branch2.conv_{x}", f"branch2.norm_{x}", f"conv{n}", f"bn{n}", f"branch2{x}")
                     for n, x in enumerate("abc", 1)]  # fmt: skip
            if i == 0:
                units.append(
                    ("branch1_conv", "branch1_norm", "downsample.0", "downsample.1", "branch1")
                )
            for conv, norm, their_conv, their_norm, blob in units:
                theirs = f"layer{layer}.{i}"
                c2 = f"res{layer + 1}_{i}_{blob}"
                found[f"{ours}.{conv}.weight"] = (f"{theirs}.{their_conv}.weight", f"{c2}_w")
                for tensor, short in NORM.items():
                    names = (f"{theirs}.{their_norm}.{tensor}", f"{c2}_bn_{short}")
                    found[f"{ours}.{norm}.{tensor}"] = names
    return found


def test_resnet_names_are_a_bijection_on_the_full_list() -> None:
    """267 tensors; with the 53 counters of batch norm the 320 entries of a state dict."""
    names = resnet_names()
    assert len(names) == 267 and set(names) == set(canonical_shapes(NONLOCAL))
    for ours, (tushar, c2) in names.items():
        assert (rename(RESNET, ours), caffe2_name(ours)) == (tushar, c2)
    assert len({tushar for tushar, _ in names.values()}) == 267
    assert len({c2 for _, c2 in names.values()}) == 267


@pytest.mark.parametrize("graph", NAMINGS)
def test_every_naming_is_one_to_one(graph: str) -> None:
    names = list(canonical_shapes(graph))
    for translate in NAMINGS[graph].values():
        assert len({translate(name) for name in names}) == len(names)


def test_each_origin_of_a_known_file_is_one_that_is_read() -> None:
    for known in CATALOG.values():
        deepmind = known.origin.endswith("_imagenet")
        assert deepmind or known.origin in NAMINGS[known.graph]


# ---------------------------------------------------------------- files of ResNet-50


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("random:6", NONLOCAL)


def counters(weights: Weights, index: int) -> dict[str, torch.Tensor]:
    """The state dict of another project, steps counted by batch norm included."""
    names = resnet_names()
    state = {names[name][index]: tensor for name, tensor in weights.state.items()}
    for name in list(state):
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(3)
    return state


def blobs(weights: Weights) -> dict[str, np.ndarray]:
    arrays = {resnet_names()[name][1]: each.numpy() for name, each in weights.state.items()}
    momentum = {f"{name}_momentum": array for name, array in list(arrays.items())[:3]}
    return arrays | momentum | {"lr": np.float32(0.1), "model_iter": np.array([400000])}


def test_pth_of_pytorch_resnet3d(weights: Weights, tmp_path: Path) -> None:
    torch.save(counters(weights, 0), tmp_path / "renamed.pth")
    found = load_weights(str(tmp_path / "renamed.pth"))
    assert (found.graph, found.sha256) == (NONLOCAL, weights.sha256)
    with pytest.raises(WeightsError, match="not i3d_r50 as named by pytorchvideo"):
        load_weights(str(tmp_path / "renamed.pth"), EIGHT)


def test_pyth_of_pytorchvideo(weights: Weights, tmp_path: Path) -> None:
    wrapped = {"model_state": dict(weights.state), "epoch": 3}
    torch.save(wrapped, tmp_path / "renamed.pyth")
    found = load_weights(str(tmp_path / "renamed.pyth"))
    assert (found.graph, found.sha256) == (EIGHT, weights.sha256)
    with pytest.raises(WeightsError, match="not i3d_r50_nonlocal as named by"):
        load_weights(str(tmp_path / "renamed.pyth"), NONLOCAL)


def test_pickle_of_caffe2(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "i3d_baseline_32x2_IN_pretrain_400k.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs(weights)}, protocol=2))
    found = load_weights(str(path), NONLOCAL)
    assert (found.graph, found.sha256) == (NONLOCAL, weights.sha256)
    with pytest.raises(WeightsError, match="weights of i3d_r50_nonlocal, not of i3d_r50"):
        load_weights(str(path), EIGHT)


@pytest.mark.parametrize("protocol", range(5))
def test_every_protocol_of_pickle_is_read(tmp_path: Path, protocol: int) -> None:
    blob = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = OrderedDict(blobs={"conv1_w": blob, "lr": np.float32(1)}, cfg="text")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    tensors = read_file(tmp_path / "w.pkl").tensors
    assert list(tensors) == ["conv1_w"] and np.array_equal(tensors["conv1_w"], blob)


def test_a_caffe2_pickle_of_another_name_has_to_be_declared(
    weights: Weights, tmp_path: Path
) -> None:
    """The 8x8 model of the same project has the same names and shapes, and other strides."""
    path = tmp_path / "i3d_baseline_8x8_IN_pretrain_400k.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs(weights)}))
    for graph in (None, NONLOCAL):
        with pytest.raises(WeightsError, match="say what it is with --as"):
            load_weights(str(path), graph)
    convert(path, tmp_path / "own.safetensors", "r50-nonlocal")
    assert load_weights(str(tmp_path / "own.safetensors")).graph == NONLOCAL


def test_nonlocal_blocks_are_refused(weights: Weights, tmp_path: Path) -> None:
    more = blobs(weights) | {"nonlocal_conv3_1_theta_w": np.zeros((4, 4, 1, 1, 1), np.float32)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": more}))
    with pytest.raises(WeightsError, match="1 unexpected, such as nonlocal_conv3_1_theta_w"):
        convert(tmp_path / "w.pkl", tmp_path / "own.safetensors", "r50-nonlocal")
    assert [each.name for each in tmp_path.iterdir()] == ["w.pkl"]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


HOSTILE = [
    b"cposix\nsystem\n(S'touch ran'\ntR.",
    b'cbuiltins\neval\n(S\'open("ran","w")\'\ntR.',
    b"cnumpy\nload\n(S'x'\ntR.",
    b"ctorch\nload\n(S'x'\ntR.",
    b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(WeightsError, match="would run code .it asks for") as caught:
        read_file(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_code_deep_in_the_blobs_is_refused(tmp_path: Path) -> None:
    arrays = OrderedDict(conv1_w=np.zeros(3, np.float32), bomb=Bomb(tmp_path / "ran"))
    objects = np.array([Bomb(tmp_path / "ran")], dtype=object)
    for blob in (arrays, {"conv1_w": objects}):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": blob}))
        with pytest.raises(WeightsError, match="would run code"):
            read_file(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, line",
    [
        (b"", "not a caffe2 pickle"),
        (b"<!DOCTYPE html>", "not a caffe2 pickle"),
        (pickle.dumps({"blobs": {"a": np.zeros(9)}})[:-20], "not a caffe2 pickle"),
        (pickle.dumps([1]), "holds no 'blobs'"),
        (pickle.dumps({"blobs": 3}), "holds no 'blobs'"),
        (pickle.dumps({"blobs": {"a": np.array(["x", "y"])}}), "no numbers"),
    ],
)
def test_not_a_caffe2_model(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(WeightsError, match=line) as caught:
        read_file(tmp_path / "w.pkl")
    assert "\n" not in str(caught.value)


def test_files_that_fit_nothing_say_so(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no network of vadprep has its 1 tensor;"):
        load_weights(str(tmp_path / "w.pth"))


def test_rgb_and_flow_are_told_apart_by_their_channels(tmp_path: Path) -> None:
    for graph in ("inception_i3d", "inception_i3d_flow"):
        state = {rename(PIERGIAJ, n): torch.zeros(s) for n, s in canonical_shapes(graph).items()}
        torch.save(state, tmp_path / "w.pt")
        assert load_weights(str(tmp_path / "w.pt")).graph == graph
    state["logits.conv3d.bias"] = torch.zeros(157)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no network of vadprep has its 287 tensors"):
        load_weights(str(tmp_path / "w.pt"))


def test_a_torchvision_file(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.get_model("swin3d_t", weights=None)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = load_weights(str(tmp_path / "w.pth"))
    assert found.graph == "swin3d_t"
    assert torch.equal(found.state["head.weight"], network.head.weight)


def test_random_weights_need_a_graph() -> None:
    with pytest.raises(ValueError, match="name a file"):
        load_weights("random:0")
