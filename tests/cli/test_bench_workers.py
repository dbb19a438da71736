"""The measurement of one worker against several."""

from __future__ import annotations

from support.commands import without_network
from support.videos import write_video

from vadprep.cli.bench.workers import WorkersRun, bench_workers, rows


def test_one_worker_is_measured_and_compared_with_itself(tmp_path):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", 40)
    with without_network():
        (run,) = bench_workers(tmp_path, ["rgb"], repeat=2, workers=1)
    assert (run.workers, run.clips) == (1, 8) and run.seconds > 0 and run.starting >= 0


def test_the_ratio_is_that_of_the_clips_a_second():
    runs = [WorkersRun("rgb", 1, 100, 50.0, 1.0), WorkersRun("rgb", 2, 100, 25.0, 7.0)]
    assert [row[-2:] for row in rows(runs)] == [
        ("clips/s", "ratio"),
        ("2.00", "1.00"),
        ("4.00", "2.00"),
    ]
