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

from vadprep.online import SourceRecord
from vadprep.online.feed import SETTLED_SECONDS

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


@pytest.mark.slow
def test_files_that_come_into_a_folder_are_scored_in_order(tmp_path: Path) -> None:
    made = write_video(tmp_path / "made.mp4", 32)
    folder = tmp_path / "camera"
    folder.mkdir()

    def put(name: str, age: float) -> None:
        shutil.copy(made, folder / name)
        os.utime(folder / name, (time.time() - age,) * 2)

    put("1.mp4", 10)
    (folder / "0.mp4").symlink_to("/none")  # it may be there later
    (folder / "2.mp4").write_bytes(b"no video, but enough of it")
    os.utime(folder / "2.mp4", (0, 0))
    records = []
    with start(make_checkpoint(), folder) as session:
        for record in session:
            records.append(record)
            if len(scores_of(records)) == 2 and len(records) == 4:  # connected, two, failed
                put("3.mp4", SETTLED_SECONDS - 0.5)  # not settled yet
            if len(scores_of(records)) == 4:
                break
    states = [each.state for each in records if isinstance(each, SourceRecord)]
    assert states == ["connected", "failed"]
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
