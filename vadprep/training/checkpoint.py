"""Checkpoints: tensors as safetensors, all else as JSON. Nothing that is loaded runs code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from vadprep import __version__
from vadprep.core.arguments import Kind, check_kind
from vadprep.core.atomic import open_atomic, write_json
from vadprep.core.errors import CheckpointError, SettingError, SpecError
from vadprep.core.presets import fill_unknown
from vadprep.core.spec import UNKNOWN, Spec, differences
from vadprep.evaluation.run_files import LAST, read_bytes, read_json, seed_folders
from vadprep.evaluation.scores import Origin, class_names
from vadprep.heads import Head, HeadConfig, head_kind

FORMAT = "vadprep-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained head and everything that says what it may be used on."""

    head_name: str
    head: Head
    streams: str
    """``rgb``, ``flow`` or ``concat`` (``features.STREAM_CHOICES``)."""
    specs: Mapping[str, Spec]
    """Settings of the features it was trained on, by stream."""
    seed: int
    control: bool = False
    """Trained on shuffled labels: a control, not a detector."""
    metrics: Mapping[str, Any] | None = None
    """Metrics on the test split, as in metrics.json; None where it was not evaluated."""

    @property
    def config(self) -> HeadConfig:
        """Settings of the head."""
        return self.head.config

    @property
    def origin(self) -> Origin:
        """What its scores come from."""
        weights = {stream: spec.weights for stream, spec in self.specs.items()}
        return Origin(weights, self.control)


def save_checkpoint(folder: Path, run: Checkpoint, name: str = LAST) -> None:
    """Write the two files of a checkpoint into ``folder``, each at once."""
    tensors = {key: value.detach().cpu() for key, value in run.head.state_dict().items()}
    content = safetensors.torch.save(tensors)
    record = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "head": run.head_name,
        "config": asdict(run.config),
        "dim": run.head.dim,
        **({"classes": run.head.classes} if run.head.classes else {}),
        "streams": run.streams,
        "specs": spec_records(run.specs),
        "seed": run.seed,
        "control": run.control,
        "metrics": run.metrics,
        "versions": {"vadprep": __version__, "torch": torch.__version__},
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
    }
    with open_atomic(folder / f"{name}.safetensors") as stream:
        stream.write(content)
    write_json(folder / f"{name}.json", record)


def load_checkpoint(folder: Path, name: str = LAST) -> Checkpoint:
    """The checkpoint ``name`` of a run folder, on the CPU and in eval mode.

    Raises CheckpointError for a folder or file that is missing, damaged or of another version.
    """
    path, tensors = folder / f"{name}.json", folder / f"{name}.safetensors"
    if not os.path.lexists(path) and sorted(folder.glob(f"seed-*/{name}.json")):
        raise CheckpointError(f"{folder}: holds several seeds, name one: {folder}/seed-...")
    record = read_json(path)
    found = record.get("format"), record.get("version")
    if found != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(f"{path}: not a checkpoint of this version: {found}")
    content = read_bytes(tensors)
    if hashlib.sha256(content).hexdigest() != record.get("tensors_sha256"):
        raise CheckpointError(
            f"{tensors}: does not belong to {path.name}, or is damaged: train again with --resume"
        )
    try:
        types = {"dim": int, "streams": str, "seed": int, "control": bool}
        if odd := [name for name, each in types.items() if type(record[name]) is not each]:
            raise ValueError(f"{odd[0]} is {record[odd[0]]!r}")
        kind = head_kind(record["head"])
        specs = {
            stream: Spec.from_json(json.dumps(entry["spec"]), f"{path}: {stream}")
            for stream, entry in record["specs"].items()
        }
        dim, config = max(1, record["dim"]), kind.config(**record["config"])
        stored = safetensors.torch.load(content)
        classes = class_names(record.get("classes"), f"{path}: classes")
        with torch.device("meta"):  # takes no memory for sizes that only the JSON file states
            fill(kind.network(dim, config, classes), stored, tensors, assign=True)
        head = kind.network(dim, config, classes).eval()
        others = [record[name] for name in ("seed", "control", "metrics")]
        run = Checkpoint(record["head"], head, record["streams"], specs, *others)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        SpecError,
    ) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this version: {error!r}") from error
    fill(head, stored, path)
    return run


Run = str | os.PathLike[str] | Checkpoint | Sequence[Checkpoint]
"""A run folder, that of one of its seeds, or what ``train`` or a function below returned."""


RUN = Kind("a run folder, or what train returned", (str, os.PathLike), (Checkpoint,))


