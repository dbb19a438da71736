"""A file that is scored live has the scores that it has offline."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from support.live import make_checkpoint, offline, scores_of, start
from support.standin import StandIn
from support.videos import write_video

from vadprep.data import find_videos
from vadprep.online import SourceRecord, growing_folder
from vadprep.online.growing_folder import GrowingFolder

KEPT_BACK = "one frame kept back"
SETTINGS: dict[str, dict[str, object]] = {
    "native rate": {},
    "a lower rate by times": {"fps": "15", "sampling": "times"},
    "a lower rate by index": {"fps": "15", "sampling": "index"},
    "a lower rate as ffmpeg's filter": {"fps": "15", "sampling": "near"},
    "a lower rate, rounded down": {"fps": "15", "sampling": "down"},
    "a higher rate": {"fps": "30"},
    KEPT_BACK: {"tail": "xd"},
    "last frame repeated": {"tail": "repeat-last"},
    "clips that overlap": {"tail": "repeat-last", "clip_stride": 8},
    "five crops in batches": {"crops": 5, "crop_order": "xd", "batch": 4},
    "flow": {"streams": "flow"},
    "both streams": {"streams": "concat", "tail": "xd"},
}


FAST = ("native rate", "a lower rate by times", "both streams")
"""What each default run of the tests looks at."""


@pytest.mark.parametrize(
    "what, num_frames",
    [
        *((each, 83) for each in FAST),
        (KEPT_BACK, 80),
        *(pytest.param(each, 83, marks=pytest.mark.slow) for each in SETTINGS if each not in FAST),
        pytest.param("flow", 80, marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_offline(tmp_path: Path, what: str, num_frames: int) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames)
    checkpoint = make_checkpoint(**SETTINGS[what])  # type: ignore[arg-type]
    with start(checkpoint, path) as session:
        records = list(session)
    expected, spans = offline(checkpoint, path)
    scores = scores_of(records)
    assert np.abs(np.array([each.score for each in scores]) - expected).max() <= 1e-6
    assert [each.frames[0] for each in scores] == [first for first, _ in spans]
    if "lower" not in what:  # else frames that no clip shows come before the next clip
        assert [each.frames for each in scores] == spans
    last = records[-1]
    assert isinstance(last, SourceRecord) and (last.state, last.dropped_clips) == ("ended", 0)


def test_a_file_that_breaks_goes_on_with_the_next_decoder(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 83)
    content = bytearray(path.read_bytes())
    middle = content.index(b"00dc", len(content) // 2)
    content[middle + 8 : middle + 40] = os.urandom(32)
    path.write_bytes(content)
    checkpoint = make_checkpoint()
    with start(checkpoint, path) as session:
        records = list(session)
    frames = [each.frames for each in scores_of(records)]
    assert frames == [(16 * k, 16 * (k + 1)) for k in range(5)]
    assert sum(getattr(each, "lost_frames", 0) for each in records) > 0


def test_a_file_that_is_no_video_fails(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 10)
    with start(make_checkpoint(), tmp_path / "a.mp4") as session:
        records = list(session)
    assert [type(each) for each in records] == [SourceRecord]
    assert records[0].state == "failed" and "a.mp4" in records[0].reason  # type: ignore


@pytest.mark.parametrize("age", [0.0, 3600.0, -3600.0])
def test_a_file_is_taken_when_it_stands_still_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """The time of change may come from a camera or a server, an hour ahead or behind."""
    folder, file = GrowingFolder(tmp_path), tmp_path / "a.mp4"
    changed, taken = time.time() - age, []
    sizes = {100: 0, 103: 10, 104: 10, 104.9: 20, 106.8: 20, 107: 20, 120: 20}
    for now, size in sizes.items():
        file.write_bytes(bytes(size))
        os.utime(file, (changed, changed))
        monkeypatch.setattr(growing_folder, "monotonic", lambda now=now: now)
        taken.append(folder.take())
    assert taken == [None] * 5 + [file, None]


def test_a_file_that_changes_and_keeps_its_size_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = GrowingFolder(tmp_path), tmp_path / "a.mp4"
    file.write_bytes(b"0123")
    taken = []
    for now, changed in ((100, 1), (103, 2), (106, 3), (107, 3), (109, 3)):
        os.utime(file, (changed, changed))
        monkeypatch.setattr(growing_folder, "monotonic", lambda now=now: now)
        taken.append(folder.take())
    assert taken == [None] * 4 + [file]


def test_what_is_no_video_file_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden names are those of uploads that go on, and of what macOS writes beside a file."""
    for name in ("._a.mp4", ".b.mp4", "c.mp4", "D.MP4", "notes.txt"):
        (tmp_path / name).write_bytes(b"0123")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "gone.mp4").symlink_to("/none")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    folder = GrowingFolder(tmp_path)
    monkeypatch.setattr(growing_folder, "monotonic", lambda: 100.0)
    folder.look()
    monkeypatch.setattr(growing_folder, "monotonic", lambda: 103.0)
    found = [folder.take() for _ in range(3)]
    assert found == [tmp_path / "D.MP4", tmp_path / "c.mp4", None]
    videos = [each.path for each in find_videos(tmp_path).videos if "." in each.path]
    assert {"D.MP4", "c.mp4"} <= set(videos) and not any(each[0] == "." for each in videos)


