"""Training: from features and manifest to a run folder (the files of it: see README.md).

The same features, manifest, settings and seed give the same bytes on the same machine with the
same number of threads, also when the run was interrupted at any step and resumed. Only the names
and times of TensorBoard's event files differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vadprep.core.arguments import (
    MAPPING,
    NUMBER,
    PATH,
    TEXT,
    WHOLE,
    WHOLES,
    Kind,
    check_kind,
    check_kinds,
    device_name,
)
from vadprep.core.atomic import write_json
from vadprep.core.clips import COVERAGES
from vadprep.core.errors import SettingError, allowed_are, near_miss
from vadprep.core.log import get_logger
from vadprep.data import Manifest, choose_manifest
from vadprep.evaluation.metrics import Truth
from vadprep.evaluation.protocol import MANIFEST
from vadprep.evaluation.scores import Origin
from vadprep.evaluation.smoothing import parse_smoothing
from vadprep.evaluation.truth import truth_of
from vadprep.features import Features, open_features, streams_of
from vadprep.heads import Changes, HeadConfig, head_kind
from vadprep.training.bags import TrainingBags
from vadprep.training.checkpoint import Checkpoint, spec_records
from vadprep.training.labels import (
    held_out_videos,
    shuffled_labels,
    training_glances,
    training_labels,
    videos_by_split,
)
from vadprep.training.loop import new_head, train_epochs
from vadprep.training.prompts import Prompts, with_prompts
from vadprep.training.results import MOST, Entry, EvaluationSet, Snapshots, TrainingRun
from vadprep.training.run_folder import check_seeds, claimed
from vadprep.training.schedule import choose_schedule, stored_choice
from vadprep.training.scoring import exact_arithmetic

_LOG = get_logger(__name__)

TEST_METRICS = {"xd": "frame_ap_trapezoid"}  # what a data set is judged by, others by frame AUC


KINDS = {
    **dict.fromkeys(("dataset", "schedule", "streams", "device", "coverage", "smoothing"), TEXT),
    **dict.fromkeys(("out", "prompts"), PATH),
    "manifest": MANIFEST,
    "seeds": WHOLES,
    "settings": MAPPING._replace(types=(Mapping, HeadConfig)),
    "source": MAPPING,
}
"""Kinds of the arguments of ``train``."""

REQUIRED = {
    "head": TEXT,
    "features": Kind("opened features, or the path of their folder", (str, Path, Mapping)),
    "validation": NUMBER,
    "snapshots": WHOLE,
}
"""Of those that cannot be None."""


def train(
    head: str,
    features: Features | str | Path,
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    out: str | Path | None = None,
    seeds: Sequence[int] = (),
    schedule: str = "published",
    settings: Changes | None = None,
    streams: str = "rgb",
    validation: float = 0.0,
    snapshots: int = MOST,
    control: bool = False,
    prompts: str | Path | None = None,
    coverage: str = "cut",
    smoothing: str = "",
    allow_missing: bool = False,
    resume: bool = False,
    device: str | None = None,
    source: Mapping[str, str] | None = None,
    on_start: Callable[[], object] | None = None,
) -> TrainingRun:
    """Train a head on the train split, score the test split, and fill the run folder.

    No label or interval of a video outside the train split has any influence on the training:
    they only choose among snapshots of it, and those metrics are labelled so.

    Args:
        features: an opened feature folder, or its path or URL.
        dataset: an included data set: its manifest, unless another is given, and its published
            settings.
        manifest: an opened manifest or the path of its CSV.
        out: the run folder; ``runs/HEAD-DATASET`` by default.
        seeds: one run each, in ``out/seed-N`` when there are several; the published one by default.
        schedule: ``published``, or ``small`` for data sets of tens to hundreds of videos: the
            training videos choose standardization, sizes, steps and rate (``schedule.py``), which
            a run that goes on does not choose again.
        streams: ``rgb``, ``flow`` or ``concat``.
        validation: share of the training videos of each class that is held out to choose an epoch
            by, the same for every seed.
        snapshots: how often at most test and held-out videos are scored during a training.
        control: train on labels dealt to other videos: frame AUC is about 0.5 over many seeds.
        prompts: a .npz file of prompt embeddings for ``pel4vad`` and ``vadclip``, with an array
            for ``normal`` and for each category of the abnormal training videos.
        coverage: what frames after the last span score: ``cut`` or ``hold``.
        smoothing: a rule such as ``slide-7`` (``evaluation.smoothing``): metrics.json has the
            metrics of smoothed scores, too; all choices are made by those of the scores themselves.
        allow_missing: go on without videos that have no features; config.json lists them.
        resume: go on from the last full epoch of the same run.
        device: ``cpu``, ``cuda`` or ``cuda:N``, or a torch.device; a GPU by default if there is
            one.
        source: how config.json names the manifest, by the keys ``dataset``, ``manifest``,
            ``split_file``; by default the data set or the path.
        on_start: called when ``out`` is the folder of this run, before the first step.

    Raises SettingError (a ValueError) for bad arguments, FeaturesError and ManifestError for
    videos without features or labels, CheckpointError for a folder with another run,
    TrainingError at the first loss that is not finite and for a batch that does not fit into
    memory, Stopped inside a block of ``signals.stop_on_signals``.
    """
    device = device_name(device)
    given = locals()
    check_kinds(KINDS, given)
    for name, kind in REQUIRED.items():
        check_kind(name, given[name], kind)
    rows = choose_manifest(None if manifest is not None else dataset, manifest, with_paths=False)
    name = dataset or rows.path.stem
    words, config, embeddings = _settings(head, name, schedule, settings, prompts)
    seeds = [int(each) for each in (() if seeds is None else seeds)] or [config.seed]
    snapshots = int(snapshots)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    folder = Path(out or Path("runs") / f"{head}-{name}")
    _check(folder, coverage, seeds, validation, snapshots, smoothing)
    check_seeds(folder, seeds, resume)
    if source is None:
        is_bundled = manifest is None
        source = {"dataset": name} if is_bundled else {"manifest": str(rows.path.absolute())}
    with ExitStack() as stack:
        if isinstance(features, str | Path):
            features = stack.enter_context(open_features(features))
        specs = {each: features.specs[each] for each in streams_of(streams, features.streams)}
        videos, missing = videos_by_split(rows, features, allow_missing)
        labels = training_labels(videos["train"], rows.path)
        held_out = held_out_videos(labels, validation)
        validated = {video_id: Truth(None, labels.pop(video_id)) for video_id in held_out}
        tests = {video.video_id: features[video.video_id] for video in videos["test"]}
        metric, truth = TEST_METRICS.get(name, "frame_auc"), truth_of(tests, rows)
        data = EvaluationSet(features, specs, truth, coverage, validated, metric, smoothing)
        kinds = {video.video_id: video.category for video in rows.videos}
        has_glances = getattr(config, "glance", False)
        glances = training_glances(videos["train"], labels, rows.path) if has_glances else None
        bags = TrainingBags(
            features, labels, tuple(specs), config, categories=kinds, glances=glances
        )
        text = embeddings.of(bags.classes) if embeddings else None
        if repeated := bags.repeated():
            _LOG.warning("%s", repeated)
        with_classes = head_kind(head).with_classes or embeddings is not None
        record = {
            "head": head,
            "settings": words,
            "config": asdict(config),
            "streams": streams,
            "specs": spec_records(specs),
            "device": device,
            "control": "shuffled labels" if control else None,
            "coverage": coverage,
            **({"glances_sha256": _sha256_of(glances)} if glances else {}),
            **({"smoothing": smoothing} if smoothing else {}),
            "dim": bags.dim,
            **(_classes_of(bags, kinds) if with_classes else {}),
            "num_train_videos": len(labels),
            "num_train_items": len(bags),
            "num_test_videos": len(truth),
            "validation": list(held_out),
            "snapshots": snapshots,
            "missing": missing,
            "source": dict(source),
            "threads": [torch.get_num_threads()],
        }
        origin = Origin({stream: spec.weights for stream, spec in specs.items()}, control)
        fixed = settings if isinstance(settings, Mapping) else {}
        own, own_bags, by_seed = record, bags, dict[int, Mapping[str, Entry | None]]()
        for seed in seeds:
            place = folder if len(seeds) == 1 else folder / f"seed-{seed}"
            if control:
                own_bags = bags.relabelled(shuffled_labels(labels, kinds, seed))
            if schedule == "small" and (control or not by_seed):  # one choice for the same labels
                choice = stored_choice(place, config)
                if choice is None:
                    choice = choose_schedule(
                        head, own_bags, fixed, data, torch.device(device), text
                    )
                    _LOG.info("small schedule%s: %s", choice.words(), choice.reason)
                own_bags = own_bags.with_config(replace(config, **choice.settings))
                own = {**record, "settings": words + choice.words(), "schedule": choice.as_json()}
                own["config"] = asdict(own_bags.config)
            own = {**own, "seed": seed, "train_labels_sha256": _sha256_of(own_bags.labels)}
            by_seed[seed] = _train_seed(place, own, own_bags, data, resume, on_start, text)
            run = TrainingRun(folder, own["settings"], origin, {seed: by_seed[seed]})
            write_json(place / "metrics.json", run.as_json())
    has_one_choice = len(seeds) == 1 or not control
    run = TrainingRun(folder, own["settings"] if has_one_choice else words, origin, by_seed)
    write_json(folder / "metrics.json", run.as_json())
    return run


def _settings(
    head: str,
    name: str,
    schedule: str,
    changes: Changes | None,
    prompts: str | Path | None,
) -> tuple[str, HeadConfig, Prompts | None]:
    """Where the settings come from and which part of a head they train; settings; prompts."""
    kind = head_kind(head)
    words, config = kind.settings(name, schedule, changes, prompts is not None)
    config, embeddings = with_prompts(head, config, prompts)
    if hasattr(config, "prompts"):
        first, *others = words.split(", ")
        part = "with prompts" if embeddings else kind.without_prompts
        words = ", ".join([first, part, *others])
        if not embeddings:
            _LOG.warning("%s is trained without prompt embeddings (--prompts): %s", head, part)
    return words, config, embeddings


def _sha256_of(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _classes_of(bags: TrainingBags, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What config.json says of the classes of the training videos."""
    categories = {each: kinds[each] for each, label in bags.labels.items() if label == 1}
    return {"classes": list(bags.classes), "categories_sha256": _sha256_of(categories)}


