"""Training: from features and manifest to a run folder (the loop itself is in ``loop``).

    RUN/config.json      what was asked for and resolved
    RUN/log.csv ...      losses and snapshots, see ``log``
    RUN/checkpoint-*     the trained head, see ``checkpoint``; at its best, see ``best_epochs``
    RUN/scores-last.h5   scores of the test videos
    RUN/metrics.json     metrics of the last step, and beside it of the best epochs
    RUN/seed-<n>/        one such folder for each seed, when there are several

The same features, manifest, settings and seed give the same bytes on the same machine with the
same number of threads, also when the run was interrupted at any step and resumed. Only the names
and times of TensorBoard's event files differ.
"""

from __future__ import annotations

import hashlib
import json
import logging
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vadprep.core.atomic import make_folder, write_json
from vadprep.core.clips import COVERAGES
from vadprep.core.errors import CheckpointError, ManifestError, SettingError, TrainingError
from vadprep.core.records import Video
from vadprep.core.spec import Spec
from vadprep.data import Manifest, choose_manifest
from vadprep.evaluation.metrics import Metrics, listed
from vadprep.evaluation.scores import (
    LAST,
    read_json,
    truth_of,
    videos_in_split,
    write_scores,
)
from vadprep.features import STREAM_CHOICES, Features, open_features, streams_of
from vadprep.heads import HeadConfig, HeadSettings, head_kind
from vadprep.training.bags import TrainingBags, shuffled_labels
from vadprep.training.best_epochs import MOST, EvaluationSet, Snapshots, snapshot_epochs
from vadprep.training.checkpoint import (
    RESUME,
    Checkpoint,
    origin_of,
    save_checkpoint,
    seed_folders,
    spec_records,
)
from vadprep.training.log import STEPS
from vadprep.training.loop import train_epochs
from vadprep.training.results import TrainingRun
from vadprep.training.scoring import exact_arithmetic

_LOG = logging.getLogger(__name__)

PROVENANCE = {"source", "threads"}
"""Fields of config.json that only record circumstances: a run may go on under others."""

MOST_DIFFERENCES = 8
"""Fields of config.json that an error names."""

TEST_METRICS = {"xd": "frame_ap_trapezoid"}
"""Metric that a data set is judged by; frame AUC for the others."""


@dataclass(frozen=True)
class _Plan:
    """A training with everything resolved but the seed."""

    head: str
    settings: HeadSettings
    specs: Mapping[str, Spec]
    manifest: Manifest
    bags: TrainingBags
    evaluation_set: EvaluationSet
    missing: tuple[str, ...]
    streams: str
    snapshots: int
    control: bool
    resume: bool
    device: str
    source: Mapping[str, str]

    def record(self, bags: TrainingBags, seed: int) -> dict[str, Any]:
        """config.json: all that decides the result, and ``PROVENANCE``."""
        labels = json.dumps(bags.labels, sort_keys=True).encode()
        return {
            "head": self.head,
            "settings": self.settings.name,
            "config": asdict(self.settings.config),
            "streams": self.streams,
            "specs": spec_records(self.specs),
            "seed": seed,
            "device": self.device,
            "control": "shuffled labels" if self.control else None,
            "coverage": self.evaluation_set.coverage,
            "dim": bags.dim,
            "num_train_videos": len(bags.labels),
            "num_train_items": len(bags),
            "num_test_videos": len(self.evaluation_set.truth),
            "validation": list(self.evaluation_set.validation),
            "snapshots": self.snapshots,
            "train_labels_sha256": hashlib.sha256(labels).hexdigest(),
            "missing": list(self.missing),
            "source": dict(self.source),
            "threads": [torch.get_num_threads()],
        }

    def run(self, folder: Path, results: Mapping[int, _Result]) -> TrainingRun:
        """The record of the run in ``folder``, from its results by seed."""
        return TrainingRun(
            folder,
            self.head,
            self.settings.name,
            origin_of(self.specs, self.control),
            {seed: last for seed, (last, _) in results.items()},
            {seed: best for seed, (_, best) in results.items()},
            self.missing,
        )


_Result = tuple[Metrics, Mapping[str, Mapping[str, Any] | None]]
"""Metrics of the last step, and of the best epochs by ``best_epochs.CHOICES``."""


