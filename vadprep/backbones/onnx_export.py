"""Inception-I3D as an ONNX file, for programs without torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from vadprep import __version__
from vadprep.backbones.backbone import tf32_only_if
from vadprep.backbones.graphs import build, graph_of, scaling_of, with_weights
from vadprep.backbones.weights.catalog import stored_weights
from vadprep.backbones.weights.load import Weights, load_weights, missing_weights_message
from vadprep.core.errors import SettingError, WeightsError
from vadprep.core.onnx_files import OPSET, Case, write_onnx
from vadprep.core.spec import OWN_EPS, UNKNOWN, Spec

GRAPH = "inception_i3d"
"""The only network that is exported: the others are not tested in this form."""


class Scaled(nn.Module):
    """A network with the scaling of its input."""

    def __init__(self, network: nn.Module, scaling: str) -> None:
        super().__init__()
        self.network, self._scaling = network, scaling_of(scaling)

    def forward(self, clips: Tensor) -> Tensor:
        """Features [batch, dim] of uint8 [batch, frames, size, size, channel]."""
        features: Tensor = self.network(self._scaling(clips))
        return features


def exported_weights(spec: Spec, weights: str | Path | None = None) -> Weights:
    """The weights behind features of ``spec``: those named, the random ones, or the fetched ones.

    Raises SettingError unless the network is Inception-I3D RGB, and WeightsError for weights that
    are missing or others than those of the spec.
    """
    if spec.graph != GRAPH:
        raise SettingError(f"the features are of {spec.graph}: only {GRAPH} can be exported")
    named = weights or (spec.weights if spec.is_random else stored_weights(GRAPH))
    if not named:
        raise WeightsError(missing_weights_message(GRAPH))
    loaded = load_weights(str(named), GRAPH)
    if spec.weights_sha256 not in (UNKNOWN, loaded.sha256):
        raise WeightsError(
            f"{named}: not the weights behind the features ({spec.weights}): name those"
        )
    return loaded


def export_network(spec: Spec, weights: Weights, path: Path) -> float:
    """Write the network behind features of ``spec`` as ONNX; returns the largest difference.

    Input ``clips`` uint8 [batch, clip_length, crop_size, crop_size, 3], crops as they are, any
    batch; output ``features`` float32 [batch, 1024], in fp32 whatever the precision of the spec.
    Raises ExportError and OutputError as ``write_onnx``.
    """
    graph = graph_of(GRAPH)
    eps = OWN_EPS if spec.batch_norm_eps == UNKNOWN else spec.batch_norm_eps
    network = Scaled(with_weights(build(GRAPH, eps), weights.state), spec.scaling).eval()
    side = graph.size if spec.crop_size == UNKNOWN else spec.crop_size
    generator, shape = torch.Generator().manual_seed(0), (spec.clip_length, side, side)

    def random_clips(count: int) -> Tensor:
        size = (count, *shape, graph.channels)
        return torch.randint(256, size, dtype=torch.uint8, generator=generator)

    program = torch.onnx.export(
        network,
        (random_clips(2),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["clips"],
        output_names=["features"],
        dynamic_shapes=({0: "batch"},),
        verbose=False,
    )
    assert program is not None
    cases = []
    with torch.inference_mode(), tf32_only_if(False):
        for count in (1, 3):
            clips = random_clips(count)
            outputs = {"features": network(clips).numpy()}
            cases.append(Case({"clips": clips.numpy()}, outputs))
    metadata = {
        "vadprep": __version__,
        "graph": GRAPH,
        "weights": weights.name,
        "weights_sha256": weights.sha256,
        "spec_hash": spec.hash,
        "spec": spec.to_json(),
        "caution": f"weights {weights.name}, NEVER TRAINED" if spec.is_random else "",
    }
    return write_onnx(path, program.model_proto, metadata, cases)