def check_device(name: str) -> None:
    """Raise SettingError unless this machine has the device."""
    cards = torch.cuda.device_count()
    allowed = ["cpu", *(["cuda"] if cards else []), *(f"cuda:{each}" for each in range(cards))]
    if name not in allowed:
        hint = "" if name.startswith("cuda") else near_miss(name, ("cpu", "cuda"))
        raise SettingError(f"device = {name!r}: this machine has {', '.join(allowed)}{hint}")


def _check(
    out: Path,
    coverage: str,
    seeds: Sequence[int],
    validation: float,
    snapshots: int,
    smoothing: str,
) -> None:
    """Raise SettingError for an argument of ``train`` that no data set allows."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise SettingError(f"{out}: TensorBoard needs a name in UTF-8: use another --out") from None
    if coverage not in COVERAGES:
        raise SettingError(f"{coverage = }: {allowed_are(coverage, COVERAGES)}")
    if len(set(seeds)) != len(seeds):
        raise SettingError(f"seeds = {seeds}: a seed is named twice")
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise SettingError(f"seeds = {seeds}: allowed are 0 to {2**32 - 1}")
    if not 0 <= validation < 1:
        raise SettingError(f"{validation = }: a share, 0 or more and below 1")
    if validation and not snapshots:
        raise SettingError(f"{validation = }: without snapshots no epoch can be chosen by it")
    if smoothing:
        parse_smoothing(smoothing)


def _train_seed(
    folder: Path,
    record: Mapping[str, Any],
    bags: TrainingBags,
    data: EvaluationSet,
    resume: bool,
    on_start: Callable[[], object] | None,
    prompts: torch.Tensor | None,
) -> dict[str, Entry | None]:
    """Train one seed as ``record``, its config.json, says; entries of its metrics.json."""
    name, seed, device = record["head"], record["seed"], torch.device(record["device"])
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), exact_arithmetic():
        torch.manual_seed(seed)
        head = new_head(name, bags, device, prompts, record["settings"])
        control = record["control"] is not None
        run = Checkpoint(name, head, record["streams"], data.specs, seed, control)
        snapshots = Snapshots(folder, run, data, record["snapshots"])
        with claimed(folder, record, resume):
            if on_start:
                on_start()
            train_epochs(head, bags, seed, folder, snapshots)
    return snapshots.finish()