def train(
    head: str,
    features: Features | str | Path,
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    out: str | Path | None = None,
    seeds: Sequence[int] = (),
    schedule: str = "published",
    settings: Mapping[str, Any] | HeadConfig | None = None,
    streams: str = "rgb",
    validation: float = 0.0,
    snapshots: int = MOST,
    control: bool = False,
    coverage: str = "cut",
    allow_missing: bool = False,
    resume: bool = False,
    device: str | None = None,
    source: Mapping[str, str] | None = None,
) -> TrainingRun:
    """Train a head on the train split, score the test split, and fill the run folder.

    No label or interval of a video outside the train split has any influence on the training:
    they only choose among snapshots of it, and those metrics are labelled so.

    Args:
        head: a name in ``vadprep.heads.HEADS``.
        features: an opened feature folder, or its path or URL.
        dataset: a bundled data set: its manifest is used unless another is given, and its
            published settings. The name of the manifest file by default. A data set without
            settings of its own takes those of the head's fallback.
        manifest: an opened manifest or the path of its CSV.
        out: the run folder; ``runs/HEAD-DATASET`` by default.
        seeds: one run each, in ``out/seed-N`` when there are several; the seed of the published
            settings by default.
        schedule: ``published``, or ``small`` for data sets of tens of videos.
        settings: single settings of the head by name, or a config with all of them.
        streams: ``rgb``, ``flow`` or ``concat``.
        validation: share of the training videos of each class, the same for every seed, that is
            held out to choose an epoch by.
        snapshots: how often at most the test split and the held-out videos are scored during a
            training; 0 never. Papers look more often and report the best.
        control: train on labels dealt to other videos: frame AUC is about 0.5 in the mean over
            many seeds.
        coverage: what frames after the last span score: ``cut`` or ``hold``.
        allow_missing: go on without videos that have no features; config.json lists them.
        resume: go on from the last full epoch of the same run.
        device: ``cpu``, ``cuda`` or ``cuda:N``; a GPU by default if there is one.
        source: how config.json names the manifest, by the keys ``dataset``, ``manifest``,
            ``split_file``; by default the data set or the path.

    Raises SettingError (a ValueError) for bad arguments, FeaturesError and ManifestError for
    videos without features or labels, CheckpointError for a folder with another run,
    TrainingError at the first loss that is not finite, Stopped inside a block of
    ``signals.stop_on_signals``.
    """
    rows = choose_manifest(None if manifest is not None else dataset, manifest, with_paths=False)
    name = dataset or rows.path.stem
    chosen = head_kind(head).settings(name, schedule, settings or {})
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    _check_choices(streams, coverage, seeds, validation, snapshots)
    folder = Path(out or Path("runs") / f"{head}-{name}")
    if source is None:
        is_bundled = manifest is None
        source = {"dataset": name} if is_bundled else {"manifest": str(rows.path.absolute())}
    with ExitStack() as stack:
        if isinstance(features, str | Path):
            features = stack.enter_context(open_features(features))
        used = streams_of(streams, features.streams)
        videos = videos_in_split(rows, features, "train", allow_missing)
        tests = videos_in_split(rows, features, "test", allow_missing)
        labels = training_labels(videos, rows.path)
        held_out = held_out_videos(labels, validation)
        shown = {video_id: label for video_id, label in labels.items() if video_id not in held_out}
        wanted = {video.video_id for split in ("train", "test") for video in rows.in_split(split)}
        evaluation_set = EvaluationSet(
            features=features,
            streams=used,
            truth=truth_of({video.video_id: features[video.video_id] for video in tests}, rows),
            coverage=coverage,
            validation={video_id: labels[video_id] for video_id in held_out},
            test_metric=TEST_METRICS.get(name, "frame_auc"),
        )
        plan = _Plan(
            head=head,
            settings=chosen,
            specs={stream: features.specs[stream] for stream in used},
            manifest=rows,
            bags=TrainingBags(features, shown, used, chosen.config),
            evaluation_set=evaluation_set,
            missing=tuple(sorted(wanted - {video.video_id for video in (*videos, *tests)})),
            streams=streams,
            snapshots=snapshots,
            control=control,
            resume=resume,
            device=device,
            source=source,
        )
        if repeated := plan.bags.repeated():
            _LOG.warning("%s", repeated)
        seeds = seeds or (chosen.config.seed,)
        _check_seeds(folder, seeds, resume)
        folders = {seed: folder if len(seeds) == 1 else folder / f"seed-{seed}" for seed in seeds}
        run = plan.run(folder, {seed: _train_seed(plan, seed, folders[seed]) for seed in seeds})
    write_json(folder / "metrics.json", run.as_json())
    return run


