"""DeepMind's Inception-I3D checkpoints: read with numpy, and recognised by their own CRCs.

``deepmind_crc32c.csv`` holds the masked CRC-32C that the ``.index`` files of ``rgb_imagenet``
and ``flow_imagenet`` state for each of the 230 tensors. With it any conversion of those weights
is compared with the release, tensor by tensor, and no TensorFlow.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vadprep.backbones.graphs import canonical_shapes
from vadprep.backbones.weights.crc32c import crc32c, masked
from vadprep.backbones.weights.names import deepmind_name
from vadprep.backbones.weights.tensorflow import DATA, Arrays, Entry, read_index, read_tensors
from vadprep.core.errors import WeightsError

RELEASES = {"rgb_imagenet": "inception_i3d", "flow_imagenet": "inception_i3d_flow"}
"""Checkpoints whose CRCs are known, and their graphs."""
SCOPES = {"inception_i3d": "RGB", "inception_i3d_flow": "Flow"}
"""First part of the names in a checkpoint."""
TABLE = Path(__file__).with_name("deepmind_crc32c.csv")

State = Mapping[str, Tensor]


def released_crcs(release: str) -> dict[str, int]:
    """Masked CRC-32C by DeepMind's name (behind the scope), as the index of the release has it."""
    with open(TABLE, newline="") as file:
        return {row["tensor"]: int(row[release], 16) for row in csv.DictReader(file)}


def released_index(release: str) -> dict[str, Entry]:
    """The index of a release, for when only its data file is at hand.

    Its tensors lie end to end in order of their names.
    """
    graph = RELEASES[release]
    shapes = {
        theirs: _their_shape(tuple(shape))
        for ours, shape in canonical_shapes(graph).items()
        if (theirs := deepmind_name(ours))
    }
    index, offset = {}, 0
    for name, crc in sorted(released_crcs(release).items()):
        entry = Entry(shapes[name], offset, crc)
        index[f"{SCOPES[graph]}/inception_i3d/{name}"] = entry
        offset += entry.size
    return index


def is_checkpoint(path: Path) -> bool:
    """True for a file of a TensorFlow checkpoint, by its name."""
    return path.name.endswith((".index", DATA))


def read_checkpoint(path: Path, release: str = "") -> Arrays:
    """Tensors of the checkpoint that ``path``, its index or data file, belongs to.

    Without an ``.index`` beside it, the bundled one of ``release`` serves. Raises WeightsError
    for a file that is missing or damaged, with the name of the tensor.
    """
    stem = path.name.removesuffix(".index").removesuffix(DATA)
    index_path, data = path.with_name(stem + ".index"), path.with_name(stem + DATA)
    if not data.is_file():
        raise WeightsError(f"{data}: no such file, which holds the tensors of {path.name}")
    if index_path.is_file():
        return read_tensors(data, read_index(index_path))
    if release not in RELEASES:
        raise WeightsError(
            f"{index_path}: no such file, without which the data file cannot be read "
            f"(only of {', '.join(RELEASES)} is it bundled: name one with --as)"
        )
    return read_tensors(data, released_index(release))


def scope_graph(arrays: Arrays) -> str | None:
    """Graph id that the names of a checkpoint say, None for another network."""
    scopes = {name.split("/")[0] for name in arrays}
    return next((graph for graph, scope in SCOPES.items() if scopes == {scope}), None)


def from_deepmind(arrays: Arrays, graph: str) -> dict[str, Tensor]:
    """Tensors under canonical names, transposed, with the batch-norm scale of 1 filled in.

    Names that the graph has not got stay as they are, for the caller to refuse.
    """
    left = dict(arrays)
    state = {}
    for ours, shape in canonical_shapes(graph).items():
        theirs = deepmind_name(ours)
        if theirs is None:
            state[ours] = torch.ones(shape)
        elif (array := left.pop(f"{SCOPES[graph]}/inception_i3d/{theirs}", None)) is not None:
            ordered = array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array
            state[ours] = torch.from_numpy(np.ascontiguousarray(ordered, dtype=np.float32))
    return state | {name: torch.from_numpy(array.copy()) for name, array in left.items()}


def _their_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[out, in, t, h, w] as [t, h, w, in, out]."""
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 5 else shape


@dataclass(frozen=True)
class Comparison:
    """An Inception-I3D against a release of DeepMind's."""

    release: str
    num_equal: int
    """Of the 230 tensors that DeepMind has."""
    differing: tuple[str, ...]
    """Canonical names."""

    @property
    def is_original(self) -> bool:
        """True when every tensor is DeepMind's to the bit."""
        return not self.differing

    def __str__(self) -> str:
        if self.is_original:
            return f"original: all {self.num_equal} tensors are DeepMind's {self.release}"
        first = ", ".join(self.differing[:3])
        more = f" and {len(self.differing) - 3} more" if len(self.differing) > 3 else ""
        return (
            f"NOT the original: {self.num_equal} tensors are DeepMind's {self.release}; "
            f"not {first}{more}"
        )


def compare_with_release(state: State, graph: str) -> Comparison:
    """Which tensors of an Inception-I3D are DeepMind's; ValueError for another graph.

    Batch-norm scales, which DeepMind has not got, count as theirs when they are 1.
    """
    release = next((name for name, of in RELEASES.items() if of == graph), None)
    if release is None:
        raise ValueError(f"{graph = }: CRCs are known of {', '.join(RELEASES.values())}")
    crcs = released_crcs(release)
    equal, differing = 0, []
    for ours, tensor in state.items():
        theirs = deepmind_name(ours)
        if theirs is not None and _crc(tensor) == crcs[theirs]:
            equal += 1
        elif theirs is not None or not (tensor == 1).all():
            differing.append(ours)
    return Comparison(release, equal, tuple(differing))


def _crc(tensor: Tensor) -> int:
    """Masked CRC-32C of a tensor in DeepMind's layout."""
    array = tensor.numpy()
    ordered = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
    return masked(crc32c(np.ascontiguousarray(ordered, dtype="<f4").view(np.uint8).ravel()))
