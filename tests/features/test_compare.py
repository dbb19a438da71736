"""What differs between two feature sets is found from the numbers, in words."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import chain, permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.commands import run
from support.stored import small_spec, stored_video, write_folder
from support.trees import feature_folder, manifest_of

from vadprep.backbones import has_cpu_bf16
from vadprep.cli.exchange import compared_words
from vadprep.core.clips import Resampling
from vadprep.core.errors import FeaturesError
from vadprep.core.presets import resolve
from vadprep.core.spec import UNKNOWN, Spec
from vadprep.extraction.api import extract
from vadprep.extraction.extractor import resampled
from vadprep.extraction.streams import Clips
from vadprep.features.compare.compare import Comparison, FeatureSet, compare, open_pair
from vadprep.features.compare.measures import (
    VideoClips,
    best_order,
    cosines,
    count_clips,
    named_orders,
    paired_clips,
)
from vadprep.features.exchange.export import export_features
from vadprep.video import FrameTransform

FRAMES = {"street": 208, "yard": 213, "gate": 224}
"""Frames of the drawn videos; two are multiples of 16."""

SETTINGS = dict(resize="short 64", filter="pil-bilinear", crops=5, crop_order="xd", crop_size=56)


class InMemory(FeatureSet):
    """A feature set of arrays."""

    def __init__(self, features: Mapping[str, NDArray[np.float32]], frames: bool = True) -> None:
        self.features = features
        self.ids = tuple(features)
        self.known = FRAMES if frames else {}

    def form(self, video_id: str) -> tuple[int, ...]:
        return self.features[video_id].shape

    def read(self, video_id: str) -> NDArray[np.float32]:
        return self.features[video_id]

    def frames(self, video_id: str) -> int | None:
        return self.known.get(video_id)


@functools.cache
def drawn(name: str) -> NDArray[np.uint8]:
    """Frames of patches, large and small, whose brightness wanders: uint8 [n, 96, 128, 3]."""
    rng = np.random.default_rng(list(FRAMES).index(name))
    total = np.zeros((FRAMES[name], 96, 128, 3))
    for side in (32, 16, 8):
        grid = rng.normal(size=(96 // side, 128 // side, 3))
        for frame in total:
            grid = 0.95 * grid + 0.3 * rng.normal(size=grid.shape)
            frame += grid.repeat(side, axis=0).repeat(side, axis=1)
    return (128 + 30 * total).clip(0, 255).astype(np.uint8)


class Network:
    """Two random convolutions with ReLUs, mean over space and time: 96 features."""

    def __init__(self, seed: int, scale: float, shift: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.scale, self.shift = scale, shift
        self.first = torch.randn(32, 3, 4, 8, 8, generator=generator) / 28
        self.second = torch.randn(96, 32, 2, 3, 3, generator=generator) / 24
        self.bias = torch.randn(32, generator=generator) / 10

    def __call__(self, views: torch.Tensor) -> NDArray[np.float32]:
        x = (views.permute(0, 4, 1, 2, 3).float() - self.shift) / self.scale
        x = torch.relu(torch.nn.functional.conv3d(x, self.first, self.bias, stride=(4, 8, 8)))
        x = torch.relu(torch.nn.functional.conv3d(x, self.second))
        return x.mean(dim=(2, 3, 4)).numpy()


@functools.cache
def extracted(
    seed: int = 0,
    scale: float = 127.5,
    shift: float = 127.5,
    tail: str = "drop",
    fps: int | None = None,
    stride: int = 16,
    **settings: object,
) -> InMemory:
    """Features of the drawn videos by the project's own resampling, resizing, crops and clips."""
    network, resampling = (
        Network(seed, scale, shift),
        Resampling(Fraction(30), fps and Fraction(fps)),
    )
    features = {}
    for name in FRAMES:
        frames = drawn(name)
        transform = FrameTransform(96, 128, "cpu", **(SETTINGS | settings))
        clips = Clips(tail, 16, stride)
        whole = [
            *chain(
                *(clips.add(transform.resize(each)) for each in resampled([frames], resampling))
            ),
            *clips.flush(),
        ]
        features[name] = np.stack([network(transform.crop(clip)) for clip in whole])
    return InMemory(features, frames=fps is None)


