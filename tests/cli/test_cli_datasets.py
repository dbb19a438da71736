"""Commands datasets and presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.commands import message, run, without_network

from vadprep.core.presets import PRESETS


@pytest.fixture(autouse=True)
def patch():
    with without_network() as patch:
        yield patch


def test_datasets_are_listed_and_shown():
    lines = run("datasets", "list").output.splitlines()
    cells = {tuple(line.split()[:2]): line.split()[2:] for line in lines}
    assert cells["ucf", "test"] == ["290", "150", "140", "1,111,808", "1,109,680", "84,128"]
    assert cells["xd", "test"] == ["800", "300", "500", "2,330,384", "537,805"]  # no lengths
    assert cells["shanghaitech", "train"] == ["238", "175", "63"]  # lengths of the abnormal alone
    shown = run("datasets", "show", "ped2")
    assert shown.exit_code == 0 and re.search(r"^ped2 +test +12 ", shown.output, re.MULTILINE)
    assert "data set 'foo': allowed are" in message(run("datasets", "show", "foo"))
    assert "data set 'foo': allowed are" in message(run("datasets", "check", "foo"))


def test_datasets_check_takes_a_csv_and_lists_what_is_wrong(videos, tmp_path):
    (tmp_path / "m.csv").write_text("path,num_frames\na.mp4,21\nb.mp4,9\n")
    result = run("datasets", "check", tmp_path / "m.csv", "--root", videos)
    assert result.exit_code == 1
    assert "  missing: b\n" in result.output
    assert "  wrong length: a: 20 frames, expected 21\n" in result.output
    (tmp_path / "m.csv").write_text("path,num_frames\na.mp4,20\n")
    assert run("datasets", "check", tmp_path / "m.csv", "--root", videos).exit_code == 0


def test_datasets_check_says_why_a_file_is_no_good(videos, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "two.mp4").symlink_to(videos / "a.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "m.csv").write_text("path\ntwo.mp4\ntext.mp4\n")
    lines = run("datasets", "check", tmp_path / "m.csv", "--root", tmp_path).output.splitlines()
    assert [line for line in lines if "ambiguous: v" in line] == [
        f"  ambiguous: video 'two': two.mp4 is not under {tmp_path}, and two.mp4 is there twice: "
        "x/two.mp4 and y/two.mp4: correct the path"
    ]
    assert any(re.match("  unreadable: text: .*/text.mp4: text, not a video", x) for x in lines)


def test_datasets_show_takes_a_csv_and_a_path_is_no_name(tmp_path):
    (tmp_path / "m.csv").write_text("path,split\na.mp4,train\n")
    assert re.search(
        r"^/.*m.csv +train +1 ", run("datasets", "show", tmp_path / "m.csv").output, re.M
    )
    for name in ("nope.csv", "./nope"):
        for command in ("show", "check"):
            refused = message(run("datasets", command, name))
            assert refused == f"{Path(name)}: No such file or directory: check the path"


def test_presets_are_a_line_each_with_its_source():
    head, *lines, hint = run("presets").output.splitlines()
    assert head.split()[:4] == ["preset", "streams", "graph", "fps"]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert re.match(r"xd +rgb +inception_i3d +24 .* xd +224 +\[-1,1\].* Wu et al. 2020", lines[1])
    assert hint.startswith("vadprep presets NAME")


def test_a_preset_shows_the_source_of_every_field_and_what_is_unknown():
    lines = run("presets", "xd").output.splitlines()
    assert lines[0].split() == ["field", "xd", "source"]
    assert re.match(
        r"tail +xd +Roc-Ng/XDVioDet, list/make_gt.py", next(x for x in lines if "tail" in x)
    )
    assert any(re.match(r"unknown +the order of the corners", line) for line in lines)
