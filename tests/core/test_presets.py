"""The recipes: pixels against the libraries they name, clip counts against published ones."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.commands import extract, run, without_network
from support.standin import StandIn
from support.videos import write_video

from vadprep.backbones import GRAPHS, SCALINGS
from vadprep.cli.options import parsed_fields
from vadprep.core.clips import SAMPLINGS, TAIL_RULES, num_clips
from vadprep.core.crops import CENTRE_ROUNDINGS
from vadprep.core.filters import frame_taps
from vadprep.core.preset import FLOW, OURS
from vadprep.core.presets import (
    AS_IT_IS,
    DATASET_PRESETS,
    DEVICE_DEFAULTS,
    PRESETS,
    resolve,
    values_of,
)
from vadprep.core.spec import DTYPES, SETTABLE, SETTABLE_FLOW, STREAMS
from vadprep.data import dataset_names, load_dataset
from vadprep.extraction import extractor, resolve_plan
from vadprep.extraction.plan import check_recipe
from vadprep.features.reader import open_features
from vadprep.video import FrameTransform, open_frames
from vadprep.video.resize import TorchResize

F = pytest.importorskip("torchvision.transforms.functional")
models = pytest.importorskip("torchvision.models")

CLIPS = ("Deadpool.2016__#0-18-58_0-19-20_label_B1-0-0.mp4", "bikes.mp4", "v_GGSY1Qvo990.mp4")
Frame = NDArray[np.uint8]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_its_network_and_says_where_it_is_from(name: str) -> None:
    preset, values = PRESETS[name], values_of(name)
    graph = GRAPHS[values["graph"]]
    assert values["crop_size"] == graph.size
    usual = 64 if name in ("video-features-i3d", "video-features-s3d") else graph.clip_length
    assert values["clip_length"] == values["clip_stride"] == usual and usual in graph.clip_lengths
    assert values["scaling"] in SCALINGS
    assert resolve(name, "cpu", ("w", ""), {}).preset == name
    assert preset.origin and all(source for _, source in preset.settings.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_rule_of_rates_of_its_makers_or_says_that_it_is_unknown(name: str) -> None:
    preset = PRESETS[name]
    rule, source = preset.settings["sampling"]
    assert rule in SAMPLINGS
    if source == AS_IT_IS:
        assert preset.fps[0] == "native"
    elif OURS in source:  # nobody wrote the rule down
        assert any("near" in each and "down" in each for each in preset.open_questions)


SPECS = {
    "i3d": "8fcc2027", "xd": "aa82be2d", "ucf": "c8ad0615", "rtfm-r50": "a3046ba9",
    "gowtham-r50": "fca860ce", "urdmu": "08a352c8", "ptv-r50": "98a68844", "r3d_18": "63047c93",
    "r2plus1d_18": "b8a0d1ea", "s3d": "917d6bb5", "swin3d_t": "91f5a9bb", "swin3d_s": "10bd1ec0",
    "swin3d_b": "41e8453f", "mvit_v2_s": "fa0ae2be", "arnet": "6010a192", "videomae_b": "9a84ae06",
    "vadclip": "31b9fa95", "clip-tsa": "c2e45e56", "video-features-i3d": "18636862",
    "video-features-r21d": "fdcd3ab7", "video-features-s3d": "38455bbb",
}  # fmt: skip
"""Start of the SHA-256 of all specs of a preset, JSON and hash, as they were when it was made."""


@pytest.mark.parametrize("name", SPECS)
def test_the_specs_of_a_preset_stay_as_they_were(name: str) -> None:
    """Feature folders of earlier versions hold these specs; another hash would lock them out."""
    specs = [
        resolve(name, device, ("w", "0"), {}, stream)
        for device in DEVICE_DEFAULTS
        for stream in STREAMS
        if stream == "rgb" or PRESETS[name].has_flow
    ]
    text = "".join(f"{spec.to_json()} {spec.hash}\n" for spec in specs)
    assert hashlib.sha256(text.encode()).hexdigest()[:8] == SPECS[name]


@pytest.mark.parametrize("name", ["i3d", "video-features-i3d"])
def test_all_that_presets_name_shows_is_taken_by_set(name: str) -> None:
    """But the network, which has its own preset; named as it is, no value makes another spec."""
    shown = {field: value for field, (value, _) in PRESETS[name].settings.items()}
    assert set(shown) - {"graph"} == set(SETTABLE) - {"precision", "batch"}
    options = [f"{field}={value}" for field, value in shown.items() if field != "graph"]
    with without_network():
        plans = [
            resolve_plan(None, preset=name, weights="random:0", settings=parsed_fields(fields))
            for fields in ([], options)
        ]
    assert plans[0].specs == plans[1].specs


OTHERS: dict[str, dict[str, Any]] = {
    "fps": {"fps": "7"}, "sampling": {"sampling": "down", "fps": "7"},
    "frames": {"frames": "jpeg50"}, "resize": {"resize": "300x400"},
    "filter": {"filter": "opencv-area"}, "crops": {},
    "crop_order": {"crops": 5, "crop_order": "mmaction"}, "centre_rounding": {},
    "crop_size": {"resize": "300x400"}, "scaling": {}, "clip_length": {},
    "clip_stride": {"clip_stride": 3}, "tail": {},
    "pooling": {"pooling": "first"}, "batch_norm_eps": {"batch_norm_eps": "0.25"},
    "decoder": {"decoder": "pyav"}, "precision": {"precision": "bf16"}, "dtype": {},
    "batch": {"batch": 7}, "flow": {"flow": FLOW["flow"][0].replace("warps=5", "warps=4")},
    "flow_bound": {"flow_bound": 32}, "quantisation": {"quantisation": "mmaction2"},
    "flip_rule": {"flip_rule": "keep-u"},
}  # fmt: skip
"""Settings that give a field another value than presets have; those below depend on the preset."""


def others(field: str, preset: str) -> list[dict[str, Any]]:
    values, graph = values_of(preset), GRAPHS[values_of(preset)["graph"]]
    choices = {
        "centre_rounding": CENTRE_ROUNDINGS, "scaling": SCALINGS, "dtype": DTYPES,
        "crops": (5, 10), "tail": TAIL_RULES, "crop_size": (graph.size - 8, graph.size + 8),
        "clip_length": (8, 16, 32, 64),
    }  # fmt: skip
    if field not in choices:
        return [OTHERS[field]]
    return [OTHERS[field] | {field: e} for e in choices[field] if e != values[field]]


@pytest.mark.parametrize("name", PRESETS)
def test_set_takes_what_presets_name_promises_and_nothing_else(name: str) -> None:
    printed = run("presets", name)
    (row,) = [line for line in printed.output.splitlines() if line.startswith("--set ")]
    promised = row.split("takes")[1].strip().split(", ")
    stream = "flow" if PRESETS[name].has_flow else "rgb"
    plain, taken = resolve(name, "cpu", ("w", "0"), {}, stream), []
    for field in OTHERS if stream == "flow" else SETTABLE:
        for settings in others(field, name):
            spec = resolve(name, "cpu", ("w", "0"), settings, stream)
            assert getattr(spec, field) != getattr(plain, field)
            with suppress(ValueError):
                check_recipe(spec)
                taken.append(field)
                break
    assert sorted(promised) == sorted(taken)
    assert set(OTHERS) == {*SETTABLE, *SETTABLE_FLOW}


def test_an_epsilon_has_one_name() -> None:
    """That of the network itself is ``own``, so that folders of before go on."""
    with without_network():
        plans = [
            resolve_plan(None, preset=name, weights="random:0", settings={"batch_norm_eps": eps})
            for name, eps in (("i3d", "own"), ("i3d", 0.001), ("i3d", "1e-3"), ("urdmu", "1E-05"))
        ]
    found = [plan.specs[0].batch_norm_eps for plan in plans]
    assert found == ["own", "own", "own", "1e-5"]
    assert len({plan.specs[0].hash for plan in plans}) == 2


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="allowed are .*i3d, .*xd"):
        values_of("i3")


def test_presets_of_data_sets() -> None:
    assert set(DATASET_PRESETS) <= set(dataset_names())
    assert set(DATASET_PRESETS.values()) <= set(PRESETS)


# ---------------------------------------------------------------- pixels


def short_256(frame: Frame) -> Image.Image:
    """torchvision's own rule for the longer side, and Pillow's bilinear filter."""
    return F.resize(Image.fromarray(frame), 256, F.InterpolationMode.BILINEAR)


def stretched(frame: Frame) -> Image.Image:
    return Image.fromarray(frame).resize((340, 256), Image.Resampling.LANCZOS)


def arrays(images: tuple[Image.Image, ...], order: list[int]) -> list[Frame]:
    return [np.asarray(images[i]) for i in order]


def gowtham_ten(frame: Frame) -> list[Frame]:
    """Rows 0, 16, 32 and columns 0, 58, 116: corners and centre, in reading order."""
    image = np.asarray(stretched(frame))
    places = [(0, 0), (0, 116), (16, 58), (32, 0), (32, 116)]
    return [x[y : y + 224, z : z + 224] for x in (image, image[:, ::-1]) for y, z in places]


def short_224(frame: Frame) -> Frame:
    """OpenCV's bilinear filter, as the official code of VideoMAE resizes arrays."""
    height, width = frame.shape[:2]
    assert height <= width
    return cv2.resize(frame, (224 * width // height, 224))


def vadclip_ten(frame: Frame) -> list[Frame]:
    """crop.py: cv2.resize to 340 x 256, five crops by fixed numbers, and each of them flipped."""
    image = cv2.resize(frame, (340, 256))
    five = [image[y : y + 224, x : x + 224] for y, x in VADCLIP_PLACES]
    return five + [cv2.flip(crop, 1) for crop in five]


VADCLIP_PLACES = [(16, 58), (0, 0), (0, 116), (32, 0), (32, 116)]


def clips_own(frame: Frame) -> Frame:
    """What open_clip's transform for evaluation leaves before it scales, uint8 [224, 224, 3]."""
    transform = pytest.importorskip("open_clip.transform")
    resize, centre_crop, *_ = transform.image_transform(224, is_train=False).transforms
    return np.asarray(centre_crop(resize(Image.fromarray(frame))))


CENTRE_FIRST = [4, 0, 1, 2, 3]
PIXELS = {
    "i3d": lambda frame: [np.asarray(F.center_crop(short_256(frame), 224))],
    "xd": lambda frame: arrays(F.five_crop(short_256(frame), 224), CENTRE_FIRST),
    "ucf": lambda frame: arrays(
        F.ten_crop(short_256(frame), 224), CENTRE_FIRST + [5 + i for i in CENTRE_FIRST]
    ),
    "rtfm-r50": lambda frame: arrays(F.ten_crop(short_256(frame), 224), list(range(10))),
    "gowtham-r50": gowtham_ten,
    "urdmu": gowtham_ten,
    "videomae_b": lambda frame: [np.asarray(F.center_crop(Image.fromarray(short_224(frame)), 224))],
    "vadclip": vadclip_ten,
    "clip-tsa": lambda frame: [clips_own(frame)],
}
"""Views of a frame, uint8 [224, 224, 3] each, by Pillow and torchvision; by preset."""
HALF, DARK = (127.5, 127.5), (114.75, 57.375)
IMAGENET = (
    255 * torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1, 1),
    255 * torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1, 1),
)
CLIP = (  # as its preprocessor_config.json has them, for values 0..1
    255 * torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1, 1),
    255 * torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1, 1),
)
SCALED = dict.fromkeys(PIXELS, HALF) | {
    "rtfm-r50": DARK, "videomae_b": IMAGENET, "vadclip": CLIP, "clip-tsa": CLIP,
}  # fmt: skip


