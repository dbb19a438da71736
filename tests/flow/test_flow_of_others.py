"""Flow that denseflow, dense_flow and mmaction2 have written, as re-enacted from their code."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from numpy.typing import NDArray
from support.commands import extract, message, without_network
from support.standin import standin_spec
from support.videos import write_video

from vadprep.core.errors import DecodeError, FeaturesError, SpecError
from vadprep.core.spec import UNKNOWN
from vadprep.features.reader import open_features
from vadprep.flow import Quantisation, SavedFlow

CPU = torch.device("cpu")
FLOW = np.random.default_rng(0).normal(0, 9, (19, 24, 32, 2)).astype(np.float32)
"""Flow of 20 frames, some of it beyond 20 px."""
FRAMES = torch.zeros(20, 24, 32, 3, dtype=torch.uint8)


def denseflow_image(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """CAST of denseflow's and dense_flow's common.cpp, in double; np.round is cvRound."""
    value = flow.astype(float)
    grey = np.round(255 * (value + bound) / (2 * bound))
    return np.where(value > bound, 255, np.where(value < -bound, 0, grey)).astype(np.uint8)


def mmaction2_image(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """flow_to_img of flow_extraction.py."""
    image = np.clip(flow, -bound, bound)
    image += bound
    image *= 255 / float(2 * bound)
    return image.astype(np.uint8)


PROGRAMS = {
    "denseflow": (denseflow_image, "flow_{}_{:05d}.jpg", 0),
    "dense_flow": (denseflow_image, "flow_{}_{:05d}.jpg", 1),
    "mmaction2": (mmaction2_image, "{}_{:05d}.jpg", 1),
}


def write(root: Path, program: str, video: str = "a", bound: int = 20) -> Path:
    """Write ``FLOW`` as a program does, to ``root/video``."""
    image, name, first = PROGRAMS[program]
    folder = root / video
    folder.mkdir(parents=True)
    for number, flow in enumerate(FLOW, first):
        for axis, plane in zip("xy", np.moveaxis(flow, -1, 0), strict=True):
            cv2.imwrite(str(folder / name.format(axis, number)), image(plane, float(bound)))
    return folder


def found(root: Path, **named: object) -> tuple[SavedFlow, object]:
    return SavedFlow.find(root, standin_spec("flow", **named), named)


def read(root: Path, video: str = "a", frames: torch.Tensor = FRAMES) -> torch.Tensor:
    flow, spec = found(root, flow_bound=20)
    quantisation = Quantisation(spec.quantisation, spec.flow_bound)
    with flow.reader(video, quantisation, CPU) as source:
        planes = torch.cat([source(frames[:5]), source(frames[4:])])
        source.end()
    return planes


@pytest.mark.parametrize("program", PROGRAMS)
def test_images_of_a_program_are_read_as_they_are(tmp_path: Path, program: str) -> None:
    image, name, first = PROGRAMS[program]
    folder = write(tmp_path / "f", program)
    _, spec = found(tmp_path / "f", flow_bound=20)
    expected = "mmaction2" if program == "mmaction2" else "denseflow"
    assert (spec.flow_source, spec.quantisation) == (program, expected)
    assert (spec.flow, spec.flow_bound) == (UNKNOWN, 20)
    planes = read(tmp_path / "f").numpy()
    for number in range(19):
        for axis in (0, 1):
            file = folder / name.format("xy"[axis], first + number)
            stored = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(planes[number, ..., axis], stored)
    ours = Quantisation(spec.quantisation, 20).planes(torch.from_numpy(FLOW)).numpy()
    np.testing.assert_array_equal(ours[..., :2], image(FLOW, 20.0))
    assert abs(planes.astype(int) - ours).mean() < 3  # of noise that went through JPEG


def test_the_bound_is_given_or_stands_in_the_name_of_the_folder(tmp_path: Path) -> None:
    for name in ("ucf_b32", "flow-bound=32", "b32", "x.bound32.jpg"):
        write(tmp_path / name, "denseflow")
        assert found(tmp_path / name)[1].flow_bound == 32
        with pytest.raises(ValueError, match=r"the name says 32 px, not flow_bound = 20"):
            found(tmp_path / name, flow_bound=20)
    for name in ("ucf", "club20", "b20x"):
        write(tmp_path / name, "denseflow")
        with pytest.raises(ValueError, match=rf"/{name}: at how many px .* --set flow_bound=20"):
            found(tmp_path / name)


def test_what_is_known_of_the_flow_may_be_said(tmp_path: Path) -> None:
    write(tmp_path / "b20", "dense_flow")
    settings = {"quantisation": "mmaction2", "flow": standin_spec("flow").flow}
    _, spec = found(tmp_path / "b20", **settings)
    assert (spec.quantisation, spec.flow) == ("mmaction2", settings["flow"])
    with pytest.raises(ValueError, match="quantisation none is not theirs"):
        found(tmp_path / "b20", quantisation="none")


@pytest.mark.parametrize("video", ["b/a.mp4", "b/a"])
def test_folders_are_named_by_the_id_with_or_without_its_ending(tmp_path: Path, video: str) -> None:
    write(tmp_path / "f", "denseflow", "b/a")
    assert found(tmp_path / "f", flow_bound=20)[0].holds(video)
    assert read(tmp_path / "f", video).shape == (19, 24, 32, 3)
    for other in ("a", "b/c", "b/a.2016", "../f/b/a", str(tmp_path / "f" / "b" / "a"), "b/a\0"):
        assert not found(tmp_path / "f", flow_bound=20)[0].holds(other)
        with pytest.raises(DecodeError, match=r": no such saved flow: the folder needs the path"):
            read(tmp_path / "f", other)


# ---------------------------------------------------------------- what does not fit


WRONG = {
    "flow_x_00000.jpg": r"a: the images begin with flow_x_00001.jpg, where flow_x_00000.jpg is exp",
    "flow_x_00007.jpg": r"a/flow_x_00007.jpg: no such file, though the other of x and y is there",
    "flow_y_00007.jpg": r"a/flow_y_00007.jpg: no such file, though the other of x and y is there",
    "flow_x_00018.jpg": r"a/flow_x_00018.jpg: no such file, though the other of x and y is there",
    "flow_?_00007.jpg": r"a/flow_x_00007.jpg: no such file, though a later one is there",
    "flow_?_00018.jpg": r"a: 18 flows, but this video has 19 or more: the saved flow is incomplete",
}


@pytest.mark.parametrize("lacking", WRONG)
def test_an_image_that_is_missing_is_named(tmp_path: Path, lacking: str) -> None:
    write(tmp_path / "f", "denseflow", "0")
    folder = write(tmp_path / "f", "denseflow", "a")
    for file in folder.glob(lacking):
        file.unlink()
    with pytest.raises(
        DecodeError, match=WRONG[lacking] + ".*: the folder needs .*--fps native"
    ) as caught:
        read(tmp_path / "f")
    assert caught.value.kind == "no-flow"


def test_a_video_with_other_numbers_than_the_first_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f", "denseflow", "0")
    write(tmp_path / "f", "dense_flow", "a")
    write(tmp_path / "f", "mmaction2", "b")
    for video, first in (("a", "flow_x_00001.jpg"), ("b", "x_00001.jpg")):
        with pytest.raises(DecodeError, match=rf"/{video}: the images begin with {first}, where f"):
            read(tmp_path / "f", video)


def test_images_of_another_size_name_the_setting_that_fits(tmp_path: Path) -> None:
    write(tmp_path / "f", "denseflow")
    wide = torch.zeros(20, 24, 40, 3, dtype=torch.uint8)
    with pytest.raises(DecodeError, match=r"frames of 24 x 40 px, not 24 x 32: .*resize=24x32$"):
        read(tmp_path / "f", frames=wide)


def test_more_flow_than_frames_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f", "denseflow")
    with pytest.raises(DecodeError, match=r"19 flows, but this video has 14: .*--fps native"):
        read(tmp_path / "f", frames=FRAMES[:15])


def test_folders_that_hold_no_flow_of_videos(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "late" / "a").mkdir(parents=True)
    (tmp_path / "late" / "a" / "flow_x_00007.jpg").touch()
    wrong = {
        tmp_path / "empty": "neither flow.json, .* nor folders of videos with flow_x_00001.jpg or",
        write(tmp_path / "f", "denseflow"): "holds images of flow itself: name the folder above",
        tmp_path / "late": "a: flow_x_00007.jpg is the first image: expected number 00000 or 00001",
    }
    for path, expected in wrong.items():
        with pytest.raises(FeaturesError, match=expected):
            found(path, flow_bound=20)


def test_another_folder_on_another_node_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f", "denseflow")
    flow, spec = found(tmp_path / "f", flow_bound=20)
    flow.check(spec)
    (tmp_path / "f").rename(tmp_path / "g")
    write(tmp_path / "f", "mmaction2")
    with pytest.raises(SpecError, match="f: images like x_00001.jpg, not flow_x_00000.jpg"):
        flow.check(spec)


# ---------------------------------------------------------------- by the command


@pytest.mark.parametrize(
    ("form", "first", "program"),
    [
        pytest.param("jpeg", "flow_x_00001.jpg", "dense_flow", marks=pytest.mark.slow),
        ("denseflow", "flow_x_00000.jpg", "denseflow"),
        pytest.param("mmaction2", "x_00001.jpg", "mmaction2", marks=pytest.mark.slow),
    ],
)
def test_flow_is_saved_under_names_and_read_with_and_without_its_settings(
    tmp_path: Path, form: str, first: str, program: str
) -> None:
    """Read without flow.json, as other programs leave it, the numbers are the same; only the spec
    does not know how the flow was computed."""
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.mp4", 20)
    saved, features = tmp_path / "saved_b20", []

    def run(name: str, *options: object) -> Result:
        streams = ("--streams", "flow", "--crops", "5")
        return extract(tmp_path / "v", tmp_path / name, *streams, *options)

    with without_network():
        assert run("made", "--save-flow", saved, "--flow-format", form).exit_code == 0
        assert (saved / "a" / first).exists() and len(list((saved / "a").iterdir())) == 38
        assert run("ours", "--flow-from", saved).exit_code == 0
        (saved / "flow.json").unlink()
        options = ("--flow-from", saved, "--set", "quantisation=mediapipe")
        assert run("others", *options).exit_code == 0
        refused = message(run("x", *options, "--set", "flow_bound=32"))
        assert "the name says 20 px, not flow_bound = 32" in refused
    for name, source in (("ours", "jpeg 95"), ("others", program)):
        with open_features(tmp_path / name) as made:
            features.append(made["a"].flow)
            spec = made.specs["flow"]
            assert spec.flow_source == source and (spec.flow == UNKNOWN) == (name == "others")
    np.testing.assert_array_equal(*features)
