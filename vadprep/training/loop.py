"""The training loop, one for all heads.

The order of the items depends on (seed, epoch), the learning rate on the epoch, everything else
on the state that is saved after each epoch: a run that is stopped at any step and resumed ends
with the same bytes as one that was not.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from vadprep.core.errors import TrainingError
from vadprep.core.signals import check_stop
from vadprep.evaluation.metrics import listed
from vadprep.heads import Head
from vadprep.training.bags import Batch, TrainingBags
from vadprep.training.best_epochs import Snapshots
from vadprep.training.checkpoint import RESUME, load_state, save_state
from vadprep.training.log import EPOCHS, IS_LAST, STEPS, epoch_scalars, read_rows, write_rows


def train_epochs(
    head: Head,
    bags: TrainingBags,
    seed: int,
    folder: Path,
    snapshots: Snapshots | None = None,
) -> None:
    """Train ``head`` in place: log each step, save the state after each epoch.

    Goes on from the resume state in ``folder`` when there is one. A snapshot is taken before the
    state of its epoch is saved, so that a stop in between repeats both. Uses torch's global random
    state (dropout), which the caller seeds. Raises TrainingError at the first loss that is not
    finite, which is then in the last row of the log, and Stopped inside a block of
    ``signals.stop_on_signals``.
    """
    from torch.utils.tensorboard import SummaryWriter

    config = head.config
    device = next(head.parameters()).device
    optimizer = head.new_optimizer()
    log: list[dict[str, Any]] = []
    first = 0
    if (folder / RESUME).exists():
        progress = load_state(folder / RESUME, head, optimizer)
        first = progress["epochs"]
        log = read_rows(folder / STEPS, progress["steps"])
        if snapshots:
            snapshots.resume(first)
    with ExitStack() as stack:
        writer: SummaryWriter | None = None
        for epoch in range(first, config.epochs):
            head.train()
            rate, start = config.learning_rate_at(epoch), len(log)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for batch in bags.batches(seed, epoch):
                check_stop()
                row = {"epoch": epoch, "step": len(log), "learning_rate": rate}
                log.append(row | _step(head, optimizer, batch.to(device)))
                if not math.isfinite(log[-1]["total"]):
                    write_rows(folder / STEPS, log)  # a run that goes on cuts it back
                    terms = [name for name in log[-1] if name != "total"] + ["total"]
                    name = next(each for each in terms if not math.isfinite(log[-1][each]))
                    raise TrainingError(
                        f"loss term {name!r} is {log[-1][name]} at epoch {epoch}, step "
                        f"{log[-1]['step']} (videos {listed(set(batch.video_ids))}): look at "
                        f"their features and at {STEPS}, or lower the learning rate"
                    )
            snapshot = snapshots.take(epoch) if snapshots else {}
            write_rows(folder / STEPS, log)
            if writer is None:  # after an epoch that is complete; TensorBoard then hides later ones
                writer = stack.enter_context(SummaryWriter(folder, purge_step=epoch))
            for tag, value in epoch_scalars(log[start:], snapshot).items():
                writer.add_scalar(tag, value, epoch)
            writer.flush()
            save_state(folder / RESUME, head, optimizer, {"epochs": epoch + 1, "steps": len(log)})
            is_last = {IS_LAST: epoch + 1 == config.epochs}
            shown = (seed, epoch + 1, config.epochs, log[-1]["total"])
            EPOCHS.info("seed %d, epoch %d of %d: loss %.4f", *shown, extra=is_last)


def losses(head: Head, batch: Batch) -> dict[str, torch.Tensor]:
    """The terms of the loss of a batch, and their sum, which is to be minimised, as ``total``."""
    terms = head.loss(head(batch.snippets, batch.mask), batch.labels, batch.mask)
    return terms | {"total": torch.stack(list(terms.values())).sum()}


def _step(head: Head, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """One update, if the loss is finite; returns it and its terms as they were before."""
    terms = losses(head, batch)
    numbers = torch.stack(list(terms.values())).tolist()  # the one wait for the GPU
    values: dict[str, float] = dict(zip(terms, numbers, strict=True))
    if math.isfinite(values["total"]):
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    return {"total": values.pop("total"), **values}
