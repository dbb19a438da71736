"""Train, score and eval as commands: what they find, what they refuse, what they warn of."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.commands import CHEAP, message, run, without_network
from support.stored import stored_video, write_folder
from support.videos import write_video

from vadprep.backbones import has_cpu_bf16, load_backbone
from vadprep.backbones.graphs import GRAPHS
from vadprep.cli import score as cli_score
from vadprep.cli.train import HEAD_NAMES
from vadprep.core.presets import resolve
from vadprep.data.datasets import load_dataset
from vadprep.evaluation.scores import Origin, read_origin, read_scores
from vadprep.extraction import extractor
from vadprep.heads import head_kind
from vadprep.training import log as logs
from vadprep.training import loop as fit

CAUTION = "weights random:0, NEVER TRAINED"
VIDEOS = [
    ("a", "train", 0, "[]"),
    ("b", "train", 1, '"[[16, 32]]"'),
    ("c", "test", 0, "[]"),
    ("d", "test", 1, '"[[0, 16]]"'),
]
"""Name, split, label, intervals."""


@contextmanager
def cheaply():
    """Inside, there is no network and training takes three epochs."""
    published = head_kind("ddl").published
    with without_network() as patch:
        patch.setitem(published, "xd", replace(published["xd"], epochs=3))
        yield patch


@pytest.fixture(autouse=True)
def patch():
    with cheaply() as patch:
        yield patch


def write_manifest(path: Path, rows=VIDEOS) -> Path:
    lines = [f"{name},{name}.mp4,{split},{label},{found}" for name, split, label, found in rows]
    path.write_text("\n".join(["video_id,path,split,label,intervals", *lines]) + "\n")
    return path


def ok(*arguments: object) -> str:
    """What a command printed that went well."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with videos, a manifest m.csv, their features f and a run r on them."""
    place = tmp_path_factory.mktemp("place")
    (place / "videos").mkdir()
    for number, (name, *_) in enumerate(VIDEOS):
        write_video(place / "videos" / f"{name}.mp4", 33 + 16 * number)
    manifest = write_manifest(place / "m.csv")
    options = ("--weights", "random:0", "--workers", "1", "--fps", "native", "--crops", "5")
    with cheaply():
        root = place / "videos"
        ok("extract", "--manifest", manifest, "--root", root, "--out", place / "f", *options)
        output = train(place, place / "r")
    assert f"{place / 'r'}: {CAUTION}\n" in output
    return place


def train(place: Path, out: Path, *options: object) -> str:
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", out)
    return ok("train", "ddl", *named, *options)


# ---------------------------------------------------------------- train


