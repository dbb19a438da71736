"""The commands of bench: both sides of a comparison in one run, and their ratio."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import run, without_network
from support.videos import write_video

from vadprep.cli.bench import extraction
from vadprep.cli.bench.backbone import bench_backbone
from vadprep.cli.bench.extraction import bench_workers


def table(*command: object) -> list[list[str]]:
    result = run("bench", *command)
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.output.splitlines()]


def test_forms_of_one_network_are_compared_on_one_input() -> None:
    plain, folded = bench_backbone("inception_i3d", "cpu", ["fp32"], threads=1, rounds=1)
    assert plain == ("plain fp32", plain[1], 1.0, 0.0)
    form, seconds, _, relative_error = folded
    assert form == "folded fp32" and 0 < relative_error < 1e-3 and seconds > 0


def test_one_worker_is_measured(tmp_path: Path) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", 40)
    with without_network():
        ((*counts, seconds, starting),) = bench_workers(tmp_path, ["rgb"], repeat=2, workers=1)
    assert counts == ["rgb", 1, 8] and seconds > 0 and starting >= 0


def test_the_ratio_is_that_of_the_clips_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [("rgb", 1, 100, 50.0, 1.0), ("rgb", 2, 100, 25.0, 7.0)]
    monkeypatch.setattr(extraction, "bench_workers", lambda *_: iter(runs))
    rows = table("workers", tmp_path)
    assert [row[-2:] for row in rows[:3]] == [
        ["clips/s", "ratio"],
        ["2.00", "1.00"],
        ["4.00", "2.00"],
    ]


@pytest.mark.slow
def test_plans_are_measured_side_by_side() -> None:
    head, *rows = table("plan", "--videos", "1000")
    assert head == ["videos", "10,000", "1,000", "ratio"] and len(rows) == 8
    assert all(float(few) > 0 and float(many) > 0 for *_, few, many, _ in rows)


def test_memory_is_measured_with_one_crop_and_with_ten() -> None:
    _, *rows = table("memory", "--minutes", "0.1")
    assert [row[:3] for row in rows] == [["0.1", "1", "150"], ["0.1", "10", "150"]]


def test_shards_are_read_beside_npy_files() -> None:
    head, *rows, opening = table("loader", "--videos", "3", "--shards", "2")
    assert head[-2:] == ["video", "speed"] and len(rows) == 4
    assert all(float(number) >= 0 for row in rows for number in row[-3:])
    assert opening[:6] == ["opening", "2", "shards", "of", "128", "videos:"]
