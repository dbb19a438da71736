"""What people read and submit: links exist, commands run, the sbatch files call the same CLI."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from support.commands import cheaply, run
from support.videos import write_video

from vadprep import heads
from vadprep.cli.main import main
from vadprep.data import datasets
from vadprep.training import schedule

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *(ROOT / each / "README.md" for each in ("manifests", "slurm")),
    *sorted((ROOT / "vadprep").rglob("README.md")),
]
NAMES = [str(path.parent.relative_to(ROOT)) for path in DOCUMENTS]

ONLY_PARSED = {
    r"^vadprep (demo|bench|benchmark)\b": "takes minutes, and has tests of its own",
    r"^vadprep weights (get|check|top5|convert|prompts)\b": "needs trained weights",
    r"--address": "needs a Ray cluster",
    r"--flow-from flow/": "needs images of another program, and has tests of its own",
    r"^vadprep live .*rtsp:": "needs a camera",
    r"^vadprep export-onnx\b": "takes half a minute, and has slow tests of its own",
}
"""What a test cannot run: pattern of the command -> the reason why it is only parsed."""

LABELS = """video_id,path,split,label,category,num_frames,fps,intervals
a,a.mp4,train,1,B1,64,25,
b,b.mp4,train,0,A,64,25,[]
c,c.mp4,test,1,B1,64,25,"[[16, 40]]"
d,d.mp4,test,0,A,64,25,[]
"""
"""The videos of every bundled data set, as the commands of the documents find it."""


def blocks_of(text: str, *languages: str) -> list[str]:
    """The code blocks of a document in one of ``languages``; a plain block has the language ""."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.S | re.M)
    return [textwrap.dedent(code) for language, code in blocks if language in languages]


