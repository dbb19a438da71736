"""The small schedule: what the training videos say about standardization, form, steps and rate.

Nothing of a video outside the train split is looked at. The choice depends on head, features and
labels alone, so that all seeds of a run have the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from os.path import lexists
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from vadprep.core.errors import CheckpointError
from vadprep.core.log import get_logger
from vadprep.core.untrusted import malformed
from vadprep.evaluation.metrics import Truth
from vadprep.evaluation.run_files import read_json
from vadprep.heads import HEADS, HeadConfig
from vadprep.heads.base import CONSTANT
from vadprep.training.bags import TrainingBags
from vadprep.training.labels import held_out_videos
from vadprep.training.loop import fit, new_head
from vadprep.training.results import EvaluationSet
from vadprep.training.scoring import exact_arithmetic

_LOG = get_logger(__name__)

SPREAD = 20.0
"""Standard deviation of the widest column by that of the median one, from which on features are
standardized. Measured: 1.4 to 2.5 for rows of unit length and for ReLU features, which lose by it;
64 and more for descriptors of mixed units, which need it."""
CONSTANT_PART = 2.0
"""Length of the mean snippet by the root of the sum of variances, from which on they are, too.
Measured without and with it, the frame AUC: 0.997 and 0.976 of that with frame labels at 0.9
(sultani, 1,024 ReLU features), 0.58 and 0.87 at 2.4 (ddl, the demo), 0.85 and 0.97 at 5.6 (sultani,
ReLU features); at 10.6 arnet learns nothing without it."""
WIDEST = 256
"""Most units of a layer that is as wide as the features by default, and most features that a head
norms with nothing changed. Measured on 4,096 numbers with weak events, the frame AUC of ddl: with
its attention 0.58 at the usual rate and 0.76 at the lower one, but sultani, which norms nothing,
0.85 and 0.62. Without its attention 0.72 to 0.84 by seed, and 0.89 with each of three seeds where
the weights of the norm start at 0.1. With its attention ddl gains less by that, 0.81 to 0.84, and
pel4vad falls from 0.98 to 0.93 on 30 videos of 1,024 ReLU features."""
STEPS = (100, 300, 900)
LOWER = 3.0
"""A rate that is lower by this factor is tried last."""
FEWEST = 10
"""Videos of each class from which on a video is judged by a head that was not trained on it."""
ENOUGH = 25
"""Videos of each class from which on a third of them is enough to judge by."""
STEP_SETTINGS = ("epochs", "steps_per_epoch", "batches", "cosine_epochs")
"""Changes that fix the number of steps."""


@dataclass(frozen=True)
class Choice:
    """Settings that were chosen, and by what."""

    settings: Mapping[str, Any]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The entry ``schedule`` of config.json."""
        return {"chosen": dict(self.settings), "by": self.reason}

    def words(self) -> str:
        """Such as ``, standardize = False, steps_per_epoch = 30``."""
        return f", {assigned(self.settings)}" if self.settings else ""


def assigned(settings: Mapping[str, Any]) -> str:
    """Such as ``steps_per_epoch = 30, learning_rate = 0.0003333``; config.json has all digits."""
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}"
        for name, value in settings.items()
    )


def stored_choice(folder: Path, config: HeadConfig) -> Choice | None:
    """The choice of the run that ``folder`` holds, an empty one of a run without; None without run.

    Raises CheckpointError for a config.json that is damaged.
    """
    path = folder / "config.json"
    if not lexists(path):
        return None
    with malformed(path, CheckpointError):
        record = read_json(path).get("schedule") or {"chosen": {}, "by": "another schedule"}
        choice = Choice(dict(record["chosen"]), record["by"])
        replace(config, **choice.settings)  # names and values are those of the head
    return choice


