"""Which videos are trained on and tested, which are held out, and their labels and glances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vadprep.core.errors import FeaturesError, ManifestError, counted
from vadprep.core.records import Video
from vadprep.data import Manifest, hint_of_ids
from vadprep.evaluation.metrics import listed
from vadprep.features import Features


def videos_by_split(
    manifest: Manifest, features: Features, allow_missing: bool
) -> tuple[dict[str, list[Video]], list[str]]:
    """Videos of train and test with at least one snippet, and the ids of the others, sorted.

    Raises FeaturesError that lists the others, unless ``allow_missing``.
    """
    found, missing = dict[str, list[Video]](), list[str]()
    unnamed = set(features) - {video.video_id for video in manifest.videos}
    for split in ("train", "test"):
        videos = manifest.in_split(split)
        there = [v for v in videos if v.video_id in features and features[v.video_id].num_clips]
        others = {video.video_id for video in videos} - {video.video_id for video in there}
        if others and not allow_missing:
            raise FeaturesError(
                f"{split} videos without features: {listed(others)}. Extract them, or go on "
                f"without them (--allow-missing){hint_of_ids(others, unnamed, 'the features')}"
            )
        found[split] = there
        missing += others
    return found, sorted(missing)


def training_labels(videos: Sequence[Video], path: Path) -> dict[str, int]:
    """Labels by id; raises ManifestError for a video without one or a class without videos."""
    unlabelled = [video.video_id for video in videos if video.label is None]
    if unlabelled:
        raise ManifestError(
            f"{path}: column 'label': train videos without a label: {listed(unlabelled)}: "
            f"write 0 or 1"
        )
    labels = {video.video_id: video.label for video in videos if video.label is not None}
    for label, word in enumerate(("normal", "abnormal")):
        if label not in labels.values():
            raise ManifestError(
                f"{path}: no {word} video (label {label}) among the {len(videos)} of split train "
                f"with features: training needs both labels, see the columns split and label"
            )
    return labels


def held_out_videos(labels: Mapping[str, int], share: float) -> tuple[str, ...]:
    """A share of the videos of each class, at least one of each: ids in order, none for 0.

    The same for every seed. Raises ManifestError when nothing of a class would be left.
    """
    random, held_out = np.random.default_rng(0), list[str]()
    for label, word in enumerate(("normal", "abnormal")):
        ids = sorted(video_id for video_id in labels if labels[video_id] == label)
        count = max(round(share * len(ids)), 1) if share else 0
        if count >= len(ids):
            raise ManifestError(
                f"validation = {share}: with {counted(len(ids), f'{word} training video')} none "
                "is left to train on"
            )
        held_out += [ids[index] for index in random.permutation(len(ids))[:count]]
    return tuple(sorted(held_out))


def shuffled_labels(
    labels: Mapping[str, int], kinds: Mapping[str, str], seed: int
) -> dict[str, int]:
    """Labels that know nothing of the true ones: the control, about 0.5 over many seeds.

    ``kinds`` is the category of each id. Of each kind the same share is called abnormal, so
    that the dealt labels are correlated neither with the true ones nor with a kind, as a free
    permutation is on small sets. As many are called abnormal as are.
    """
    rng = np.random.default_rng(seed)
    strata: dict[tuple[int, str], list[str]] = {}
    for video_id in sorted(labels):
        strata.setdefault((labels[video_id], kinds[video_id]), []).append(video_id)
    # Shares of a stratum are seldom whole. Rounding each to the nearest favours one class (4 of 6
    # abnormal, 2 of 4 normal videos of UCSD Ped2: 0.60 over 30 runs, measured). So the running
    # sum is cut, from a random start: right in the mean, and right in all.
    abnormal, count = sum(labels.values()), int(rng.integers(len(labels)))
    dealt: dict[str, int] = {}
    for _, ids in sorted(strata.items()):
        before, count = count // len(labels), count + abnormal * len(ids)
        called = set(rng.permutation(len(ids))[: count // len(labels) - before].tolist())
        dealt |= {video_id: int(index in called) for index, video_id in enumerate(ids)}
    return dealt


def training_glances(
    videos: Sequence[Video], labels: Mapping[str, int], path: Path
) -> dict[str, tuple[int, ...]]:
    """Clicked frames of the abnormal videos of ``labels``; ManifestError when there are none."""
    found = {v.video_id: v.glances for v in videos if v.glances and labels.get(v.video_id) == 1}
    if not found:
        raise ManifestError(
            f"{path}: column 'glances': no abnormal training video has any: write it by vadprep gt "
            f"glances, or leave out the setting glance"
        )
    return found
