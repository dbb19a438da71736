"""Training: from features, manifest and config to a run folder (the loop itself is ``fit``).

    RUN/config.json      what was asked for and resolved
    RUN/log.csv ...      losses and snapshots, see ``logs``
    RUN/checkpoint-*     the trained head, see ``checkpoint``; at its best, see ``snapshots``
    RUN/scores-last.h5   scores of the test videos
    RUN/metrics.json     figures of the last step, and beside it of the best ones
    RUN/seed-<n>/        one such folder for each seed, when there are several

The same features, manifest, config and seed give the same bytes on the same machine with the
same number of threads, also when the run was interrupted at any step and resumed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vadprep.core.atomic import make_folder, write_json
from vadprep.core.clips import COVERAGES
from vadprep.core.errors import CheckpointError, ManifestError, TrainingError
from vadprep.core.records import Video
from vadprep.core.spec import Spec
from vadprep.data.manifest import Manifest
from vadprep.evaluation.metrics import Metrics, listed
from vadprep.evaluation.scores import LAST, read_json, truth_of, videos_in_split, write_scores
from vadprep.features.reader import STREAM_CHOICES, Features, streams_of
from vadprep.heads import Head, HeadConfig, HeadSettings, head_kind
from vadprep.training.bags import TrainingBags, shuffled_labels
from vadprep.training.best_epochs import MOST, TEST_FIGURES, Exam, Snapshots, snapshot_epochs
from vadprep.training.checkpoint import RESUME, Run, origin_of, save_run, seed_folders, spec_records
from vadprep.training.log import STEPS
from vadprep.training.loop import train_epochs
from vadprep.training.results import RunReport
from vadprep.training.scoring import exact_arithmetic

_LOG = logging.getLogger(__name__)

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
    schedule: str = "published"
    """``small`` for data sets of tens of videos (``mil.SMALL``)."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Single fields of the settings instead of those."""
    validation: float = 0.0
    """Share of the training videos of each class, the same for every seed, that is held out to
    choose an epoch by."""
    snapshots: int = MOST
    """How often at most the test split (and the slice) is scored during a training; 0 never.
    Papers look more often and report the best, see ``snapshots.MOST``."""
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
        check_device(self.device)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: each may stand there once")
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds = {self.seeds}: allowed are 0 to {2**32 - 1}")
        if self.coverage not in COVERAGES:
            raise ValueError(f"{self.coverage = }: allowed are {', '.join(COVERAGES)}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation = {self.validation}: a share, 0 or more and below 1")
        if self.snapshots < 0:
            raise ValueError(f"snapshots = {self.snapshots}: 0 or more")
        if self.validation and not self.snapshots:
            raise ValueError(
                f"validation = {self.validation}: without snapshots no epoch can be chosen by it"
            )
        self.settings("")

    def settings(self, manifest_name: str) -> HeadSettings:
        """Settings of the head for a manifest of this name; raises ValueError."""
        if self.head_config is None:
            dataset = self.dataset or manifest_name
            return head_kind(self.head).settings(dataset, self.schedule, self.changes)
        kind = head_kind(self.head).config
        if not isinstance(self.head_config, kind):
            raise ValueError(
                f"{type(self.head_config).__name__} is no config of head {self.head!r}"
            )
        if self.changes or self.schedule != "published":
            raise ValueError("head_config holds all settings: schedule and changes go without it")
        return HeadSettings("given", self.head_config)


def check_device(name: str) -> None:
    """Raise ValueError unless this machine has the device."""
    cards = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if cards else []), *(f"cuda:{each}" for each in range(cards))]
    if name not in allowed:
        raise ValueError(f"device = {name!r}: this machine has {', '.join(allowed)}")


@dataclass(frozen=True)
class _Job:
    """A training with everything resolved but the seed."""

    config: TrainConfig
    settings: HeadSettings
    features: Features
    manifest: Manifest
    bags: TrainingBags
    exam: Exam
    missing: tuple[str, ...]

    @property
    def specs(self) -> dict[str, Spec]:
        """Specs of the streams in use."""
        return {stream: self.features.specs[stream] for stream in self.exam.streams}

    def run_of(self, head: Head[Any], seed: int) -> Run:
        """The checkpoint of a head."""
        config = self.config
        return Run(config.head, head, config.streams, self.specs, seed, config.control)

    def report(self, folder: Path, outcomes: Mapping[int, _Outcome]) -> RunReport:
        """What the run in ``folder`` gave, by seed."""
        return RunReport(
            folder,
            self.config.head,
            self.settings.name,
            origin_of(self.specs, self.config.control),
            {seed: last for seed, (last, _) in outcomes.items()},
            {seed: best for seed, (_, best) in outcomes.items()},
            self.missing,
        )


_Outcome = tuple[Metrics, Mapping[str, Mapping[str, Any] | None]]
"""Figures of the last step, and of the best epochs by ``snapshots.CHOICES``."""