@pytest.mark.slow
def test_files_that_come_into_a_folder_are_scored_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the folder is looked at while a file plays, so that the next one need not wait."""
    looks, look = [], GrowingFolder.look
    monkeypatch.setattr(GrowingFolder, "look", lambda self: looks.append(look(self)))
    made = write_video(tmp_path / "made.mp4", 32)
    folder = tmp_path / "camera"
    folder.mkdir()

    def put(name: str, age: float) -> None:
        shutil.copy2(made, tmp_path / "next")
        os.utime(tmp_path / "next", (time.time() - age,) * 2)
        os.replace(tmp_path / "next", folder / name)

    put("1.mp4", -3600)  # by a clock that is ahead
    put("._1.mp4", 3600)
    (folder / "0.mp4").symlink_to("/none")  # it may be there later
    (folder / "2.mp4").write_bytes(b"no video, but enough of it")
    records = []
    with start(make_checkpoint(), folder) as session:
        for record in session:
            records.append(record)
            if len(scores_of(records)) == 2 and len(records) == 4:  # connected, two, failed
                put("3.mp4", 0)
            if len(scores_of(records)) == 4:
                break
    states = [each.state for each in records if isinstance(each, SourceRecord)]
    assert states == ["connected", "failed"] and len(looks) >= 64
    assert [each.frames[0] for each in scores_of(records)] == [0, 16, 32, 48]
    assert [round(each.seconds[0], 2) for each in scores_of(records)] == [0, 0.64, 1.28, 1.92]


def test_sources_share_a_worker(tmp_path: Path) -> None:
    paths = [
        write_video(tmp_path / f"{name}.mp4", length) for name, length in (("a", 83), ("b", 50))
    ]
    checkpoint = make_checkpoint()
    with start(checkpoint, paths) as session:
        records = list(session)
    for path in paths:
        found = [each.score for each in scores_of(records) if each.source == str(path)]
        assert np.abs(np.array(found) - offline(checkpoint, path)[0]).max() <= 1e-6
    states = [each.state for each in records if isinstance(each, SourceRecord)]
    assert states == ["ended", "ended"]


class Slow(StandIn):
    """Takes longer than a clip of 0.64 s lasts at 10 times real time."""

    def __call__(self, views):  # type: ignore[no-untyped-def]
        time.sleep(0.2)
        return super().__call__(views)


@pytest.mark.slow
def test_too_slow_a_machine_drops_clips_and_counts_them(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 16 * 30)
    with start(make_checkpoint(), path, network=Slow, speed=10) as session:
        records = list(session)
    dropped = sum(getattr(each, "dropped_clips", 0) for each in records)
    scores = scores_of(records)
    assert dropped > 5 and len(scores) + dropped == 30
    assert [each.frames[0] for each in scores] == sorted({each.frames[0] for each in scores})
    assert max(each.delay for each in scores) < 5  # old clips are dropped, not new ones
    assert scores[-1].frames[1] == 16 * 30


@pytest.mark.slow
def test_a_file_plays_at_its_speed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 50)
    begin = time.monotonic()
    with start(make_checkpoint(), path, speed=2) as session:
        assert len(scores_of(list(session))) == 3
    assert time.monotonic() - begin >= 0.96
