"""``vadprep benchmark``: all heads under one protocol, in one table."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.commands import message, run
from support.runs import CAUTION, cheaply, write_manifest
from support.scored import data_of
from support.stored import stored_video, write_folder

from vadprep.cli.benchmark import COLUMNS, PROTOCOL, is_finished, named_heads, published_for, table
from vadprep.core.errors import Stopped
from vadprep.heads import HEADS as HEAD_KINDS
from vadprep.training import loop

HEADS = "sultani,ddl"
OPTIONS = ("--seeds", "0,1", "--heads", HEADS, "--page", "none")
ONE = ("--seeds", "0")


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
def test_heads_stand_in_one_table_and_the_same_command_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = (("ddl", "mine", "I3D", "0.9", "no report"),)
    monkeypatch.setattr("vadprep.cli.benchmark.RECIPES", figures)
    page = tmp_path / "page" / "index.html"
    first = run(*command(place, tmp_path, "--page", str(page.parent)))
    assert first.exit_code == 0 and CAUTION in first.output, first.output
    head, *rows = rows_of(tmp_path)
    assert head == list(COLUMNS)
    assert [row[0] for row in rows] == [name for name in HEADS.split(",") for _ in PROTOCOL]
    assert [row[1] for row in rows] == 2 * list(PROTOCOL.values())
    assert all(0 <= float(row[2]) <= 1 and float(row[3]) >= 0 for row in rows)
    record = json.loads((tmp_path / "ddl" / "seed-0" / "config.json").read_text())
    assert len(record["validation"]) == 2  # one of each class
    metrics = json.loads((tmp_path / "ddl" / "metrics.json").read_text())["last"]
    assert head[4] == "frame_ap_trapezoid"
    assert rows[3][2::2][:2] == [f"{metrics[each]:.4f}" for each in (head[2], head[4])]
    marked = (tmp_path / "benchmark.md").read_text().splitlines()
    assert [line.strip("| ").split(" | ")[0] for line in marked[2:3]] == ["sultani"]
    assert f"open {page}" in first.output and "| 0.9 (I3D) |" in marked[-1]
    shown = data_of(page)["runs"]
    assert [each["published"] for each in shown] == ["", "0.9 (I3D)"]
    words = [entry["words"].removesuffix(" (optimistic)") for entry in shown[1]["metrics"]]
    assert words == list(PROTOCOL.values())
    again = run(*command(place, tmp_path))
    assert rows_of(tmp_path) == [head, *rows] and again.exit_code == 0


@pytest.mark.usefixtures("cheap")
def test_a_head_that_fails_is_named_and_the_others_are_there(place: Path, tmp_path: Path) -> None:
    (tmp_path / "sultani" / "seed-0").mkdir(parents=True)
    (tmp_path / "sultani" / "seed-0" / "config.json").write_text("{}")
    result = run(*command(place, tmp_path))
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("no result of sultani: ") and "holds another run" in last
    _, failed, *rows = rows_of(tmp_path)
    assert failed == ["sultani", "failed", "", "", "", "", ""]
    assert [row[0] for row in rows] == ["ddl", "ddl", "ddl"]


@pytest.mark.usefixtures("cheap")
def test_heads_of_before_with_the_same_options_stay_in_the_table(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*command(place, tmp_path, *ONE)).exit_code == 0
    head, *rows = rows_of(tmp_path)
    steps, step = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *given: steps.append(given) or step(*given))
    again = run(*command(place, tmp_path, *ONE, "--heads", "ddl"))
    assert again.exit_code == 0 and not steps, again.output
    assert rows_of(tmp_path) == [head, *rows[3:], *rows[:3]]
    (tmp_path / "sultani" / "checkpoint-last.json").unlink()
    assert run(*command(place, tmp_path, *ONE, "--heads", "ddl")).exit_code == 0 and not steps
    assert rows_of(tmp_path) == [head, *rows[3:]]


def test_a_run_is_finished_when_all_seeds_that_are_asked_for_have_ended(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "checkpoint-last.json").touch()
    asked = ([0, 1], [1, 0], [0], [0, 1, 2])
    assert [is_finished(tmp_path, seeds) for seeds in asked] == [True, True, False, False]
    assert is_finished(tmp_path / "seed-0", [0]) and not is_finished(tmp_path / "none", [0])
    (tmp_path / "seed-1" / "checkpoint-last.json").unlink()
    assert not is_finished(tmp_path, [0, 1])


@pytest.mark.usefixtures("cheap")
def test_heads_of_before_with_other_options_are_named_and_left_out(
    place: Path, tmp_path: Path
) -> None:
    assert run(*command(place, tmp_path, *ONE, "--heads", "ddl")).exit_code == 0
    before = rows_of(tmp_path)
    other = ("--validation", "0")
    result = run(*command(place, tmp_path, "--heads", "ddl", *ONE, *other))
    assert result.exit_code == 1 and rows_of(tmp_path) == before  # no head has a result
    assert "tables in" not in result.output and "no result of ddl: " in result.output
    result = run(*command(place, tmp_path, "--heads", "sultani", *ONE, *other))
    assert result.exit_code == 0 and "ddl is left out of the table: " in result.output
    assert [row[0] for row in rows_of(tmp_path)] == ["head", *["sultani"] * 3]


@pytest.mark.usefixtures("cheap")
def test_a_signal_stops_the_command_and_it_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], loop.train_step

    def interrupted(*arguments: Any) -> Any:
        steps.append(arguments)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", interrupted)
    asked = command(place, tmp_path, "--seeds", "0")
    line = message(run(*asked), Stopped.exit_code)
    assert line == "stopped by SIGTERM; every full epoch is saved, run it again"
    assert [each.name for each in tmp_path.iterdir()] == ["sultani"]
    assert run(*asked).exit_code == 0
    done = len(steps)
    assert run(*asked).exit_code == 0 and len(steps) == done


class Measured:
    """A training whose metrics tell what is asked for."""

    def mean(self, choice: str) -> dict[str, float]:
        place = list(PROTOCOL).index(choice)
        return {"frame_auc": 0.1 + place, "frame_ap_trapezoid": 0.2 + place}

    def spread(self, choice: str) -> dict[str, float]:
        place = list(PROTOCOL).index(choice)
        return {"frame_auc": 0.3 + place, "frame_ap_trapezoid": 0.4 + place}


def test_each_row_has_the_metrics_of_its_epoch() -> None:
    assert list(table({"ddl": Measured(), "rtfm": "no"}, {"ddl": "0.9", "rtfm": "0.8"})) == [
        ["ddl", "last step", 0.1, 0.3, 0.2, 0.4, ""],
        ["ddl", "best on validation", 1.1, 1.3, 1.2, 1.4, ""],
        ["ddl", "best on test", 2.1, 2.3, 2.2, 2.4, "0.9"],
        ["rtfm", "failed", None, None, None, None, "0.8"],
    ]


@pytest.mark.parametrize(
    "head, dataset, streams, published",
    [
        ("ddl", "ucf", "rgb", "0.8512 (I3D RGB)"),
        ("ddl", "xd", "rgb", "0.8072 (I3D RGB)"),
        ("ddl", "mine", "rgb", ""),
        ("arnet", "shanghaitech", "rgb", "0.8538 (I3D RGB)"),
        ("arnet", "shanghaitech", "concat", "0.9124 (I3D RGB + flow); 0.8538 (I3D RGB)"),
    ],
)
def test_published_figures_are_those_of_the_head_and_the_data_set(
    head: str, dataset: str, streams: str, published: str
) -> None:
    assert published_for(head, dataset, streams) == published


def test_all_heads_are_all(place: Path, tmp_path: Path) -> None:
    assert named_heads("all") == list(HEAD_KINDS)
    nothing = run(*command(place, tmp_path, "--features", str(tmp_path / "none")))
    assert "no features here" in message(nothing) and not list(tmp_path.iterdir())


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
