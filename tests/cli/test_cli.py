"""The command line: what it prints, its exit codes, and that it is only a shell of the library."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.commands import CHEAP, extract, message, run, without_network
from support.standin import StandIn
from support.stored import failed_video, stored_video, write_folder
from support.videos import write_video

from vadprep.cli import main as cli
from vadprep.cli import progress
from vadprep.cli import text as tables
from vadprep.core.presets import PRESETS
from vadprep.core.records import Report
from vadprep.extraction.api import extract as extract_api
from vadprep.extraction.run import Progress
from vadprep.features.reader import open_features


@pytest.fixture(autouse=True)
def patch():
    with without_network() as patch:
        yield patch


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with one video of 20 frames."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 20)
    return folder


def commands(group: click.Group, path: tuple[str, ...] = ()):
    """Every command and group below ``group`` as a path of names."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(cli.main)), ids=" ".join)
def test_every_command_has_help(path):
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert re.search(r"\n\n  [A-Z][^.]*\.", result.output), "no sentence says what it does"


def test_the_list_of_commands_cuts_no_sentence():
    for group in ((), ("bench",), ("datasets",), ("gt",), ("weights",)):
        # What is left of a terminal of 80 columns; the runner takes two more.
        shown = CliRunner().invoke(cli.main, [*group, "--help"], terminal_width=78)
        assert "..." not in shown.output.split("Commands:")[1]


def test_help_lists_the_options_as_declared():
    names = re.findall(r"^  (--[\w-]+)", run("extract", "--help").output, re.MULTILINE)
    expected = ["--dataset", "--manifest", "--split-file", "--videos", "--root", "--out"]
    assert names[: len(expected)] == expected


