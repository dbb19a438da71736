"""The presets of video_features, held against ``support.video_features``, a second form of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support import video_features as theirs
from support.commands import run, without_network
from support.ffmpeg import make
from support.networks import disturbed, disturbed_weights
from torch import Tensor

from vadprep.backbones import load_weights, scaling_of
from vadprep.backbones.weights.catalog import converted_path
from vadprep.backbones.weights.check import preset_of
from vadprep.backbones.weights.load import save_weights
from vadprep.backbones.weights.names import kylemin_name
from vadprep.core.errors import WeightsError
from vadprep.core.presets import values_of
from vadprep.extraction import extractor
from vadprep.extraction.api import extract_video
from vadprep.features.compare import compare_features
from vadprep.features.reader import open_features

I3D, R21D, S3D = (f"video-features-{name}" for name in ("i3d", "r21d", "s3d"))


def frames_of(path: Path, preset: str) -> theirs.Frames:
    """Decoded frames as the other code takes them."""
    if preset == I3D:
        return theirs.read_by_opencv(path)
    frames, times = theirs.read(path)
    if preset == R21D:
        return frames
    return theirs.by_rate(frames, times, 25)


class Recorder:
    """Stands in for a network and keeps the views that it is given."""

    device, dim = torch.device("cpu"), 1

    def __init__(self) -> None:
        self.views: list[Tensor] = []

    def __call__(self, views: Tensor) -> Tensor:
        self.views += views.clone()
        return torch.zeros(len(views), 1)


VIEWS = {
    (I3D, 64): partial(theirs.i3d_views, stack=64),
    (I3D, 16): partial(theirs.i3d_views, stack=16),
    (R21D, 16): partial(theirs.torch_views, resize=(128, 171), side=112, stack=16, normalise=True),
    (S3D, 64): partial(theirs.torch_views, resize=224, side=224, stack=64, normalise=False),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """129 frames, 30 a second, that are resized to 256 x 351: the centre is half a pixel off."""
    return make(tmp_path_factory.mktemp("v") / "v.mp4", frames=129, size="96x70", fps=30)


@pytest.mark.parametrize(
    "preset, stack",
    [each if each == (S3D, 64) else pytest.param(*each, marks=pytest.mark.slow) for each in VIEWS],
)
def test_the_same_pixels_enter_the_network(pictures: Path, preset: str, stack: int) -> None:
    """Two stacks of 64 and eight of 16, which take a frame more, at 25 frames a second one of 64;
    fractions of grey levels where theirs have them."""
    recorder = Recorder()
    with without_network() as patch:
        patch.setattr(extractor, "Backbone", lambda *settings: recorder)
        settings = {"clip_length": stack} if preset == I3D else {}
        extract_video(pictures, preset=preset, weights="random:0", settings=settings, device="cpu")
    found = [scaling_of(values_of(preset)["scaling"])(views[None]) for views in recorder.views]
    frames = frames_of(pictures, preset)
    expected = list(VIEWS[preset, stack](frames))
    counts = {(I3D, 64): 2, (I3D, 16): 8, (R21D, 16): 8, (S3D, 64): 1}
    assert len(found) == len(expected) == counts[preset, stack]
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=2e-5)


# ---------------------------------------------------------------- with networks


Case = tuple[Path, Callable[[theirs.Frames], NDArray[np.float32]]]
"""A file of weights, and features of frames by the other code with the same weights."""


def i3d_case(folder: Path, stack: int) -> Case:
    weights = disturbed_weights("inception_i3d")
    save_weights(weights, folder / "w.safetensors")
    return folder / "w.safetensors", partial(theirs.i3d, state=weights.state, stack=stack)


def r21d_case(folder: Path) -> Case:
    """The network of torchvision itself, and its own state dict."""
    models = pytest.importorskip("torchvision.models")
    network = disturbed(models.get_model("r2plus1d_18", weights=None))
    torch.save(network.state_dict(), folder / "w.pth")
    network.fc = torch.nn.Identity()
    return folder / "w.pth", partial(theirs.r21d, network=network)


def s3d_case(folder: Path) -> Case:
    """A file with kylemin's names, as DataParallel writes them."""
    state = {kylemin_name(k): v for k, v in disturbed_weights("s3d").state.items()}
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "w.pt")
    return folder / "w.pt", partial(theirs.s3d, state=state)