def choose_schedule(
    name: str,
    bags: TrainingBags,
    fixed: Iterable[str],
    data: EvaluationSet,
    device: torch.device,
    prompts: Tensor | None = None,
) -> Choice:
    """Settings of the head ``name`` for these training videos, without those that are ``fixed``.

    Standardization by the spread of the columns, ``for_dimension`` by the dimension. The rest by
    the video AUC of training videos that the head was not trained on, a third of each class in
    turn; the first third alone from ``ENOUGH`` videos of each class on. The head and the
    ``smaller`` form that it may have are tried with ``STEPS``, each until more of them do not raise
    its AUC, and the best of all with a lower rate. Nothing more is tried once the AUC is 1. Below
    ``FEWEST`` videos of a class no smaller form is tried, and the AUC is that of the videos trained
    on, which shows no more than whether the head has learnt them. Raises TrainingError as ``train``
    does.
    """
    fixed, config = set(fixed), bags.config
    settings: dict[str, Any] = {"standardize": asks_for_standardization(*bags.statistics())}
    settings |= for_dimension(name, config, bags.dim)
    settings = {each: value for each, value in settings.items() if each not in fixed}
    if not fixed.isdisjoint(STEP_SETTINGS):
        return Choice(settings, "the features; the number of steps was given")
    parts, words = judged_parts(bags.labels)

    best, kept = -1.0, dict[str, Any]()

    def judged(more: Mapping[str, Any]) -> float:
        """The AUC with these changes, which are kept if none before had more; -1 if not tried."""
        nonlocal best, kept
        if best == 1 or not fixed.isdisjoint(more):
            return -1.0
        own = replace(config, **{**settings, **more})
        auc = fmean(video_auc(name, bags, own, part, data, device, prompts) for part in parts)
        _LOG.info("small schedule, tried %s: video AUC %.3f", assigned(more), auc)
        if auc > best:
            best, kept = auc, dict(more)
        return auc

    going = [(dict[str, Any](), -1.0)]
    is_held_out = len(parts[0]) < len(bags.labels)
    own = replace(config, **settings)
    if is_held_out and (form := smaller_form(name, config, own, bags.dim, fixed)):
        going.append((form, -1.0))
    for steps in STEPS:
        of_steps = {"steps_per_epoch": steps // config.epochs}
        tried = [(form, last, judged({**of_steps, **form})) for form, last in going]
        going = [(form, auc) for form, last, auc in tried if auc > last]
    settings |= kept
    judged({"learning_rate": replace(config, **settings).learning_rate / LOWER})
    settings |= kept
    return Choice(settings, f"video AUC {best:.3f} of {words}")


def video_auc(
    name: str,
    bags: TrainingBags,
    config: HeadConfig,
    part: frozenset[str],
    data: EvaluationSet,
    device: torch.device,
    prompts: Tensor | None,
) -> float:
    """That of the videos ``part`` by a head that is trained on the others; on all, if part is all.

    0 if the loss was not finite.
    """
    is_held_out = len(part) < len(bags.labels)
    learnt = bags.of(bags.labels.keys() - part) if is_held_out else bags
    learnt = learnt.with_config(config)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), exact_arithmetic():
        torch.manual_seed(0)
        head = new_head(name, learnt, device, prompts)
        if not fit(head, learnt, seed=0):
            return 0.0
        truth = {video_id: Truth(None, bags.labels[video_id]) for video_id in sorted(part)}
        return data.score(head, truth)[1].values["video_auc"] or 0.0


def smaller_form(
    name: str, config: HeadConfig, own: HeadConfig, dim: int, fixed: Collection[str]
) -> dict[str, Any]:
    """What makes ``own``, which is ``config`` for ``dim`` features, the ``smaller`` form.

    Empty without such a form, and where a size of it, or a setting that it has no use for, is
    fixed.
    """
    kind = HEADS[name]
    sizes = kind.smaller.keys() - {"learning_rate"}
    if not sizes or not {*sizes, *kind.without_effect}.isdisjoint(fixed):
        return {}
    small = replace(config, **kind.smaller)
    form = {**kind.smaller, "learning_rate": small.learning_rate, **for_dimension(name, small, dim)}
    return {
        each: value
        for each, value in form.items()
        if each not in fixed and value != getattr(own, each)
    }


def judged_parts(labels: Mapping[str, int]) -> tuple[list[frozenset[str]], str]:
    """Ids of the training videos that a head is judged by, a part for each training, and in words.

    Thirds of each class, of which the first is enough for many videos; all, if they are too few.
    """
    count = min(list(labels.values()).count(label) for label in (0, 1))
    if count < FEWEST:
        words = f"{len(labels)} training videos trained on, too few to hold out any"
        return [frozenset(labels)], words
    first = frozenset(held_out_videos(labels, 1 / 3))
    if count >= ENOUGH:
        return [first], f"{len(first)} training videos held out"
    rest = {video_id: label for video_id, label in labels.items() if video_id not in first}
    second = frozenset(held_out_videos(rest, 1 / 2))
    parts = [first, second, frozenset(rest.keys() - second)]
    return parts, f"{len(labels)} training videos, each third held out in turn"


def asks_for_standardization(mean: Tensor, std: Tensor) -> bool:
    """Whether columns of this mean and standard deviation, float [dim], differ too much in scale.

    See ``SPREAD`` and ``CONSTANT_PART``. Columns that do not vary say nothing about it.
    """
    varies = std > CONSTANT * mean.abs()
    if not varies.any():
        return False
    mean, std = mean[varies], std[varies]
    is_mixed = std.max() > SPREAD * std.median()
    return bool(is_mixed or mean.norm() > CONSTANT_PART * std.norm())


def for_dimension(name: str, config: HeadConfig, dim: int) -> dict[str, Any]:
    """What ``dim`` features ask for, if they are more than ``WIDEST``.

    Layers that have a share of ``dim`` by default have one of ``WIDEST``. Of heads that norm the
    features the rate is lower by as much as there are more. Without attention the weights of the
    norm start lower instead.
    """
    if dim <= WIDEST:
        return {}
    shares = HEADS[name].shares_of_dim.items()
    found: dict[str, Any] = {
        field: WIDEST // share for field, share in shares if getattr(config, field) is None
    }
    if HEADS[name].norms_features:
        if vars(config)["attention"]:
            found["learning_rate"] = config.learning_rate * WIDEST / dim
        else:
            found["norm_scale"] = WIDEST / dim
    return found