def expected(preset: str, frames: Frame) -> torch.Tensor:
    """What enters the network, float32 [crop, channel, T, H, W], by the named libraries."""
    if preset in PIXELS:
        views = np.stack([PIXELS[preset](frame) for frame in frames], axis=1)
        mean, std = SCALED[preset]
        return (torch.from_numpy(views).permute(0, 4, 1, 2, 3).float() - mean) / std
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if preset == "ptv-r50":  # torch's own bilinear filter on floats, as SlowFast has it
        height, width = frames.shape[1:3]
        assert height <= width
        size = (256, width * 256 // height)
        resized = torch.nn.functional.interpolate(channels_first.float(), size, mode="bilinear")
        return ((F.center_crop(resized, 256) / 255 - 0.45) / 0.225).transpose(0, 1)[None]
    transforms = models.get_model_weights(preset)["KINETICS400_V1"].transforms()
    return transforms(channels_first)[None]


def view_settings(preset: str) -> dict[str, Any]:
    names = ("resize", "filter", "crops", "crop_order", "crop_size")
    return {name: values_of(preset)[name] for name in names}


NAMED = [*PIXELS, "ptv-r50", "r3d_18", "s3d", "swin3d_t", "mvit_v2_s"]
"""Presets whose views a library defines."""
SAME = {"arnet": "i3d", "r2plus1d_18": "r3d_18", "swin3d_s": "swin3d_t", "swin3d_b": "swin3d_t"}


@pytest.mark.parametrize("preset", SAME)
def test_presets_with_the_views_of_another(preset: str) -> None:
    assert view_settings(preset) == view_settings(SAME[preset])
    assert values_of(preset)["scaling"] == values_of(SAME[preset])["scaling"]


@pytest.fixture(scope="module", params=CLIPS)
def frames(real_clips: Path, request: pytest.FixtureRequest) -> Frame:
    """Two frames of a real clip, uint8 [2, height, width, 3]."""
    with open_frames(real_clips / request.param) as stream:
        return next(iter(stream))[:2].copy()


@pytest.mark.parametrize("preset", NAMED)
def test_pixels_are_those_of_the_named_library(frames: Frame, preset: str) -> None:
    """Within one grey level for 99.9 % of the values that enter the network.

    Resized by the CPU's sums, and by those of a GPU, here computed on the CPU.
    """
    settings = view_settings(preset)
    transform = FrameTransform(*frames.shape[1:3], "cpu", **settings)
    taps = frame_taps(settings["filter"], frames.shape[1:3], transform.size)
    on_device = TorchResize(taps, torch.device("cpu"))
    scaling, theirs = SCALINGS[values_of(preset)["scaling"]], expected(preset, frames)
    for resized in (transform.resize(frames), on_device(torch.from_numpy(frames))):
        ours = scaling(transform.crop(resized))
        assert ours.shape == theirs.shape
        levels = (ours - theirs).abs() * torch.tensor(scaling.std).view(-1, 1, 1, 1)
        assert (levels <= 1.001).float().mean() >= (1 if scaling == SCALINGS["clip"] else 0.999)


# ---------------------------------------------------------------- clip counts


def test_clip_counts_of_ucf() -> None:
    """Lengths of the public features: 279 of 290 by ``xd``, the 11 others by ``drop``."""
    test = [video for video in load_dataset("ucf").videos if video.split == "test"]
    by_rule = {"xd": 0, "drop": 0}
    for video in test:
        assert video.num_frames and video.num_frames_scored
        rule = next(
            r for r in by_rule if 16 * num_clips(video.num_frames, r) == video.num_frames_scored
        )
        by_rule[rule] += 1
    assert by_rule == {"xd": 279, "drop": 11}
    assert sum(num_clips(v.num_frames or 0, "xd") for v in test) + 11 == 69_355


@pytest.mark.parametrize(
    "frames, tail, length, expected",
    [(64, "drop", 8, 8), (64, "xd", 8, 7), (65, "repeat-last", 8, 9)],
)
def test_clips_of_another_length(frames: int, tail: str, length: int, expected: int) -> None:
    assert num_clips(frames, tail, length) == expected


def test_a_preset_with_clips_of_8_frames(tmp_path: Path) -> None:
    """20 frames at 30 a second: 8 of them 3.75 a second apart would be 64, so native here."""
    shapes = []

    class Short(StandIn):
        dim = 8 * 16

        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(views.shape))
            return super().__call__(views)

    write_video(tmp_path / "v.mp4", 20)
    with without_network() as patch:
        patch.setattr(extractor, "Backbone", lambda *settings: Short())
        done = extract(tmp_path, tmp_path / "f", "--preset", "ptv-r50")
    assert done.exit_code == 0, done.output
    assert shapes == [(1, 8, 256, 256, 3)] * 2
    with open_features(tmp_path / "f") as features:
        assert features["v"].spans.tolist() == [[0, 8], [8, 16]]
        assert features["v"].rgb.shape == (2, 1, 128)


def test_an_unknown_scaling_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 20)
    refused = extract(tmp_path, tmp_path / "f", "--set", "scaling=[0,2]")
    assert refused.exit_code == 2 and "(x-114.75)/57.375" in refused.output
