"""Figures against scikit-learn and against counting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.scored import video_scores

from vadprep import report
from vadprep.core.errors import SettingError
from vadprep.data import read_manifest
from vadprep.evaluation.metrics import (
    Truth,
    VideoScores,
    average_precision,
    average_precision_trapezoid,
    compute_metrics,
    false_alarm_rate,
    listed,
    roc_auc,
    segment_labels,
)
from vadprep.evaluation.truth import truth_of


def random_frames(seed, num_frames=500, num_scores=7):
    """Labels and scores with many ties."""
    rng = np.random.default_rng(seed)
    return rng.random(num_frames) < 0.3, rng.integers(num_scores, size=num_frames) / num_scores


def sklearn_trapezoid(sklearn_metrics, labels, scores):
    precision, recall, _ = sklearn_metrics.precision_recall_curve(labels, scores)
    return sklearn_metrics.auc(recall, precision)


@pytest.mark.parametrize("num_scores", [1, 2, 7, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_figures_equal_scikit_learn(seed, num_scores):
    oracle = pytest.importorskip("sklearn.metrics")
    labels, scores = random_frames(seed, num_scores=num_scores)
    expected = [
        oracle.roc_auc_score(labels, scores),
        oracle.average_precision_score(labels, scores),
        sklearn_trapezoid(oracle, labels, scores),
    ]
    found = [f(labels, scores) for f in (roc_auc, average_precision, average_precision_trapezoid)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_auc_is_the_share_of_pairs_in_order_with_ties_as_half():
    labels, scores = random_frames(3, num_frames=60)
    pairs = [(a > n) + (a == n) / 2 for a in scores[labels] for n in scores[~labels]]
    assert roc_auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-15)


def test_worked_example():
    # Descending: abnormal .9, then one of each at .5, then normal .1.
    labels, scores = np.array([True, True, False, False]), np.array([0.9, 0.5, 0.5, 0.1])
    assert roc_auc(labels, scores) == 7 / 8
    assert average_precision(labels, scores) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert average_precision_trapezoid(labels, scores) == pytest.approx(1 / 2 + 1 / 2 * 5 / 6)


def video(snippets, num_frames, edges):
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    return VideoScores(np.array(snippets, float), spans, num_frames, 25.0)


def two_videos():
    """One video at half the frame rate (spans of 8), one with frames after its last span."""
    scores = {
        "a": video([0.2, 0.9], 16, np.array([0, 8, 16])),
        "b": video([0.3, 0.1], 37, np.array([0, 16, 32])),
    }
    return scores, known({"a": ((6, 16),), "b": ()})


def known(intervals):
    """Truth of videos whose label is whether they have an interval."""
    return {each: Truth(found, int(bool(found))) for each, found in intervals.items()}


def test_evaluate_meets_labels_through_spans():
    oracle = pytest.importorskip("sklearn.metrics")
    scores, intervals = two_videos()
    labels = [0] * 6 + [1] * 10 + [0] * 32
    frames = [0.2] * 8 + [0.9] * 8 + [0.3] * 16 + [0.1] * 16
    metrics = compute_metrics(scores, intervals)
    assert metrics.values["frame_auc"] == pytest.approx(oracle.roc_auc_score(labels, frames))
    assert (metrics.num_videos, metrics.num_frames, metrics.num_abnormal_frames) == (2, 48, 10)


def test_hold_scores_the_frames_after_the_last_span():
    scores, intervals = two_videos()
    assert compute_metrics(scores, intervals, "hold").num_frames == 16 + 37


def test_order_of_the_mappings_does_not_matter():
    scores, intervals = two_videos()
    swapped = dict(reversed(scores.items()))
    assert compute_metrics(swapped, intervals).values == compute_metrics(scores, intervals).values


def test_intervals_are_cut_at_the_frames_that_were_scored():
    scores, _ = two_videos()
    metrics = compute_metrics(scores, known({"a": ((0, 16),), "b": ((30, 37),)}))
    assert metrics.num_abnormal_frames == 16 + 2


@pytest.mark.parametrize(
    "intervals, reason",
    [
        ({"a": (), "b": ()}, "no scored frame is abnormal"),
        ({"a": ((0, 16),), "b": ((0, 37),)}, "every scored frame is abnormal"),
    ],
)
def test_one_class_gives_none_with_the_reason(intervals, reason):
    entry = compute_metrics(two_videos()[0], known(intervals)).as_json()
    for name in ("frame_auc", "frame_ap", "frame_ap_trapezoid"):
        assert entry[name] is None
        assert entry["undefined"][name] == reason


def test_no_frames_at_all_is_undefined():
    scores = {"a": video([], 5, np.array([0]))}
    assert (
        compute_metrics(scores, known({"a": ((0, 5),)})).reasons["frame_auc"]
        == "no frame was scored"
    )


def four_videos():
    """Two normal and two abnormal videos of 16-frame clips, in two categories."""
    snippets = {"n1": [0.1, 0.6], "n2": [0.2, 0.3], "a1": [0.9, 0.4], "a2": [0.5, 0.55]}
    scores = {each: video(s, 32, np.array([0, 16, 32])) for each, s in snippets.items()}
    truth = {
        "n1": Truth((), 0),
        "n2": Truth((), 0),
        "a1": Truth(((0, 8),), 1, "fire|fight"),
        "a2": Truth(((17, 32),), 1, "fight"),
    }
    return scores, truth


def test_every_figure_by_hand():
    """Scores of frames: see ``four_videos``; each figure counted on its own."""
    metrics = compute_metrics(*four_videos())
    abnormal = [0.9] * 8 + [0.55] * 15
    of_abnormal_videos = [0.9] * 8 + [0.4] * 16 + [0.5] * 16 + [0.55]
    normal_frames = [0.1] * 16 + [0.6] * 16 + [0.2] * 16 + [0.3] * 16

    def auc(positive, negative):
        return np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])

    expected = {
        "frame_auc": auc(abnormal, of_abnormal_videos + normal_frames),
        "far": 16 / 64,  # only the 0.6 is an alarm
        "frame_auc_abnormal": auc(abnormal, of_abnormal_videos),
        "segment_auc": auc([0.9, 0.55], [0.1, 0.6, 0.2, 0.3, 0.4, 0.5]),
        "segment_ap": (1 / 1 + 2 / 3) / 2,
        "video_auc": auc([0.9, 0.55], [0.6, 0.3]),
        "video_ap": (1 / 1 + 2 / 3) / 2,
    }
    found = {name: metrics.values[name] for name in expected}
    assert found == pytest.approx(expected)
    assert list(metrics.values) == [
        *("frame_auc", "frame_ap", "frame_ap_trapezoid", "far", "frame_auc_abnormal"),
        *("segment_auc", "segment_ap", "video_auc", "video_ap"),
    ]


def test_categories_stand_alone_and_among_the_normal_videos():
    scores, truth = four_videos()
    found = compute_metrics(scores, truth).per_category
    assert {name: each["num_videos"] for name, each in found.items()} == {"fight": 2, "fire": 1}
    fire = {each: scores[each] for each in ("a1", "n1", "n2")}
    expected = compute_metrics(fire, {each: truth[each] for each in fire}).values
    assert len(found["fire"]) == 4
    for name in ("frame_auc", "frame_ap", "frame_auc_abnormal"):
        assert found["fire"][name] == expected[name]


def test_a_head_may_have_a_score_of_the_video():
    scores, truth = four_videos()
    scores["n1"] = replace(scores["n1"], overall=0.99)
    assert compute_metrics(scores, truth).values["video_auc"] == pytest.approx(2 / 4)


def test_labels_are_enough_for_figures_of_videos():
    scores, truth = four_videos()
    truth["a1"] = Truth(None, 1)
    metrics = compute_metrics(scores, truth)
    assert metrics.values["video_auc"] == pytest.approx(3 / 4)
    assert metrics.values["far"] is None and metrics.per_category == {}
    assert metrics.reasons["frame_auc"] == "anomalous intervals unknown for 1 (a1)"


def test_a_label_that_is_unknown_costs_the_figures_of_videos():
    scores, truth = four_videos()
    truth["n1"] = Truth((), None)
    metrics = compute_metrics(scores, truth)
    assert metrics.reasons["video_ap"] == "label unknown for 1 (n1)"
    assert metrics.values["frame_auc"] is not None


def test_figures_that_need_a_kind_of_video_say_so():
    scores, truth = four_videos()
    abnormal = [each for each in scores if each[0] == "a"]
    metrics = compute_metrics({i: scores[i] for i in abnormal}, {i: truth[i] for i in abnormal})
    assert metrics.reasons == {
        "far": "no normal video",
        "video_auc": "every scored video is abnormal",
        "video_ap": "every scored video is abnormal",
    }


def test_alarms_start_at_a_half():
    labels = np.array([False, False, False, False, True])
    scores = np.array([0.5, np.nextafter(0.5, 0), 0.9, 0.0, 0.9])
    assert false_alarm_rate(labels, scores) == 0.5


@pytest.mark.parametrize("threshold", [float("nan"), "0.5", None])
def test_an_alarm_needs_a_number(threshold, tmp_path):
    with pytest.raises(SettingError, match="^threshold = .*: expected a number"):
        video_scores([0.1, 0.9]).alarms(threshold)
    with pytest.raises(SettingError, match="^threshold = .*: expected a number"):
        report(tmp_path, out=tmp_path / "page", threshold=threshold)


def test_a_snippet_is_abnormal_by_half_of_its_span():
    labels = np.zeros(50, bool)
    labels[8:23] = True
    spans = np.array([[0, 16], [16, 31], [31, 31], [31, 50]])
    assert segment_labels(labels, spans).tolist() == [True, False, False, False]


def test_snippets_of_no_frame_count_in_no_segment():
    """As in a video of less than a clip's frames a second, whose frames are shown repeatedly."""
    spans = np.array([[0, 1], [1, 1], [1, 2], [2, 2], [2, 3], [3, 4]])
    video = VideoScores(np.array([0.1, 0.9, 0.9, 0.9, 0.9, 0.2]), spans, 4)
    found = compute_metrics({"v": video}, {"v": Truth(((1, 3),), 1)}).values
    assert (found["frame_auc"], found["segment_auc"], found["segment_ap"]) == (1, 1, 1)


