"""A command whose output is closed or full does its work, and its exit code says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.stored import failed_video, stored_video, write_folder

from vadprep.features import open_features

CLI = [sys.executable, "-c", "from vadprep.cli.main import main; main()"]


def run_with(output: str, *arguments: object) -> int:
    """Exit code of a command with stdout and stderr ``closed``, ``full``, or a pipe without
    a reader."""
    command = [*CLI, *map(str, arguments)]
    if output == "closed":
        shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
        return subprocess.run(shell).returncode
    if output == "full":
        with open("/dev/full", "w") as full:
            return subprocess.run(command, stdout=full, stderr=full).returncode
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command, stdout=writer, stderr=writer).returncode
    finally:
        os.close(writer)


OUTPUTS = ("closed", "full", "a pipe without a reader")


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_work_is_done_and_committed(tmp_path: Path, output: str) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name / "rgb", [stored_video(name, num_clips=3)])
    out = tmp_path / "out"
    assert run_with(output, "merge", tmp_path / "a", tmp_path / "b", "--out", out) == 0
    assert list(open_features(out)) == ["a", "b"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_exit_code_says_what_happened(tmp_path: Path, output: str) -> None:
    write_folder(tmp_path / "f" / "rgb", [stored_video("a", num_clips=3), failed_video("b", "no")])
    assert run_with(output, "status", tmp_path / "f") == 1
    assert run_with(output, "verify", tmp_path / "f") == 0
    assert run_with(output, "status", tmp_path / "none") == 2