def load_run(run: Run) -> list[Checkpoint]:
    """The checkpoints of the last step of a run, one for each of its seeds, in order.

    Raises CheckpointError as ``load_checkpoint`` does, and SettingError for what is no run.
    """
    if isinstance(run, Checkpoint):
        return [run]
    check_kind("run", run, RUN)
    if not isinstance(run, str | os.PathLike):
        if not run:
            raise SettingError(f"run = {run}: expected {RUN.words}")
        return list(run)
    folder = Path(run)
    return [load_checkpoint(each) for each in [*seed_folders(folder).values()] or [folder]]


FROM_COUNTS = ("fps", "sampling", "tail")
"""Fields that an import finds in the numbers of clips and frames, where they are known."""


def unknown_alike(ours: Spec, theirs: Spec) -> set[str]:
    """Fields that two imports with the same settings leave unknown; empty for other features.

    Nobody can tell them apart by the files, so that these fields fit each other. What is found in
    the numbers of frames may be unknown of one alone.
    """
    if ours.preset != theirs.preset:
        return set()
    pairs = zip(ours.identity().items(), theirs.identity().values(), strict=True)
    found = {n for (n, a), b in pairs if UNKNOWN in (a, b) and (a == b or n in FROM_COUNTS)}
    return found if ours.weights == theirs.weights else found - {"weights_sha256"}


def check_features(
    run: Checkpoint,
    specs: Mapping[str, Spec],
    where: str,
    accept: Collection[str] = (),
    preset: str | None = None,
) -> None:
    """Raise CheckpointError unless features of ``specs`` fit the run, naming each field.

    Features of the same import settings as the run's fit (``unknown_alike``). ``accept`` names
    fields that may differ or be unknown, ``preset`` fills in unknown ones on both sides (what no
    preset holds is then accepted); ``where`` opens the message.
    """
    missing = run.specs.keys() - specs.keys()
    if missing:
        raise CheckpointError(
            f"{where}: the run needs the streams {', '.join(sorted(run.specs))}, "
            f"{', '.join(sorted(missing))} is not there"
        )
    lines = []
    for stream, ours in run.specs.items():
        theirs = specs[stream]
        accepted = set(accept) | unknown_alike(ours, theirs)
        if preset:
            ours, theirs = fill_unknown(ours, preset), fill_unknown(theirs, preset)
            pairs = zip(ours.identity().items(), theirs.identity().values(), strict=True)
            accepted |= {name for (name, a), b in pairs if UNKNOWN in (a, b)}
        found = differences(ours, theirs)
        odd = {name: line for line in found if (name := line.split(":")[0]) not in accepted}
        a, b = ours.identity(), theirs.identity()
        if blank := [name for name in odd if a[name] == b[name] == UNKNOWN]:
            lines.append(f"{stream} unknown of both: {', '.join(blank)}")
        lines += [f"{stream} {line}" for name, line in odd.items() if name not in blank]
    if lines:
        remedy = "accept a field by name from Python"
        if UNKNOWN in (*a.values(), *b.values()):
            remedy = "take a preset for what is unknown (--preset NAME)"
        if UNKNOWN in a.values() and UNKNOWN in b.values():
            remedy = f"import both with the same --layout and --set, or {remedy}"
        raise CheckpointError(
            f"{where}: features of another spec than the run was trained on (run / here): "
            f"{'; '.join(lines)}. Use features of the same settings, or {remedy}"
        )


def check_dimension(run: Checkpoint, dims: Mapping[str, int]) -> None:
    """Raise CheckpointError unless features of graphs (by id, their dimension) fit the run."""
    if sum(dims.values()) != run.head.dim:
        given = ", ".join(f"{graph} gives {dim}" for graph, dim in dims.items())
        raise CheckpointError(
            f"the run was trained on features of dimension {run.head.dim}, {given}: take a preset "
            "of another network"
        )


def spec_records(specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """Specs by stream, as JSON values, with hash and the name of the weights."""
    return {
        stream: {"spec": json.loads(spec.to_json()), "hash": spec.hash, "weights": spec.weights}
        for stream, spec in specs.items()
    }


def fill(head: Head, tensors: Mapping[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    """Load ``tensors`` into the head.

    Raises CheckpointError naming those that do not fit, or one that is not finite.
    """
    if odd := [name for name, each in tensors.items() if not each.isfinite().all()]:
        raise CheckpointError(f"{path}: tensor {odd[0]} is not finite: train again")
    try:
        head.load_state_dict(dict(tensors), assign=assign)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: tensors do not fit the network: {reason}") from error