def test_a_video_called_abnormal_without_an_interval_is_no_normal_one():
    scores = {"a": video_scores([0.9, 0.9]), "n": video_scores([0.1, 0.6])}
    truth = {"a": Truth((), 1), "n": Truth((), 0)}
    assert compute_metrics(scores, truth).values["far"] == 0.5


def test_long_lists_of_ids_are_shortened():
    assert listed(["b", "a"]) == "2 (a, b)"
    assert listed(f"{i:02d}" for i in range(12)).endswith("09, and 2 more)")


def manifest_of(tmp_path, *rows):
    (tmp_path / "m.csv").write_text("\n".join(["path,label,num_frames,intervals_seconds", *rows]))
    return read_manifest(tmp_path / "m.csv")


def test_intervals_past_the_end_and_other_lengths_are_said_once(tmp_path, caplog):
    rows = manifest_of(
        tmp_path,
        'a.mp4,1,,"[[1, 3.4]]"',
        'b.mp4,1,,"[[3.3, 3.5]]"',
        "c.mp4,0,2000,",
        "d.mp4,0,95,",
        "e.mp4,0,80,",
    )
    scores = {each: video_scores([0.1] * 5) for each in "abcde"}
    truth = truth_of(scores, rows)
    assert truth["a"].intervals == ((25, 80),) and truth["b"] == Truth((), 1)
    cut, other = caplog.messages
    assert cut.startswith("2 intervals past the end of a video") and "m.csv:2: " in cut
    assert "[25, 85) passes the 80 frames: cut there" in cut
    assert "1 video with another number of frames" in other
    assert "'c' has 80, the manifest says 2000" in other
