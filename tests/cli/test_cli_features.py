"""Commands status, verify and merge as a user sees them."""

from __future__ import annotations

import json

from support.commands import run
from support.stored import failed_video, stored_video, write_folder


def test_status_as_json_has_every_id(tmp_path):
    bad = [failed_video(f"bad {n}", "two\nlines") for n in range(25)]
    write_folder(tmp_path / "rgb", [stored_video("good"), *bad])
    (found,) = json.loads(run("status", tmp_path, "--json").output)
    assert (found["planned"], found["done"], len(found["failed"])) == (26, 1, 25)
    assert found["weights"] == "random:0" and found["missing"] == []


def test_status_cuts_long_lists_and_keeps_each_reason_on_one_line(tmp_path):
    bad = [failed_video(f"bad {n}", "two\nlines") for n in range(25)]
    write_folder(tmp_path / "rgb", bad)
    result = run("status", tmp_path)
    assert result.exit_code == 1
    *listed, more = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert len(listed) == 20 and listed[0] == r"failed: bad 0: two\nlines"
    assert more == "failed: and 5 more (vadprep status --json has all)"
