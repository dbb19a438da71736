"""Flat ground truths: every rule by hand, and explained again from what it gave."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support.commands import message, run
from support.stored import stored_video, write_folder

from vadprep.core.clips import Clock
from vadprep.core.errors import ManifestError
from vadprep.core.records import Video
from vadprep.data import (
    READINGS,
    GroundTruthError,
    Manifest,
    build_ground_truth as build,
    check_ground_truth as check,
    load_dataset,
    read_ground_truth,
)
from vadprep.data.ground_truth import LENGTHS


class Decoded(NamedTuple):
    num_frames: int
    spans: np.ndarray
    fps: float | None = None

    @property
    def clock(self):
        return self.fps and Clock(self.fps)


def decoded(num_frames, spans_end, fps=None):
    return Decoded(num_frames, np.array([[0, spans_end]]), fps)


CATEGORIES = ("abuse", "arson", "fight", "fire", "theft", "shooting", "crash")


def random_manifest(seed=0, num_videos=42) -> Manifest:
    """Videos of 100 to 500 frames, two thirds of them with intervals, in seven categories."""
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(num_videos):
        frames = int(rng.integers(100, 500))
        edges = np.sort(rng.choice(np.arange(5, frames - 2), 4, replace=False)).tolist()
        intervals = ((edges[0], edges[1]), (edges[2], edges[3] + 1)) if number % 3 else ()
        category = CATEGORIES[number % 7] if intervals else ""
        label = int(bool(intervals))
        video_id = f"v{number:02d}"
        videos.append(Video(video_id, "x", "test", label, category, frames, intervals=intervals))
    return Manifest(Path("random.csv"), tuple(videos))


@pytest.mark.parametrize(
    "rule, num_frames, expected",
    [
        ("xdviodet", 32, 16),
        ("xdviodet", 33, 32),
        ("floor", 32, 32),
        ("floor", 47, 32),
        ("rtfm", 33, 48),
        ("rtfm", 32, 32),
        ("frames", 33, 33),
    ],
)
def test_length_of_each_rule(rule, num_frames, expected):
    assert LENGTHS[rule](num_frames) == expected


def one(intervals, frames=40, **fields):
    video = Video("a", "x", "test", 1, "", frames, intervals=intervals, **fields)
    return Manifest(Path("one.csv"), (video,))


@pytest.mark.parametrize(
    "reading, expected",
    [
        ("half-open", [0, 1, 7, 8, 30, 31]),
        ("inclusive", [0, 1, 2, 7, 8, 9, 30, 31]),
        ("matlab", [0, 1, 6, 7, 8, 29, 30, 31]),
    ],
)
def test_intervals_are_read_in_three_ways_and_cut_at_the_ends(reading, expected):
    labels = build(one(((0, 2), (7, 9), (30, 36))), "floor", reading=reading).labels
    assert np.flatnonzero(labels).tolist() == expected


def test_the_last_label_is_repeated():
    to_the_end, before = (build(one(((30, stop),)), "rtfm").labels for stop in (40, 39))
    assert np.flatnonzero(to_the_end).tolist() == list(range(30, 48))
    assert np.flatnonzero(before).tolist() == list(range(30, 39))


@pytest.mark.parametrize("reading, stop", [("inclusive", 41), ("matlab", 40)])
def test_the_other_readings_repeat_no_label_and_take_the_published_end(reading, stop):
    labels = build(one(((30, 40),)), "rtfm", reading=reading).labels
    assert np.flatnonzero(labels)[-1] + 1 == stop
    labels = build(one(((30, 40),), published=((30, 43),)), "rtfm", reading=reading).labels
    assert np.flatnonzero(labels)[-1] + 1 == stop + 3


def test_intervals_in_seconds_are_counted_at_the_rate_of_the_manifest_or_of_the_features():
    seconds = one(None, intervals_seconds=((1.0, 1.5),), fps=10.0)
    assert np.flatnonzero(build(seconds, "frames").labels).tolist() == [
        10,
        11,
        12,
        13,
        14,
    ]
    assert check(build(seconds, "frames").labels.astype(bool), seconds).is_sound
    by_features = build(seconds, "frames", decoded={"a": decoded(40, 32, 20.0)}).labels
    assert np.flatnonzero(by_features).tolist() == list(range(20, 30))
    no_rate = one(None, intervals_seconds=((1.0, 1.5),))
    with pytest.raises(GroundTruthError, match="fps for intervals_seconds unknown for 1 video "):
        build(no_rate, "frames")


def test_fractions_are_of_the_length_in_the_manifest_or_the_features():
    fraction = one(None, intervals_fraction=((0.25, 0.5),))
    labels = build(fraction, "frames").labels
    assert np.flatnonzero(labels).tolist() == list(range(10, 20))
    by_features = build(fraction, "spans", decoded={"a": decoded(20, 16, 20.0)}).labels
    assert np.flatnonzero(by_features).tolist() == list(range(5, 10))
    unknown = replace(fraction.videos[0], num_frames=None)
    with pytest.raises(GroundTruthError, match="num_frames for intervals_fraction unknown"):
        build(replace(fraction, videos=(unknown,)), "frames")


def test_lengths_of_the_manifest_and_of_features():
    manifest = one(((30, 40),), num_frames_scored=33)
    assert build(manifest, "scored").lengths == (33,)
    assert build(manifest, "spans", decoded={"a": decoded(40, 32)}).lengths == (32,)
    assert build(manifest, "frames", decoded={"a": decoded(38, 32)}).lengths == (38,)


def test_what_is_unknown_is_listed():
    unknown = one(None)
    with pytest.raises(GroundTruthError, match=r"intervals unknown for 1 video \(a\)"):
        build(unknown, "floor")
    with pytest.raises(GroundTruthError, match="frames unknown for 1 video .*name --features"):
        build(one((), None), "floor")
    with pytest.raises(GroundTruthError, match="num_frames_scored in the .* another rule"):
        build(one(()), "scored")
    with pytest.raises(GroundTruthError, match="features unknown for 1 video "):
        build(one(()), "spans")
    with pytest.raises(GroundTruthError, match="no video in split 'val'"):
        build(one(()), "floor", "val")
    with pytest.raises(ValueError, match="allowed are xdviodet, floor, rtfm, frames, scored"):
        build(one(()), "ceil")
    with pytest.raises(ValueError, match="allowed are half-open, inclusive, matlab"):
        build(one(()), "floor", reading="closed")


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("rule", LENGTHS)
def test_every_rule_is_recognised(rule, reading):
    manifest = random_manifest()
    found = check(build(manifest, rule, reading=reading).labels.astype(bool), manifest)
    assert (found.rules, found.reading, found.is_sound) == ((rule,), reading, True)
    lengths = [LENGTHS[rule](video.num_frames) for video in manifest.videos]
    assert [each.length for each in found.videos] == lengths
    assert found.lost == {}


def videos_of_two_rules():
    """A manifest, and labels by floor but for one video of rtfm and one of xdviodet.

    One is a clip longer by that, the other a clip shorter: as long in all as by floor alone.
    """
    manifest = random_manifest(num_videos=12)
    frames = [200, 333, 250, 170, 320, 410, 288, 300, 480, 150, 190, 260]
    videos = tuple(
        replace(v, num_frames=n, intervals=((20, 60), (90, 120)), label=1)
        for v, n in zip(manifest.videos, frames, strict=True)
    )
    rules = {"v03": "rtfm", "v06": "xdviodet"}
    parts = [
        build(replace(manifest, videos=(v,)), rules.get(v.video_id, "floor")).labels for v in videos
    ]
    return replace(manifest, videos=videos), np.concatenate(parts).astype(bool)


def test_videos_of_another_rule_are_listed():
    """v03 is a clip longer and v06 a clip shorter, so the videos between them are shifted."""
    manifest, labels = videos_of_two_rules()
    assert len(labels) == len(build(manifest, "floor").labels)
    found = check(labels, manifest)
    assert (found.rules, found.is_sound) == (("floor",), False)
    assert {each.video_id for each in found.odd} == {"v04", "v05", "v06"}


def test_a_file_that_no_rule_fits_is_compared_as_far_as_it_agrees():
    """The first video that differs is where the file leaves the rule."""
    manifest, _ = videos_of_two_rules()
    parts = [build(replace(manifest, videos=(v,)), "floor").labels for v in manifest.videos]
    parts[3] = build(replace(manifest, videos=manifest.videos[3:4]), "rtfm").labels
    found = check(np.concatenate(parts).astype(bool), manifest)
    assert (found.rules, found.rule, found.is_sound) == ((), "floor", False)
    assert found.odd[0].video_id == "v04"


def test_a_wrong_label_is_not_explained_away_by_rules_that_differ():
    manifest, _ = videos_of_two_rules()
    labels = build(manifest, "floor").labels.astype(bool)
    labels[20] = False
    found = check(labels, manifest)
    assert (found.rules, found.is_sound) == (("floor",), False)
    assert [(each.video_id, each.wrong) for each in found.odd] == [("v00", 1)]


@pytest.mark.parametrize("seed", range(4))
def test_lengths_by_spans_are_known_from_features(seed):
    """Resampled from 24 to 30 frames a second: a clip of 16 takes 13, no multiple of 16."""
    manifest = random_manifest(seed)
    seen = {
        v.video_id: decoded(v.num_frames, v.num_frames // 13 * 13, 24.0) for v in manifest.videos
    }
    labels = build(manifest, "spans", decoded=seen).labels.astype(bool)
    found = check(labels, manifest, decoded=seen)
    assert (found.rules, found.reading, found.is_sound) == (("spans",), "half-open", True)
    assert not check(labels, manifest).is_sound


def test_categories_that_were_marked_normal_are_found():
    manifest = random_manifest()
    kept = tuple(
        v if v.category in ("", "crash") else replace(v, label=0, intervals=())
        for v in manifest.videos
    )
    labels = build(replace(manifest, videos=kept), "rtfm").labels.astype(bool)
    found = check(labels, manifest)
    assert found.rules == ("rtfm",) and not found.is_sound
    assert set(found.lost) == set(CATEGORIES) - {"crash"}
    assert all(lost == total for lost, total in found.lost.values())


def test_a_length_that_no_rule_gives():
    manifest = random_manifest()
    found = check(np.zeros(1001, bool), manifest)
    assert found.rules == () and not found.is_sound
    assert found.totals["frames"] == sum(v.num_frames for v in manifest.videos)


def test_another_order_shows_as_wrong_labels():
    manifest = random_manifest()
    labels = build(manifest, "floor").labels.astype(bool)
    ids = [video.video_id for video in manifest.videos]
    assert check(labels, manifest, ids).is_sound
    backwards = check(labels, manifest, ids[::-1])
    assert sum(each.wrong for each in backwards.videos) > 1000
    with pytest.raises(ManifestError, match="lacks 1 of 43 listed videos: other"):
        check(labels, manifest, [*ids, "other"])


def test_scored_lengths_alone_are_enough_for_xd():
    """XD-Violence as bundled: no frame counts, but lengths of the public ground truth."""
    manifest = load_dataset("xd")
    truth = build(manifest, "scored")
    assert len(truth.labels) == 2_330_384 and truth.labels.sum() == 537_805
    found = check(truth.labels.astype(bool), manifest)
    assert (found.rules, found.is_sound) == (("scored",), True)


def ucf_by_the_script_of_rtfm(manifest):
    """Labels of each test video as make_gt_ucf.py of RTFM counts them, from the published ends."""
    with manifest.path.open(newline="") as lines:
        published = {row["video_id"]: row["intervals"] for row in csv.DictReader(lines)}
    parts = []
    for video in manifest.in_split("test"):
        part = np.zeros(-(-video.num_frames // 16) * 16, bool)
        for start, end in json.loads(published[video.video_id] or "[]"):
            part[start : end + 1 if end + 1 <= len(part) else end] = True
        parts.append(part)
    return parts


def test_ucf_of_rtfm_is_the_public_one():
    """1,114,144 labels, of which users count 84,343 as anomalous."""
    manifest = load_dataset("ucf")
    public = np.concatenate(ucf_by_the_script_of_rtfm(manifest))
    assert (len(public), public.sum()) == (1_114_144, 84_343)
    built = build(manifest, "rtfm", reading="inclusive").labels
    np.testing.assert_array_equal(built, public)
    found = check(public, manifest)
    assert (found.rules, found.reading, found.is_sound) == (("rtfm",), "inclusive", True)


def test_ucf_of_mgfn_has_lost_six_categories():
    """52,844 anomalous labels; how it reads intervals is told by the videos that have any."""
    manifest = load_dataset("ucf")
    gone = {"RoadAccidents", "Robbery", "Shooting", "Shoplifting", "Stealing", "Vandalism"}
    parts = zip(manifest.in_split("test"), ucf_by_the_script_of_rtfm(manifest), strict=True)
    labels = np.concatenate([part & (video.category not in gone) for video, part in parts])
    assert labels.sum() == 52_844
    found = check(labels, manifest)
    assert (found.rules, found.reading, found.is_sound) == (("rtfm",), "inclusive", False)
    assert set(found.lost) == gone and all(lost == total for lost, total in found.lost.values())
    assert all(each.lost for each in found.videos if each.wrong)


@pytest.mark.parametrize("reading", READINGS)
def test_public_lengths_that_follow_no_rule_are_known_from_the_manifest(reading):
    """UCF-Crime by DeepMIL, PEL4VAD and UR-DMU: 11 videos follow another rule than the others."""
    labels = build(load_dataset("ucf"), "scored", reading=reading).labels
    assert len(labels) == 1_109_680
    found = check(labels.astype(bool), load_dataset("ucf"))
    assert (found.rules, found.reading, found.is_sound) == (("scored",), reading, True)


@pytest.mark.parametrize("content", [np.array([0, 2]), np.zeros((2, 2)), np.array([np.nan])])
def test_files_that_are_no_row_of_labels_are_refused(tmp_path, content):
    np.save(tmp_path / "gt.npy", content)
    with pytest.raises(GroundTruthError, match="gt.npy: .*expected a row of 0 and 1"):
        read_ground_truth(tmp_path / "gt.npy")


def test_files_that_are_no_arrays_are_refused(tmp_path):
    with pytest.raises(GroundTruthError, match="gt.npy: cannot be read: No such file"):
        read_ground_truth(tmp_path / "gt.npy")
    np.save(tmp_path / "gt.npy", np.array(["a"]))
    with pytest.raises(GroundTruthError, match="gt.npy: not a whole .npy file of numbers"):
        read_ground_truth(tmp_path / "gt.npy")
    (tmp_path / "gt.npy").write_bytes(b"no")
    with pytest.raises(GroundTruthError, match="gt.npy: not a whole .npy file of numbers"):
        read_ground_truth(tmp_path / "gt.npy")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(GroundTruthError, match="not a whole .npy .* save it by np.save$"):
        read_ground_truth(tmp_path / "object.npy")


def test_build_and_check_from_the_command_line(tmp_path):
    gt = tmp_path / "gt.npy"
    built = run("gt", "build", "--dataset", "ped2", "--rule", "floor", "--out", gt)
    assert built.exit_code == 0 and "1,952 labels" in built.output
    rows = (tmp_path / "gt.npy.csv").read_text().splitlines()
    assert rows[:2] == ["video_id,start,stop", "Test001,0,176"]
    checked = run("gt", "check", gt, "--dataset", "ped2")
    assert checked.exit_code == 0
    assert (
        "1,952 labels of 12 videos: rule xdviodet or floor, intervals half-open" in checked.output
    )
    labels = np.load(gt)
    labels[:176] = 0
    np.save(gt, labels)
    wrong = run("gt", "check", gt, "--dataset", "ped2")
    assert wrong.exit_code == 1
    assert "category anomaly: lost in part, 1 of 12 videos marked normal" in wrong.output
    assert "Test001" in wrong.output


def test_videos_with_other_labels_are_shown(tmp_path):
    manifest, labels = videos_of_two_rules()
    np.save(tmp_path / "gt.npy", labels)
    rows = [
        f'{v.video_id},x,test,1,{v.num_frames},"[[20, 60], [90, 120]]"' for v in manifest.videos
    ]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(["video_id,path,split,label,num_frames,intervals", *rows, ""]))
    arguments = ("gt", "check", tmp_path / "gt.npy", "--manifest", path)
    told = run(*arguments)
    assert told.exit_code == 1
    assert [line.split()[0] for line in told.output.splitlines()[3:]] == ["v04", "v05", "v06"]
    as_json = run(*arguments, "--json")
    assert as_json.exit_code == 1
    videos = json.loads(as_json.output)["videos"]
    assert [each["video_id"] for each in videos] == [v.video_id for v in manifest.videos]
    assert [each["video_id"] for each in videos if each["wrong"]] == ["v04", "v05", "v06"]


def test_the_order_comes_from_a_list_of_files(tmp_path):
    manifest = load_dataset("ped2")
    backwards = replace(manifest, videos=manifest.videos[::-1])
    np.save(tmp_path / "gt.npy", build(backwards, "floor").labels)
    tests = [v.video_id for v in backwards.videos if v.split == "test"]
    names = [f"/data/features/{each}__{crop}.npy" for each in tests for crop in range(2)]
    (tmp_path / "order.txt").write_text("\n".join(names) + "\n")
    arguments = ("gt", "check", tmp_path / "gt.npy", "--dataset", "ped2")
    assert run(*arguments).exit_code == 1
    assert run(*arguments, "--list", tmp_path / "order.txt").exit_code == 0


def test_a_manifest_is_not_written_over(tmp_path):
    manifest = tmp_path / "mine.csv"
    manifest.write_text("video_id,path,split,label,num_frames\na,a.mp4,test,0,32\n")
    before = manifest.read_text()
    arguments = ("gt", "build", "--manifest", manifest, "--rule", "floor", "--out")
    refused = message(run(*arguments, manifest))
    assert refused == f"--out {manifest}: a file of labels ends in .npy"
    assert run(*arguments, tmp_path / "mine.npy").exit_code == 0
    assert manifest.read_text() == before


def test_rule_spans_needs_features():
    refused = message(run("gt", "build", "--dataset", "ped2", "--rule", "spans"))
    assert refused == "--rule spans needs --features"


def test_rule_spans_takes_lengths_and_rates_of_the_features(tmp_path):
    """A video of 53 frames at 25 frames a second, 48 of them in spans."""
    write_folder(tmp_path / "f" / "rgb", [stored_video("a"), stored_video("b")])
    manifest = tmp_path / "own.csv"
    manifest.write_text(
        'video_id,path,split,label,intervals_seconds\na,a.mp4,test,1,"[[1, 1.2]]"\n'
        "b,b.mp4,test,0,\n"
    )
    arguments = ("--manifest", manifest, "--features", tmp_path / "f", "--out", tmp_path / "gt.npy")
    assert run("gt", "build", "--rule", "spans", *arguments).exit_code == 0
    labels = np.load(tmp_path / "gt.npy")
    assert len(labels) == 96 and np.flatnonzero(labels).tolist() == [25, 26, 27, 28, 29]
    known = ("--manifest", manifest, "--features", tmp_path / "f")
    checked = run("gt", "check", tmp_path / "gt.npy", *known)
    assert checked.exit_code == 0 and "labels that are not the manifest's: 0\n" in checked.output
    refused = message(run("gt", "check", tmp_path / "gt.npy", *known[:2]))
    assert "num_frames or fps for intervals_seconds unknown for 1 video (a)" in refused
    assert refused.endswith("add them to the manifest, or name --features")
