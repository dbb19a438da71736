"""Command score: videos and features, presets, runs that cannot be repeated."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support.commands import CHEAP, message, run
from support.runs import CAUTION, VIDEOS, cheaply, ok, train, write_manifest
from support.scored import data_of
from support.videos import write_video

from vadprep import extraction, score
from vadprep.backbones import Backbone, has_cpu_bf16
from vadprep.backbones.graphs import GRAPHS
from vadprep.core.errors import CheckpointError, SettingError
from vadprep.core.presets import resolve
from vadprep.data.sources import list_videos
from vadprep.evaluation.protocol import evaluate
from vadprep.evaluation.scores import Origin, read_scores
from vadprep.extraction import extractor
from vadprep.features import open_features
from vadprep.training import TrainingRun


@pytest.fixture(autouse=True)
def patch():
    with cheaply() as patch:
        yield patch


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
    assert set(found) == set(expected) == set("abcd")
    for name, scores in expected.items():
        same = found[name]
        np.testing.assert_array_equal(same.snippets, scores.snippets)
        np.testing.assert_array_equal(same.spans, scores.spans)
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert read_scores(tmp_path / "scores.h5").origin == Origin({"rgb": "random:0"})


def test_clips_that_overlap_are_trained_on_scored_and_exported(place, tmp_path):
    """One clip each 8 frames: a frame has the mean of the clips that show it, everywhere."""
    manifest, out = place / "m.csv", tmp_path / "f"
    named = ("--manifest", manifest, "--root", place / "videos", "--out", out)
    ok("extract", *named, *CHEAP, "--crops", "5", "--set", "clip_stride=8")
    train(place, tmp_path / "r", "--features", out)
    tested = read_scores(tmp_path / "r" / "scores-last.h5")
    ok("score", tmp_path / "r", place / "videos" / "d.mp4", "--out", tmp_path / "s", "--no-plots")
    found = read_scores(tmp_path / "s" / "scores.h5")["d"]
    np.testing.assert_array_equal(found.snippets, tested["d"].snippets)
    spans = found.spans.tolist()
    assert spans == [[start, min(start + 16, 81)] for start in range(0, 65, 8)]
    shown = [[s for s, (a, b) in zip(found.snippets, spans, strict=True) if a <= t < b]
             for t in range(80)]  # fmt: skip
    np.testing.assert_allclose(found.frames(), [np.mean(each) for each in shown], atol=1e-6)
    labels = {"c": np.zeros(64), "d": np.arange(80) < 16}
    pooled = [np.concatenate([each[name] for name in "cd"])
              for each in ({n: v.frames() for n, v in tested.items()}, labels)]  # fmt: skip
    metrics = json.loads(ok("eval", tmp_path / "r", "--json"))[str(tmp_path / "r")]
    assert metrics["frame_auc"] == pytest.approx(roc_auc_score(pooled[1], pooled[0]))
    layout = ("--layout", "xdviodet", "--manifest", manifest)
    told = ok("export", out, "--out", tmp_path / "out", *layout)
    assert "clips overlap (16 frames, one each 8): the code counts a frame once for each" in told
    truth = np.load(next((tmp_path / "out").rglob("*gt*.npy")))
    per_clip = [labels[name][a:b] for name in "dc" for a, b in tested[name].spans]
    np.testing.assert_array_equal(truth, np.concatenate(per_clip))
    assert "equal" in ok("compare", out, out)
    assert "clip_stride: 16 / 8" in run("compare", place / "f", out).output


def test_alarms_and_frames_of_a_video_are_written(place, tmp_path):
    """Two thresholds: every frame is an alarm, none is."""
    clip = place / "videos" / "d.mp4"
    for threshold, intervals in (("0", [(0, 80)]), ("1", [])):
        output = ok("score", place / "r", clip, "--out", tmp_path, "--threshold", threshold)
        record = json.loads((tmp_path / "scores.json").read_text())
        (entry,) = record["videos"]
        found = [(each["start_frame"], each["stop_frame"]) for each in entry["alarms"]]
        assert found == intervals and (entry["video_id"], entry["fps"]) == ("d", 25.0)
        assert ("0.0-3.2 s" in output) == bool(intervals)
        assert f"1 video scored in {tmp_path}" in output
        frames = read_scores(tmp_path / "scores.h5")["d"].frames()
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
    found = read_scores(tmp_path / "s" / "scores.h5").origin
    assert found == Origin({"rgb": "random:0"}, False, "xd")
    spec = json.loads((tmp_path / "s/features/rgb/spec.json").read_text())["spec"]
    assert (spec["fps"], spec["tail"], spec["crops"]) == ("24", "drop", 5)


def test_a_preset_of_another_dimension_is_refused_before_extracting(place, imported, tmp_path):
    named = ("score", imported / "r", place / "videos", "--out", tmp_path / "s", *AS_EXTRACTED)
    refused = message(run(*named))
    assert "features of dimension 256, inception_i3d gives 1024: take a preset of" in refused
    unnamed = message(run(*named[:-2]))
    assert unnamed == "the weights of the run's features are unknown: name them by --weights"
    assert not (tmp_path / "s").exists()


def test_imported_features_are_scored_as_they_are_and_under_a_preset(place, imported, tmp_path):
    named = ("--features", imported / "f", "--out", tmp_path, "--no-plots")
    refused = message(run("score", place / "r", *named))
    assert "take a preset for what is unknown (--preset NAME)" in refused
    expected = read_scores(imported / "r" / "scores-last.h5")
    for options in ((), ("--preset", "xd")):
        ok("score", imported / "r", *named, *options)
        found = read_scores(tmp_path / "scores.h5")
        assert found.origin.preset == "".join(options[1:])
        for video_id, scores in expected.items():
            np.testing.assert_array_equal(found[video_id].snippets, scores.snippets)
    nothing = message(run("score", place / "r", "--features", place / "f", "--preset", "xd"))
    assert nothing == "preset xd: no field is unknown that it could fill in"


def test_videos_are_scored_on_both_streams(place, tmp_path):
    named = ("--manifest", place / "m.csv", "--out", tmp_path / "f", *CHEAP)
    ok("extract", *named, "--root", place / "videos", "--streams", "rgb,flow")
    options = ("--streams", "concat", "--features", tmp_path / "f", "--out", tmp_path / "r")
    ok("train", "ddl", "--manifest", place / "m.csv", "--seeds", "0", *options)
    ok("score", tmp_path / "r", place / "videos", "--out", tmp_path / "s", "--no-plots")
    ok("score", tmp_path / "r", "--features", tmp_path / "f", "--out", tmp_path / "again")
    found = read_scores(tmp_path / "s" / "scores.h5")
    for name, scores in read_scores(tmp_path / "again" / "scores.h5").items():
        same = found[name]
        np.testing.assert_array_equal(same.snippets, scores.snippets)
    refused = run("score", tmp_path / "r", place / "videos", "--flow-weights", "random:1")
    assert "flow weights_sha256: " in message(refused)


def test_videos_are_extracted_on_a_gpu_where_there_is_one(place, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    plans = []

    def stop(plan, *_, **__):
        plans.append(plan)
        raise Reached

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(extraction, "run_plan", stop)
    for device in (None, "cpu"):
        with pytest.raises(Reached):
            score(place / "r", place / "videos", out=tmp_path, device=device)
    assert [(plan.device, plan.workers) for plan in plans] == [("cuda", 1), ("cpu", 1)]


def test_score_knows_the_ground_truth_of_the_run(place, tmp_path):
    """Videos a and b were trained on; the interval of d is [0, 16) of 25 frames a second."""
    for source in ((place / "videos",), ("--features", place / "f")):
        output = ok("score", place / "r", *source, "--out", tmp_path / "s")
        assert re.search(r"^a +\d .* normal$", output, re.M)
        assert re.search(r"^d +\d .* 0\.0-0\.6 s$", output, re.M)
        said = r"frame_auc [\d.]{6} over 2 videos with ground truth in m\.csv, those of split train"
        assert re.search(said, output)
        metrics = evaluate(tmp_path / "s" / "scores.h5", manifest=place / "m.csv")
        assert f"frame_auc {metrics.values['frame_auc']:.4f} over 2 " in output
        record = json.loads((tmp_path / "s" / "scores.json").read_text())
        known = {each["video_id"]: (each["label"], each["intervals"]) for each in record["videos"]}
        assert known == {"a": (0, []), "b": (1, [[16, 32]]), "c": (0, []), "d": (1, [[0, 16]])}
        assert (tmp_path / "s" / "d.scores.csv").exists() and (tmp_path / "s/d.scores.png").exists()


def test_a_run_folder_is_evaluated_on_its_own_manifest(place, tmp_path, monkeypatch):
    expected = evaluate(place / "r", manifest=place / "m.csv")
    monkeypatch.chdir(tmp_path)
    assert evaluate(place / "r") == expected
    assert evaluate(TrainingRun(place / "r", "", Origin({}), {})) == expected
    shutil.copytree(place / "r", tmp_path / "seeds" / "seed-3")
    assert evaluate(tmp_path / "seeds" / "seed-3") == expected
    with pytest.raises(CheckpointError, match="seeds: holds several seeds: name one, such as .*-3"):
        evaluate(tmp_path / "seeds")
    with pytest.raises(SettingError, match="dataset= or manifest="):
        evaluate(place / "r" / "scores-last.h5")


@pytest.mark.parametrize("source", [None, 3, [None], b"x", {"a": 1}])
def test_what_is_no_source_of_scores_is_refused(place, source):
    with pytest.raises(SettingError, match="^source = .*: expected a feature folder, opened"):
        score(place / "r", source)


def test_arguments_of_score_of_another_kind_are_named(place, tmp_path):
    with open_features(place / "f") as features:
        with pytest.raises(SettingError, match="^source = VideoFeatures.*: expected a feature"):
            score(place / "r", features["a"])
    for name in ("out", "weights", "preset", "dataset", "manifest", "device"):
        options = {"out": tmp_path, name: 3}
        with pytest.raises(SettingError, match=f"^{name} = 3: expected a "):
            score(place / "r", place / "videos", **options)
    device = torch.device("cpu")
    assert len(score(place / "r", place / "videos", out=tmp_path / "s", device=device)) == 4


def test_ground_truth_comes_from_the_manifest_that_is_named(place, tmp_path):
    clip = place / "videos" / "d.mp4"
    named = write_manifest(tmp_path / "m.csv", [("yard-d", "test", 1, '"[[3, 9]]"')])
    named.write_text(named.read_text().replace("yard-d.mp4", "d.mp4"))
    options = ("--out", tmp_path / "s", "--no-plots")
    output = ok("score", place / "r", clip, *options, "--manifest", named)
    assert "1 video with ground truth in m.csv" in output
    (entry,) = json.loads((tmp_path / "s" / "scores.json").read_text())["videos"]
    assert (entry["video_id"], entry["intervals"]) == ("yard-d", [[3, 9]])
    assert entry["frames"] == "yard-d.scores.csv"
    others = write_manifest(tmp_path / "o.csv", [("z", "test", 0, "[]")])
    output = ok("score", place / "r", clip, *options, "--manifest", others)
    assert f"note: no ground truth: none of the videos is in {others}" in output
    named.write_text(named.read_text().replace("[3, 9]", "[3, 900]"))
    refused = message(run("score", place / "r", clip, *options, "--manifest", named))
    assert "900" in refused and str(named) in refused
    named.write_text("video_id\n")
    assert str(named) in message(run("score", place / "r", clip, *options, "--manifest", named))


def test_the_page_shows_the_videos_that_were_scored(place, tmp_path):
    named = write_manifest(tmp_path / "m.csv", [("yard-d", "test", 1, '"[[3, 9]]"')])
    named.write_text(named.read_text().replace("yard-d.mp4", "d.mp4"))
    options = ("--manifest", named, "--out", tmp_path / "s", "--threshold", 0.25)
    output = ok("score", place / "r", place / "videos" / "d.mp4", *options)
    page = tmp_path / "s" / "page"
    assert f"Look at the scores in a browser: {page / 'index.html'}" in output
    data = data_of(page / "videos" / "000000-yard-d.html")
    assert (data["id"], data["threshold"]) == ("yard-d", 0.25) and data["intervals"]
    assert (page / "media" / "000000-yard-d.mp4").is_file()
    shutil.rmtree(page)
    output = ok("score", place / "r", place / "videos" / "d.mp4", *options, "--page", "none")
    assert not page.exists() and "browser" not in output


def test_scores_need_no_ground_truth(place, tmp_path):
    """The manifest of the run is gone: a note says so, and ids are paths."""
    gone = changed(place / "r", tmp_path / "r")
    clip = place / "videos" / "d.mp4"
    output = ok("score", gone, clip, "--out", tmp_path / "s", "--no-plots")
    assert f"note: no ground truth: {gone / 'config.json'}: not there" in output
    (entry,) = json.loads((tmp_path / "s" / "scores.json").read_text())["videos"]
    found = [entry[name] for name in ("video_id", "label", "intervals", "frames")]
    assert found == [str(clip), None, None, "d.mp4.scores.csv"]


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
    found = list_videos([Path("in/a.mp4"), Path("in"), Path("in/../in/a.mp4")])
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
    assert f"none of 1 video could be scored: {tmp_path / 's'} is as it was" in none.output
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
        (("--features", "videos"), "videos: no features here"),
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
        ({"scaling": "[0,2]"}, (), "scaling = '[0,2]': allowed are [-1,1]"),
        ({"crop_size": 112}, (), "crop_size = 112: inception_i3d takes 224 px and more"),
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
        "vadprep.evaluation.plots.plot_video", lambda *each: titles.append(each[-1])
    )
    ok("score", place / "r", "--features", place / "f", "--out", tmp_path)
    assert titles == [CAUTION] * 4


@pytest.mark.slow
def test_the_whole_line_with_the_real_network(tmp_path, patch):
    """Two videos: extract, train, score the features, score the videos: the same scores."""
    patch.setattr(extractor, "Backbone", Backbone)
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
