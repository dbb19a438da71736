"""Bags: which rows, which items, in which order, and what padding is."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from support.attacks import within
from support.tiny_features import TinyFeatures, TinyVideo, tiny_set

from vadprep.core.errors import FeaturesError, TrainingError
from vadprep.features.reader import read_snippets, streams_of
from vadprep.heads import HEADS, HeadConfig
from vadprep.heads.sampling import uniform_rows
from vadprep.training.bags import TrainingBags, room_for
from vadprep.training.labels import shuffled_labels


def bags_of(videos, labels, most_bytes=None, **config):
    """Bags of batches of 10, all of them shuffled, if nothing else is said."""
    how = HeadConfig(**{"batch_size": 10, **config})
    return TrainingBags(TinyFeatures(videos), labels, ("rgb",), how, most_bytes)


def ramp(video_id, num_clips, crops=1, dim=2):
    """Snippet t of crop c is (t, c, ...)."""
    values = np.zeros((num_clips, crops, dim), np.float32)
    values[:, :, 0] = np.arange(num_clips)[:, None]
    values[:, :, 1] = np.arange(crops)
    return TinyVideo(video_id, {"rgb": values})


def test_each_crop_of_each_video_is_an_item_once_an_epoch():
    videos = [ramp("a", 3, crops=5), ramp("b", 2, crops=5)]
    bags = bags_of(videos, {"a": 1, "b": 0}, batch_size=3)
    seen = [
        (video_id, int(snippets[0, 0, 1]))
        for batch in bags.batches(seed=0, epoch=0)
        for video_id, snippets in zip(batch.video_ids, batch.snippets, strict=True)
    ]
    assert sorted(seen) == [(video_id, crop) for video_id in "ab" for crop in range(5)]
    assert len(bags) == 10 and bags.num_batches == 4


def test_zero_rows_are_snippets_and_padding_is_told_by_the_mask():
    videos = [TinyVideo("dark", {"rgb": np.zeros((4, 1, 2), np.float32)}), ramp("b", 6)]
    (batch,) = bags_of(videos, {"dark": 0, "b": 1}).batches(seed=0, epoch=0)
    lengths = dict(zip(batch.video_ids, batch.mask.sum(dim=1).tolist(), strict=True))
    assert lengths == {"dark": 4, "b": 6}
    assert batch.snippets.shape == (2, 1, 6, 2) and batch.snippets.dtype == torch.float32


def test_a_batch_is_as_long_as_its_longest_bag_and_no_longer_than_the_sample():
    bags = bags_of([ramp("a", 50), ramp("b", 3)], {"a": 1, "b": 0}, sampling="uniform-20")
    (batch,) = bags.batches(seed=0, epoch=0)
    assert batch.snippets.shape[2] == 20
    row = batch.video_ids.index("a")
    assert batch.snippets[row, 0, :, 0].tolist() == uniform_rows(50, 20).tolist()


def test_labels_follow_the_id():
    bags = bags_of([ramp(i, 2) for i in "abcd"], {"d": 1, "a": 0, "b": 1, "c": 0}, batch_size=3)
    for batch in bags.batches(seed=5, epoch=2):
        assert batch.labels.tolist() == [
            {"a": 0, "b": 1, "c": 0, "d": 1}[i] for i in batch.video_ids
        ]


def orders(bags, seed, epoch):
    return [batch.video_ids for batch in bags.batches(seed, epoch)]


def test_order_depends_on_seed_and_epoch_alone():
    features, manifest = tiny_set(num_train=20)
    labels = {video.video_id: video.label for video in manifest.in_split("train")}
    one = TrainingBags(features, labels, ("rgb",), HeadConfig(batch_size=4))
    two = TrainingBags(features, dict(reversed(labels.items())), ("rgb",), HeadConfig(batch_size=4))
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
    for seed in range(100):
        dealt = shuffled_labels(labels, kinds, seed)
        assert dealt.keys() == labels.keys() and sum(dealt.values()) == 12
        for kind in "abc":
            of_kind = [each for each in labels if kinds[each] == kind]
            for true_label, allowed in ((1, {1, 2}), (0, {2, 3})):
                found = sum(dealt[each] for each in of_kind if labels[each] == true_label)
                assert found in allowed


@pytest.mark.parametrize("num_abnormal, num_normal", [(6, 4), (1, 2), (1, 9)])
def test_control_labels_favour_no_class_in_the_mean(num_abnormal, num_normal):
    labels = {f"{i:02d}": int(i < num_abnormal) for i in range(num_abnormal + num_normal)}
    kinds = dict.fromkeys(labels, "")
    draws = [shuffled_labels(labels, kinds, seed) for seed in range(3000)]
    share = num_abnormal / len(labels)
    for video_id in labels:
        called = np.mean([dealt[video_id] for dealt in draws])
        assert called == pytest.approx(share, abs=0.04)
    assert all(sum(dealt.values()) == num_abnormal for dealt in draws)


@pytest.mark.parametrize("crops", ["sample", "axis"])
@pytest.mark.parametrize("most_bytes", [None, 100, 0])
def test_standardized_bags_have_mean_0_and_variance_1(crops, most_bytes):
    videos = [ramp("a", 7, crops=3), ramp("b", 4, crops=3)]
    for video in videos:
        video.streams["rgb"] += 1e4
    mean, std = bags_of(videos, {"a": 1, "b": 0}, most_bytes, crops=crops).statistics()
    rows = np.concatenate([each.streams["rgb"].reshape(-1, 2) for each in videos]).astype(float)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(std, rows.std(axis=0), rtol=1e-11)


@pytest.mark.parametrize("most_bytes", [0, 100, 300, 450, 10_000])
def test_features_of_two_types_are_held_within_the_bound(most_bytes):
    """Four videos of 64 or 128 bytes; all are 512 in float32."""
    videos = [ramp(name, 16) for name in "abcd"]
    for video in videos[:2]:
        video.streams["rgb"] = video.streams["rgb"].astype(np.float16)
    labels = {"a": 1, "b": 0, "c": 1, "d": 0}
    bags = bags_of(videos, labels, most_bytes)
    held = bags._rows[1:]
    assert held.nbytes <= most_bytes and len(held) == 16 * len(bags._first)
    (batch,), (whole,) = (list(each.batches(0, 0)) for each in (bags, bags_of(videos, labels)))
    assert torch.equal(batch.snippets.float(), whole.snippets)


@pytest.mark.parametrize("crops", ["sample", "axis"])
def test_statistics_of_streamed_features_hold_one_video_at_a_time(monkeypatch, crops):
    videos = [ramp(f"{n:02d}", 9, crops=5) for n in range(12)]
    labels = {video.video_id: 0 for video in videos}
    bags = bags_of(videos, labels, most_bytes=0, crops=crops, sampling="jitter-4")
    found, alive = [], []

    def counting(*arguments):
        snippets = read_snippets(*arguments)
        found.append(weakref.ref(snippets))
        alive.append(sum(each() is not None for each in found))
        return snippets

    monkeypatch.setattr("vadprep.training.bags.read_snippets", counting)
    bags.statistics()
    assert len(alive) == 12  # each is read once
    assert max(alive) <= 2  # one, and the next that takes its place


@pytest.mark.parametrize("sampling", ["segments-32", "segments-32-matlab", "uniform-200"])
def test_features_that_never_vary_stay_at_0(sampling):
    """Means of parts of a constant differ in the last bits of float32, more so in long parts."""
    rng = np.random.default_rng(0)
    constants = rng.normal(size=50).astype(np.float32)
    videos = []
    for name, length in (("a", 33), ("b", 331), ("c", 2000), ("d", 20000)):
        values = np.tile(constants, (length, 1, 1))
        values[:, :, 0] = 1e3 + rng.normal(size=(length, 1))
        videos.append(TinyVideo(name, {"rgb": values}))
    bags = bags_of(videos, dict.fromkeys("abcd", 0), sampling=sampling)
    mean, std = bags.statistics()
    head = HEADS["arnet"].build(50, HEADS["arnet"].config(standardize=True))
    head.fit_standardization(mean, std)
    assert head.gain[0] == pytest.approx(1 / float(std[0]))
    assert not head.gain[1:].any()


def seen(bags, seed=0, epoch=0):
    """Ids of each batch of an epoch."""
    return [batch.video_ids for batch in bags.batches(seed, epoch)]


def two_classes(abnormal, normal):
    """Bags of so many videos a1, ... and n1, ..., of one crop and two snippets."""
    ids = [f"a{i}" for i in range(abnormal)] + [f"n{i}" for i in range(normal)]
    return [ramp(each, 2) for each in ids], {each: int(each[0] == "a") for each in ids}


@pytest.mark.parametrize("rule", ["balanced", "drawn"])
def test_half_of_each_batch_is_abnormal_and_no_item_is_in_it_twice(rule):
    bags = bags_of(*two_classes(7, 11), batch_size=6, batches=rule)
    for batch in bags.batches(seed=0, epoch=0):
        assert batch.labels.tolist() == [1, 1, 1, 0, 0, 0]
        assert len(set(batch.video_ids)) == 6


def test_balanced_batches_pass_through_each_class_and_leave_the_incomplete_end():
    bags = bags_of(*two_classes(7, 11), batch_size=6, batches="balanced", steps_per_epoch=6)
    steps = seen(bags)
    for first, last, label in ((0, 2, 0), (2, 4, 0), (0, 3, 3), (3, 6, 3)):
        part = [each for ids in steps[first:last] for each in ids[label : label + 3]]
        assert len(set(part)) == len(part)
    assert steps[:2] != steps[2:4]


def test_steps_go_on_from_epoch_to_epoch():
    videos = two_classes(7, 11)
    one, three = (
        bags_of(*videos, batch_size=6, batches="balanced", steps_per_epoch=n) for n in (6, 2)
    )
    assert seen(one, epoch=1) == [ids for epoch in (3, 4, 5) for ids in seen(three, epoch=epoch)]


def test_an_epoch_without_a_number_of_steps_passes_through_the_larger_class():
    assert bags_of(*two_classes(3, 11), batch_size=6, batches="balanced").num_batches == 4


@pytest.mark.parametrize("rule", ["balanced", "drawn"])
def test_a_class_smaller_than_its_half_is_repeated_evenly_and_this_is_said(rule):
    bags = bags_of(*two_classes(2, 11), batch_size=10, batches=rule)
    for ids in seen(bags):
        assert sorted(ids.count(each) for each in ("a0", "a1")) == [2, 3]
    assert bags.repeated() == "2 abnormal items for 5 a batch: drawn with replacement"
    assert bags_of(*two_classes(5, 11), batches=rule).repeated() == ""


def test_crops_as_an_axis_stay_together():
    videos = [ramp("a", 3, crops=5), ramp("b", 2, crops=5)]
    bags = bags_of(videos, {"a": 1, "b": 0}, crops="axis")
    (batch,) = bags.batches(seed=0, epoch=0)
    assert len(bags) == 2 and batch.snippets.shape == (2, 5, 3, 2)
    assert batch.snippets[:, :, 0, 1].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_crops_as_an_axis_are_as_many_in_every_video():
    videos = [ramp("a", 3, crops=5), ramp("b", 2, crops=1)]
    with pytest.raises(FeaturesError, match=r"differ in number of crops: 5 \(a\), 1 \(b\)"):
        bags_of(videos, {"a": 1, "b": 0}, crops="axis")


def test_two_views_of_a_video_stand_half_a_batch_apart():
    bags = bags_of([ramp("a", 31), ramp("b", 12)], {"a": 1, "b": 0}, sampling="blocks-3")
    (batch,) = bags.batches(seed=0, epoch=0)
    assert batch.video_ids[:2] == batch.video_ids[2:]
    assert batch.labels[:2].tolist() == batch.labels[2:].tolist()
    one, other = batch.snippets[:, 0, :, 0].chunk(2)
    assert not torch.equal(one, other)
    assert torch.equal(one // 3 * batch.mask[:2], other // 3 * batch.mask[:2])


@pytest.mark.parametrize("sampling", ["uniform-4", "segments-3", "jitter-4", "blocks-3"])
def test_what_does_not_fit_in_memory_is_read_again_and_gives_the_same(sampling):
    videos, labels = [ramp(each, 9, crops=2) for each in "abcd"], {"a": 1, "b": 0, "c": 1, "d": 0}
    whole, part, none = (
        list(bags_of(videos, labels, most, sampling=sampling).batches(1, 2))
        for most in (None, 100, 0)
    )
    for held, some, read in zip(whole, part, none, strict=True):
        assert torch.equal(held.snippets, some.snippets) and torch.equal(
            some.snippets, read.snippets
        )
        assert held.video_ids == some.video_ids == read.video_ids


def test_random_samples_differ_from_epoch_to_epoch_and_are_repeated_by_seed():
    bags = bags_of([ramp("a", 90)], {"a": 1}, sampling="jitter-20")
    draws = [next(bags.batches(*each)).snippets for each in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_relabelled_bags_leave_the_others_alone():
    bags = bags_of([ramp("a", 2), ramp("b", 2)], {"a": 1, "b": 0})
    other = bags.relabelled({"a": 0, "b": 1})
    assert (bags.labels["a"], other.labels["a"]) == (1, 0)


@pytest.mark.parametrize(
    "videos, message",
    [
        ([TinyVideo("x", {"rgb": np.zeros((0, 1, 2))})], "x: has no snippet"),
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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_a_batch_without_room_names_its_size(error):
    with pytest.raises(TrainingError, match="^batch_size = 7: a batch does not fit into memory"):
        with room_for(7):
            raise error
    with pytest.raises(RuntimeError, match="shapes"):
        with room_for(7):
            raise RuntimeError("shapes do not match")


def test_a_batch_beyond_all_memory_is_refused_before_it_is_made():
    tiny, _ = tiny_set()
    labels = {each: number % 2 for number, each in enumerate(tiny)}
    config = HeadConfig(batch_size=10**15, batches="balanced", steps_per_epoch=1)
    told = f"^batch_size = {10**15}: a batch does not fit"
    with within(5), pytest.raises(TrainingError, match=told):
        next(TrainingBags(tiny, labels, ("rgb",), config).batches(0, 0))
    shuffled = TrainingBags(tiny, labels, ("rgb",), HeadConfig(batch_size=10**15))
    assert len(next(shuffled.batches(0, 0)).video_ids) == len(shuffled)  # never more than all