def words(found: Comparison) -> str:
    return " | ".join(f"{each.sure}: {each.text}" for each in found.differences)


DIFFERENCES = {
    "crop order": (
        {"crop_order": "gowtham"},
        ["another order of the crops (xd in A and gowtham in B", "): B's crop 2 is A's crop 0"],
    ),
    "scaling": (
        {"scale": 57.375, "shift": 114.75},
        ["another scaling of the input", "B was made with (x-114.75)/57.375 scaling and A with"],
    ),
    "tail rule": (
        {"tail": "xd"},
        ["certain: another tail rule: B has one clip fewer on multiples of 16, in 2 of 3 videos",
         "certain: tail rule of A drop, of B xd"],
    ),
    "resize": (
        {"resize": "60x75", "filter": "pil-lanczos"},
        ["the network saw other pixels: another resize"],
    ),
    "frame rate": ({"fps": 24}, ["another frame rate: B has 0.7", "as 24 fps to 30 fps"]),
    "weights": ({"seed": 1}, ["other weights or another network: the same videos"]),
    "crop order and tail rule": (
        {"crop_order": "torchvision", "tail": "repeat-last"},
        ["another tail rule: B has one clip more except on multiples of 16",
         "another order of the crops (xd in A and torchvision in B"],
    ),
    "crop order and scaling": (
        {"crop_order": "gowtham", "scale": 57.375, "shift": 114.75},
        ["another order of the crops (xd in A and gowtham in B", "another scaling of the input"],
    ),
    "frame rate and weights": (
        {"fps": 24, "seed": 1},
        ["another frame rate", "other weights or another network"],
    ),
    "resize and tail rule": (
        {"resize": "60x75", "filter": "pil-lanczos", "tail": "xd"},
        ["tail rule: B has one clip fewer on multiples of 16", "other pixels: another resize"],
    ),
}  # fmt: skip
"""What is changed, and what has to be said of it; nothing else may be said."""


KINDS = ("tail rule", "frame rate", "order of the crops", "scaling", "other pixels", "weights")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if " and " in name else name
        for name in DIFFERENCES
    ],
)
def test_each_difference_is_found_and_no_other(name: str) -> None:
    changed, expected = DIFFERENCES[name]
    found = compare(extracted(), extracted(**changed))
    assert found.verdict == "different"
    assert all(text in words(found) for text in expected), words(found)
    kinds = {kind for kind in KINDS for each in found.differences if kind in each.text}
    assert kinds == {kind for kind in KINDS if kind in " ".join(expected)}, words(found)


def overlapping(stride: int, tail: str = "drop") -> InMemory:
    """A set whose spec says the stride, and not all else."""
    found = InMemory(extracted(stride=stride, tail=tail).features)
    found.spec = replace(small_spec(clip_stride=stride), decoder=UNKNOWN, tail=UNKNOWN)
    return found


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (
            (8, "drop"),
            (8, "xd"),
            [
                "another tail rule: B has one clip fewer on multiples of 8, in 2 of 3 videos",
                "tail rule of A drop, of B xd",
            ],
        ),
        (
            (8, "drop"),
            (8, "repeat-last"),
            [
                "another tail rule: B has one clip more except on multiples of 8, in 1 of 3 videos",
                "tail rule of A drop, of B repeat-last",
            ],
        ),
        ((16, "drop"), (8, "drop"), ["A has a clip each 16 frames, B each 8"]),
        ((8, "drop"), (16, "drop"), ["A has a clip each 8 frames, B each 16"]),
    ],
)
def test_clips_that_overlap(a: tuple[int, str], b: tuple[int, str], expected: list[str]) -> None:
    found = compare(overlapping(*a), overlapping(*b))
    assert [each.text for each in found.differences] == expected
    assert found.evidence.largest_difference == 0, "clips of the same frames are paired"


def test_overlap_that_no_spec_states_is_named_as_a_cause() -> None:
    found = compare(extracted(), InMemory(overlapping(8).features))
    assert "another frame rate, or clips that overlap: B has 1.8" in words(found)


