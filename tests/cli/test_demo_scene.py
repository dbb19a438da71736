"""The drawn data set: repeatable, as annotated, and without a way to tell labels but the event."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from vadprep.cli import demo_scene as scene
from vadprep.data import read_manifest


def _first(category: str, seed: int = 0) -> scene.Script:
    return next(script for script in scene.scripts(seed) if script.category == category)


def _label(script: scene.Script) -> int:
    return int(script.category != "normal")


def _drawn(script: scene.Script, num_frames: int = 8) -> NDArray[np.uint8]:
    """The first frames of a video: uint8 [num_frames, height, width, 3]."""
    return np.stack(list(islice(scene.frames(script), num_frames)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of a data set of one pair for each event and split, written as mp4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, "PAIRS", {"train": 3, "test": 3})
        patch.setattr(scene, "LENGTH_FRAMES", (64, 96))
        return scene.write_dataset(tmp_path_factory.mktemp("street"))


@pytest.mark.parametrize("category", ["normal", *scene.EVENTS])
def test_same_seed_same_frames(category: str) -> None:
    assert np.array_equal(_drawn(_first(category)), _drawn(_first(category)))


def test_other_seed_other_frames() -> None:
    assert not np.array_equal(_drawn(_first("normal", 0), 1), _drawn(_first("normal", 1), 1))


def test_every_event_stands_in_both_splits() -> None:
    counted = Counter((script.split, script.category) for script in scene.scripts())
    for split, pairs in scene.PAIRS.items():
        assert counted[split, "normal"] == pairs
        assert all(counted[split, event] == pairs // 3 for event in scene.EVENTS)


@pytest.mark.parametrize("seed", range(5))
def test_events_lie_inside_their_videos_and_take_a_fifth_to_a_half(seed: int) -> None:
    for script in scene.scripts(seed):
        start, stop = script.interval
        assert 0 <= start <= stop <= script.num_frames
        assert 0.2 <= (stop - start) / script.num_frames <= 0.5 or script.category == "normal"


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_share_lengths_and_everyday_happenings(split: str) -> None:
    def side(label: int) -> list[tuple[int, tuple[str, ...]]]:
        videos = [s for s in scene.scripts() if s.split == split and _label(s) == label]
        return sorted((video.num_frames, video.happenings) for video in videos)

    assert side(0) == side(1)


def test_order_of_ids_says_nothing_about_labels() -> None:
    labels = [[_label(script) for script in scene.scripts(seed)] for seed in range(40)]
    ranks = np.arange(len(labels[0]))
    correlations = [np.corrcoef(ranks, label)[0, 1] for label in labels]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(len(labels) * len(ranks))


@pytest.mark.parametrize("event", scene.EVENTS)
def test_event_is_seen_in_its_interval_alone(event: str) -> None:
    """Against the same video without the event; fighters also walk in before and off after."""
    script = _first(event)._replace(num_frames=160, interval=(60, 110))
    with_event = scene.frames(script)
    without = scene.frames(script._replace(category="normal"))
    differs = [not np.array_equal(a, b) for a, b in zip(with_event, without, strict=True)]
    assert all(differs[64:106])
    assert event == "fight" or not any(differs[:60] + differs[110:])


def test_written_videos_decode_to_the_annotated_number_of_frames(dataset: Path) -> None:
    for video in read_manifest(dataset).videos:
        with av.open(str(dataset.parent / video.path)) as container:
            decoded = list(container.decode(video=0))
        assert len(decoded) == video.num_frames
        assert (decoded[0].height, decoded[0].width) == (scene.HEIGHT, scene.WIDTH)


def test_written_pixels_are_those_drawn(dataset: Path) -> None:
    path = dataset.parent / "pixels.mp4"
    drawn = _drawn(_first("fire"))
    scene.write_video(path, _first("fire"))
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), len(drawn))
        decoded = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert np.abs(np.stack(decoded).astype(float) - drawn).mean() < 8


def test_intervals_of_abnormal_training_videos_are_unknown(dataset: Path) -> None:
    for video in read_manifest(dataset).videos:
        if not video.label:
            assert video.intervals == ()
        elif video.split == "train":
            assert video.intervals is None
        else:
            assert video.intervals and video.num_frames
            assert video.intervals[0][1] <= video.num_frames


def test_paths_do_not_name_the_event(dataset: Path) -> None:
    with dataset.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["video_id"] for row in rows}) == len(rows) == 12
    assert all(row["path"] == f"videos/{row['video_id']}.mp4" for row in rows)
    assert not any(word in row["path"] for row in rows for word in ("normal", *scene.EVENTS))


def test_mean_file_size_tells_little_of_the_label(dataset: Path) -> None:
    sizes = {0: 0, 1: 0}
    for video in read_manifest(dataset).videos:
        assert video.label is not None
        sizes[video.label] += (dataset.parent / video.path).stat().st_size
    assert 0.75 < sizes[0] / sizes[1] < 1.25


@pytest.mark.parametrize(
    ("category", "frame", "mean"),
    [("normal", 40, 103.72), ("fight", 73, 96.27), ("crash", 45, 117.62), ("fire", 57, 86.15)],
)
def test_the_pictures_have_not_changed(category: str, frame: int, mean: float) -> None:
    """The published metrics of the demo were measured on these pixels."""
    picture = next(islice(scene.frames(_first(category)), frame, None))
    assert picture.mean() == pytest.approx(mean, abs=0.02)
