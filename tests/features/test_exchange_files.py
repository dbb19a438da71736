"""Names, files and counts of foreign features: what is read, and what is refused."""

from __future__ import annotations

import pickle
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.trees import IDS

from vadprep.core.clips import Resampling
from vadprep.core.errors import FeaturesError
from vadprep.data import FrameBounds, frame_bounds, load_dataset
from vadprep.features.exchange.arrays import form_of, read_features, write_features
from vadprep.features.exchange.export import segments_of
from vadprep.features.exchange.import_ import clip_spans, matching_tails, segment_spans
from vadprep.features.exchange.layouts import (
    ALL_NAMINGS,
    ARRAY,
    BARE_FIRST,
    LAYOUTS,
    PER_CROP,
    TARGETS,
    Naming,
    data_set_of,
)

NATIVE = Resampling(Fraction(25))


@pytest.mark.parametrize("naming", ALL_NAMINGS, ids=lambda naming: naming.name("ID", 1))
@pytest.mark.parametrize("video_id", [each for ids in IDS.values() for each in ids])
def test_a_name_gives_its_id_and_crop_back(naming: Naming, video_id: str) -> None:
    for crop in range(10 if naming.one_file_a_crop else 1):
        assert naming.parse(naming.name(video_id, crop)) == (video_id, crop)


@pytest.mark.parametrize(
    "naming, name", [(PER_CROP, "a.npy"), (ARRAY, "_i3d.npy"), (BARE_FIRST, "a__0.npy")]
)
def test_other_names_are_not_taken_for_features(naming: Naming, name: str) -> None:
    assert naming.parse(name) is None


def test_every_video_of_xd_violence_keeps_a_file_of_its_own() -> None:
    """Cut at the first dot, as a common extractor does, 2,197 of 3,954 are left."""
    ids = [video.video_id for video in load_dataset("xd").in_split("train")]
    assert len({video_id.split(".")[0] for video_id in ids}) == 2197
    for naming in ALL_NAMINGS:
        names = {naming.name(video_id, crop) for video_id in ids for crop in range(5)}
        assert len(names) == (5 if naming.one_file_a_crop else 1) * 3954


@pytest.mark.parametrize("name", ["ucf", "xd", "shanghaitech"])
def test_a_data_set_is_told_by_its_ids(name: str) -> None:
    expected = {"ucf": "UCF-Crime", "xd": "XD-Violence", "shanghaitech": "ShanghaiTech"}
    assert data_set_of([v.video_id for v in load_dataset(name).videos]) == expected[name]


def test_every_layout_can_be_written_and_read() -> None:
    assert set(TARGETS) == set(LAYOUTS)
    for layout, forms in TARGETS.items():
        assert all(form.naming in LAYOUTS[layout] for form in forms.values())


# ---------------------------------------------------------------- counts


