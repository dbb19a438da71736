"""Clip arithmetic: which clips exist, what they answer for, and the way back to frames."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from vadprep.core.clips import (
    Resampling,
    check_spans,
    frame_labels,
    frame_scores,
    min_frames,
    num_clips,
)

NATIVE = Resampling(Fraction(25))


@pytest.mark.parametrize(
    ("frames", "drop", "xd", "repeat_last"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (15, 0, 0, 1),
        (16, 1, 0, 1),
        (17, 1, 1, 2),
        (32, 2, 1, 2),
        (530, 33, 33, 34),
        (1600, 100, 99, 100),
        (1601, 100, 100, 101),
        (2729, 170, 170, 171),
        (8096, 506, 505, 506),
    ],
)
def test_clip_counts_of_the_tail_rules(frames, drop, xd, repeat_last):
    counts = [num_clips(frames, tail) for tail in ("drop", "xd", "repeat-last")]
    assert counts == [drop, xd, repeat_last]


def test_an_unknown_tail_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="tail = 'loop'.*drop, xd, repeat-last"):
        num_clips(16, "loop")


@pytest.mark.parametrize(("tail", "fewest"), [("drop", 16), ("xd", 17), ("repeat-last", 1)])
def test_min_frames_is_the_shortest_video_with_a_clip(tail, fewest):
    assert min_frames(tail) == fewest
    assert num_clips(fewest, tail) == 1
    assert num_clips(fewest - 1, tail) == 0


def naive_sources(num_source, fps_source, fps_used):
    """Source frame of each resampled frame, by walking the time line."""
    shown, index = [], 0
    while (source := int(Fraction(index) / fps_used * fps_source)) < num_source:
        shown.append(source)
        index += 1
    return shown


RATES = [
    (Fraction(25), Fraction(25)),
    (Fraction(30), Fraction(25)),
    (Fraction(30000, 1001), Fraction(25)),
    (Fraction(24), Fraction(25)),
    (Fraction(15), Fraction(25)),
    (Fraction(60), Fraction(25)),
    (Fraction(1962, 100), Fraction(24)),
    (Fraction(1), Fraction(25)),
]


@pytest.mark.parametrize(("fps_source", "fps_used"), RATES)
@pytest.mark.parametrize("num_source", [1, 15, 16, 17, 31, 250, 355, 530])
def test_resampling_shows_what_is_on_screen_at_each_moment(num_source, fps_source, fps_used):
    resampling = Resampling(fps_source, fps_used)
    expected = naive_sources(num_source, fps_source, fps_used)
    assert resampling.count(num_source) == len(expected)
    assert [resampling.source(i) for i in range(len(expected))] == expected
    repeats = [resampling.repeats(i) for i in range(num_source)]
    assert np.repeat(np.arange(num_source), repeats).tolist() == expected


@pytest.mark.parametrize("tail", ["drop", "xd", "repeat-last"])
@pytest.mark.parametrize(("fps_source", "fps_used"), RATES)
def test_spans_tile_from_the_first_frame_at_any_rate(fps_source, fps_used, tail):
    for num_source in (16, 100, 531):
        resampling = Resampling(fps_source, fps_used)
        spans = resampling.spans(num_source, tail)
        check_spans(spans, num_source)
        assert len(spans) == num_clips(resampling.count(num_source), tail)
        shown = naive_sources(num_source, fps_source, fps_used)
        for k, (start, stop) in enumerate(spans):
            assert start == shown[16 * k]
            assert stop == (shown[16 * k + 16] if 16 * k + 16 < len(shown) else num_source)


def test_repeat_last_answers_only_for_frames_that_exist():
    assert NATIVE.spans(17, "repeat-last").tolist() == [[0, 16], [16, 17]]


def test_frame_scores_cut_ends_at_the_last_span_and_hold_at_the_last_frame():
    spans, scores = NATIVE.spans(40, "drop"), np.array([0.25, 0.75])
    cut = frame_scores(scores, spans, 40)
    assert cut.tolist() == [0.25] * 16 + [0.75] * 16
    hold = frame_scores(scores, spans, 40, "hold")
    assert hold.tolist() == [0.25] * 16 + [0.75] * 24


def test_frame_scores_give_each_frame_the_score_of_the_clip_that_answers_for_it():
    resampling = Resampling(Fraction(30), Fraction(25))
    spans = resampling.spans(200, "drop")
    scores = np.arange(len(spans), dtype=np.float32)
    frames = frame_scores(scores, spans, 200)
    for k, (start, stop) in enumerate(spans):
        assert set(frames[start:stop]) == {k}


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[0, 16], [17, 32]], "gap"),
        ([[0, 16], [8, 12]], "backwards"),
        ([[0, 16], [12, 20], [8, 32]], "backwards"),
        ([[1, 16]], "gap"),
        ([[0, 41]], "past the 40 frames"),
        ([[0, 16], [16, 12]], "backwards"),
    ],
)
def test_spans_that_do_not_tile_are_refused(spans, message):
    with pytest.raises(ValueError, match=message):
        frame_scores(np.zeros(len(spans)), np.array(spans), 40)


@pytest.mark.parametrize("tail", ["drop", "xd", "repeat-last"])
@pytest.mark.parametrize(("length", "stride"), [(16, 16), (16, 8), (16, 5), (32, 16), (64, 64)])
def test_clips_of_any_length_and_stride_up_to_it(tail, length, stride):
    resampling = Resampling(Fraction(30), Fraction(25))
    for num_source in (0, 1, 16, 20, 77, 200):
        shown = [resampling.source(i) for i in range(resampling.count(num_source))]
        usable = shown[:-1] if tail == "xd" else shown
        starts = [k for k in range(0, len(usable), stride) if k + length <= len(usable)]
        if tail == "repeat-last" and usable and (not starts or starts[-1] + length < len(usable)):
            starts.append(starts[-1] + stride if starts else 0)
        spans = resampling.spans(num_source, tail, length, stride)
        ends = [*shown, *[num_source] * length]
        assert spans.tolist() == [[shown[k], ends[k + length]] for k in starts]
        check_spans(spans, num_source)
        if stride < length and len(spans) > 1:
            with pytest.raises(ValueError, match="overlap"):
                check_spans(spans, num_source, may_overlap=False)
        assert (min_frames(tail, length) <= len(shown)) == bool(len(spans))


@pytest.mark.parametrize("stride", [5, 8, 15])
def test_a_frame_in_several_spans_has_the_mean_of_their_scores(stride):
    spans = Resampling(Fraction(25), Fraction(75)).spans(60, "repeat-last", 16, stride)
    scores = np.random.default_rng(0).random(len(spans))
    expected = [
        np.mean([score for score, (a, b) in zip(scores, spans, strict=True) if a <= frame < b])
        for frame in range(60)
    ]
    np.testing.assert_allclose(frame_scores(scores, spans, 60), expected, atol=1e-12)
    hold = frame_scores(scores, spans, 70, "hold")
    assert len(hold) == 70 and (hold[60:] == scores[-1]).all()


@pytest.mark.parametrize("stride", [3, 5, 8])
def test_a_still_picture_has_one_score_in_all_its_frames(stride):
    """To the bit: metrics and alarms compare scores with each other and with a threshold."""
    spans = NATIVE.spans(800, "repeat-last", 16, stride)
    for value in (0.1, 0.3, 0.7, 0.9, 1 / 3):
        found = frame_scores(np.where(spans[:, 0] < 400, value, 0.05), spans, 800)
        assert np.unique(found[:400]).tolist() == [value] and (found[450:] == 0.05).all()


def test_scores_of_another_length_than_the_spans_are_refused():
    with pytest.raises(ValueError, match="scores.shape"):
        frame_scores(np.zeros(3), NATIVE.spans(40, "drop"), 40)


def test_frame_labels_mark_half_open_intervals():
    assert np.flatnonzero(frame_labels(((2, 4), (6, 7)), 8)).tolist() == [2, 3, 6]


ROUNDED = {"times": np.ceil, "near": lambda place: np.floor(place + 0.5), "down": np.floor}
"""By which a frame's place is made whole; all places of these tests are exact."""


