"""The networks by graph id: an explicit table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from vadprep.backbones import inception, resnet
from vadprep.backbones.inception_folded import FoldedInception
from vadprep.backbones.scaling import Scaled, Scaling
from vadprep.backbones.torchvision import CLASSIFIERS, VideoClassifier
from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.errors import SettingError

GraphId = str
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Graph:
    """One network: its readable form, its inference form, the clips it takes, its feature."""

    dim: int
    build: Callable[[], nn.Module]
    """The readable module, with ``logits``; the names of its tensors are the canonical ones."""
    fold: Callable[[State, str, Scaling], nn.Module]
    """Module from uint8 views to features, made of those tensors, laid out for a precision."""
    size: int = 224
    """Side of a view in px."""
    clip_length: int = CLIP_LENGTH
    channels: int = 3
    """Of a view: 3 for RGB, 2 for flow."""


def fold_nothing(
    build: Callable[[], nn.Module], state: State, precision: str, scaling: Scaling
) -> nn.Module:
    """The readable network behind its scaling."""
    return Scaled(with_weights(build(), state), scaling)


def _classifier(name: str) -> Graph:
    form, build = CLASSIFIERS[name], partial(VideoClassifier, name)
    return Graph(form.dim, build, partial(fold_nothing, build), form.size)


def _resnet(build: Callable[[], resnet.ResNetI3D], size: int, clip_length: int) -> Graph:
    return Graph(resnet.DIM, build, partial(resnet.fold_resnet, build), size, clip_length)


GRAPHS: dict[GraphId, Graph] = {
    "inception_i3d": Graph(inception.DIM, inception.InceptionI3D, FoldedInception),
    "inception_i3d_flow": Graph(
        inception.DIM, partial(inception.InceptionI3D, 2), FoldedInception, channels=2
    ),
    "i3d_r50": _resnet(resnet.i3d_r50, size=256, clip_length=8),
    "i3d_r50_nonlocal": _resnet(resnet.i3d_r50_nonlocal, size=224, clip_length=CLIP_LENGTH),
    **{name: _classifier(name) for name in CLASSIFIERS},
}


def graph_of(name: GraphId) -> Graph:
    """The graph of that id; raises SettingError for an unknown one."""
    if name not in GRAPHS:
        raise SettingError(f"graph = {name!r}: allowed are {', '.join(GRAPHS)}")
    return GRAPHS[name]


def build(graph: GraphId) -> nn.Module:
    """The readable network in inference mode, its tensors not yet initialised to anything."""
    return graph_of(graph).build().eval()


def with_weights(network: nn.Module, state: State) -> nn.Module:
    """``network`` in inference mode with the tensors of ``state``, all it has but integers."""
    missing, odd = network.load_state_dict(dict(state), strict=False)
    own = network.state_dict()
    assert not odd and not any(own[name].is_floating_point() for name in missing)
    return network.eval()


@cache
def canonical_shapes(graph: GraphId) -> Mapping[str, torch.Size]:
    """Shape of each tensor that the weights of ``graph`` hold, by canonical name.

    Whole numbers are no weights: steps of training counted, tables of positions.
    """
    with torch.device("meta"):
        state = graph_of(graph).build().state_dict()
    return MappingProxyType(
        {name: tensor.shape for name, tensor in state.items() if tensor.is_floating_point()}
    )
