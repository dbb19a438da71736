"""Where scores are high: alarms, the CSV of frames, scores.json."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from vadprep.core.clips import runs
from vadprep.evaluation.metrics import Truth, VideoScores
from vadprep.evaluation.plots import file_names, files_of, write_alarms
from vadprep.evaluation.scores import Origin, Scores

ORIGIN = Origin({"rgb": "random:0"})


def video(snippets, fps=25.0):
    edges = 16 * np.arange(len(snippets) + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    return VideoScores(np.array(snippets, float), spans, 16 * len(snippets) + 5, fps)


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("", []),
        ("000", []),
        ("111", [(0, 3)]),
        ("0110100", [(1, 3), (4, 5)]),
        ("1001", [(0, 1), (3, 4)]),
    ],
)
def test_runs(flags, expected):
    assert runs(np.array([each == "1" for each in flags], bool)) == expected


def test_an_alarm_starts_at_the_threshold_in_frames_and_seconds():
    scores = video([0.2, 0.5, 0.9, 0.1, 0.6])
    assert scores.alarms(0.5) == [
        {
            "start_frame": 16,
            "stop_frame": 48,
            "start_seconds": 0.64,
            "stop_seconds": 1.92,
            "highest": 0.9,
        },
        {
            "start_frame": 64,
            "stop_frame": 80,
            "start_seconds": 2.56,
            "stop_seconds": 3.2,
            "highest": 0.6,
        },
    ]
    assert [each["start_frame"] for each in scores.alarms(0.55)] == [32, 64]
    assert scores.alarms(1.0) == []


def test_without_a_rate_there_are_frames_only():
    (alarm,) = video([0.0, 0.7], None).alarms(0.5)
    assert (alarm["start_frame"], alarm["stop_frame"]) == (16, 32)
    assert alarm["start_seconds"] is None and alarm["stop_seconds"] is None


def test_files_hold_every_frame_and_every_video(tmp_path):
    scores = {"a/b#=.mp4": video([0.25, 0.75]), "images": video([0.5], None), "none": video([])}
    found = write_alarms(tmp_path, Scores(scores, ORIGIN), 0.5, {"run": "r"}, plots=False)
    record = json.loads((tmp_path / "scores.json").read_text())
    assert (record["run"], record["threshold"]) == ("r", 0.5)
    assert (record["weights"], record["random_weights"]) == ({"rgb": "random:0"}, True)
    assert {each["video_id"]: each["alarms"] for each in record["videos"]} == found
    first, second, third = record["videos"]
    assert (first["num_frames"], first["num_frames_scored"], first["score"]) == (37, 32, 0.75)
    assert first["plot"] is None and not list(tmp_path.glob("*.png"))
    rows = list(csv.DictReader((tmp_path / first["frames"]).read_text().splitlines()))
    assert [int(row["frame"]) for row in rows] == list(range(32))
    assert [float(row["score"]) for row in rows] == [0.25] * 16 + [0.75] * 16
    assert [float(row["seconds"]) for row in rows[:3]] == [0.0, 0.04, 0.08]
    images = (tmp_path / second["frames"]).read_text().splitlines()
    assert images[0] == "frame,seconds,score" and images[2] == "1,,0.500000"
    assert (third["score"], third["alarms"]) == (None, [])


def test_a_plot_stands_beside_the_frames(tmp_path):
    write_alarms(tmp_path, Scores({"a": video([0.5])}, ORIGIN), 0.5, {})
    (entry,) = json.loads((tmp_path / "scores.json").read_text())["videos"]
    assert (entry["frames"], entry["plot"]) == ("a.scores.csv", "a.scores.png")
    assert (tmp_path / entry["plot"]).read_bytes().startswith(b"\x89PNG")


def test_files_of_earlier_scores_go_and_others_stay(tmp_path):
    for name in ("notes.csv", "000007-c.csv", "c.csv"):
        (tmp_path / name).write_text("mine")
    write_alarms(tmp_path, Scores({"a": video([0.5]), "b": video([0.5])}, ORIGIN), 0.5, {})
    write_alarms(tmp_path, Scores({"c": video([0.5])}, ORIGIN), 0.5, {}, plots=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["000007-c.csv", "c.csv", "c.scores.csv", "notes.csv", "scores.json"]
    record = {"videos": [{"frames": "000007-c.csv"}]}  # as earlier versions named them
    (tmp_path / "scores.json").write_text(json.dumps(record))
    write_alarms(tmp_path, Scores({}, ORIGIN), 0.5, {})
    assert not (tmp_path / "000007-c.csv").exists()


@pytest.mark.parametrize(
    ("video_id", "name"),
    [
        ("/data/yard two/Tür süd 01.mp4", "Tür_süd_01.mp4"),
        ("a/..", "a_.."),
        ("yard/07", "yard_07"),
        ("..", "video"),
        ("Bad.Boys.1995__#00-26-51", "Bad.Boys.1995___00-26-51"),
        ("x" * 300, "x" * 120),
        ("視" * 300, "視" * 40),
        ("b\udcff\n\\%", "b____"),
        ("", "video"),
    ],
)
def test_names_say_whose_and_are_safe(video_id, name):
    assert file_names([video_id]) == {video_id: f"{name}.scores"}


def test_no_two_videos_share_a_file():
    ids = ["a/1", "a_1", "A_1", "a_1-2", "/x/a.mp4", "/y/a.mp4", *(f"{'x' * 200}{n}" for n in "12")]
    names = file_names(ids)
    assert [names[each].removesuffix(".scores") for each in ids[:6]] == [
        *("a_1", "a_1-2", "A_1-3", "a_1-2-2", "a.mp4", "a.mp4-2")
    ]
    assert len({name.lower() for name in names.values()}) == len(ids)


def test_ground_truth_stands_beside_the_alarms(tmp_path, monkeypatch):
    shaded = []
    monkeypatch.setattr("vadprep.evaluation.plots.plot_video", lambda *each: shaded.append(each[3]))
    truth = {"a": Truth(((3, 9),), 1), "b": Truth((), 0)}
    scores = Scores({name: video([0.5]) for name in "abc"}, ORIGIN)
    write_alarms(tmp_path, scores, 0.5, {}, truth=truth)
    videos = json.loads((tmp_path / "scores.json").read_text())["videos"]
    known = [(each["label"], each["intervals"]) for each in videos]
    assert known == [(1, [[3, 9]]), (0, []), (None, None)]
    assert shaded == [((3, 9),), (), None]


@pytest.mark.parametrize(
    "content", ['{"videos": 3}', '{"videos": [3, {"frames": "../a.csv", "plot": null}]}', "["]
)
def test_what_is_not_of_ours_tells_of_no_file(tmp_path, content):
    (tmp_path.parent / "a.csv").write_text("mine")
    (tmp_path / "scores.json").write_text(content)
    assert not files_of(tmp_path)
