"""Each command that writes is killed amid its files, as a real process, and run again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.commands import run
from support.killed import before_sync
from support.runs import write_manifest
from support.stored import stored_video, write_folder

from vadprep.backbones import load_weights
from vadprep.backbones.weights.names import NAMINGS
from vadprep.core import atomic

SCRIPT = Path(__file__).parents[1] / "support" / "killed.py"
NAMED = ("--manifest", "m.csv")
TRAIN = ("train", "ddl", *NAMED, "--features", "f", "--set", "width=16", "--set", "epochs=2")
COMMANDS: dict[str, tuple[str, ...]] = {
    "score": ("score", "r", "--features", "f", "--page", "none", "--out", "out"),
    "export": ("export", "f", *NAMED, "--layout", "rtfm", "--out", "out"),
    "import": ("import", "tree", *NAMED, "--layout", "rtfm", "--out", "out"),
    "gt": ("gt", "build", *NAMED, "--rule", "spans", "--features", "f", "--out", "out/gt.npy"),
    "weights convert": ("weights", "convert", "w.pt", "--out", "out/w.safetensors"),
    "merge": ("merge", "f", "--shard-size", "1", "--out", "out"),
    "report": ("report", "r", "--out", "out"),
    "train": (*TRAIN, "--resume", "--out", "out"),
}
OF_A_MOMENT = ("manifest-", "events", "run.yaml")
"""What the names of files begin with that hold times or process numbers."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A manifest m.csv, features f, a run r, exported features, and a file of weights; the current
    folder of the tests."""
    place = tmp_path_factory.mktemp("place")
    write_manifest(place / "m.csv")
    write_folder(place / "f" / "rgb", [stored_video(each, num_clips=4) for each in "abcd"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*TRAIN, "--out", "r").exit_code == 0
        assert run("export", "f", *NAMED, "--layout", "rtfm", "--out", "tree").exit_code == 0
        name_of = next(iter(NAMINGS["s3d"].values()))
        state = load_weights("random:0", "s3d").state
        torch.save({name_of(name): tensor for name, tensor in state.items()}, place / "w.pt")
        yield place


def content(folder: Path) -> dict[str, bytes]:
    """Files by name, but for those that differ from run to run."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    return {
        str(each.relative_to(folder)): each.read_bytes()
        for each in files
        if not each.name.startswith(OF_A_MOMENT)
    }


def left(folder: Path) -> list[str]:
    """Temporary files and leases in a folder."""
    return [each.name for each in folder.rglob("*") if ".tmp-" in each.name or "lease" in each.name]


def finish(name: str) -> dict[str, bytes]:
    """What ``out`` holds when the command has been run to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_cleared", set())  # as in a process of its own
        result = run(*COMMANDS[name])
    assert result.exit_code == 0, result.output
    assert left(Path("out")) == []
    return content(Path("out"))


def start(name: str, how: str, number: int) -> subprocess.Popen[bytes]:
    """A process of the command that is interrupted when it writes its file ``number``."""
    Path("out").mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), how, str(number), *COMMANDS[name]]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def whole(name: str) -> tuple[dict[str, bytes], int]:
    """What an undisturbed run of a command makes in ``out``, and how many files it syncs."""
    numbers: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fsync)
        before_sync(lambda number, _: numbers.append(number))
        Path("out").mkdir()
        return finish(name), len(numbers)


@pytest.fixture(autouse=True)
def cleared(place: Path) -> Iterator[None]:
    yield
    shutil.rmtree("out")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_is_made_whole_by_the_next(name: str) -> None:
    """It has the bytes of an undisturbed one, and what the kill left is gone."""
    sound, count = whole(name)
    for number in sorted({count} if name in ("score", "train") else {1, count}):
        shutil.rmtree("out")
        assert start(name, "KILL", number).wait(60) == -signal.SIGKILL
        assert left(Path("out"))
        assert finish(name) == sound


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_two_at_once_in_one_folder_never_mix(name: str) -> None:
    """While one stands amid its first file, another runs; both end whole."""
    sound, _ = whole(name)
    shutil.rmtree("out")
    first = start(name, "STOP", 1)
    try:
        os.waitpid(first.pid, os.WUNTRACED)
        (waiting,) = left(Path("out"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "_cleared", set())
            second = run(*COMMANDS[name])
        assert waiting in left(Path("out"))
        os.kill(first.pid, signal.SIGCONT)
        assert (first.wait(60), second.exit_code) == (0, 0), second.output
    finally:
        first.kill()
        first.wait()
    assert left(Path("out")) == [] and content(Path("out")) == sound
