"""Scoring: crops averaged, spans kept, features that do not fit refused; files and plots."""

from __future__ import annotations

import fcntl
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.stored import ODD_IDS, stored_video, write_folder
from support.tiny_features import TinyFeatures, TinyVideo, tiny_set

from vadprep.core.errors import CheckpointError, FeaturesError, ManifestError, SettingError
from vadprep.core.spec import UNKNOWN
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.plots import metric_rows, plot_scores, plot_video
from vadprep.evaluation.protocol import evaluate
from vadprep.evaluation.scores import Origin, read_scores, write_scores
from vadprep.features.reader import open_features
from vadprep.heads.ddl import DDL, DDLConfig
from vadprep.training.checkpoint import Checkpoint, load_run
from vadprep.training.scoring import score_features, score_newest

SMALL = DDLConfig(width=8, hidden=16, embedding=8, kernel=3)
ORIGIN = Origin({"rgb": "random:0", "flow": "trained.pt"}, control=True)


def run_on(features, dim=6, streams="rgb"):
    torch.manual_seed(0)
    specs = {stream: features.specs[stream] for stream in features.streams}
    return Checkpoint("ddl", DDL(dim, SMALL), streams, specs, seed=0)


def test_scores_are_the_mean_over_crops():
    features, _ = tiny_set(crops=3)
    run, video_id = run_on(features), next(iter(features))
    run.head.train()  # scoring is without dropout whatever the mode before
    values = torch.from_numpy(features[video_id].stream("rgb").astype(np.float32))
    found = score_features(run, features, ids=[video_id])[video_id]
    with torch.no_grad():
        each = [
            run.head(values[None, None, :, c], torch.ones(1, len(values), dtype=bool))
            for c in range(3)
        ]
    expected = np.mean([output.scores[0].numpy() for output in each], axis=0)
    np.testing.assert_allclose(found.snippets, expected, rtol=0, atol=1e-7)
    assert found.snippets.dtype == np.float64


def test_online_scores_are_those_of_the_newest_snippets_of_a_run():
    """Mean over the seeds, from features as they are stored."""
    features, _ = tiny_set(crops=3)
    first = run_on(features)
    torch.manual_seed(1)
    run = [first, replace(first, head=DDL(6, SMALL), seed=1)]
    found = score_features(run, features, online=True, window=5)
    for video_id, video in found.items():
        stored = features[video_id].stream("rgb")
        ends = range(1, len(stored) + 1)
        newest, classes = score_newest(run, [stored[max(0, end - 5) : end] for end in ends])
        np.testing.assert_allclose(video.snippets, newest, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(video.spans, features[video_id].spans)
        assert classes is None and video.overall is None
    offline = score_features(run, features)
    assert found.keys() == offline.keys()
    assert any(np.any(abs(found[n].snippets - offline[n].snippets) > 1e-3) for n in found)


def test_score_does_not_depend_on_the_other_videos():
    features, _ = tiny_set()
    run, last = run_on(features), list(features)[-1]
    alone = score_features(run, features, ids=[last])[last]
    np.testing.assert_array_equal(score_features(run, features)[last].snippets, alone.snippets)


def test_spans_frames_and_rate_travel_with_the_scores():
    features, _ = tiny_set()
    for video_id, scores in score_features(run_on(features), features).items():
        np.testing.assert_array_equal(scores.spans, features[video_id].spans)
        assert (scores.num_frames, scores.fps) == (features[video_id].num_frames, 25.0)
        assert len(scores.frames("hold")) == features[video_id].num_frames


def test_video_without_a_snippet_has_no_scores():
    features = TinyFeatures([TinyVideo("short", {"rgb": np.zeros((0, 2, 6), np.float16)})])
    assert score_features(run_on(features), features)["short"].snippets.shape == (0,)


def test_unknown_ids_are_listed():
    features, _ = tiny_set()
    with pytest.raises(FeaturesError, match=r"no features of 2 \(x, y\)"):
        score_features(run_on(features), features, ids=["y", "x"])


def test_features_of_another_dimension_are_refused_with_both():
    features, _ = tiny_set(dim=5)
    with pytest.raises(CheckpointError, match="dimension 5, but the head was trained on 6"):
        score_features(run_on(features), features)


def other_spec(features, **changes):
    return TinyFeatures(features.values(), changes)


def test_features_of_another_spec_are_refused_by_field():
    features, _ = tiny_set()
    other = other_spec(features, fps="24", tail="xd")
    with pytest.raises(CheckpointError, match=r"rgb fps: 25 / 24; rgb tail: drop / xd\."):
        score_features(run_on(features), other)


def test_a_field_is_accepted_by_name():
    features, _ = tiny_set()
    other = other_spec(features, fps="24", tail="xd")
    assert score_features(run_on(features), other, accept=("fps", "tail"))
    with pytest.raises(CheckpointError, match=r"\): rgb tail"):
        score_features(run_on(features), other, accept=("fps",))


def imported_alike(**changes):
    """Features of the spec that an import leaves, but for ``changes``."""
    features, _ = tiny_set()
    blank = dict.fromkeys(("filter", "resize", "fps", "sampling", "tail"), UNKNOWN)
    known = {"preset": "imported-rtfm", "weights": UNKNOWN, "weights_sha256": UNKNOWN}
    features.specs = {"rgb": replace(features.specs["rgb"], **blank | known | changes)}
    return features


def test_features_of_the_same_import_settings_are_scored(caplog):
    """What an import finds in the numbers of frames may be unknown of one of the two."""
    caplog.set_level("INFO", "vadprep")
    run = run_on(imported_alike())
    for changes in ({}, {"tail": "xd"}, {"fps": "native", "sampling": "index"}):
        caplog.clear()
        assert score_features(run, imported_alike(**changes))
        (said,) = caplog.messages
        assert said.startswith("rgb: unknown of these features and of the run's: filter, ")
    caplog.clear()
    assert score_features(run_on(tiny_set()[0]), tiny_set()[0]) and not caplog.messages


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"preset": "imported-urdmu"}, r"rgb unknown of both: weights_sha256, fps, resize, filter"),
        ({"filter": "pil-lanczos"}, r"\): rgb filter: unknown / pil-lanczos\. .* or import both w"),
        ({"weights": "x.pt"}, r"\): rgb unknown of both: weights_sha256\. "),
    ],
)
def test_features_of_other_import_settings_are_refused(changes, expected):
    with pytest.raises(CheckpointError, match=expected):
        score_features(run_on(imported_alike()), imported_alike(**changes))


