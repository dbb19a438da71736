"""Checkpoints and resume states: safetensors and JSON. Nothing that is loaded runs code.

RUN/checkpoint-last.safetensors   the network's tensors
RUN/checkpoint-last.json          head, config, feature spec, seed, metrics, versions
RUN/resume.safetensors            network, optimiser, random state after the last full epoch
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from vadprep import __version__
from vadprep.core.atomic import open_atomic, write_json
from vadprep.core.errors import CheckpointError, SpecError
from vadprep.core.presets import fill_unknown
from vadprep.core.spec import UNKNOWN, Spec, differences
from vadprep.evaluation.scores import LAST, Origin, read_bytes, read_json
from vadprep.heads import HEADS, Head, HeadConfig, head_kind
from vadprep.training.results import TrainingRun

FORMAT = "vadprep-checkpoint"
FORMAT_VERSION = 1
RESUME = "resume.safetensors"
_FIELDS = {"head", "config", "dim", "streams", "specs", "seed", "control", "metrics"}


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
        return origin_of(self.specs, self.control)


def origin_of(specs: Mapping[str, Spec], control: bool) -> Origin:
    """The origin of scores on features of ``specs`` (by stream)."""
    return Origin({stream: spec.weights for stream, spec in specs.items()}, control)


def seed_folders(folder: Path) -> dict[int, Path]:
    """Run folders of single seeds in the folder of a run of several, by seed, in order."""
    found = {path.name.removeprefix("seed-"): path for path in folder.glob("seed-*")}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}


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
    path = folder / f"{name}.json"
    if not path.exists() and sorted(folder.glob(f"seed-*/{name}.json")):
        raise CheckpointError(f"{folder}: holds several seeds, name one: {folder}/seed-...")
    record = read_json(path)
    found = record.get("format"), record.get("version")
    if found != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format {found[0]!r}, version {found[1]!r}; expected {FORMAT!r}, "
            f"{FORMAT_VERSION}"
        )
    if missing := _FIELDS - record.keys():
        raise CheckpointError(f"{path}: damaged, no field {', '.join(sorted(missing))}")
    content = read_bytes(path.with_suffix(".safetensors"))
    if hashlib.sha256(content).hexdigest() != record.get("tensors_sha256"):
        raise CheckpointError(
            f"{path.with_suffix('.safetensors')}: does not belong to {path.name}, or is "
            f"damaged: train again with --resume"
        )
    try:
        config = HEADS[record["head"]].config(**record["config"])
        specs = {
            stream: Spec.from_json(json.dumps(entry["spec"]), f"{path}: {stream}")
            for stream, entry in record["specs"].items()
        }
        head = head_kind(record["head"]).build(int(record["dim"]), config)
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of this version: {error!r}") from error
    _fill(head, safetensors.torch.load(content), path)
    return Checkpoint(
        record["head"],
        head.eval(),
        record["streams"],
        specs,
        record["seed"],
        record["control"],
        record["metrics"],
    )


def load_run(
    run: TrainingRun | str | Path | Checkpoint | Sequence[Checkpoint],
) -> list[Checkpoint]:
    """The checkpoints of the last step of a run, one for each of its seeds, in order.

    ``run`` is a run folder, that of one of its seeds, or what ``train``, ``load_checkpoint`` or
    ``load_run`` returned. Raises CheckpointError as ``load_checkpoint`` does.
    """
    if isinstance(run, Checkpoint):
        return [run]
    if not isinstance(run, TrainingRun | str | Path):
        return list(run)
    folder = Path(run.folder if isinstance(run, TrainingRun) else run)
    return [load_checkpoint(each) for each in [*seed_folders(folder).values()] or [folder]]


def check_features(
    run: Checkpoint,
    specs: Mapping[str, Spec],
    where: str,
    accept: Collection[str] = (),
    preset: str | None = None,
) -> None:
    """Raise CheckpointError unless features of ``specs`` fit the run, naming each field.

    ``accept`` names fields that may differ or be unknown, ``preset`` fills in unknown ones
    on both sides (what no preset holds is then accepted); ``where`` opens the message.
    """
    missing = run.specs.keys() - specs.keys()
    if missing:
        raise CheckpointError(
            f"{where}: the run needs the streams {', '.join(sorted(run.specs))}, "
            f"{', '.join(sorted(missing))} is not there"
        )
    lines = []
    for stream, ours in run.specs.items():
        theirs, accepted = specs[stream], set(accept)
        if preset:
            ours, theirs = fill_unknown(ours, preset), fill_unknown(theirs, preset)
            pairs = zip(ours.identity().items(), theirs.identity().values(), strict=True)
            accepted |= {name for (name, a), b in pairs if UNKNOWN in (a, b)}
        found = differences(ours, theirs)
        lines += [f"{stream} {line}" for line in found if line.split(":")[0] not in accepted]
    if lines:
        remedy = "accept a field by name from Python"
        if any(UNKNOWN in spec.identity().values() for spec in run.specs.values()):
            remedy = "take a preset for what is unknown (--preset NAME)"
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


def save_state(
    path: Path, head: Head, optimizer: torch.optim.Optimizer, progress: Mapping[str, int]
) -> None:
    """Write what resuming needs, in one file at once: a kill leaves the state before it.

    ``progress`` is JSON in the file's header. The random states are those of this moment.
    """
    tensors = {f"model.{key}": value for key, value in head.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    device = _device(head)
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with open_atomic(path) as stream:
        stream.write(safetensors.torch.save(content, {"progress": json.dumps(dict(progress))}))


def load_state(path: Path, head: Head, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Put network, optimiser and random state back as ``save_state`` found them.

    Returns the progress. Raises CheckpointError when the file is damaged or does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads((file.metadata() or {})["progress"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        device = _device(head)
        model: dict[str, torch.Tensor] = {}
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, name = key.split(".", 1)
            if part == "model":
                model[name] = value
            elif part == "optimizer":
                index, name = name.split(".", 1)
                state.setdefault(int(index), {})[name] = value
        _fill(head, model, path)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot resume from it ({error}): remove it to train from the start"
        ) from error
    return progress


def spec_records(specs: Mapping[str, Spec]) -> dict[str, dict[str, Any]]:
    """Specs by stream, as JSON values, with hash and the name of the weights."""
    return {
        stream: {"spec": asdict(spec), "hash": spec.hash, "weights": spec.weights}
        for stream, spec in specs.items()
    }


def _fill(head: Head, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load ``tensors`` into the head; raises CheckpointError naming those that do not fit."""
    wanted = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    odd = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if odd:
        shown = "; ".join(f"{key}: {found.get(key)} not {wanted.get(key)}" for key in odd[:5])
        raise CheckpointError(f"{path}: {len(odd)} tensors do not fit the network: {shown}")
    head.load_state_dict(dict(tensors))


def _device(head: Head) -> torch.device:
    return next(head.parameters()).device