CASES = {
    (I3D, 16): partial(i3d_case, stack=16),
    (I3D, 64): partial(i3d_case, stack=64),
    (R21D, 16): r21d_case,
    (S3D, 64): s3d_case,
}


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("preset, stack", CASES)
def test_features_of_real_clips_are_those_of_the_other_code(
    real_clips: Path, tmp_path: Path, preset: str, stack: int
) -> None:
    """Every clip of the real videos; ``vadprep compare`` finds them equal up to rounding."""
    weights, other = CASES[preset, stack](tmp_path)
    out, files = tmp_path / "ours", tmp_path / "theirs"
    length = ("--set", f"clip_length={stack}") if preset == I3D else ()
    options = ("--preset", preset, "--weights", weights, "--workers", 1, *length)
    done = run("extract", "--videos", real_clips, "--out", out, *options)
    assert done.exit_code == 0, done.output
    files.mkdir()
    worst = 0.0
    with open_features(out) as features:
        for path in sorted(real_clips.glob("*.mp4")):
            name = next(each for each in features if each.startswith(path.stem))
            expected: NDArray[np.float32] = other(frames_of(path, preset))
            found = features[name].rgb[:, 0]
            assert found.dtype == np.float32 and found.shape == expected.shape
            errors = np.linalg.norm(found - expected, axis=1)
            worst = max(worst, (errors / np.linalg.norm(expected, axis=1)).max())
            np.save(files / f"{name}_i3d.npy", expected[:, None])
    print(f"{preset}, stacks of {stack}: the worst clip {worst:.1e}")
    assert worst < 1e-5
    assert compare_features(out, files).verdict == "equal up to rounding"


# ---------------------------------------------------------------- kylemin's file


KYLEMIN = {
    "base.0.conv_s.weight": (64, 3, 1, 7, 7), "base.0.conv_t.weight": (64, 64, 7, 1, 1),
    "base.2.conv.weight": (64, 64, 1, 1, 1), "base.3.bn_t.running_var": (192,),
    "base.5.branch1.1.conv_s.weight": (128, 96, 1, 3, 3), "base.8.branch0.0.bn.bias": (192,),
    "base.12.branch2.0.conv.weight": (32, 528, 1, 1, 1), "base.15.branch3.1.bn.weight": (128,),
    "fc.0.weight": (400, 1024, 1, 1, 1), "fc.0.bias": (400,),
}  # fmt: skip
"""Some tensors of S3D as model.py of kylemin/S3D makes them."""


@pytest.fixture(scope="module")
def kylemin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = {kylemin_name(k): v for k, v in load_weights("random:3", "s3d").state.items()}
    assert all(tuple(state[name].shape) == shape for name, shape in KYLEMIN.items())
    path = tmp_path_factory.mktemp("weights") / "renamed.pt"
    torch.save(state, path)
    yield path


def test_kylemins_file_converts(kylemin: Path, tmp_path: Path) -> None:
    done = run("weights", "convert", kylemin, "--out", tmp_path / "s3d.safetensors")
    assert done.exit_code == 0, done.output
    found = load_weights(str(tmp_path / "s3d.safetensors"), "s3d")
    assert found.sha256 == load_weights("random:3", "s3d").sha256
    assert found.provenance.startswith("kylemin/S3D")
    assert (preset_of(found), preset_of(load_weights("random:3", "s3d"))) == (S3D, "s3d")


def test_the_preset_of_s3d_takes_kylemins_weights_alone(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision's, which have the same network, lie where fetched weights are kept."""
    monkeypatch.setenv("VADPREP_CACHE", str(tmp_path))
    fetched = converted_path("s3d")
    fetched.parent.mkdir()
    fetched.touch()
    refused = run("extract", "--videos", pictures, "--preset", S3D, "--out", tmp_path / "f")
    assert refused.exit_code == 2 and "vadprep weights get s3d-kylemin" in refused.output
    assert "vadprep weights get s3d\n" not in refused.output


def test_an_unknown_file_is_refused_with_the_nearest_network(kylemin: Path, tmp_path: Path) -> None:
    state = torch.load(kylemin)
    state["base.extra.weight"] = state.pop("fc.0.bias")
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(WeightsError) as error:
        load_weights(str(tmp_path / "a.pt"))
    assert (
        "no network of vadprep has its 387 tensors; the nearest is s3d as named by kylemin/S3D, "
        "with tensors 1 missing, such as fc.0.bias; 1 unexpected, such as base.extra.weight"
    ) in str(error.value)

    with pytest.raises(WeightsError, match="The nearest network is s3d as named by kylemin/S3D$"):
        load_weights(str(tmp_path / "a.pt"), "inception_i3d")
    with pytest.raises(
        WeightsError, match=r"^[^.]*\.pt: not s3d .*; 1 unexpected, such as .*weight$"
    ):
        load_weights(str(tmp_path / "a.pt"), "s3d")
    torch.save({"a": torch.zeros(2)}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="; 1 unexpected, such as a$"):
        load_weights(str(tmp_path / "b.pt"), "inception_i3d")