def test_public_lengths_of_ucf_crime_are_279_by_xd_and_11_by_drop() -> None:
    """Scored lengths of DeepMIL, UR-DMU and PEL4VAD against the frames of the 290 videos."""
    rules: Counter[str] = Counter()
    for video in load_dataset("ucf").in_split("test"):
        assert video.num_frames_scored is not None
        fits = matching_tails(video.num_frames_scored // 16, frame_bounds(video), NATIVE)
        rules["xd" if "xd" in fits else "drop" if "drop" in fits else "none"] += 1
    assert rules == {"xd": 279, "drop": 11}


def test_public_lengths_of_xd_violence_are_all_by_xd() -> None:
    """Only bounds of the frames are public, so that other rules may fit some videos, too."""
    for video in load_dataset("xd").in_split("test"):
        assert video.num_frames_scored is not None
        assert "xd" in matching_tails(video.num_frames_scored // 16, frame_bounds(video), NATIVE)


@pytest.mark.parametrize(
    "frames, clips, expected",
    [
        (2729, 170, {"drop", "xd"}),
        (8096, 505, {"xd"}),
        (8096, 506, {"drop", "repeat-last"}),
        (1601, 101, {"repeat-last"}),
        (1601, 99, set()),
        (1700, 103, set()),
    ],
)
def test_tail_rules_that_fit(frames: int, clips: int, expected: set[str]) -> None:
    assert matching_tails(clips, FrameBounds(frames, frames), NATIVE) == expected


def test_a_count_without_frames_fits_every_rule() -> None:
    assert len(matching_tails(7, FrameBounds(None, None), NATIVE)) == 3


def test_spans_stop_at_the_end_of_the_video() -> None:
    assert clip_spans(3, FrameBounds(35, 35), NATIVE).tolist() == [[0, 16], [16, 32], [32, 35]]
    assert clip_spans(2, FrameBounds(None, None), NATIVE).tolist() == [[0, 16], [16, 32]]


def test_spans_of_resampled_features() -> None:
    spans = clip_spans(3, FrameBounds(60, 60), Resampling(Fraction(30), Fraction(24)))
    assert spans.tolist() == [[0, 20], [20, 40], [40, 60]]


# ---------------------------------------------------------------- segments


def naive_segments(clips: np.ndarray) -> np.ndarray:
    """Save_C3DFeatures_32Segments.m, line by line, with indices from 1."""
    shots = [int(np.floor(x + 0.5)) for x in np.linspace(1, len(clips), 33)]
    rows = []
    for first, after in zip(shots[:-1], shots[1:], strict=True):
        last = after - 1
        chosen = clips[first - 1 : first] if last < first else clips[first - 1 : last]
        mean = chosen.mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


@pytest.mark.parametrize("clips", [1, 7, 32, 33, 100, 500])
def test_segments_are_those_of_the_published_script(clips: int) -> None:
    features = np.random.default_rng(clips).random((clips, 1, 6)).astype(np.float32)
    assert np.allclose(segments_of(features)[:, 0], naive_segments(features[:, 0]), atol=1e-6)


@pytest.mark.parametrize("frames", [5, 100, 512, 2729])
def test_spans_of_segments_tile_the_video(frames: int) -> None:
    spans = segment_spans(frames)
    assert spans.shape == (32, 2)
    assert spans[0, 0] == 0 and spans[-1, 1] == frames
    assert (spans[1:, 0] == spans[:-1, 1]).all() and (spans[:, 1] >= spans[:, 0]).all()


def test_text_gives_every_float_back(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 640, dtype=np.uint32)
    rows = np.nan_to_num(bits.view(np.float32), posinf=0, neginf=0).reshape(32, 20)
    write_features(tmp_path / "a_C.txt", rows)
    assert read_features({0: tmp_path / "a_C.txt"})[:, 0].tobytes() == rows.tobytes()


# ---------------------------------------------------------------- damaged files


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("run"),))


def save(path: Path, array: object) -> Path:
    np.save(path, array)
    return path


def test_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.empty(1, object)
    objects[0] = Trap()
    np.save("objects.npy", objects, allow_pickle=True)
    Path("pickled.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("objects.npy", "pickled.npy"):
        with pytest.raises(FeaturesError, match=f"{name}: not a whole .npy file"):
            form_of({0: Path(name)})
    assert not Path("run").exists()


def test_what_is_no_feature_file_is_refused_by_name(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npy", np.zeros((9, 4), np.float32))
    cut = tmp_path / "cut.npy"
    cut.write_bytes(whole.read_bytes()[:-7])
    words = tmp_path / "words_C.txt"
    words.write_text("1 2\n3 four\n")
    cases = {
        cut: "cut.npy: not a whole .npy file",
        words: "words_C.txt: cannot be read",
        tmp_path / "gone.npy": "gone.npy: cannot be read",
        save(tmp_path / "flat.npy", np.zeros(9, np.float32)): r"flat.npy: float32 \(9,\)",
        save(tmp_path / "whole_numbers.npy", np.zeros((9, 4), int)): "int64",
    }
    for path, message in cases.items():
        with pytest.raises(FeaturesError, match=message):
            form_of({0: path})


def test_crops_must_be_there_and_alike(tmp_path: Path) -> None:
    long = save(tmp_path / "a__0.npy", np.zeros((9, 4), np.float32))
    short = save(tmp_path / "a__1.npy", np.zeros((8, 4), np.float32))
    with pytest.raises(FeaturesError, match="crop 1 of 3 is not there"):
        form_of({0: long, 2: long})
    with pytest.raises(FeaturesError, match=r"a__1.npy: \(8, 4\) where crop 0 is \(9, 4\)"):
        form_of({0: long, 1: short})


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a__0.npy", np.full((2, 3), 1e300))
    with pytest.raises(FeaturesError, match="not finite"):
        read_features({0: path})
