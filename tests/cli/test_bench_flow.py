"""The bench of TV-L1: same pairs for all, agreement beside speed, and what is missing is said."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.videos import write_video

from vadprep.cli import demo_scene
from vadprep.cli.bench import flow as bench_flow
from vadprep.cli.bench.flow import BASE, SELF
from vadprep.core.errors import DecodeError, ManifestError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn street with people who walk."""
    path = tmp_path_factory.mktemp("street") / "street.mp4"
    script = next(each for each in demo_scene.scripts() if each.category == "normal")
    demo_scene.write_video(path, script._replace(num_frames=150))
    return path


def test_each_back_end_is_timed_against_opencv(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_flow, "worker_cores", lambda: 2)
    _, timings, notes = bench_flow.bench_flow([clip], pairs=1, sizes=[(48, 64)])
    names = [each.backend for each in timings]
    assert names[:4] == [BASE, SELF, "CPU, 1 thread", "CPU, 2 threads"]
    base, _, ours, both = timings[:4]
    assert (base.speedup, base.mean) == (None, None)
    assert ours.speedup == pytest.approx(base.seconds / ours.seconds)
    assert ours.mean == both.mean  # the same flow, whatever the threads
    assert 0 < ours.mean < 0.1 and ours.mean < ours.p99
    assert notes[0].startswith(f"OpenCV {cv2.__version__}")


def test_nothing_is_compiled_in_what_is_timed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(bench_flow, "worker_cores", lambda: 1)
    seen = []

    def watched(frames: NDArray[np.uint8], **options: object) -> NDArray[np.float32]:
        seen.append((frames.shape, bool(frames.any())))
        return shape_of_flow(frames)

    monkeypatch.setattr(bench_flow, "tvl1", watched)
    bench_flow.bench_flow([clip], pairs=2, sizes=[(48, 64), (24, 32)])
    first = [seen[at] for at, (shape, _) in enumerate(seen) if shape[1:] != seen[at - 1][0][1:]]
    assert first == [((2, 48, 64), False), ((2, 24, 32), False)]


def test_a_folder_stands_for_its_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_flow, "available", lambda: ({"none": shape_of_flow}, []))
    write_video(tmp_path / "a.mp4", 5, size=(64, 48))
    (tmp_path / "b").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48)).save(tmp_path / "b" / f"{number}.png")
    both = [tmp_path, tmp_path / "a.mp4"]
    assert bench_flow.bench_flow(both, pairs=3, sizes=[(24, 32)])[0] == 9
    assert bench_flow.bench_flow([tmp_path / "b"], pairs=3, sizes=[(24, 32)])[0] == 3
    (tmp_path / "c").mkdir()
    with pytest.raises(ManifestError, match="c: no video here"):
        bench_flow.bench_flow([tmp_path / "c"], pairs=3)


def shape_of_flow(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.zeros((len(frames) - 1, *frames.shape[1:], 2), np.float32)


def test_a_difference_is_seen(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_flow.tvl1
    monkeypatch.setattr(bench_flow, "tvl1", lambda *args, **kwargs: real(*args, **kwargs) + 3)
    ours = bench_flow.bench_flow([clip], pairs=1, sizes=[(48, 64)])[1][2]
    assert ours.mean == pytest.approx(18**0.5, rel=0.1)


def test_what_is_missing_is_said(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    _, timings, notes = bench_flow.bench_flow([clip], pairs=1, sizes=[(48, 64)])
    assert all(each.speedup is None for each in timings)
    assert [note for note in notes if "OpenCV is not installed" in note]
    assert [note for note in notes if "the GPU back end was not measured" in note]


def test_frames_are_neighbours_from_the_middle(clip: Path) -> None:
    frames = bench_flow.grey_frames(clip, (24, 32), 3)
    longer = bench_flow.grey_frames(clip, (24, 32), 5)
    assert frames.shape == (3, 24, 32) and frames.dtype == np.uint8
    assert np.array_equal(frames, longer[1:4])


def test_a_clip_that_is_too_short_is_named(clip: Path) -> None:
    with pytest.raises(DecodeError, match="street.mp4: 150 frames where 400 are asked for"):
        bench_flow.grey_frames(clip, (24, 32), 400)
