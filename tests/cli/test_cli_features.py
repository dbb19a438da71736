"""Commands status, verify and merge as a user sees them."""

from __future__ import annotations

import json

from support.commands import run
from support.stored import failed_video, stored_video, write_folder

from vadprep.cli import text


def test_status_as_json_has_every_id(tmp_path):
    bad = [failed_video(f"bad {n}", "two\nlines") for n in range(25)]
    write_folder(tmp_path / "rgb", [stored_video("good"), *bad])
    (found,) = json.loads(run("status", tmp_path, "--json").output)
    assert (found["planned"], found["done"], len(found["failed"])) == (26, 1, 25)
    assert found["weights"] == "random:0" and found["missing"] == []


def test_tables_fit_a_terminal_of_80_columns_and_are_whole_in_a_pipe(tmp_path, monkeypatch):
    write_folder(tmp_path / "rgb", [stored_video("good")])
    piped = {name: run(*name.split()).output for name in (f"status {tmp_path}", "recipes")}
    assert all(max(map(len, each.splitlines())) > 80 for each in piped.values())
    monkeypatch.setattr(text, "shown_width", lambda: 80)
    for name, whole in piped.items():
        lines = run(*name.split()).output.splitlines()
        table = [line for line in lines if not line.startswith("fractions of 1: ")]
        assert max(map(len, table)) <= 80
        assert sorted(" ".join(lines).split()) == sorted(whole.split())
    for names in ("presets", "presets xd", "recipes rtfm"):
        found = run(*names.split()).output.splitlines()
        assert max(map(len, found)) <= 80


def test_stages_of_a_folder_without_events_are_said_to_be_none(tmp_path):
    write_folder(tmp_path / "rgb", [stored_video("good")])
    found = run("status", tmp_path, "--by-stage").output
    assert "rgb: no stage was timed" in found and "0 videos" not in found


def test_status_cuts_long_lists_and_keeps_each_reason_on_one_line(tmp_path):
    bad = [failed_video(f"bad {n}", "two\nlines") for n in range(25)]
    write_folder(tmp_path / "rgb", bad)
    result = run("status", tmp_path)
    assert result.exit_code == 1
    *listed, more = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert len(listed) == 20 and listed[0] == r"failed: bad 0: two\nlines"
    assert more == "failed: and 5 more (vadprep status --json has all)"
