"""Training: the same bytes again, also after a stop; what is read, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.stopped import stopped_after
from support.stored import ODD_IDS, stored_video, write_folder
from support.tiny_features import TinyFeatures, tiny_set
from support.training import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from vadprep.core.errors import (
    CheckpointError,
    FeaturesError,
    ManifestError,
    SettingError,
    Stopped,
    TrainingError,
)
from vadprep.core.records import Video
from vadprep.data import Manifest
from vadprep.evaluation.protocol import evaluate
from vadprep.evaluation.run_files import LAST, seed_folders
from vadprep.evaluation.scores import read_scores
from vadprep.evaluation.truth import truth_of
from vadprep.features.reader import open_features
from vadprep.heads import HEADS
from vadprep.heads.ddl import DDLConfig
from vadprep.training import train as train_head
from vadprep.training.checkpoint import load_checkpoint, load_run, save_checkpoint
from vadprep.training.csltal_protocol import evaluate_subsampled
from vadprep.training.labels import held_out_videos
from vadprep.training.loop import RESUME
from vadprep.training.results import snapshot_epochs
from vadprep.training.scoring import exact_arithmetic, score_features, score_videos

SMALL = DDLConfig(
    width=8, hidden=16, embedding=8, kernel=3, epochs=3, batch_size=5, learning_rate=5e-3
)
CONFIG = dict(settings=SMALL, seeds=(7,))


def bytes_of(folder):
    """Every file but TensorBoard's, whose names and content hold the time."""
    files = (path for path in sorted(folder.iterdir()) if "tfevents" not in path.name)
    return {path.name: path.read_bytes() for path in files}