def test_equal_sets_are_called_equal() -> None:
    found = compare(extracted(), extracted())
    assert (found.verdict, found.differences) == ("equal", ())
    assert found.evidence.largest_difference == 0 and found.evidence.cosine_least > 1 - 1e-9


def test_rounding_to_sixteen_bits_is_no_difference() -> None:
    halves = {name: each.astype(np.float16) for name, each in extracted().features.items()}
    found = compare(extracted(), InMemory(halves))
    assert (found.verdict, found.differences) == ("equal up to rounding", ())


def test_still_videos_are_known_by_their_scenes() -> None:
    """Nothing changes in them but noise, which differs: no course, and no feature to follow."""
    rng = np.random.default_rng(0)
    scenes = {name: 1 + rng.random((1, 1, 96)) for name in (*FRAMES, "hall", "shop")}

    def still() -> InMemory:
        return InMemory(
            {name: (each + 0.01 * rng.random((20, 1, 96))).astype(np.float32)
             for name, each in scenes.items()}, frames=False
        )  # fmt: skip

    found = compare(still(), still())
    assert found.evidence.scene_by_chance == 0 and found.evidence.same_course < 0.2
    assert found.verdict == "different"
    assert words(found).startswith("possible: the same scenes, but their clips do not change alike")


@pytest.mark.parametrize("seed", [0, 1])
def test_features_of_other_videos_are_unrelated(seed: int) -> None:
    names = list(FRAMES)
    moved = extracted(seed=seed).features
    shifted = {name: moved[names[i - 1]][:13] for i, name in enumerate(names)}
    ours = {name: each[:13] for name, each in extracted().features.items()}
    found = compare(InMemory(ours, False), InMemory(shifted, False))
    assert found.verdict == "unrelated"
    assert "different videos under the same names" in words(found)
    assert ("network may be the same" in words(found)) == (seed == 0)


def test_one_damaged_snippet_in_the_middle_is_seen() -> None:
    damaged = {name: each.copy() for name, each in extracted().features.items()}
    damaged["yard"][5, 2] = -damaged["yard"][5, 2]
    found = compare(extracted(), InMemory(damaged))
    assert found.verdict == "different" and found.evidence.cosine_least < -0.99
    assert [row.video_id for row in found.videos if row.cosine_least < 0] == ["yard"]


def test_single_clips_tell_little() -> None:
    ours = {name: each[:1] for name, each in extracted().features.items()}
    theirs = {name: each * 1.1 for name, each in ours.items()}
    found = compare(InMemory(ours, False), InMemory(theirs, False))
    assert words(found).startswith("possible: too few clips, or none that changes")


def test_snippets_of_length_one_are_named() -> None:
    unit = {
        name: each / np.linalg.norm(each, axis=-1, keepdims=True)
        for name, each in extracted().features.items()
    }
    found = compare(extracted(), InMemory(unit))
    assert "the snippets of B were scaled to length 1" in words(found)


def test_other_dimensions_and_numbers_of_crops() -> None:
    narrow = {name: each[:, :1, :40] for name, each in extracted().features.items()}
    found = compare(extracted(), InMemory(narrow))
    assert "certain: A has 5 crops, B 1" in words(found)
    assert "other networks: features of dimension 96 and 40" in words(found)
    assert found.evidence.same_videos
    one = {name: each[:, :1] for name, each in extracted().features.items()}
    assert words(compare(extracted(), InMemory(one))).startswith("certain: A has 5 crops, B 1")


def test_too_few_clips_to_tell_are_called_so() -> None:
    ours = {name: each[:2] for name, each in extracted().features.items()}
    theirs = {name: each[:2] for name, each in extracted(seed=1).features.items()}
    found = compare(InMemory(ours, False), InMemory(theirs, False))
    assert found.verdict == "different"
    assert words(found) == "possible: too few clips to tell other weights from other videos"


