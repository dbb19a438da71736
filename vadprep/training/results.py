"""What a training gives: the last step, and beside it the best epochs, over its seeds.

The README of this folder lists the files. Nothing here has any influence on the training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vadprep.core.errors import CheckpointError, TrainingError
from vadprep.core.spec import Spec
from vadprep.core.untrusted import malformed
from vadprep.evaluation import METRICS, Metrics, Origin, VideoScores, read_json, read_scores
from vadprep.evaluation.metrics import (
    TEMPORAL,
    Truth,
    Values,
    compute_metrics,
    listed,
    mean_and_spread,
    with_mean,
)
from vadprep.evaluation.protocol import protocols_that_hold
from vadprep.evaluation.scores import write_scores
from vadprep.features import Features
from vadprep.heads import Head
from vadprep.training.checkpoint import Checkpoint, save_checkpoint
from vadprep.training.csltal_protocol import NAME as SUBSAMPLED, evaluate_subsampled
from vadprep.training.loop import read_rows, write_rows
from vadprep.training.scoring import score_videos

MOST = 20
"""Snapshots of a run, evenly spread over its epochs, the last one included.

Official codes look more often and report the highest test metric: RTFM's after every five steps,
AR-Net's 23 times. Here the last step counts, and fewer looks make the best on test less lucky.
"""

SNAPSHOTS = "snapshots.csv"
LAST = "last"
CHOICES = ("best_on_validation", "best_on_test")
"""How an epoch beside the last one is chosen."""

Entry = Mapping[str, Any]
"""An entry of metrics.json, ``Metrics.as_json``; of a best epoch also ``epoch``, ``chosen_by``."""


@dataclass(frozen=True)
class EvaluationSet:
    """The videos that a head is evaluated on between the epochs and at the end."""

    features: Features
    specs: Mapping[str, Spec]
    """Settings of the features that are used, by stream."""
    truth: Mapping[str, Truth]
    """Ground truth of each test video, in the order that they are scored in."""
    coverage: str
    validation: Mapping[str, Truth]
    """The label of each training video that is held out; may be empty."""
    test_metric: str
    """What the best epoch on the test split is chosen by."""
    smoothing: str = ""
    """Rule by which scores are smoothed for a second result (``evaluation.smoothing``)."""

    def score(
        self, head: Head, truth: Mapping[str, Truth]
    ) -> tuple[dict[str, VideoScores], Metrics]:
        """Scores of the videos of ``truth`` and their metrics.

        Raises TrainingError for a score that is not finite.
        """
        scores = score_videos(head, self.features, tuple(truth), tuple(self.specs))
        odd = [name for name, each in scores.items() if not np.isfinite(each.snippets).all()]
        if odd:
            raise TrainingError(
                f"scores of {listed(odd)} are not finite numbers: lower the learning rate"
            )
        return scores, compute_metrics(scores, truth, self.coverage, self.smoothing)


class Snapshots:
    """Scores a head between epochs and at the end; keeps its best states in the run folder."""

    def __init__(self, folder: Path, run: Checkpoint, data: EvaluationSet, most: int) -> None:
        self._folder, self._run, self._data = folder, run, data
        self._epochs = snapshot_epochs(run.config.epochs, most)
        self._rows: list[dict[str, Any]] = []

    def resume(self, num_epochs: int) -> None:
        """Go on after ``num_epochs`` epochs; later snapshots are forgotten and taken again."""
        num_rows = sum(epoch < num_epochs for epoch in self._epochs)
        self._rows = read_rows(self._folder / SNAPSHOTS, num_rows) if num_rows else []

    def take(self, epoch: int) -> dict[str, Any]:
        """Score the head as it is after ``epoch``, and keep it where it is the best so far.

        Returns the row of snapshots.csv, empty for an epoch without a snapshot. Of equal epochs
        the later is the best: it trained longer.
        """
        if epoch not in self._epochs:
            return {}
        head, data, metric = self._run.head, self._data, self._data.test_metric
        scores, metrics = data.score(head, data.truth)
        auc = data.score(head, data.validation)[1].values["video_auc"]
        row = {"epoch": epoch, "validation/video_auc": auc}
        row |= {f"test/{name}": metrics.values[name] for name in METRICS}
        held_out = f"{len(data.validation)} training videos held out"
        for choice, column, chosen_by in (
            (CHOICES[0], "validation/video_auc", f"video_auc {auc or 0:.4f} on {held_out}"),
            (CHOICES[1], f"test/{metric}", f"{metric} on the test split itself: optimistic"),
        ):
            value = row[column]
            with malformed(self._folder / SNAPSHOTS, CheckpointError):
                known = [each[column] for each in self._rows]
                before = [float(each) for each in known if each not in (None, "")]
            if value is not None and all(value >= each for each in before):
                metrics = self._save(choice, scores, metrics, epoch=epoch, chosen_by=chosen_by)
        self._rows.append(row)
        write_rows(self._folder / SNAPSHOTS, self._rows)
        return row

    def finish(self) -> dict[str, Entry | None]:
        """Score and keep the head after the last step: entries of metrics.json by their names.

        None for a choice where there was nothing to choose by. The saved scores of the others are
        judged by the ground truth of now, which may be another in a run that goes on; protocols
        need the network of then, and are left out where the truth is another.
        """
        data, found = self._data, dict[str, Entry | None](dict.fromkeys((LAST, *CHOICES)))
        found[LAST] = self._save(LAST, *data.score(self._run.head, data.truth)).as_json()
        for choice in CHOICES if self._rows else ():
            checkpoint, path = _names(choice)
            record = self._folder / f"{checkpoint}.json"
            if not os.path.lexists(record):
                continue
            scores = read_scores(self._folder / path)
            if scores.keys() == data.truth.keys():
                metrics = compute_metrics(scores, data.truth, data.coverage, data.smoothing)
                with malformed(record, CheckpointError):
                    saved = read_json(record)["metrics"]
                    protocols = protocols_that_hold(saved, scores, data.truth)
                    protocols = {**protocols, **metrics.protocols}
                    found[choice] = {**saved, **replace(metrics, protocols=protocols).as_json()}
        return found

    def _save(
        self, choice: str, scores: Mapping[str, VideoScores], metrics: Metrics, **about: object
    ) -> Metrics:
        """Write checkpoint and scores; returns the metrics with those of the head's own paper."""
        run, data = self._run, self._data
        if run.head_name == "csltal" and SUBSAMPLED not in metrics.protocols:
            own = evaluate_subsampled(run.head, data.features, data.truth, tuple(data.specs))
            metrics = replace(metrics, protocols={**metrics.protocols, SUBSAMPLED: own})
        checkpoint, path = _names(choice)
        write_scores(self._folder / path, scores, run.origin, checkpoint)
        run = replace(run, metrics={**about, **metrics.as_json()})
        save_checkpoint(self._folder, run, checkpoint)
        return metrics


