"""Batch norm inside the convolution before it: the same network with fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def fold_batch_norm(network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """``network`` in inference mode, each batch norm put into the convolution before it, in place.

    ``shape`` is that of an input, such as [1, 3, 16, 224, 224]; a run on tensors without memory
    shows which batch norm follows which convolution. Folding is in float64, so it costs one
    rounding. A batch norm after anything else, and one after a convolution that runs twice, stays.
    The output of a convolution must not be used beside its batch norm.
    """
    network.eval()
    for conv, norm in _pairs(copy.deepcopy(network).to("meta"), shape):
        before, after = network.get_submodule(conv), network.get_submodule(norm)
        assert isinstance(before, CONVOLUTIONS) and isinstance(after, _BatchNorm)
        dtype = before.weight.dtype
        _replace(network, conv, fuse_conv_bn_eval(before.double(), after.double()).to(dtype))
        _replace(network, norm, nn.Identity())
    return network


def _pairs(network: nn.Module, shape: Sequence[int]) -> list[tuple[str, str]]:
    """Names of each convolution and of the batch norm that takes what it gives."""
    outputs: list[tuple[str, Tensor]] = []  # kept, so that no other tensor gets the same id
    inputs: list[tuple[str, Tensor]] = []
    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(
                lambda _, args, output, name=name: outputs.append((name, output))
            )
        elif isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.append((name, args[0]))
            )
    network(torch.empty(*shape, device="meta"))
    convs, norms = [name for name, _ in outputs], [name for name, _ in inputs]
    source = {id(output): name for name, output in outputs}
    pairs = [(source.get(id(taken), ""), norm) for norm, taken in inputs]
    taken_by = [conv for conv, _ in pairs]
    return [
        (conv, norm)
        for conv, norm in pairs
        if conv and convs.count(conv) == norms.count(norm) == taken_by.count(conv) == 1
    ]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
