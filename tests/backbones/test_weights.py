"""Weights files of other projects, our own, damaged and hostile ones, and random weights."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vadprep.backbones import Weights, build, load_weights, missing_weights_message
from vadprep.backbones.weights.load import save_weights
from vadprep.core.errors import WeightsError

GRAPH = "inception_i3d"
BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
BRANCHES = {  # canonical, piergiaj, hassony2
    "Branch_0.Conv3d_0a_1x1": ("b0", "branch_0"),
    "Branch_1.Conv3d_0a_1x1": ("b1a", "branch_1.0"),
    "Branch_1.Conv3d_0b_3x3": ("b1b", "branch_1.1"),
    "Branch_2.Conv3d_0a_1x1": ("b2a", "branch_2.0"),
    "Branch_2.Conv3d_0b_3x3": ("b2b", "branch_2.1"),
    "Branch_3.Conv3d_0b_1x1": ("b3b", "branch_3.1"),
}
TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("random:3", GRAPH)


def names(origin: int) -> dict[str, str]:
    """All 344 names of piergiaj (0) or hassony2 (1), spelt out, to canonical ones."""
    units = {unit: (unit, unit.lower())[origin] for unit in STEM}
    for block in BLOCKS:
        for ours, theirs in BRANCHES.items():
            mixed = ("Mixed_", "mixed_")[origin] + block
            units[f"Mixed_{block}.{ours}"] = f"{mixed}.{theirs[origin]}"
    norm = ("bn", "batch3d")[origin]
    found = {}
    for ours, theirs in units.items():
        found[f"{theirs}.conv3d.weight"] = f"{ours}.conv.weight"
        found |= {f"{theirs}.{norm}.{t}": f"{ours}.bn.{t}" for t in TENSORS}
    logits = ("logits", "conv3d_0c_1x1")[origin]
    for tensor in ("weight", "bias"):
        found[f"{logits}.conv3d.{tensor}"] = f"Logits.Conv3d_0c_1x1.{tensor}"
    assert len(found) == 344
    return found


def foreign(weights: Weights, origin: int, tracked: bool = True) -> State:
    state = {}
    for theirs, ours in names(origin).items():
        if not ours.endswith("num_batches_tracked"):
            state[theirs] = weights.state[ours]
        elif tracked:
            state[theirs] = torch.tensor(7)
    return state


@pytest.mark.parametrize("origin, tracked", [(0, True), (1, False)])
def test_names_of_other_projects(
    weights: Weights, tmp_path: Path, origin: int, tracked: bool
) -> None:
    torch.save(foreign(weights, origin, tracked), tmp_path / "w.pt")
    loaded = load_weights(str(tmp_path / "w.pt"), GRAPH)
    assert (loaded.name, loaded.sha256) == ("w.pt", weights.sha256)
    assert all(torch.equal(loaded.state[n], t) for n, t in weights.state.items())


@pytest.mark.parametrize("origin", [0, 1])
def test_files_of_one_stream_are_refused_for_the_other(
    weights: Weights, tmp_path: Path, origin: int
) -> None:
    flow = load_weights("random:3", "inception_i3d_flow")
    torch.save(foreign(weights, origin), tmp_path / "rgb.pt")
    torch.save(foreign(flow, origin), tmp_path / "flow.pt")
    loaded = load_weights(str(tmp_path / "flow.pt"), flow.graph)
    assert (loaded.sha256, loaded.graph) == (flow.sha256, "inception_i3d_flow")
    with pytest.raises(WeightsError, match=r"rgb.pt: weights for RGB \(3 .*--flow-weights those"):
        load_weights(str(tmp_path / "rgb.pt"), flow.graph)
    with pytest.raises(WeightsError, match=r"flow.pt: weights for flow \(2 .*--weights names"):
        load_weights(str(tmp_path / "flow.pt"), GRAPH)


def test_own_file_round_trip(weights: Weights, tmp_path: Path) -> None:
    save_weights(weights, tmp_path / "own.safetensors")
    assert load_weights(str(tmp_path / "own.safetensors"), GRAPH).sha256 == weights.sha256


def test_own_file_of_another_graph(weights: Weights, tmp_path: Path) -> None:
    other = dataclasses.replace(weights, graph="other")
    save_weights(other, tmp_path / "own.safetensors")
    with pytest.raises(WeightsError, match="made for graph other"):
        load_weights(str(tmp_path / "own.safetensors"), GRAPH)


def charades(state: State) -> None:
    state["logits.conv3d.weight"] = torch.zeros(157, 1024, 1, 1, 1)
    state["logits.conv3d.bias"] = torch.zeros(157)


def resnet(state: State) -> None:
    state.clear()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 3, 1, 1)


def one_missing(state: State) -> None:
    del state["Mixed_4d.b2a.bn.bias"]


def one_extra(state: State) -> None:
    state["nonlocal.weight"] = torch.zeros(1)


def not_finite(state: State) -> None:
    state["Mixed_4d.b2a.bn.bias"] = torch.full((24,), torch.nan)


@pytest.mark.parametrize(
    "spoil, line",
    [
        (charades, r"logits?.*157|157.*400"),
        (resnet, "not inception_i3d.*layer1.0.conv1.weight"),
        (one_missing, "1 missing, such as Mixed_4d.b2a.bn.bias"),
        (one_extra, "1 unexpected, such as nonlocal.weight"),
        (not_finite, "not finite"),
    ],
)
def test_another_network(
    weights: Weights, tmp_path: Path, spoil: Callable[[State], None], line: str
) -> None:
    state = foreign(weights, 0)
    spoil(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=line) as caught:
        load_weights(str(tmp_path / "w.pt"), GRAPH)
    assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "ran")}, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    for name in ("w.pt", "raw.pt"):
        with pytest.raises(WeightsError, match="would run code"):
            load_weights(str(tmp_path / name), GRAPH)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world\n", b"<!DOCTYPE html><html>", b"\x80\x02"])
def test_not_a_weights_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a "):
        load_weights(str(path), GRAPH)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_file(weights: Weights, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(foreign(weights, 0), path)
    else:
        save_weights(weights, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match="w.(pt|safetensors)"):
        load_weights(str(path), GRAPH)


@pytest.mark.parametrize("key", ["", "state_dict", "model_state", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_of_a_training_holds_its_weights(
    weights: Weights, tmp_path: Path, prefix: str, key: str
) -> None:
    """Wrapped beside other things, with the names that DataParallel gives."""
    state = {prefix + name: tensor for name, tensor in foreign(weights, 0).items()}
    torch.save({"epoch": 3, key: state} if key else state, tmp_path / "w.pt")
    assert load_weights(str(tmp_path / "w.pt"), GRAPH).sha256 == weights.sha256
    assert load_weights(str(tmp_path / "w.pt")).graph == GRAPH


def test_a_wrapping_of_another_name_says_its_keys(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "net": {}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="epoch, net"):
        load_weights(str(tmp_path / "w.pt"), GRAPH)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such"):
        load_weights(str(tmp_path / "w.pt"), GRAPH)


def test_random_weights_are_those_of_their_seed(weights: Weights) -> None:
    again, other = load_weights("random:3", GRAPH), load_weights("random:4", GRAPH)
    assert again.name == "random:3"
    assert again.sha256 == weights.sha256 != other.sha256


def test_random_filters_are_he_scaled_and_sum_to_zero(weights: Weights) -> None:
    """Variance 2 / (1 - 1/pi) / fan-in: He et al. 2015 for inputs whose mean is not seen."""
    filters = weights.state["Mixed_4b.Branch_1.Conv3d_0b_3x3.conv.weight"].double()
    assert filters.sum(dim=(1, 2, 3, 4)).abs().max() < 1e-5
    assert filters.var().item() == pytest.approx(2 / (1 - 1 / torch.pi) / (96 * 27), rel=0.01)


def test_weights_fit_the_readable_network(weights: Weights) -> None:
    build(GRAPH).load_state_dict(dict(weights.state), strict=True)


@pytest.mark.parametrize("spec", ["random:", "random:x", "random:-1"])
def test_bad_seed(spec: str) -> None:
    with pytest.raises(ValueError, match="SEED"):
        load_weights(spec, GRAPH)


def test_message_for_no_weights_names_the_remedy() -> None:
    message = missing_weights_message(GRAPH)
    for part in ("rgb_imagenet.pt", "73a4fd1d87eb", "--weights FILE", "--weights random:0"):
        assert part in message
