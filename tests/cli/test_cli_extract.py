"""Command extract: what it prints and refuses, its exit codes, its dry run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import CHEAP, extract, message, run, without_network
from support.ffmpeg import X264, make
from support.standin import StandIn
from support.videos import write_video

import vadprep
from vadprep.cli.text import size
from vadprep.extraction import dry_run
from vadprep.extraction.api import extract as extract_api
from vadprep.features import open_features


@pytest.fixture(autouse=True)
def patch():
    with without_network() as patch:
        yield patch


@pytest.mark.slow
def test_the_command_line_and_the_library_give_the_same_features(videos, tmp_path, patch):
    """A process of its own and the real network, against a call in this process."""
    patch.undo()
    options = ("--weights", "random:0", "--workers", "1", "--out", tmp_path / "cli")
    command = [sys.executable, "-c", "from vadprep.cli.main import main; main()", "extract"]
    root = Path(vadprep.__file__).parents[1]
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
        assert ours["a"].rgb.any()
        assert ours["a"].rgb.tobytes() == theirs["a"].rgb.tobytes()
        assert ours["a"].spans.tolist() == theirs["a"].spans.tolist()


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
        assert list(features) == ["a"]
    assert extract(tmp_path, tmp_path / "features" / "a").exit_code == 0
    with open_features("features/a") as features:
        assert list(features) == ["a", "other"]


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


# ---------------------------------------------------------------- streams


def test_two_streams_are_extracted_and_listed(videos, tmp_path):
    result = extract(videos, tmp_path / "f", "--streams", "rgb,flow")
    assert result.exit_code == 0 and result.output.count("NOT TRAINED, ") == 1
    *_, rgb, flow = result.output.splitlines()
    assert rgb.split()[:3] == ["rgb", "1", "1"] and flow.split()[:3] == ["flow", "1", "1"]
    with open_features(tmp_path / "f") as found:
        assert found.specs["flow"].graph == "inception_i3d_flow"
        assert found["a"].rgb.shape == found["a"].flow.shape == (1, 1, StandIn.dim)


def test_a_preset_may_name_both_streams(videos, tmp_path):
    assert extract(videos, tmp_path / "f", "--preset", "arnet").exit_code == 0
    with open_features(tmp_path / "f") as found:
        assert found.streams == ("rgb", "flow")


def test_a_stream_is_added_with_the_same_views_or_not_at_all(videos, tmp_path):
    extract(videos, tmp_path / "f", "--crops", "5")
    refused = message(extract(videos, tmp_path / "f", "--streams", "flow", "--crops", "1"))
    assert "rgb holds features of stream rgb that do not fit stream flow" in refused
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
            features[name] = found["a"].flow.astype(float)
            expected = "computed" if name == "same" else name
            assert found.specs["flow"].flow_source == expected
    assert (features["computed"] == features["hdf5"]).all()
    assert 0 < abs(features["computed"] - features["jpeg 95"]).max() < 5


def test_flow_that_was_saved_when_ids_had_suffixes_is_read(videos, tmp_path):
    (tmp_path / "m.csv").write_text("video_id,path\na.mp4,a.mp4\n")
    old = ("--manifest", tmp_path / "m.csv", "--root", videos, "--out", tmp_path / "old")
    flow = ("--streams", "flow", "--save-flow", tmp_path / "saved")
    assert run("extract", *old, *CHEAP, *flow).exit_code == 0
    flow = ("--streams", "flow", "--flow-from", tmp_path / "saved")
    assert extract(videos, tmp_path / "new", *flow).exit_code == 0
    with open_features(tmp_path / "old") as before, open_features(tmp_path / "new") as after:
        assert (before["a.mp4"].flow == after["a"].flow).all()


def test_flow_that_was_computed_before_it_was_to_be_saved_is_told(tmp_path):
    (tmp_path / "v").mkdir()
    save = ("--streams", "flow", "--save-flow", tmp_path / "saved")
    write_video(tmp_path / "v" / "a.mp4", 20)
    extract(tmp_path / "v", tmp_path / "f", "--streams", "flow")
    write_video(tmp_path / "v" / "b.mp4", 20)
    result = extract(tmp_path / "v", tmp_path / "f", *save)
    assert f"note: flow of 1 video is not in {tmp_path / 'saved'}: " in result.output
    assert [path.name for path in (tmp_path / "saved").glob("*.h5")] == ["b.h5"]
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
    assert lines["clips"] == "4 of 5 crops"
    assert lines["features"] == size(4 * (5 * StandIn.dim * 2 + 16))
    assert "s a clip, 1 at once; estimated from a short measurement" in lines["time"]


def test_a_dry_run_moves_a_bar_and_ends_in_time(tmp_path, patch):
    """The clock stands at its end: one clip of one video is measured, and no more."""
    for name in "abcd":
        write_video(tmp_path / f"{name}.mp4", 170)
    calls, network_call, steps = [], StandIn.__call__, []
    patch.setattr(StandIn, "__call__", lambda *a: calls.append(a) or network_call(*a))
    patch.setattr(dry_run, "MEASURED_SECONDS", 0.0)
    options = {"weights": "random:0", "workers": 1, "device": "cpu"}
    found = dry_run.estimate(
        tmp_path, tmp_path / "f", on_step=lambda *s: steps.append(s), **options
    )
    assert found.seconds and len(calls) == 1
    assert steps[-1] == (dry_run.STEPS, dry_run.STEPS) and sorted(steps) == steps


def test_a_dry_run_of_two_streams_tells_what_each_lacks_and_the_size_of_the_flow(tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v" / "a.mp4", 20)
    extract(tmp_path / "v", tmp_path / "f")
    write_video(tmp_path / "v" / "b.mp4", 52)
    options = ("--streams", "rgb,flow", "--save-flow", tmp_path / "saved", "--dry-run")
    result = extract(tmp_path / "v", tmp_path / "f", *options)
    assert not (tmp_path / "saved").exists() and not (tmp_path / "f" / "flow").exists()
    lines = {line[0]: line[1:] for line in map(columns, result.output.splitlines()[1:])}
    expected = size((19 + 51) * 2 * 256 * 341)
    assert lines["flow to be saved"] == [f"{expected} at 2 bytes a pixel, before compression"]
    assert list(lines)[0] == "flow to be saved" and lines["stream"] == ["rgb", "flow"]
    assert [each.split()[0] for each in lines["videos to do"]] == ["1", "2"]
    assert lines["source frames"] == ["52", "72"]
    assert lines["clips"] == ["3 of 1 crop", "4 of 1 crop"]


def test_a_dry_run_with_nothing_left(videos, tmp_path):
    extract(videos, tmp_path / "f")
    result = extract(videos, tmp_path / "f", "--dry-run")
    assert "0 (1 done, 0 failed, 0 not found)" in result.output
    assert "nothing to do" in result.output


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.h264"])
def test_a_dry_run_counts_packets_where_no_header_states_the_frames(tmp_path, name):
    make(tmp_path / name, *X264, frames=40)
    result = extract(tmp_path, tmp_path / "f", "--dry-run")
    lines = {line[0]: line[1:] for line in map(columns, result.output.splitlines()[1:])}
    assert (lines["source frames"], lines["clips"]) == (["40"], ["2 of 1 crop"])
    assert "estimated from a short measurement" in lines["time"][0]


def test_a_dry_run_of_what_cannot_be_read_does_not_say_that_nothing_is_left(tmp_path):
    (tmp_path / "a.mp4").write_bytes(bytes(100))
    result = extract(tmp_path, tmp_path / "f", "--dry-run")
    assert "time           unknown: no file could be read" in result.output


def columns(line: str) -> list[str]:
    return re.split(r"  +", line.strip())
