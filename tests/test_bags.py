"""Bags: which rows, which items, in which order, and what padding is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_features import TinyFeatures, TinyVideo, tiny_set

from vadprep.bags import (
    TrainingBags,
    read_snippets,
    shuffled_labels,
    streams_of,
    uniform_rows,
)
from vadprep.records import FeaturesError


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


def bags_of(videos, labels, streams=("rgb",), most=200):
    return TrainingBags(TinyFeatures(videos), labels, streams, most)


def ramp(video_id, num_clips, crops=1, dim=2):
    """Snippet t of crop c is (t, c, ...)."""
    values = np.zeros((num_clips, crops, dim), np.float32)
    values[:, :, 0] = np.arange(num_clips)[:, None]
    values[:, :, 1] = np.arange(crops)
    return TinyVideo(video_id, {"rgb": values})


def test_each_crop_of_each_video_is_an_item_once_an_epoch():
    bags = bags_of([ramp("a", 3, crops=5), ramp("b", 2, crops=5)], {"a": 1, "b": 0})
    seen = [
        (video_id, int(snippets[0, 1]))
        for batch in bags.batches(3, seed=0, epoch=0)
        for video_id, snippets in zip(batch.video_ids, batch.snippets, strict=True)
    ]
    assert sorted(seen) == [(video_id, crop) for video_id in "ab" for crop in range(5)]
    assert len(bags) == 10 and bags.num_batches(3) == 4


def test_zero_rows_are_snippets_and_padding_is_told_by_the_mask():
    videos = [TinyVideo("dark", {"rgb": np.zeros((4, 1, 2), np.float32)}), ramp("b", 6)]
    (batch,) = bags_of(videos, {"dark": 0, "b": 1}).batches(10, seed=0, epoch=0)
    lengths = dict(zip(batch.video_ids, batch.mask.sum(dim=1).tolist(), strict=True))
    assert lengths == {"dark": 4, "b": 6}
    assert batch.snippets.shape == (2, 6, 2) and batch.snippets.dtype == torch.float32


def test_a_batch_is_as_long_as_its_longest_bag_and_no_longer_than_the_sample():
    bags = bags_of([ramp("a", 50), ramp("b", 3)], {"a": 1, "b": 0}, most=20)
    (batch,) = bags.batches(10, seed=0, epoch=0)
    assert batch.snippets.shape[1] == 20
    row = batch.video_ids.index("a")
    assert batch.snippets[row, :, 0].tolist() == uniform_rows(50, 20).tolist()


def test_labels_follow_the_id():
    bags = bags_of([ramp(i, 2) for i in "abcd"], {"d": 1, "a": 0, "b": 1, "c": 0})
    for batch in bags.batches(3, seed=5, epoch=2):
        assert batch.labels.tolist() == [
            {"a": 0, "b": 1, "c": 0, "d": 1}[i] for i in batch.video_ids
        ]


def orders(bags, seed, epoch):
    return [batch.video_ids for batch in bags.batches(4, seed, epoch)]


def test_order_depends_on_seed_and_epoch_alone():
    features, manifest = tiny_set(num_train=20)
    labels = {video.video_id: video.label for video in manifest.in_split("train")}
    one = TrainingBags(features, labels, ("rgb",), 200)
    two = TrainingBags(features, dict(reversed(labels.items())), ("rgb",), 200)
    torch.manual_seed(77)  # the global state is not looked at
    assert orders(one, 3, 5) == orders(two, 3, 5)
    assert orders(one, 3, 5) != orders(one, 3, 6)
    assert orders(one, 3, 5) != orders(one, 4, 5)


def test_concat_joins_the_streams_of_one_video():
    features, _ = tiny_set(flow=True)
    video = next(iter(features.values()))
    both = read_snippets(video, ("rgb", "flow"))
    assert both.dtype == np.float16
    np.testing.assert_array_equal(both[:, :, :6], video.stream("rgb"))
    np.testing.assert_array_equal(both[:, :, 6:], video.stream("flow"))


def test_control_labels_are_seeded_and_know_nothing_of_the_true_ones():
    labels = {f"{i:02d}": int(i < 12) for i in range(36)}
    kinds = {video_id: "abc"[int(video_id) % 3] for video_id in labels}
    dealt = shuffled_labels(labels, kinds, 1)
    assert dealt == shuffled_labels(dict(reversed(labels.items())), kinds, 1)
    assert dealt not in (labels, shuffled_labels(labels, kinds, 2))
    assert dealt.keys() == labels.keys() and sum(dealt.values()) == 3 * 1 + 3 * 3
    for kind in "abc":
        of_kind = [each for each in labels if kinds[each] == kind]
        for true_label, expected in ((1, 1), (0, 3)):
            assert sum(dealt[each] for each in of_kind if labels[each] == true_label) == expected


def test_standardized_bags_have_mean_0_and_variance_1():
    bags = bags_of([ramp("a", 7), ramp("b", 4)], {"a": 1, "b": 0})
    mean, std = bags.statistics()
    rows = torch.cat([bags._snippets[0], bags._snippets[1]]).double()
    torch.testing.assert_close(mean, rows.mean(dim=0))
    torch.testing.assert_close(std, rows.std(dim=0, correction=0))


def test_relabelled_bags_leave_the_others_alone():
    bags = bags_of([ramp("a", 2), ramp("b", 2)], {"a": 1, "b": 0})
    other = bags.relabelled({"a": 0, "b": 1})
    assert (bags.labels["a"], other.labels["a"]) == (1, 0)
    with pytest.raises(ValueError, match="same videos"):
        bags.relabelled({"a": 0})


@pytest.mark.parametrize(
    "videos, message",
    [
        ([TinyVideo("x", {"rgb": np.zeros((0, 1, 2))})], "x: has no snippet"),
        ([TinyVideo("x", {"rgb": np.full((1, 1, 2), np.nan)})], "x: features hold NaN"),
        ([ramp("x", 1, dim=2), ramp("y", 1, dim=3)], r"differ in dimension: 2 \(x\), 3 \(y\)"),
    ],
)
def test_videos_that_cannot_be_trained_on_are_named(videos, message):
    with pytest.raises(FeaturesError, match=message):
        bags_of(videos, {video.video_id: 0 for video in videos})


def test_streams_of_another_length_are_named():
    video = TinyVideo("x", {"rgb": np.zeros((3, 1, 2)), "flow": np.zeros((2, 1, 2))})
    with pytest.raises(FeaturesError, match=r"x: .*rgb \(3, 1, 2\), flow \(2, 1, 2\)"):
        read_snippets(video, ("rgb", "flow"))


def test_choices_of_streams():
    assert streams_of("concat", ("rgb", "flow")) == ("rgb", "flow")
    with pytest.raises(ValueError, match="allowed are rgb, flow, concat"):
        streams_of("both", ("rgb",))
    with pytest.raises(FeaturesError, match="need flow, but the features hold only rgb"):
        streams_of("concat", ("rgb",))
