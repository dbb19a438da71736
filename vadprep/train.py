"""Training: from features, manifest and config to a run folder (the loop itself is ``fit``).

    RUN/config.json      what was asked for and resolved
    RUN/log.csv          one row a step: learning rate, total loss and its terms
    RUN/checkpoint-*     the trained head, see ``checkpoint``
    RUN/scores-last.h5   scores of the test videos
    RUN/metrics.json     figures of the last step; never chosen on the test set
    RUN/seed-<n>/        one such folder for each seed, when there are several

The same features, manifest, config and seed give the same bytes on the same machine with the
same number of threads, also when the run was interrupted at any step and resumed.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vadprep.bags import STREAM_CHOICES, TrainingBags, shuffled_labels, streams_of
from vadprep.checkpoint import (
    LAST,
    RESUME,
    Origin,
    Run,
    origin_of,
    read_json,
    save_run,
    seed_folders,
    spec_records,
    write_json,
)
from vadprep.clips import COVERAGES
from vadprep.features import Features
from vadprep.files import make_folder
from vadprep.fit import fit
from vadprep.manifest import Manifest
from vadprep.metrics import FIGURES, Metrics, listed
from vadprep.mil import HeadConfig, head_kind
from vadprep.records import CheckpointError, ManifestError, Video
from vadprep.score import (
    evaluate_scores,
    exact_arithmetic,
    score_videos,
    videos_in_split,
    write_scores,
)
from vadprep.spec import Spec

PROVENANCE = {"source", "threads"}
"""Fields of config.json that say what merely happened: a run may go on under others."""


@dataclass(frozen=True)
class TrainConfig:
    """What to train, and how where it is not as published."""

    head: str = "ddl"
    dataset: str = ""
    """Whose published settings to use; the name of the manifest file when blank. A data set
    without settings of its own takes those of the head's fallback (``mil.HEADS``)."""
    head_config: HeadConfig | None = None
    """Settings instead of the published ones."""
    streams: str = "rgb"
    """``rgb``, ``flow`` or ``concat``."""
    seeds: tuple[int, ...] = ()
    """One run each; the seed of the settings when empty."""
    device: str = "cpu"
    control: bool = False
    """Train on labels dealt to other videos: about 0.5 in the mean over many seeds."""
    allow_missing: bool = False
    """Go on without the videos that have no features; they are listed in config.json."""
    resume: bool = False
    """Go on from the last full epoch of the same run."""
    coverage: str = "cut"
    """What frames after the last span score in the figures (``clips.COVERAGES``)."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Where the manifest is found again: ``dataset`` or ``manifest``, and ``split_file`` if any.
    The path of the manifest when empty."""

    def __post_init__(self) -> None:
        head_kind(self.head)
        if self.streams not in STREAM_CHOICES:
            raise ValueError(f"streams = {self.streams!r}: allowed are {', '.join(STREAM_CHOICES)}")
        _check_device(self.device)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: each may stand there once")
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds = {self.seeds}: allowed are 0 to {2**32 - 1}")
        if self.coverage not in COVERAGES:
            raise ValueError(f"{self.coverage = }: allowed are {', '.join(COVERAGES)}")