def test_a_stream_that_is_not_there_is_named():
    both, _ = tiny_set(flow=True)
    with pytest.raises(CheckpointError, match="needs the streams flow, rgb, flow is not there"):
        score_features(run_on(both, 12, "concat"), tiny_set()[0])


def test_scores_file_comes_back_as_it_was(tmp_path):
    scores = dict(score_features(run_on(tiny_set()[0]), tiny_set()[0]))
    first = next(iter(scores))
    scores[first] = replace(scores[first], fps=None)
    write_scores(tmp_path / "scores.h5", scores, ORIGIN, "last")
    found = read_scores(tmp_path / "scores.h5")
    assert list(found) == list(scores)
    for video_id, video in scores.items():
        np.testing.assert_array_equal(found[video_id].snippets, video.snippets)
        np.testing.assert_array_equal(found[video_id].spans, video.spans)
        assert (found[video_id].num_frames, found[video_id].fps) == (video.num_frames, video.fps)


def test_features_of_a_folder_are_scored_whatever_their_ids(tmp_path):
    write_folder(tmp_path / "rgb", [stored_video(video_id) for video_id in ODD_IDS])
    with open_features(tmp_path) as features:
        scores = score_features(run_on(features, dim=4), features)
    write_scores(tmp_path / "scores.h5", scores, ORIGIN, "last")
    found = read_scores(tmp_path / "scores.h5")
    assert set(found) == set(ODD_IDS)
    assert all(len(video.frames("hold")) == 53 for video in found.values())


def test_scores_file_says_what_it_comes_from(tmp_path):
    path = tmp_path / "scores.h5"
    write_scores(path, {}, ORIGIN, "last")
    assert read_scores(path).origin == ORIGIN
    with h5py.File(path) as file:
        named = dict(file.attrs)
    assert (named["random_weights"], named["control"], named["checkpoint"]) == (True, True, "last")
    assert named["weights"] == '{"rgb": "random:0", "flow": "trained.pt"}'


@pytest.mark.parametrize(
    "weights, control, caution",
    [
        ({"rgb": "rgb_imagenet.pt"}, False, ""),
        ({"rgb": "random:0"}, False, "weights random:0, NEVER TRAINED"),
        ({"rgb": "x.pt", "flow": "random:7"}, False, "weights random:7, NEVER TRAINED"),
        (
            {"rgb": "random:0", "flow": "random:0"},
            True,
            "weights random:0, NEVER TRAINED; CONTROL on shuffled labels, not a detector",
        ),
    ],
)
def test_what_has_to_be_said_beside_scores(weights, control, caution):
    assert Origin(weights, control).caution() == caution


def test_scores_are_read_where_files_cannot_be_locked(tmp_path):
    """Another process that holds the lock stands for a file system that has none."""
    path = tmp_path / "scores.h5"
    write_scores(path, {}, ORIGIN, "last")
    with path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not read_scores(path)


@pytest.mark.parametrize("content", [None, b"", b"\x89HDF\r\n\x1a\n cut"])
def test_damaged_scores_file_is_named(tmp_path, content):
    path = tmp_path / "scores.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="scores.h5: scores are missing or damaged"):
        read_scores(path)


