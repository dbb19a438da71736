"""``vadprep eval --online``: a table of what it costs a run to see no future."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vadprep.cli.config import RUN_FILE, read_run
from vadprep.cli.metrics import show_caution
from vadprep.cli.text import is_quiet, show
from vadprep.core.errors import counted
from vadprep.data import Manifest
from vadprep.evaluation.metrics import METRICS, TEMPORAL
from vadprep.evaluation.plots import metric_rows

LEGEND = {
    "apd": "average precision delay: precision against how early events are found",
    "threshold": "at 1/h, 0.5/h: the lowest with at most so many false alarms an hour",
    "detected": "share of the events with an alarm",
    "delay_frames": "from the begin of an event to its first alarm, mean over the detected",
}
"""What names in the table mean; a line each of 80 characters."""


def features_of(run: Path) -> str:
    """The feature folder that a run was trained on, from its run.yaml; else UsageError."""
    for folder in (run, run.parent):  # the folder of a seed lies in that of the run
        path = folder / RUN_FILE
        if path.exists() and "features" in (options := read_run(path)):
            return str(options["features"])
    raise click.UsageError(f"{run}: no {RUN_FILE} names the features: name them by --features")


def show_online(
    run: Path, manifest: Manifest, is_own: bool, as_json: bool, features: str | None, **options: Any
) -> None:
    """Evaluate a run online and print the table; with the ground truth of the run (``is_own``),
    write it into the run, too."""
    import vadprep
    from vadprep.training.online import write_online

    found = vadprep.evaluate_online(run, features or features_of(run), manifest=manifest, **options)
    if is_own:
        write_online(run, found)
    if as_json:
        record = {seed: {**found.as_json(seed), **found.scores[seed].origin.as_json()}
                  for seed in found.scores}  # fmt: skip
        click.echo(json.dumps(record, indent=2))
        return
    first = next(iter(found.scores))
    show_caution(run, found.scores[first].origin.caution())
    show(metric_rows(found.columns((*METRICS, *TEMPORAL)), found.reasons()))
    if is_quiet():
        return
    for name, meaning in LEGEND.items():
        click.echo(f"  {name}: {meaning}")
    delays = found.delays[first]["online"]
    about = [
        f"window of {counted(found.window, 'snippet')}",
        counted(delays.num_events, "event"),
    ]
    if delays.hours is not None:
        about.append(f"{delays.hours:.2f} hours of normal video")
        if delays.hours < 1:
            about.append("so 1/h is no false alarm at all")
    click.echo("; ".join(about))