def _check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device."""
    cards = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if cards else []), *(f"cuda:{each}" for each in range(cards))]
    if name not in allowed:
        raise ValueError(f"device = {name!r}: this machine has {', '.join(allowed)}")


@dataclass(frozen=True)
class RunReport:
    """What a training gave, over its seeds."""

    folder: Path
    head: str
    settings: str
    """Data set whose published settings were used, or ``given``."""
    origin: Origin
    by_seed: Mapping[int, Metrics]
    """Figures of the last step on the test split."""
    missing: tuple[str, ...] = ()
    """Videos of the train and test split that had no features."""

    def mean(self) -> dict[str, float | None]:
        """Mean of each figure over the seeds, None unless every seed has it."""
        return {name: _mean(values) for name, values in self._values().items()}

    def spread(self) -> dict[str, float | None]:
        """Sample standard deviation over the seeds, None below two seeds."""
        return {
            name: statistics.stdev(known) if len(known := _known(values)) > 1 else None
            for name, values in self._values().items()
        }

    def as_json(self) -> dict[str, Any]:
        """metrics.json: with one seed ``last`` is that run, with several the mean of them."""
        runs = [{"seed": seed, **m.as_json()} for seed, m in self.by_seed.items()]
        only = next(iter(self.by_seed.values())).as_json()
        return {
            "last": only if len(runs) == 1 else {**self.mean(), "spread": self.spread()},
            "best_on_validation": None,
            "best_on_test": None,
            "seeds": runs,
            **self.origin.as_json(),
        }

    def _values(self) -> dict[str, list[float | None]]:
        return {
            name: [metrics.figures[name] for metrics in self.by_seed.values()] for name in FIGURES
        }


def _known(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _mean(values: Sequence[float | None]) -> float | None:
    return statistics.fmean(known) if (known := _known(values)) else None


@dataclass(frozen=True)
class _Job:
    """A training with everything resolved but the seed."""

    config: TrainConfig
    head_config: HeadConfig
    settings: str
    features: Features
    streams: tuple[str, ...]
    manifest: Manifest
    bags: TrainingBags
    test_ids: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def specs(self) -> dict[str, Spec]:
        """Specs of the streams in use."""
        return {stream: self.features.specs[stream] for stream in self.streams}

    def report(self, folder: Path, by_seed: Mapping[int, Metrics]) -> RunReport:
        """What the run in ``folder`` gave."""
        origin = origin_of(self.specs, self.config.control)
        return RunReport(folder, self.config.head, self.settings, origin, by_seed, self.missing)


def train(features: Features, manifest: Manifest, config: TrainConfig, out: Path) -> RunReport:
    """Train a head on the train split, score the test split, and fill the run folder ``out``.

    ``features`` is what ``open_features`` returns. No label or interval of a video outside the
    train split is read before the last step. Raises FeaturesError and ManifestError for videos
    without features or labels, CheckpointError for a folder with another run, TrainingError at
    the first loss that is not finite, Stopped inside a block of ``signals.stop_on_signals``.
    """
    job = _prepare(features, manifest, config)
    seeds = config.seeds or (job.head_config.seed,)
    _check_seeds(out, seeds, config.resume)
    by_seed = {
        seed: _train_seed(job, seed, out if len(seeds) == 1 else out / f"seed-{seed}")
        for seed in seeds
    }
    report = job.report(out, by_seed)
    write_json(out / "metrics.json", report.as_json())
    return report


def _check_seeds(out: Path, seeds: Sequence[int], resume: bool) -> None:
    """Raise CheckpointError unless metrics.json will cover every seed that ``out`` then holds."""
    if len(seeds) > 1 and (out / "config.json").exists():
        raise CheckpointError(f"{out}: holds a run of one seed: use another --out")
    found = seed_folders(out)
    if found and not (resume and len(seeds) > 1 and found.keys() <= set(seeds)):
        there, asked = (",".join(map(str, each)) for each in (found, seeds))
        raise CheckpointError(
            f"{out}: holds seeds {there}, asked for {asked}: use another --out, or --resume "
            f"with all those seeds and any more"
        )


def _prepare(features: Features, manifest: Manifest, config: TrainConfig) -> _Job:
    kind = head_kind(config.head)
    settings = kind.settings_for(config.dataset or manifest.path.stem)
    head_config = config.head_config or kind.published[settings]
    if not isinstance(head_config, kind.config):
        raise ValueError(f"{type(head_config).__name__} is no config of head {config.head!r}")
    videos = videos_in_split(manifest, features, "train", config.allow_missing)
    tests = videos_in_split(manifest, features, "test", config.allow_missing)
    streams = streams_of(config.streams, features.streams)
    bags = TrainingBags(features, training_labels(videos), streams, head_config)
    wanted = {video.video_id for name in ("train", "test") for video in manifest.in_split(name)}
    return _Job(
        config=config,
        head_config=head_config,
        settings="given" if config.head_config else settings,
        features=features,
        streams=streams,
        manifest=manifest,
        bags=bags,
        test_ids=tuple(video.video_id for video in tests),
        missing=tuple(sorted(wanted - {video.video_id for video in (*videos, *tests)})),
    )


def training_labels(videos: Sequence[Video]) -> dict[str, int]:
    """Labels by id; raises ManifestError for a video without one or a class without videos."""
    unlabelled = [video.video_id for video in videos if video.label is None]
    if unlabelled:
        raise ManifestError(f"train videos without a label: {listed(unlabelled)}: write 0 or 1")
    labels = {video.video_id: video.label for video in videos if video.label is not None}
    for label, word in enumerate(("normal", "abnormal")):
        if label not in labels.values():
            raise ManifestError(
                f"no {word} video (label {label}) among the {len(videos)} of split train with "
                f"features: training needs both labels, see the columns split and label"
            )
    return labels


def _train_seed(job: _Job, seed: int, folder: Path) -> Metrics:
    """Train one seed, score and save its last step, then evaluate it.

    A manifest whose test split cannot be evaluated costs the figures, not the training.
    """
    config = job.config
    bags = _control_bags(job, seed) if config.control else job.bags
    _claim(folder, _record(job, bags, seed), config.resume)
    with _seeded(seed, config.device), exact_arithmetic():
        head = head_kind(config.head).build(bags.dim, job.head_config).to(config.device)
        if job.head_config.standardize:
            head.fit_standardization(*bags.statistics())
        fit(head, bags, seed, folder)
    scores = score_videos(head, job.features, job.test_ids, job.streams)
    run = Run(config.head, head, config.streams, job.specs, seed, config.control)
    write_scores(folder / "scores-last.h5", scores, run.origin, LAST)
    save_run(folder, run)
    metrics = evaluate_scores(scores, job.manifest, config.coverage)
    save_run(folder, replace(run, metrics=metrics.as_json()))
    write_json(folder / "metrics.json", job.report(folder, {seed: metrics}).as_json())
    return metrics


def _control_bags(job: _Job, seed: int) -> TrainingBags:
    kinds = {video.video_id: video.category for video in job.manifest.videos}
    return job.bags.relabelled(shuffled_labels(job.bags.labels, kinds, seed))


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Torch's random state seeded inside the block and as before after it."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def _record(job: _Job, bags: TrainingBags, seed: int) -> dict[str, Any]:
    """config.json: all that decides the outcome, and ``PROVENANCE``."""
    config = job.config
    labels = json.dumps(bags.labels, sort_keys=True).encode()
    return {
        "head": config.head,
        "settings": job.settings,
        "config": asdict(job.head_config),
        "streams": config.streams,
        "specs": spec_records(job.specs),
        "seed": seed,
        "device": config.device,
        "control": "shuffled labels" if config.control else None,
        "coverage": config.coverage,
        "dim": bags.dim,
        "num_train_videos": len(bags.labels),
        "num_train_items": len(bags),
        "num_test_videos": len(job.test_ids),
        "train_labels_sha256": hashlib.sha256(labels).hexdigest(),
        "missing": list(job.missing),
        "source": dict(config.source) or {"manifest": str(job.manifest.path.absolute())},
        "threads": [torch.get_num_threads()],
    }


def _claim(folder: Path, record: Mapping[str, Any], resume: bool) -> None:
    """Make ``folder`` the place of this run; raises CheckpointError if it is another's."""
    path = folder / "config.json"
    if not path.exists() and not (folder / RESUME).exists():
        make_folder(folder)
        write_json(path, record)
        return
    if not resume:
        raise CheckpointError(f"{folder}: holds a run already: use --resume or another --out")
    found = read_json(path)
    differing = [
        f"{name}: {found.get(name)!r} / {record.get(name)!r}"
        for name in sorted((found.keys() | record.keys()) - PROVENANCE)
        if found.get(name) != record.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{folder}: holds another run (there / asked for): {'; '.join(differing)}. "
            f"Use the same settings, or another --out"
        )
    _update(path, found, record)


def _update(path: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Bring the provenance up to date: the manifest of now, every number of threads so far."""
    threads = dict.fromkeys([*found.get("threads", []), *record["threads"]])
    updated = {**found, "source": record["source"], "threads": list(threads)}
    if updated != found:
        write_json(path, updated)
