"""A run as its pages show it: scores, ground truth, metrics, losses and settings."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import lexists
from pathlib import Path
from typing import Any

from vadprep.core.errors import CheckpointError, ManifestError
from vadprep.core.records import Video
from vadprep.data import Manifest
from vadprep.evaluation.metrics import Truth
from vadprep.evaluation.run_files import (
    SCORES,
    read_bytes,
    read_json,
    recorded_coverage,
    recorded_manifest,
    seed_folders,
)
from vadprep.evaluation.scores import Scores, mean_scores, read_scores
from vadprep.evaluation.truth import known_truth

UNKNOWN = Truth(None, None)


@dataclass(frozen=True)
class ReportedRun:
    """A run as its pages show it."""

    name: str
    scores: Scores
    """Of several seeds the mean."""
    truth: Mapping[str, Truth] = field(default_factory=dict)
    """By video id; a video without an entry has unknown ground truth."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The record of metrics.json; empty where there is none."""
    losses: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """Rows of log.csv by seed."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The record of config.json of the first seed."""
    videos: tuple[Video, ...] = ()
    """The rows of the manifest that gives the ground truth."""
    why_unknown: str = ""
    """Why no manifest gives the ground truth, where that is known."""
    published: str = ""
    """What others published for the same head and data; empty for nothing."""

    coverage: str = "cut"
    """What frames after the last span score, as in the training."""

    def truth_of(self, video_id: str) -> Truth:
        """The ground truth of a video; unknown where no manifest has it."""
        return self.truth.get(video_id, UNKNOWN)


def read_run(path: Path, manifest: Manifest | None) -> ReportedRun:
    """A run folder, the folder of one seed, or a scores file.

    The ground truth is that of ``manifest``, else of the manifest of the run where that is there.
    Raises CheckpointError for a file that is missing or damaged, ManifestError as ``truth_of``.
    """
    if path.suffix == ".h5" or path.is_file():
        scores = read_scores(path)
        truth = known_truth(scores, manifest) if manifest else {}
        return ReportedRun(path.stem, scores, truth, videos=manifest.videos if manifest else ())
    seeds = {str(seed): each for seed, each in seed_folders(path).items()} or {"": path}
    scores = mean_scores([read_scores(folder / SCORES) for folder in seeds.values()])
    why_unknown = ""
    if manifest is None:
        try:
            manifest = recorded_manifest(path)
        except (CheckpointError, ManifestError) as error:
            why_unknown = str(error)
    of_seed = f"{path.absolute().parent.name} " if path.name.startswith("seed-") else ""
    first, losses = next(iter(seeds.values())), dict[str, list[dict[str, str]]]()
    for seed, folder in seeds.items():
        if lexists(folder / "log.csv"):
            text = read_bytes(folder / "log.csv").decode("utf-8", "replace")
            losses[seed] = list(csv.DictReader(io.StringIO(text)))
    return ReportedRun(
        of_seed + path.name,
        scores,
        known_truth(scores, manifest) if manifest else {},
        read_json(path / "metrics.json") if lexists(path / "metrics.json") else {},
        losses,
        read_json(first / "config.json") if lexists(first / "config.json") else {},
        manifest.videos if manifest else (),
        why_unknown,
        coverage=recorded_coverage(path),
    )