def train(features: Features, manifest: Manifest, config: TrainConfig, out: Path) -> RunReport:
    """Train a head on the train split, score the test split, and fill the run folder ``out``.

    ``features`` is what ``open_features`` returns. No label or interval of a video outside the
    train split has any influence on the training: they choose among snapshots of it, and those
    figures are labelled so. Raises FeaturesError and ManifestError for videos without features
    or labels, CheckpointError for a folder with another run, TrainingError at the first loss
    that is not finite, Stopped inside a block of ``signals.stop_on_signals``.
    """
    job = _prepare(features, manifest, config)
    seeds = config.seeds or (job.settings.config.seed,)
    if repeated := job.bags.repeated():
        _LOG.warning("%s", repeated)
    _check_seeds(out, seeds, config.resume)
    outcomes = {
        seed: _train_seed(job, seed, out if len(seeds) == 1 else out / f"seed-{seed}")
        for seed in seeds
    }
    report = job.report(out, outcomes)
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
    settings = config.settings(manifest.path.stem)
    videos = videos_in_split(manifest, features, "train", config.allow_missing)
    tests = videos_in_split(manifest, features, "test", config.allow_missing)
    streams = streams_of(config.streams, features.streams)
    labels = training_labels(videos, manifest.path)
    held_out = held_out_videos(labels, config.validation)
    shown = {video_id: label for video_id, label in labels.items() if video_id not in held_out}
    wanted = {video.video_id for name in ("train", "test") for video in manifest.in_split(name)}
    exam = Exam(
        features=features,
        streams=streams,
        truth=truth_of({video.video_id: features[video.video_id] for video in tests}, manifest),
        coverage=config.coverage,
        validation={video_id: labels[video_id] for video_id in held_out},
        test_figure=TEST_FIGURES.get(config.dataset or manifest.path.stem, "frame_auc"),
    )
    return _Job(
        config=config,
        settings=settings,
        features=features,
        manifest=manifest,
        bags=TrainingBags(features, shown, streams, settings.config),
        exam=exam,
        missing=tuple(sorted(wanted - {video.video_id for video in (*videos, *tests)})),
    )


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
                f"validation = {share}: {len(ids)} {word} training videos leave none to train on"
            )
        held_out += [ids[index] for index in random.permutation(len(ids))[:count]]
    return tuple(sorted(held_out))


def training_labels(videos: Sequence[Video], path: Path) -> dict[str, int]:
    """Labels by id; raises ManifestError for a video without one or a class without videos.

    ``path`` is that of the manifest, which is named.
    """
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


def _train_seed(job: _Job, seed: int, folder: Path) -> _Outcome:
    """Train one seed, score its last step, and save and evaluate it."""
    config, head_config = job.config, job.settings.config
    bags = _control_bags(job, seed) if config.control else job.bags
    with _seeded(seed, config.device), exact_arithmetic():
        head = _built(job, bags.dim)
        if head_config.standardize:
            head.fit_standardization(*bags.statistics())
        run = job.run_of(head, seed)
        epochs = snapshot_epochs(head_config.epochs, config.snapshots)
        with _claimed(folder, _record(job, bags, seed), config.resume):
            snapshots = Snapshots(folder, run, job.exam, epochs)
            train_epochs(head, bags, seed, folder, snapshots)
    scores, metrics = job.exam.score(head)
    write_scores(folder / "scores-last.h5", scores, run.origin, LAST)
    metrics = replace(metrics, protocols=job.exam.protocols(run))
    save_run(folder, replace(run, metrics=metrics.as_json()))
    outcome = metrics, snapshots.chosen()
    write_json(folder / "metrics.json", job.report(folder, {seed: outcome}).as_json())
    return outcome


def _built(job: _Job, dim: int) -> Head[Any]:
    """The head on its device; raises TrainingError when there is no memory for it."""
    config = job.config
    try:
        return head_kind(config.head).build(dim, job.settings.config).to(config.device)
    except RuntimeError as error:  # torch has no other for a lack of memory on a CPU
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{config.head} with settings {job.settings.name} cannot be built on {config.device}: "
            f"{reason}"
        ) from error


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
        "settings": job.settings.name,
        "config": asdict(job.settings.config),
        "streams": config.streams,
        "specs": spec_records(job.specs),
        "seed": seed,
        "device": config.device,
        "control": "shuffled labels" if config.control else None,
        "coverage": config.coverage,
        "dim": bags.dim,
        "num_train_videos": len(bags.labels),
        "num_train_items": len(bags),
        "num_test_videos": len(job.exam.truth),
        "validation": list(job.exam.validation),
        "snapshots": config.snapshots,
        "train_labels_sha256": hashlib.sha256(labels).hexdigest(),
        "missing": list(job.missing),
        "source": dict(config.source) or {"manifest": str(job.manifest.path.absolute())},
        "threads": [torch.get_num_threads()],
    }


@contextmanager
def _claimed(folder: Path, record: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """As ``_claim``; a training that ends before anything of an epoch is saved leaves nothing."""
    _claim(folder, record, resume)
    try:
        yield
    except BaseException:
        if not any((folder / name).exists() for name in (STEPS, RESUME, f"{LAST}.json")):
            (folder / "config.json").unlink(missing_ok=True)
            with suppress(OSError):  # other files are there, or it is the current folder
                folder.rmdir()
        raise


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
    if differing := differences(found, record):
        more = f"; and {len(differing) - MOST_DIFFERENCES} more"
        raise CheckpointError(
            f"{folder}: holds another run (there / asked for): "
            f"{'; '.join(differing[:MOST_DIFFERENCES])}{more * (len(differing) > MOST_DIFFERENCES)}"
            f". Use the same settings, or another --out"
        )
    _update(path, found, record)


MOST_DIFFERENCES = 8
"""Fields of config.json that an error names."""


def differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``config.epochs: 30 / 4`` for each field in which two config.json differ."""
    lines = []
    for name in dict.fromkeys([*found, *asked]):
        one, other = found.get(name), asked.get(name)
        if name in PROVENANCE or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {reprlib.repr(one)} / {reprlib.repr(other)}")
    return lines


def _update(path: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Bring the provenance up to date: the manifest of now, every number of threads so far."""
    threads = dict.fromkeys([*found.get("threads", []), *record["threads"]])
    updated = {**found, "source": record["source"], "threads": list(threads)}
    if updated != found:
        write_json(path, updated)
