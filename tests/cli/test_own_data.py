"""The walk-through of the README for videos of one's own, run line by line as it stands there."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from support.commands import run, without_network
from support.videos import write_video

README = Path(__file__).parents[2] / "README.md"


def walk_through() -> tuple[str, list[list[str]]]:
    """The labels and the commands of section 5."""
    text = README.read_text()
    section = text[text.index("**5. ") : text.index("**6. ")]
    labels, commands = re.findall(r"^```\n(.*?)^```", section, re.S | re.M)
    return labels, [shlex.split(line, comments=True)[1:] for line in commands.splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mine.csv and videos/ of seven seconds, in which one stands."""
    (tmp_path / "mine.csv").write_text(walk_through()[0])
    for number, row in enumerate(csv.DictReader(walk_through()[0].splitlines())):
        path = tmp_path / "videos" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, 170 + number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_walk_through_for_own_data_runs(place: Path) -> None:
    _, commands = walk_through()
    assert [each[0] for each in commands] == ["extract", "train", "eval", "score"]
    with without_network():
        for arguments in commands:
            untrained = ("--weights", "random:0", "--workers", "1")  # nothing can be fetched here
            result = run(*arguments, *(untrained if arguments[0] == "extract" else ()))
            assert result.exit_code == 0, result.output
    figures = json.loads((place / "runs/ddl-mine/metrics.json").read_text())["last"]
    assert figures["undefined"] == {} and 0 <= figures["frame_auc"] <= 1
    assert figures["num_abnormal_frames"] == round(5.2 * 25) - 3 * 25
    scores = json.loads((place / "runs/ddl-mine/scores/scores.json").read_text())
    (video,) = scores["videos"]
    assert video["video_id"] == str(place / "videos/yard/07.mp4") and scores["threshold"] == 0.6
    frames = (place / "runs/ddl-mine/scores" / video["frames"]).read_text().splitlines()
    assert len(frames) == 1 + video["num_frames_scored"]
    assert (place / "runs/ddl-mine/scores" / video["plot"]).is_file()
