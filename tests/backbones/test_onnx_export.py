"""Inception-I3D as ONNX: the features of torch, from the clips that it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vadprep.backbones import Backbone, load_weights
from vadprep.backbones.onnx_export import export_network
from vadprep.core.onnx_files import session_of
from vadprep.core.presets import resolve

pytest.importorskip("onnx")


@pytest.mark.slow
@pytest.mark.parametrize("eps, side", [("own", 224), ("0.5", 256)])
def test_inception_in_onnxruntime_gives_the_features_of_torch(tmp_path, eps, side):
    weights = load_weights("random:0", "inception_i3d")
    settings = {"batch_norm_eps": eps, "crop_size": side}
    spec = resolve("i3d", "cpu", ("random:0", weights.sha256), settings, "rgb")
    assert export_network(spec, weights, tmp_path / "i3d.onnx") < 1e-4
    clips = torch.randint(256, (2, 16, side, side, 3), dtype=torch.uint8)
    session = session_of((tmp_path / "i3d.onnx").read_bytes())
    (found,) = session.run(["features"], {"clips": clips.numpy()})
    expected = Backbone(weights, "cpu", "fp32", batch_norm_eps=eps)(clips).numpy()
    assert found.shape == (2, 1024)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * abs(expected).max())
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["weights_sha256"] == weights.sha256 and metadata["spec_hash"] == spec.hash
    assert metadata["caution"] == "weights random:0, NEVER TRAINED"
