"""Commands train and eval: what they find, what they refuse, what they warn of."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from support.commands import CHEAP, message, run
from support.runs import CAUTION, VIDEOS, cheaply, ok, train, write_manifest
from support.stored import stored_video, write_folder

from vadprep.cli.train import HEAD_NAMES
from vadprep.data import load_dataset
from vadprep.evaluation.scores import Origin, read_scores
from vadprep.training import loop, results


@pytest.fixture(autouse=True)
def patch():
    with cheaply() as patch:
        yield patch


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
        ((), "there is no included data set: name the videos by one of --dataset (avenue, "),
        (("mine",), "there is no included data set"),
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
    steps, step = [], loop.train_step

    def interrupted(*arguments):
        steps.append(arguments)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    monkeypatch.setattr(loop, "train_step", interrupted)
    stopped = message(run("train", "ddl", *named), 75)
    assert stopped == "stopped by SIGTERM; every full epoch is saved, go on with --resume"
    assert len(steps) == 3
    train(place, tmp_path / "r", "--resume")
    for name in ("log.csv", "checkpoint-last.safetensors", "scores-last.h5"):
        assert (tmp_path / "r" / name).read_bytes() == (place / "r" / name).read_bytes()


@pytest.mark.parametrize("seeds", ["1", "1,2"])
def test_a_training_that_ends_before_an_epoch_leaves_nothing(place, tmp_path, monkeypatch, seeds):
    def interrupted(*arguments):
        assert (tmp_path / "r" / "run.yaml").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    step = loop.train_step
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--seeds", seeds)
    monkeypatch.setattr(loop, "train_step", interrupted)
    message(run("train", "ddl", *named, "--out", tmp_path / "r"), 75)
    assert not (tmp_path / "r").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.yaml").write_text("head: ddl\n")  # of somebody who repeats a run
    message(run("train", "ddl", *named, "--out", tmp_path / "mine", "--device", "no"))
    assert (tmp_path / "mine" / "run.yaml").exists()


def test_the_file_of_a_training_repeats_it(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    options = ("--manifest", "m.csv", "--features", "f", "--out", tmp_path / "r", "--seeds", "1,2")
    ok("train", "ddl", *options, "--set", "width=8", "--validation", "0")
    path = tmp_path / "r" / "run.yaml"
    assert yaml.safe_load(path.read_text()) == {
        **{"head": "ddl", "manifest": str(place / "m.csv"), "features": str(place / "f")},
        **{"out": str(path.parent), "seeds": "1,2", "set": ["width=8"], "validation": 0.0},
    }
    monkeypatch.chdir("/")
    assert f"{path.parent}: holds seeds 1,2" in message(run("train", "--config", path))
    ok("train", "--config", path, "--out", tmp_path / "again")
    for made in sorted((tmp_path / "r").rglob("*")):
        again = tmp_path / "again" / made.relative_to(tmp_path / "r")
        if made.is_file() and "tfevents" not in made.name and made != path:
            assert again.read_bytes() == made.read_bytes(), made.name
    other = run("train", "sultani", "--config", path, "--out", tmp_path / "s", "--set", "prior=pre")
    assert "setting 'prior': allowed are epochs, " in message(other)  # ddl has it


def test_eval_online_prints_a_table_and_writes_it_into_the_run(place, tmp_path):
    shutil.copytree(place / "r", tmp_path / "r")
    output = ok("eval", tmp_path / "r", "--online", "--window", "2")
    assert f"{tmp_path / 'r'}: {CAUTION}\n" in output
    rows = [line.split() for line in output.splitlines()]
    for name in ("frame_auc", "frame_ap", "apd", "delay_frames"):
        assert any(row[:1] == [name] for row in rows), name
    assert next(row for row in rows if row[0] == "metric")[1:3] == ["offline", "online"]
    assert "window of 2 snippets; 1 event; 0.00 hours of normal video; so 1/h is no" in output
    written = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert written["online"]["online"]["delay"]["num_events"] == 1
    assert read_scores(tmp_path / "r" / "scores-online.h5").origin.random_weights
    printed = json.loads(ok("eval", tmp_path / "r", "--online", "--window", "2", "--json"))
    (entry,) = printed.values()
    assert {n: entry[n] for n in ("window", "offline", "online")} == written["online"]
    assert entry["random_weights"]


def test_eval_online_on_another_manifest_writes_nothing(place, tmp_path):
    shutil.copytree(place / "r", tmp_path / "r")
    before = sorted((tmp_path / "r").rglob("*")), (tmp_path / "r/metrics.json").read_bytes()
    named = ("--manifest", place / "m.csv", "--features", place / "f")
    assert "online" in ok("eval", tmp_path / "r", "--online", *named)
    after = sorted((tmp_path / "r").rglob("*")), (tmp_path / "r/metrics.json").read_bytes()
    assert after == before


def test_what_goes_with_eval_online_only(place, tmp_path):
    (tmp_path / "r").mkdir()
    for name in ("config.json", "metrics.json"):
        shutil.copy(place / "r" / name, tmp_path / "r")
    refused = message(run("eval", tmp_path / "r", "--online"))
    assert refused.endswith(": no run.yaml names the features: name them by --features")
    for more, expected in (
        (("--window", "3"), "--features, --window and --device go with --online"),
        (("--online", "--smoothing", "slide-3"), "sees later clips: it does not go with --online"),
    ):
        assert expected in message(run("eval", place / "r", *more))


def test_random_weights_and_the_control_are_named_in_every_result(place, tmp_path):
    output = train(place, tmp_path / "r", "--control")
    assert f"{tmp_path / 'r'}: {CAUTION}; CONTROL on shuffled labels, not a detector" in output
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    found = {name: metrics[name] for name in ("weights", "random_weights", "control")}
    assert found == {"weights": {"rgb": "random:0"}, "random_weights": True, "control": True}
    assert read_scores(tmp_path / "r/scores-last.h5").origin == Origin({"rgb": "random:0"}, True)


def test_epochs_are_shown_now_and_then(place, tmp_path, caplog, monkeypatch):
    def shown() -> list[str]:
        caplog.clear()
        train(place, tmp_path / f"r-{loop.SHOWN_SECONDS}", "--seeds", "3")
        return [each.getMessage() for each in caplog.records if each.name == loop.__name__]

    each_epoch = shown()
    auc = r"(, test frame_auc 0\.\d{4})"
    for number, line in enumerate(each_epoch, 1):  # the test split is scored after each of them
        assert re.fullmatch(rf"seed 3, epoch {number} of 3: loss [\d.]+{auc}", line)
    assert len(each_epoch) == 3
    monkeypatch.setattr(results, "snapshot_epochs", lambda *counts: frozenset([1]))
    shutil.rmtree(tmp_path / "r-10.0")
    assert [bool(re.search(auc, line)) for line in shown()] == [False, True, False]
    monkeypatch.setattr(results, "snapshot_epochs", lambda *counts: frozenset())
    shutil.rmtree(tmp_path / "r-10.0")
    first, last = shown()
    assert re.fullmatch(r"seed 3, epoch 1 of 3: loss [\d.]+", first)
    assert re.fullmatch(r"seed 3, epoch 3 of 3: loss [\d.]+", last)
    monkeypatch.setattr(loop, "SHOWN_SECONDS", 0.0)
    epochs = json.loads((tmp_path / "r-10.0/config.json").read_text())["config"]["epochs"]
    assert len(shown()) == epochs == 3


@pytest.mark.parametrize(("option", "count"), [("-q", 0), (None, 2), ("-v", 3)])
def test_quiet_and_verbose_choose_how_much_is_printed(
    place, tmp_path, caplog, monkeypatch, option, count
):
    monkeypatch.setattr(results, "snapshot_epochs", lambda *counts: frozenset())
    typo = write_manifest(tmp_path / "m.csv", [(*row, "") for row in VIDEOS])
    typo.write_text(typo.read_text().replace("intervals", "intervals,categroy", 1))
    options = ("--manifest", typo, "--features", place / "f", "--out", tmp_path / "r")
    result = run("train", "ddl", *options, *filter(None, [option]))
    assert result.exit_code == 0, result.output
    epochs = [each for each in caplog.records if each.name == loop.__name__]
    assert len(epochs) == count
    assert ("warning" in result.stderr) == (option != "-q")
    assert "frame_auc" in result.stdout
    assert ("\n  far: share of the frames" in result.stdout) == (option != "-q")
    assert ("settings xd: the published ones for xd, since" in result.stderr) == (option != "-q")
    assert logging.getLogger("vadprep").level == logging.NOTSET


def test_best_on_test_is_spoken_of_where_it_is(place, tmp_path):
    """No test video, one of unknown intervals, and the intervals filled in afterwards."""
    options = ("--features", place / "f", "--out", tmp_path / "r")
    blank = [*VIDEOS[:3], ("d", "test", 1, "")]
    for rows in (VIDEOS[:2], blank):
        named = ("--manifest", write_manifest(tmp_path / "m.csv", rows), *options)
        output = ok("train", "ddl", *named)
        assert f"\n1 run in {tmp_path / 'r'}\n" in output
        assert "best on test" not in output
        if rows is not blank:
            shutil.rmtree(tmp_path / "r")
    named = ("--manifest", write_manifest(tmp_path / "m.csv"), *options)
    output = ok("train", "ddl", *named, "--resume")
    said = "no best on test: not every snapshot was judged on the test split"
    assert f"in {tmp_path / 'r'}; {said}" in output
    assert output.count("best on test") == 1


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_every_head_trains_from_the_command_line(head, place, tmp_path):
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    small = ("--schedule", "small", "--set", "epochs=1", "--set", "steps_per_epoch=1")
    output = ok("train", head, *named, *small)
    assert f"settings {json.loads((tmp_path / 'r/metrics.json').read_text())['settings']}" in output
    assert "small, epochs = 1, steps_per_epoch = 1, standardize = False: the published" in output
    assert "since there are none for m; small: settings chosen on the training videos" in output
    assert "frame_auc_abnormal" in output and "best on test" in output
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert (config["head"], config["config"]["epochs"]) == (head, 1)


@pytest.mark.parametrize(
    "option, expected",
    [
        ("epochs", "--set epochs: expected FIELD=VALUE"),
        ("epoch=3", "setting 'epoch': allowed are epochs, "),
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
    assert head.split() == ["metric", "seed-9", "seed-10", "mean", "spread"]
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
    """By train, and by eval where the manifest is still that of the training."""
    named = ("--manifest", place / "m.csv", "--features", place / "f", "--out", tmp_path / "r")
    trained = ok("train", "csltal", *named, "--set", "epochs=1", "--seeds", "0,1")
    head = "csl_tal_subsampled, a protocol of one paper"
    standard, own = trained.split(head)
    assert "frame_ap_trapezoid" in standard and "proposal_ap" not in standard
    headings = "seed 0  seed 1  mean  spread  best on test, mean  best on test, spread"
    assert "proposal_ap" in own
    for lines in (standard.splitlines()[1], own.splitlines()[1]):
        assert lines.split() == ["metric", *headings.split()]
    assert "2 runs in" in own and "what is best on test was chosen on test: optimistic" in own
    evaluated = ok("eval", tmp_path / "r").split(head)[1].splitlines()
    assert evaluated[1].split() == ["metric", "seed-0", "seed-1", "mean", "spread"]
    saved = [line.split()[:5] for line in own.splitlines()[2:10]]
    assert [line.split() for line in evaluated[2:]] == saved
    record = json.loads(ok("eval", tmp_path / "r", "--coverage", "hold", "--json"))
    metrics = json.loads((tmp_path / "r/seed-1/metrics.json").read_text())["last"]
    found = record[str(tmp_path / "r/seed-1")]["protocols"]
    assert found == metrics["protocols"] and "proposal_ap" in found["csl_tal_subsampled"]
    other = write_manifest(tmp_path / "n.csv", [*VIDEOS[:3], ("d", "test", 1, '"[[0, 40]]"')])
    elsewhere = ok("eval", tmp_path / "r", "--manifest", other)
    known = "csl_tal_subsampled: only known on the manifest of the training"
    assert elsewhere.count(known) == 1 and head not in elsewhere
    (found, _) = json.loads(ok("eval", tmp_path / "r", "--manifest", other, "--json")).values()
    assert found["protocols"] == {}


def test_a_training_that_has_not_ended_is_named_as_such(place, tmp_path):
    shutil.copytree(place / "r", tmp_path / "r" / "seed-0")
    for name in ("scores-last.h5", "checkpoint-last.json"):
        (tmp_path / "r" / "seed-0" / name).unlink()
    for command in (("eval", tmp_path / "r"), ("score", tmp_path / "r/seed-0", place / "videos")):
        refused = message(run(*command))
        assert refused.startswith(str(tmp_path / "r" / "seed-0"))
        assert refused.endswith(
            "has not ended: give its command again, vadprep train with --resume"
        )
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
