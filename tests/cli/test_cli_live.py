"""``vadprep live``: records as lines of JSON, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import run, without_network
from support.runs import CAUTION

import vadprep
from vadprep.core.child import INSTALLED_ONLY
from vadprep.core.errors import SettingError


def test_scores_of_a_file_are_those_of_score(place: Path, tmp_path: Path) -> None:
    """With a stand-in for the network. Head ddl looks at its whole window: the last ones agree."""
    video = place / "videos" / "d.mp4"
    with without_network():
        result = run("live", place / "r", video, "--threshold", "0.01,0", "--out", tmp_path / "o")
        assert result.exit_code == 0, result.output
        assert result.output == f"{place / 'r'}: {CAUTION}\n"  # to the error stream
        offline = vadprep.score(place / "r", video, out=tmp_path / "f")
    records = [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]
    scores = [each for each in records if each["kind"] == "score"]
    expected = next(iter(offline.values()))
    assert [each["frames"] for each in scores] == expected.spans.tolist()
    assert abs(scores[-1]["score"] - expected.snippets[-1]) <= 1e-6
    assert [each["state"] for each in records if each["kind"] == "alarm"] == ["on", "off"]
    assert records[-1]["state"] == "ended"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--threshold", "high"], "expected a number or ON,OFF"),
        (["--threshold", "0.4,0.6"], "0 <= OFF <= ON <= 1"),
        (["--host", "0.0.0.0"], "name its port, too"),
        (["--speed", "0"], "0.0 is not in the range x>0"),
        (["--window", "0"], "window = 0: expected 1 snippet or more"),
        (["--stall-seconds", "-1"], "-1.0 is not in the range x>0"),
    ],
)
def test_wrong_options_are_refused(place: Path, options: list[str], words: str) -> None:
    result = run("live", place / "r", place / "videos" / "d.mp4", *options)
    assert result.exit_code == 2 and words in result.output


def test_a_full_disk_is_one_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "o").symlink_to("/dev/full")
    with without_network():
        result = run("live", place / "r", place / "videos" / "d.mp4", "--out", tmp_path / "o")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"cannot write {tmp_path / 'o'}: No space left on device" in result.output


@pytest.mark.parametrize("name", ["speed", "stall_seconds"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_wrong_numbers_are_refused_in_python(place: Path, name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{name} = .*: expected a number above 0"):
        vadprep.live(place / "r", [place / "videos" / "d.mp4"], **{name: value})


PROGRAM = """
import sys
sys.path.append({tests!r})
from support import live
import vadprep.online
vadprep.online.live = lambda run, sources, *, threshold, **options: live.start(
    live.make_checkpoint(), sources, vadprep.online.alarms.AlarmRule(*threshold), speed=1)
vadprep.live = vadprep.online.live
from vadprep.cli.main import main
main()
"""


@pytest.mark.slow
def test_sigterm_ends_it_with_the_last_records_written(tmp_path: Path) -> None:
    """An alarm that is on is closed, too; no process is left."""
    from support.videos import write_video

    video = write_video(tmp_path / "a.mp4", 500)
    program = INSTALLED_ONLY + PROGRAM.format(tests=str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", program, "live", str(tmp_path), str(video)]
    process = subprocess.Popen(
        [*command, "--threshold", "0"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    rest, _ = process.communicate(timeout=30)
    assert time.monotonic() - begin < 5 and process.returncode == 75
    records = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert [each["kind"] for each in records[:3]] == ["score", "alarm", "score"]
    assert (records[-1]["kind"], records[-1]["state"]) == ("alarm", "off")
    children = [
        pid for pid in os.listdir("/proc") if pid.isdigit() and str(video) in _command_line(pid)
    ]
    assert not children


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return ""