@pytest.mark.parametrize("sampling", ROUNDED)
@pytest.mark.parametrize("in_times", [True, False])
@pytest.mark.parametrize("fps_used", [Fraction(15), Fraction(24), Fraction(30), Fraction(64)])
def test_each_rule_rounds_the_place_of_a_frame(sampling, in_times, fps_used):
    """60 to 30 frames a second has halves; the last place of a number is shown."""
    for num_source in (1, 2, 17, 100):
        begins = [Fraction(k, 60) for k in range(num_source + 1)]
        times = [float(each) for each in begins] if in_times else None
        resampling = Resampling(Fraction(60), fps_used, times, sampling=sampling)
        scaled = [each * fps_used * 4 for each in begins]  # quarters are whole numbers of 1/4
        places = ROUNDED[sampling](np.array([float(each) for each in scaled]) / 4).astype(int)
        count = places[num_source]
        shown = [int(np.flatnonzero(places[:num_source] <= i)[-1]) for i in range(count)]
        assert resampling.count(num_source) == count
        assert [min(resampling.source(i), num_source - 1) for i in range(count)] == shown
        repeats = [resampling.repeats(k) for k in range(num_source)]
        assert np.repeat(np.arange(num_source), repeats).tolist() == shown


@pytest.mark.parametrize("sampling", ["near", "down"])
def test_the_first_span_begins_at_the_first_frame_by_every_rule(sampling):
    resampling = Resampling(Fraction(60), Fraction(24), sampling=sampling)
    assert resampling.source(0) > 0  # which is not shown
    check_spans(resampling.spans(200, "drop"), 200)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="allowed are times, index, near, down"):
        Resampling(Fraction(25), Fraction(24), sampling="nearest")
