"""Files of options, and options, that mean harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.attacks import FILES, is_plain, within

from vadprep.cli.main import main

NAMES = "abcdefghijklmnopqrst"
NINE = {name: ", ".join([f"*{name}"] * 9) for name in NAMES}
LEVELS = list(zip(NAMES[1:], NAMES, strict=False))
LAUGHS = "a: &a {x: 1}\n" + "".join(f"{a}: &{a} {{<<: [{NINE[b]}]}}\n" for a, b in LEVELS)
LISTS = "a: &a [x, x]\n" + "".join(f"{a}: &{a} [{NINE[b]}]\n" for a, b in LEVELS)

YAML: dict[str, str] = {
    "empty": "",
    "text": "hello",
    "controls": "crops: \x1b[31m",
    "controls in a key": '"\\e[31m": 1',
    "controls in a value": 'preset: "\\e]0;x\\a\\u202e"',
    "no option": "worker: 3",
    "code": "!!python/object/apply:os.system ['touch ran']",
    "a tag": "crops: !!python/name:os.system",
    "a billion laughs": LAUGHS,
    "lists of lists": LISTS,
    "deep lists": "crops: " + "[" * 20_000,
    "5000 digits": "crops: " + "9" * 5000,
    "infinity": "max-damage: .inf",
    "a number of years": "max-damage: 1:2:3:4:5:6:7:8:9:0",
    "itself": "crops: &a [*a]",
    "its own name": "config: run.yaml",
    "two documents": "crops: 1\n---\ncrops: 5",
    "a mapping": "crops: {a: {b: c}}",
    "fps of 10^999999": "fps: 1e999999",
    "a NUL": 'streams: "a\\0b"',
}


COMMANDS = {
    "extract": ("extract", "--videos", ".", "--dry-run"),
    "train": ("train", "ddl", "--manifest", "m.csv", "--features", "f", "--out", "r"),
}


def refused(path: Path, command: str = "extract") -> str:
    with within(10, 300 << 20):
        arguments = [*COMMANDS[command], "--config", str(path)]
        result = CliRunner().invoke(main, arguments, color=True)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exc_info
    assert is_plain(result.output) and "Error: " in result.output and len(result.output) < 6000
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", YAML)
def test_a_hostile_file_of_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(YAML[kind])
    refused(tmp_path / "run.yaml", command)
    assert [each.name for each in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_file_of_options(tmp_path: Path, kind: str) -> None:
    FILES[kind](tmp_path / "run.yaml")
    assert "run.yaml" in refused(tmp_path / "run.yaml")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["run.yaml", "none/run.yaml", "m.csv/run.yaml"])
def test_a_file_of_options_that_is_not_there(tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / "m.csv").touch()
    told = refused(tmp_path / name, command)
    assert f"{name}: not there: the commands extract and train write it" in told


@pytest.mark.parametrize("fps", ["1e999999", "1/" + "9" * 5000, "nan", "-1", "\x1b[31m", "2" * 99])
def test_a_frame_rate_that_cannot_be_used(tmp_path: Path, fps: str) -> None:
    with within(10, 300 << 20):
        arguments = ["extract", "--videos", str(tmp_path), "--weights", "random:0", f"--fps={fps}"]
        result = CliRunner().invoke(main, arguments, color=True)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exc_info
    assert is_plain(result.output)
