"""Features of single frames: pooling over a clip, and the whole way of a user with VadCLIP's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.clips import small_graph
from support.commands import message, run
from support.standin import StandIn
from support.videos import write_video

from vadprep.core.presets import resolve
from vadprep.core.spec import Spec
from vadprep.extraction import extractor
from vadprep.extraction.streams import pooled_frames
from vadprep.features.reader import open_features
from vadprep.video import open_frames

CLIPS = {
    "Deadpool.2016__#0-18-58_0-19-20_label_B1-0-0.mp4": (1, "Fighting", "[[80, 130], [290, 510]]"),
    "bikes.mp4": (0, "normal", "[]"),
    "v_GGSY1Qvo990.mp4": (1, "fire", "[[0, 100]]"),
}
"""Real clip -> label, category and intervals in the manifest; those of the last are made up."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_graph(monkeypatch, width=64, layers=1)


@pytest.mark.parametrize("length", [8, 16])
def test_which_frames_stand_for_a_clip(length: int) -> None:
    frames = list(range(length))
    assert frames[pooled_frames("first", length)] == [0]
    assert frames[pooled_frames("middle", length)] == [length // 2]
    assert frames[pooled_frames("mean", length)] == frames == frames[pooled_frames("-", length)]


@pytest.mark.parametrize("pooling, shown", [("first", [0]), ("middle", [8]), ("mean", range(16))])
def test_the_network_sees_the_frames_that_pooling_says(
    pooling: str, shown: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Looking(StandIn):
        def __call__(self, views: torch.Tensor) -> torch.Tensor:
            seen.extend(views[:, :, 100, 100, 0].tolist())
            return torch.zeros(len(views), 512)

    monkeypatch.setattr(extractor, "Backbone", lambda *settings: Looking())
    small_graph(monkeypatch)
    (tmp_path / "v").mkdir()
    for frame in range(32):
        Image.new("L", (240, 240), 4 * frame).save(tmp_path / "v" / f"{frame:03}.png")
    options = ("--preset", "clip-tsa", "--set", f"pooling={pooling}", "--weights", "random:0")
    done = run("extract", "--videos", tmp_path, "--out", tmp_path / "f", *options, "--workers", "1")
    assert done.exit_code == 0, done.output
    assert seen == [[4 * (start + each) for each in shown] for start in (0, 16)]


def test_pooling_is_part_of_the_spec_and_old_specs_stay() -> None:
    specs = [resolve("vadclip", "cpu", ("w", "0"), {"pooling": x}) for x in ("mean", "first")]
    assert specs[0].hash != specs[1].hash and Spec.from_json(specs[1].to_json(), "s") == specs[1]
    assert "pooling" not in json.loads(resolve("i3d", "cpu", ("w", "0"), {}).to_json())
    with pytest.raises(ValueError, match="pooling = 'last'"):
        resolve("vadclip", "cpu", ("w", "0"), {"pooling": "last"})


@pytest.mark.parametrize("preset, pooling", [("i3d", "mean"), ("vadclip", "-")])
def test_a_pooling_that_the_network_has_not_is_refused(
    preset: str, pooling: str, tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", 20)
    options = ("--preset", preset, "--set", f"pooling={pooling}", "--weights", "random:0")
    line = message(run("extract", "--videos", tmp_path, "--out", tmp_path / "f", *options))
    assert f"pooling = '{pooling}': of " in line


def written_manifest(path: Path, splits: dict[str, str]) -> Path:
    """Rows of the clips for each split: what ends their ids there, and its name."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("video_id", "path", "split", "label", "category", "intervals"))
        for end, split in splits.items():
            for name, (label, category, intervals) in CLIPS.items():
                video_id = f"{name.removesuffix('.mp4')}{end}"
                table.writerow((video_id, name, split, label, category, intervals))
    return path


def extracted(manifest: Path, real_clips: Path) -> dict[str, np.ndarray]:
    """Features float16 [num_clips, 10, 512] by the preset of VadCLIP, in features/m, by id."""
    options = ("--preset", "vadclip", "--weights", "random:0", "--workers", "1")
    source = ("--manifest", manifest, "--root", real_clips)
    done = run("extract", *source, *options, "--set", "pooling=middle")
    assert done.exit_code == 0, done.output
    with open_features("features/m") as features:
        return {video_id: features[video_id].rgb for video_id in features}


@pytest.mark.slow
def test_from_real_clips_to_the_files_of_vadclip_and_back(
    small: None, real_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = written_manifest(tmp_path / "m.csv", {"": "test"})
    found, counts = extracted(manifest, real_clips), {}
    for name in CLIPS:
        with open_frames(real_clips / name) as stream:
            counts[name.removesuffix(".mp4")] = sum(len(block) for block in stream) // 16
    assert {video_id: rows.shape for video_id, rows in found.items()} == {
        video_id: (count, 10, 512) for video_id, count in counts.items()
    }
    for rows in found.values():
        assert np.isfinite(rows).all() and np.abs(rows[0, 0] - rows[-1, 0]).max() > 0.01
        assert np.abs(rows[:, 0] - rows[:, 5]).max() > 0.01  # the mirrored crop is another

    done = run("export", "features/m", "--layout", "vadclip", "--manifest", manifest, "--out", "v")
    assert done.exit_code == 0, done.output
    assert "classes that the code does not know: fire" in done.output
    names = {path.name for path in Path("v/UCFClipFeatures").iterdir()}
    assert names == {f"{video_id}__{crop}.npy" for video_id in counts for crop in range(10)}
    with open("v/list/ucf_CLIP_rgbtest.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["label"] for row in listed] == ["Fighting", "fire", "Normal"]
    for row in listed:
        video_id = Path(row["path"]).name.removesuffix("__5.npy")
        expected = found[video_id][:, 5].astype(np.float32)
        np.testing.assert_array_equal(np.load(row["path"]), expected)
    labels = np.load("v/list/gt_ucf.npy")
    assert len(labels) == 16 * sum(counts.values()) and labels.sum() == 50 + 220 + 100

    back = run("import", "v", "--layout", "vadclip", "--manifest", manifest, "--out", "back")
    assert back.exit_code == 0 and "pooling" in back.output, back.output
    with open_features("back") as imported:
        assert imported.specs["rgb"].pooling == "unknown"
        for video_id, rows in found.items():
            np.testing.assert_array_equal(imported[video_id].rgb, rows.astype(np.float32))


@pytest.mark.slow
def test_a_head_learns_from_extracted_features_and_prompts(
    small: None, real_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.chdir(tmp_path)
    manifest = written_manifest(tmp_path / "m.csv", {"": "train", "-again": "test"})
    assert len(extracted(manifest, real_clips)) == 6
    done = run("weights", "prompts", "random:0", "Fighting", "fire=a fire")
    assert done.exit_code == 0, done.output
    train = ("train", "vadclip", "--manifest", manifest, "--features", "features/m")
    done = run(
        *train,
        "--schedule",
        "small",
        "--set",
        "epochs=5",
        "--prompts",
        "prompts.npz",
        "--out",
        "run",
    )
    assert done.exit_code == 0, done.output
    assert json.loads(Path("run/metrics.json").read_text())["seeds"]
