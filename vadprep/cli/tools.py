"""Commands that run, measure or examine the whole line: demo, doctor."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from pathlib import Path

import click

from vadprep.cli import text as tables
from vadprep.cli.options import FOLDER


@click.command()
@click.option("--out", type=FOLDER, default=Path("vadprep-demo"), show_default=True)
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or rgb,flow.")
@click.option("--weights", default="random:0", show_default=True, help="Weights file.")
@click.option("--flow-weights", help="Those of stream flow. [--weights, if random]")
@click.option("--workers", type=click.IntRange(1), help="Workers. [one a core]")
def demo(
    out: Path, streams: str, weights: str, flow_weights: str | None, workers: int | None
) -> None:
    """Run the whole line on a small data set: videos -> scores."""
    from vadprep.cli.demo import demo_plan, run_demo
    from vadprep.cli.progress import shown_progress
    from vadprep.core.resources import worker_cores

    workers = workers or worker_cores()
    plan = demo_plan(out, weights, flow_weights, streams, workers)
    with shown_progress() as progress:
        report = run_demo(out, plan, progress, progress.say)
    for rows in (report.stages, report.metrics):
        click.echo()
        tables.show(rows)
    click.echo()
    for note in report.notes:
        click.echo(note)
    click.echo(f"All of it is in {out}: data, features, runs, plots, report.json")


@click.command()
@click.argument("folder", type=FOLDER, default=Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(folder: Path, as_json: bool) -> None:
    """What this machine has, and what each missing piece costs.

    FOLDER is where features are to be written.
    """
    from vadprep.cli.doctor import examine

    findings = list(examine(folder))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings], indent=2))
        return
    tables.show([("what", "found", "cost"), *map(astuple, findings)])
