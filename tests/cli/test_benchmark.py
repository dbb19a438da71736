"""``vadprep benchmark``: all heads under one protocol, in one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import message, run
from support.runs import CAUTION, cheaply, write_manifest
from support.stopped import stopped_after
from support.stored import stored_video, write_folder

from vadprep.cli.benchmark import COLUMNS, PROTOCOL
from vadprep.core.errors import Stopped
from vadprep.heads import HEADS as HEAD_KINDS

HEADS = "sultani,ddl"
OPTIONS = ("--seeds", "0,1", "--heads", HEADS, "--page", "none")


@pytest.fixture
def cheap() -> Iterator[None]:
    """Heads sultani and ddl train for two epochs of few steps, without a network."""
    with cheaply(2) as patch:
        published = HEAD_KINDS["sultani"].published
        for name, config in published.items():
            patch.setitem(published, name, replace(config, epochs=2, steps_per_epoch=2))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of four training videos of each class, and of two test videos."""
    place = tmp_path_factory.mktemp("benchmark")
    rows: list[tuple[object, ...]] = [("c", "test", 0, "[]"), ("d", "test", 1, '"[[0, 32]]"')]
    rows += [(f"n{each}", "train", 0, "[]") for each in range(4)]
    rows += [(f"p{each}", "train", 1, "") for each in range(4)]
    write_manifest(place / "mine.csv", rows)
    write_folder(place / "f" / "rgb", [stored_video(str(name), num_clips=5) for name, *_ in rows])
    return place


def command(place: Path, out: Path, *options: str) -> tuple[object, ...]:
    named = ("--manifest", place / "mine.csv", "--features", place / "f", "--out", out)
    return ("benchmark", *named, *OPTIONS, *options)


def rows_of(out: Path) -> list[list[str]]:
    with (out / "benchmark.csv").open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.usefixtures("cheap")
def test_heads_stand_in_one_table_and_the_same_command_goes_on(place: Path, tmp_path: Path) -> None:
    first = run(*command(place, tmp_path))
    assert first.exit_code == 0 and CAUTION in first.output, first.output
    head, *rows = rows_of(tmp_path)
    assert head == list(COLUMNS)
    assert [row[0] for row in rows if row[0]] == HEADS.split(",")
    assert [row[1] for row in rows] == 2 * list(PROTOCOL.values())
    assert all(0 <= float(row[2]) <= 1 and float(row[3]) >= 0 for row in rows)
    metrics = json.loads((tmp_path / "ddl" / "metrics.json").read_text())["last"]
    assert head[4] == "frame_ap_trapezoid"
    assert rows[3][2::2][:2] == [f"{metrics[each]:.4f}" for each in (head[2], head[4])]
    marked = (tmp_path / "benchmark.md").read_text().splitlines()
    assert [line.strip("| ").split(" | ")[0] for line in marked[2:3]] == ["sultani"]
    again = run(*command(place, tmp_path))
    assert rows_of(tmp_path) == [head, *rows] and again.exit_code == 0


@pytest.mark.usefixtures("cheap")
def test_a_head_that_fails_is_named_and_the_others_are_there(place: Path, tmp_path: Path) -> None:
    (tmp_path / "sultani" / "seed-0").mkdir(parents=True)
    (tmp_path / "sultani" / "seed-0" / "config.json").write_text("{}")
    result = run(*command(place, tmp_path))
    assert result.exit_code == 1 and "no result: sultani" in result.output
    _, failed, *rows = rows_of(tmp_path)
    assert failed[0] == "sultani" and "holds another run" in failed[1]
    assert [row[0] for row in rows] == ["ddl", "", ""]


@pytest.mark.usefixtures("cheap")
def test_a_signal_stops_the_command_and_it_goes_on(place: Path, tmp_path: Path) -> None:
    with stopped_after(3):
        assert run(*command(place, tmp_path)).exit_code == Stopped.exit_code
    assert [each.name for each in tmp_path.iterdir()] == ["sultani"]
    assert run(*command(place, tmp_path)).exit_code == 0


def test_a_head_or_seed_that_does_not_exist_is_refused(place: Path, tmp_path: Path) -> None:
    wrong = run(*command(place, tmp_path, "--heads", "dll"))
    assert "--heads dll: allowed are all, " in message(wrong) and "mean 'ddl'?" in message(wrong)
    assert "--seeds 0,x: expected whole numbers" in message(
        run(*command(place, tmp_path, "--seeds", "0,x"))
    )
    assert not list(tmp_path.iterdir())


SLOW = ("--schedule", "small", "--heads", "sultani,arnet")


@pytest.mark.slow
def test_heads_are_trained_side_by_side_on_ray(place: Path, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        result = run(*command(place, tmp_path / workers, "--workers", workers, *SLOW))
        assert result.exit_code == 0, result.output
    assert rows_of(tmp_path / "1")[0] == rows_of(tmp_path / "2")[0]
    for one, other in zip(rows_of(tmp_path / "1")[1:], rows_of(tmp_path / "2")[1:], strict=True):
        assert one[:2] == other[:2]
        assert float(one[2]) == pytest.approx(float(other[2]), abs=1e-3)
