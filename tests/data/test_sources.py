"""Which files are videos, and where the videos of a manifest are found."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from vadprep.core.errors import DecodeError, ManifestError
from vadprep.core.records import Video
from vadprep.data import Manifest, SourceIndex, find_videos, ids_of_videos, read_manifest
from vadprep.data.sources import rows_of_files


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paths(root: Path) -> list[str]:
    return [video.path for video in find_videos(root).videos]


def test_what_decoders_read_is_looked_for(tmp_path: Path) -> None:
    names = (
        "a.264 a.265 a.3g2 a.dav a.dv a.f4v a.gif a.h264 a.hevc a.ivf a.m2t a.m2v a.mjpeg a.MPE "
        "a.mxf a.nut a.obu a.ogg a.qt a.rm a.rmvb a.tp a.vob a.y4m"
    ).split()
    assert paths(touch(tmp_path, *names)) == sorted(names)


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a.mp4", "a.txt", "b.TXT", "cover.jpg", "README", "frames/0.png", "frames/x.md")
    with caplog.at_level(logging.WARNING):
        assert paths(tmp_path) == ["a.mp4", "frames"]
    (record,) = caplog.records
    start, _, suffixes = record.getMessage().partition("by suffix: ")
    assert start == f"{tmp_path}: passed over 5 files that cannot be a video, "
    assert sorted(suffixes.split(", ")) == [".jpg (1)", ".md (1)", ".txt (2)", "none (1)"]


def test_a_folder_of_videos_alone_says_nothing(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a.mp4", "frames/0.png")
    with caplog.at_level(logging.WARNING):
        assert paths(tmp_path) == ["a.mp4", "frames"]
    assert not caplog.records


@pytest.mark.parametrize("mark", ["spec.json", "flow.json", "checkpoint-last.json", "scores.json"])
def test_what_vadprep_has_written_is_no_video(tmp_path: Path, caplog, mark: str) -> None:
    touch(tmp_path, "a.mp4", f"out/{mark}", "out/plot.png", "out/below/b.mp4")
    with caplog.at_level(logging.WARNING):
        assert paths(tmp_path) == ["a.mp4"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'out'}: left out: vadprep has written it"
    ]


def test_folders_of_the_system_are_passed_over_with_a_line(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "a.mp4", "$RECYCLE.BIN/b.mp4", "@eaDir/a.mp4/thumb.jpg", "#recycle/c.mp4")
    with caplog.at_level(logging.WARNING):
        assert paths(tmp_path) == ["a.mp4"]
    (record,) = caplog.records
    assert f"{tmp_path}: left out 3 system folders " in record.getMessage()


ALIKE = {
    "other case": ("Gate/01.MP4", "gate/01.mp4"),
    "backslashes": ("gate/01.mp4", "gate\\01.mp4"),
    "blanks": ("gate/01.mp4", " gate/01.mp4 "),
    "Unicode": (
        unicodedata.normalize("NFD", "café/é.mp4"), unicodedata.normalize("NFC", "café/é.mp4"),
    ),
    "elsewhere": ("other/gate 01.mp4", "gate 01.mp4"),
}  # fmt: skip
"""Kind of difference -> file on the disk, and path in the manifest."""


@pytest.mark.parametrize("kind", ALIKE)
def test_a_path_that_differs_in_its_form_alone_is_found(tmp_path: Path, kind: str) -> None:
    there, written = ALIKE[kind]
    touch(tmp_path, there, "gate/02.mp4")
    assert SourceIndex(tmp_path).find(Video("a", written)) == tmp_path / there


def test_the_file_at_its_place_goes_before_one_of_the_same_name(tmp_path: Path) -> None:
    touch(tmp_path, "Gate/01.mp4", "yard/01.mp4")
    assert SourceIndex(tmp_path).find(Video("a", "gate/01.mp4")) == tmp_path / "Gate/01.mp4"


def test_two_files_that_are_alike_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "Gate/01.mp4", "GATE/01.mp4")
    with pytest.raises(ManifestError, match="01.mp4 is there twice: GATE/01.mp4 and Gate/01.mp4"):
        SourceIndex(tmp_path).find(Video("a", "gate/01.mp4"))


def test_a_missing_file_fails_alone(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4")
    with pytest.raises(DecodeError, match="neither gate/01.mp4 nor another 01.mp4") as found:
        SourceIndex(tmp_path).find(Video("a", "gate/01.mp4"))
    assert found.value.kind == "missing"


def test_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,label,num_frames,fps\na.mp4,1.0,250.0,25.0\nb.mp4,0.0,,\nc.mp4,,7.00,\n")
    one, two, three = read_manifest(path).videos
    assert (one.label, one.num_frames, one.fps) == (1, 250, 25.0)
    assert (two.label, two.num_frames, three.label, three.num_frames) == (0, None, None, 7)


@pytest.mark.parametrize(("column", "text"), [("label", "1.5"), ("num_frames", "2.5")])
def test_other_fractions_are_refused(tmp_path: Path, column: str, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"path,{column}\na.mp4,{text}\n")
    with pytest.raises(ManifestError, match=f"column '{column}': '{text}'"):
        read_manifest(path)


ROWS = [
    *("yard-07 yard/07.mp4", "gate-07 gate/07.mp4", "flat 07.mp4", "long a/b/09.mp4"),
    *("frames testing/frames/01_0014", "windows cam\\10.mp4", "twice c/11.mp4", "again c/11.mp4"),
    *("named elsewhere/x.mp4", "Film__#0-1_label_A other/place.mp4"),
]


@pytest.mark.parametrize(
    ("path", "video_id"),
    [
        ("/data/videos/yard/07.mp4", "yard-07"),
        ("/data/videos/Yard/07.MP4", "yard-07"),
        ("/data/gate/07.mp4", "gate-07"),
        ("/data/other/07.mp4", "flat"),
        ("/a/b/09.mp4", "long"),
        ("/b/09.mp4", None),
        ("/sh/testing/frames/01_0014", "frames"),
        ("/x/cam/10.mp4", "windows"),
        ("/x/c/11.mp4", None),  # two rows have that path
        ("/x/named.mp4", "named"),
        ("/x/Film__#0-1_label_A.avi", "Film__#0-1_label_A"),
        ("/x/unknown.mp4", None),
    ],
)
def test_a_file_belongs_to_the_row_whose_path_ends_its_own(path: str, video_id: str | None) -> None:
    videos = [Video(*row.split(" ")) for row in ROWS]
    found = rows_of_files(Manifest(Path("m.csv"), tuple(videos)), [path])
    assert [video.video_id for video in found.values()] == [video_id] * (video_id is not None)


def test_two_files_are_not_one_video() -> None:
    manifest = Manifest(Path("m.csv"), (Video("a", "a.mp4"),))
    assert rows_of_files(manifest, ["/x/a.mp4", "/y/a.mp4"]) == {}


def test_a_file_of_another_length_is_another_video(caplog) -> None:
    manifest = Manifest(Path("m.csv"), (Video("a", "a.mp4", num_frames=100), Video("b", "b.mp4")))
    for count, expected in ((100, "a"), (84, "a"), (116, "a"), (83, "/x/a.mp4")):
        counts = {"/x/a.mp4": count, "/x/b.mp4": count}
        assert list(ids_of_videos(manifest, counts).values()) == [expected, "b"]
    (said,) = caplog.messages
    assert said == "/x/a.mp4: has 83 frames, and 'a' of m.csv has 100: taken for another video"


def index_of(root: Path, rows: dict[str, str]) -> tuple[SourceIndex, dict[str, Video]]:
    """An index that knows all rows, and the videos, by id: id -> path."""
    videos = {video_id: Video(video_id, path) for video_id, path in rows.items()}
    return SourceIndex(root, videos.values()), videos


def test_the_file_of_another_video_is_never_taken(tmp_path: Path, caplog) -> None:
    """Two cameras name their files alike, and one file of the first is gone."""
    touch(tmp_path, "yard/01.mp4", "other/02.mp4")
    index, videos = index_of(
        tmp_path, {"g1": "gate/01.mp4", "y1": "yard/01.mp4", "o": "lost/02.mp4"}
    )
    assert index.find(videos["y1"]) == tmp_path / "yard/01.mp4"
    with pytest.raises(DecodeError, match="gate/01.mp4 is not under .*yard/01.mp4.* video 'y1'"):
        index.find(videos["g1"])
    assert index.find(videos["o"]) == tmp_path / "other/02.mp4"
    (warning,) = caplog.messages
    assert "2 videos not at their paths" in warning and "other/02.mp4 for lost/02.mp4" in warning


def test_a_root_that_is_too_high_finds_each_file_by_the_end_of_its_path(tmp_path: Path) -> None:
    touch(tmp_path, "set/yard/01.mp4", "set/gate/01.mp4", "set/yard/02.mp4")
    rows = {"y1": "yard/01.mp4", "g1": "gate/01.mp4", "g2": "gate/02.mp4", "y2": "yard/02.mp4"}
    index, videos = index_of(tmp_path, rows)
    for video_id in ("y1", "g1", "y2"):
        assert index.find(videos[video_id]) == tmp_path / "set" / rows[video_id]
    with pytest.raises(DecodeError, match="set/yard/02.mp4 may be that of video 'y2'"):
        index.find(videos["g2"])


def test_two_videos_do_not_share_a_file_that_may_be_of_either(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/01.mp4")
    index, videos = index_of(tmp_path, {"y1": "yard/01.mp4", "g1": "gate/01.mp4"})
    assert not index.has(videos["y1"]) and not index.has(videos["g1"])
