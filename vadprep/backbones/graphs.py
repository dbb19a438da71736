"""The networks by graph id, and the scalings of their input by name: two explicit tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vadprep.backbones import clip, inception, resnet, videomae
from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.errors import SettingError, allowed_are
from vadprep.core.spec import OWN_EPS, eps_text

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scaling:
    """(value - mean) / std, in units of 0..255: one number for all channels, or one for each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, views: Tensor) -> Tensor:
        """float32 [batch, channel, T, H, W] of uint8 [batch, T, H, W, channel]."""
        values = views.float()
        values = (values - values.new_tensor(self.mean)) / values.new_tensor(self.std)
        return values.permute(0, 4, 1, 2, 3)


SCALINGS: dict[str, Scaling] = {
    # Inception-I3D; by habit, not by training, much of the R50 family
    "[-1,1]": Scaling((127.5,), (127.5,)),
    # video-nonlocal-net, SlowFast, pytorchvideo: 0.45 and 0.225 of 255
    "(x-114.75)/57.375": Scaling((114.75,), (57.375,)),
    "[0,1]": Scaling((0.0,), (255.0,)),  # S3D of kylemin as video_features runs it
    "torchvision-kinetics": Scaling(  # r3d_18, r2plus1d_18 and s3d
        (255 * 0.43216, 255 * 0.394666, 255 * 0.37645),
        (255 * 0.22803, 255 * 0.22145, 255 * 0.216989)),
    "imagenet": Scaling(  # swin3d, VideoMAE
        (255 * 0.485, 255 * 0.456, 255 * 0.406), (255 * 0.229, 255 * 0.224, 255 * 0.225)),
    "clip": Scaling(
        (255 * 0.48145466, 255 * 0.4578275, 255 * 0.40821073),
        (255 * 0.26862954, 255 * 0.26130258, 255 * 0.27577711)),
}  # fmt: skip
"""Scalings by the name that a spec has."""


def scaling_of(name: str) -> Scaling:
    """The scaling of that name; raises ValueError for an unknown one."""
    if name not in SCALINGS:
        raise ValueError(f"scaling = {name!r}: {allowed_are(name, SCALINGS)}")
    return SCALINGS[name]


@dataclass(frozen=True)
class Graph:
    """One network: its readable form, its feature, the clips it takes."""

    dim: int
    build: Callable[[], nn.Module]
    """The readable module, with ``logits``; the names of its tensors are the canonical ones."""
    size: int = 224  # side of a view in px, as it was published
    least_size: int = 0
    """Smallest side of a view that it takes besides; 0 of a network that takes ``size`` alone."""
    clip_length: int = CLIP_LENGTH
    clip_lengths: tuple[int, ...] = (16, 32, 64)
    """Frames of a clip that the network takes; ``clip_length`` is the usual one."""
    channels: int = 3  # of a view: 3 for RGB, 2 for flow
    of_frames: bool = False
    """It sees single frames; the feature of a clip is the mean over the frames that it is given."""
    head: str = ""
    """Of a network of torchvision: its own name of what turns the feature into logits."""

    def takes_size(self, side: int) -> bool:
        """True when it takes views of ``side`` x ``side`` px."""
        return side == self.size or 0 < self.least_size <= side


def _torchvision(
    name: str,
    dim: int,
    head: str,
    size: int = 224,
    positions: int = 0,
    clip_lengths: tuple[int, ...] = Graph.clip_lengths,
    is_convolutional: bool = False,
) -> Graph:
    """``size`` is the side of the crop that the weights were trained and published with."""
    network = partial(TorchvisionNetwork, name, head, positions)
    least = size if is_convolutional else 0
    return Graph(dim, network, size, least, clip_lengths=clip_lengths, head=head)


