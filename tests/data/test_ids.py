"""Ids that are made of paths, and what is said of ids that differ by little."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vadprep.core.errors import ManifestError
from vadprep.core.video_files import id_of_path
from vadprep.data import hint_of_ids, ids_of_paths, read_manifest, similar_ids


@pytest.mark.parametrize(
    ("path", "video_id"),
    [
        ("a.mp4", "a"),
        ("cam/a.b.MKV", "cam/a.b"),
        ("cam.2000/a", "cam.2000/a"),
        ("Film.2000__#00-01_label_A", "Film.2000__#00-01_label_A"),
        ("frames.mp4", "frames"),  # a folder of frames may be called so
        (".mp4", ".mp4"),
    ],
)
def test_an_id_is_the_path_without_the_suffix_of_a_video(
    tmp_path: Path, path: str, video_id: str
) -> None:
    assert id_of_path(path) == video_id
    (tmp_path / "m.csv").write_text(f'path\n"{path}"\n')
    assert read_manifest(tmp_path / "m.csv").videos[0].video_id == video_id


def named(*paths: str, planned: str = "", made_of: str = "") -> list[str]:
    """Ids of the paths, beside features with the ``planned`` ids."""
    ids = ids_of_paths(paths, planned.split(), lambda video_id: made_of)
    assert list(ids) == list(paths)
    return list(ids.values())


def test_files_that_differ_by_their_suffix_alone_keep_it(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert named("a.avi", "a.mp4", "b.mp4", "x/a.mp4") == ["a.avi", "a.mp4", "b", "x/a"]
        assert named("a", "a.mp4") == ["a", "a.mp4"]  # a folder of frames, and a file
        assert named("x.avi", "x.mp4", "x.mp4.mp4") == ["x.avi", "x.mp4", "x.mp4.mp4"]
    assert [line.partition(" from another")[0] for line in caplog.messages] == [
        f"suffix alone tells {count}" for count in ("2 videos", "1 video", "3 videos")
    ]
    assert "as in 'a.avi'" in caplog.messages[0]


def test_an_id_stays_what_it_is_when_files_come_and_go() -> None:
    both = ["a.avi", "a.mp4"]
    assert named(*both, planned="a", made_of="cam/a.mp4") == ["a.avi", "a"]
    assert named(*both, planned="a", made_of="a.avi") == ["a", "a.mp4"]
    assert named(*both, planned="a") == ["a", "a.mp4"]  # nothing is extracted yet
    assert named(*both, planned="a a.mp4") == ["a", "a.mp4"]
    assert named("a.mp4", planned="a a.mp4") == ["a.mp4"]
    assert named("a.mp4", "b.mp4", planned="a.avi a.mp4") == ["a.mp4", "b"]
    assert named("a.mov", planned="a", made_of="a.mp4") == ["a"]  # converted


def test_a_folder_of_features_keeps_the_rule_of_its_ids() -> None:
    assert named("a.mp4", "b.mp4", "c", planned="a.mp4 c") == ["a.mp4", "b.mp4", "c"]
    assert named("a.mp4", "b.mp4", planned="a") == ["a", "b"]


def test_an_id_that_another_video_has_is_refused() -> None:
    with pytest.raises(ManifestError, match="^a: 'a' is the id of another video"):
        named("a", "a.mp4", planned="a", made_of="a.mp4")
    assert named("a.mp4", "a", planned="a a.mp4") == ["a.mp4", "a"]


@pytest.mark.parametrize(
    ("ids", "others", "hint"),
    [
        (["a", "c"], ["a.mp4", "d"], "1 id differs from those of F by suffix alone, as 'a' from"),
        (["a"], ["cam/a"], "1 id differs from those of F by folder alone, as 'a' from 'cam/a'"),
        (["/x/a.mp4"], ["a"], "1 id differs from those of F by folder or suffix alone, as"),
        (
            ["a", "b"],
            ["a.avi", "x/b.avi"],
            "2 ids differ from those of F by folder or suffix alone",
        ),
        (["a", "b"], ["a", "c.mp4"], ""),
        (["a"], ["a.avi", "a.mp4"], "1 id differs from those of F by suffix alone, as 'a' from"),
        (["a"], ["x/a", "y/a"], ""),  # which one is meant?
    ],
)
def test_a_hint_where_ids_differ_by_suffix_or_folder(ids, others, hint: str) -> None:
    found = hint_of_ids(ids, others, "F")
    assert found.startswith(f"; {hint}") if hint else not found


def test_similar_ids_are_first_those_that_differ_by_the_suffix() -> None:
    assert similar_ids("a.mp4", ["b", "a"]) == "; similar ids: 'a'"
    assert similar_ids("a", ["a.avi", "a.mp4", "b.mp4"]) == "; similar ids: 'a.avi', 'a.mp4'"
    assert similar_ids("q", ["b"]) == ""
