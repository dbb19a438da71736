"""Reading of manifests: what is kept, what is put right, what is refused and how."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import pytest

from vadprep.core.clips import Clock
from vadprep.core.errors import ManifestError
from vadprep.core.records import Video
from vadprep.data import Manifest, apply_splits, read_manifest, video_intervals


def write(folder: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes) -> Manifest:
    return read_manifest(write(folder, text))


def test_every_column_is_read(tmp_path):
    header = "video_id,path,split,label,category,num_frames,num_frames_scored,fps,intervals,mine"
    row = 'a,x/a.mp4,test,1,b1|b2,100,96,30000/1001,"[[0, 5], [5, 9]]",kept'
    (video,) = read(tmp_path, f"{header}\n{row}\n").videos
    assert video == Video(
        "a", "x/a.mp4", "test", 1, "b1|b2", 100, 96, 30000 / 1001, ((0, 5), (5, 9)), None,
        {"mine": "kept"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "cell", ["fire|theft", " fire | theft ", "|fire||theft|fire", "fire |theft|"]
)
def test_a_category_is_one_whatever_blanks_and_repeats_surround_it(tmp_path, cell):
    (video,) = read(tmp_path, f"path,category\na.mp4,{cell}\n").videos
    assert video.category == "fire|theft"


def test_blank_cells_are_unknown(tmp_path):
    text = "video_id,path,label,num_frames,fps,intervals\na,a.mp4,,,,\nb,b.mp4,0,,,[]\n"
    unknown, normal = read(tmp_path, text).videos
    assert unknown == Video("a", "a.mp4", extra={})
    assert (normal.label, normal.intervals) == (0, ())


@pytest.mark.parametrize(
    "path, video_id",
    [
        ("a/b.mp4", "a/b"),
        ("a/b.MKV", "a/b"),
        ("v=1__#2.5_label_A", "v=1__#2.5_label_A"),
        ("Bad.Boys.1995__#1.mp4", "Bad.Boys.1995__#1"),
    ],
)
def test_without_ids_the_id_is_the_path_without_its_suffix(tmp_path, path, video_id):
    assert read(tmp_path, f"path\n{path}\n").videos[0].video_id == video_id


@pytest.mark.parametrize("video_id", ["v=1__#2.5", " a ", "ü/视频", "a,b", "a\nb", 'say "a"', ".."])
def test_ids_are_kept_character_by_character(tmp_path, video_id):
    quoted = video_id.replace('"', '""')
    assert read(tmp_path, f'video_id,path\n"{quoted}",a.mp4\n').videos[0].video_id == video_id


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfvideo_id,path\na,a.mp4\n",
        b"video_id,path\r\na,a.mp4\r\n",
        b"video_id,path\n\na,a.mp4",
        b" video_id , path\na,a.mp4\n",
    ],
    ids=["bom", "crlf", "empty line, no last newline", "spaces in header"],
)
def test_byte_marks_and_line_ends_do_not_matter(tmp_path, text):
    assert read(tmp_path, text).videos == (Video("a", "a.mp4", extra={}),)


def test_ids_alone_will_do_where_no_video_is_read(tmp_path):
    path = write(tmp_path, "video_id,split\na,test\n")
    (video,) = read_manifest(path, with_paths=False).videos
    assert (video.video_id, video.path) == ("a", "")
    for text in ("split\ntest\n", "label,mine\n1,a\n"):
        with pytest.raises(ManifestError, match="m.csv:1: no column 'path' among"):
            read_manifest(write(tmp_path, text), with_paths=False)


def test_videos_can_be_sent_to_another_process(tmp_path):
    (video,) = read(tmp_path, "path,mine\na.mp4,kept\n").videos
    assert pickle.loads(pickle.dumps(video)) == video


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["m.csv:1", "no header"]),
        ("path\n", ["m.csv", "no videos"]),
        ("video_id,split\na,test\n", ["m.csv:1", "'path'", "video_id, split"]),
        ("path;label\na.mp4;1\n", ["m.csv:1", "'path'", "comma"]),
        ("path,path\na,b\n", ["m.csv:1", "'path'", "twice"]),
        ("video_id,path\na,x\nb,y,z\n", ["m.csv:3", "3 cells under 2 columns"]),
        ("video_id,path\na\n", ["m.csv:2", "1 cell under 2 columns"]),
        ("video_id,path\na,x\nb,y\na,z\n", ["m.csv:4", "'video_id'", "'a'", "line 2"]),
        ('video_id,path\n"a\nb",x\nc,x\nc,x\n', ["m.csv:5", "'c'", "line 4"]),
        ("path\nx/a.mp4\nx/a.avi\n", ["m.csv:3", "'path'", "'x/a'", "line 2"]),
        ("video_id,path\n,x\n", ["m.csv:2", "'video_id'", "blank"]),
        ("video_id,path\na,\n", ["m.csv:2", "'path'"]),
        ('video_id,path\n"a,x\n', ["m.csv", "quotes"]),
        (b"video_id,path\n\xff,x\n", ["m.csv", "UTF-8"]),
    ],
)
def test_what_is_no_table_of_videos_is_refused(tmp_path, text, words):
    with pytest.raises(ManifestError) as error:
        read(tmp_path, text)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("label", "2", ["0 (normal)"]),
        ("label", "abnormal", ["0 (normal)"]),
        ("num_frames", "12.5", ["whole number"]),
        ("num_frames", "-3", ["whole number"]),
        ("num_frames", "0", ["whole number"]),
        ("num_frames", "٣", ["whole number"]),
        ("num_frames_scored", "many", ["whole number"]),
        ("fps", "0", ["30000/1001"]),
        ("fps", "25/0", ["30000/1001"]),
        ("fps", "nan", ["30000/1001"]),
        ("fps", "1e999999999", ["30000/1001"]),
        ("fps", "25 fps", ["30000/1001"]),
        ("intervals", "[[0, 5]", ["JSON"]),
        ("intervals", "[" * 100_000, ["JSON"]),
        ("intervals", "0-5", ["JSON"]),
        ("intervals", '{"0": 5}', ["pairs"]),
        ("intervals", "[0, 5]", ["pairs"]),
        ("intervals", "[[0, 5, 6]]", ["pairs"]),
        ("intervals", "[[0, true]]", ["pairs"]),
        ("intervals", "[[0, NaN]]", ["pairs"]),
        ("intervals", "[[0.5, 5]]", ["whole numbers"]),
        ("intervals", "[[5, 5]]", ["[5, 5)"]),
        ("intervals", "[[-1, 5]]", ["[-1, 5)"]),
        ("intervals", "[[10, 20], [0, 5]]", ["[0, 5) after 20", "order"]),
        ("intervals", "[[0, 10], [9, 20]]", ["[9, 20) after 10", "overlap"]),
        ("intervals_seconds", "[[2, 1]]", ["[2, 1)"]),
        ("intervals_seconds", "[[0, Infinity]]", ["pairs"]),
    ],
)
def test_a_bad_cell_is_named_with_line_and_value(tmp_path, column, value, words):
    quoted = value.replace('"', '""')
    with pytest.raises(ManifestError) as error:
        read(tmp_path, f'path,{column}\ngood.mp4,\nbad.mp4,"{quoted}"\n')
    shown = value if len(value) <= 60 else value[:57]
    for word in ["m.csv:3:", f"'{column}'", shown, *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "cells, column, remedy",
    [
        ('0,"[[0, 5]]",,', "intervals", "label 1"),
        ('0,,"[[0, 5]]",', "intervals_seconds", "label 1"),
        ("1,[],,", "intervals", "leave blank"),
        ('1,"[[0, 5]]","[[0, 1]]",', "intervals_seconds", "one of the two"),
        ('1,,"[[0, 1]]","[[0, 1]]"', "intervals_fraction", "intervals_seconds are there"),
        ('1,,,"[[0.5, 1.1]]"', "intervals_fraction", "from 0 to 1"),
        ('0,,,"[[0.5, 1.0]]"', "intervals_fraction", "label 1"),
    ],
)
def test_cells_that_contradict_each_other_are_refused(tmp_path, cells, column, remedy):
    with pytest.raises(ManifestError, match=f"m.csv:2: column '{column}'.*{remedy}"):
        columns = "path,label,intervals,intervals_seconds,intervals_fraction"
        read(tmp_path, f"{columns}\na.mp4,{cells}\n")


def test_a_path_that_is_no_file_is_named(tmp_path):
    with pytest.raises(ManifestError, match="none.csv: No such file"):
        read_manifest(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "intervals, kept, num_warnings",
    [
        ("[[10, 100]]", ((10, 100),), 0),
        ("[[10, 101]]", ((10, 100),), 1),
        ("[[10, 116]]", ((10, 100),), 1),
        ("[[10, 20], [100, 110]]", ((10, 20),), 1),
    ],
)
def test_ends_up_to_a_clip_past_the_video_are_cut_and_recorded(
    tmp_path, intervals, kept, num_warnings
):
    manifest = read(tmp_path, f'path,num_frames,intervals\na.mp4,100,"{intervals}"\n')
    assert manifest.videos[0].intervals == kept
    assert len(manifest.warnings) == num_warnings
    assert all("m.csv:2" in line and "100 frames" in line for line in manifest.warnings)


def test_ends_past_the_scored_length_are_recorded_and_kept(tmp_path):
    manifest = read(tmp_path, 'path,num_frames_scored,intervals\na.mp4,96,"[[90, 99]]"\n')
    assert manifest.videos[0].intervals == ((90, 99),)
    assert "96 scored frames" in manifest.warnings[0]


@pytest.mark.parametrize(
    "fps, num_frames, ratio",
    [
        ("", 1000, "1.2 x the 1000 frames, as 30 is to 25 fps"),
        ("25", 1000, "1.2 x the 1000 frames, as 30 is to 25 fps"),
        ("20", 1000, "1.2 x the 1000 frames, as 24 is to 20 fps"),
        ("", 1183, "1.01 x the 1183 frames: "),
        ("", 960, "1.25 x the 960 frames, as 30 is to 24 fps"),
        ("24", 100, "12 x the 100 frames: correct it, or replace a video that is cut short"),
        ("25", 1183, "1.01 x the 1183 frames: correct it"),
    ],
)
def test_ends_further_past_are_refused_with_the_ratio(tmp_path, fps, num_frames, ratio):
    with pytest.raises(ManifestError) as error:
        read(tmp_path, f'path,num_frames,fps,intervals\na,{num_frames},{fps},"[[0, 1200]]"\n')
    assert "m.csv:2: column 'intervals': interval end 1200 is " + ratio in str(error.value)


@pytest.mark.parametrize(
    "video, fps, intervals",
    [
        (Video("a", "a"), None, None),
        (Video("a", "a", intervals=()), None, ()),
        (Video("a", "a", intervals=((1, 99), (99, 116))), None, ((1, 99), (99, 100))),
        (Video("a", "a", fps=10.0, intervals_seconds=((0.1, 2.0),)), None, ((1, 20),)),
        (Video("a", "a", fps=10.0, intervals_seconds=((1.0, 2.0),)), 25.0, ((25, 50),)),
        (Video("a", "a", intervals_seconds=((1.0, 1.001),)), Fraction(25), ((25, 26),)),
        (
            Video("a", "a", intervals_fraction=((0.1, 0.101), (0.29, 1.0))),
            None,
            ((10, 11), (29, 100)),
        ),
        (
            Video("a", "a", intervals_seconds=((7 * 1001 / 30000, 8 * 1001 / 30000),)),
            Fraction(30000, 1001),
            ((7, 8),),
        ),
    ],
)
def test_intervals_of_a_decoded_video(video, fps, intervals):
    assert video_intervals(video, 100, fps and Clock(fps)) == intervals


def test_intervals_far_past_a_decoded_video_are_refused():
    with pytest.raises(ManifestError, match="video 'a': interval end 120 is 1.2 x the 100 frames"):
        video_intervals(Video("a", "a", intervals=((0, 120),)), 100)


def test_seconds_need_a_frame_rate():
    with pytest.raises(ManifestError, match="fill in fps"):
        video_intervals(Video("a", "a", intervals_seconds=((0.0, 1.0),)), 100)


@pytest.mark.parametrize(
    "stop, told",
    [
        ("300", "ends at 300 s, but the video has 4.00 s: correct it"),
        ("4.8", "ends at 4.8 s, but the video has 4.00 s, as 30 is to 25 fps: count both at"),
    ],
)
def test_seconds_past_the_end_are_told_in_seconds_with_file_line_and_column(tmp_path, stop, told):
    manifest = read(tmp_path, f'path,intervals_seconds\na,[]\nb,"[[1, {stop}]]"\n')
    with pytest.raises(ManifestError) as error:
        video_intervals(manifest.videos[1], 100, Clock(25), manifest.where(manifest.videos[1]))
    assert f"m.csv:3: column 'intervals_seconds': {told}" in str(error.value)


@pytest.mark.parametrize(
    "columns, column, meant",
    [
        ("lbl", "lbl", "label"),
        ("Split", "Split", "split"),
        ("interval", "interval", "intervals"),
        ("frames", "frames", "num_frames"),
        ("name", "name", "video_id"),
        ("name,video_id", "", ""),
        ("intervals_raw,intervals", "", ""),
        ("weather", "", ""),
    ],
)
def test_a_column_that_may_be_a_slip_is_told_and_kept(tmp_path, columns, column, meant):
    cells = "kept,a" if "video_id" in columns else "kept," if "," in columns else "kept"
    manifest = read(tmp_path, f"path,{columns}\na.mp4,{cells}\n")
    expected = f"{tmp_path / 'm.csv'}:1: column {column!r} is not read: did you mean {meant!r}?"
    assert manifest.likely_typos() == ([expected] if column else [])
    assert manifest.videos[0].extra == {columns.split(",")[0]: "kept"}


def test_videos_in_other_splits_are_counted(tmp_path):
    manifest = read(tmp_path, "path,split\na,train\nb,trian\nc,\nd,val\ne,val\n")
    (line,) = manifest.likely_typos()
    assert line.endswith("not 'val' (2 videos), 'trian' (1 video, did you mean 'train'?)")
    splits = write(tmp_path, "video_id,split\na,train\nb,train\n", "s.csv")
    assert apply_splits(manifest, splits).likely_typos() == []


def test_a_split_file_replaces_the_splits(tmp_path):
    manifest = read(tmp_path, "path,split\na.mp4,train\nb.mp4,test\nc.mp4,test\n")
    splits = write(tmp_path, "video_id,split\nb,train\na,test\n", "s.csv")
    result = apply_splits(manifest, splits)
    assert [(v.video_id, v.split) for v in result.videos] == [
        ("a", "test"), ("b", "train"), ("c", ""),
    ]  # fmt: skip
    assert "'c'" in result.warnings[0] and "s.csv" in result.warnings[0]
    assert [v.video_id for v in result.in_split("train")] == ["b"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("video_id,split\na,test\nz,test\n", ["s.csv:3", "'z'", "no such video"]),
        ("video_id,split\na,test\na,train\n", ["s.csv:3", "'a'", "twice"]),
        ("video_id\na\n", ["s.csv:1", "'split'"]),
    ],
)
def test_a_bad_split_file_is_refused(tmp_path, text, words):
    manifest = read(tmp_path, "path\na.mp4\n")
    with pytest.raises(ManifestError) as error:
        apply_splits(manifest, write(tmp_path, text, "s.csv"))
    assert all(word in str(error.value) for word in words)
