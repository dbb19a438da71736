"""Networks whose batch norm does something."""

from __future__ import annotations

import torch
from torch import nn

from vadprep.backbones import Weights, build, load_weights


def disturbed(network: nn.Module) -> nn.Module:
    """``network`` with statistics of batch norm that are not the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for each in (module.weight, module.bias, module.running_mean, module.running_var):
                    each.copy_(0.5 + torch.rand(each.shape, generator=generator))
    return network.eval()


def disturbed_weights(graph: str) -> Weights:
    """Random filters, and statistics of batch norm that do something."""
    network = build(graph)
    network.load_state_dict(dict(load_weights("random:0", graph).state), strict=False)
    state = disturbed(network).state_dict()
    state = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return Weights("disturbed", "", graph, state, "")
