"""``vadprep train`` attacked: options, tables, features, and a state that it goes on from."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from support.attacks import FILES, is_plain, within
from support.feature_attacks import HDF5
from torch import Tensor

from vadprep.cli.main import main

NEW = ("train", "ddl", "--manifest", "m.csv", "--features", "f", "--out", "n")


pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("m.csv", "f"):
        (tmp_path / name).symlink_to(sound / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments: str, code: int = 2) -> str:
    """The one line with which it ends, within bounds; no traceback, no control characters."""
    with within(10, 300 << 20):
        result = CliRunner().invoke(main, list(arguments), color=True)
    assert isinstance(result.exception, SystemExit), (arguments, result.exc_info)
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert (result.exit_code, len(errors)) == (code, 1), (arguments, result.output)
    assert is_plain(result.output) and len(result.output) < 6000
    return errors[0]


def times(run: Path) -> dict[str, int]:
    """When each file was written; config.json and run.yaml note a new place of the manifest."""
    files = [each for each in run.iterdir() if each.name not in ("config.json", "run.yaml")]
    return {each.name: each.stat().st_mtime_ns for each in files}


VALUES = {
    "controls": "\x1b]0;x\x07", "turned": "\u202ex", "no UTF-8": "\udcff", "long": "x" * 100_000,
    "5000 digits": "9" * 5000, "infinity": "1e999999", "NaN": "NaN", "negative": "-1",
    "deep": "[" * 100_000, "an object": '{"a": {}}', "a list": "[1, 2]",
}  # fmt: skip
"""What an option may be given, by kind."""
OPTIONS = ("--seeds", "--validation", "--device", "--streams", "--schedule", "--split-file")


@pytest.mark.parametrize("kind", VALUES)
def test_an_option_that_cannot_be_used(place: Path, kind: str) -> None:
    value = VALUES[kind]
    attacks = [(*NEW, f"{name}={value}") for name in (*OPTIONS, "--no-such")]
    attacks += [(*NEW, "--set", f"{name}={value}") for name in ("width", "epochs", "sampling")]
    attacks += [(*NEW, "--set", value + "=1"), ("train", value, *NEW[2:])]
    for arguments in attacks:
        refused(*arguments)
    assert {each.name for each in place.iterdir()} == {"m.csv", "f"}


OUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{kind: (FILES[kind], "n") for kind in ("FIFO", "socket", "/dev/zero", "loop of links")},
    "a file": (Path.touch, "n"),
    "below a file": (Path.touch, "n/r"),
    "no UTF-8": (str, "\udcff"),
    "too long": (str, "x" * 999),
}


@pytest.mark.parametrize("kind", OUTS)
def test_an_output_folder_that_cannot_be_used(place: Path, kind: str) -> None:
    make, name = OUTS[kind]
    make(place / "n")
    with within(10, 300 << 20):
        result = CliRunner().invoke(main, [*NEW[:-1], name], color=True)
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (1, 2) and is_plain(result.output)
    assert result.output.splitlines()[-1].startswith("Error: "), result.output


def test_steps_that_leave_all_numbers(place: Path) -> None:
    """The last loss may be finite, and the network not after it."""
    line = refused(*NEW, "--set", f"learning_rate={2**62}", "--set", "epochs=1", code=1)
    assert "not finite" in line and "lower the learning rate" in line


def test_a_batch_beyond_all_memory(place: Path) -> None:
    line = refused("train", "rtfm", *NEW[2:], "--set", f"batch_size={10**12}", code=1)
    assert line == f"Error: batch_size = {10**12}: a batch does not fit into memory: lower it"
    assert not (place / "n").exists()


ALLOCATOR = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB"


@pytest.mark.parametrize("step", ["bags.TrainingBags._padded", "loop.train_step"])
@pytest.mark.parametrize("schedule", ["published", "small"])
def test_a_batch_that_memory_is_refused_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, step: str, schedule: str
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError(ALLOCATOR)

    monkeypatch.setattr(f"vadprep.training.{step}", refuse)
    line = refused(*NEW, "--schedule", schedule, "--set", "batch_size=6", code=1)
    assert line == "Error: batch_size = 6: a batch does not fit into memory: lower it"
    assert not (place / "n").exists()


@pytest.mark.parametrize(
    "kind",
    ["external link to a shard", "virtual", "soft link to itself", "4 TB of features", "NaN",
     "reversed spans", "spans past the end", "float64 features", "packed", "times of NaN"],
)  # fmt: skip
def test_features_that_mean_harm(place: Path, sound: Path, kind: str) -> None:
    (place / "f").unlink()
    shutil.copytree(sound / "f", place / "f")
    path = place / "f" / "rgb" / "shards" / "shard-00000.h5"
    os.mkfifo(path.with_name("fifo"))
    with h5py.File(path, "r+") as file:
        HDF5[kind](file)
    assert "shard-00000.h5" in refused(*NEW)
    assert not (place / "n").exists()


# ---------------------------------------------------------------- the state to go on from

Tensors = dict[str, Tensor]


def progress(text: str) -> Callable[[Tensors], bytes]:
    return lambda good: safetensors.torch.save(good, {"progress": text})


def tensors(change: Callable[[Tensors], Tensors], name: str = "") -> Callable[[Tensors], bytes]:
    """What ``change`` makes of the tensors whose names begin with ``name``; of all others too."""

    def make(good: Tensors) -> bytes:
        chosen = {key: each for key, each in good.items() if key.startswith(name)}
        others = {key: each for key, each in good.items() if key not in chosen}
        text = json.dumps({"epochs": 1, "steps": 1})
        return safetensors.torch.save({**others, **change(chosen)}, {"progress": text})

    return make


def each(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda found: {key: change(tensor) for key, tensor in found.items()}


def more(name: str) -> Callable[[Tensors], bytes]:
    return tensors(lambda found: {**found, name: torch.zeros(1)})


STATES: dict[str, Callable[[Tensors], bytes]] = {
    "no progress": safetensors.torch.save,
    "progress of text": progress("hello"),
    "progress of controls": progress('{"epochs": "\\u001b[31m", "steps": 0}'),
    "deep progress": progress("[" * 100_000),
    "a list": progress("[1]"),
    "negative": progress('{"epochs": -1, "steps": 0}'),
    "infinity": progress('{"epochs": 1e999, "steps": 0}'),
    "null": progress('{"epochs": null, "steps": 0}'),
    "more steps than there are": progress('{"epochs": 1, "steps": 9223372036854775807}'),
    "no network": tensors(lambda found: {}, "model."),
    "a network of NaN": tensors(each(lambda old: torch.full_like(old, torch.nan)), "model."),
    "a network of other shapes": tensors(each(lambda old: torch.zeros(7)), "model."),
    "more of a network": more("model.\x1b[31m"),
    "no random state": tensors(lambda found: {}, "random."),
    "a short random state": tensors(each(lambda old: old[:3]), "random."),
    "a random state of floats": tensors(each(lambda old: old.float()), "random."),
    "an impossible random state": tensors(each(torch.zeros_like), "random."),
    "an optimiser of no number": more("optimizer.x.step"),
    "an optimiser of one word": more("optimizer.0"),
    "9,000 tensors": tensors(lambda found: {str(n): torch.zeros(0) for n in range(9_000)}),
    "names of 2^62 bytes": lambda good: struct.pack("<Q", 2**62) + b"{}",
    "cut": lambda good: progress('{"epochs": 1, "steps": 1}')(good)[:-99],
}
"""Content of resume.safetensors, made of sound tensors, by kind."""


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_means_harm(place: Path, sound: Path, kind: str) -> None:
    shutil.copytree(sound / "r", place / "n")
    path = place / "n" / "resume.safetensors"
    path.write_bytes(STATES[kind](safetensors.torch.load_file(path)))
    before = times(place / "n")
    line = refused(*NEW, "--resume")
    assert "resume.safetensors" in line or "log.csv" in line
    assert times(place / "n") == before


CELLS = ("nan", "1e999999", "\x1b[31m", "9" * 5000, "=cmd()", "x" * 100_000, "\0")


@pytest.mark.parametrize("cell", range(len(CELLS)))
@pytest.mark.parametrize("name", ["log.csv", "snapshots.csv"])
def test_tables_of_other_cells_do_no_harm(place: Path, sound: Path, name: str, cell: int) -> None:
    """They are refused in a line, or written back as they are."""
    shutil.copytree(sound / "r", place / "n")
    state = place / "n" / "resume.safetensors"
    state.write_bytes(tensors(dict)(safetensors.torch.load_file(state)))
    columns = (place / "n" / name).read_text().splitlines()[0]
    cells = ",".join([CELLS[cell]] * len(columns.split(",")))
    (place / "n" / name).write_text(f"{columns}\n{cells}\n")
    with within(10, 300 << 20):
        result = CliRunner().invoke(main, [*NEW, "--resume"], color=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 2) and is_plain(result.output)
