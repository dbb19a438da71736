"""Metrics as tables, and what has to be said beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from vadprep.cli.text import is_quiet, show
from vadprep.evaluation.metrics import LEGEND, SMOOTHED, Values
from vadprep.evaluation.plots import metric_rows


def show_caution(run: Path, caution: str) -> None:
    """Warn of what makes the metrics and scores of a run useless (``Origin.caution``)."""
    if caution:
        click.echo(f"{run}: {caution}")


def show_metrics(columns: Mapping[str, Values], reasons: Mapping[str, str] | None = None) -> None:
    """A table of metrics, and below it the names that do not say what they mean."""
    rows = metric_rows(columns, reasons)
    show(rows)
    shown = {row[0] for row in rows}.union(*(column.split(", ") for column in columns))
    for name, meaning in LEGEND.items():
        if name in shown and not is_quiet():
            click.echo(f"  {name}: {meaning}")


def show_protocols(protocols: Mapping[str, Mapping[str, Values]]) -> None:
    """A table of metrics for each protocol that only one paper uses."""
    for protocol, values in protocols.items():
        told = "a protocol of one paper that compares with nothing above"
        if protocol.startswith(SMOOTHED):
            told = "the same metrics of smoothed scores"
        click.echo(f"{protocol}, {told}:")
        show(metric_rows(values))
