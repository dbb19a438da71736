"""The network against a second one, ``support.inception``."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from support.inception import reference
from torch import Tensor

from vadprep.backbones import (
    Backbone,
    Weights,
    build,
    has_cpu_bf16,
    load_weights,
)
from vadprep.backbones.backbone import tf32_only_if
from vadprep.backbones.inception import InceptionI3D, same_padding
from vadprep.core.errors import SpecError

GRAPH = "inception_i3d"


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Random filters with batch-norm statistics that are not the identity."""
    plain = load_weights("random:0", GRAPH)
    generator = torch.Generator().manual_seed(5)
    state = dict(plain.state)
    for name, tensor in state.items():
        noise = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 0.5 + noise
        elif ".bn." in name:
            state[name] = tensor + 0.4 * (noise - 0.5)
    return Weights("test", "", GRAPH, state, "")


@pytest.fixture(scope="module")
def views() -> Tensor:
    """uint8 [2, 16, 224, 224, 3]: smooth moving patches."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 4, 14, 14, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (16, 224, 224), mode="trilinear")
    return fine.permute(0, 2, 3, 4, 1).round().to(torch.uint8).contiguous()


def scaled(views: Tensor) -> Tensor:
    """float32 [batch, 3, T, H, W] in [-1, 1]."""
    return views.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.slow
def test_clips_of_32_frames_have_the_mean_of_the_windows_of_two(weights, views):
    """As the readable network has it; at 16 frames there is one window."""
    longer = torch.cat([views[:1], views[1:].flip(1)], dim=1)
    network = build(GRAPH)
    network.load_state_dict(dict(weights.state), strict=False)
    found = Backbone(weights, "cpu", "fp32")(longer)
    with torch.inference_mode():
        assert error(found, network(scaled(longer))) < 1e-5


@pytest.fixture(scope="module")
def expected_of_first(weights: Weights, views: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits of the first of ``views``."""
    return reference(dict(weights.state), scaled(views[:1]))


# --- tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (17, 24, 32, 79))],
)
def test_network_equals_its_description(
    weights: Weights, views: Tensor, expected_of_first: tuple[Tensor, Tensor], frames: int
) -> None:
    if frames == 16:
        clip, expected = scaled(views[:1]), expected_of_first
    else:
        generator = torch.Generator().manual_seed(frames)
        clip = torch.randn(1, 3, frames, 224, 224, generator=generator)
        expected = reference(dict(weights.state), clip)
    network = build(GRAPH)
    assert isinstance(network, InceptionI3D)
    network.load_state_dict(dict(weights.state))
    with torch.inference_mode():
        features, logits = network(clip), network.logits(clip)
    assert features.shape == (1, 1024) and logits.shape == (1, 400)
    assert error(features, expected[0]) < 1e-5
    assert error(logits, expected[1]) < 1e-5


