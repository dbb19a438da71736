"""``vadprep eval``: the metrics of a run, on its own or another manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep import data
from vadprep.cli.help import advanced, command
from vadprep.cli.metrics import show_caution, show_metrics, show_protocols
from vadprep.cli.options import (
    COUNT,
    FEATURES,
    FOLDER,
    chosen_manifest,
    manifest_options,
    message_options,
)
from vadprep.cli.train import SMOOTHING_HELP
from vadprep.evaluation.metrics import METRICS, TEMPORAL, Values, with_mean
from vadprep.evaluation.run_files import SCORES, recorded_source, seed_folders
from vadprep.evaluation.scores import read_scores

ONLINE_HELP = "Also metrics and delays of scores that see the past alone; needs the features."
WINDOW_HELP = "With --online: snippets that the head sees. Default: as in its training."
COVERAGE = click.Choice(["cut", "hold"])
COVERAGE_HELP = (
    "Frames after the last clip: not scored (cut), or the last score (hold). Default: the run's."
)


@command("eval", example="vadprep eval runs/ddl-xd")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=COVERAGE, help=COVERAGE_HELP)
@advanced("--smoothing", default="", metavar="RULE", help=SMOOTHING_HELP)
@click.option("--online", is_flag=True, help=ONLINE_HELP)
@advanced("--features", type=FEATURES, help="With --online: feature folder. Default: the run's.")
@advanced("--window", type=COUNT, help=WINDOW_HELP)
@advanced("--device", help="With --online: cpu or cuda. Default: cpu.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every category.")
@message_options
def evaluate(
    run: Path, coverage: str | None, smoothing: str, online: bool, as_json: bool, **options: Any
) -> None:
    """Compute the metrics of a run, on its own or another manifest.

    With --online also those of scores that see no future, and how late alarms are.
    """
    for_online = {name: options.pop(name) for name in ("features", "window", "device")}
    if online:
        from vadprep.cli.online import show_online

        if smoothing:
            raise click.UsageError("--smoothing sees later clips: it does not go with --online")
        is_own = not any(options[name] for name in ("dataset", "manifest", "split_file"))
        show_online(
            run, manifest_of(run, options), is_own, as_json, coverage=coverage, **for_online
        )
        return
    if any(for_online.values()):
        raise click.UsageError("--features, --window and --device go with --online")
    folders, manifest = list(seed_folders(run).values()) or [run], manifest_of(run, options)
    found = {
        folder: vadprep.evaluate(folder, manifest=manifest, coverage=coverage, smoothing=smoothing)
        for folder in folders
    }
    origins = {folder: read_scores(folder / SCORES).origin for folder in folders}
    if as_json:
        record = {str(f): {**m.as_json(), **origins[f].as_json()} for f, m in found.items()}
        click.echo(json.dumps(record, indent=2))
        return
    show_caution(run, origins[folders[0]].caution())  # all seeds have the same
    reasons = {name: why for metrics in found.values() for name, why in metrics.reasons.items()}
    columns = {folder.name: metrics.values for folder, metrics in found.items()}
    show_metrics(with_mean(columns), reasons)
    protocols: dict[str, dict[str, Values]] = {}
    for folder, metrics in found.items():
        for name, values in metrics.protocols.items():
            protocols.setdefault(name, {})[folder.name] = values
    show_protocols({name: with_mean(columns) for name, columns in protocols.items()})
    for name in sorted(reasons.keys() - {*METRICS, *TEMPORAL}):
        click.echo(f"{name}: {reasons[name]}")


def manifest_of(run: Path, options: dict[str, Any]) -> data.Manifest:
    """The manifest that ``options`` name, else that of the run; the split file likewise."""
    if not (options["dataset"] or options["manifest"]):
        options = recorded_source(run) | {name: v for name, v in options.items() if v}
    return chosen_manifest(options, with_paths=False)[0]
