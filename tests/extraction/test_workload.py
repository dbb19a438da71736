"""Which video goes to which worker, and who is to blame: tables, without Ray."""

from __future__ import annotations

import pytest

from vadprep.core.records import SKIPPED, Task, Video
from vadprep.extraction.workload import VIDEO_BYTES, Load, Workload, most_videos, next_limit


def make_tasks(names: str) -> list[Task]:
    return [Task(Video(name, name), {}) for name in names]


def names(tasks: list[Task]) -> str:
    return "".join(task.video.video_id for task in tasks)


def hand_out(workload: Workload, *loads: Load) -> str:
    """Names of the videos that are given out, in their order."""
    given = []
    while found := workload.hand_out(loads):
        given.append(found[1])
    return names(given)


def report(workload: Workload, load: Load, name: str) -> None:
    (task,) = (task for task in load.tasks if task.video.video_id == name)
    workload.reported(load, task)


def test_videos_are_spread_in_order_and_never_more_than_the_limits():
    workload, one, other = Workload(make_tasks("abcdefg")), Load(2), Load(3)
    assert hand_out(workload, one, other) == "abcde"
    assert (names(one.tasks), names(other.tasks)) == ("ac", "bde")
    report(workload, one, "a")
    assert hand_out(workload, one, other) == "f"
    assert workload.unfinished == 6
    assert hand_out(workload) == ""  # no worker


def test_of_two_suspects_only_the_guilty_one_is_given_up():
    workload, load = Workload(make_tasks("abc")), Load(2)
    assert hand_out(workload, load) == "ab"
    assert workload.died(load, is_blamed=True) == []
    load = Load(2)
    assert hand_out(workload, load) == "a" and load.is_alone
    report(workload, load, "a")
    assert hand_out(workload, load) == "b" and load.is_alone
    (skipped,) = workload.died(load, is_blamed=True)
    assert (skipped.video_id, skipped.status) == ("b", SKIPPED)
    assert "2 workers died over it" in skipped.reason
    load = Load(2)
    assert hand_out(workload, load) == "c" and not load.is_alone
    report(workload, load, "c")
    assert workload.unfinished == 0


def test_a_suspect_waits_for_a_worker_to_become_quiet_and_others_go_on():
    workload, dead, one, other = Workload(make_tasks("abcdefgh")), Load(1), Load(2), Load(2)
    assert hand_out(workload, dead, one, other) == "abcde"
    assert workload.died(dead, is_blamed=True) == []
    assert hand_out(workload, one, other) == ""
    report(workload, one, names(one.tasks)[0])
    assert hand_out(workload, one, other) == ""  # it is to become quiet
    report(workload, other, names(other.tasks)[0])
    assert hand_out(workload, one, other) == "f"
    for task in list(one.tasks):
        workload.reported(one, task)
    assert hand_out(workload, one, other) == "a" and one.is_alone
    assert hand_out(workload, one, other) == ""
    report(workload, one, "a")
    assert hand_out(workload, one, other) == "gh"


def test_suspects_are_done_one_at_a_time():
    workload, dead, one, other = Workload(make_tasks("abc")), Load(3), Load(3), Load(3)
    hand_out(workload, dead)
    workload.died(dead, is_blamed=True)
    seen = ""
    for _ in "abc":
        (name,) = hand_out(workload, one, other)
        seen += name
        report(workload, one if one.tasks else other, name)
    assert sorted(seen) == ["a", "b", "c"] and workload.unfinished == 0


def test_a_node_that_is_gone_is_no_video_s_fault():
    workload = Workload(make_tasks("abc"))
    for _ in range(5):
        load = Load(2)
        assert hand_out(workload, load) == "ab"
        assert workload.died(load, is_blamed=False) == []
    suspect = Load(2)
    hand_out(workload, suspect)
    workload.died(suspect, is_blamed=True)
    for _ in range(5):  # a suspect stays one, and is not blamed for it either
        load = Load(2)
        assert len(hand_out(workload, load)) == 1 and load.is_alone
        assert workload.died(load, is_blamed=False) == []


@pytest.mark.parametrize(
    ("cores", "gigabytes", "workers", "expected"),
    [(16, 64, 1, 16), (16, 64, 8, 2), (64, 16, 4, 4), (2, 8, 1, 2), (2, 8, 4, 1), (16, 0, 1, 1)],
)
def test_videos_are_bounded_by_cores_and_memory(cores, gigabytes, workers, expected):
    assert most_videos(cores, gigabytes * VIDEO_BYTES, workers) == expected


@pytest.mark.parametrize(
    ("limit", "decode", "rest", "most", "expected"),
    [
        (4, 0.0, 9.0, 16, 4),  # four have frames at hand
        (4, 5.0, 5.0, 16, 4),  # two have
        (4, 6.0, 4.0, 16, 5),
        (4, 10.0, 0.0, 16, 5),
        (16, 10.0, 0.0, 16, 16),
        (1, 0.0, 9.0, 1, 1),  # a worker on a core of its own
        (1, 0.0, 9.0, 2, 2),  # nothing is ready while the network works
        (4, 0.0, 0.0, 16, 4),  # nothing measured
    ],
)
def test_a_worker_gets_more_videos_while_its_network_waits(limit, decode, rest, most, expected):
    seconds = {"decode": decode, "compute": rest / 2, "resize": rest / 2}
    assert next_limit(limit, seconds, most) == expected


def test_the_number_of_videos_settles():
    """Of a network that takes 1 s for what a decoder gives in 9, the tenth finds it busy."""
    limit = 4
    for _ in range(100):
        is_busy = limit > 9  # then frames pile up, and videos wait for the network instead
        seconds = {"compute": limit} if is_busy else {"decode": 8, "compute": 1}
        seconds["decoding"] = 9
        limit = next_limit(limit, seconds, 64)
    assert limit == 10
