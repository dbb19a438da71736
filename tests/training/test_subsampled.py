"""CSL-TAL's protocol: rows, spline, proposals and figures, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_features import TinyFeatures, TinyVideo

from vadprep.evaluation.metrics import Truth
from vadprep.heads import HEADS
from vadprep.heads.csltal import CSLTALConfig
from vadprep.training.csltal_protocol import (
    evaluate_subsampled,
    frame_curve,
    proposal_scores,
    subsampled_rows,
)


@pytest.mark.parametrize(
    "num_snippets, rows",
    [
        (1, [0]),
        (2, [0]),
        (6, [0, 1, 2, 3, 4]),
        (7, [0, 3]),
        (9, [0, 3, 6]),
        (11, [0, 3, 6]),
    ],
)
def test_every_third_row_is_fed_in(num_snippets, rows):
    assert subsampled_rows(num_snippets).tolist() == rows


def test_small_scores_are_zero_and_overshoot_is_cut():
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.array([0.0, 1.0, 1.0, 0.04, 0.04])
    spline, curve = ndimage.zoom(values, 16, order=3), frame_curve(values)
    assert spline.max() > 1
    assert curve.max() == 1 and curve[0] == 0 and curve[-1] == 0
    assert not ((curve > 0) & (curve < 0.05)).any()
    kept = (curve > 0) & (curve < 1)
    np.testing.assert_allclose(curve[kept], spline[kept], atol=1e-9)


def test_proposals_are_runs_above_the_threshold_with_their_mean():
    curve = np.array([0.5, 0.7, 0.35, 0.2, 0.36, 0.0, 0.9])
    assert proposal_scores(curve).tolist() == pytest.approx([0.6, 0.6, 0, 0, 0.36, 0, 0.9])
    assert not proposal_scores(np.zeros(3)).any()


def test_the_largest_proposal_alone_is_divided_by_two_frames_less():
    curve = np.array([0.5, 0.7, 0.1, 0.6, 0.6, 0.6, 0.9, 0.2, 0.8, 0.8, 0.8, 0.8])
    found = proposal_scores(curve, "largest")
    assert found.tolist() == pytest.approx([0] * 3 + [2.7 / 2] * 4 + [0] * 5)
    assert proposal_scores(curve[:2], "largest").tolist() == pytest.approx([1.2, 1.2])
    assert not proposal_scores(np.zeros(3), "largest").any()


def test_the_config_of_the_head_says_what_a_proposal_is(monkeypatch):
    """A short abnormal run and a longer normal one: the first is a proposal in one form only."""
    rows = np.repeat([0.9, 0.0, 0.6, 0.6], 3)[:, None, None]
    features = TinyFeatures([TinyVideo("a", {"rgb": rows})])
    found = []
    for form in ("runs", "largest"):
        head = HEADS["csltal"].build(1, CSLTALConfig(proposals=form))
        monkeypatch.setattr(head, "score", lambda x: (x[0, :, 0].double(), x[0].max().item()))
        found.append(evaluate_subsampled(head, features, {"a": Truth(((0, 16),), 1)}, ("rgb",)))
    both = [each.pop("proposal_auc") for each in found], [each.pop("proposal_ap") for each in found]
    assert found[0] == found[1] and all(runs > largest for runs, largest in both)


def test_figures_are_of_every_crop_and_of_the_third_snippets_alone(monkeypatch):
    """A head that repeats the first feature, checked against scikit-learn on the pools."""
    oracle = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    videos = [
        TinyVideo(name, {"rgb": rng.random((length, 2, 1))})
        for name, length in (("n", 12), ("a", 9), ("b", 3))
    ]
    features = TinyFeatures(videos)
    # Two frames of the fourth snippet of a are abnormal, and one of the second of b.
    truth = {"n": Truth((), 0), "a": Truth(((20, 50),), 1), "b": Truth(((0, 17),), 1)}
    head = HEADS["csltal"].build(1, CSLTALConfig())
    monkeypatch.setattr(head, "score", lambda x: (x[0, :, 0].double(), float(x[0, 0, 0])))
    found = evaluate_subsampled(head, features, truth, ("rgb",))

    pools = {level: ([], []) for level in ("frame", "proposal", "segment", "video")}
    for video in videos:
        known = truth[video.video_id]
        for crop in range(2):
            rows = {12: [0, 3, 6, 9], 9: [0, 3, 6], 3: [0, 1]}[video.num_clips]
            values = torch.tensor(video.streams["rgb"][rows, crop, 0]).float().double().numpy()
            frames = [16 * row + j for row in rows for j in range(16)]
            inside = [any(a <= f < b for a, b in known.intervals) for f in frames]
            touched = [any(inside[16 * i : 16 * i + 16]) for i in range(len(rows))]
            curve = frame_curve(values)
            for level, labels, scores in (
                ("frame", inside, curve),
                ("proposal", inside, proposal_scores(curve)),
                ("segment", touched, values),
                ("video", [known.label], values[:1]),
            ):
                pools[level][0].extend(labels)
                pools[level][1].extend(scores)
    expected = {}
    for level, (labels, scores) in pools.items():
        expected[f"{level}_auc"] = oracle.roc_auc_score(labels, scores)
        expected[f"{level}_ap"] = oracle.average_precision_score(labels, scores)
    assert found == pytest.approx(expected)


def test_unknown_intervals_leave_all_undefined():
    features = TinyFeatures([TinyVideo("a", {"rgb": np.zeros((3, 1, 1))})])
    head = HEADS["csltal"].build(1, CSLTALConfig())
    found = evaluate_subsampled(head, features, {"a": Truth(None, 1)}, ("rgb",))
    assert len(found) == 8 and set(found.values()) == {None}