def test_only_a_sample_is_read_and_said() -> None:
    reads = []

    class Counting(InMemory):
        def read(self, video_id: str) -> NDArray[np.float32]:
            reads.append(video_id)
            return super().read(video_id)

    one = extracted().features["yard"]
    many = {f"{i:03d}": one for i in range(100)}
    found = compare(Counting(many), InMemory(many), sample=7)
    assert len(found.videos) == 7 and set(reads) == {row.video_id for row in found.videos}
    assert found.evidence.counts.num_videos == 100
    assert len(compare(InMemory(many), InMemory(many), sample=None).videos) == 100


def test_no_common_video_is_an_error_that_shows_both() -> None:
    ours = InMemory({"a.mp4": np.ones((2, 1, 3), np.float32)})
    theirs = InMemory({"a": np.ones((2, 1, 3), np.float32)})
    with pytest.raises(FeaturesError, match="A has 1, such as 'a.mp4', B 1, such as 'a'") as e:
        compare(ours, theirs)
    assert "1 id differs from those of B by suffix alone" in str(e.value)


# ---------------------------------------------------------------- parts


def test_the_best_order_is_the_best_of_all() -> None:
    similarity = np.random.default_rng(0).random((5, 5))
    totals = {order: similarity[range(5), order].sum() for order in permutations(range(5))}
    assert best_order(similarity) == max(totals, key=totals.__getitem__)


def test_ten_crops_are_ordered_at_once() -> None:
    order = tuple(np.random.default_rng(1).permutation(10).tolist())
    assert best_order(np.eye(10)[:, np.argsort(order)]) == order


def test_named_orders_of_ten_crops() -> None:
    assert ("torchvision", "gowtham") in named_orders((0, 1, 3, 4, 2, 5, 6, 8, 9, 7))
    assert named_orders((1, 0, 2, 3, 4)) == []


@pytest.mark.parametrize("a, b, ratio", [(10, 10, 1), (10, 8, 0.8), (8, 10, 1.25), (5, 50, 10)])
def test_paired_clips_show_the_same_time(a: int, b: int, ratio: float) -> None:
    ours, theirs = paired_clips(a, b, ratio)
    assert len(ours) == len(theirs) == min(a, b)
    times = (ours + 0.5) / a - (theirs + 0.5) / b
    assert np.abs(times).max() <= 0.5 / min(a, b)


def test_counts_without_frames_name_no_rule() -> None:
    counts = count_clips([VideoClips(10, 9), VideoClips(20, 20)])
    assert (counts.fewer, counts.num_equal, counts.where, counts.rules) == (1, 1, "", ((), ()))


def test_counts_without_a_common_ratio() -> None:
    assert not count_clips([VideoClips(10, 30), VideoClips(30, 10)]).is_constant


def test_cosines_of_zeros() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert cosines(rows, rows).tolist() == [1, 1]
    assert cosines(rows, rows[::-1]).tolist() == [0, 0]


# ---------------------------------------------------------------- sets and command line


IDS = ["Abuse001_x264", "Normal_Videos001_x264", "Arson011_x264", "Normal_Videos_003"]


@pytest.mark.parametrize("layout", ["rtfm", "pel4vad", "urdmu"])
def test_a_tree_is_compared_with_the_folder_it_came_from(layout: str, tmp_path: Path) -> None:
    feature_folder(tmp_path / "ours", IDS, 10)
    export_features(tmp_path / "ours", tmp_path / "tree", layout=layout, manifest=manifest_of(IDS))
    for pair in (("ours", "tree"), ("tree", "ours"), ("tree", "tree")):
        found = compare(*open_pair(tmp_path / pair[0], tmp_path / pair[1], "rgb"))
        assert (found.num_common, found.evidence.crops) == (4, (10, 10))
        assert found.verdict == "equal"


FLOW_SPEC = resolve("i3d", "cpu", ("random:0", "0" * 64), {}, "flow")


def test_a_folder_of_the_other_stream_names_the_option(tmp_path: Path) -> None:
    write_folder(tmp_path / "flow", [stored_video("a")], FLOW_SPEC)
    sides = (tmp_path / "flow", tmp_path / "flow")
    with pytest.raises(FeaturesError, match="no rgb features there, only flow: --stream flow"):
        open_pair(*sides, "rgb")
    assert compare(*open_pair(*sides, "flow")).verdict == "equal"


