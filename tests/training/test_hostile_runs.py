"""Run folders that mean harm: each file of one is damaged in turn, and a command reads it."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.attacks import FILES, JSON, WRONG_TYPES, is_plain, within

from vadprep.cli.main import main
from vadprep.core.errors import CheckpointError, SpecError, printable
from vadprep.core.presets import resolve
from vadprep.core.spec import Spec
from vadprep.training.loop import read_rows, write_rows

ROWS = [("a", "train", 0, "[]"), ("b", "train", 1, '"[[16, 32]]"'), ("c", "test", 0, "[]"),
        ("d", "test", 1, '"[[0, 16]]"')]  # fmt: skip


pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, whose run is called ``r\\x1b[31m``."""
    shutil.copytree(sound / "r", tmp_path / "r\x1b[31m")
    for name in ("m.csv", "f"):
        (tmp_path / name).symlink_to(sound / name)
    return tmp_path / "r\x1b[31m"


def commands(run: Path) -> dict[str, tuple[str, ...]]:
    named = ("--manifest", "m.csv", "--features", "f")
    return {
        "eval": ("eval", run.name),
        "score": ("score", run.name, "--features", "f", "--no-plots"),
        "train": ("train", "ddl", *named, "--out", run.name, "--resume"),
    }


READS = {
    "config.json": "eval",
    "metrics.json": "eval",
    "checkpoint-last.json": "score",
    "checkpoint-last.safetensors": "score",
    "log.csv": "train",
    "snapshots.csv": "train",
    "resume.safetensors": "train",
}
"""File of a run -> the command that has to read it."""

Change = Callable[[Path], object]


def call(run: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and output, within bounds; no traceback, no control characters."""
    monkeypatch.chdir(run.parent)
    with within(10, 300 << 20):
        result = CliRunner().invoke(main, commands(run)[command], color=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert is_plain(result.output)
    return result.exit_code, result.output


def times(run: Path) -> dict[str, int]:
    """When each file was written; config.json and run.yaml note a new place of the manifest."""
    names = [e.name for e in run.iterdir() if e.name not in ("config.json", "run.yaml")]
    return {name: os.lstat(run / name).st_mtime_ns for name in names}


def refused(run: Path, name: str, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that reads the file says in one line that it is damaged, and alters nothing."""
    path = run / name
    path.unlink()
    change(path)
    before = times(run)
    code, output = call(run, READS[name], monkeypatch)
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(errors) == 1, output
    assert printable(run.name) in errors[0]
    assert times(run) == before


def test_the_sound_run_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands(place):
        assert call(place, command, monkeypatch)[0] == 0


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", READS)
def test_what_is_no_file(
    place: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(place, name, FILES[kind], monkeypatch)


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", [name for name in READS if name.endswith(".json")])
def test_what_is_no_json(
    place: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(place, name, lambda path: path.write_bytes(JSON[kind]), monkeypatch)


FIELDS = {
    "config.json": (("source",), ("missing",), ("threads",)),
    "checkpoint-best-on-test.json": (("metrics",), ("metrics", "protocols")),
    "metrics.json": (("last",), ("last", "protocols"), ("last", "coverage")),
    "checkpoint-last.json": (
        ("format",), ("version",), ("head",), ("config",), ("config", "width"), ("dim",),
        ("streams",), ("specs",), ("specs", "rgb"), ("specs", "rgb", "spec"),
        ("specs", "rgb", "spec", "fps"), ("specs", "rgb", "spec", "weights"), ("seed",),
        ("control",), ("tensors_sha256",),
    ),
}  # fmt: skip
"""Places in a JSON file of a run, by file."""


@pytest.mark.parametrize("kind", WRONG_TYPES)
@pytest.mark.parametrize(
    ("name", "keys"), [(name, keys) for name, places in FIELDS.items() for keys in places]
)
def test_a_field_of_a_wrong_type(
    place: Path, name: str, keys: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused in a line, or did not matter."""
    path = place / name
    record: dict[str, Any] = json.loads(path.read_text())
    entry = record
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = copy.deepcopy(WRONG_TYPES[kind])
    path.write_text(json.dumps(record))
    command = "train" if keys == ("threads",) or "best" in name else READS[name]
    code, output = call(place, command, monkeypatch)
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert (code, len(errors)) in ((0, 0), (2, 1)), output


TABLES = {
    "random": bytes(range(256)) * 9,
    "NUL": b"epoch,step\n0,\0\n",
    "an open quote": b'epoch,step\n"0,0\n' * 9,
    "no row": b"epoch,step\n",
    "empty": b"",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("name", ["log.csv", "snapshots.csv"])
def test_what_is_no_table(
    place: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(place, name, lambda path: path.write_bytes(TABLES[kind]), monkeypatch)


def test_rows_of_other_columns_are_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch\n0\n1\n")
    rows = read_rows(tmp_path / "log.csv", 2)
    with pytest.raises(CheckpointError, match="log.csv: not the columns of this training"):
        write_rows(tmp_path / "log.csv", [*rows, {"epoch": 2, "total": 0.5}])


RATES = {
    "10^999999": "1e999999", "a fraction of 5000 digits": f"1/{'9' * 5000}", "0": "0", "1/0": "1/0",
    "negative": "-25", "infinity": "inf", "NaN": "nan", "large": "1e9", "blank": "",
    "controls": "\x1b[31m", "underlines": "2_5", "Arabic digits": "\u0662\u0665",
}  # fmt: skip


@pytest.mark.parametrize("kind", RATES)
def test_a_frame_rate_is_a_number_that_can_be_used(kind: str) -> None:
    record = json.loads(resolve("i3d", "cpu", ("random:0", "0" * 64), {}).to_json())
    with within(), pytest.raises(SpecError) as caught:
        Spec.from_json(json.dumps(record | {"fps": RATES[kind]}), "spec.json")
    assert str(caught.value).startswith("spec.json: ") and str(caught.value).isprintable()


@pytest.mark.parametrize("fps", ["native", "25", "24.5", "30000/1001", "15/4"])
def test_frame_rates_that_are_in_use(fps: str) -> None:
    record = json.loads(resolve("i3d", "cpu", ("random:0", "0" * 64), {}).to_json())
    assert Spec.from_json(json.dumps(record | {"fps": fps}), "spec.json").fps == fps
