"""The cost model and where time goes, as tables of made-up events and costs; one real run."""

from __future__ import annotations

import json

import pytest
from support.commands import extract, run, without_network
from support.videos import write_video

from vadprep.extraction.costs import (
    Costs,
    Machines,
    bottleneck,
    gains,
    limits,
    run_seconds,
    seconds_a_clip,
)
from vadprep.extraction.stages import OTHER, Slow, rows, stages_of, words


def costs(decoding: float, **stages: float) -> Costs:
    return Costs(decoding, stages)


CPU2 = Machines(workers=2, cores=2)


@pytest.mark.parametrize(
    ("each", "machines", "seconds", "what"),
    [
        (costs(0.1, compute=0.4), Machines(1, cores=2), 0.4, "compute"),
        (costs(0.4, compute=0.1), Machines(1, cores=2), 0.4, "decoder"),
        (costs(0.1, compute=0.4), CPU2, 0.25, "processor, for compute"),
        (costs(0.1, flow=0.8, compute=0.4), Machines(1, cores=1), 1.3, "processor, for flow"),
        (costs(0.4, compute=0.1), Machines(1, 4, 16, True), 0.1, "compute"),
        (costs(0.8, compute=0.1), Machines(1, 4, 16, True), 0.2, "decoder"),
        (costs(0.8, compute=0.1), Machines(1, 8, 2, True), 0.4, "processor, for compute"),
        (costs(0.1, write=0.5, compute=0.4), Machines(2, 4, 16, True), 0.45, "write"),
    ],
)
def test_the_scarcest_limits(each, machines, seconds, what):
    assert seconds_a_clip(each, machines) == pytest.approx(seconds)
    assert bottleneck(each, machines) == what
    assert max(limits(each, machines).values()) == pytest.approx(seconds)


def test_one_more_of_what_limits_is_faster_and_of_another_is_not():
    found = gains(costs(0.8, compute=0.1), Machines(1, 4, 16, True))
    assert found["decoder a worker"] == pytest.approx(5 / 4)
    assert found["GPU"] == pytest.approx(2)
    assert found["core"] == 1
    found = gains(costs(0.1, compute=0.4), CPU2)
    assert found["worker"] == found["decoder a worker"] == 1
    assert found["core"] == pytest.approx(0.25 / 0.2)
    assert found["worker with a core"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("videos", "machines", "seconds"),
    [
        ([costs(1, compute=4)] * 4, Machines(1, cores=2), 16),
        ([costs(1, compute=4)] * 4, CPU2, 10),  # four processes on two cores
        ([costs(1, compute=4)] * 4, Machines(2, cores=4), 8),
        ([costs(0, compute=9), *[costs(0, compute=1)] * 3], CPU2, 9),  # the longest is the end
        ([costs(0, compute=1), costs(0, compute=9)], CPU2, 9),
        ([costs(1, compute=4)] * 3, CPU2, 9),  # the last one has both cores
        ([costs(8, compute=1)] * 4, Machines(1, 4, 16, True), 8),
        ([costs(8, compute=1)] * 4, Machines(1, 2, 16, True), 16),
        ([costs(1, compute=4)] * 4, Machines(1, 4, 16, True), 16),
    ],
)
def test_a_run_ends_with_its_last_video(videos, machines, seconds):
    assert run_seconds(videos, machines) == pytest.approx(seconds)


def test_the_time_between_videos_counts_for_each_slot():
    videos = [costs(1, compute=4)] * 4
    assert run_seconds(videos, Machines(1, cores=2), between=0.5) == pytest.approx(18)


def test_a_run_of_very_many_videos_takes_what_its_scarcest_does():
    videos = [costs(0.01, compute=0.04)] * 30_000
    assert run_seconds(videos, CPU2) == pytest.approx(30_000 * 0.05 / 2, rel=0.01)


# ---------------------------------------------------------------- events


def event(time: float, name: str, video_id: str = "", **values: object) -> dict[str, object]:
    return {"time": time, "event": name, "video_id": video_id, **values}


def run_event(time: float, rank: int = 0, world_size: int = 1, **values: object):
    known = {"workers": 1, "decoders": 1, "cores": 2, "device": "cpu", **values}
    return event(time, "run", rank=rank, world_size=world_size, **known)


def committed(time: float, video_id: str, clips: int, **seconds: float):
    return event(time, "committed", video_id, num_clips=clips, seconds=seconds)


EVENTS = [
    run_event(0),
    event(0, "start", "a"),
    committed(10, "a", 10, decode=6.0, compute=2.0, write=1.0, decoding=8.0),
    event(10, "start", "bad"),
    event(11, "failed", "bad", num_clips=0, seconds={"decode": 1.0}),
    event(11, "committed", "found after a kill", recovered=True),
    event(12, "start", "b"),
    committed(17, "b", 10, decode=3.0, compute=1.5, write=0.5, decoding=4.0),
]


def test_seconds_are_summed_by_stage():
    found = stages_of(EVENTS)
    assert (found.videos, found.clips, found.decoding) == (2, 20, 12.0)
    assert found.seconds == {"decode": 9.0, "compute": 3.5, "write": 1.5, OTHER: 1.0}
    assert found.slowest == (Slow("a", 10, 10), Slow("b", 5, 10))
    assert found.costs == costs(0.6, compute=3.5 / 20, write=1.5 / 20)
    table = {row[0]: row[1:4] for row in rows(found)}
    assert table["decode"] == ("9.0", "0.4500", "60%")
    assert table["decoding"] == ("12.0", "0.6000", "")


def test_words_say_what_limits_and_what_one_more_brings():
    first, *more = words(stages_of(EVENTS))
    assert first.startswith("decoder limits: a clip takes a worker 0.250 s and its decoder 0.600 s")
    assert first.endswith("workers wait 60% of their time for frames")
    assert "one more decoder a worker: 1.41 x as fast" in more  # both cores are busy then
    assert "one more core: 1.00 x as fast" in more


def test_events_that_do_not_tell_give_no_guess():
    assert words(stages_of([]))[0].startswith("what limits is not known")
    old = [committed(10, "a", 10, decode=6.0, compute=2.0)]
    assert words(stages_of([run_event(0), *old]))[0].startswith("what limits is not known")
    assert stages_of(old).seconds == {"decode": 6.0, "compute": 2.0, OTHER: 0.0}


def test_the_ranks_of_the_latest_run_are_taken_together():
    runs = [
        run_event(5, 0, 2, workers=3),
        run_event(9, 0, 4, workers=1),
        run_event(6, 1, 2, workers=3),
        run_event(8, 1, 4, workers=2, cores=8),
    ]
    assert stages_of(runs).machines == Machines(workers=3, decoders=1, cores=10)


def test_a_real_run_says_where_its_time_went(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        write_video(tmp_path / "videos" / f"{name}.mp4", 64)
    with without_network():
        extract(tmp_path / "videos", tmp_path / "out", "--streams", "rgb,flow")
        shown = run("status", tmp_path / "out", "--by-stage")
        found = json.loads(run("status", tmp_path / "out", "--by-stage", "--json").stdout)
    assert shown.exit_code == 0
    assert "limits: a clip takes a worker" in shown.output
    assert "slow: a.mp4" in shown.output and "slow: b.mp4" in shown.output
    for stream in found:
        by_stage = stream["by_stage"]
        assert (by_stage["videos"], by_stage["clips"]) == (2, 8)
        assert {"decode", "resize", "flow", "compute", "write", OTHER} == set(by_stage["seconds"])
        assert by_stage["decoding_seconds"] > 0
        assert by_stage["machines"]["workers"] == 1
        assert by_stage["limits"]
