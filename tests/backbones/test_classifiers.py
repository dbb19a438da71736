"""torchvision's classifiers through our adapter, against torchvision itself.

With random weights: the published ones cannot be had here. What is tested is the layer that
the feature comes from, the names of the tensors, and the published transforms.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vadprep.backbones import GRAPHS, build, load_weights
from vadprep.backbones.graphs import SCALINGS, canonical_shapes, with_weights
from vadprep.backbones.weights.names import torchvision_name

torchvision = pytest.importorskip("torchvision")

CLASSIFIERS = [name for name, graph in GRAPHS.items() if graph.head]
SIZES = [
    ("r3d_18", 48),  # small views, which this one takes as well as its own
    *(pytest.param(each, GRAPHS[each].size, marks=pytest.mark.slow) for each in CLASSIFIERS),
]


def input_of_head(network: nn.Module, head: str, clips: Tensor) -> Tensor:
    """What torchvision's own network hands to the module of that name."""
    seen: list[Tensor] = []
    module = network.get_submodule(head)
    module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(clips)
    return seen[0]


@pytest.mark.parametrize("name, size", SIZES)
def test_features_and_logits_are_torchvisions(name: str, size: int) -> None:
    ours = with_weights(build(name), load_weights("random:1", name).state)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    renamed = {torchvision_name(name, each): t for each, t in ours.state_dict().items()}
    theirs.load_state_dict(renamed, strict=True)
    clips = torch.randn(1, 3, 16, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, logits = ours(clips), ours.logits(clips)
        torch.testing.assert_close(logits, theirs(clips))
        expected = input_of_head(theirs, GRAPHS[name].head, clips)
    assert features.shape == (1, GRAPHS[name].dim)
    torch.testing.assert_close(features, expected.flatten(1))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_takes_the_clips_that_it_says(name: str) -> None:
    graph = GRAPHS[name]
    assert graph.clip_length in graph.clip_lengths
    with torch.device("meta"):
        network = build(name)
        forms = [(length, graph.size) for length in graph.clip_lengths]
        if graph.least_size:
            forms += [(graph.clip_length, side) for side in (graph.least_size, graph.size + 33)]
        for length, side in forms:
            assert graph.takes_size(side)
            clips = torch.empty(1, graph.channels, length, side, side)
            assert network(clips).shape == (1, graph.dim)
    assert not graph.takes_size(graph.size - 33) and graph.takes_size(300) == bool(graph.least_size)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_tensor_has_torchvisions_name(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    shapes = {k: v.shape for k, v in theirs.items() if v.is_floating_point()}
    ours = {torchvision_name(name, each): s for each, s in canonical_shapes(name).items()}
    assert ours == shapes


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_size_of_the_crop_is_the_published_one(name: str) -> None:
    weights = torchvision.models.get_model_weights(name)["KINETICS400_V1"]
    assert [GRAPHS[name].size] * 2 == weights.transforms().crop_size


def test_the_published_scalings() -> None:
    pixels = torch.randint(0, 256, (1, 2, 4, 4, 3), dtype=torch.uint8)
    unit = pixels.permute(0, 4, 1, 2, 3) / 255
    for network, scaling in {"r3d_18": "torchvision-kinetics", "swin3d_t": "imagenet"}.items():
        published = torchvision.models.get_model_weights(network)["KINETICS400_V1"].transforms()
        mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (published.mean, published.std))
        torch.testing.assert_close(SCALINGS[scaling](pixels), (unit - mean) / std)
