"""What a training gave, over its seeds: metrics.json."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vadprep.checkpoint import Origin, read_json
from vadprep.manifest import Manifest
from vadprep.metrics import FIGURES, Metrics, VideoScores
from vadprep.score import evaluate_scores
from vadprep.snapshots import CHOICES

LAST = "last"
Figures = Mapping[str, float | None]


@dataclass(frozen=True)
class RunReport:
    """What a training gave, over its seeds."""

    folder: Path
    head: str
    settings: str
    """Where the settings of the head come from, ``mil.HeadSettings``."""
    origin: Origin
    by_seed: Mapping[int, Metrics]
    """Figures of the last step on the test split."""
    best: Mapping[int, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)
    """By seed and by ``snapshots.CHOICES``: metrics on the test split of the epoch chosen."""
    missing: tuple[str, ...] = ()
    """Videos of the train and test split that had no features."""

    def of(self, choice: str = LAST) -> dict[int, Figures]:
        """Figures of each seed, of the last step or of a choice; without seeds that have none."""
        if choice == LAST:
            return {seed: metrics.figures for seed, metrics in self.by_seed.items()}
        return self._entries(choice)

    def _entries(self, choice: str) -> dict[int, Mapping[str, Any]]:
        """metrics.json of each seed's epoch of a choice; without seeds that have none."""
        chosen = {seed: found.get(choice) for seed, found in self.best.items()}
        return {seed: entry for seed, entry in chosen.items() if entry is not None}

    def mean(self, choice: str = LAST) -> dict[str, float | None]:
        """Mean of each figure over the seeds, None unless every seed has it."""
        return mean(self.of(choice).values())

    def spread(self, choice: str = LAST) -> dict[str, float | None]:
        """Sample standard deviation over the seeds, None below two seeds."""
        return spread(self.of(choice).values())

    def per_category(self, choice: str = LAST) -> dict[str, dict[str, float | None]]:
        """Figures of each category that every seed has: means over the seeds, by category."""
        if choice == LAST:
            seeds = [metrics.per_category for metrics in self.by_seed.values()]
        else:
            seeds = [entry["per_category"] for entry in self._entries(choice).values()]
        shared = set(seeds[0]).intersection(*seeds) if seeds else ()
        return {
            name: mean([each[name] for each in seeds], seeds[0][name]) for name in sorted(shared)
        }

    def columns(self) -> dict[str, Figures]:
        """Figures for a table: of each seed and over them, then of the best epochs (means)."""
        columns = with_mean({f"seed {seed}": figures for seed, figures in self.of().items()})
        for choice in CHOICES:
            if self._is_whole(choice):
                columns[choice.replace("_", " ")] = self.mean(choice)
        return columns

    def _is_whole(self, choice: str) -> bool:
        return len(self.of(choice)) == len(self.by_seed)

    def remark(self) -> str:
        """What to say of the epochs best on test, or of their lack; blank without figures."""
        if self._is_whole("best_on_test"):
            return "what is best on test was chosen on test: optimistic"
        if self.mean()["frame_auc"] is not None:
            return "no best on test: not every snapshot was judged on the test split as it is now"
        return ""

    def protocols(self) -> dict[str, dict[str, Figures]]:
        """Figures of the last step under protocols of single papers, by protocol and seed."""
        return by_protocol({f"seed {seed}": metrics for seed, metrics in self.by_seed.items()})

    def as_json(self) -> dict[str, Any]:
        """metrics.json: with one seed the figures of that run, with several the mean of them."""
        seeds = [
            {"seed": seed, LAST: metrics.as_json(), **self._chosen(seed)}
            for seed, metrics in self.by_seed.items()
        ]
        choices = (LAST, *CHOICES)
        together = {
            choice: {
                **self.mean(choice),
                "spread": self.spread(choice),
                "per_category": self.per_category(choice),
            }
            if self._is_whole(choice)
            else None
            for choice in choices
        }
        only = {choice: seeds[0][choice] for choice in choices}
        return {
            **(only if len(seeds) == 1 else together),
            "seeds": seeds,
            "settings": self.settings,
            **self.origin.as_json(),
        }

    def _chosen(self, seed: int) -> dict[str, Any]:
        return {choice: self.best.get(seed, {}).get(choice) for choice in CHOICES}


def by_protocol(columns: Mapping[str, Metrics]) -> dict[str, dict[str, Figures]]:
    """Figures under protocols of single papers, by protocol and column."""
    found: dict[str, dict[str, Figures]] = {}
    for column, metrics in columns.items():
        for name, figures in metrics.protocols.items():
            found.setdefault(name, {})[column] = figures
    return found


def saved_protocols(
    folder: Path, scores: Mapping[str, VideoScores], manifest: Manifest
) -> tuple[Mapping[str, Figures], bool]:
    """Figures under protocols of single papers in a run folder, by protocol, and if they hold.

    They need the network and its features. So they are not made again for ``manifest``, and hold
    where all else that was saved beside them is what it gives for the run's ``scores``.
    """
    path = folder / "metrics.json"
    saved = read_json(path)[LAST] if path.exists() else {}
    found = saved.get("protocols", {})
    if not found:
        return {}, True
    again = evaluate_scores(scores, manifest, saved["coverage"])
    return found, replace(again, protocols=found).as_json() == saved


def with_mean(columns: Mapping[str, Figures]) -> dict[str, Figures]:
    """Columns of seeds, and where there are several their ``mean`` and ``spread``."""
    if len(columns) < 2:
        return dict(columns)
    seeds = columns.values()
    return {**columns, "mean": mean(seeds), "spread": spread(seeds)}


def mean(seeds: Collection[Figures], names: Collection[str] = FIGURES) -> dict[str, float | None]:
    """Mean of each figure over the seeds, None unless every seed has it."""
    known = _known(seeds, names)
    return {name: statistics.fmean(each) if each else None for name, each in known.items()}


def spread(seeds: Collection[Figures]) -> dict[str, float | None]:
    """Sample standard deviation over the seeds, None below two seeds that have it."""
    return {
        name: statistics.stdev(known) if len(known) > 1 else None
        for name, known in _known(seeds, FIGURES).items()
    }


def _known(seeds: Collection[Figures], names: Collection[str]) -> dict[str, list[float]]:
    """Each figure of all seeds, and of one that a seed lacks nothing."""
    values = {name: [figures[name] for figures in seeds] for name in names}
    known = {name: [each for each in found if each is not None] for name, found in values.items()}
    return {name: each if len(each) == len(seeds) else [] for name, each in known.items()}
