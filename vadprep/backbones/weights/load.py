"""Weights of the networks: read from files without running code, or made from a seed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

import vadprep
from vadprep.backbones.graphs import canonical_shapes, graph_of
from vadprep.backbones.weights.catalog import CATALOG, converted_path, published_weights
from vadprep.backbones.weights.formats import CAFFE2, canonical_state, identify, read_file
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import SettingError, WeightsError, near_miss

RANDOM = "random:"
LONGEST_NAME = 255
"""Characters of the name of weights, as of a file name."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one network under canonical names, and where they come from."""

    name: str  # file name, or ``random:SEED``
    sha256: str  # of the tensors, so the same in whatever kind of file they came
    graph: str
    state: Mapping[str, Tensor] = field(repr=False)
    provenance: str  # one line for people


def load_weights(spec: str, graph: str | None = None, declared: str = "") -> Weights:
    """Weights from a file, from ``random:SEED``, or under a name of ``vadprep weights list``.

    A file is our own ``.safetensors`` or one that ``convert`` takes. Without ``graph`` it has to
    say itself what it is, or ``declared`` says which of ``catalog.CATALOG``. Raises WeightsError
    when it is missing, damaged, unclear or of another network, SettingError for an unknown graph
    or a bad seed.
    """
    if graph is not None:
        graph_of(graph)
    if spec.startswith(RANDOM):
        if graph is None:
            raise SettingError(f"weights = {spec!r} are of any network: name a file")
        return random_weights(spec, graph)
    path = weights_path(spec)
    contents = read_file(path, CATALOG[declared].origin if declared else "")
    if graph is None or contents.origin == CAFFE2:  # whose names leave the graph open
        identified = identify(contents, declared)
        if graph not in (None, identified):
            raise WeightsError(f"{path}: weights of {identified}, not of {graph}")
        graph = identified
    state, origin = canonical_state(contents, graph)
    name = contents.metadata.get("name", path.name)[:LONGEST_NAME]
    provenance = contents.metadata.get("provenance", f"{origin} from {path}")
    return Weights(name, state_sha256(state), graph, state, provenance)


def weights_path(spec: str) -> Path:
    """The file that ``spec`` is or names; WeightsError for a name whose file is not here yet."""
    path = Path(spec)
    if spec not in CATALOG or path.is_file():
        if not path.exists() and (hint := near_miss(spec, CATALOG)):
            raise WeightsError(f"weights {spec!r}: no such file{hint}")
        return path
    if not converted_path(spec).is_file():
        raise WeightsError(f"weights {spec} are not here yet: vadprep weights get {spec}")
    return converted_path(spec)


def convert(path: Path, target: Path, declared: str = "") -> Weights:
    """Write the weights of a file as our own ``.safetensors``; returns them.

    Raises WeightsError as ``load_weights`` does, and OutputError.
    """
    weights = load_weights(str(path), None, declared)
    notes = {"source": path.name, "source_sha256": sha256(path.read_bytes()).hexdigest()}
    if declared:
        published = CATALOG[declared]
        notes |= {"known_as": declared, "url": published.url, "licence": published.licence}
    save_weights(weights, target, notes)
    return weights


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes in order of name, hexadecimal."""
    digest = sha256()
    for name in sorted(state):
        array = state[name].numpy()
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def random_weights(spec: str, graph: str) -> Weights:
    """Untrained weights of ``random:SEED``, the same on every machine.

    Their features tell motions and appearances apart, but know nothing of Kinetics. Each tensor
    has a generator of its own, seeded with its name.
    """
    seed = spec.removeprefix(RANDOM)
    if not re.fullmatch("[0-9]{1,18}", seed):
        raise SettingError(f"weights = {spec!r}: expected {RANDOM}SEED with a whole number")
    name, state = f"{RANDOM}{int(seed)}", {}
    for tensor, shape in canonical_shapes(graph).items():
        if len(shape) > 1:
            state[tensor] = _random_filters(f"{name} {tensor}", shape)
        else:  # a norm that changes nothing
            is_one = tensor.endswith(("weight", "running_var"))
            state[tensor] = torch.ones(shape) if is_one else torch.zeros(shape)
    return Weights(name, state_sha256(state), graph, state, "random, for tests only")


def _random_filters(key: str, shape: torch.Size) -> Tensor:
    """He-uniform filters (He et al. 2015, equation 10) whose sum is 0, float32 ``shape``.

    Activations after a ReLU share a large positive mean, and random filters pass it on until
    all features look alike. Filters that sum to 0 do not see it. Whole numbers keep the sums
    exact in any order, so the bytes depend on no vector unit and no thread count.
    """
    seed = int.from_bytes(sha256(key.encode()).digest()[:4], "little")
    generator = torch.Generator().manual_seed(seed)
    limit, fan_in = 1 << 15, math.prod(shape[1:])
    steps = torch.randint(-limit, limit + 1, shape, generator=generator)
    means = steps.sum(dim=tuple(range(1, len(shape))), keepdim=True).double() / fan_in
    scale = math.sqrt(6 / (1 - 1 / math.pi) / fan_in) / limit
    return steps.double().sub_(means).mul_(scale).float()


def missing_weights_message(graph: str, wanted: str = "") -> str:
    """Several lines that say where weights for ``graph`` come from, for people.

    ``wanted`` is the name of the only weights that serve, where there is one.
    """
    option = "--flow-weights" if graph_of(graph).channels == 2 else "--weights"
    lines = [f"no weights for {graph}: get one of these, or pass a file of them as {option} FILE"]
    for name in published_weights(graph, wanted):
        published = CATALOG[name]
        lines += [f"  vadprep weights get {name}", f"    {published.url}"]
        lines += [f"    git hash-object gives {published.blob}"] if published.blob else []
    untrained = f"{option} {RANDOM}0 runs an untrained network"
    return "\n".join([*lines, f"  ({untrained}: for tests only, not for features)"])


def save_weights(weights: Weights, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write our own ``.safetensors``; the file appears whole or not at all, or OutputError."""
    metadata = {
        **{each: getattr(weights, each) for each in ("graph", "name", "sha256", "provenance")},
        "vadprep": vadprep.__version__,
        **(notes or {}),
    }
    content = save(dict(weights.state), metadata)
    stop = 8 + int.from_bytes(content[:8], "little")
    # The library writes metadata in random order, and here the same weights give the same bytes.
    header = json.dumps(json.loads(content[8:stop]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with open_atomic(path) as file:
        file.write(len(header).to_bytes(8, "little") + header + content[stop:])
