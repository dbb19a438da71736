"""What only a GPU can show: it agrees with the CPU, and threads do not disturb each other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from support.stopped import stopped_after
from support.tiny_features import tiny_set
from support.training import train

from vadprep.backbones import Backbone, load_weights
from vadprep.core.errors import Stopped
from vadprep.core.filters import FILTERS, FLOAT_FILTERS
from vadprep.core.preset import FLOW
from vadprep.flow import QUANTISE, Quantisation, grey_of, tvl1_method
from vadprep.heads import HEADS
from vadprep.training.loop import RESUME
from vadprep.video import FrameTransform
from vadprep.video.resize import FloatResize, TorchResize

pytestmark = pytest.mark.gpu
GRAPH = "inception_i3d"


def random_views(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 16, 224, 224, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 5e-3), ("bf16", 0.1), ("fp16", 0.02)]
)
def test_features_agree_with_the_cpu(precision: str, tolerance: float) -> None:
    weights, views = load_weights("random:0", GRAPH), random_views(2)
    expected = Backbone(weights, "cpu", "fp32")(views)
    found = Backbone(weights, "cuda", precision)(views).cpu()
    assert float((found - expected).norm() / expected.norm()) < tolerance


def test_another_epsilon_of_batch_norm_agrees_with_the_cpu() -> None:
    weights, views = load_weights("random:0", GRAPH), random_views(1)
    expected = Backbone(weights, "cpu", "fp32", batch_norm_eps="0.5")(views)
    found = Backbone(weights, "cuda", "fp32", batch_norm_eps="0.5")(views).cpu()
    assert float((found - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("resize", ["256x340", "short 112"])
@pytest.mark.parametrize("filter", [*FILTERS, *FLOAT_FILTERS])
def test_resized_frames_are_those_of_the_cpu(filter: str, resize: str) -> None:
    """Larger and smaller, in more than one block, all frames different."""
    frames = random_views(5).flatten(0, 1)[:65, :, :201]
    settings = {"filter": filter, "resize": resize, "crops": 10, "crop_order": "xd"}
    on_cpu, on_gpu = (
        FrameTransform(224, 201, device, crop_size=112, margins=False, **settings)
        for device in ("cpu", "cuda")
    )
    found = on_gpu.crop(on_gpu.resize(frames))
    assert found.is_cuda and torch.equal(found.cpu(), on_cpu.crop(on_cpu.resize(frames)))
    kind = FloatResize if filter in FLOAT_FILTERS else TorchResize
    assert isinstance(on_gpu._resize, kind)


@pytest.mark.parametrize("name", QUANTISE)
def test_pictures_of_flow_are_those_of_the_cpu(name: str) -> None:
    frames = random_views(1)[0]
    assert torch.equal(grey_of(frames.cuda()).cpu(), grey_of(frames))
    steps = (
        torch.linspace(-21, 21, 2 * 255 * 16 + 1)
        .repeat(2, 1)[None, ..., None]
        .expand(-1, -1, -1, 2)
    )
    noise = 9 * torch.randn(3, 120, 160, 2, generator=torch.Generator().manual_seed(0))
    for bound, flow in ((20, steps), (20, noise), (32, noise)):
        quantisation = Quantisation(name, bound)
        assert torch.equal(quantisation.planes(flow.cuda()).cpu(), quantisation.planes(flow))


def test_flow_of_a_moving_picture_agrees_with_the_cpu() -> None:
    """In 8 bits of 20 px: a level is 0.16 px, and flow may differ a little where it is chaotic."""
    scene = torch.nn.functional.interpolate(
        torch.rand(1, 1, 9, 40, generator=torch.Generator().manual_seed(0)),
        (128, 640),
        mode="bicubic",
    )
    scene = (255 * scene[0, 0].clamp(0, 1)).byte()
    grey = torch.stack([scene[:, 200 - 2 * n : 500 - 2 * n] for n in range(5)])
    method = tvl1_method(FLOW["flow"][0])
    planes = [
        Quantisation("mediapipe", 20).planes(method(each)).cpu() for each in (grey, grey.cuda())
    ]
    difference = (planes[0].int() - planes[1].int()).abs()
    assert (difference > 1).float().mean() < 0.01


def test_four_threads_give_the_bytes_of_one() -> None:
    backbone = Backbone(load_weights("random:0", GRAPH), "cuda", "fp32")
    batches = [random_views(4) + each for each in range(4)]
    expected = [backbone(batch).cpu() for batch in batches]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        for _ in range(5):
            found[index] = backbone(batches[index]).cpu()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index]) for index in range(4))


def training(head: str) -> dict:
    """Two epochs of three steps on the GPU."""
    changes = {"epochs": 2, "steps_per_epoch": 3}
    return dict(head=head, schedule="small", settings=changes, seeds=(1,), device="cuda")


@pytest.mark.parametrize("head", HEADS)
def test_training_gives_the_same_bytes_again(head: str, tmp_path: Path) -> None:
    for name in "ab":
        train(*tiny_set(), training(head), tmp_path / name)
    one, other = ((tmp_path / name / "checkpoint-last.safetensors").read_bytes() for name in "ab")
    assert one == other


@pytest.mark.parametrize("head", HEADS)
def test_training_stopped_and_resumed_ends_with_the_same_bytes(head: str, tmp_path: Path) -> None:
    """Dropout draws from the random state of the GPU, which is put back too."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(*tiny_set(), training(head), whole)
    with pytest.raises(Stopped), stopped_after(4):
        train(*tiny_set(), training(head), parts)
    assert (parts / RESUME).exists()
    train(*tiny_set(), training(head) | dict(resume=True), parts)
    for name in ("checkpoint-last.safetensors", "log.csv"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
