"""Commands train, eval and recipes: heads on features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    argument_errors,
    assignments,
    chosen_manifest,
    dataset_here,
    manifest_options,
    manifest_source,
    warn,
)
from vadprep.cli.text import show, show_caution
from vadprep.core.errors import CheckpointError
from vadprep.evaluation.plots import metric_rows
from vadprep.evaluation.scores import (
    check_tested,
    evaluate as evaluate_scores,
    read_json,
    read_origin,
    read_scores,
)

if TYPE_CHECKING:
    from vadprep.training.results import Values

HEAD_NAMES = ("sultani", "rtfm", "arnet", "csltal", "ddl")
"""As in ``heads.HEADS``, which needs torch."""
SCHEDULES = ("published", "small")
"""As in ``heads.SCHEDULES``."""
SET_HELP = "A setting of the head that replaces the published one. Repeatable."
VALIDATION_HELP = "Share of the training videos by which an epoch is chosen. Default: 0, none."
CONTROL_HELP = "Train on shuffled labels. The AUC must be about 0.5 in the mean over many seeds."
COVERAGE = click.Choice(["cut", "hold"])
COVERAGE_HELP = "Frames after the last clip: not scored (cut), or the last score (hold)."
CONTINUE = "every full epoch is saved, go on with --resume"


@command("train", example="vadprep train ddl --dataset xd --seeds 0,1,2")
@click.argument("head", type=click.Choice(HEAD_NAMES))
@manifest_options
@click.option("--features", type=FEATURES, help="Feature folder. Default: features/NAME.")
@click.option("--out", type=FOLDER, help="Run folder. Default: runs/HEAD-NAME.")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat (both).")
@click.option("--seeds", help="One run for each seed, such as 0,1,2. Default: the published seed.")
@click.option("--device", help="cpu or cuda. Default: cuda if there is a GPU.")
@click.option("--resume", is_flag=True, help="Continue from the last full epoch.")
@advanced(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default="published",
    show_default=True,
    help="small: 100 steps on balanced batches, for tens of videos.",
)
@advanced("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@advanced("--validation", type=float, default=0.0, help=VALIDATION_HELP)
@advanced("--control", is_flag=True, help=CONTROL_HELP)
@advanced("--allow-missing", is_flag=True, help="Train without videos that have no features.")
def train(
    head: str,
    features: Path | None,
    out: Path | None,
    seeds: str | None,
    changes: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a head on features; write its test scores and metrics."""
    from vadprep import training
    from vadprep.core.signals import stop_on_signals
    from vadprep.training.log import shown_epochs

    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    source = manifest_source(options)
    manifest, name = chosen_manifest(options, with_paths=False)
    warn(manifest)
    out = out or Path("runs") / f"{head}-{name}"
    with argument_errors():
        asked = {"settings": parsed_changes(changes), "seeds": parsed_seeds(seeds)}
    with stop_on_signals(CONTINUE), shown_epochs():
        report = training.train(
            head,
            features or Path("features") / name,
            dataset=name,
            manifest=manifest,
            source=source,
            out=out,
            **options | asked,
        )
    show_caution(out, report.origin.caution())
    show(metric_rows(report.columns(), next(iter(report.by_seed.values())).reasons))
    show_protocols(report.protocols())
    count = f"{len(report.by_seed)} run{'s' * (len(report.by_seed) != 1)}"
    parts = f"{count} in {out}, settings {report.settings}, percent", report.remark()
    click.echo("; ".join(filter(None, parts)))


def show_protocols(protocols: Mapping[str, Mapping[str, Values]]) -> None:
    """A table of metrics for each protocol that only one paper uses."""
    for protocol, values in protocols.items():
        click.echo(f"{protocol}, a protocol of one paper that compares with nothing above:")
        show(metric_rows(values))


def parsed_changes(texts: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as values: numbers, true, false and null as in JSON, else text."""
    changes: dict[str, Any] = {}
    for name, value in assignments(texts):
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def parsed_seeds(text: str | None) -> tuple[int, ...]:
    """``0,1,2`` as whole numbers."""
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


# ---------------------------------------------------------------- eval


@command("eval", example="vadprep eval runs/ddl-xd")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=COVERAGE, default="cut", show_default=True, help=COVERAGE_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every category.")
def evaluate(run: Path, coverage: str, as_json: bool, **options: Any) -> None:
    """Compute the metrics of a run, on its own or another manifest."""
    from vadprep.training.checkpoint import seed_folders
    from vadprep.training.results import by_protocol, saved_protocols, with_mean

    folders = list(seed_folders(run).values()) or [run]
    if not (options["dataset"] or options["manifest"]):
        options = recorded_source(folders[0]) | {k: v for k, v in options.items() if v}
    manifest, _ = chosen_manifest(options, with_paths=False)
    warn(manifest)
    paths = {folder: folder / "scores-last.h5" for folder in folders}
    origins = {folder: read_origin(path) for folder, path in paths.items()}
    scores = {folder: read_scores(path) for folder, path in paths.items()}
    found, stale = {}, set[str]()
    for folder in folders:
        check_tested(scores[folder], manifest, missing_in(folder))
        protocols, hold = saved_protocols(folder, scores[folder], manifest)
        metrics = evaluate_scores(scores[folder], manifest=manifest, coverage=coverage)
        found[folder] = replace(metrics, protocols=protocols if hold else {})
        stale |= set() if hold else set(protocols)
    if as_json:
        record = {str(f): {**m.as_json(), **origins[f].as_json()} for f, m in found.items()}
        click.echo(json.dumps(record, indent=2))
        return
    show_caution(run, origins[folders[0]].caution())  # all seeds have the same
    reasons = {name: why for metrics in found.values() for name, why in metrics.reasons.items()}
    columns = {folder.name: metrics.values for folder, metrics in found.items()}
    show(metric_rows(with_mean(columns), reasons))
    show_protocols(by_protocol({folder.name: metrics for folder, metrics in found.items()}))
    for protocol in sorted(stale):
        click.echo(
            f"{protocol}: only known on the manifest of the training, see metrics.json of the run"
        )


def missing_in(run: Path) -> list[str]:
    """Videos that ``train --allow-missing`` left out."""
    path = run / "config.json"
    return list(read_json(path).get("missing", ())) if path.exists() else []


def recorded_source(run: Path) -> dict[str, Any]:
    """The manifest options that a run was trained with.

    Raises CheckpointError when they are not recorded, or the manifest does not exist any more.
    """
    source = read_json(run / "config.json").get("source", {})
    if not source:
        raise CheckpointError(f"{run / 'config.json'}: names no manifest: name it by --manifest")
    manifest = source.get("manifest")
    if manifest and not Path(manifest).is_file():
        raise CheckpointError(
            f"{manifest}: the manifest of {run} is not there any more: name it by --manifest"
        )
    found = {name: source.get(name) for name in ("dataset", "split_file")}
    return found | {"manifest": Path(manifest) if manifest else None}


# ---------------------------------------------------------------- recipes


@command("recipes", example="vadprep recipes ddl")
@click.argument("head", required=False)
def recipes(head: str | None) -> None:
    """Published settings and metrics of each head.

    With HEAD: all its settings, which train --set changes.
    """
    from vadprep.training.recipes import UNITS, recipe_rows, setting_rows

    if head is None:
        show(recipe_rows())
        click.echo(f"{UNITS}; vadprep recipes HEAD: its settings")
        return
    with argument_errors():
        show(setting_rows(head))