def test_the_command_prints_tables_and_words(tmp_path: Path) -> None:
    videos = [stored_video(f"v{i}", num_clips=4) for i in range(3)]
    write_folder(tmp_path / "a" / "rgb", videos, small_spec())
    write_folder(tmp_path / "b" / "rgb", videos, small_spec(tail="xd"))
    result = run("compare", tmp_path / "a", tmp_path / "b", "--videos", "2")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["video", "clips", "A", "clips", "B", "compared", "cosine", "least"]
    read = "2 of 3 common videos read, 8 clips compared; 3 of 3 have as many clips"
    assert f"equal: {read}" in lines
    assert "certain, by the specs (A / B): tail: drop / xd" in lines


def test_two_complete_specs_settle_what_differs(tmp_path: Path) -> None:
    """The numbers look like another resize, whatever the specs say."""
    numbers = extracted(), extracted(resize="60x75", filter="pil-lanczos")
    each = "likely: the network saw other pixels: another resize"

    def compared(*specs: Spec) -> Comparison:
        sides = [InMemory(each.features) for each in numbers]
        for side, spec in zip(sides, specs, strict=True):
            side.spec = spec
        return compare(*sides)

    saved = [replace(FLOW_SPEC, flow_source=kind) for kind in ("hdf5", "jpeg 95")]
    settled = compared(*saved)
    assert settled.verdict == "different" and settled.differences == ()
    line = "certain, by the specs (A / B): flow_source: hdf5 / jpeg 95"
    assert compared_words(settled)[1:] == [line]
    assert words(compared(saved[0], saved[0])).startswith("likely: by the specs both were made al")
    unsure = compared(saved[0], replace(saved[1], filter=UNKNOWN))
    assert words(unsure).startswith(each)
    assert compared_words(unsure)[-1] == "by the specs (A / B): flow_source: hdf5 / jpeg 95"


def test_the_command_gives_json_without_nan(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "rgb", [stored_video("v", num_clips=1)])
    result = run("compare", tmp_path / "a", tmp_path / "a", "--json")
    found = json.loads(result.output)
    assert found["verdict"] == "equal" and found["evidence"]["same_course"] is None
    assert found["videos"][0]["video_id"] == "v"


def test_a_folder_without_features_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("compare", tmp_path / "empty", tmp_path / "gone")
    assert result.exit_code == 2 and "no rgb features in this layout" in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_differences_of_real_features_are_found(real_clips: Path, tmp_path: Path) -> None:
    """Real clips through Inception-I3D; random weights, which resize, filter and seed change."""
    precision = "bf16" if has_cpu_bf16() else "fp32"
    runs = {
        "ours": ("random:0", {}),
        "again": ("random:0", {"tail": "xd"}),
        "resized": ("random:0", {"resize": "256x340", "filter": "pil-lanczos"}),
        "scaled": ("random:0", {"scaling": "(x-114.75)/57.375"}),
        "other": ("random:1", {}),
    }
    for name, (weights, changed) in runs.items():
        overrides = {"fps": "15", "precision": precision, **changed}
        extract(real_clips, tmp_path / name, weights=weights, settings=overrides, workers=1).close()

    def compared(name: str) -> Comparison:
        ours, theirs = open_pair(tmp_path / "ours", tmp_path / name, "rgb")
        theirs.spec = replace(theirs.spec, decoder=UNKNOWN)  # or the specs would settle it
        return compare(ours, theirs)

    assert compared("ours").verdict == "equal"
    again = compared("again")
    assert again.evidence.largest_difference == 0
    assert all("tail rule" in each.text for each in again.differences)
    for name, said in (
        ("resized", "likely: the network saw other pixels"),
        ("scaled", "likely: another scaling of the input: B's features vary 2.2"),
        ("other", "likely: other weights or another network: the same videos"),
    ):
        found = compared(name)
        assert found.verdict == "different"
        assert words(found).startswith(said) and len(found.differences) == 1, words(found)
