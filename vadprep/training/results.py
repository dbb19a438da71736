"""What a training gave, over its seeds: metrics.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vadprep.data import Manifest
from vadprep.evaluation.metrics import METRICS, Metrics, VideoScores, same_entry
from vadprep.evaluation.scores import Origin, evaluate, read_json

LAST = "last"
CHOICES = ("best_on_validation", "best_on_test")
"""How an epoch beside the last one is chosen."""
PARTS = ("per_category", "protocols")
"""Of an entry of metrics.json: further metrics, by name."""
Values = Mapping[str, float | None]
"""Metrics by name, as fractions of 1."""


@dataclass(frozen=True)
class TrainingRun:
    """A finished training: its folder and its metrics on the test split, over its seeds."""

    folder: Path
    head: str
    settings: str
    """Where the settings of the head come from, ``heads.HeadSettings``."""
    origin: Origin
    by_seed: Mapping[int, Metrics]
    """Metrics of the last step."""
    best: Mapping[int, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)
    """By seed and by ``CHOICES``: the entry of metrics.json of the epoch chosen."""
    missing: tuple[str, ...] = ()
    """Videos of the train and test split that had no features."""

    @property
    def seed_folders(self) -> dict[int, Path]:
        """The folder of each seed; the run folder itself when there is one."""
        alone = len(self.by_seed) == 1
        return {
            seed: self.folder if alone else self.folder / f"seed-{seed}" for seed in self.by_seed
        }

    def entries(self, choice: str = LAST) -> dict[int, Mapping[str, Any]]:
        """Entries of metrics.json by seed, of the last step or of a choice.

        Empty unless every seed has one.
        """
        if choice == LAST:
            return {seed: metrics.as_json() for seed, metrics in self.by_seed.items()}
        found = {seed: self.best.get(seed, {}).get(choice) for seed in self.by_seed}
        entries = {seed: entry for seed, entry in found.items() if entry is not None}
        return entries if len(entries) == len(found) else {}

    def mean(self, choice: str = LAST) -> dict[str, float | None]:
        """Mean of each metric over the seeds, None unless every seed has it."""
        return over([_standard(entry) for entry in self.entries(choice).values()], _mean)

    def spread(self, choice: str = LAST) -> dict[str, float | None]:
        """Sample standard deviation over the seeds, None below two seeds."""
        return over([_standard(entry) for entry in self.entries(choice).values()], _spread)

    def columns(self, protocol: str = "") -> dict[str, Values]:
        """Columns of a table: the last step of each seed and over them, then the best epochs.

        Of the standard metrics, or of those under the protocol of a single paper.
        """
        chosen = {
            choice: {
                seed: entry["protocols"][protocol] if protocol else _standard(entry)
                for seed, entry in self.entries(choice).items()
                if not protocol or protocol in entry["protocols"]
            }
            for choice in (LAST, *CHOICES)
        }
        columns = with_mean({f"seed {seed}": values for seed, values in chosen[LAST].items()})
        for choice in CHOICES:
            name, seeds = choice.replace("_", " "), [*chosen[choice].values()]
            if len(seeds) == len(self.by_seed) == 1:
                columns[name] = seeds[0]
            elif len(seeds) == len(self.by_seed):
                columns[f"{name}, mean"] = over(seeds, _mean)
                columns[f"{name}, spread"] = over(seeds, _spread)
        return columns

    def protocols(self) -> dict[str, dict[str, Values]]:
        """``columns`` under each protocol of a single paper, by its name."""
        names = [entry["protocols"].keys() for entry in self.entries().values()]
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
        seeds = [
            {"seed": seed, LAST: metrics.as_json()}
            | {choice: self.best.get(seed, {}).get(choice) for choice in CHOICES}
            for seed, metrics in self.by_seed.items()
        ]
        found: dict[str, Any] = {choice: seeds[0][choice] for choice in (LAST, *CHOICES)}
        if len(seeds) > 1:
            for choice in found:
                entries = [*self.entries(choice).values()]
                spread = {"spread": _entry_over(entries, _spread)} if entries else {}
                found[choice] = _entry_over(entries, _mean) | spread if entries else None
        return {**found, "seeds": seeds, "settings": self.settings, **self.origin.as_json()}


def _standard(entry: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: entry[name] for name in METRICS}


def _entry_over(
    entries: Sequence[Mapping[str, Any]], reduce: Callable[[list[float]], float | None]
) -> dict[str, Any]:
    """``reduce`` of the seeds, laid out as the entry of one: its metrics and ``PARTS``."""
    found: dict[str, Any] = over([_standard(entry) for entry in entries], reduce)
    for part in PARTS:
        shared = set.intersection(*(set(entry[part]) for entry in entries))
        found[part] = {
            name: over([entry[part][name] for entry in entries], reduce) for name in sorted(shared)
        }
    return found


def over(
    seeds: Sequence[Values], reduce: Callable[[list[float]], float | None]
) -> dict[str, float | None]:
    """``reduce`` of each metric over the seeds, None unless every seed has it."""
    found: dict[str, float | None] = {}
    for name in seeds[0] if seeds else ():
        values = [each for seed in seeds if (each := seed[name]) is not None]
        found[name] = reduce(values) if len(values) == len(seeds) else None
    return found


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def with_mean(columns: Mapping[str, Values]) -> dict[str, Values]:
    """Columns of seeds, and where there are several their ``mean`` and ``spread``."""
    if len(columns) < 2:
        return dict(columns)
    seeds = [*columns.values()]
    return {**columns, "mean": over(seeds, _mean), "spread": over(seeds, _spread)}


def by_protocol(columns: Mapping[str, Metrics]) -> dict[str, dict[str, Values]]:
    """Metrics under protocols of single papers, by protocol and column, and over the columns."""
    found: dict[str, dict[str, Values]] = {}
    for column, metrics in columns.items():
        for name, values in metrics.protocols.items():
            found.setdefault(name, {})[column] = values
    return {name: with_mean(values) for name, values in found.items()}


def saved_protocols(
    folder: Path, scores: Mapping[str, VideoScores], manifest: Manifest
) -> tuple[Mapping[str, Values], bool]:
    """Metrics under protocols of single papers in a run folder, and if they hold for ``manifest``.

    They need the network and its features, so they are not computed again. They hold where all
    else in the same entry of metrics.json is what ``manifest`` gives for the run's ``scores``.
    """
    path = folder / "metrics.json"
    saved = read_json(path)[LAST] if path.exists() else {}
    found = saved.get("protocols", {})
    if not found:
        return {}, True
    again = evaluate(scores, manifest=manifest, coverage=saved["coverage"])
    return found, same_entry(replace(again, protocols=found).as_json(), saved)
