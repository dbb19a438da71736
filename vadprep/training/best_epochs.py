"""Which epoch was the best, by the validation slice and by the test split, beside the last one.

RUN/snapshots.csv                     metrics of each snapshot
RUN/checkpoint-best-on-validation.*   and scores-best-on-validation.h5: highest video AUC on
                                      training videos that were held out
RUN/checkpoint-best-on-test.*         and scores-best-on-test.h5: chosen on the very videos it is
                                      judged by, as the numbers of most papers are

Nothing that is computed here has any influence on the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vadprep.evaluation.metrics import (
    METRICS,
    Metrics,
    Truth,
    VideoScores,
    compute_metrics,
    same_entry,
)
from vadprep.evaluation.scores import read_json, read_scores, write_scores
from vadprep.features import Features
from vadprep.heads import Head
from vadprep.training.checkpoint import Checkpoint, save_checkpoint
from vadprep.training.csltal_protocol import NAME as SUBSAMPLED, evaluate_subsampled
from vadprep.training.log import SNAPSHOTS, read_rows, write_rows
from vadprep.training.results import CHOICES
from vadprep.training.scoring import score_videos

MOST = 20
"""Snapshots of a run, evenly spread over its epochs, the last one included.

Official codes look more often and report the highest test metric: RTFM's after every five steps,
thousands of times, AR-Net's 23 times, those of DDL's authors after each epoch. Left out on
purpose: here the last step counts, and fewer looks make the best on test less lucky.
"""


@dataclass(frozen=True)
class EvaluationSet:
    """The videos that a head is evaluated on between the epochs and at the end."""

    features: Features
    streams: tuple[str, ...]
    truth: Mapping[str, Truth]
    """Ground truth of each test video, in the order that they are scored in."""
    coverage: str
    validation: Mapping[str, int]
    """Label of each training video that is held out; may be empty."""
    test_metric: str = "frame_auc"
    """What the best epoch on the test split is chosen by."""

    def score(self, head: Head) -> tuple[dict[str, VideoScores], Metrics]:
        """Scores of the test videos and their metrics."""
        scores = score_videos(head, self.features, tuple(self.truth), self.streams)
        return scores, compute_metrics(scores, self.truth, self.coverage)

    def validation_auc(self, head: Head) -> float | None:
        """Video AUC on the training videos that are held out; None without any."""
        if not self.validation:
            return None
        scores = score_videos(head, self.features, tuple(self.validation), self.streams)
        truth = {video_id: Truth(None, label) for video_id, label in self.validation.items()}
        return compute_metrics(scores, truth).values["video_auc"]

    def protocols(self, run: Checkpoint) -> dict[str, Mapping[str, float | None]]:
        """Metrics under the protocol of the head's own paper, by its name; most have none."""
        if run.head_name != "csltal":
            return {}
        values = evaluate_subsampled(run.head, self.features, self.truth, self.streams)
        return {SUBSAMPLED: values}


def snapshot_epochs(epochs: int, most: int) -> frozenset[int]:
    """At most ``most`` epochs of 0 .. epochs - 1, evenly spread, the last one among them."""
    most = min(most, epochs)
    return frozenset(epochs * (index + 1) // most - 1 for index in range(most))


class Snapshots:
    """Scores a head between epochs and keeps its best states in the run folder."""

    def __init__(
        self, folder: Path, run: Checkpoint, evaluation_set: EvaluationSet, epochs: frozenset[int]
    ) -> None:
        self._folder, self._run, self._set, self._epochs = folder, run, evaluation_set, epochs
        self._rows: list[dict[str, Any]] = []
        self._columns = {
            "best_on_validation": "validation/video_auc",
            "best_on_test": f"test/{evaluation_set.test_metric}",
        }

    def resume(self, num_epochs: int) -> None:
        """Go on after ``num_epochs`` epochs; later snapshots are forgotten and taken again."""
        num_rows = sum(epoch < num_epochs for epoch in self._epochs)
        self._rows = read_rows(self._folder / SNAPSHOTS, num_rows) if num_rows else []

    def take(self, epoch: int) -> dict[str, Any]:
        """Score the head as it is after ``epoch``, and keep it where it is the best so far.

        Returns the row of snapshots.csv, empty for an epoch without a snapshot.
        """
        if epoch not in self._epochs:
            return {}
        head = self._run.head
        scores, test = self._set.score(head)
        row: dict[str, Any] = {
            "epoch": epoch,
            "validation/video_auc": self._set.validation_auc(head),
            **{f"test/{name}": test.values[name] for name in METRICS},
        }
        best = [choice for choice in CHOICES if self._is_best(self._columns[choice], row)]
        if best:
            test = replace(test, protocols=self._set.protocols(self._run))
        value, num_videos = row["validation/video_auc"], len(self._set.validation)
        for choice in best:
            chosen_by = (
                f"{self._set.test_metric} on the test split itself: optimistic"
                if choice == "best_on_test"
                else f"video_auc {value:.4f} on {num_videos} training videos held out"
            )
            metrics = {"epoch": epoch, "chosen_by": chosen_by, **test.as_json()}
            checkpoint, path = _names(choice)
            save_checkpoint(self._folder, replace(self._run, metrics=metrics), checkpoint)
            write_scores(self._folder / path, scores, self._run.origin, checkpoint)
        self._rows.append(row)
        write_rows(self._folder / SNAPSHOTS, self._rows)
        return row

    def _is_best(self, column: str, row: Mapping[str, Any]) -> bool:
        """True for the highest value so far; of equal ones the later, which trained longer."""
        before = [float(each[column]) for each in self._rows if each[column] not in (None, "")]
        return row[column] is not None and all(row[column] >= each for each in before)

    def chosen(self) -> dict[str, dict[str, Any] | None]:
        """Metrics on the test split of the best epochs, with ``epoch`` and ``chosen_by``.

        By the names in ``CHOICES``; None where there was nothing to choose by.
        """
        return {choice: self._chosen(choice) for choice in CHOICES}

    def _chosen(self, choice: str) -> dict[str, Any] | None:
        """The saved scores by the ground truth of now, which may be another in a run that goes on.

        Protocols need the network of then, and are left out where the truth is another.
        """
        checkpoint, scores_name = _names(choice)
        path = self._folder / f"{checkpoint}.json"
        if not self._rows or not path.exists():
            return None
        scores = read_scores(self._folder / scores_name)
        if scores.keys() != self._set.truth.keys():
            return None
        saved = read_json(path)["metrics"]
        now = {**saved, **compute_metrics(scores, self._set.truth, self._set.coverage).as_json()}
        return saved if same_entry(now | {"protocols": saved["protocols"]}, saved) else now


def _names(choice: str) -> tuple[str, str]:
    """Names of a choice's checkpoint, without the suffix, and of its scores."""
    name = choice.replace("_", "-")
    return f"checkpoint-{name}", f"scores-{name}.h5"