@pytest.mark.slow
def test_the_command_line_and_the_library_give_the_same_features(videos, tmp_path, patch):
    """A process of its own and the real network, against a call in this process."""
    patch.undo()
    options = ("--weights", "random:0", "--workers", "1", "--out", tmp_path / "cli")
    command = [sys.executable, "-c", "from vadprep.cli.main import main; main()", "extract"]
    root = Path(cli.__file__).parents[2]
    done = subprocess.run(
        [*command, "--videos", str(videos), *map(str, options)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = extract_api(videos, tmp_path / "api", weights="random:0", workers=1, device="cpu")
    with open_features(tmp_path / "cli") as ours, made as theirs:
        assert ours.specs == theirs.specs
        assert ours["a.mp4"].rgb.any()
        assert ours["a.mp4"].rgb.tobytes() == theirs["a.mp4"].rgb.tobytes()
        assert ours["a.mp4"].spans.tolist() == theirs["a.mp4"].spans.tolist()


def test_weights_without_training_are_named_at_the_start_and_in_the_result(videos, tmp_path):
    first, *_, last = extract(videos, tmp_path / "f").output.splitlines()
    assert first == "weights random:0: NOT TRAINED, features are for trying things out"
    assert last.endswith("random:0 (NOT TRAINED)")


def test_a_second_run_has_nothing_to_do(videos, tmp_path):
    extract(videos, tmp_path / "f")
    again = extract(videos, tmp_path / "f")
    assert again.exit_code == 0 and "clips/s" not in again.output


def test_one_video_is_extracted_under_the_id_it_has_in_its_folder(videos, tmp_path, patch):
    write_video(tmp_path / "other.mp4", 20)
    (tmp_path / "a.mp4").symlink_to(videos / "a.mp4")
    patch.chdir(tmp_path)
    assert run("extract", "--videos", "a.mp4", *CHEAP).exit_code == 0
    with open_features("features/a") as features:
        assert list(features) == ["a.mp4"]
    assert extract(tmp_path, tmp_path / "features" / "a").exit_code == 0
    with open_features("features/a") as features:
        assert list(features) == ["a.mp4", "other.mp4"]


def test_a_reason_names_a_path_that_is_the_id_once(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    (tmp_path / "m.csv").write_text(f"video_id,path\n{text},{text}\n")
    result = run("extract", "--manifest", tmp_path / "m.csv", "--out", tmp_path / "f", *CHEAP)
    failures = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert failures == [f"failed: {text}: text, not a video; playlists are not followed"] * 2


def test_videos_takes_no_root_from_the_environment(videos, tmp_path):
    result = run(
        "extract", "--videos", videos, "--out", tmp_path / "f", *CHEAP, env={"VADPREP_ROOT": "/x"}
    )
    assert result.exit_code == 0


def test_the_root_and_the_rank_come_from_the_environment(videos, tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\nb.mp4\n")
    options = ("--manifest", tmp_path / "m.csv", "--out", tmp_path / "f", "--shard-size", "1")
    env = {"VADPREP_ROOT": str(videos), "SLURM_ARRAY_TASK_ID": "1"}
    assert "--rank 1 of --world-size 1" in message(run("extract", *options, *CHEAP, env=env))
    result = run("extract", *options, *CHEAP, "--world-size", "2", env=env)
    assert result.exit_code == 1  # b.mp4, of shard 1, is not there
    assert "failed: b: video 'b': neither b.mp4" in result.output
    assert "missing: a" in result.output


def test_a_signal_ends_with_75_and_the_same_command_goes_on(tmp_path, patch):
    (tmp_path / "v").mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "v" / name, 20)
    calls = []

    def stopped_at_the_second(network, views):
        calls.append(views)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return network_call(network, views)

    network_call = StandIn.__call__
    patch.setattr(StandIn, "__call__", stopped_at_the_second)
    refused = message(extract(tmp_path / "v", tmp_path / "f"), exit_code=75)
    assert "stopped by SIGTERM" in refused and "run it again" in refused
    assert extract(tmp_path / "v", tmp_path / "f").exit_code == 0
    assert len(calls) == 3


def test_a_bug_of_ours_keeps_its_traceback(videos, tmp_path, patch):
    def broken(network, views):
        raise ValueError("deep inside")

    patch.setattr(StandIn, "__call__", broken)
    with pytest.raises(ValueError, match="deep inside"):
        extract(videos, tmp_path / "f")


def test_a_package_that_is_missing_is_named(patch):
    def absent(*arguments, **options):
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    patch.setattr(cli.cli_features.tables, "presets_rows", absent)
    refused = message(run("presets"))
    assert refused == "this needs the package ray: pip install 'vadprep[all]'"


# ---------------------------------------------------------------- streams


def test_two_streams_are_extracted_and_listed(videos, tmp_path):
    result = extract(videos, tmp_path / "f", "--streams", "rgb,flow")
    assert result.exit_code == 0 and result.output.count("NOT TRAINED, ") == 1
    *_, rgb, flow = result.output.splitlines()
    assert rgb.split()[:3] == ["rgb", "1", "1"] and flow.split()[:3] == ["flow", "1", "1"]
    with open_features(tmp_path / "f") as found:
        assert found.specs["flow"].graph == "inception_i3d_flow"
        assert found["a.mp4"].rgb.shape == found["a.mp4"].flow.shape == (1, 1, StandIn.dim)


def test_a_preset_may_name_both_streams(videos, tmp_path):
    assert extract(videos, tmp_path / "f", "--preset", "arnet").exit_code == 0
    with open_features(tmp_path / "f") as found:
        assert found.streams == ("rgb", "flow")


def test_a_stream_is_added_with_the_same_views_or_not_at_all(videos, tmp_path):
    extract(videos, tmp_path / "f", "--crops", "5")
    refused = message(extract(videos, tmp_path / "f", "--streams", "flow"))
    assert "rgb holds features of stream rgb that stream flow would not fit" in refused
    assert "crops: 1 / 5" in refused and not (tmp_path / "f" / "flow").exists()
    assert extract(videos, tmp_path / "f", "--streams", "flow", "--crops", "5").exit_code == 0


def test_flow_is_saved_and_read_back_and_the_spec_says_so(videos, tmp_path):
    flow = ("--streams", "flow", "--crops", "10")
    made = {
        "computed": ("--save-flow", tmp_path / "hdf5"),
        "same": ("--save-flow", tmp_path / "jpeg", "--flow-format", "jpeg"),
        "hdf5": ("--flow-from", tmp_path / "hdf5"),
        "jpeg 95": ("--flow-from", tmp_path / "jpeg"),
    }
    features = {}
    for name, options in made.items():
        assert extract(videos, tmp_path / name, *flow, *options).exit_code == 0
        with open_features(tmp_path / name) as found:
            features[name] = found["a.mp4"].flow.astype(float)
            expected = "computed" if name == "same" else name
            assert found.specs["flow"].flow_source == expected
    assert (features["computed"] == features["hdf5"]).all()
    assert 0 < abs(features["computed"] - features["jpeg 95"]).max() < 5


def test_flow_that_was_computed_before_it_was_to_be_saved_is_told(tmp_path):
    (tmp_path / "v").mkdir()
    save = ("--streams", "flow", "--save-flow", tmp_path / "saved")
    write_video(tmp_path / "v" / "a.mp4", 20)
    extract(tmp_path / "v", tmp_path / "f", "--streams", "flow")
    write_video(tmp_path / "v" / "b.mp4", 20)
    result = extract(tmp_path / "v", tmp_path / "f", *save)
    assert f"note: flow of 1 videos is not in {tmp_path / 'saved'}: " in result.output
    assert [path.name for path in (tmp_path / "saved").glob("*.h5")] == ["b.mp4.h5"]
    assert "note: " not in extract(tmp_path / "v", tmp_path / "g", *save).output


# ---------------------------------------------------------------- dry run


def test_a_dry_run_counts_times_and_writes_nothing(tmp_path):
    write_video(tmp_path / "small.mp4", 20)
    write_video(tmp_path / "wide.mp4", 52, size=(320, 240))  # other bytes a frame
    result = extract(tmp_path, tmp_path / "f", "--dry-run", "--crops", "5")
    assert result.exit_code == 0 and not (tmp_path / "f").exists()
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in result.output.splitlines()[1:])
    assert lines["stream"] == "rgb" and "flow to be saved" not in lines
    assert lines["videos to do"] == "2 (0 done, 0 failed, 0 not found)"
    assert lines["source frames"] == "72"
    assert lines["clips"] == "4 of 5 views"
    assert lines["features"] == tables.size(4 * (5 * StandIn.dim * 2 + 16))
    assert "s a clip, 1 at once; estimated from a short measurement" in lines["time"]


def test_a_dry_run_of_two_streams_tells_what_each_lacks_and_the_size_of_the_flow(tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.mp4", 20)
    extract(tmp_path / "v", tmp_path / "f")
    write_video(tmp_path / "v" / "b.mp4", 52)
    options = ("--streams", "rgb,flow", "--save-flow", tmp_path / "saved", "--dry-run")
    result = extract(tmp_path / "v", tmp_path / "f", *options)
    assert not (tmp_path / "saved").exists() and not (tmp_path / "f" / "flow").exists()
    lines = {line[0]: line[1:] for line in map(columns, result.output.splitlines()[1:])}
    expected = tables.size((19 + 51) * 2 * 256 * 341)
    assert lines["flow to be saved"] == [f"{expected} at 2 bytes a pixel, before compression"]
    assert list(lines)[0] == "flow to be saved" and lines["stream"] == ["rgb", "flow"]
    assert [each.split()[0] for each in lines["videos to do"]] == ["1", "2"]
    assert lines["source frames"] == ["52", "72"]
    assert lines["clips"] == ["3 of 1 view", "4 of 1 view"]


def columns(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def test_a_dry_run_with_nothing_left(videos, tmp_path):
    extract(videos, tmp_path / "f")
    result = extract(videos, tmp_path / "f", "--dry-run")
    assert "0 (1 done, 0 failed, 0 not found)" in result.output
    assert "nothing to do" in result.output


# ---------------------------------------------------------------- status, data sets, presets


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


def test_datasets_are_listed_and_shown():
    lines = run("datasets", "list").output.splitlines()
    cells = {tuple(line.split()[:2]): line.split()[2:] for line in lines}
    assert cells["ucf", "test"] == ["290", "150", "140", "1,111,808", "1,109,680", "84,128"]
    assert cells["xd", "test"] == ["800", "300", "500", "2,330,384", "537,805"]  # no lengths
    assert cells["shanghaitech", "train"] == ["238", "175", "63"]  # lengths of the abnormal alone
    shown = run("datasets", "show", "ped2")
    assert shown.exit_code == 0 and re.search(r"^ped2 +test +12 ", shown.output, re.MULTILINE)
    assert "data set 'foo': bundled are" in message(run("datasets", "show", "foo"))
    assert "data set 'foo': bundled are" in message(run("datasets", "check", "foo"))


def test_datasets_check_takes_a_csv_and_lists_what_is_wrong(videos, tmp_path, patch):
    (tmp_path / "m.csv").write_text("path,num_frames\na.mp4,21\nb.mp4,9\n")
    result = run("datasets", "check", tmp_path / "m.csv", "--root", videos)
    assert result.exit_code == 1
    assert "  missing: b\n" in result.output
    assert "  wrong length: a: 20 frames, expected 21\n" in result.output
    (tmp_path / "m.csv").write_text("path,num_frames\na.mp4,20\n")
    quiet = run("datasets", "check", tmp_path / "m.csv", "--root", videos)
    assert quiet.exit_code == 0 and "decoding" not in quiet.output
    patch.setattr(cli.cli_features, "TELLING_SECONDS", 0.0)
    telling = run("datasets", "check", tmp_path / "m.csv", "--root", videos)
    assert telling.output.startswith("decoding 1 of 1 videos\n")


def test_datasets_check_says_why_a_file_is_no_good(videos, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "two.mp4").symlink_to(videos / "a.mp4")
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "m.csv").write_text("path\ntwo.mp4\ntext.mp4\n")
    lines = run("datasets", "check", tmp_path / "m.csv", "--root", tmp_path).output.splitlines()
    assert [line for line in lines if "ambiguous: v" in line] == [
        f"  ambiguous: video 'two': two.mp4 is not under {tmp_path}, and two.mp4 is there twice: "
        "x/two.mp4 and y/two.mp4: correct the path"
    ]
    assert any(re.match("  unreadable: text: .*/text.mp4: text, not a video", x) for x in lines)


def test_datasets_show_takes_a_csv_and_a_path_is_no_name(tmp_path):
    (tmp_path / "m.csv").write_text("path,split\na.mp4,train\n")
    assert re.search(
        r"^/.*m.csv +train +1 ", run("datasets", "show", tmp_path / "m.csv").output, re.M
    )
    for name in ("nope.csv", "./nope"):
        for command in ("show", "check"):
            refused = message(run("datasets", command, name))
            assert refused == f"{Path(name)}: No such file or directory: check the path"


def test_presets_are_a_line_each_with_its_source():
    head, *lines, hint = run("presets").output.splitlines()
    assert head.split()[:4] == ["preset", "streams", "graph", "fps"]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert re.match(r"xd +rgb +inception_i3d +24 .* xd +224 +\[-1,1\].* Wu et al. 2020", lines[1])
    assert hint.startswith("vadprep presets NAME")


def test_a_preset_shows_the_source_of_every_field_and_what_is_unknown():
    lines = run("presets", "xd").output.splitlines()
    assert lines[0].split() == ["field", "xd", "source"]
    assert re.match(
        r"tail +xd +Roc-Ng/XDVioDet, list/make_gt.py", next(x for x in lines if "tail" in x)
    )
    assert any(re.match(r"unknown +the order of the four corners", line) for line in lines)


# ---------------------------------------------------------------- what people read


def test_tables_stand_in_columns_numbers_to_the_right(capsys):
    tables.show([("name", "count", "mixed"), ("a", 12345, "1 of 2"), ("two\nlines", 7, "x")])
    assert capsys.readouterr().out.splitlines() == [
        "name         count  mixed",
        "a           12,345  1 of 2",
        "two\\nlines       7  x",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (185, "3 min 05 s"), (7 * 3600 + 720, "7 h 12 min")]
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


def test_odd_characters_are_shown_escaped():
    assert tables.printable("a\n\x1b\udcffÜ日") == "a\\n\\x1b\\udcffÜ日"


def reported(left: int, total: int, work_left: float, work: float, report=None) -> Progress:
    return Progress((), report, total, left, work, work_left, "frames")


def test_the_pace_is_that_since_the_first_report(patch):
    """Networks took 1000 s to load; then a frame takes a tenth of a second."""
    patch.setattr(progress.time, "monotonic", lambda: now)
    now = 0.0
    tally = progress.Tally()
    tally.add(reported(4, 4, 700, 700))
    assert tally.line() == "0 of 4 videos, 0 failed, time unknown"
    now = 1030.0
    tally.add(reported(3, 4, 400, 700, Report("v0", "done", num_clips=18, num_frames=300)))
    assert tally.line() == "1 of 4 videos, 0 failed, time unknown"
    now = 1050.0
    tally.add(reported(2, 4, 200, 700, Report("v1", "done", num_clips=12, num_frames=200)))
    assert tally.line() == "2 of 4 videos, 0.6 clips/s, 10 frames/s, 0 failed, 20 s left"
    tally.add(reported(1, 4, 100, 700, Report("v2", "failed")))
    now = 1120.0
    tally.add(reported(0, 4, 0, 700, Report("v3", "done", num_clips=1090, num_frames=1740)))
    assert tally.line() == "4 of 4 videos, 1.0 clips/s, 2 frames/s, 1 failed, took 18 min 40 s"


def test_plain_progress_is_a_line_now_and_then_and_one_a_failure(capsys):
    plain = progress.PlainProgress()
    plain(reported(50, 50, 500, 500))
    for number in range(50):
        failed = number == 30
        report = Report(f"v{number}", "failed" if failed else "done", "a\nb" if failed else "")
        plain(reported(49 - number, 50, 490 - 10 * number, 500, report))
    first, failure, last = capsys.readouterr().err.splitlines()
    assert first.startswith("1 of 50 videos") and last.startswith("50 of 50 videos")
    assert failure == r"failed: v30: a\nb"


def test_live_progress_fits_a_terminal(patch):
    """On 80 columns the line with counts, pace and time left is not cut."""
    from rich.console import Console

    console = Console(width=80, force_terminal=True, record=True, file=open(os.devnull, "w"))
    patch.setattr(progress, "Console", lambda **options: console)
    patch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    reports = [Report(f"v{number}", "done", num_clips=60, num_frames=999) for number in range(12)]
    with progress.shown_progress() as live:
        live(reported(290, 290, 2900, 2900))
        for number, report in enumerate([*reports, Report("[red]", "failed", "why")], 1):
            live(reported(290 - number, 290, 2900 - 10 * number, 2900, report))
        first = live.tally.first
        live.tally.first = first._replace(seconds=first.seconds - 60)
        live(reported(276, 290, 2760, 2900, Report("v13", "done")))
    console.file.close()
    shown = console.export_text()
    assert "failed: [red]: why" in shown
    assert re.search(r"14 of 290 videos, .* 1 failed, .* left", shown) and "…" not in shown