class TorchvisionNetwork(nn.Module):
    """A classifier of torchvision whose feature is what its ``head`` is given."""

    def __init__(self, name: str, head: str, positions: int) -> None:
        """``positions``: axes of time and space that the head wants behind the channels."""
        super().__init__()
        import torchvision  # seconds: only who needs it

        self.trunk = torchvision.models.get_model(name, weights=None)
        self.head = getattr(self.trunk, head)
        self.positions = positions
        setattr(self.trunk, head, nn.Identity())

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, dim] of clips [batch, 3, 16, size, size]."""
        return self.trunk(clips)

    def logits(self, clips: Tensor) -> Tensor:
        """Kinetics-400 logits [batch, 400]."""
        features = self(clips)
        return self.head(features.view(*features.shape, *[1] * self.positions)).flatten(1)


GRAPHS: dict[str, Graph] = {
    "inception_i3d": Graph(inception.DIM, inception.InceptionI3D, least_size=224),
    "inception_i3d_flow": Graph(
        inception.DIM, partial(inception.InceptionI3D, 2), least_size=224, channels=2
    ),
    "i3d_r50": Graph(
        resnet.DIM, resnet.ResNetI3D, 256, 224, clip_length=8, clip_lengths=(8, 16, 32, 64)
    ),
    "i3d_r50_nonlocal": Graph(resnet.DIM, resnet.i3d_r50_nonlocal, least_size=224),
    "r3d_18": _torchvision("r3d_18", 512, "fc", size=112, is_convolutional=True),
    "r2plus1d_18": _torchvision("r2plus1d_18", 512, "fc", size=112, is_convolutional=True),
    "s3d": _torchvision("s3d", 1024, "classifier", positions=3, is_convolutional=True),
    "swin3d_t": _torchvision("swin3d_t", 768, "head"),
    "swin3d_s": _torchvision("swin3d_s", 768, "head"),
    "swin3d_b": _torchvision("swin3d_b", 1024, "head"),
    "mvit_v2_s": _torchvision("mvit_v2_s", 768, "head", clip_lengths=(16,)),
    "videomae_b": Graph(videomae.DIM, videomae.VideoMAE, clip_lengths=(videomae.FRAMES,)),
    "clip_vit_b16": Graph(
        clip.DIM, clip.ClipVitB16, clip_lengths=(1, 8, 16, 32, 64), of_frames=True
    ),
}


def graph_of(name: str) -> Graph:
    """The graph of that id; raises SettingError for an unknown one."""
    if name not in GRAPHS:
        raise SettingError(f"graph = {name!r}: {allowed_are(name, GRAPHS)}")
    return GRAPHS[name]


def build(graph: str, batch_norm_eps: str = OWN_EPS) -> nn.Module:
    """The readable network in inference mode, its tensors not yet initialised to anything.

    ``batch_norm_eps`` is that of the spec: ``own``, or the epsilon of all its batch norms.
    """
    network = graph_of(graph).build().eval()
    if batch_norm_eps != OWN_EPS:
        for norm in _batch_norms(network):
            norm.eps = float(batch_norm_eps)
    return network


def own_batch_norm_eps(graph: str) -> str:
    """The epsilon of the batch norms of ``graph`` as a spec writes it; empty where it has none."""
    return _own_eps(graph_of(graph))


@cache
def _own_eps(graph: Graph) -> str:
    with torch.device("meta"):
        found = {eps_text(norm.eps) for norm in _batch_norms(graph.build())}
    assert len(found) < 2
    return next(iter(found), "")


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def with_weights(network: nn.Module, state: State) -> nn.Module:
    """``network`` in inference mode with the tensors of ``state``, all it has but integers."""
    missing, odd = network.load_state_dict(dict(state), strict=False)
    own = network.state_dict()
    assert not odd and not any(own[name].is_floating_point() for name in missing)
    return network.eval()


def canonical_shapes(graph: str) -> Mapping[str, torch.Size]:
    """Canonical name -> shape of each tensor of weights for ``graph``: no counters, no indices."""
    return _shapes(graph_of(graph))


@cache
def _shapes(graph: Graph) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        state = graph.build().state_dict()
    return {name: tensor.shape for name, tensor in state.items() if tensor.is_floating_point()}
