"""Flow on the disk: the same pictures come back, each video's own, or there is a reason."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from support.standin import standin_flow, standin_spec
from support.stored import ODD_IDS

from vadprep.core.atomic import temporary_name
from vadprep.core.errors import DecodeError, FeaturesError, OutputError, SpecError
from vadprep.core.spec import Spec
from vadprep.flow import FORMATS, ComputedFlow, Quantisation, SavedFlow
from vadprep.flow.saved import file_name

CPU = torch.device("cpu")


def spec(**overrides: object) -> Spec:
    return standin_spec("flow", **overrides)


def frames(count: int = 20, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    """RGB frames that get slowly brighter from left to right, and jump once."""
    ramp = torch.arange(size[1]).expand(*size)
    grey = torch.stack([ramp + 3 * n + 90 * (n > 10) for n in range(count)])
    return grey.to(torch.uint8)[..., None].expand(-1, -1, -1, 3).contiguous()


def save(folder: SavedFlow, video_id: str = "a", quantisation: str = "mediapipe") -> torch.Tensor:
    """The pictures [19, 24, 32, 3] that were saved."""
    with folder.writer(video_id) as keep:
        source = ComputedFlow(standin_flow, Quantisation(quantisation, 20), keep)
        parts = [source(frames()[start : start + 9]) for start in (0, 8)]
        parts.append(source(frames()[16:]))
    return torch.cat(parts)


def read(
    folder: SavedFlow,
    video_id: str = "a",
    seen: torch.Tensor | None = None,
    quantisation: str = "mediapipe",
) -> torch.Tensor:
    with folder.reader(video_id, Quantisation(quantisation, 20), CPU) as source:
        shown = frames() if seen is None else seen
        pictures = torch.cat([source(shown[:5]), source(shown[4:])])
        source.end()
    return pictures


@pytest.mark.parametrize("quantisation", ["mediapipe", "denseflow"])
def test_hdf5_gives_back_the_same_images(tmp_path, quantisation):
    folder = SavedFlow.prepare(tmp_path / "f", "hdf5", spec(quantisation=quantisation))
    written = save(folder, quantisation=quantisation)
    assert torch.equal(
        read(SavedFlow.open(tmp_path / "f", spec(quantisation=quantisation))), written
    )
    with h5py.File(tmp_path / "f" / "a.h5") as file:
        assert np.array_equal(file["u"], written[..., 0]) and file["v"].shape == (19, 24, 32)


def test_jpeg_has_the_files_of_two_stream_code_and_is_close(tmp_path):
    written = save(SavedFlow.prepare(tmp_path / "f", "jpeg", spec()))
    names = sorted(path.name for path in (tmp_path / "f" / "a").iterdir())
    assert names == [f"flow_{axis}_{n:05d}.jpg" for axis in "xy" for n in range(1, 20)]
    with Image.open(tmp_path / "f" / "a" / "flow_y_00003.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - written[2, ..., 1].numpy()).max() <= 6
    found = read(SavedFlow.open(tmp_path / "f", spec()))
    assert found.dtype == torch.uint8 and found.shape == written.shape
    assert (found.int() - written.int()).abs().max() <= 8


@pytest.mark.parametrize("quantisation", ["mediapipe", "denseflow", "mmaction2"])
def test_mirrored_crops_of_jpeg_are_those_of_the_flow(tmp_path, quantisation):
    """To a tenth of a level in the mean (a level is as if all moved by 0.16 px); without the
    losses of JPEG to a level, and that for few: beyond the bound, or just between two.
    """
    folder = SavedFlow.prepare(tmp_path / "f", "jpeg", spec(quantisation=quantisation))
    values = torch.linspace(-22, 22, 19 * 24 * 32).reshape(19, 24, 32, 1).expand(-1, -1, -1, 2)
    written = Quantisation(quantisation, 20).planes(values)
    with folder.writer("a") as keep:
        keep(written)
    found = read(folder, quantisation=quantisation)
    u, mirrored = written[..., 0].numpy(), written[..., 2].numpy().astype(int)
    off = np.abs(Quantisation(quantisation, 20).mirror(u) - mirrored)
    inside = np.abs(values[..., 0].numpy()) < 20
    assert off.max() <= 1 and (off[inside] > 0).mean() < 0.001
    assert abs(float((found[..., 2].float() - written[..., 2].float()).mean())) < 0.1
    assert abs(float((found[..., 0].float() - written[..., 0].float()).mean())) < 0.1


@pytest.mark.parametrize("form", FORMATS)
def test_odd_ids_have_files_of_their_own(tmp_path, form):
    ids = [*ODD_IDS, ".", "...", "flow.json", "a.tmp-vm-4194304-0", "a%2Fb", "A", "a"]
    ids += ["x" * 250, "x" * 251, "日" * 80]
    folder = SavedFlow.prepare(tmp_path / "f", form, spec())
    for video_id in ids:
        with folder.writer(video_id):
            pass
    SavedFlow.prepare(tmp_path / "f", form, spec())
    assert len({file_name(each) for each in ids}) == len(ids)
    assert len(list((tmp_path / "f").iterdir())) == len(ids) + 1
    assert len(list(tmp_path.iterdir())) == 1
    assert file_name("Bad.Boys__#00=1 x") == "Bad.Boys__%2300%3D1 x"


def no_file_left(path: Path) -> bool:
    return [each.name for each in path.iterdir()] == ["flow.json"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_video_that_fails_leaves_nothing(tmp_path, form):
    folder = SavedFlow.prepare(tmp_path / "f", form, spec())
    with pytest.raises(DecodeError), folder.writer("a") as keep:
        keep(torch.zeros(3, 24, 32, 3, dtype=torch.uint8))
        raise DecodeError("cut off")
    assert no_file_left(tmp_path / "f")


@pytest.mark.parametrize("form", FORMATS)
def test_saving_again_replaces_what_a_kill_left(tmp_path, form):
    folder = SavedFlow.prepare(tmp_path / "f", form, spec())
    with folder.writer("a") as keep:
        keep(torch.zeros(40, 24, 32, 3, dtype=torch.uint8))
    dead = temporary_name(tmp_path / "f" / "b").name.replace(f"-{os.getpid()}-", "-4194304-")
    (tmp_path / "f" / dead).mkdir()
    (tmp_path / "f" / dead / "flow_x_00001.jpg").touch()
    written = save(folder)
    SavedFlow.prepare(tmp_path / "f", form, spec())
    assert not (tmp_path / "f" / dead).exists()
    assert read(folder).shape == written.shape


def test_a_disk_that_refuses_hdf5_is_one_clear_line_and_leaves_nothing(tmp_path):
    folder = SavedFlow.prepare(tmp_path / "f", "hdf5", spec())
    noise = torch.randint(0, 256, (300, 24, 32, 3), dtype=torch.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot write .*a.h5"), folder.writer("a") as keep:
            for part in noise.split(20):
                keep(part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert no_file_left(tmp_path / "f")


def test_a_disk_that_refuses_a_jpeg_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    folder = SavedFlow.prepare(tmp_path / "f", "jpeg", spec())

    def refuse(image, file, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OutputError, match="the disk is full"), folder.writer("a") as keep:
        keep(torch.zeros(3, 24, 32, 3, dtype=torch.uint8))
    assert no_file_left(tmp_path / "f")


# ---------------------------------------------------------------- what does not fit


def test_flow_of_another_recipe_is_refused(tmp_path):
    SavedFlow.prepare(tmp_path / "f", "hdf5", spec())
    for odd in ({"flow_bound": 32}, {"resize": "short 224"}, {"quantisation": "denseflow"}):
        (name, value), *_ = odd.items()
        with pytest.raises(SpecError, match=f"{name}: {value} / "):
            SavedFlow.open(tmp_path / "f", spec(**odd))
        with pytest.raises(SpecError, match=f"{name}: {value} / "):
            SavedFlow.prepare(tmp_path / "f", "hdf5", spec(**odd))
    other = SavedFlow.open(tmp_path / "f", spec(crops=10, flip_rule="keep-u", tail="xd"))
    assert other.source == "hdf5"
    with pytest.raises(SpecError, match="saved as hdf5, not jpeg"):
        SavedFlow.prepare(tmp_path / "f", "jpeg", spec())


def test_flow_that_is_not_quantised_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="quantisation none"):
        SavedFlow.prepare(tmp_path / "f", "hdf5", spec(quantisation="none"))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"kind": "png", "recipe": {}}'])
def test_a_folder_that_is_none_of_ours(tmp_path, content):
    if content:
        (tmp_path / "flow.json").write_text(content)
    with pytest.raises(FeaturesError, match="flow.json"):
        SavedFlow.open(tmp_path, spec())


@pytest.mark.parametrize("form", FORMATS)
def test_flow_that_is_missing_or_of_another_video(tmp_path, form):
    folder = SavedFlow.prepare(tmp_path / "f", form, spec())
    save(folder)
    wrong = {
        "no such saved flow: save it first": ("b", None),
        "19 flows, but this video has 29 or more: .* remove it and save": ("a", frames(30)),
        "19 flows, but this video has 14: .* remove it": ("a", frames(15)),
        "has frames of 24 x 40 px, not 24 x 32: .* remove it": ("a", frames(20, (24, 40))),
    }
    for expected, (video_id, seen) in wrong.items():
        with pytest.raises(DecodeError, match=expected) as caught:
            read(folder, video_id, seen)
        assert caught.value.kind == "no-flow"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [flip_a_byte, lambda path: path.write_bytes(b"x" * 99)])
@pytest.mark.parametrize("name", ["a.h5", "a/flow_y_00007.jpg"])
def test_damaged_flow_is_reported(tmp_path, name, spoil):
    form = "hdf5" if name == "a.h5" else "jpeg"
    if form == "jpeg" and spoil is flip_a_byte:
        pytest.skip("JPEG has no checksum")
    folder = SavedFlow.prepare(tmp_path / "f", form, spec())
    save(folder)
    spoil(tmp_path / "f" / name)
    with pytest.raises(DecodeError, match=f"{name}: damaged saved flow"):
        read(folder)


@pytest.mark.parametrize("name", ["flow_x_00005.jpg", "flow_x_00019.jpg", "flow_y_00005.jpg"])
def test_a_jpeg_that_is_missing_is_reported(tmp_path, name):
    folder = SavedFlow.prepare(tmp_path / "f", "jpeg", spec())
    save(folder)
    (tmp_path / "f" / "a" / name).unlink()
    with pytest.raises(DecodeError, match=f"f/a: 18 flows.*incomplete|{name}: no such"):
        read(folder)


@pytest.mark.parametrize("axes", ["x", "y", "xy"])
def test_a_jpeg_of_another_size_is_reported(tmp_path, axes):
    folder = SavedFlow.prepare(tmp_path / "f", "jpeg", spec())
    save(folder)
    for axis in axes:
        Image.new("L", (30, 24)).save(tmp_path / "f" / "a" / f"flow_{axis}_00007.jpg")
    with pytest.raises(DecodeError, match=r"flow_._00007.jpg: damaged .*\(30, 24\) px"):
        read(folder)


def test_planes_that_are_not_8_bits_are_reported(tmp_path):
    folder = SavedFlow.prepare(tmp_path / "f", "hdf5", spec())
    save(folder)
    with h5py.File(tmp_path / "f" / "a.h5", "a") as file:
        planes = {name: file[name][:].astype(np.float32) for name in ("u", "v", "u_sum")}
        for name, plane in planes.items():
            del file[name]
            file[name] = plane
    with pytest.raises(DecodeError, match="a.h5: damaged saved flow .*float32"):
        read(folder)


def test_a_file_of_another_video_is_reported(tmp_path):
    folder = SavedFlow.prepare(tmp_path / "f", "hdf5", spec())
    save(folder)
    os.rename(tmp_path / "f" / "a.h5", tmp_path / "f" / "b.h5")
    with pytest.raises(DecodeError, match="it is of video 'a'"):
        read(folder, "b")
