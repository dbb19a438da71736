"""The training loop, one for all heads, with its log and the state that it goes on from.

The order of the items depends on (seed, epoch), the learning rate on the epoch, everything else
on the state that is saved after each epoch: a run that is stopped at any step and resumed ends
with the same bytes as one that was not.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from vadprep.core.atomic import open_atomic
from vadprep.core.errors import CheckpointError, TrainingError, counted
from vadprep.core.log import get_logger
from vadprep.core.signals import check_stop
from vadprep.core.untrusted import check_safetensors, malformed, parse_json
from vadprep.evaluation.metrics import listed
from vadprep.evaluation.run_files import MOST_BYTES, read_bytes
from vadprep.heads import Head, head_kind
from vadprep.heads.pel4vad import PEL4VAD
from vadprep.heads.vadclip import VadCLIP
from vadprep.training.bags import Batch, TrainingBags, room_for
from vadprep.training.checkpoint import fill

if TYPE_CHECKING:
    from vadprep.training.results import Snapshots

_LOG = get_logger(__name__)

STEPS = "log.csv"
RESUME = "resume.safetensors"
SHOWN = ("validation/video_auc", "test/frame_auc")
"""Metrics of a snapshot that are logged with its epoch."""
SHOWN_SECONDS = 10.0  # least time between two epochs that are logged; the last one always is


def train_epochs(
    head: Head, bags: TrainingBags, seed: int, folder: Path, snapshots: Snapshots
) -> None:
    """Train ``head`` in place: log each step, save the state after each epoch.

    Goes on from the resume state in ``folder`` when there is one. A snapshot is taken before the
    state of its epoch is saved, so that a stop in between repeats both. Uses torch's global random
    state (dropout), which the caller seeds. Raises TrainingError at the first loss that is not
    finite, which is then in the last row of the log, and for a batch that does not fit into
    memory; Stopped inside a block of ``signals.stop_on_signals``.
    """
    from torch.utils.tensorboard import SummaryWriter

    config, device = head.config, next(head.parameters()).device
    optimizer = head.new_optimizer()
    log: list[dict[str, Any]] = []
    first, shown = 0, -math.inf
    if lexists(folder / RESUME):
        progress = load_state(folder / RESUME, head, optimizer)
        first = progress["epochs"]
        log = read_rows(folder / STEPS, progress["steps"])
        snapshots.resume(first)
    with ExitStack() as stack:
        writer: SummaryWriter | None = None
        for epoch in range(first, config.epochs):
            head.train()
            rate, start = config.learning_rate_at(epoch), len(log)
            set_rate(optimizer, rate)
            for batch in bags.batches(seed, epoch):
                check_stop()
                row = {"epoch": epoch, "step": len(log), "learning_rate": rate}
                with room_for(config.batch_size):
                    log.append(row | train_step(head, optimizer, batch.to(device)))
                if not math.isfinite(log[-1]["total"]):
                    write_rows(folder / STEPS, log)  # a run that goes on cuts it back
                    terms = [*(name for name in log[-1] if name != "total"), "total"]
                    name = next(each for each in terms if not math.isfinite(log[-1][each]))
                    raise TrainingError(
                        f"loss term {name!r} is {log[-1][name]} at epoch {epoch}, step "
                        f"{log[-1]['step']} (videos {listed(set(batch.video_ids))}): look at "
                        f"their features and at {STEPS}, or lower the learning rate"
                    )
            snapshot = snapshots.take(epoch)
            write_rows(folder / STEPS, log)
            if writer is None:  # after an epoch that is complete; TensorBoard then hides later ones
                wait_for_later_name(folder)
                writer = stack.enter_context(SummaryWriter(folder, purge_step=epoch))
            names = [name for name in log[-1] if name not in ("epoch", "step")]
            means = {f"train/{n}": statistics.fmean(row[n] for row in log[start:]) for n in names}
            for name, value in {**means, **snapshot}.items():
                if name != "epoch" and value is not None:
                    writer.add_scalar(name, value, epoch)
            writer.flush()
            save_state(folder / RESUME, head, optimizer, {"epochs": epoch + 1, "steps": len(log)})
            is_due = _LOG.isEnabledFor(logging.DEBUG) or time.monotonic() - shown >= SHOWN_SECONDS
            aucs = [
                f"{n.replace('/', ' ')} {v:.4f}"
                for n in SHOWN
                if (v := snapshot.get(n)) is not None
            ]
            if is_due or aucs or epoch + 1 == config.epochs:
                shown, count = time.monotonic(), f"{epoch + 1} of {config.epochs}"
                line = ", ".join([f"loss {log[-1]['total']:.4f}", *aucs])
                _LOG.info("seed %d, epoch %s: %s", seed, count, line)


def wait_for_later_name(folder: Path) -> None:
    """Wait for the end of this second if an event file in ``folder`` has begun in it.

    TensorBoard reads event files in the order of their names, which begin with the second. A later
    file of the same second may come first by name, and its epochs are then hidden.
    """
    now = time.time()
    if any(folder.glob(f"events.out.tfevents.{int(now):010d}.*")):
        time.sleep(1.01 - now % 1)


def new_head(
    name: str,
    bags: TrainingBags,
    device: torch.device,
    prompts: torch.Tensor | None = None,
    settings: str = "small",
) -> Head:
    """The head ``name`` with the config of ``bags``, before training; TrainingError without room.

    Weights are drawn from torch's global random state. ``settings`` are words for the error.
    """
    try:
        head = head_kind(name).network(bags.dim, bags.config, bags.classes).to(device)
    except RuntimeError as error:  # torch has no other for a lack of memory on a CPU
        reason = f"cannot be built on {device}: {str(error).splitlines()[0]}"
        raise TrainingError(f"{name} with settings {settings} {reason}") from error
    if prompts is not None and isinstance(head, PEL4VAD | VadCLIP):
        head.set_prompts(prompts)
    if bags.config.standardize:
        head.fit_standardization(*bags.statistics())
    return head


def fit(head: Head, bags: TrainingBags, seed: int) -> bool:
    """Train ``head`` in place as ``train_epochs`` does, and write nothing.

    Returns False at the first loss that is not finite.
    """
    optimizer, device = head.new_optimizer(), next(head.parameters()).device
    for epoch in range(head.config.epochs):
        head.train()
        set_rate(optimizer, head.config.learning_rate_at(epoch))
        for batch in bags.batches(seed, epoch):
            check_stop()
            with room_for(head.config.batch_size):
                terms = train_step(head, optimizer, batch.to(device))
            if not math.isfinite(terms["total"]):
                return False
    return True


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the steps to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def losses(head: Head, batch: Batch) -> dict[str, torch.Tensor]:
    """The terms of the loss of a batch, and their sum, which is to be minimised, as ``total``."""
    known = [batch.labels, batch.mask, *([batch.classes] if head.takes_classes else [])]
    if head.takes_glances and batch.glances is not None:
        known.append(batch.glances)
    terms = head.loss(head(batch.snippets, batch.mask), *known)
    return {"total": torch.stack(list(terms.values())).sum(), **terms}


def train_step(head: Head, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """One update, if the loss is finite; returns it and its terms as they were before."""
    terms = losses(head, batch)
    numbers = torch.stack(list(terms.values())).tolist()  # the one wait for the GPU
    if math.isfinite(numbers[0]):
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    return dict(zip(terms, numbers, strict=True))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table at once; None is an empty cell. Every row has the columns of the first."""
    if any(row.keys() != rows[0].keys() for row in rows):  # those that another wrote
        raise CheckpointError(f"{path}: not the columns of this training: use another folder")
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with open_atomic(path) as stream:
        stream.write(text.getvalue().encode())


