"""The commands of bench: both sides of a comparison in one run, and their ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.commands import run, without_network
from support.standin import StandIn, standin_flow
from support.videos import write_video

from vadprep.backbones import engine_of
from vadprep.cli.bench import extraction, overheads, train as bench_train
from vadprep.cli.bench.backbone import bench_backbone
from vadprep.cli.bench.extraction import bench_workers
from vadprep.extraction.extractor import fixed_threads
from vadprep.heads import HeadConfig
from vadprep.heads.ddl import DDLConfig
from vadprep.heads.rtfm import RTFMConfig
from vadprep.training.bags import TrainingBags


def table(*command: object) -> list[list[str]]:
    result = run("bench", *command)
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.output.splitlines()]


def test_forms_of_one_network_are_compared_on_one_input() -> None:
    plain, ours = bench_backbone("inception_i3d", "cpu", ["fp32"], threads=1, rounds=1)
    assert plain == ("plain fp32", plain[1], 1.0, 0.0)
    form, seconds, _, relative_error = ours
    assert form == f"{engine_of('cpu')} fp32" and 0 < relative_error < 1e-3 and seconds > 0


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


def test_networks_and_flow_are_measured_inside_an_extraction_and_alone(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 40)
    with without_network() as patch:
        patch.setattr(overheads, "Backbone", lambda *settings: StandIn())
        patch.setattr(overheads, "tvl1_method", lambda text: standin_flow)
        found = overheads.bench_overheads(tmp_path, ["rgb", "flow"], repeat=1)
        patch.setattr(overheads, "IMPORTS", "pass")
        start = list(overheads.bench_start(["rgb"], workers=1))
    assert found.clips == 2 and found.share > 0
    assert 0 < found.network < found.whole and 0 < found.flow < found.whole
    assert [name.split(",")[0] for name, *_ in start] == [
        "imports",
        "settings and weights",
        *["networks and a batch"] * 2,
        "loops of numba",
    ]
    assert all(used >= 0 and seconds > 0 for _, used, seconds in start)


@pytest.mark.slow
def test_an_extraction_on_ray_is_measured_in_its_workers(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 160)
    head, *rows = table("extract", tmp_path, "--streams", "rgb", "--workers", "2")[-4:-1]
    assert head[-1] == "besides"
    for row, workers in zip(rows, "12", strict=True):
        assert row[:3] == ["rgb", workers, "20"]
        whole, network, flow, share, ray = map(float, row[3:])
        assert 0 < network < whole and flow == 0 and 0.2 < share < 1
        assert (ray > 0) == (workers == "2")


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


def short_videos() -> dict[str, bench_train.RandomVideo]:
    random = np.random.default_rng(0)
    lengths = {"a": 9, "b": 30, "c": 12, "d": 7}
    blocks = {each: random.normal(size=(n, 5, 8)).astype(np.float16) for each, n in lengths.items()}
    return {each: bench_train.RandomVideo(each, block) for each, block in blocks.items()}


LABELS = {"a": 1, "b": 0, "c": 1, "d": 0}


@pytest.mark.parametrize("name", ["csltal", "ddl"])
def test_a_step_is_measured_beside_that_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    with fixed_threads(1):
        found = bench_train.time_head(name, short_videos(), LABELS, tmp_path, "cpu", steps=1)
    assert 0 < found.arithmetic <= 1 and min(found.step, found.plain_step) > 0
    assert found.steps > 0 and min(found.scoring, found.plain_scoring) > 0


@pytest.mark.parametrize(
    "config, shape",
    [(DDLConfig(batch_size=20), (20, 1, 30, 8)), (RTFMConfig(batch_size=4), (4, 5, 32, 8))],
)
def test_the_plain_loop_and_ours_make_the_same_bags(
    config: HeadConfig, shape: tuple[int, ...], tmp_path: Path
) -> None:
    features = short_videos()
    ours = next(TrainingBags(features, LABELS, ("rgb",), config).batches(0, 0))  # type: ignore[arg-type]
    files = bench_train.write_npy(features, tmp_path, config)
    plain = next(bench_train.plain_batches(files, LABELS, config))
    assert ours.snippets.shape == plain.snippets.shape == shape
    bags = [sorted(each.snippets.float().sum(dim=(1, 2, 3)).tolist()) for each in (ours, plain)]
    assert bags[0] == pytest.approx(bags[1], rel=1e-4, abs=1e-3)


@pytest.mark.slow
def test_a_live_source_is_measured() -> None:
    _, counts = table("live", "--seconds", "5")
    clips, median, longest, dropped = map(float, counts)
    assert clips + dropped == 6 and 0 < median <= longest  # of 7; the first does not count
