"""What people read and submit: links exist, commands parse, the sbatch file calls the same CLI."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from support.stored import failed_video, features_of, stored_video, write_folder

from vadprep.cli.main import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / each / "README.md" for each in ("", "manifests", "slurm")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_relative_links_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert all((document.parent / link).exists() for link in local), local


def readme_commands() -> list[str]:
    """Every ``vadprep`` command line in a code block of a document, comments cut off."""
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    lines = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.S | re.M)).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("vadprep ")]


@pytest.mark.parametrize("line", readme_commands())
def test_commands_of_the_readme_are_understood(line: str) -> None:
    """Names, types and numbers of arguments are checked; nothing is run."""
    arguments, command = shlex.split(line)[1:], main
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    command.make_context(command.name, arguments)


def test_the_examples_in_python_read_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_loader, with_h5py = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M
    )
    video_id = re.search(r'features\["(.*?)"\]', with_loader)
    assert video_id
    video = stored_video(video_id[1], num_clips=3)
    write_folder(tmp_path / "features/xd/rgb", [video, failed_video("gone", "no such file")])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(with_loader, names)
    np.testing.assert_array_equal(names["video"].rgb, features_of(video))
    np.testing.assert_array_equal(names["video"].spans, video.spans)
    names["features"].close()  # HDF5 opens no file twice, with locks and without
    exec(with_h5py)
    shown = f"{video.video_id} {features_of(video).shape} {video.spans[-1]}"
    assert capsys.readouterr().out == f"{shown}\n"


def test_the_readme_has_the_two_lines_that_set_up() -> None:
    text = (ROOT / "README.md").read_text()
    assert "\npip install -e '.[all]' && vadprep demo\n" in text
    assert "\npip install -e '.[all,test]' && pytest\n" in text


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder with a ``vadprep`` that prints its arguments, a line each."""
    command = tmp_path / "vadprep"
    command.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("script", "given", "handed_on"),
    [
        (
            "extract_array",
            ["8", "--dataset", "xd", "--root", "a b"],
            "extract --rank 3 --world-size 8 --dataset xd --root".split() + ["a b"],
        ),
        ("train", ["ddl", "--out", "a b"], ["train", "ddl", "--out", "a b", "--resume"]),
    ],
)
def test_an_sbatch_file_hands_its_arguments_to_the_command(fake, script, given, handed_on):
    done = subprocess.run(
        ["bash", str(ROOT / "slurm" / f"{script}.sbatch"), *given],
        env={"PATH": f"{fake}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == handed_on


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda p: p.stem)
def test_an_sbatch_file_is_sound_and_is_told_of_its_end(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text().splitlines()
    assert "#SBATCH --signal=B:USR1@120" in lines
    assert f"({path.name})" in (ROOT / "slurm" / "README.md").read_text()
