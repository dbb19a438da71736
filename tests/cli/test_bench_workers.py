"""What the stages measured here say of the large data sets."""

from __future__ import annotations

import pytest
from support.stored import small_spec

from vadprep.cli.bench.workers import HOURS, MANY, large_sets, with_frames
from vadprep.core.records import Video
from vadprep.data.datasets import load_dataset
from vadprep.extraction.costs import Machines
from vadprep.extraction.estimate import Estimate, StreamEstimate, Timing


def measured(machines: Machines, **stages: float) -> Estimate:
    stream = StreamEstimate(small_spec(), 1, 0, 0, 0, 1, 1, 1, 1)
    probe = Timing(decoding=1e-9, resize=1e-10, stages=stages, between=0.3)
    return Estimate(
        streams=(stream,), clips=1, machines=machines, seconds=1.0, limits="", starting=0.0,
        probes=(probe,), flow_bytes=None,
    )  # fmt: skip


def test_lengths_come_from_the_list_the_clock_in_the_id_or_the_mean():
    videos = [
        Video("a", "a", num_frames=100),
        Video("Film__#00-59-58_01-00-02_label_G-0-0", "b", fps=25),
        Video("v=x__#1_label_A", "c"),
        Video("d", "d", extra={"num_frames_max": "300"}),
    ]
    assert [each.num_frames for each in with_frames(videos)] == [100, 100, 167, 300]


def test_xd_violence_is_of_its_published_length():
    videos = with_frames(load_dataset("xd").videos, HOURS["xd"])
    assert min(each.num_frames for each in videos) > 0
    hours = sum(each.num_frames / each.fps for each in videos) / 3600
    assert hours == pytest.approx(217, abs=0.1)


def test_more_workers_are_faster_until_something_else_limits():
    cells = list(large_sets(measured(Machines(1, 4, 16, True), compute=0.01)))
    assert [row[1] for row in cells] == ["xd"] * len(MANY) + ["ucf"] * len(MANY)
    assert [row[3] for row in cells[:3]] == ["1 GPU", "8 GPUs", "64 GPUs"]
    assert [row[5] for row in cells] == ["compute"] * 4 + ["longest video"] * 2
    cells = list(large_sets(measured(Machines(2, cores=2), compute=0.4)))
    assert cells[0][3] == "1 CPU worker"
    assert [row[5] for row in cells] == ["processor, for compute"] * 5 + ["longest video"]