def read_rows(path: Path, num_rows: int) -> list[dict[str, Any]]:
    """The first rows as text, so that they are written back unchanged.

    Raises CheckpointError for a table that has fewer rows, is not there or cannot be read.
    """
    with malformed(path, CheckpointError):
        text = read_bytes(path).decode() if lexists(path) else ""
        try:
            rows = list(islice(csv.DictReader(io.StringIO(text), strict=True), num_rows))
        except csv.Error as error:
            raise ValueError(error) from None
    if len(rows) < num_rows:
        raise CheckpointError(
            f"{path}: {counted(len(rows), 'row')} where {num_rows} were written: it was cut short, "
            f"train again in another folder"
        )
    return rows


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
    device = next(head.parameters()).device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with open_atomic(path) as stream:
        stream.write(safetensors.torch.save(content, {"progress": json.dumps(dict(progress))}))


def load_state(path: Path, head: Head, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Put network, optimiser and random state back as ``save_state`` found them.

    Returns the progress. Raises CheckpointError when the file is damaged or does not fit.
    """
    check_safetensors(path, CheckpointError, MOST_BYTES)
    try:
        with safe_open(path, framework="pt") as file:
            stored = parse_json((file.metadata() or {})["progress"], path, CheckpointError)
            progress = {name: int(stored[name]) for name in ("epochs", "steps")}
            if min(progress.values()) < 0:
                raise ValueError(f"{progress}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        parts = {key: key.removeprefix("model.") for key in tensors if key.startswith("model.")}
        fill(head, {name: tensors[key] for key, name in parts.items()}, path)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key in tensors:
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensors[key]
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        device = next(head.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except CheckpointError:
        raise
    # torch raises RuntimeError for a random state or a tensor of another size
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: cannot resume from it ({error}): remove it to train from the start"
        ) from error
    return progress