def commands_of(text: str) -> list[str]:
    """Every ``vadprep`` command line in the code blocks of a document, comments cut off."""
    lines = "\n".join(blocks_of(text, "", "sh", "bash")).replace("\\\n", " ").splitlines()
    return [re.split(r"\s#", line)[0].strip() for line in lines if line.startswith("vadprep ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (document.parent / link).exists()]
    folders = [document.parent / link for link in local if link.endswith("/")]
    assert not [folder for folder in folders if not (folder / "README.md").exists()]


def own_labels() -> str:
    """The labels of one's own data in the README."""
    blocks = blocks_of((ROOT / "README.md").read_text(), "")
    return next(block for block in blocks if block.startswith("video_id,"))


@pytest.fixture(scope="module")
def readme_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos in which the commands of the README were run: features and runs."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "bundled").mkdir()
    for name in datasets.dataset_names():
        (folder / "bundled" / f"{name}.csv").write_text(LABELS)
    (folder / "bundled/splits").mkdir()
    (folder / "bundled/splits/ped2-00.csv").write_text("video_id,split\nc,train\nd,test\n")
    (folder / "mine.csv").write_text(own_labels())
    (folder / "clicks.csv").write_text("video-id,glance\na,20\n")
    own = [f"videos/{row['path']}" for row in csv.DictReader(own_labels().splitlines())]
    for name in [*own, *(f"{place}/{each}.mp4" for place in ("clips", "data") for each in "abcd")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, 170 if name in own else 64)
    run_all(ROOT / "README.md", folder)
    return folder


UNTRAINED = ("--weights", "random:0", "--workers", "1")
"""Options of ``extract``: a test has no trained weights, and works in its own process."""


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Commands run in ``folder``, on the data sets there, without networks and in few steps."""
    with pytest.MonkeyPatch.context() as patch, cheaply():
        patch.chdir(folder)
        patch.setattr(datasets, "_bundled_folder", lambda: folder / "bundled")
        few = {"epochs": 1, "steps_per_epoch": 1, "cosine_epochs": 1}
        patch.setattr(heads, "SMALL", {**heads.SMALL, **few})
        patch.setattr(schedule, "STEPS", (1,))
        yield


def run_all(document: Path, folder: Path) -> None:
    """Run the commands of a document in order. What a test cannot run is only parsed."""
    with in_folder(folder):
        for line in commands_of(document.read_text()):
            line = re.sub(r"/data/\w+", "data", line).replace("/scratch/", "features/")
            line = re.sub(r" --gpus \d+", "", line)  # the CPU does it, too
            _, *arguments = shlex.split(line)
            parse(arguments)
            if any(re.search(pattern, line) for pattern in ONLY_PARSED):
                continue
            result = run(*arguments, *(UNTRAINED if arguments[0] == "extract" else ()))
            assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=NAMES[1:])
def test_commands_run(document: Path, readme_done: Path, tmp_path: Path) -> None:
    """After those of the README, whose features and runs they may name."""
    trains = "vadprep train" in document.read_text()
    shutil.copytree(
        readme_done, tmp_path, dirs_exist_ok=True, ignore=lambda *_: ["runs"] if trains else []
    )
    run_all(document, tmp_path)


def test_the_walk_through_for_own_data_gives_results(readme_done: Path) -> None:
    run_folder = readme_done / "runs/ddl-mine"
    metrics = json.loads((run_folder / "metrics.json").read_text())["last"]
    assert metrics["undefined"] == {} and 0 <= metrics["frame_auc"] <= 1
    assert metrics["num_abnormal_frames"] == round(5.2 * 25) - 3 * 25
    scores = json.loads((run_folder / "scores/scores.json").read_text())
    (video,) = scores["videos"]
    assert (video["video_id"], video["intervals"]) == ("yard-07", [[75, 130]])
    assert scores["threshold"] == 0.6
    frames = (run_folder / "scores" / video["frames"]).read_text().splitlines()
    assert len(frames) == 1 + video["num_frames_scored"]
    assert (run_folder / "scores" / video["plot"]).is_file()


def parse(arguments: list[str]) -> None:
    """Check the names, types and numbers of the arguments of a command."""
    rest, command = list(arguments), main
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest.pop(0))
    command.make_context(command.name, rest)


def test_every_reason_to_only_parse_is_in_use() -> None:
    lines = [line for document in DOCUMENTS for line in commands_of(document.read_text())]
    assert len(lines) > 20
    assert all(any(re.search(each, line) for line in lines) for each in ONLY_PARSED)


def test_no_two_sections_extract_into_one_folder() -> None:
    """Who follows both would be refused: the settings differ."""
    folders: dict[str, str] = {}
    for document, name in zip(DOCUMENTS, NAMES, strict=True):
        for section in re.split(r"^## ", document.read_text(), flags=re.M):
            outs = set(re.findall(r"^vadprep extract .*--out (\S+)", section, re.M))
            for line in re.findall(r"^vadprep extract (.*)", section, re.M):
                if (
                    named := re.search(r"--(dataset|manifest) (\S+)", line)
                ) and "--out" not in line:
                    outs.add(f"features/{Path(named[2]).stem}")
            outs |= set(re.findall(r'vadprep\.extract\(\s*"[^"]*", "([^"]*)"', section))
            where = f"{name}: {section.splitlines()[0] if section else ''}"
            for out in outs:
                assert folders.setdefault(out, where) == where, out
    assert len(folders) > 4


# ----------------------------------------------------------------------- Python


def test_the_examples_in_python_run(
    readme_done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(readme_done, tmp_path, dirs_exist_ok=True, ignore=lambda *_: ["runs"])
    with_vadprep, with_h5py = blocks_of((ROOT / "README.md").read_text(), "python")
    names: dict[str, Any] = {}
    with in_folder(tmp_path):
        in_process = 'weights="random:0", workers=1)'  # else Ray, with the real network
        exec(re.sub(r'weights="random:0"\n\)', in_process, with_vadprep), names)
        video = names["video"]
        shape = video.rgb.shape
        assert shape[:2] == (len(video.spans), 5) and video.rgb.dtype == np.float16
        assert {*names["scores"]} == {str(tmp_path / "videos/yard/07.mp4")}
        assert 0 <= names["run"].mean()["frame_auc"] <= 1
        names["features"].close()  # HDF5 opens no file twice, with locks and without
        capsys.readouterr()
        exec(with_h5py)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4 and f"gate-01 {shape} {video.spans[-1]}" in shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_what_the_examples_in_python_import_exists(document: Path) -> None:
    for block in blocks_of(document.read_text(), "python"):
        for line in ast.parse(block).body if "import " in block else []:
            if isinstance(line, ast.Import | ast.ImportFrom):
                exec(ast.unparse(line))


def test_the_readme_has_the_two_lines_that_set_up() -> None:
    text = (ROOT / "README.md").read_text()
    assert "\n```\npip install -e '.[all]' && vadprep demo\n```\n" in text
    assert "\n```\npip install -e '.[all,test]' && pytest\n```\n" in text
    assert len(text.splitlines()) <= 200


def test_every_room_is_installed() -> None:
    rooms = {path.parent for path in (ROOT / "vadprep").rglob("__init__.py")}
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"^packages = \[\n(.*?)^\]", text, re.S | re.M)
    assert packages
    listed = re.findall(r'"(vadprep.*?)"', packages[1])
    names = {".".join(room.relative_to(ROOT).parts) for room in rooms}
    assert names == {each for each in listed if not each.startswith("vadprep.manifests")}


# ------------------------------------------------------------------------ SLURM


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


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGES.md"], ids=[*NAMES, "CHANGES"])
def test_lines_fit_100_columns(document: Path) -> None:
    """But for tables and code."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.S | re.M)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    assert len(lines) > 5 and not [line for line in lines if len(line) > 100]
