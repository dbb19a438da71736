"""The form of networks on a GPU, run on the CPU, and its replay with a stand-in for CUDA graphs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from support.networks import disturbed
from torch import Tensor, nn

from vadprep.backbones import (
    GRAPHS,
    build,
    load_weights,
    scaling_of,
    tf32_only_if,
    with_weights,
)
from vadprep.backbones.folding import fold_batch_norm
from vadprep.backbones.gpu_form import GpuForm, Replay, Replayed, conv3d_fault

FREE = ("r3d_18", "r2plus1d_18", "swin3d_t", "swin3d_s", "swin3d_b")
"""Networks that take clips of any size."""
QUICK = ("r3d_18", "swin3d_t")


def views_and_form(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, GpuForm]:
    """Views uint8, their features by the plain network in float32, and the form in ``dtype``."""
    graph = GRAPHS[name]
    frames, side = (8, 32) if name in FREE else (graph.clip_length, graph.size)
    torch.manual_seed(0)
    network = build(name)
    if graph.of_frames:  # CLIP's own tensors are empty until weights are loaded
        network = with_weights(network, load_weights("random:0", name).state)
    plain, shape = disturbed(network), (frames, side, side, graph.channels)
    scaling = scaling_of("imagenet" if graph.channels == 3 else "[-1,1]")
    views = torch.randint(0, 256, (1, *shape), dtype=torch.uint8)
    expected = plain(scaling(views))
    folded = fold_batch_norm(plain, (1, graph.channels, frames, side, side))
    return views, expected, GpuForm(folded, scaling, dtype, graph.channels)


@pytest.mark.parametrize(
    "name",
    [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in GRAPHS],
)
@torch.inference_mode()
def test_the_form_of_every_network_gives_the_features_of_the_plain_one(name: str) -> None:
    views, expected, form = views_and_form(name, torch.float32)
    channels_last = [each for each in form.parameters() if each.ndim == 5]
    form.network.register_forward_pre_hook(lambda _, inputs: channels_last.append(inputs[0]))
    found = form(views)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in form.modules())
    assert len(channels_last) > 1 or GRAPHS[name].of_frames  # whose convolution is of pictures
    for each in channels_last:
        assert each.is_contiguous(memory_format=torch.channels_last_3d)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 2e-5 * expected.norm()


@torch.inference_mode()
def test_half_precision_scales_pixels_in_float32() -> None:
    views, expected, form = views_and_form("r3d_18", torch.bfloat16)
    found = form(views)
    assert form.mean.dtype == torch.float32
    assert {each.dtype for each in form.parameters()} == {torch.bfloat16}
    assert 0 < (found - expected).norm() < 0.03 * expected.norm()


@torch.inference_mode()
def test_views_that_are_floats_are_pixels_from_minus_one_to_one() -> None:
    form = GpuForm(nn.Identity(), scaling_of("[-1,1]"), torch.float32, channels=2)
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 2, 4, 4, 2)
    torch.testing.assert_close(form(pixels.float() / 127.5 - 1), form(pixels))


class Recorder:
    """Records like CUDA: a replay computes on the tensors that were there, into the same ones."""

    def __init__(self, error: Exception | None = None) -> None:
        self.recorded = self.replayed = 0
        self.error = error

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        self.recorded += 1
        if self.error:
            raise self.error
        output = run()

        def replay() -> None:
            self.replayed += 1
            output.copy_(run())

        return replay, output


def doubled(views: Tensor) -> Tensor:
    return 2.0 * views.flatten(1)


def test_calls_are_replayed_from_the_second_of_a_shape_on() -> None:
    recorder = Recorder()
    network = Replayed(doubled, recorder)
    batches = [torch.rand(size, 3) for size in (4, 4, 4, 2, 2, 2)]
    found = [network(each) for each in batches]
    assert (recorder.recorded, recorder.replayed) == (2, 4)
    for views, features in zip(batches, found, strict=True):  # none was written over
        assert torch.equal(features, doubled(views))


def test_what_cannot_be_recorded_runs_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(torch.OutOfMemoryError("CUDA out of memory.\nMore of it"))
    network, views = Replayed(doubled, recorder), torch.rand(4, 3)
    with caplog.at_level(logging.WARNING):
        found = [network(views) for _ in range(4)]
    assert all(torch.equal(each, doubled(views)) for each in found)
    assert recorder.recorded == 1
    assert [each.getMessage() for each in caplog.records] == [
        "the network runs without a CUDA graph, slower: CUDA out of memory."
    ]


def test_an_error_of_the_network_passes() -> None:
    def fails(views: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Replayed(fails, Recorder())(torch.rand(4, 3))


@pytest.mark.parametrize(
    ("torch_version", "cudnn_version", "faults"),
    [
        ("2.9.0+cu128", 91002, "slow in bf16 and fp16 and perhaps wrong in bf16"),
        ("2.9.1+cu130", 91300, "slow in bf16 and fp16"),
        ("2.9.1", 91500, None),
        ("2.9.0", 0, None),
        ("2.9.0", 91501, "slow in bf16 and fp16"),
        ("2.9.1", 90701, "slow in bf16 and fp16"),
        ("2.8.0+cu128", 91002, "perhaps wrong in bf16"),
        ("2.8.0", 91100, None),
        ("2.7.1", 90501, None),
        ("2.10.0", 91002, "slow in bf16 and fp16 and perhaps wrong in bf16"),
        ("2.10.0a0+gitabc", 91400, "slow in bf16 and fp16"),
        ("2.10.0", 91501, None),
        ("2.14.1+cu130", 92400, None),
    ],
)
def test_faults_of_conv3d_are_known_by_versions(
    torch_version: str, cudnn_version: int, faults: str | None
) -> None:
    found = conv3d_fault(torch_version, cudnn_version)
    assert (found is None) == (faults is None)
    if found:
        fault, remedy = found
        assert fault.startswith(f"Conv3d of torch {torch_version} with cuDNN 9.")
        assert fault.endswith(f" is {faults}") and remedy.startswith("pip install")


@pytest.mark.gpu
@pytest.mark.parametrize("name", GRAPHS)
@torch.inference_mode()
def test_on_a_gpu_a_replay_gives_the_bytes_of_a_call(name: str) -> None:
    views, expected, form = views_and_form(name, torch.float16)
    on_gpu = copy.deepcopy(form).cuda()
    network, views = Replayed(on_gpu), views.cuda()
    with tf32_only_if(False):  # and the same algorithm each time
        first, *others = [network(views) for _ in range(3)]
    assert network._recorded is not None
    assert all(torch.equal(each, first) for each in others)
    assert (first.cpu() - expected).norm() < 0.05 * expected.norm()
