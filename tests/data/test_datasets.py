"""The bundled lists against published figures, and videos found under a root."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.public_lists import BUILDERS, table

from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.records import Video
from vadprep.data import (
    GroundTruthError,
    Manifest,
    SourceIndex,
    apply_splits,
    build_ground_truth,
    check_files,
    dataset_names,
    find_videos,
    leaks,
    load_dataset,
    split_path,
    summarize,
    video_intervals,
)

# Published figures: videos, abnormal ones, of train and of test.
COUNTS = {
    "xd": (3954, 1905, 800, 500),
    "ucf": (1610, 810, 290, 140),
    "shanghaitech": (238, 63, 199, 44),
    "ped1": (34, 0, 36, 36),
    "ped2": (16, 0, 12, 12),
    "avenue": (0, 0, 21, 21),
    "tad": (400, 190, 100, 60),
    "ubnormal": (268, 82, 211, 158),
    "msad": (480, 120, 240, 120),
    "nwpu": (316, 80, 231, 0),  # of 75 test videos the label is not public
    "dota": (3275, 3275, 1402, 1402),
    "lad": (0, 0, 560, 280),
}
# Frames and abnormal frames of the public test ground truth. UCF-Crime's second figure follows
# from the intervals alone; its sum over whole videos is checked against 84,182 below.
SCORED = {
    "xd": (2_330_384, 537_805),
    "ucf": (1_109_680, 84_128),
    "shanghaitech": (142_912, 8_028),
    "ped1": (7_200, 4_045),
    "ped2": (2_010, 1_648),
    "avenue": (15_324, 3_867),
    "tad": (84_086, 10_609),
    "dota": (142_747, 47_302),
}
LISTS = Path(os.environ.get("VADPREP_LISTS", Path(__file__).parents[3] / "shared/data/lists"))
DRAWS = [f"ped2-{draw:02d}" for draw in range(10)]


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def listing(*videos: Video) -> Manifest:
    return Manifest(Path("m.csv"), videos)


def test_twelve_lists_and_ten_draws_are_bundled():
    assert dataset_names() == sorted(COUNTS)
    assert all(split_path(name).is_file() for name in DRAWS)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'xdv'.*avenue.*xd"):
        load_dataset("xdv")


@pytest.mark.parametrize("name", COUNTS)
def test_numbers_of_videos_are_the_published_ones(name):
    manifest = load_dataset(name)
    train, test = manifest.in_split("train"), manifest.in_split("test")
    abnormal = [sum(video.label == 1 for video in split) for split in (train, test)]
    assert (len(train), abnormal[0], len(test), abnormal[1]) == COUNTS[name]
    others = [video.label for video in manifest.videos if video.split not in ("train", "test")]
    assert (len(others), sum(others)) == ((64, 38) if name == "ubnormal" else (0, 0))


@pytest.mark.parametrize("name", SCORED)
def test_public_ground_truth_is_rebuilt_from_the_intervals(name):
    labels = build_ground_truth(load_dataset(name), "scored").labels
    assert (len(labels), labels.sum()) == SCORED[name]


def test_abnormal_frames_of_whole_ucf_videos():
    videos = load_dataset("ucf").in_split("test")
    assert sum(video.num_frames for video in videos) == 1_111_808
    events = [event for video in videos for event in video.intervals]
    assert len(events) == 156
    assert sum(stop - start for start, stop in events) == 84_182


@pytest.mark.parametrize(
    "name, cut", [("ucf", 5), ("xd", 71), ("tad", 22), ("ped1", 0), ("dota", 1)]
)
def test_published_ends_past_the_end_are_recorded(name, cut):
    assert len(load_dataset(name).warnings) == cut


@pytest.mark.parametrize("name", COUNTS)
def test_no_column_or_split_of_a_bundled_list_looks_misspelt(name):
    assert load_dataset(name).likely_typos() == []


def test_a_published_end_is_cut_at_the_video():
    arson = next(v for v in load_dataset("ucf").videos if v.video_id == "Arson016_x264")
    assert (arson.num_frames, arson.intervals) == (1795, ((1000, 1795),))


@pytest.mark.parametrize(
    "name, video_id",
    [
        ("xd", "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0"),
        ("xd", "v=yviKz5J-pEA__#1_label_A"),
        ("ucf", "Normal_Videos001_x264"),
        ("ucf", "Normal_Videos_003_x264"),
        ("shanghaitech", "01_0014"),
        ("avenue", "01"),
    ],
)
def test_ids_are_the_published_names(name, video_id):
    assert [v.video_id for v in load_dataset(name).videos].count(video_id) == 1


def test_several_categories_of_a_video_are_separated_by_bars():
    categories = [each for v in load_dataset("xd").videos for each in v.category.split("|")]
    assert len(categories) > 4754
    assert set(categories) == {
        "normal", "fighting", "shooting", "riot", "abuse", "car accident", "explosion",
    }  # fmt: skip
    assert categories.count("normal") == 2349


def test_weak_labels_have_no_intervals_and_normal_videos_have_none_inside():
    for name in ("xd", "ucf", "tad", "ubnormal", "msad", "nwpu"):
        for video in load_dataset(name).in_split("train"):
            assert video.intervals == (None if video.label else ())


def test_abnormal_test_videos_of_msad_give_the_start_of_its_ground_truth():
    """The order of both is that of the list: 120 abnormal videos, then 120 normal ones."""
    videos = load_dataset("msad").in_split("test")
    assert [video.label for video in videos] == [1] * 120 + [0] * 120
    manifest = listing(*videos[:120])
    labels = build_ground_truth(manifest, "floor").labels
    assert np.array_equal(labels, build_ground_truth(manifest, "scored").labels)
    assert (len(labels), labels.sum()) == (56_336, 33_160)
    runs = np.flatnonzero(np.diff(np.r_[0, labels, 0].astype(np.int8)))
    assert len(runs) == 2 * 103 and runs[:4].tolist() == [19, 200, 224, 736]
    for video in videos[:120]:
        (published,) = json.loads(video.extra["intervals_raw"])
        assert video.intervals == ((max(published[0] - 1, 0), published[1]),)


def test_fractions_become_frames_of_the_decoded_video():
    videos = {v.video_id: v for name in ("ubnormal", "lad") for v in load_dataset(name).videos}
    scene = videos["abnormal_scene_5_scenario_7"]
    assert (scene.num_frames, scene.intervals) == (None, None)
    assert [video_intervals(scene, n) for n in (461, 922)] == [((0, 460),), ((0, 920),)]
    crash = videos["v_Crash_a_s017_c001"]
    assert video_intervals(crash, 449) == ((79, 265),)
    manifest = listing(replace(scene, num_frames=461), replace(crash, num_frames=449))
    assert build_ground_truth(manifest, "frames").labels.sum() == 460 + 186


@pytest.mark.parametrize("name, abnormal", [("ubnormal", 158), ("lad", 280)])
def test_published_fractions_are_frames_of_videos_of_the_stated_multiples(name, abnormal):
    known = [v for v in load_dataset(name).videos if v.intervals_fraction]
    assert len(known) == abnormal
    for video in known:
        step = video.extra["num_frames_multiple_of"]
        for edge in (edge for span in video.intervals_fraction for edge in span):
            assert edge in (0, 1) or round(edge * int(step)) / int(step) == edge
        spans = [[round(edge * 451) for edge in span] for span in video.intervals_fraction]
        assert video_intervals(video, 451) == tuple((a, max(b, a + 1)) for a, b in spans)


def test_the_test_set_of_nwpu_says_what_is_not_public():
    unknown = [v for v in load_dataset("nwpu").videos if v.label is None]
    assert len(unknown) == 75 and {v.split for v in unknown} == {"test"}
    for video in unknown:
        assert video.intervals is None and "NWPU_Campus_gt.npz" in video.extra["notes"]
    with pytest.raises(GroundTruthError, match="intervals unknown for 75 videos"):
        build_ground_truth(load_dataset("nwpu"), "frames")


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"no lists in {LISTS} (set VADPREP_LISTS)")
@pytest.mark.parametrize("name", BUILDERS)
def test_lists_are_rebuilt_from_their_sources(name):
    assert load_dataset(name).path.read_text() == table(name, LISTS)


def test_columns_come_in_the_common_order():
    common = "video_id path split label category num_frames num_frames_scored fps intervals"
    for name in dataset_names():
        with load_dataset(name).path.open(encoding="utf-8", newline="") as lines:
            assert next(csv.reader(lines))[:9] == common.split()


def test_the_second_labelling_of_avenue_is_kept():
    other = [json.loads(v.extra["intervals_hf2vad"]) for v in load_dataset("avenue").videos]
    assert sum(stop - start for events in other for start, stop in events) == 3_712


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_ped2_train_on_six_abnormal_and_four_normal(name):
    manifest = apply_splits(load_dataset("ped2"), split_path(name))
    train, test = summarize(manifest)
    if train.split == "test":
        train, test = test, train
    assert (train.abnormal, train.normal, test.abnormal, test.normal) == (6, 4, 6, 12)
    assert not manifest.warnings


def test_draws_of_ped2_differ():
    ped2 = load_dataset("ped2")
    draws = [apply_splits(ped2, split_path(name)).in_split("train") for name in DRAWS]
    assert len({tuple(video.video_id for video in draw) for draw in draws}) == 10


def test_a_split_file_of_ones_own_is_a_path(tmp_path):
    assert split_path(tmp_path / "mine.csv") == tmp_path / "mine.csv"


def test_scored_frames_beyond_the_video_hold_its_last_label():
    ends_abnormal = Video("a", "a", "test", 1, "", 20, 32, intervals=((15, 20),))
    ends_normal = Video("b", "b", "test", 1, "", 20, 18, intervals=((0, 19),))
    labels = build_ground_truth(listing(ends_abnormal, ends_normal), "scored").labels
    assert np.array_equal(np.flatnonzero(labels), np.r_[15:50])
    assert len(labels) == 50


def test_ground_truth_needs_lengths_and_intervals():
    with pytest.raises(GroundTruthError, match=r"num_frames_scored.*\(a\)"):
        build_ground_truth(listing(Video("a", "a", "test", 1, intervals=((0, 1),))), "scored")
    with pytest.raises(GroundTruthError, match="split 'val'"):
        build_ground_truth(listing(Video("a", "a", "test")), "scored", "val")


def test_a_summary_counts_what_is_known():
    manifest = listing(
        Video("a", "a", "train", 1, "x|y", 10),
        Video("b", "b", "train", None, "x"),
        Video("c", "c", "test", 0, "", 20, 16, intervals=()),
    )
    assert summarize(manifest) == [
        ("train", 2, 0, 1, None, None, None),
        ("test", 1, 1, 0, 20, 16, 0),
    ]


# ---------------------------------------------------------------- labels that leak


def files(normal: list[str], abnormal: list[str]) -> Manifest:
    pairs = [(path, 0) for path in normal] + [(path, 1) for path in abnormal]
    return listing(*(Video(str(i), path, "train", y) for i, (path, y) in enumerate(pairs)))


@pytest.mark.parametrize(
    "normal, abnormal, leaking",
    [
        (["a.avi"] * 9, ["frames"] * 9, True),
        (["a.avi"] * 9, ["a.MP4"] * 9, True),
        (["a.avi"] * 20, ["frames"] * 19 + ["a.avi"], True),
        (["a.avi"] * 9, ["a.AVI"] * 9, False),
        (["a.avi"] * 8 + ["a.mp4"], ["a.mp4"] * 2 + ["a.avi"] * 7, False),
        (["a.avi"] * 9 + ["a.mp4"], ["a.avi"] * 9, False),
        (["a.avi", "frames"], [], False),
    ],
)
def test_kinds_of_file_that_give_the_label_away(normal, abnormal, leaking):
    assert bool(leaks(files(normal, abnormal))) == leaking


@pytest.mark.parametrize("name", COUNTS)
def test_only_shanghaitech_leaks(name):
    found = leaks(load_dataset(name))
    assert len(found) == (2 if name == "shanghaitech" else 0)


def test_a_leak_is_told_with_counts_and_remedy():
    line = leaks(load_dataset("shanghaitech"))[0]
    for words in ("'train'", ".avi: 175 normal, 0 abnormal", "63 abnormal", "convert"):
        assert words in line


# ---------------------------------------------------------------- files under a root


def test_videos_in_a_folder_are_files_and_folders_of_frames(tmp_path):
    touch(
        tmp_path,
        "b/2.MP4", "b/cover.jpg", "a.avi", "notes.txt", "c/frames/001.tif", "c/frames/002.tif",
        ".hidden/x.mp4", "b/._2.mp4", "ü#=.x.mkv",
    )  # fmt: skip
    manifest = find_videos(tmp_path)
    assert [(v.video_id, v.path, v.label) for v in manifest.videos] == [
        ("a", "a.avi", None),
        ("b/2", "b/2.MP4", None),
        ("c/frames", "c/frames", None),
        ("ü#=.x", "ü#=.x.mkv", None),
    ]


def test_a_folder_without_videos_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ManifestError, match=r"no video here.*\.mp4.*\.jpg"):
        find_videos(tmp_path)
    with pytest.raises(ManifestError, match="no such folder"):
        find_videos(tmp_path / "none")


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "disk/a.mp4", "root/b.mp4")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "root")
    assert [v.video_id for v in find_videos(tmp_path / "root").videos] == [
        "b",
        "linked/a",
    ]


@pytest.mark.parametrize(
    "path, found",
    [
        ("x/a.mp4", "x/a.mp4"),
        ("a.mp4", "x/a.mp4"),
        ("elsewhere/a.mp4", "x/a.mp4"),
        ("frames/01_0014", "testing/01_0014"),
    ],
)
def test_a_source_is_where_its_path_says_or_the_one_of_its_name(tmp_path, path, found):
    touch(tmp_path, "x/a.mp4", "testing/01_0014/000.jpg")
    assert SourceIndex(tmp_path).find(Video("v", path)) == tmp_path / found


def test_two_files_of_a_name_are_an_error_that_names_both(tmp_path):
    touch(tmp_path, "x/a.mp4", "y/a.mp4")
    index = SourceIndex(tmp_path)
    assert index.find(Video("v", "y/a.mp4")) == tmp_path / "y/a.mp4"
    with pytest.raises(ManifestError, match="'v'.*x/a.mp4 and y/a.mp4"):
        index.find(Video("v", "a.mp4"))


def test_a_missing_file_concerns_its_video_alone(tmp_path):
    with pytest.raises(DecodeError, match="'v'.*z/a.mp4") as error:
        SourceIndex(tmp_path).find(Video("v", "z/a.mp4"))
    assert error.value.kind == "missing" and str(tmp_path) in str(error.value)


def test_the_tree_is_walked_once_and_only_when_needed(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "x/b.mp4", "x/c.mp4")
    walks = []
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: walks.append(a) or walk(*a, **k))
    index = SourceIndex(tmp_path)
    index.find(Video("a", "a.mp4"))
    assert len(walks) == 0
    index.find(Video("b", "b.mp4"))
    index.find(Video("c", "c.mp4"))
    assert len(walks) == 1


LENGTHS = {"good.mp4": 100, "short.mp4": 99, "within.mp4": 50, "outside.mp4": 70, "free.mp4": 3}


def count_frames(path: Path) -> int:
    if path.name not in LENGTHS:
        raise DecodeError(f"{path.name} is broken")
    return LENGTHS[path.name]


def test_a_check_lists_all_that_is_wrong(tmp_path):
    touch(tmp_path, *LENGTHS, "bad.mp4", "x/twice.mp4", "y/twice.mp4", "more/extra.mp4")
    bounds = {"num_frames_min": "49", "num_frames_max": "64"}
    manifest = listing(
        Video("good", "good.mp4", num_frames=100),
        Video("short", "short.mp4", num_frames=100),
        Video("within", "within.mp4", extra=bounds),
        Video("outside", "outside.mp4", extra=bounds),
        Video("free", "free.mp4"),
        Video("bad", "bad.mp4"),
        Video("twice", "twice.mp4"),
        Video("none", "none.mp4"),
    )
    found = check_files(manifest, tmp_path, count_frames)
    (ambiguous,) = found.pop("ambiguous")
    assert "'twice'" in ambiguous
    assert found == {
        "missing": ["none"],
        "unreadable": ["bad: bad.mp4 is broken"],
        "wrong length": [
            "short: 99 frames, expected 100",
            "outside: 70 frames, expected 49 to 64",
        ],
        "extra": ["more/extra.mp4", "x/twice.mp4", "y/twice.mp4"],
    }


def test_a_check_without_a_decoder_opens_nothing(tmp_path):
    touch(tmp_path, "a.mp4", "extra.mp4")
    found = check_files(listing(Video("a", "a.mp4", num_frames=5)), tmp_path)
    assert {kind: lines for kind, lines in found.items() if lines} == {"extra": ["extra.mp4"]}
