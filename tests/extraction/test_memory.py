"""The memory of an extraction does not grow with the length of a video or the number of crops."""

from __future__ import annotations

import mmap

import pytest
from support.waiting import wait_for

from vadprep.cli.bench.extraction import bench_memory, peak_memory, write_loop
from vadprep.video import count_frames

MIB = 1 << 20


def test_the_peak_is_seen():
    with peak_memory() as peak, mmap.mmap(-1, 60 * MIB) as block:  # no memory freed before
        for page in range(0, 60 * MIB, mmap.PAGESIZE):
            block[page] = 1
        wait_for(lambda: peak[0] > 50 * MIB)  # a busy machine takes its time to look
    assert peak[0] < 120 * MIB


def test_a_loop_has_as_many_frames_as_asked_for(tmp_path):
    assert count_frames(write_loop(tmp_path / "a.mp4", 601)) == 601


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hours_take_no_more_than_two_minutes_do():
    uses = list(bench_memory((2, 120)))
    peaks = {(minutes, crops): peak for minutes, crops, *_, peak in uses}
    assert [num_frames for _, _, num_frames, *_ in uses] == [3000, 3000, 180_000, 180_000]
    for crops in (1, 10):
        assert peaks[120, crops] <= peaks[2, crops] + 100 * MIB, peaks
