"""Samplers: which snippets a head is shown, against the rules written out here."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from vadprep.core.clips import matlab_edges, segment_edges
from vadprep.heads.sampling import (
    block_rows,
    jitter_rows,
    sampler,
    segment_of,
    uniform_rows,
)

LENGTHS = (1, 2, 3, 17, 31, 32, 33, 64, 100, 1000)


@pytest.mark.parametrize(
    "num_snippets, most, expected",
    [
        (0, 4, []),
        (1, 4, [0]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 1, 2, 4]),
        (10, 4, [0, 3, 6, 9]),
        (11, 4, [0, 3, 6, 10]),
    ],
)
def test_uniform_rows(num_snippets, most, expected):
    assert uniform_rows(num_snippets, most).tolist() == expected


def test_uniform_rows_of_a_very_long_video():
    rows = uniform_rows(70_000, 200)  # past 16 bits, where the public code wraps round
    assert (rows[0], rows[-1], len(rows)) == (0, 69_999, 200)
    assert np.all(np.diff(rows) >= 351)


@pytest.mark.parametrize("num_snippets", LENGTHS)
def test_segment_edges_are_those_of_linspace(num_snippets):
    expected = np.linspace(0, num_snippets, 33).astype(int)
    assert segment_edges(num_snippets, 32).tolist() == expected.tolist()


@pytest.mark.parametrize("segments", [50, 60, 100, 200])
def test_other_numbers_of_segments_round_as_the_official_code_does(segments):
    """``process_feat`` of RTFM: a float step, times i, truncated; whole numbers differ."""
    odd = []
    for num_snippets in range(1, 500):
        step = num_snippets / segments
        expected = [int(i * step) for i in range(segments)] + [num_snippets]
        assert segment_edges(num_snippets, segments).tolist() == expected
        if expected != [i * num_snippets // segments for i in range(segments + 1)]:
            odd.append(num_snippets)
    assert 13 <= len(odd) <= 22 and (segments == 60 or {58, 70, 114, 116, 140} <= set(odd))


@pytest.mark.parametrize("num_snippets", LENGTHS)
def test_matlab_edges_round_halves_up(num_snippets):
    exact = [1 + Fraction(i * (num_snippets - 1), 32) for i in range(33)]
    expected = [math.floor(each + Fraction(1, 2)) - 1 for each in exact]
    assert matlab_edges(num_snippets, 32).tolist() == expected


def ramp(num_snippets):
    return torch.arange(num_snippets, dtype=torch.float32)[:, None]


@pytest.mark.parametrize("name", ["segments-32", "segments-32-matlab"])
@pytest.mark.parametrize("num_snippets", LENGTHS)
def test_segments_are_means_of_their_rows(name, num_snippets):
    edges = (matlab_edges if name.endswith("matlab") else segment_edges)(num_snippets, 32)
    expected = []
    for start, stop in zip(edges, edges[1:], strict=False):
        rows = list(range(start, stop)) or [start]
        expected.append(sum(rows) / len(rows))
    found = sampler(name).take(ramp(num_snippets), 1, None)
    assert found.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("num_snippets", LENGTHS)
def test_means_are_those_of_parts_only_of_a_longer_video(num_snippets):
    snippets = torch.randn(num_snippets, 2, 3)
    bag = sampler("means-32").take(snippets, 0, np.random.default_rng(0))
    expected = snippets
    if num_snippets > 32:
        expected = sampler("segments-32").take(snippets, 0, np.random.default_rng(0))
    torch.testing.assert_close(bag, expected, rtol=0, atol=0)


def test_the_last_snippet_is_never_in_a_matlab_mean():
    snippets = torch.zeros(100, 1)
    snippets[-1] = 1
    assert not sampler("segments-32-matlab").take(snippets, 1, None).any()
    assert sampler("segments-32").take(snippets, 1, None).any()


def test_means_of_float16_are_taken_in_float32():
    snippets = torch.full((64, 1), 1.0, dtype=torch.float16)
    snippets[1] += 2**-10
    found = sampler("segments-32").take(snippets, 1, None)
    assert found.dtype == torch.float32 and found[0] == 1 + 2**-11


@pytest.mark.parametrize("edges_of", [segment_edges, matlab_edges])
@pytest.mark.parametrize("num_snippets", LENGTHS)
def test_every_snippet_belongs_to_the_part_it_is_in(edges_of, num_snippets):
    edges = edges_of(num_snippets, 32)
    for row, part in enumerate(segment_of(num_snippets, edges)):
        is_last = edges_of is matlab_edges and row == num_snippets - 1
        assert edges[part] <= row and (row < edges[part + 1] or is_last)


def random():
    return np.random.default_rng(0)


def test_jitter_spreads_abnormal_videos_over_their_length():
    draws = np.array([jitter_rows(300, 1000, 1, np.random.default_rng(s)) for s in range(200)])
    lower = np.arange(300) * 1000 // 300
    upper = np.append(lower[1:], lower[-1])
    assert (draws.min(axis=0) == lower).all() and (draws.max(axis=0) == upper).all()


class Bounds:
    """Takes the place of a generator: the lowest or highest number that may be drawn."""

    def __init__(self, is_highest):
        self.is_highest = is_highest

    def integers(self, low, high=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        return high - (not endpoint) if self.is_highest else low


def official_rows(most, num_snippets):
    """Lowest and highest draws of AR-Net's ``random_perturb``, in its words and rounding."""
    samples = np.arange(most) * num_snippets / most
    lowest, highest = [], []
    for i in range(most):
        choices = [int(samples[i])]
        if i < most - 1 and int(samples[i]) != int(samples[i + 1]):
            choices = range(int(samples[i]), int(samples[i + 1]) + 1)
        elif i == most - 1 and int(samples[i]) < most - 1:
            choices = range(int(samples[i]), most)
        lowest.append(choices[0])
        highest.append(choices[-1])
    return lowest, highest