def bundled_features():
    """Features of four videos of XD-Violence."""
    videos = load_dataset("xd").videos
    for split, label in (("train", 0), ("train", 1), ("test", 0), ("test", 1)):
        known = [v for v in videos if (v.split, v.label) == (split, label)]
        chosen = min(known, key=lambda v: v.intervals[-1][1] if v.intervals else 0)
        end = chosen.intervals[-1][1] if chosen.intervals else 32
        yield stored_video(chosen.video_id, num_clips=-(-end // 16) + 2)


def test_train_and_eval_work_just_so(tmp_path, monkeypatch):
    write_folder(tmp_path / "features" / "xd" / "rgb", list(bundled_features()))
    (tmp_path / "features" / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    trained = ok("train", "ddl", "--allow-missing")
    monkeypatch.chdir("/")
    evaluated = ok("eval", tmp_path / "runs" / "ddl-xd")
    for output in (trained, evaluated):
        assert f"runs/ddl-xd: {CAUTION}\n" in output and "frame_auc" in output
    record = json.loads((tmp_path / "runs/ddl-xd/config.json").read_text())
    assert record["source"] == {"dataset": "xd"} and record["settings"] == "xd"


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ((), "there is no bundled data set: name the videos by one of --dataset (avenue, "),
        (("mine",), "there is no bundled data set"),
        (("xd", "ucf"), "are features of ucf, xd: name the videos by one of --dataset (ucf, xd)"),
    ],
)
def test_train_alone_needs_one_data_set_with_features(folders, expected, tmp_path, monkeypatch):
    for name in folders:
        (tmp_path / "features" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert expected in message(run("train", "ddl"))


def test_features_that_are_named_need_a_manifest_that_is_named(place, tmp_path, monkeypatch):
    (tmp_path / "features" / "xd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    refused = message(run("train", "ddl", "--features", place / "f"))
    assert "name the videos by one of --dataset and --manifest" in refused


def test_training_stopped_by_a_signal_goes_on_with_resume(place, tmp_path, monkeypatch):
    steps, step = [], fit._step

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    monkeypatch.setattr(fit, "_step", interrupted)
    stopped = message(run("train", "ddl", *named), 75)
    assert stopped == "stopped by SIGTERM; every full epoch is saved, go on with --resume"
    assert len(steps) == 3
    train(place, tmp_path / "r", "--resume")
    for name in ("log.csv", "checkpoint-last.safetensors", "scores-last.h5"):
        assert (tmp_path / "r" / name).read_bytes() == (place / "r" / name).read_bytes()


def test_random_weights_and_the_control_are_named_in_every_result(place, tmp_path):
    output = train(place, tmp_path / "r", "--control")
    assert f"{tmp_path / 'r'}: {CAUTION}; CONTROL on shuffled labels, not a detector" in output
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    found = {name: metrics[name] for name in ("weights", "random_weights", "control")}
    assert found == {"weights": {"rgb": "random:0"}, "random_weights": True, "control": True}
    assert read_origin(tmp_path / "r/scores-last.h5") == Origin({"rgb": "random:0"}, True)


def test_epochs_are_shown_now_and_then(place, tmp_path, caplog, monkeypatch):
    def shown() -> list[str]:
        caplog.clear()
        train(place, tmp_path / f"r-{logs.SHOWN_SECONDS}", "--seeds", "3")
        return [each.getMessage() for each in caplog.records if each.name == "vadprep.epochs"]

    first, last = shown()
    assert re.fullmatch(r"seed 3, epoch 1 of 3: loss [\d.]+", first)
    assert re.fullmatch(r"seed 3, epoch 3 of 3: loss [\d.]+", last)
    monkeypatch.setattr(logs, "SHOWN_SECONDS", 0.0)
    epochs = json.loads((tmp_path / "r-10.0/config.json").read_text())["config"]["epochs"]
    assert len(shown()) == epochs == 3


CHOSEN = "percent; what is best on test was chosen on test: optimistic"


def test_best_on_test_is_spoken_of_where_it_is(place, tmp_path):
    """No test video, one of unknown intervals, and the intervals filled in afterwards."""
    options = ("--features", place / "f", "--out", tmp_path / "r")
    blank = [*VIDEOS[:3], ("d", "test", 1, "")]
    for rows in (VIDEOS[:2], blank):
        named = ("--manifest", write_manifest(tmp_path / "m.csv", rows), *options)
        output = ok("train", "ddl", *named)
        assert output.endswith(f"\n1 run in {tmp_path / 'r'}, settings xd, percent\n")
        assert "best on test" not in output
        if rows is not blank:
            shutil.rmtree(tmp_path / "r")
    named = ("--manifest", write_manifest(tmp_path / "m.csv"), *options)
    output = ok("train", "ddl", *named, "--resume")
    assert "percent; no best on test: not every snapshot was judged on the test split" in output
    assert output.count("best on test") == 1
    both = ok("train", "ddl", *named[:-1], tmp_path / "both", "--seeds", "0,1")
    assert f"2 runs in {tmp_path / 'both'}, settings xd, {CHOSEN}" in both


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_every_head_trains_from_the_command_line(head, place, tmp_path):
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    small = ("--schedule", "small", "--set", "epochs=2", "--set", "steps_per_epoch=1")
    output = ok("train", head, *named, *small, "--seeds", "0,1")
    assert f"settings {json.loads((tmp_path / 'r/metrics.json').read_text())['settings']}" in output
    assert "small, epochs = 2, steps_per_epoch = 1, percent" in output
    assert "frame_auc_abnormal" in output and "best on test" in output
    config = json.loads((tmp_path / "r/seed-1/config.json").read_text())
    assert (config["head"], config["config"]["epochs"]) == (head, 2)


@pytest.mark.parametrize(
    "option, expected",
    [
        ("epochs", "--set epochs: expected FIELD=VALUE"),
        ("epoch=3", "no setting 'epoch': there are epochs, "),
        ("epochs=many", "epochs = 'many': expected a whole number"),
        ("prior=both", "prior = 'both': allowed are post, pre, none"),
        ("drop_epoch=soon", "drop_epoch = 'soon': expected a whole number, or null"),
    ],
)
def test_settings_are_checked_by_name_and_value(option, expected, place, tmp_path):
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    assert expected in message(run("train", "ddl", *named, "--set", option))
    assert not (tmp_path / "r").exists()


def test_columns_and_splits_that_may_be_slips_are_told_by_train_and_eval(place, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [*VIDEOS, ("e", "tset", 0, "")])
    manifest.write_text(manifest.read_text().replace(",intervals", ",interval"))
    named = ("--manifest", manifest, "--features", place / "f", "--out", tmp_path / "r")
    for output in (ok("train", "ddl", *named), ok("eval", tmp_path / "r")):
        column = f"warning: {manifest}:1: column 'interval' is not read: did you mean 'intervals'?"
        assert column in output
        assert "test, not 'tset' (1 video, did you mean 'test'?)" in output


def test_train_and_eval_need_no_path_but_extract_does(place, tmp_path):
    lines = (line.split(",") for line in (place / "m.csv").read_text().splitlines())
    manifest = tmp_path / "m.csv"
    manifest.write_text("".join(",".join([each[0], *each[2:]]) + "\n" for each in lines))
    named = ("--manifest", manifest, "--features", place / "f", "--out", tmp_path / "r")
    ok("train", "ddl", *named)
    assert ok("eval", tmp_path / "r") == ok("eval", place / "r").replace(str(place), str(tmp_path))
    extracting = ("extract", "--manifest", manifest, "--out", tmp_path / "f", *CHEAP)
    assert "no column 'path' among video_id, split" in message(run(*extracting))


# ---------------------------------------------------------------- eval


def test_eval_finds_the_manifest_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    named = ("--manifest", "m.csv", "--features", "f", "--out", tmp_path / "r")
    ok("train", "ddl", *named, "--seeds", "10,9")
    monkeypatch.chdir(tmp_path)
    by_itself = ok("eval", "r")
    assert by_itself == ok("eval", "r", "--manifest", place / "m.csv")
    caution, head, first, *_ = by_itself.splitlines()
    assert caution == f"r: {CAUTION}"
    assert head.split() == ["figure", "seed-9", "seed-10", "mean", "spread"]
    _, one, other, mean, _ = first.split()
    assert float(mean) == pytest.approx((float(one) + float(other)) / 2, abs=0.01)


def test_eval_gives_json_with_every_category(place):
    record = json.loads(ok("eval", place / "r", "--json"))
    (found,) = record.values()
    assert list(record) == [str(place / "r")]
    metrics = json.loads((place / "r" / "metrics.json").read_text())
    assert found["frame_auc"] == metrics["last"]["frame_auc"]
    assert found["random_weights"] is True and "per_category" in found


def test_the_protocol_of_csltal_is_printed_beside_the_standard_one(place, tmp_path):
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    output = ok("train", "csltal", *named, "--set", "epochs=1", "--seeds", "0,1")
    standard, own = output.split("csl_tal_subsampled, a protocol of one paper")
    assert "frame_ap_trapezoid" in standard and "proposal_ap" not in standard
    headings = "seed 0  seed 1  mean  spread  best on test, mean  best on test, spread"
    assert "proposal_ap" in own
    for lines in (standard.splitlines()[1], own.splitlines()[1]):
        assert lines.split() == ["figure", *headings.split()]


def test_eval_shows_the_protocol_of_csltal_where_it_still_holds(place, tmp_path):
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    trained = ok("train", "csltal", *named, "--set", "epochs=1", "--seeds", "0,1")
    head = "csl_tal_subsampled, a protocol of one paper"
    own = ok("eval", tmp_path / "r").split(head)[1].splitlines()
    assert own[1].split() == ["figure", "seed-0", "seed-1", "mean", "spread"]
    saved = [line.split()[:5] for line in trained.split(head)[1].splitlines()[2:10]]
    assert [line.split() for line in own[2:]] == saved
    record = json.loads(ok("eval", tmp_path / "r", "--coverage", "hold", "--json"))
    metrics = json.loads((tmp_path / "r/seed-1/metrics.json").read_text())["last"]
    found = record[str(tmp_path / "r/seed-1")]["protocols"]
    assert found == metrics["protocols"] and "proposal_ap" in found["csl_tal_subsampled"]
    other = write_manifest(tmp_path / "n.csv", [*VIDEOS[:3], ("d", "test", 1, '"[[0, 40]]"')])
    elsewhere = ok("eval", tmp_path / "r", "--manifest", other)
    assert elsewhere.count("csl_tal_subsampled: only known on the manifest of the training") == 1
    assert head not in elsewhere
    (found, _) = json.loads(ok("eval", tmp_path / "r", "--manifest", other, "--json")).values()
    assert found["protocols"] == {}


def test_a_training_that_has_not_ended_is_named_as_such(place, tmp_path):
    shutil.copytree(place / "r", tmp_path / "r" / "seed-0")
    for name in ("scores-last.h5", "checkpoint-last.json"):
        (tmp_path / "r" / "seed-0" / name).unlink()
    for command in (("eval", tmp_path / "r"), ("score", tmp_path / "r/seed-0", place / "videos")):
        refused = message(run(*command))
        assert refused.startswith(str(tmp_path / "r" / "seed-0"))
        assert refused.endswith("has not ended: go on with the same vadprep train ... --resume")
    assert message(run("eval", tmp_path)).endswith(f"is {tmp_path} a run folder?")


def test_the_split_file_is_found_again_too(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("split.csv").write_text("video_id,split\na,test\nb,test\nc,train\nd,train\n")
    train(place, Path("r"), "--split-file", "split.csv")
    source = json.loads(Path("r/config.json").read_text())["source"]
    assert source["split_file"] == str(tmp_path / "split.csv")
    assert set(read_scores(Path("r/scores-last.h5"))) == {"a", "b"}
    monkeypatch.chdir("/")
    ok("eval", tmp_path / "r")


def test_a_manifest_that_has_moved_is_named_with_the_remedy(place, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv")
    named = ("--manifest", manifest, "--features", place / "f", "--out", tmp_path / "r")
    ok("train", "ddl", *named)
    manifest.rename(tmp_path / "n.csv")
    moved = message(run("eval", tmp_path / "r"))
    assert moved.startswith(f"{manifest}: the manifest of {tmp_path / 'r'} is not there any more")
    assert "--manifest" in moved
    ok("eval", tmp_path / "r", "--manifest", tmp_path / "n.csv")


# ---------------------------------------------------------------- score


def changed(folder: Path, out: Path, **changes: object) -> Path:
    """A copy of the run in ``folder`` whose spec has other fields; flow=True adds a stream."""
    out.mkdir()
    for name in ("checkpoint-last.json", "checkpoint-last.safetensors"):
        (out / name).write_bytes((folder / name).read_bytes())
    path = out / "checkpoint-last.json"
    record = json.loads(path.read_text())
    if changes.pop("flow", False):
        spec = resolve("i3d", "cpu", ("random:0", ""), {"flow_source": "hdf5"}, "flow")
        record["specs"]["flow"] = {"spec": json.loads(spec.to_json())}
    record["specs"]["rgb"]["spec"].update(changes)
    path.write_text(json.dumps(record))
    return out


def test_videos_are_scored_as_their_features_are(place, tmp_path):
    output = ok("score", place / "r", place / "videos", "--out", tmp_path)
    assert f"{place / 'r'}: {CAUTION}\n" in output and "4 videos scored in" in output
    ok("score", place / "r", "--features", place / "f", "--out", tmp_path / "again", "--no-plots")
    found = read_scores(tmp_path / "scores.h5")
    expected = read_scores(tmp_path / "again" / "scores.h5")
    assert set(found) == {str(place / "videos" / f"{name}.mp4") for name in expected}
    for name, scores in expected.items():
        same = found[str(place / "videos" / f"{name}.mp4")]
        np.testing.assert_array_equal(same.snippets, scores.snippets)
        np.testing.assert_array_equal(same.spans, scores.spans)
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert read_origin(tmp_path / "scores.h5") == Origin({"rgb": "random:0"})


def test_alarms_and_frames_of_a_video_are_written(place, tmp_path):
    """Two thresholds: every frame is an alarm, none is."""
    clip = place / "videos" / "d.mp4"
    for threshold, intervals in (("0", [(0, 80)]), ("1", [])):
        output = ok("score", place / "r", clip, "--out", tmp_path, "--threshold", threshold)
        record = json.loads((tmp_path / "scores.json").read_text())
        (entry,) = record["videos"]
        found = [(each["start_frame"], each["stop_frame"]) for each in entry["alarms"]]
        assert found == intervals and (entry["video_id"], entry["fps"]) == (str(clip), 25.0)
        assert ("0.0-3.2 s" in output) == bool(intervals)
        assert f"1 video scored in {tmp_path}" in output
        frames = read_scores(tmp_path / "scores.h5")[str(clip)].frames()
        rows = (tmp_path / entry["frames"]).read_text().splitlines()[1:]
        assert [float(row.split(",")[2]) for row in rows] == pytest.approx(list(frames), abs=1e-6)
    assert (record["head"], record["random_weights"]) == ("ddl", True)
    refused = message(run("score", place / "r", clip, "--threshold", "1.5"))
    assert "1.5 is not in the range 0<=x<=1" in refused


@pytest.fixture(scope="module")
def imported(place) -> Path:
    """The same features through another code base's files, in a folder f, and a run r on them."""
    folder = place / "imported"
    manifest = place / "m.csv"
    with cheaply():
        ok("export", place / "f", "--layout", "xdviodet", "--manifest", manifest, "--out", folder)
        tree = ("--layout", "xdviodet", "--manifest", manifest, "--out", folder / "f")
        ok("import", folder, *tree, "--set", "tail=drop")
        named = ("--manifest", manifest, "--features", folder / "f", "--out", folder / "r")
        ok("train", "ddl", *named)
    return folder


AS_EXTRACTED = ("--preset", "xd", "--weights", "random:0")


def test_a_preset_stands_in_for_what_imported_features_do_not_tell(place, imported, tmp_path):
    clip = place / "videos" / "d.mp4"
    refused = message(run("score", imported / "r", clip, "--out", tmp_path / "s"))
    assert "unknown: graph, weights_sha256, fps, resize" in refused
    assert "take a preset for what is unknown (--preset NAME)" in refused
    assert not (tmp_path / "s").exists()
    with pytest.MonkeyPatch.context() as patch:  # the stand-in's network
        patch.setitem(GRAPHS, "inception_i3d", replace(GRAPHS["inception_i3d"], dim=256))
        output = ok("score", imported / "r", clip, "--out", tmp_path / "s", *AS_EXTRACTED)
    caution = f"{CAUTION}; preset xd taken for what is unknown of the features"
    assert f"{imported / 'r'}: {caution}\n" in output
    record = json.loads((tmp_path / "s" / "scores.json").read_text())
    assert (record["preset"], record["weights"]) == ("xd", {"rgb": "random:0"})
    assumed = record["taken_from_preset"]["rgb"]
    assert (assumed["fps"], assumed["resize"]) == ("24", "short 256")
    assert not {"tail", "crops", "weights_sha256"} & set(assumed)
    found = read_origin(tmp_path / "s" / "scores.h5")
    assert found == Origin({"rgb": "random:0"}, False, "xd")
    spec = json.loads((tmp_path / "s/features/rgb/spec.json").read_text())["spec"]
    assert (spec["fps"], spec["tail"], spec["crops"]) == ("24", "drop", 5)


def test_a_preset_of_another_dimension_is_refused_before_extracting(place, imported, tmp_path):
    named = ("score", imported / "r", place / "videos", "--out", tmp_path / "s", *AS_EXTRACTED)
    refused = message(run(*named))
    assert "features of dimension 256, inception_i3d gives 1024: take a preset of" in refused
    unnamed = message(run(*named[:-2]))
    assert unnamed == "nobody knows of which weights the run's features are: --weights"
    assert not (tmp_path / "s").exists()


def test_imported_features_are_scored_under_a_preset(place, imported, tmp_path):
    named = ("--features", imported / "f", "--out", tmp_path, "--no-plots")
    refused = message(run("score", imported / "r", *named))
    assert "take a preset for what is unknown (--preset NAME)" in refused
    ok("score", imported / "r", *named, "--preset", "xd")
    expected = read_scores(imported / "r" / "scores-last.h5")
    for video_id, scores in expected.items():
        np.testing.assert_array_equal(
            read_scores(tmp_path / "scores.h5")[video_id].snippets, scores.snippets
        )
    nothing = message(run("score", place / "r", "--features", place / "f", "--preset", "xd"))
    assert nothing == "--preset xd: nothing is unknown that it could stand for"


def test_videos_are_scored_on_both_streams(place, tmp_path):
    named = ("--manifest", place / "m.csv", "--out", tmp_path / "f", *CHEAP)
    ok("extract", *named, "--root", place / "videos", "--streams", "rgb,flow")
    options = ("--streams", "concat", "--features", tmp_path / "f", "--out", tmp_path / "r")
    ok("train", "ddl", "--manifest", place / "m.csv", "--seeds", "0", *options)
    ok("score", tmp_path / "r", place / "videos", "--out", tmp_path / "s", "--no-plots")
    ok("score", tmp_path / "r", "--features", tmp_path / "f", "--out", tmp_path / "again")
    found = read_scores(tmp_path / "s" / "scores.h5")
    for name, scores in read_scores(tmp_path / "again" / "scores.h5").items():
        same = found[str(place / "videos" / f"{name}.mp4")]
        np.testing.assert_array_equal(same.snippets, scores.snippets)
    refused = run("score", tmp_path / "r", place / "videos", "--flow-weights", "random:1")
    assert "flow weights_sha256: " in message(refused)


def test_videos_of_one_name_do_not_take_each_others_features(place, tmp_path):
    for folder, num_frames in (("x", 33), ("y", 65)):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "cam.mp4", num_frames)
    for folder, num_clips in (("x", 2), ("y", 4)):
        ok("score", place / "r", tmp_path / folder / "cam.mp4", "--out", tmp_path / "s")
        ((video_id, scores),) = read_scores(tmp_path / "s" / "scores.h5").items()
        assert video_id == str(tmp_path / folder / "cam.mp4")
        assert len(scores.snippets) == num_clips


def test_a_file_and_its_folder_are_one_video(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", 1)
    monkeypatch.chdir(tmp_path)
    found = cli_score.listed_videos([Path("in/a.mp4"), Path("in"), Path("in/../in/a.mp4")])
    assert [video.path for video in found.videos] == [str(tmp_path / "in" / "a.mp4")]


def test_a_video_that_fails_is_listed_and_the_others_are_scored(place, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    sources = (tmp_path / "broken.mp4", place / "videos" / "a.mp4")
    result = run("score", place / "r", *sources, "--out", tmp_path / "s", "--no-plots")
    assert result.exit_code == 1 and "1 of 2 videos scored" in result.output
    assert result.output.count(f"failed: {tmp_path / 'broken.mp4'}: ") == 1
    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("*.*")}
    none = run("score", place / "r", sources[0], "--out", tmp_path / "s")
    assert none.exit_code == 1
    assert f"none of 1 videos could be scored: {tmp_path / 's'} is as it was" in none.output
    assert {path: path.read_bytes() for path in (tmp_path / "s").glob("*.*")} == before
    other = run("score", place / "r", *sources, "--out", tmp_path / "s", "--weights", "random:1")
    assert "weights_sha256: " in message(other)
    write_video(tmp_path / "broken.mp4", 33)
    ok("score", place / "r", *sources, "--out", tmp_path / "s", "--no-plots")
    assert len(read_scores(tmp_path / "s" / "scores.h5")) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "by one of --features and VIDEO"),
        (("videos", "--features", "f"), "by one of --features and VIDEO"),
        (("--features", "f", "--weights", "random:0"), "--weights goes with VIDEO"),
        (("gone.mp4",), "'gone.mp4' does not exist"),
        (("videos", "--weights", "random:x"), "expected random:SEED"),
    ],
)
def test_wrong_use_of_score(options, expected, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    assert expected in message(run("score", "r", *options, "--out", tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"flow": True}, (), "cannot be extracted again (flow was read from hdf5)"),
        ({"filter": "unknown"}, (), "cannot be extracted again (preset i3d, unknown: filter)"),
        ({"preset": "rtfm"}, (), "cannot be extracted again (preset rtfm, unknown: nothing)"),
        ({"weights": "x.pt"}, (), "the run's features are of x.pt: name it by --weights"),
        ({}, ("--weights", "random:1"), "rgb weights_sha256: "),
        ({"weights": "x.pt", "weights_sha256": "f" * 64}, ("--weights", "random:0"), "(x.pt) / "),
        ({"scaling": "[0,1]"}, (), "scaling = '[0,1]': allowed are [-1,1]"),
        ({"crop_size": 112}, (), "rgb crop_size: 112 / 224"),
    ],
)
def test_runs_whose_features_cannot_be_made_again(changes, options, expected, place, tmp_path):
    folder = changed(place / "r", tmp_path / "r", **changes)
    result = run("score", folder, place / "videos", "--out", tmp_path / "s", *options)
    assert expected in message(result)
    assert not (tmp_path / "s").exists()


def test_plots_say_what_the_scores_must_not_be_taken_for(place, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "vadprep.evaluation.alarms.plot_scores", lambda *each: titles.append(each[-1])
    )
    ok("score", place / "r", "--features", place / "f", "--out", tmp_path)
    assert titles == [CAUTION] * 4


def test_the_whole_line_with_the_real_network(tmp_path, patch):
    """Two videos: extract, train, score the features, score the videos: the same scores."""
    patch.setattr(extractor, "load_backbone", load_backbone)
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", 17)
    manifest = write_manifest(tmp_path / "m.csv", VIDEOS[:2])
    precision = "bf16" if has_cpu_bf16() else "fp32"
    options = ("--fps", "native", "--precision", precision, "--workers", "1")
    named = ("--manifest", manifest, "--out", tmp_path / "f", "--root", tmp_path)
    ok("extract", *named, "--weights", "random:0", *options)
    train(tmp_path, tmp_path / "r")
    ok("score", tmp_path / "r", "--features", tmp_path / "f", "--out", tmp_path / "x", "--no-plots")
    ok("score", tmp_path / "r", *sorted(tmp_path.glob("*.mp4")), "--out", tmp_path / "y")
    with h5py.File(tmp_path / "x/scores.h5") as one, h5py.File(tmp_path / "y/scores.h5") as other:
        assert list(one) == list(other) == ["000000", "000001"]
        for group in one:
            assert one[group]["scores"][:].tobytes() == other[group]["scores"][:].tobytes()
            assert len(one[group]["scores"]) == 1
