"""Glances of a manifest: read, checked, taken from public clicks, drawn from intervals."""

from __future__ import annotations

import pytest
from support.commands import message, run

from vadprep.core.errors import ManifestError
from vadprep.data import drawn_glances, read_glances, read_manifest

HEADER = "video_id,path,split,label,num_frames,intervals,glances,mine\n"
ROWS = """\
a,a.mp4,train,1,100,"[[10, 20], [50, 51]]","[12, 50]",kept
b,b.mp4,train,0,100,[],,
c,c.mp4,train,1,,,[],"x, y"
"""


def write(folder, rows=ROWS, name="m.csv"):
    path = folder / name
    path.write_text(HEADER + rows)
    return path


def test_the_column_is_read(tmp_path):
    manifest = read_manifest(write(tmp_path))
    assert [video.glances for video in manifest.videos] == [(12, 50), None, ()]
    assert "glances" not in str(manifest.likely_typos())


@pytest.mark.parametrize(
    "cell, told",
    [
        ('"[12, 100]"', "frames are from 0 to 99, in order and each once"),
        ('"[50, 12]"', "in order and each once"),
        ('"[12, 12]"', "in order and each once"),
        ("[-1]", "frames are from 0"),
        ("[1.5]", r"write whole frames: \[frame, ...\]"),
        ("12", "write whole frames"),
        ('"[[1, 2]]"', "write whole frames"),
        ("[12", "not JSON"),
    ],
)
def test_bad_cells_name_file_row_and_field(cell, told, tmp_path):
    path = write(tmp_path, f"a,a.mp4,train,1,100,,{cell},\n")
    with pytest.raises(ManifestError, match=f"m.csv:2: column 'glances': .*{told}"):
        read_manifest(path)


def test_a_normal_video_has_no_glance(tmp_path):
    path = write(tmp_path, "b,b.mp4,train,0,100,,[3],\n")
    with pytest.raises(ManifestError, match="m.csv:2: column 'glances': .* is a normal video"):
        read_manifest(path)


def test_public_clicks_are_read_by_video_in_order(tmp_path):
    clicks = tmp_path / "clicks.csv"
    clicks.write_text("video-id,glance\nc,7\na,60\na,9\na,60\n")
    assert read_glances(read_manifest(write(tmp_path)), clicks) == {"a": (9, 60), "c": (7,)}


@pytest.mark.parametrize(
    "row, column, told",
    [
        ("d,7", "video-id", "no such video"),
        ("b,7", "video-id", "is a normal video"),
        ("a,100", "glance", "write a frame of the video, from 0 to 99"),
        ("a,x", "glance", "write a frame"),
        ("a,1.5", "glance", "write a frame"),
    ],
)
def test_bad_clicks_name_file_row_and_field(row, column, told, tmp_path):
    clicks = tmp_path / "clicks.csv"
    clicks.write_text(f"video-id,glance\na,1\n{row}\n")
    with pytest.raises(ManifestError, match=f"clicks.csv:3: column '{column}': .*{told}"):
        read_glances(read_manifest(write(tmp_path)), clicks)


def test_draws_are_one_of_each_interval_and_the_same_for_a_seed(tmp_path):
    manifest = read_manifest(write(tmp_path))
    draws = [drawn_glances(manifest, seed) for seed in range(200)]
    assert all(list(each) == ["a"] and each["a"][1] == 50 for each in draws)
    assert {each["a"][0] for each in draws} == set(range(10, 20))
    assert drawn_glances(manifest, 3) == draws[3]
    two = read_manifest(write(tmp_path, 'z,z.mp4,train,1,100,"[[10, 20]]",,\n' + ROWS, "two.csv"))
    both = [drawn_glances(two, seed) for seed in range(20)]
    assert [each["a"] for each in both] == [each["a"] for each in draws[:20]]
    assert any(each["z"][0] != each["a"][0] for each in both)
    with pytest.raises(ManifestError, match="column 'intervals': known of no abnormal video"):
        drawn_glances(read_manifest(write(tmp_path, "b,b.mp4,train,0,9,,,\n", "n.csv")), 0)


def test_the_command_writes_a_manifest_that_differs_in_nothing_else(tmp_path):
    path, out = write(tmp_path), tmp_path / "new.csv"
    printed = run("gt", "glances", "--manifest", path, "--seed", 3, "--out", out).output
    assert f"{out}: 2 glances in 1 video, 1 of split train\n" in printed
    drawn = drawn_glances(read_manifest(path), 3)["a"]
    for old, new in zip(read_manifest(path).videos, read_manifest(out).videos, strict=True):
        assert new.glances == (drawn if new.video_id == "a" else None)
        names = ("video_id", "path", "split", "label", "intervals", "extra")
        assert [getattr(new, each) for each in names] == [getattr(old, each) for each in names]
    tested = write(tmp_path, ROWS.replace("train", "test"), "t.csv")
    printed = run("gt", "glances", "--manifest", tested, "--seed", 3, "--out", out).output
    assert "in 1 video, none of split train: nothing to train on\n" in printed
    refused = run("gt", "glances", "--manifest", path)
    assert "name one of --clicks and --seed" in message(refused)