@pytest.mark.parametrize("num_snippets", [301, 302, 449, 599, 600, 601, 899, 900, 901, 1499, 3000])
def test_jitter_may_draw_the_rows_of_the_official_code(num_snippets):
    drawn = [jitter_rows(300, num_snippets, 1, Bounds(end)).tolist() for end in (False, True)]
    assert tuple(drawn) == official_rows(300, num_snippets)
    starts = [int(jitter_rows(300, num_snippets, 0, Bounds(end))[0]) for end in (False, True)]
    assert starts == [0, num_snippets - 300 - 1]  # np.random.randint(len(feat) - t_max)


def test_jitter_takes_a_window_of_normal_videos():
    draws = [jitter_rows(300, 310, 0, np.random.default_rng(seed)) for seed in range(200)]
    assert all((np.diff(rows) == 1).all() and len(rows) == 300 for rows in draws)
    assert {int(rows[0]) for rows in draws} == set(range(10))


@pytest.mark.parametrize("label", [0, 1])
def test_jitter_leaves_short_videos_whole(label):
    assert jitter_rows(300, 300, label, random()).tolist() == list(range(300))


@pytest.mark.parametrize("num_snippets, count", [(1, 1), (6, 6), (7, 2), (8, 2), (9, 3), (100, 33)])
def test_blocks_give_a_row_each_or_the_whole_video(num_snippets, count):
    rows = block_rows(3, num_snippets, 1, random())
    assert len(rows) == count
    if num_snippets > 6:
        assert (rows // 3).tolist() == list(range(count))


def test_blocks_reach_every_row_of_a_block():
    draws = [block_rows(3, 9, 1, np.random.default_rng(seed)) for seed in range(60)]
    assert all({rows[i] for rows in draws} == {3 * i, 3 * i + 1, 3 * i + 2} for i in range(3))


@pytest.mark.parametrize(
    "name", ["segments", "uniform-0", "jitter-300-matlab", "every-3", "uniform--1", "UNIFORM-3"]
)
def test_names_that_are_none_list_the_rules(name):
    with pytest.raises(ValueError, match="allowed are segments-32, segments-32-matlab, means"):
        sampler(name)
