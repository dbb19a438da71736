"""What a training gave, over its seeds: metrics.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vadprep.data.manifest import Manifest
from vadprep.evaluation.metrics import METRICS, Metrics, VideoScores
from vadprep.evaluation.scores import Origin, evaluate, read_json
from vadprep.training.best_epochs import CHOICES

LAST = "last"
PARTS = ("per_category", "protocols")
"""Of an entry of metrics.json: further figures, by name."""
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
        entries = self._entries(choice)
        return {seed: {name: entry[name] for name in METRICS} for seed, entry in entries.items()}

    def of_part(self, part: str, choice: str = LAST) -> dict[str, dict[int, Figures]]:
        """As ``of`` for each name in one of ``PARTS`` that every seed has."""
        seeds = {seed: entry[part] for seed, entry in self._entries(choice).items()}
        shared = set.intersection(*map(set, seeds.values())) if seeds else set()
        return {name: {seed: seeds[seed][name] for seed in seeds} for name in sorted(shared)}

    def _entries(self, choice: str) -> dict[int, Mapping[str, Any]]:
        """metrics.json of each seed's last step, or epoch of a choice where it has one."""
        if choice == LAST:
            return {seed: metrics.as_json() for seed, metrics in self.by_seed.items()}
        chosen = {seed: found.get(choice) for seed, found in self.best.items()}
        return {seed: entry for seed, entry in chosen.items() if entry is not None}

    def mean(self, choice: str = LAST) -> dict[str, float | None]:
        """Mean of each figure over the seeds, None unless every seed has it."""
        return mean(self.of(choice).values())

    def spread(self, choice: str = LAST) -> dict[str, float | None]:
        """Sample standard deviation over the seeds, None below two seeds."""
        return spread(self.of(choice).values())

    def columns(self) -> dict[str, Figures]:
        """Figures for a table: of each seed and over them, then of the best epochs."""
        return _columns({choice: self.of(choice) for choice in self._whole()})

    def protocols(self) -> dict[str, dict[str, Figures]]:
        """As ``columns`` under each protocol of a single paper, by its name."""
        found = {choice: self.of_part("protocols", choice) for choice in self._whole()}
        return {
            name: _columns({choice: each[name] for choice, each in found.items() if name in each})
            for name in found[LAST]
        }

    def _whole(self) -> list[str]:
        """The last step, and the choices that there are for every seed."""
        choices = (LAST, *CHOICES)
        return [each for each in choices if len(self._entries(each)) == len(self.by_seed)]

    def remark(self) -> str:
        """What to say of the epochs best on test, or of their lack; blank without figures."""
        if "best_on_test" in self._whole():
            return "what is best on test was chosen on test: optimistic"
        if self.mean()["frame_auc"] is not None:
            return "no best on test: not every snapshot was judged on the test split as it is now"
        return ""

    def as_json(self) -> dict[str, Any]:
        """metrics.json: with one seed the figures of that run, with several the mean of them."""
        seeds = [
            {"seed": seed, LAST: metrics.as_json(), **self._chosen(seed)}
            for seed, metrics in self.by_seed.items()
        ]
        choices = (LAST, *CHOICES)
        together = dict.fromkeys(choices) | {
            choice: self._over_seeds(mean, choice) | {"spread": self._over_seeds(spread, choice)}
            for choice in self._whole()
        }
        only = {choice: seeds[0][choice] for choice in choices}
        return {
            **(only if len(seeds) == 1 else together),
            "seeds": seeds,
            "settings": self.settings,
            **self.origin.as_json(),
        }

    def _over_seeds(
        self, over: Callable[[Collection[Figures]], Figures], choice: str
    ) -> dict[str, Any]:
        """``over`` of the seeds, laid out as the entry of one: figures, and those of ``PARTS``."""
        parts = {
            part: {n: over(each.values()) for n, each in self.of_part(part, choice).items()}
            for part in PARTS
        }
        return {**over(self.of(choice).values()), **parts}

    def _chosen(self, seed: int) -> dict[str, Any]:
        return {choice: self.best.get(seed, {}).get(choice) for choice in CHOICES}


def _columns(chosen: Mapping[str, Mapping[int, Figures]]) -> dict[str, Figures]:
    """Columns of the last step, one a seed and over them, and of the best epochs, over the seeds.

    ``chosen`` holds figures by choice and seed.
    """
    columns = with_mean({f"seed {seed}": figures for seed, figures in chosen[LAST].items()})
    for choice in filter(chosen.__contains__, CHOICES):
        name, seeds = choice.replace("_", " "), chosen[choice].values()
        if len(seeds) == 1:
            columns[name] = mean(seeds)
        else:
            columns |= {f"{name}, mean": mean(seeds), f"{name}, spread": spread(seeds)}
    return columns


def by_protocol(columns: Mapping[str, Metrics]) -> dict[str, dict[str, Figures]]:
    """Figures under protocols of single papers, by protocol and column, and over the columns."""
    found: dict[str, dict[str, Figures]] = {}
    for column, metrics in columns.items():
        for name, figures in metrics.protocols.items():
            found.setdefault(name, {})[column] = figures
    return {name: with_mean(figures) for name, figures in found.items()}


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
    again = evaluate(scores, manifest=manifest, coverage=saved["coverage"])
    return found, replace(again, protocols=found).as_json() == saved


def with_mean(columns: Mapping[str, Figures]) -> dict[str, Figures]:
    """Columns of seeds, and where there are several their ``mean`` and ``spread``."""
    if len(columns) < 2:
        return dict(columns)
    seeds = columns.values()
    return {**columns, "mean": mean(seeds), "spread": spread(seeds)}


def mean(seeds: Collection[Figures]) -> dict[str, float | None]:
    """Mean of each figure over the seeds, None unless every seed has it."""
    known = _known(seeds)
    return {name: statistics.fmean(each) if each else None for name, each in known.items()}


def spread(seeds: Collection[Figures]) -> dict[str, float | None]:
    """Sample standard deviation over the seeds, None below two seeds that have it."""
    return {
        name: statistics.stdev(known) if len(known) > 1 else None
        for name, known in _known(seeds).items()
    }


def _known(seeds: Collection[Figures]) -> dict[str, list[float]]:
    """Each figure of all seeds, and of one that a seed lacks nothing."""
    values = {name: [figures[name] for figures in seeds] for name in next(iter(seeds), {})}
    known = {name: [each for each in found if each is not None] for name, found in values.items()}
    return {name: each if len(each) == len(seeds) else [] for name, each in known.items()}
