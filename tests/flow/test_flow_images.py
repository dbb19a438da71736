"""Flow as images: grey and quantisation to the bit, mirrored planes, and the end of a video."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from support.standin import standin_flow

from vadprep.core import presets
from vadprep.core.clips import num_flows
from vadprep.flow import TVL1, ComputedFlow, FlowImages, Quantisation, grey_of


def test_grey_is_opencvs_for_every_colour() -> None:
    red, green, blue = (torch.arange(256, dtype=torch.uint8) for _ in range(3))
    for part in red.split(32):
        colours = torch.cartesian_prod(part, green, blue).view(-1, 4096, 3)
        theirs = cv2.cvtColor(colours.numpy(), cv2.COLOR_RGB2GRAY)
        np.testing.assert_array_equal(grey_of(colours).numpy(), theirs)


def mediapipe(value: float) -> int:
    """FlowQuantizerModel::Apply, in float32: (v - min) / (max - min), clamped, cut off."""
    share = (np.float32(value) + np.float32(20)) / np.float32(40)
    return int(np.float32(255) * np.clip(share, np.float32(0), np.float32(1)))


def denseflow(value: float) -> int:
    """CAST of common.cpp, in double, with cvRound: halves to even."""
    if value > 20:
        return 255
    return 0 if value < -20 else round(255 * (value + 20) / 40)


def mmaction2(value: float) -> int:
    """flow_to_img of tools/misc/flow_extraction.py: float32 arrays, cut off."""
    flow = np.clip(np.float32([value]), -20.0, 20.0)
    flow += 20.0
    flow *= 255 / float(2 * 20.0)
    return int(flow.astype(np.uint8)[0])


def none(value: float) -> float:
    return np.float32(min(max(value, -20), 20)) / np.float32(20)


HALVES = [(k + 0.5) * 40 / 255 - 20 for k in range(255)]
VALUES = np.float32([0, -0.0, 20, -20, 25, -25, 19.99, *np.linspace(-21, 21, 2001), *HALVES])


@pytest.mark.parametrize("one", [mediapipe, denseflow, mmaction2, none])
def test_quantisation_is_that_of_the_program_it_is_named_after(one) -> None:
    flow = torch.from_numpy(np.stack([VALUES, VALUES[::-1]], axis=-1))[None, None]
    planes = Quantisation(one.__name__, 20).planes(flow).numpy()[0, 0]
    assert planes.dtype == (np.float32 if one is none else np.uint8)
    np.testing.assert_array_equal(planes[:, 0], [one(float(v)) for v in VALUES])
    np.testing.assert_array_equal(planes[:, 1], [one(float(v)) for v in VALUES[::-1]])
    np.testing.assert_array_equal(planes[:, 2], [one(float(-v)) for v in VALUES])


def test_still_flow_and_the_bounds() -> None:
    flow = torch.tensor([[0.0, 0.0], [20.0, -20.0]])
    assert Quantisation("mediapipe", 20).planes(flow).tolist() == [[127] * 3, [255, 0, 0]]
    assert Quantisation("denseflow", 20).planes(flow).tolist() == [[128] * 3, [255, 0, 0]]
    assert Quantisation("mmaction2", 20).planes(flow).tolist() == [[127] * 3, [255, 0, 0]]
    assert Quantisation("none", 20).planes(flow).tolist() == [[0, 0, 0], [1, -1, -1]]


def frames(count: int) -> torch.Tensor:
    """Random RGB frames [count, 8, 12, 3]."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, 8, 12, 3), dtype=np.uint8))


def flow_images(
    flip_rule: str = "negate-u", name: str = "mediapipe", method=standin_flow, step: int = 1
) -> FlowImages:
    quantisation = Quantisation(name, 20)
    return FlowImages(ComputedFlow(method, quantisation), quantisation, flip_rule, step)


@pytest.mark.parametrize("step", [1, 8, 16, 64])
@pytest.mark.parametrize("blocks", [(40,), (1, 39), (16, 16, 8), (1,) * 40])
def test_images_do_not_depend_on_the_blocks_and_the_last_is_still(blocks, step) -> None:
    made = flow_images(step=step)
    found = [made.add(block) for block in frames(40).split(list(blocks))]
    *found, still = torch.cat([*found, made.flush()])
    whole = Quantisation("mediapipe", 20).planes(standin_flow(grey_of(frames(40))))
    assert len(found) == num_flows(40) == 39
    assert torch.equal(torch.stack(found), whole)
    assert (still == 127).all()


@pytest.mark.parametrize(("step", "expected"), [(1, [6, 7, 7, 7, 7, 5]), (16, [16, 16, 7])])
def test_each_pair_is_seen_once_and_many_together(step, expected) -> None:
    pairs = []

    def counted(grey: torch.Tensor) -> torch.Tensor:
        pairs.append(len(grey) - 1)
        return standin_flow(grey)

    made = flow_images(method=counted, step=step)
    for block in frames(40).split(7):
        made.add(block)
    made.flush()
    assert pairs == expected


def test_a_video_without_frames_has_no_image() -> None:
    assert len(flow_images().flush()) == 0


@pytest.mark.parametrize("name", ["none", "mediapipe", "denseflow", "mmaction2"])
def test_a_mirrored_crop_is_the_flow_of_the_mirrored_video(name: str) -> None:
    """By ``negate-u``; ``keep-u`` has the mirrored picture of the flow as it was."""

    def of_mirrored(grey: torch.Tensor) -> torch.Tensor:
        """What an exact flow method does with mirrored frames: it finds the mirrored flow."""
        flow = standin_flow(grey.flip(2)).flip(2)
        return flow * torch.tensor([-1.0, 1.0])

    made = flow_images(name=name)
    shown = made.channels(made.add(frames(17)).flip(2), True)
    mirrored = flow_images(name=name, method=of_mirrored)
    assert torch.equal(shown, mirrored.channels(mirrored.add(frames(17).flip(2)), False))
    legacy = flow_images("keep-u", name)
    plain = legacy.add(frames(17))
    assert torch.equal(legacy.channels(plain.flip(2), True), plain[..., :2].flip(2))


# ---------------------------------------------------------------- settings as text


def test_the_settings_of_the_presets_are_the_defaults() -> None:
    assert TVL1().text() == presets.FLOW["flow"][0]
    assert TVL1.parse(presets.FLOW["flow"][0]) == TVL1()
    other = TVL1(lambda_=0.05, scales=1, median=1, epsilon=0.0)
    assert TVL1.parse(other.text()) == other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tvl1", "expected each setting once"),
        ("farneback", "expected each setting once"),
        (presets.FLOW["flow"][0].replace("tau=0.25", "tau=x"), "could not convert"),
        (presets.FLOW["flow"][0].replace("tau=0.25", "tau=0"), "must be positive"),
        (presets.FLOW["flow"][0] + " gamma=0", "gamma"),
        (presets.FLOW["flow"][0] + " median", "has length 1"),
    ],
)
def test_settings_that_cannot_be_read(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        TVL1.parse(text)