def test_evaluate_needs_a_manifest_row_for_each_id():
    features, manifest = tiny_set()
    scores = score_features(run_on(features), features)
    first, *others = manifest.videos
    other = replace(first, video_id=f"{first.video_id}.mp4")
    fewer = replace(manifest, videos=(other, *others))
    with pytest.raises(ManifestError, match="no row for scored videos: 1.*suffix alone"):
        evaluate(scores, manifest=fewer)


def test_normal_videos_need_no_intervals():
    features, manifest = tiny_set()
    scores = score_features(run_on(features), features)
    blank = tuple(replace(v, intervals=v.intervals if v.label else None) for v in manifest.videos)
    found = evaluate(scores, manifest=replace(manifest, videos=blank))
    assert found.values == evaluate(scores, manifest=manifest).values


def test_no_test_video_is_a_reason_not_an_error():
    assert evaluate({}, manifest=tiny_set()[1]).reasons["frame_ap"] == "no test video"


def test_videos_of_split_train_judge_nothing_beside_others(tmp_path, caplog):
    features, manifest = tiny_set()
    scores = score_features(run_on(features), features)
    split = {name: [v.video_id for v in manifest.in_split(name)] for name in ("train", "test")}
    ours = {name: {each: scores[each] for each in ids} for name, ids in split.items()}
    expected = evaluate(ours["test"], manifest=manifest)
    assert not caplog.messages and expected.num_videos == len(split["test"])
    write_scores(tmp_path / "scores.h5", scores, ORIGIN, "last")
    for found in (scores, tmp_path / "scores.h5"):
        assert evaluate(found, manifest=manifest) == expected
        assert caplog.messages == [f"{manifest.path}: 8 videos of split train left out"]
        caplog.clear()
    found = evaluate(ours["train"], manifest=manifest)
    assert found.num_videos == 8 == len(split["train"]) and not caplog.messages


@pytest.mark.parametrize("scores", [None, 3, [], {"a": 1}, object()])
def test_what_is_no_scores_is_refused(scores):
    with pytest.raises(SettingError, match="^scores.* = .*: expected "):
        evaluate(scores, manifest=tiny_set()[1])


@pytest.mark.parametrize(
    "argument", [{"manifest": 3}, {"dataset": 3}, {"coverage": 3}, {"smoothing": 3}]
)
def test_an_argument_of_an_evaluation_of_another_kind_is_named(argument):
    (name,) = argument
    with pytest.raises(SettingError, match=f"^{name} = 3: expected a "):
        evaluate({}, **argument)
    with pytest.raises(SettingError, match="coverage = 'all': allowed are cut, hold"):
        evaluate({}, manifest=tiny_set()[1], coverage="all")


@pytest.mark.parametrize("run", [None, 3, [], [3], b"r", object()])
def test_what_is_no_run_is_refused(run):
    with pytest.raises(SettingError, match="^run = .*: expected a run folder, or what train"):
        load_run(run)


@pytest.mark.parametrize("intervals", [((10, 40), (60, 80)), (), None])
@pytest.mark.parametrize("num_clips", [6, 0])
def test_plot_is_a_png_with_shaded_intervals(tmp_path, intervals, num_clips):
    image = pytest.importorskip("PIL.Image")
    edges = 16 * np.arange(num_clips + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    scores = VideoScores(np.linspace(0, 1, num_clips), spans, 16 * num_clips, 25.0)
    plot_video(tmp_path / "a.png", "Bad.Boys__#00_$x^2_" * 9, scores, intervals, "ddl")
    with image.open(tmp_path / "a.png") as png:
        pixels = np.asarray(png.convert("RGB")).reshape(-1, 3)
    shaded = np.all(pixels == (0xE8, 0xA5, 0x98), axis=1).mean()
    assert (shaded > 0.1) == bool(intervals)


def test_a_scores_file_is_plotted_and_evaluated(tmp_path):
    features, manifest = tiny_set()
    scores = score_features(run_on(features), features)
    write_scores(tmp_path / "scores.h5", scores, ORIGIN, "last")
    paths = plot_scores(tmp_path / "scores.h5", tmp_path / "plots", manifest=manifest)
    assert list(paths) == list(scores) and all(path.is_file() for path in paths.values())
    assert evaluate(tmp_path / "scores.h5", manifest=manifest) == evaluate(
        scores, manifest=manifest
    )
    with pytest.raises(ValueError, match="dataset= or manifest="):
        evaluate(scores)


def test_tables_show_fractions_and_why_a_figure_is_missing():
    rows = metric_rows({"last": {"frame_auc": 0.85124, "far": None}}, {"far": "not asked"})
    assert rows == [
        ("metric", "last", "why not"),
        ("frame_auc", "0.8512", ""),
        ("far", "-", "not asked"),
    ]