def snapshot_epochs(epochs: int, most: int) -> frozenset[int]:
    """At most ``most`` epochs of 0 .. epochs - 1, evenly spread, the last one among them."""
    most = min(most, epochs)
    return frozenset(epochs * (index + 1) // most - 1 for index in range(most))


def _names(choice: str) -> tuple[str, str]:
    """Names of a choice's checkpoint, without the suffix, and of its scores."""
    name = choice.replace("_", "-")
    return f"checkpoint-{name}", f"scores-{name}.h5"


@dataclass(frozen=True)
class TrainingRun(os.PathLike[str]):
    """A finished training: its folder, as which it counts, and its results over its seeds."""

    folder: Path
    settings: str
    """Where the settings of the head come from, ``HeadKind.settings``."""
    origin: Origin
    by_seed: Mapping[int, Mapping[str, Entry | None]]
    """Results by seed, then by ``last``, ``best_on_validation`` and ``best_on_test``."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def entries(self, choice: str = LAST) -> list[Entry]:
        """The entry of each seed; empty unless every seed has one."""
        found = [each for seed in self.by_seed.values() if (each := seed[choice])]
        return found if len(found) == len(self.by_seed) else []

    def mean(self, choice: str = LAST) -> dict[str, float | None]:
        """Mean of each metric over the seeds, None unless every seed has it."""
        return mean_and_spread(_standard(self.entries(choice)))[0]

    def spread(self, choice: str = LAST) -> dict[str, float | None]:
        """Sample standard deviation over the seeds, None below two seeds."""
        return mean_and_spread(_standard(self.entries(choice)))[1]

    def columns(self, protocol: str = "") -> dict[str, Values]:
        """Columns of a table: the last step of each seed and over them, then the best epochs.

        Of the standard metrics, or of those under the protocol of a single paper.
        """
        columns: dict[str, Values] = {}
        for choice in (LAST, *CHOICES):
            entries, name = self.entries(choice), choice.replace("_", " ")
            values = _standard(entries)
            if protocol:
                values = [each["protocols"].get(protocol) for each in entries]
            if choice == LAST:
                names = [f"seed {seed}" for seed in self.by_seed]
                columns = with_mean(dict(zip(names, values, strict=True)))
            elif values and None not in values:
                mean, spread = mean_and_spread(values)
                over = {f"{name}, mean": mean, f"{name}, spread": spread}
                columns |= over if len(values) > 1 else {name: mean}
        return columns

    def protocols(self) -> dict[str, dict[str, Values]]:
        """``columns`` under each protocol of a single paper, by its name."""
        names = [entry["protocols"].keys() for entry in self.entries()]
        return {name: self.columns(name) for name in sorted(set.intersection(*map(set, names)))}

    def remark(self) -> str:
        """A note on the epochs best on test, or on their lack; blank without metrics."""
        if self.entries("best_on_test"):
            return "what is best on test was chosen on test: optimistic"
        if self.mean()["frame_auc"] is not None:
            return "no best on test: not every snapshot was judged on the test split as it is now"
        return ""

    def as_json(self) -> dict[str, Any]:
        """metrics.json: with one seed the metrics of that run, with several the mean of them."""
        seeds = [{"seed": seed, **entries} for seed, entries in self.by_seed.items()]
        found: dict[str, Any] = {}
        for choice in (LAST, *CHOICES):
            entries = self.entries(choice)
            found[choice] = entries[0] if entries else None
            if len(entries) > 1:
                mean, spread = mean_and_spread(_standard(entries, "per_category", "protocols"))
                found[choice] = {**mean, "spread": spread}
        return {**found, "seeds": seeds, "settings": self.settings, **self.origin.as_json()}


def _standard(entries: Sequence[Entry], *more: str) -> list[dict[str, Any]]:
    names = (*METRICS, *TEMPORAL, *more)
    return [{name: entry[name] for name in names if name in entry} for entry in entries]
