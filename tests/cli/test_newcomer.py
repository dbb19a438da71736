"""What a new user does with extract: missing files, a wrong root, flow later, a file of options."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.commands import CHEAP, extract, message, run, without_network
from support.leases import ELSEWHERE, write_lease
from support.stored import small_spec
from support.videos import write_video

from vadprep.cli import text
from vadprep.features import open_features, status
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_rows


@pytest.fixture(autouse=True)
def patch():
    with without_network() as patch:
        yield patch


@pytest.fixture
def clips(tmp_path) -> Path:
    """A folder with the videos a.mp4 and b.mp4."""
    (tmp_path / "clips").mkdir()
    for name in "ab":
        write_video(tmp_path / "clips" / f"{name}.mp4", 20)
    return tmp_path / "clips"


def listed(folder: Path, names: str) -> Path:
    """A manifest of videos NAME.mp4 with ids NAME."""
    path = folder / "m.csv"
    path.write_text("video_id,path\n" + "".join(f"{each},{each}.mp4\n" for each in names))
    return path


def extract_listed(clips: Path, names: str, *options: object):
    manifest = listed(clips.parent, names)
    out = clips.parent / "f"
    return run("extract", "--manifest", manifest, "--root", clips, "--out", out, *CHEAP, *options)


# ---------------------------------------------------------------- missing files


def test_a_file_that_was_missing_is_extracted_when_it_is_there(clips, tmp_path):
    assert extract_listed(clips, "abcd").exit_code == 1
    assert {row.video_id: row.kind for row in read_rows(tmp_path / "f" / "rgb").values()} == {
        **dict.fromkeys("ab", ""),
        **dict.fromkeys("cd", "missing"),
    }
    write_video(clips / "c.mp4", 20)
    (clips / "d.mp4").write_text("no video")
    dry = extract_listed(clips, "abcd", "--dry-run")
    assert "2 (2 done, 0 failed, 0 not found)" in dry.output
    assert extract_listed(clips, "abcd").exit_code == 1
    with open_features(tmp_path / "f") as found:
        assert sorted(found) == ["a", "b", "c"]
    write_video(clips / "d.mp4", 20)  # it was there, and bad: that takes the flag
    assert extract_listed(clips, "abcd").exit_code == 1
    assert extract_listed(clips, "abcd", "--retry-failed").exit_code == 0


def test_a_table_without_kinds_is_read_and_its_shards_are_asked(clips, tmp_path):
    extract_listed(clips, "abc")
    path = tmp_path / "f" / "rgb" / "manifest-00000.csv"
    rows = [row[:-1] for row in csv.reader(path.read_text().splitlines())]
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    write_video(clips / "c.mp4", 20)
    assert extract_listed(clips, "abc").exit_code == 0
    assert {len(row) for row in csv.reader(path.read_text().splitlines())} == {11}


def test_missing_files_are_one_line_and_the_list_ends_with_the_command(clips, tmp_path):
    result = extract_listed(clips, "abcdefg", "--allow-missing")
    *_, gone, again = result.output.splitlines()
    assert gone.startswith("failed: 5 files are missing, the first: c: ")
    command = f"vadprep extract --config {tmp_path / 'f' / 'run.yaml'}"
    assert again == f"retry: {command}"
    assert result.output.count("neither") == 2  # one while it runs, one at the end
    (clips / "c.mp4").write_text("no video")
    again = run(*command.split()[1:]).output.splitlines()[-1]
    assert again == f"retry: {command} --retry-failed"
    for name in "cdefg":
        write_video(clips / f"{name}.mp4", 20)
    assert run(*again.partition("vadprep ")[2].split()).exit_code == 0


def test_a_wrong_root_stops_before_anything_is_planned(clips, tmp_path):
    refused = message(extract_listed(clips, "abcde"))
    assert "3 of the 5 videos (60%)" in refused and f"not under {clips}" in refused
    assert "(the first: c.mp4): correct --root, or go on without them by --allow-missing" in refused
    assert not (tmp_path / "f").exists()
    assert extract_listed(clips, "abcd").exit_code == 1  # half of them: no wrong root
    refused = message(extract_listed(clips, "abcdefghi"))
    assert "5 of the 9" in refused  # c and d are known to be missing
    for name in "ab":  # done: nobody needs them any more
        (clips / f"{name}.mp4").unlink()
    assert extract_listed(clips, "abcd").exit_code == 1


def test_what_runs_counts_as_running_and_not_as_missing(tmp_path):
    path = tmp_path / "f" / "rgb"
    StreamFolder.prepare(path, small_spec(), ["now.mp4", "later.mp4"])
    write_lease(path, replace(ELSEWHERE, in_flight=("now.mp4",)))
    (found,) = json.loads(run("status", tmp_path / "f", "--json").output)
    assert found["running"] == {"now.mp4": {"rank": 0}} and found["missing"] == ["later.mp4"]
    assert "missing: now.mp4" not in run("status", tmp_path / "f").output


# ---------------------------------------------------------------- one folder, several runs


def test_flow_that_is_added_takes_the_settings_of_the_folder(clips, tmp_path):
    settings = ("--preset", "ucf", "--crops", "5", "--set", "tail=repeat-last")
    assert extract(clips, tmp_path / "f", *settings).exit_code == 0
    flow = ("extract", "--videos", clips, "--out", tmp_path / "f", "--weights", "random:0")
    assert run(*flow, "--streams", "flow", "--workers", "1").exit_code == 0
    with open_features(tmp_path / "f") as found:
        assert found.streams == ("rgb", "flow") and found["a"].flow.shape[:2] == (2, 5)
        assert {(spec.preset, spec.fps) for spec in found.specs.values()} == {("ucf", "native")}
    both = extract(clips, tmp_path / "f", *settings, "--streams", "rgb,flow")
    assert both.exit_code == 0
    assert "crops: 1 / 5" in message(
        run(*flow[:4], tmp_path / "f", *flow[5:], "--streams", "rgb", "--crops", "1")
    )


def test_ids_that_differ_from_those_of_the_plan_are_named_in_one_line(clips, tmp_path, caplog):
    extract_with_suffixes(clips)
    assert not caplog.records
    assert extract_listed(clips, "ab").exit_code == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "its plan has 2 videos that" in line and "no id is in both" in line
    assert "(such as 'a.mp4'); new ones: 2 (such as 'a')" in line
    assert "2 ids differ from those of the features by suffix alone, as 'a' from 'a.mp4'" in line
    caplog.clear()
    write_video(clips / "c.mp4", 20)
    assert extract_listed(clips, "abc").exit_code == 0
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'a.mp4'" in line and "no id is in both" not in line and "suffix" not in line


def extract_with_suffixes(clips: Path) -> None:
    """Features f of a.mp4 and b.mp4 under these names, as older versions made them."""
    manifest = clips.parent / "old.csv"
    manifest.write_text("video_id,path\na.mp4,a.mp4\nb.mp4,b.mp4\n")
    out = clips.parent / "f"
    assert run("extract", "--manifest", manifest, "--root", clips, "--out", out, *CHEAP).stdout


def made_of(features: Path) -> dict[str, str]:
    """Id of each video with features -> the name of its file."""
    with open_features(features) as found:
        return {each: str(video.attributes["path"]) for each, video in found.items()}


def test_features_with_suffixes_in_their_ids_keep_them(clips, tmp_path, caplog):
    extract_with_suffixes(clips)
    write_video(clips / "c.mp4", 20)
    assert extract(clips, tmp_path / "f").exit_code == 0
    assert made_of(tmp_path / "f") == {f"{each}.mp4": f"{each}.mp4" for each in "abc"}
    assert not caplog.records


def test_a_file_of_the_same_name_that_is_added_changes_no_id(clips, tmp_path, caplog):
    extract(clips, tmp_path / "f")
    assert made_of(tmp_path / "f") == {"a": "a.mp4", "b": "b.mp4"} and not caplog.records
    write_video(clips / "a.avi", 20)
    assert extract(clips, tmp_path / "f").exit_code == 0
    assert made_of(tmp_path / "f") == {"a": "a.mp4", "b": "b.mp4", "a.avi": "a.avi"}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("suffix alone tells 1 video from") and line.endswith("as in 'a.avi'")
    again = extract(clips, tmp_path / "f")
    assert again.exit_code == 0 and "clips/s" not in again.output and len(caplog.records) == 1
    why = run("status", tmp_path / "f", "--video", "a.mp4").output
    assert "similar ids: 'a', 'a.avi'" in why


@pytest.mark.parametrize("option", ["-q", None, "-v"])
def test_quiet_and_verbose_extractions(clips, tmp_path, option, patch):
    """Failures, then a line now and then, then one of each video; results in any case."""
    patch.setattr(text, "PLAIN_SECONDS", 0.01)
    (clips / "c.mp4").write_text("no video")
    made = extract(clips, tmp_path / "f", *([option] if option else []))
    assert made.exit_code == 1 and made.stdout.splitlines()[1].startswith("rgb ")
    err = made.stderr.splitlines()
    assert sum(line.startswith("failed: c: ") for line in err) == 2
    assert any(line.startswith("retry: ") for line in err)
    assert any(" videos, " in line for line in err) == (option != "-q")
    assert any(line.startswith("a: done, 1 clip; ") for line in err) == (option == "-v")


# ---------------------------------------------------------------- clips that overlap


@pytest.mark.parametrize(
    ("fields", "spans"),
    [
        (["clip_stride=8"], [[0, 16], [8, 24], [16, 32], [24, 40]]),
        (["clip_length=32"], [[0, 32]]),
        (["clip_length=32", "clip_stride=8"], [[0, 32], [8, 40]]),
        (["clip_stride=16"], [[0, 16], [16, 32]]),
    ],
)
def test_clips_of_another_length_or_stride(tmp_path, fields, spans):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 40)
    options = ["--set", "resize=224x224"]  # the whole picture, which shows its number
    options += [each for field in fields for each in ("--set", field)]
    assert extract(tmp_path / "clips", tmp_path / "f", *options).exit_code == 0
    with open_features(tmp_path / "f") as found:
        length = found.specs["rgb"].clip_length
        assert found["a"].spans.tolist() == spans
        for (start, stop), feature in zip(spans, found["a"].rgb[:, 0], strict=True):
            bits = np.asarray(feature).reshape(length, -1) > 128
            assert (bits @ (1 << np.arange(16))).tolist() == list(range(start, stop))
    assert run("verify", tmp_path / "f").exit_code == 0
    dry = extract(tmp_path / "clips", tmp_path / "g", *options, "--dry-run")
    assert re.search(rf"^clips +{len(spans)} of 1 crop", dry.output, re.M)
    same = extract(tmp_path / "clips", tmp_path / "f", *options[:2])
    assert same.exit_code == (0 if fields == ["clip_stride=16"] else 2)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("clip_length=20", "inception_i3d takes 16, 32, 64"),
        ("clip_stride=17", "a stride up to the length"),
        ("clip_stride=0", "a whole number above 0"),
        ("clip_stride=half", "a whole number above 0"),
    ],
)
def test_lengths_and_strides_that_cannot_be(clips, tmp_path, field, expected):
    assert expected in message(extract(clips, tmp_path / "f", "--set", field))
    assert not (tmp_path / "f").exists()


# ---------------------------------------------------------------- a file of options


def test_the_file_of_a_run_repeats_it(clips, tmp_path, patch):
    patch.chdir(tmp_path)
    options = ("--crops", "5", "--set", "tail=repeat-last", "--set", "dtype=float32")
    options += ("--shard-size", "1", "--max-damage", "0")
    made = run("extract", "--videos", "clips", *CHEAP, *options)
    assert made.exit_code == 0
    path = tmp_path / "features" / "clips" / "run.yaml"
    written = yaml.safe_load(path.read_text())
    assert written == {
        **{"videos": str(clips), "out": str(path.parent), "weights": "random:0", "workers": 1},
        **{"crops": 5, "fps": "native", "set": ["tail=repeat-last", "dtype=float32"]},
        **{"shard-size": 1, "max-damage": 0.0, "preset": "i3d", "streams": "rgb"},
    }
    patch.chdir("/")
    again = run("extract", "--config", path, "--out", tmp_path / "g")
    assert again.exit_code == 0
    shards = [*(tmp_path / "g").rglob("*.h5")]
    assert len(shards) == 2
    for shard in shards:
        assert shard.read_bytes() == (path.parent / shard.relative_to(tmp_path / "g")).read_bytes()
    assert yaml.safe_load((tmp_path / "g" / "run.yaml").read_text()) == written | {
        "out": str(tmp_path / "g")
    }


def test_the_file_of_one_job_of_an_array_repeats_the_run_as_a_whole(clips, tmp_path):
    job = ("--rank", "1", "--world-size", "2", "--shard-size", "1")
    run("extract", "--videos", clips, "--out", tmp_path / "f", *CHEAP, *job)
    assert not status(tmp_path / "f")["rgb"].is_complete
    assert run("extract", "--config", tmp_path / "f" / "run.yaml").exit_code == 0
    assert status(tmp_path / "f")["rgb"].is_complete


def test_options_of_the_command_line_replace_those_of_the_file(clips, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        f"videos: /none\nout: {tmp_path / 'f'}\nweights: random:0\nworkers: 1\nfps: native\n"
        "set: {tail: drop}\ncrops: 10\nretry_failed: false\nstreams: [rgb]\n"
    )
    options = ("--crops", "5", "--set", "tail=repeat-last", "--manifest", listed(tmp_path, "ab"))
    assert run("extract", "--config", path, "--root", clips, *options).exit_code == 0
    with open_features(tmp_path / "f") as found:
        assert (found.specs["rgb"].crops, found.specs["rgb"].tail) == (5, "repeat-last")
        assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop: 5", "'crop' is no option of extract; did you mean 'crops'?"),
        ("frobnicate: 5", "'frobnicate' is no option of extract; allowed are "),
        ("config: run.yaml", "'config' is no option"),
        ("crops: {five: {5: 5}}", "crops: expected a text, a number, or a list of them"),
        ("dry_run: 5", "dry_run: 5: expected true or false"),
        ("- crops", "expected a line for each option, such as crops: 5"),
        ("crops: [", "cannot be read as YAML"),
        ("a: !!python/object:os.system {}", "cannot be read as YAML"),
        ("[" * 100_000, "cannot be read as YAML"),
    ],
)
def test_a_wrong_file_of_options_is_named_with_the_key(text, expected, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    refused = message(run("extract", "--config", path, "--videos", tmp_path))
    assert refused.startswith(str(path)) and expected in refused


def test_a_wrong_value_in_a_file_of_options_and_a_file_that_is_none(tmp_path):
    (tmp_path / "run.yaml").write_text("crops: 7")
    refused = message(run("extract", "--config", tmp_path / "run.yaml", "--videos", tmp_path))
    assert "'7' is not one of" in refused and "--config gives: --crops=7" in refused
    assert "cannot be read" in message(run("extract", "--config", "/dev/zero"))