@pytest.mark.parametrize(
    "length, size, stride, expected",
    [
        (224, 7, 2, (2, 3)),
        (79, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (7, 2, 2, (0, 1)),
        (9, 1, 1, (0, 0)),
    ],
)
def test_same_padding(length: int, size: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(length, size, stride) == expected


def test_flow_network_takes_two_channels() -> None:
    with torch.device("meta"):
        state = InceptionI3D(in_channels=2).state_dict()
    assert state["Conv3d_1a_7x7.conv.weight"].shape == (64, 2, 7, 7, 7)


@pytest.fixture(scope="module")
def backbone(weights: Weights) -> Backbone:
    return Backbone(weights, "cpu", "fp32")


@pytest.fixture(scope="module")
def features(backbone: Backbone, views: Tensor) -> Tensor:
    return backbone(views)


def test_what_the_engine_computes_equals_the_description(
    features: Tensor, expected_of_first: tuple[Tensor, Tensor]
) -> None:
    assert features.shape == (2, 1024) and features.dtype == torch.float32
    assert error(features[:1], expected_of_first[0]) < 1e-4


@pytest.mark.slow
def test_the_epsilon_of_batch_norm_is_that_of_the_spec(
    weights: Weights, views: Tensor, features: Tensor
) -> None:
    """The other code's 1e-5 where the network was published with 1e-3."""
    found = Backbone(weights, "cpu", "fp32", batch_norm_eps="1e-5")(views[:1])
    expected, _ = reference(weights.state, scaled(views[:1]), eps=1e-5)
    assert error(found, expected) < 1e-5
    assert error(features[:1], expected) > 1e-4


@pytest.fixture(scope="module")
def flow_weights(weights: Weights) -> Weights:
    """Those of ``weights``, but for the first convolution."""
    stem = "Conv3d_1a_7x7.conv.weight"
    own = load_weights("random:0", "inception_i3d_flow").state[stem]
    assert own.shape == (64, 2, 7, 7, 7)
    return Weights("test", "", "inception_i3d_flow", {**weights.state, stem: own}, "")


@pytest.mark.parametrize(
    "precision, is_quantised",
    [
        ("fp32", False),
        pytest.param("tf32", True, marks=pytest.mark.slow),
    ],
)
def test_flow_of_the_engine_equals_the_description(
    flow_weights: Weights, views: Tensor, precision: str, is_quantised: bool
) -> None:
    """Quantised flow in 8 bits, flow that was not in floats."""
    backbone = Backbone(flow_weights, "cpu", precision)
    flow = views[:1, ..., :2] if is_quantised else views[:1, ..., :2].float() / 300 - 0.4
    before = flow.clone()
    features = backbone(flow)
    clip = scaled(flow) if is_quantised else flow.permute(0, 4, 1, 2, 3)
    assert error(features, reference(dict(flow_weights.state), clip)[0]) < 1e-4
    assert torch.equal(flow, before)


def test_views_of_the_other_stream_are_refused(
    backbone: Backbone, flow_weights: Weights, views: Tensor
) -> None:
    flow = Backbone(flow_weights, "cpu", "fp32")
    with pytest.raises(ValueError, match="224, 224, 3"):
        backbone(views[..., :2])
    with pytest.raises(ValueError, match="224, 224, 2"):
        flow(views)


def test_bf16_error_is_a_few_percent(weights: Weights, features: Tensor, views: Tensor) -> None:
    """Random filters cancel more than trained ones, so this is an upper bound."""
    if not has_cpu_bf16():
        pytest.skip("processor without bfloat16")
    half = Backbone(weights, "cpu", "bf16")
    assert 1e-4 < error(half(views[:1]), features[:1]) < 0.08


def test_neighbours_in_the_batch_do_not_matter(
    backbone: Backbone, views: Tensor, features: Tensor
) -> None:
    padded = torch.zeros_like(views)
    padded[1] = views[1]
    assert torch.equal(backbone(padded)[1], features[1])


def test_same_call_gives_the_same_bytes_whatever_tf32_is_set_to(
    backbone: Backbone, views: Tensor, features: Tensor
) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        assert torch.equal(backbone(views), features)
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


@pytest.mark.slow
def test_features_of_random_weights_tell_clips_apart(views: Tensor) -> None:
    """Motion, appearance: a still clip and the next clip both differ clearly."""
    plain = Backbone(load_weights("random:0", GRAPH), "cpu", "fp32")
    still = views[:1, :1].expand_as(views[:1])
    first, second, frozen = (plain(clip) for clip in (views[:1], views[1:], still))
    assert error(second, first) > 0.1 and error(frozen, first) > 0.1


def test_views_of_another_shape_are_refused(backbone: Backbone, views: Tensor) -> None:
    for wrong in (views[:, :8], views.half(), views.permute(0, 4, 1, 2, 3)):
        with pytest.raises(ValueError, match="expected uint8"):
            backbone(wrong)


def test_fp16_is_refused_on_a_cpu(weights: Weights) -> None:
    with pytest.raises(SpecError, match="fp16 needs a GPU"):
        Backbone(weights, "cpu", "fp16")


def test_switches_of_torch_are_one_threads_at_a_time_and_put_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    seen = []

    def enter(allowed: bool) -> None:
        for _ in range(50):
            with tf32_only_if(allowed):
                time.sleep(0.0005)
                seen.append(torch.backends.cudnn.allow_tf32 == allowed)

    threads = [threading.Thread(target=enter, args=(allowed,)) for allowed in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen) and len(seen) == 100
    assert torch.backends.cudnn.allow_tf32 == before


def test_bf16_is_refused_where_it_is_emulated(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vadprep.backbones.backbone.has_cpu_bf16", lambda: False)
    with pytest.raises(SpecError, match="AVX512-BF16"):
        Backbone(weights, "cpu", "bf16")


def test_unknown_graph_and_precision(weights: Weights) -> None:
    with pytest.raises(ValueError, match="inception_i3d"):
        load_weights("random:0", "resnet")
    with pytest.raises(ValueError, match="fp32"):
        Backbone(weights, "cpu", "int8")
