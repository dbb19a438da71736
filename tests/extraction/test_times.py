"""Videos of a variable frame rate: seconds in labels, scores and alarms follow the time stamps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.ffmpeg import X264, make
from support.scored import data_of, write_run
from support.standin import standin_extractor, standin_spec
from support.videos import write_video

import vadprep
from vadprep.core.clips import Clock
from vadprep.core.errors import ShardError
from vadprep.core.records import Task, Video
from vadprep.data import video_intervals
from vadprep.evaluation import Scores, VideoScores, read_scores, write_scores
from vadprep.evaluation.scores import Origin
from vadprep.features.shard import StoredVideo, read_video

TICKS = [*range(64), *range(64, 264, 5)]
"""Frames 0 to 63 at 25 a second, then 40 at 5 a second: begins in 1/25 s."""


def test_the_clock_of_a_constant_rate_is_a_quotient() -> None:
    clock = Clock(25.0)
    assert [clock.seconds(frame) for frame in (0, 25, 30)] == [0, 1, 1.2]
    assert [clock.frame(second) for second in (0, 1, 1.19, 1.21)] == [0, 25, 30, 30]


def test_the_clock_of_time_stamps_finds_the_nearest_begin() -> None:
    clock = Clock(2.0, np.array([0, 0.1, 0.2, 1.2, 2.2]))
    assert [clock.seconds(frame) for frame in range(7)] == [0, 0.1, 0.2, 1.2, 2.2, 2.7, 3.2]
    assert [clock.frame(clock.seconds(frame)) for frame in range(7)] == list(range(7))
    assert [clock.frame(second) for second in (0.04, 0.06, 0.6, 0.8, 2.3)] == [0, 1, 2, 3, 4]


@pytest.fixture
def stored(tmp_path: Path) -> StoredVideo:
    source = write_video(tmp_path / "a.mp4", len(TICKS), ticks=TICKS)
    spec = standin_spec(resize="32x32", crop_size=32, fps="5", sampling="times")
    report = standin_extractor(spec)(Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, source))
    assert report.status == "done" and "the frame rate varies" in report.length_note
    return read_video(tmp_path / "a.h5")


def test_a_shard_keeps_the_times_of_a_variable_rate(stored: StoredVideo) -> None:
    assert stored.times is not None
    np.testing.assert_allclose(stored.times[:-1], np.array(TICKS) / 25, atol=1e-3)
    assert stored.spans[:, 0].tolist() == [0, 67, 83][: len(stored.spans)]


def test_a_constant_rate_stores_none(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", *X264, frames=40)
    spec = standin_spec(resize="32x32", crop_size=32)
    standin_extractor(spec)(Task(Video("a", "a.mp4"), {"rgb": tmp_path / "a.h5"}, source))
    assert read_video(tmp_path / "a.h5").times is None


def test_seconds_of_labels_are_those_on_the_screen(stored: StoredVideo) -> None:
    clock = Clock(float(stored.attributes["fps_source"]), stored.times)
    video = Video("a", "a.mp4", intervals_seconds=((2.56, 4.56),))
    # 64 frames in the first 2.56 s, then 5 frames a second.
    assert video_intervals(video, len(TICKS), clock) == ((64, 74),)


def test_alarms_and_their_file_keep_the_times(stored: StoredVideo, tmp_path: Path) -> None:
    fps = float(stored.attributes["fps_source"])
    spans = np.array([[0, 64], [64, 74], [74, 104]])
    video = VideoScores(np.array([0, 1.0, 0]), spans, len(TICKS), fps, None, stored.times)
    write_scores(tmp_path / "s.h5", Scores({"a": video}, Origin({})), Origin({}), "c")
    for each in (video, read_scores(tmp_path / "s.h5")["a"]):
        (alarm,) = each.alarms(0.5)
        assert (alarm["start_frame"], alarm["stop_frame"]) == (64, 74)
        assert (alarm["start_seconds"], alarm["stop_seconds"]) == pytest.approx((2.56, 4.56))


def test_the_report_shows_the_times(stored: StoredVideo, tmp_path: Path) -> None:
    spans = np.array([[0, 64], [64, 74], [74, 104]])
    fps = float(stored.attributes["fps_source"])
    video = VideoScores(np.array([0, 1.0, 0]), spans, len(TICKS), fps, None, stored.times)
    index = vadprep.report(write_run(tmp_path / "run", {"a": video}), out=tmp_path / "page")
    (row,) = data_of(index)["videos"]
    page = data_of(tmp_path / "page" / row["page"])
    assert page["end"] == pytest.approx(float(stored.times[-1]), abs=1e-3)
    (curve,) = page["runs"]
    assert curve["edges"][:3] == pytest.approx([0, 2.56, 4.56], abs=1e-3)


def test_damaged_times_are_named(stored: StoredVideo, tmp_path: Path) -> None:
    assert stored.times is not None
    path, content = tmp_path / "a.h5", bytearray((tmp_path / "a.h5").read_bytes())
    place = content.index(stored.times.tobytes())
    content[place + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match="a.h5.*times of 'a': checksum differs"):
        read_video(path)