def scalars(folder):
    """What TensorBoard reads from a run folder, by tag and epoch."""
    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in tags}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run: folder and report."""
    folder = tmp_path_factory.mktemp("train") / "run"
    return folder, train(*tiny_set(), CONFIG, folder)


def test_a_gpu_trains_and_scores_with_cudnn_in_full_float32():
    cudnn = torch.backends.cudnn
    with exact_arithmetic():
        assert (cudnn.enabled, cudnn.deterministic) == (True, True)
        assert (cudnn.allow_tf32, cudnn.benchmark) == (False, False)


def test_run_folder_is_complete(run):
    folder, _ = run
    assert list(bytes_of(folder)) == [
        "checkpoint-best-on-test.json",
        "checkpoint-best-on-test.safetensors",
        "checkpoint-last.json",
        "checkpoint-last.safetensors",
        "config.json",
        "log.csv",
        "metrics.json",
        "resume.safetensors",
        "scores-best-on-test.h5",
        "scores-last.h5",
        "snapshots.csv",
    ]


def test_log_has_a_row_a_step_whose_terms_add_up(run):
    rows = list(csv.DictReader((run[0] / "log.csv").read_text().splitlines()))
    num_batches = -(-16 // 5)  # 8 videos of 2 crops
    assert [row["epoch"] for row in rows] == [str(e) for e in range(3) for _ in range(num_batches)]
    for row in rows:
        terms = sum(float(row[name]) for name in ("mil", "dr", "da"))
        assert terms == pytest.approx(float(row["total"]), rel=1e-5)


def test_metrics_json_has_the_agreed_shape(run):
    folder, report = run
    metrics = json.loads((folder / "metrics.json").read_text())
    figures = ["last", "best_on_validation", "best_on_test", "seeds"]
    assert list(metrics) == [*figures, "settings", "weights", "random_weights", "control"]
    assert (metrics["weights"], metrics["random_weights"]) == ({"rgb": "random:0"}, True)
    assert metrics["control"] is False
    assert metrics["best_on_validation"] is None
    assert [entry["seed"] for entry in metrics["seeds"]] == [7]
    assert metrics["seeds"][0]["last"] == metrics["last"]
    assert metrics["last"]["frame_auc"] == report.by_seed[7]["last"]["frame_auc"]


def test_same_seed_gives_the_same_bytes(run, tmp_path):
    torch.rand(3)  # the global random state before does not matter
    train(*tiny_set(), CONFIG, tmp_path)
    assert bytes_of(tmp_path) == bytes_of(run[0])


def test_another_seed_gives_another_run(run, tmp_path):
    train(*tiny_set(), CONFIG | dict(seeds=(8,)), tmp_path)
    name = "checkpoint-last.safetensors"
    assert (tmp_path / name).read_bytes() != (run[0] / name).read_bytes()


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    train(*tiny_set(), CONFIG, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_steps", [0, 2, 4, 11])
def test_stopped_and_resumed_gives_the_same_bytes(run, tmp_path, num_steps):
    with pytest.raises(Stopped), stopped_after(num_steps):
        train(*tiny_set(), CONFIG, tmp_path)
    assert not (tmp_path / "checkpoint-last.json").exists()
    train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)
    assert bytes_of(tmp_path) == bytes_of(run[0])


def test_resuming_a_finished_run_changes_nothing(run, tmp_path):
    train(*tiny_set(), CONFIG, tmp_path)
    with stopped_after(0):
        train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)
    assert bytes_of(tmp_path) == bytes_of(run[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"intervals_seconds": ((1.0, 300.0),)},
            "column 'intervals_seconds': ends at 300 s, but the video has 4.68 s: correct it",
        ),
        (
            {"intervals": ((0, 10_000),)},
            "column 'intervals': interval end 10000 is 85.5 x the 117 frames: correct it",
        ),
    ],
)
def test_a_bad_test_interval_is_named_before_anything_is_trained(tmp_path, changes, message):
    features, manifest = tiny_set()
    bad = replace(manifest.videos[-1], **{"intervals": None, "line": 12, **changes})
    wrong = replace(manifest, videos=(*manifest.videos[:-1], bad))
    with pytest.raises(ManifestError, match=re.escape(f"tiny.csv:12: {message}")):
        train(features, wrong, CONFIG | dict(seeds=(0, 1)), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_test_intervals_in_seconds_need_a_rate_before_anything_is_trained(tmp_path):
    features, manifest = tiny_set()
    last = manifest.videos[-1]
    features[last.video_id].fps = None
    seconds = replace(last, intervals=None, intervals_seconds=((1.0, 2.0),), line=12)
    wrong = replace(manifest, videos=(*manifest.videos[:-1], seconds))
    found = re.escape("tiny.csv:12: column 'intervals_seconds': no frame rate")
    with pytest.raises(ManifestError, match=found):
        train(features, wrong, CONFIG, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_another_number_of_threads_is_recorded_and_does_not_hinder(run, tmp_path):
    train(*tiny_set(), CONFIG, tmp_path)
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(num_threads + 1)
        train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)
    finally:
        torch.set_num_threads(num_threads)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["threads"] == [num_threads, num_threads + 1]
    assert json.loads((run[0] / "config.json").read_text())["threads"] == [num_threads]


def test_a_manifest_that_moved_does_not_hinder(run, tmp_path):
    train(*tiny_set(), CONFIG, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["source"] == {
        "manifest": str(Path("tiny.csv").absolute())
    }
    source = {"manifest": "/elsewhere.csv"}
    train(*tiny_set(), CONFIG | dict(resume=True, source=source), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["source"] == source


def test_a_run_of_before_sampling_was_a_field_goes_on(tmp_path):
    features, manifest = tiny_set()
    features.specs["rgb"] = replace(features.specs["rgb"], sampling="index")
    train(features, manifest, CONFIG, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["specs"]["rgb"]["spec"].pop("sampling", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    train(features, manifest, CONFIG | dict(resume=True), tmp_path)


def test_resume_needs_the_same_settings(run):
    config = CONFIG | dict(settings=replace(SMALL, sigma=9.0), resume=True)
    with pytest.raises(CheckpointError) as refused:
        train(*tiny_set(), config, run[0])
    told = "holds another run (there / asked for): config.sigma: 6.0 / 9.0. Use the same settings"
    assert f"{run[0]}: {told}" in str(refused.value)


def test_only_the_first_fields_that_differ_are_told(run):
    config = dict(head="sultani", seeds=(7,), resume=True)
    with pytest.raises(CheckpointError, match="head: 'ddl' / 'sultani'; .*; and [0-9]+ more. Use"):
        train(*tiny_set(), config, run[0])


def test_a_head_that_cannot_be_built_says_so_and_claims_no_folder(tmp_path):
    config = dict(head="sultani", settings={"width": 10**14})
    told = "sultani with settings ucf, width = 100000000000000 cannot be built on cpu: "
    with pytest.raises(TrainingError, match=told):
        train(*tiny_set(), config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("seeds", [(7,), (7, 8)])
def test_a_run_stopped_within_its_first_epoch_leaves_nothing(tmp_path, seeds):
    with pytest.raises(Stopped), stopped_after(2):
        train(*tiny_set(), CONFIG | dict(seeds=seeds), tmp_path / "r")
    assert not list(tmp_path.rglob("*.*"))
    other = CONFIG | dict(settings=replace(SMALL, epochs=1), seeds=seeds)
    train(*tiny_set(), other, tmp_path / "r")
    assert len(list(tmp_path.rglob("config.json"))) == len(seeds)


def test_somebody_elses_config_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(*tiny_set(), CONFIG, tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'


def test_a_run_is_not_overwritten(run):
    with pytest.raises(CheckpointError, match="holds a run already"):
        train(*tiny_set(), CONFIG, run[0])


@pytest.mark.parametrize("damage", [b"", b"\0" * 100])
def test_damaged_resume_state_is_named(run, tmp_path, damage):
    (tmp_path / "config.json").write_bytes((run[0] / "config.json").read_bytes())
    (tmp_path / RESUME).write_bytes(damage)
    with pytest.raises(CheckpointError, match=f"{RESUME}: cannot resume"):
        train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "snapshots.csv"])
def test_a_log_that_cannot_be_read_is_named(run, tmp_path, name):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read"):
        train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "snapshots.csv"])
def test_a_log_that_was_cut_short_is_named(run, tmp_path, name):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    rows = (tmp_path / name).read_text().splitlines(keepends=True)
    (tmp_path / name).write_text("".join(rows[:-1]))
    with pytest.raises(CheckpointError, match=f"{name}: .* it was cut short"):
        train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)


def test_several_seeds_have_folders_mean_and_spread(run, tmp_path):
    report = train(*tiny_set(), CONFIG | dict(seeds=(7, 8)), tmp_path)
    assert bytes_of(tmp_path / "seed-7") == bytes_of(run[0])
    aucs = [entry["frame_auc"] for entry in report.entries()]
    last = json.loads((tmp_path / "metrics.json").read_text())["last"]
    assert last["frame_auc"] == pytest.approx(np.mean(aucs))
    assert last["spread"]["frame_auc"] == pytest.approx(np.std(aucs, ddof=1))
    with pytest.raises(CheckpointError, match="several seeds"):
        load_checkpoint(tmp_path)
    assert [each.seed for each in load_run(report)] == [7, 8]
    assert [*seed_folders(tmp_path).values()] == [tmp_path / "seed-7", tmp_path / "seed-8"]
    features, _ = tiny_set()
    both = score_features(report, features)
    each = [score_features(tmp_path / f"seed-{seed}", features) for seed in (7, 8)]
    for video_id, scores in both.items():
        mean = (each[0][video_id].snippets + each[1][video_id].snippets) / 2
        np.testing.assert_allclose(scores.snippets, mean, rtol=0, atol=1e-12)


def test_categories_have_mean_and_spread_over_the_seeds_too(tmp_path):
    features, manifest = tiny_set()
    videos = tuple(
        replace(video, category=f"fire|{video.video_id}" if video.label else "")
        for video in manifest.videos
    )
    config = CONFIG | dict(settings=replace(SMALL, epochs=1), seeds=(7, 8))
    train(features, replace(manifest, videos=videos), config, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for choice in ("last", "best_on_test"):
        assert len(metrics[choice]["per_category"]) == 4
        assert_over_seeds(metrics, choice, "per_category")
    assert metrics["best_on_validation"] is None
    assert metrics["last"]["per_category"]["fire"]["num_videos"] == 3


def assert_over_seeds(metrics, choice, part):
    """Figures of ``part`` by name are means over the seeds, with their spread beside them."""
    found, spread = metrics[choice][part], metrics[choice]["spread"][part]
    seeds = [entry[choice][part] for entry in metrics["seeds"]]
    assert found.keys() == spread.keys() == seeds[0].keys() == seeds[1].keys()
    for name, figures in found.items():
        assert figures.keys() == spread[name].keys() == seeds[0][name].keys()
        for figure, value in figures.items():
            values = [each[name][figure] for each in seeds]
            assert value == pytest.approx(np.mean(values))
            assert spread[name][figure] == pytest.approx(np.std(values, ddof=1))


CSLTAL = dict(
    head="csltal",
    schedule="small",
    settings={"epochs": 4, "steps_per_epoch": 2, "batch_size": 4},
    seeds=(1, 2),
    validation=0.3,
)


def test_the_protocol_of_csltal_is_that_of_each_kept_epoch_and_has_mean_and_spread(tmp_path):
    """The head of each checkpoint, judged again, gives the figures that stand beside it."""
    features, manifest = tiny_set()
    report = train(features, manifest, CSLTAL, tmp_path)
    tests = [video.video_id for video in manifest.in_split("test")]
    truth = truth_of({each: features[each] for each in tests}, manifest)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for choice in ("last", "best_on_validation", "best_on_test"):
        for seed, entry in zip((1, 2), metrics["seeds"], strict=True):
            name = f"checkpoint-{choice.replace('_', '-')}"
            loaded = load_checkpoint(tmp_path / f"seed-{seed}", name)
            figures = evaluate_subsampled(loaded.head, features, truth, ("rgb",))
            assert entry[choice]["protocols"] == {"csl_tal_subsampled": figures}
            assert loaded.metrics == entry[choice]
        assert_over_seeds(metrics, choice, "protocols")
    columns = report.protocols()["csl_tal_subsampled"]
    best = [f"best on {each}, {of}" for each in ("validation", "test") for of in ("mean", "spread")]
    assert list(columns) == list(report.columns()) == ["seed 1", "seed 2", "mean", "spread", *best]
    own = metrics["best_on_test"]
    assert columns["best on test, mean"] == own["protocols"]["csl_tal_subsampled"]
    assert columns["best on test, spread"] == own["spread"]["protocols"]["csl_tal_subsampled"]


def test_the_protocol_of_a_kept_epoch_is_left_out_under_another_truth(tmp_path):
    """It needs the network of then; the last one is judged again."""
    features, manifest = tiny_set()
    config = CSLTAL | dict(seeds=(1,), validation=0.0)
    train(features, manifest, config, tmp_path)
    abnormal = next(v for v in manifest.in_split("test") if v.label)
    videos = (replace(v, intervals=((0, 20),)) if v is abnormal else v for v in manifest.videos)
    corrected = replace(manifest, videos=tuple(videos))
    report = train(features, corrected, config | dict(resume=True), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["best_on_test"]["protocols"] == {} and metrics["last"]["protocols"]
    assert list(report.protocols()["csl_tal_subsampled"]) == ["seed 1"]


def test_anomalies_are_learnt_and_shuffled_labels_find_less(tmp_path):
    features, manifest = tiny_set(num_train=24, num_test=16)
    config = CONFIG | dict(settings=replace(SMALL, epochs=20, batch_size=16), snapshots=0)
    real = train(features, manifest, config, tmp_path / "real")
    control = train(features, manifest, config | dict(control=True), tmp_path / "control")
    assert real.by_seed[7]["last"]["frame_auc"] > 0.85
    assert control.origin.control and load_checkpoint(tmp_path / "control").control
    record = json.loads((tmp_path / "control/config.json").read_text())
    assert record["control"] == "shuffled labels"
    assert control.by_seed[7]["last"]["frame_auc"] < real.by_seed[7]["last"]["frame_auc"]


def snapshot_rows(folder):
    return list(csv.DictReader((folder / "snapshots.csv").read_text().splitlines()))


def test_the_best_epoch_on_test_stands_beside_the_last_and_says_so(run):
    folder, report = run
    aucs = [float(row["test/frame_auc"]) for row in snapshot_rows(folder)]
    metrics = json.loads((folder / "metrics.json").read_text())
    best = metrics["best_on_test"]
    assert len(aucs) == 3 and aucs[-1] == metrics["last"]["frame_auc"]
    assert best["frame_auc"] == max(aucs) == aucs[best["epoch"]]
    assert best["chosen_by"] == "frame_auc on the test split itself: optimistic"
    assert report.mean("best_on_test")["frame_auc"] == max(aucs)
    loaded = load_checkpoint(folder, "checkpoint-best-on-test")
    assert loaded.metrics == best
    found = read_scores(folder / "scores-best-on-test.h5")
    assert evaluate(found, manifest=tiny_set()[1]).values["frame_auc"] == max(aucs)


def test_the_best_epoch_on_xd_is_chosen_by_its_average_precision(tmp_path):
    train(*tiny_set(), CONFIG | dict(dataset="xd"), tmp_path)
    best = json.loads((tmp_path / "metrics.json").read_text())["best_on_test"]
    found = [float(row["test/frame_ap_trapezoid"]) for row in snapshot_rows(tmp_path)]
    assert best["frame_ap_trapezoid"] == max(found) == found[best["epoch"]]
    assert best["chosen_by"].startswith("frame_ap_trapezoid on the test split")


def test_the_best_epoch_on_test_is_judged_by_the_intervals_of_now(run, tmp_path):
    features, manifest = tiny_set()
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    abnormal = next(v for v in manifest.in_split("test") if v.label)
    videos = (replace(v, intervals=((0, 20),)) if v is abnormal else v for v in manifest.videos)
    corrected = replace(manifest, videos=tuple(videos))
    train(features, corrected, CONFIG | dict(resume=True), tmp_path)
    best = json.loads((tmp_path / "metrics.json").read_text())["best_on_test"]
    assert best["num_abnormal_frames"] != run[1].by_seed[7]["best_on_test"]["num_abnormal_frames"]
    found = read_scores(tmp_path / "scores-best-on-test.h5")
    assert evaluate(found, manifest=corrected).values["frame_auc"] == best["frame_auc"]


def test_a_slice_of_the_training_videos_is_held_out_and_chosen_by(run, tmp_path, caplog):
    config = CONFIG | dict(validation=0.3)
    with caplog.at_level("INFO", "vadprep"):
        report = train(*tiny_set(), config, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    labels = {video.video_id: video.label for video in tiny_set()[1].in_split("train")}
    assert [labels[each] for each in record["validation"]].count(1) == 1
    assert (record["num_train_videos"], len(record["validation"])) == (6, 2)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    best = metrics["best_on_validation"]
    assert best["chosen_by"].endswith("on 2 training videos held out")
    values = [float(row["validation/video_auc"]) for row in snapshot_rows(tmp_path)]
    shown = re.findall(r"epoch .*, validation video_auc ([0-9.]+), test frame_auc", caplog.text)
    assert [float(each) for each in shown] == pytest.approx(values, abs=1e-4)
    latest = max(epoch for epoch, value in enumerate(values) if value == max(values))
    assert best["epoch"] == latest
    assert report.by_seed[7]["best_on_validation"]["frame_auc"] == best["frame_auc"]


def test_held_out_videos_are_the_same_for_every_seed_and_of_both_classes():
    labels = {f"{n:02d}": int(n < 12) for n in range(30)}
    found = held_out_videos(labels, 0.25)
    assert found == held_out_videos(dict(reversed(labels.items())), 0.25)
    assert [labels[each] for each in found].count(1) == 3 and len(found) == 3 + 4
    assert held_out_videos(labels, 0.0) == ()
    with pytest.raises(ManifestError, match="with 1 abnormal training video none is left"):
        held_out_videos({"a": 1, "b": 0, "c": 0}, 0.5)


@pytest.mark.parametrize(
    "epochs, most, expected",
    [
        (3, 20, {0, 1, 2}),
        (50, 5, {9, 19, 29, 39, 49}),
        (7, 3, {1, 3, 6}),
        (4, 0, set()),
    ],
)
def test_snapshots_are_spread_and_end_with_the_last_epoch(epochs, most, expected):
    assert snapshot_epochs(epochs, most) == expected


def test_without_snapshots_there_is_only_the_last(run, tmp_path):
    train(*tiny_set(), CONFIG | dict(snapshots=0), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["best_on_test"] is None
    assert metrics["last"] == json.loads((run[0] / "metrics.json").read_text())["last"]
    name = "checkpoint-last.safetensors"
    assert (tmp_path / name).read_bytes() == (run[0] / name).read_bytes()


NARROW = {"vadclip": {"hidden": 16, "length": 32, "window": 4}}
"""Settings of a head that takes seconds for a step with its own."""


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_and_goes_on_to_the_same_bytes(tmp_path, head):
    """Small schedule, an odd number of steps, stopped within the second epoch."""
    changes = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 4} | NARROW.get(head, {})
    config = dict(head=head, schedule="small", settings=changes, seeds=(7,), validation=0.3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = train(*tiny_set(), config, whole)
    changed = ", ".join(f"{name} = {value}" for name, value in changes.items())
    assert report.settings.endswith(f", small, {changed}, standardize = False")
    with pytest.raises(Stopped), stopped_after(3):
        train(*tiny_set(), config, parts)
    train(*tiny_set(), config | dict(resume=True), parts)
    assert bytes_of(parts) == bytes_of(whole)
    assert load_checkpoint(whole).head_name == head
    last = json.loads((whole / "metrics.json").read_text())["last"]
    assert list(last["protocols"]) == (["csl_tal_subsampled"] if head == "csltal" else [])
    assert all(0 <= last[name] <= 1 for name in ("frame_auc", "far", "video_auc", "segment_ap"))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"schedule": "tiny"}, "allowed are published, small"),
        ({"settings": {"sigmas": 3}}, "setting 'sigmas': allowed are epochs, "),
        ({"settings": {"kernel": 0}}, "must be positive"),
        ({"validation": 1.0}, "a share"),
        ({"coverage": "all"}, "allowed are cut, hold"),
        ({"streams": "sound"}, "allowed are rgb, flow, concat"),
        ({"device": "tpu"}, "this machine has cpu"),
        ({"seeds": (1, 1)}, "a seed is named twice"),
        ({"seeds": (-1,)}, "seeds = .* allowed are 0 to"),
        ({"seeds": (2**32,)}, "seeds = .* allowed are 0 to"),
        ({"validation": 0.2, "snapshots": 0}, "without snapshots no epoch can be chosen"),
        ({"settings": SMALL, "schedule": "small"}, "a config holds all settings"),
        ({"head": "rtfm", "settings": SMALL}, "DDLConfig is not a RTFMConfig"),
    ],
)
def test_settings_are_checked_before_training(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        train(*tiny_set(), config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "argument",
    [
        {"head": 3},
        {"features": 3},
        {"features": None},
        {"manifest": 3},
        {"out": 3},
        {"seeds": "0,1"},
        {"seeds": 3},
        {"seeds": [1.5]},
        {"seeds": [None]},
        {"validation": "a"},
        {"validation": None},
        {"snapshots": "a"},
        {"snapshots": None},
        {"settings": "a"},
        {"smoothing": 3},
        {"device": 0},
        {"source": 3},
    ],
)
def test_an_argument_of_another_kind_is_named(tmp_path, argument):
    features, manifest = tiny_set()
    given = {"head": "ddl", "features": features, "manifest": manifest, "out": tmp_path / "run"}
    (name,) = argument
    with pytest.raises(SettingError, match=f"^{name} = .*: expected "):
        train_head(**{**given, **argument})
    assert not list(tmp_path.iterdir())


def test_seeds_and_device_may_be_objects_of_numpy_and_torch(run, tmp_path):
    options = {"seeds": np.array([7]), "device": torch.device("cpu"), "snapshots": np.int64(20)}
    train(*tiny_set(), {**CONFIG, **options}, tmp_path / "run")
    assert bytes_of(tmp_path / "run") == bytes_of(run[0])


def test_a_class_that_is_repeated_is_said_once(tmp_path, caplog):
    changes = {"epochs": 2, "steps_per_epoch": 1}
    config = dict(schedule="small", settings=changes, seeds=(1, 2), snapshots=0)
    train(*tiny_set(num_train=6), config, tmp_path)
    said = [each for each in caplog.messages if "drawn with replacement" in each]
    assert said == ["6 normal and 6 abnormal items for 8 a batch: drawn with replacement"]


def test_tensorboard_shows_losses_and_metrics_of_each_epoch_once_also_after_a_stop(
    run, tmp_path, monkeypatch
):
    found = scalars(run[0])
    assert {"train/total", "train/mil", "train/learning_rate", "test/far"} <= found.keys()
    assert all(list(each) == [0, 1, 2] for each in found.values())
    rows = list(csv.DictReader((run[0] / "log.csv").read_text().splitlines()))
    for epoch, value in found["train/total"].items():
        own = [float(row["total"]) for row in rows if row["epoch"] == str(epoch)]
        assert value == pytest.approx(np.mean(own))
    # Of one second, file 10 would come before file 9 by name.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(9))
    with pytest.raises(Stopped), stopped_after(6):
        train(*tiny_set(), CONFIG, tmp_path)
    train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)
    assert scalars(tmp_path) == found


def test_no_label_outside_the_train_split_is_used(run, tmp_path):
    """Other test labels and intervals give other figures and the same network."""
    features, manifest = tiny_set()
    videos = tuple(
        replace(video, label=None, intervals=((0, 16),)) if video.split == "test" else video
        for video in manifest.videos
    )
    train(features, replace(manifest, videos=videos), CONFIG, tmp_path)
    for name in ("log.csv", "checkpoint-last.safetensors", "scores-last.h5"):
        assert (tmp_path / name).read_bytes() == (run[0] / name).read_bytes()
    assert (tmp_path / "metrics.json").read_bytes() != (run[0] / "metrics.json").read_bytes()


def test_unknown_intervals_leave_figures_undefined_with_the_reason(tmp_path):
    features, manifest = tiny_set()
    videos = tuple(replace(video, intervals=None) for video in manifest.videos)
    report = train(features, replace(manifest, videos=videos), CONFIG, tmp_path)
    assert report.by_seed[7]["last"]["frame_auc"] is None
    assert "unknown for 3 (" in report.by_seed[7]["last"]["undefined"]["frame_auc"]


def without(features, video_id):
    return TinyFeatures([video for key, video in features.items() if key != video_id])


@pytest.mark.parametrize("split", ["train", "test"])
def test_videos_without_features_are_listed_or_allowed(tmp_path, split):
    features, manifest = tiny_set()
    gone = manifest.in_split(split)[2].video_id
    fewer = without(features, gone)
    with pytest.raises(FeaturesError, match=f"{split} videos without features: 1 .{gone}"):
        train(fewer, manifest, CONFIG, tmp_path)
    features[gone].video_id = f"{gone}.mp4"
    renamed = TinyFeatures(features.values())
    with pytest.raises(FeaturesError, match=f"by suffix alone, as '{gone}' from '{gone}.mp4'"):
        train(renamed, manifest, CONFIG, tmp_path)
    train(fewer, manifest, CONFIG | dict(allow_missing=True), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["missing"] == [gone]


def test_videos_without_a_snippet_count_as_missing(tmp_path):
    features, manifest = tiny_set()
    first = manifest.in_split("test")[0].video_id
    features[first].streams["rgb"] = np.zeros((0, 2, 6), np.float16)
    with pytest.raises(FeaturesError, match=f"test videos without features: 1 .{first}"):
        train(features, manifest, CONFIG, tmp_path)
    report = train(features, manifest, CONFIG | dict(allow_missing=True), tmp_path)
    assert report.by_seed[7]["last"]["num_videos"] == 5


def test_train_videos_without_a_label_are_listed(tmp_path):
    features, manifest = tiny_set()
    first, *others = manifest.videos
    videos = (replace(first, label=None), *others)
    told = f"tiny.csv: column 'label': train videos without a label: 1 .{first.video_id}"
    with pytest.raises(ManifestError, match=told):
        train(features, replace(manifest, videos=videos), CONFIG, tmp_path)


@pytest.mark.parametrize("label, word", [(0, "abnormal"), (1, "normal")])
def test_both_classes_are_needed(tmp_path, label, word):
    features, manifest = tiny_set()
    videos = tuple(replace(video, label=label) for video in manifest.videos)
    with pytest.raises(ManifestError, match=f"tiny.csv: no {word} video"):
        train(features, replace(manifest, videos=videos), CONFIG, tmp_path)


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_first_loss_that_is_not_finite_stops_the_run_and_is_named(tmp_path):
    features, manifest = tiny_set()
    for video in features.values():  # finite features whose products are not
        video.streams["rgb"] = video.streams["rgb"].astype(np.float32) * np.float32(1e30)
    with pytest.raises(TrainingError, match="loss term 'mil' is nan at epoch 0, step 0"):
        train(features, manifest, CONFIG, tmp_path)
    assert not (tmp_path / RESUME).exists()
    train(*tiny_set(), CONFIG | dict(resume=True), tmp_path)  # the features were put right


TERMS = {
    "sultani": ("ranking", "sparsity", "smoothness", "weights"),
    "rtfm": ("classification", "magnitude", "sparsity", "smoothness"),
    "arnet": ("dmil", "center"),
    "csltal": ("classification", "alignment", "sparsity", "smoothness"),
    "ddl": ("mil", "dr", "da"),
    "urdmu": ("classification", "memory", "triplet", "kl", "magnitude"),
    "pel4vad": ("mil",),
    "vadclip": ("classification", "alignment", "texts"),
}


@contextmanager
def broken_at(head, step, term, value):
    """Inside, ``term`` of the loss of a head is ``value`` at ``step``, counted over all steps."""
    kind, steps = type(HEADS[head].build(6, HEADS[head].config())), itertools.count()
    loss = kind.loss

    def breaking(*arguments):
        terms = loss(*arguments)
        assert tuple(terms) == TERMS[head]
        return terms | ({term: terms[term] + value} if next(steps) == step else {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "loss", breaking)
        yield


@pytest.mark.parametrize(
    "head, term",
    [*((head, TERMS[head][0]) for head in HEADS), ("rtfm", "smoothness"), ("ddl", "da")],
)
def test_a_term_that_is_not_finite_is_named_and_its_epoch_is_in_the_log(tmp_path, head, term):
    """Nothing of the broken epoch is kept but its rows, which the run that goes on forgets."""
    is_first = term == TERMS[head][0]
    value = np.nan if is_first else np.inf
    changes = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4} | NARROW.get(head, {})
    config = dict(head=head, schedule="small", settings=changes, seeds=(7,), snapshots=0)
    told = f"loss term '{term}' is {value} at epoch 1, step 4 .videos .*look at .* log.csv"
    with pytest.raises(TrainingError, match=told), broken_at(head, 4, term, value):
        train(*tiny_set(), config, tmp_path / "r")
    rows = list(csv.DictReader((tmp_path / "r" / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "0", "0", "1", "1"]
    assert rows[-1][term] == str(value)
    odd = {name for row in rows for name in row if not np.isfinite(float(row[name]))}
    assert odd == {term, "total"}
    if is_first:
        train(*tiny_set(), config, tmp_path / "whole")
        train(*tiny_set(), config | dict(resume=True), tmp_path / "r")
        assert bytes_of(tmp_path / "r") == bytes_of(tmp_path / "whole")


def test_features_of_a_folder_are_trained_on(tmp_path):
    ids = {"train": ODD_IDS[:4], "test": ODD_IDS[4:]}
    write_folder(tmp_path / "rgb", [stored_video(each) for part in ids.values() for each in part])
    videos = tuple(
        Video(video_id, "x.mp4", split=split, label=n % 2, intervals=((0, 16),) if n % 2 else ())
        for split, part in ids.items()
        for n, video_id in enumerate((*part, f"gone {split} \udcff"))
    )
    manifest = Manifest(tmp_path / "own.csv", videos)
    with open_features(tmp_path) as features:
        config = CONFIG | dict(allow_missing=True)
        report = train(features, manifest, config, tmp_path / "run")
    assert report.by_seed[7]["last"]["num_videos"] == len(ids["test"])
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["missing"] == ["gone test \udcff", "gone train \udcff"]


@pytest.mark.parametrize("streams, dim", [("flow", 6), ("concat", 12)])
def test_streams_decide_the_width_of_the_network(tmp_path, streams, dim):
    head_config = replace(SMALL, epochs=1)
    config = CONFIG | dict(streams=streams, settings=head_config)
    train(*tiny_set(flow=True), config, tmp_path)
    run = load_checkpoint(tmp_path)
    assert (run.streams, run.head.dim) == (streams, dim)


def test_small_sets_train_with_the_published_batch(tmp_path):
    """Batch 128 on 4 items: one batch an epoch, nothing dropped."""
    config = CONFIG | dict(settings=replace(SMALL, batch_size=128))
    train(*tiny_set(num_train=2, num_test=2), config, tmp_path)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 3


def test_several_seeds_do_not_overwrite_a_run_of_one(run):
    with pytest.raises(CheckpointError, match="holds a run of one seed"):
        train(*tiny_set(), CONFIG | dict(seeds=(1, 2)), run[0])


@pytest.fixture
def two_seeds(run, tmp_path):
    """A finished run of the seeds 0 and 1; of another kind each, but only their folders count."""
    for seed in (0, 1):
        shutil.copytree(run[0], tmp_path / f"seed-{seed}")
    return tmp_path


@pytest.mark.parametrize("seeds", [(2, 3), (0,), (1, 2), (0, 1)])
def test_seeds_are_not_added_to_a_run_of_others(two_seeds, seeds):
    asked = ",".join(map(str, seeds))
    with pytest.raises(CheckpointError, match=f"holds seeds 0,1, asked for {asked}: "):
        train(*tiny_set(), CONFIG | dict(seeds=seeds), two_seeds)
    if seeds != (0, 1):
        with pytest.raises(CheckpointError, match=f"holds seeds 0,1, asked for {asked}: "):
            train(*tiny_set(), CONFIG | dict(seeds=seeds, resume=True), two_seeds)
    assert not (two_seeds / "metrics.json").exists() and not (two_seeds / "seed-2").exists()


def test_figures_cover_every_seed_when_seeds_are_added(tmp_path):
    config = CONFIG | dict(settings=replace(SMALL, epochs=1))
    train(*tiny_set(), config | dict(seeds=(10, 2)), tmp_path)
    train(*tiny_set(), config | dict(seeds=(2, 10, 3), resume=True), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {entry["seed"] for entry in metrics["seeds"]} == {2, 3, 10}
    assert list(seed_folders(tmp_path)) == [2, 3, 10]


def test_checkpoint_says_what_it_was_trained_on(run):
    record = json.loads((run[0] / "checkpoint-last.json").read_text())
    assert record["specs"]["rgb"]["weights"] == "random:0"
    assert record["specs"]["rgb"]["hash"] == tiny_set()[0].specs["rgb"].hash
    assert record["versions"]["torch"] == torch.__version__
    assert record["metrics"]["num_videos"] == 6
    assert (record["head"], record["seed"], record["config"]["sigma"]) == ("ddl", 7, 6.0)


def test_checkpoint_comes_back_as_it_was(run, tmp_path):
    loaded = load_checkpoint(run[0])
    assert loaded.config == SMALL and not loaded.head.training
    save_checkpoint(tmp_path, loaded)
    for suffix in ("json", "safetensors"):
        name = f"{LAST}.{suffix}"
        assert (tmp_path / name).read_bytes() == (run[0] / name).read_bytes()


def copied(run, tmp_path):
    for suffix in ("json", "safetensors"):
        name = f"{LAST}.{suffix}"
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    return tmp_path / f"{LAST}.json", tmp_path / f"{LAST}.safetensors"


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint-last.json: not there"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-7], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])],
    ids=["cut", "empty", "one bit"],
)
def test_damaged_tensors_are_refused(run, tmp_path, damage):
    _, tensors = copied(run, tmp_path)
    tensors.write_bytes(damage(tensors.read_bytes()))
    with pytest.raises(CheckpointError, match="checkpoint-last.safetensors: .*damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head": "other"}, "not a checkpoint of this version"),
        ({"config": {"sigmas": 6}}, "not a checkpoint of this version"),
        ({"specs": {"rgb": {"spec": {}}}}, "rgb: not a feature spec"),
        ({"version": 99}, "not a checkpoint of this version: .*99"),
        (
            {"dim": 7},
            r"tensors do not fit the network: .*attention.key.weight: .*\[8, 6\].*\[8, 7\]",
        ),
    ],
)
def test_records_that_do_not_fit_are_refused(run, tmp_path, change, message):
    path, _ = copied(run, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_damaged_json_is_refused(run, tmp_path, text):
    path, _ = copied(run, tmp_path)
    path.write_text(text)
    with pytest.raises(CheckpointError, match="checkpoint-last.json: damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("most_rows", [1, 40, 10_000])
def test_videos_that_are_scored_together_come_back_by_their_ids(most_rows):
    features, manifest = tiny_set(num_test=9)
    ids = [video.video_id for video in manifest.videos]
    torch.manual_seed(0)
    head = HEADS["ddl"].build(6, SMALL)
    alone = score_videos(head, features, ids, ("rgb",))
    together = score_videos(head, features, ids, ("rgb",), most_rows)
    assert list(together) == ids
    for video_id in ids:
        found, expected = together[video_id].snippets, alone[video_id].snippets
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