def check_device(name: str) -> None:
    """Raise SettingError unless this machine has the device."""
    cards = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if cards else []), *(f"cuda:{each}" for each in range(cards))]
    if name not in allowed:
        raise SettingError(f"device = {name!r}: this machine has {', '.join(allowed)}")


def _check_choices(
    streams: str, coverage: str, seeds: Sequence[int], validation: float, snapshots: int
) -> None:
    """Raise SettingError for an argument of ``train`` that no data set allows."""
    if streams not in STREAM_CHOICES:
        raise SettingError(f"streams = {streams!r}: allowed are {', '.join(STREAM_CHOICES)}")
    if coverage not in COVERAGES:
        raise SettingError(f"{coverage = }: allowed are {', '.join(COVERAGES)}")
    if len(set(seeds)) != len(seeds):
        raise SettingError(f"seeds = {seeds}: a seed is named twice")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise SettingError(f"seeds = {seeds}: allowed are 0 to {2**32 - 1}")
    if not 0 <= validation < 1:
        raise SettingError(f"{validation = }: a share, 0 or more and below 1")
    if snapshots < 0:
        raise SettingError(f"{snapshots = }: 0 or more")
    if validation and not snapshots:
        raise SettingError(f"{validation = }: without snapshots no epoch can be chosen by it")


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


def _train_seed(plan: _Plan, seed: int, folder: Path) -> _Result:
    """Train one seed, score its last step, and save and evaluate it."""
    bags, config, device = plan.bags, plan.settings.config, torch.device(plan.device)
    if plan.control:
        kinds = {video.video_id: video.category for video in plan.manifest.videos}
        bags = bags.relabelled(shuffled_labels(bags.labels, kinds, seed))
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), exact_arithmetic():
        torch.manual_seed(seed)
        try:
            head = head_kind(plan.head).build(bags.dim, config).to(device)
        except RuntimeError as error:  # torch has no other for a lack of memory on a CPU
            reason = str(error).partition("\n")[0]
            raise TrainingError(
                f"{plan.head} with settings {plan.settings.name} cannot be built on {device}: "
                f"{reason}"
            ) from error
        if config.standardize:
            head.fit_standardization(*bags.statistics())
        run = Checkpoint(plan.head, head, plan.streams, plan.specs, seed, plan.control)
        epochs = snapshot_epochs(config.epochs, plan.snapshots)
        with _claimed(folder, plan.record(bags, seed), plan.resume):
            snapshots = Snapshots(folder, run, plan.evaluation_set, epochs)
            train_epochs(head, bags, seed, folder, snapshots)
    scores, metrics = plan.evaluation_set.score(head)
    write_scores(folder / "scores-last.h5", scores, run.origin, LAST)
    metrics = replace(metrics, protocols=plan.evaluation_set.protocols(run))
    save_checkpoint(folder, replace(run, metrics=metrics.as_json()))
    result = metrics, snapshots.chosen()
    write_json(folder / "metrics.json", plan.run(folder, {seed: result}).as_json())
    return result


@contextmanager
def _claimed(folder: Path, record: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Make ``folder`` the place of this run; raises CheckpointError if it is another's.

    A training that ends before anything of an epoch is saved leaves nothing.
    """
    path = folder / "config.json"
    if not path.exists() and not (folder / RESUME).exists():
        make_folder(folder)
        write_json(path, record)
    elif not resume:
        raise CheckpointError(f"{folder}: holds a run already: use --resume or another --out")
    else:
        found = read_json(path)
        if differing := differences(found, record):
            more = f"; and {len(differing) - MOST_DIFFERENCES} more"
            raise CheckpointError(
                f"{folder}: holds another run (there / asked for): "
                f"{'; '.join(differing[:MOST_DIFFERENCES])}"
                f"{more * (len(differing) > MOST_DIFFERENCES)}. "
                f"Use the same settings, or another --out"
            )
        threads = dict.fromkeys([*found.get("threads", []), *record["threads"]])
        updated = {**found, "source": record["source"], "threads": list(threads)}
        if updated != found:
            write_json(path, updated)
    try:
        yield
    except BaseException:
        if not any((folder / name).exists() for name in (STEPS, RESUME, f"{LAST}.json")):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other files are there, or it is the current folder
                folder.rmdir()
        raise


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
