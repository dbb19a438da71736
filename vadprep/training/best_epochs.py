"""Which epoch was the best, by the validation slice and by the test split, beside the last one.

RUN/snapshots.csv                     figures of each snapshot
RUN/checkpoint-best-on-validation.*   and scores-best-on-validation.h5: highest video AUC on
                                      training videos that were held out
RUN/checkpoint-best-on-test.*         and scores-best-on-test.h5: chosen on the very videos it is
                                      judged by, as the figures of most papers are

Nothing that is read here has any influence on the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vadprep.evaluation.metrics import METRICS, Metrics, Truth, VideoScores, compute_metrics
from vadprep.evaluation.scores import read_json, read_scores, write_scores
from vadprep.features.reader import Features
from vadprep.heads import Head
from vadprep.training.checkpoint import Run, save_run
from vadprep.training.csltal_protocol import NAME as SUBSAMPLED
from vadprep.training.csltal_protocol import evaluate_subsampled
from vadprep.training.log import SNAPSHOTS, first_rows, write_rows
from vadprep.training.scoring import score_videos

MOST = 20
"""Snapshots of a run, evenly spread over its epochs, the last one included.

Official codes look more often and report the highest test figure: RTFM's after every five steps,
thousands of times, AR-Net's 23 times, those of DDL's authors after each epoch. Left out on
purpose: here the last step counts, and fewer looks make the best on test less lucky.
"""

CHOICES = ("best_on_validation", "best_on_test")
TEST_FIGURES = {"xd": "frame_ap_trapezoid"}
"""Figure that a data set is judged by; frame AUC for the others."""


@dataclass(frozen=True)
class Exam:
    """What a head is judged on between the epochs."""

    features: Features
    streams: tuple[str, ...]
    truth: Mapping[str, Truth]
    """What is known of each test video, in the order that they are scored in."""
    coverage: str
    validation: Mapping[str, int]
    """Label of each training video that is held out; may be empty."""
    test_figure: str = "frame_auc"
    """What the best epoch on the test split is chosen by."""

    def score(self, head: Head) -> tuple[dict[str, VideoScores], Metrics]:
        """Scores of the test videos and their figures."""
        scores = score_videos(head, self.features, tuple(self.truth), self.streams)
        return scores, compute_metrics(scores, self.truth, self.coverage)

    def protocols(self, run: Run) -> dict[str, Mapping[str, float | None]]:
        """Figures under the protocol of the head's own paper, by its name; most have none."""
        if run.head_name != "csltal":
            return {}
        figures = evaluate_subsampled(run.head, self.features, self.truth, self.streams)
        return {SUBSAMPLED: figures}


def snapshot_epochs(epochs: int, most: int) -> frozenset[int]:
    """At most ``most`` epochs of 0 .. epochs - 1, evenly spread, the last one among them."""
    most = min(most, epochs)
    return frozenset(epochs * (index + 1) // most - 1 for index in range(most))


class Snapshots:
    """Scores a head between epochs and keeps its best states in the run folder."""

    def __init__(self, folder: Path, run: Run, exam: Exam, epochs: frozenset[int]) -> None:
        self._folder, self._run, self._exam, self._epochs = folder, run, exam, epochs
        self._rows: list[dict[str, Any]] = []

    def resume(self, num_epochs: int) -> None:
        """Go on after ``num_epochs`` epochs; later snapshots are forgotten and taken again."""
        num_rows = sum(epoch < num_epochs for epoch in self._epochs)
        self._rows = first_rows(self._folder / SNAPSHOTS, num_rows) if num_rows else []

    def take(self, epoch: int) -> dict[str, Any]:
        """Score the head as it is after ``epoch``, and keep it where it is the best so far.

        Returns the row of snapshots.csv, empty for an epoch without a snapshot.
        """
        if epoch not in self._epochs:
            return {}
        scores, test = self._exam.score(self._run.head)
        row: dict[str, Any] = {"epoch": epoch, "validation/video_auc": self._validation_auc()}
        row |= {f"test/{name}": test.values[name] for name in METRICS}
        best = [choice for choice in CHOICES if self._is_best(choice, row)]
        if best:
            test = replace(test, protocols=self._exam.protocols(self._run))
        for choice in best:
            self._keep(choice, row, test)
            path = self._folder / _scores_name(choice)
            write_scores(path, scores, self._run.origin, _name(choice))
        self._rows.append(row)
        write_rows(self._folder / SNAPSHOTS, self._rows)
        return row

    def _validation_auc(self) -> float | None:
        exam = self._exam
        if not exam.validation:
            return None
        scores = score_videos(self._run.head, exam.features, tuple(exam.validation), exam.streams)
        truth = {video_id: Truth(None, label) for video_id, label in exam.validation.items()}
        return compute_metrics(scores, truth).values["video_auc"]

    def _column(self, choice: str) -> str:
        return {
            "best_on_validation": "validation/video_auc",
            "best_on_test": f"test/{self._exam.test_figure}",
        }[choice]

    def _is_best(self, choice: str, row: Mapping[str, Any]) -> bool:
        """True for the highest value so far; of equal ones the later, which trained longer."""
        column = self._column(choice)
        before = [float(each[column]) for each in self._rows if each[column] not in (None, "")]
        value = row[column]
        return value is not None and all(value >= each for each in before)

    def _keep(self, choice: str, row: Mapping[str, Any], test: Metrics) -> None:
        value, num_videos = row[self._column(choice)], len(self._exam.validation)
        chosen_by = {
            "best_on_validation": f"video_auc {value:.4f} on {num_videos} training videos held out",
            "best_on_test": f"{self._exam.test_figure} on the test split itself: optimistic",
        }[choice]
        metrics = {"epoch": row["epoch"], "chosen_by": chosen_by, **test.as_json()}
        save_run(self._folder, replace(self._run, metrics=metrics), _name(choice))

    def chosen(self) -> dict[str, dict[str, Any] | None]:
        """Metrics on the test split of the best epochs, with ``epoch`` and ``chosen_by``.

        By the names in ``CHOICES``; None where nothing could be chosen by.
        """
        return {choice: self._chosen(choice) for choice in CHOICES}

    def _chosen(self, choice: str) -> dict[str, Any] | None:
        """The scores of then by the truth of now, which a run that goes on may be told anew.

        Protocols need the network of then, and are left out where the truth is another.
        """
        path = self._folder / f"{_name(choice)}.json"
        if not self._rows or not path.exists():
            return None
        scores, exam = read_scores(self._folder / _scores_name(choice)), self._exam
        if scores.keys() != exam.truth.keys():
            return None
        saved = read_json(path)["metrics"]
        now = {**saved, **compute_metrics(scores, exam.truth, exam.coverage).as_json()}
        with_protocols = now | {"protocols": saved["protocols"]}
        return saved if with_protocols == saved else now


def _name(choice: str) -> str:
    return f"checkpoint-{choice.replace('_', '-')}"


def _scores_name(choice: str) -> str:
    return f"scores-{choice.replace('_', '-')}.h5"
