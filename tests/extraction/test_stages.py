"""Seconds by stage: sums of made-up events, and one real run."""

from __future__ import annotations

import json
import re

from support.commands import extract, run, without_network
from support.videos import write_video

from vadprep.extraction.timing import OTHER, SlowVideo, stage_seconds
from vadprep.features.journal import Event

# ---------------------------------------------------------------- events


def event(time: float, name: str, video_id: str = "", **values: object) -> Event:
    return Event(time, name, video_id, **values)


def committed(time: float, video_id: str, clips: int, **seconds: float):
    return event(time, "committed", video_id, num_clips=clips, seconds=seconds)


EVENTS = [
    event(0, "run"),
    event(0, "start", "a"),
    committed(10, "a", 10, decode=6.0, compute=2.0, write=1.0, decoding=8.0),
    event(10, "start", "bad"),
    event(11, "failed", "bad", num_clips=0, seconds={"decode": 1.0}),
    event(11, "committed", "found after a kill", recovered=True),
    event(12, "start", "b"),
    committed(17, "b", 10, decode=3.0, compute=1.5, write=0.5, decoding=4.0),
]


def test_seconds_are_summed_by_stage():
    found = stage_seconds(EVENTS)
    assert (found.videos, found.clips, found.decoding_seconds) == (2, 20, 12.0)
    assert found.seconds == {"decode": 9.0, "compute": 3.5, "write": 1.5, OTHER: 1.0}
    assert found.slowest == (SlowVideo("a", 10, 10), SlowVideo("b", 5, 10))


def test_events_of_older_versions_have_no_seconds_of_decoders():
    old = [committed(10, "a", 10, decode=6.0, compute=2.0)]
    found = stage_seconds(old)
    assert found.seconds == {"decode": 6.0, "compute": 2.0, OTHER: 0.0}
    assert found.decoding_seconds is None
    assert stage_seconds([]).decoding_seconds is None


def test_a_real_run_says_where_its_time_went(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        write_video(tmp_path / "videos" / f"{name}.mp4", 64)
    with without_network():
        extract(tmp_path / "videos", tmp_path / "out", "--streams", "rgb,flow")
        shown = run("status", tmp_path / "out", "--by-stage")
        found = json.loads(run("status", tmp_path / "out", "--by-stage", "--json").stdout)
    assert shown.exit_code == 0
    assert re.search(r"decode +\d+\.\d +\d\.\d{4} +\d+% +waiting for the decoder", shown.output)
    assert "slow: a" in shown.output and "slow: b" in shown.output
    for stream in found:
        by_stage = stream["by_stage"]
        assert (by_stage["videos"], by_stage["clips"]) == (2, 8)
        assert {"decode", "resize", "flow", "compute", "write", OTHER} == set(by_stage["seconds"])
        assert by_stage["decoding_seconds"] > 0
