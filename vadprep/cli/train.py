"""Commands on models: train, eval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vadprep.cli import text as tables
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    arguments,
    chosen_manifest,
    dataset_here,
    manifest_options,
    manifest_source,
    warn,
)
from vadprep.core.errors import CheckpointError

if TYPE_CHECKING:
    from vadprep.training.results import Figures

HEAD_NAMES = ("sultani", "rtfm", "arnet", "csltal", "ddl")
"""As in ``mil.HEADS``, which needs torch."""
SCHEDULES = ("published", "small")
"""As in ``mil.SCHEDULES``."""
SET_HELP = "A setting of the head instead of the published one."
VALIDATION_HELP = "Share of the training videos to choose an epoch by. [0: none]"
CONTROL_HELP = "Train on shuffled labels: about 0.5 in the mean over many seeds."
GO_ON = "every full epoch is saved, go on with --resume"


@click.command()
@click.argument("head", type=click.Choice(HEAD_NAMES))
@manifest_options
@click.option("--features", type=FEATURES, help="Feature folder. [features/NAME]")
@click.option("--out", type=FOLDER, help="Run folder. [runs/HEAD-NAME]")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat.")
@click.option("--seeds", help="One run each, such as 0,1,2. [the published seed]")
@click.option("--device", help="cpu or cuda. [cuda, if any]")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="published", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@click.option("--validation", type=float, default=0.0, help=VALIDATION_HELP)
@click.option("--control", is_flag=True, help=CONTROL_HELP)
@click.option("--resume", is_flag=True, help="Go on from the last full epoch.")
@click.option("--allow-missing", is_flag=True, help="Go on without videos that have no features.")
def train(
    head: str,
    features: Path | None,
    out: Path | None,
    seeds: str | None,
    device: str | None,
    changes: tuple[str, ...],
    **options: Any,
) -> None:
    """Features -> a trained head, its test scores, and figures."""
    import torch

    from vadprep.core.signals import stop_on_signals
    from vadprep.evaluation.plots import metric_rows
    from vadprep.features.reader import open_features
    from vadprep.training.log import shown_epochs
    from vadprep.training.train import TrainConfig
    from vadprep.training.train import train as train_head

    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    source = manifest_source(options)
    manifest, name = chosen_manifest(options, with_paths=False)
    warn(manifest)
    with arguments():
        config = TrainConfig(
            head=head,
            dataset=name,
            source=source,
            seeds=parsed_seeds(seeds),
            changes=parsed_changes(changes),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            **options,
        )
    out = out or Path("runs") / f"{head}-{name}"
    with (
        open_features(features or Path("features") / name) as found,
        stop_on_signals(GO_ON),
        shown_epochs(),
    ):
        report = train_head(found, manifest, config, out)
    tables.show_caution(out, report.origin.caution())
    tables.show(metric_rows(report.columns(), next(iter(report.by_seed.values())).reasons))
    show_protocols(report.protocols())
    count = f"{len(report.by_seed)} run{'s' * (len(report.by_seed) != 1)}"
    parts = f"{count} in {out}, settings {report.settings}, percent", report.remark()
    click.echo("; ".join(filter(None, parts)))


def show_protocols(protocols: Mapping[str, Mapping[str, Figures]]) -> None:
    """A table of figures for each protocol of a single paper."""
    from vadprep.evaluation.plots import metric_rows

    for protocol, figures in protocols.items():
        click.echo(f"{protocol}, a protocol of one paper that compares with nothing above:")
        tables.show(metric_rows(figures))


def parsed_changes(texts: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as values: numbers, true, false and null as in JSON, else text."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: expected FIELD=VALUE")
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


@click.command("eval")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=click.Choice(["cut", "hold"]), default="cut", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs, with every category.")
def evaluate(run: Path, coverage: str, as_json: bool, **options: Any) -> None:
    """The figures of a run on its own manifest, or on another."""
    from vadprep.evaluation.plots import metric_rows
    from vadprep.evaluation.scores import check_tested, evaluate, read_origin, read_scores
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
        metrics = evaluate(scores[folder], manifest=manifest, coverage=coverage)
        found[folder] = replace(metrics, protocols=protocols if hold else {})
        stale |= set() if hold else set(protocols)
    if as_json:
        record = {str(f): {**m.as_json(), **origins[f].as_json()} for f, m in found.items()}
        click.echo(json.dumps(record, indent=2))
        return
    tables.show_caution(run, origins[folders[0]].caution())  # all seeds have the same
    reasons = {name: why for metrics in found.values() for name, why in metrics.reasons.items()}
    columns = {folder.name: metrics.values for folder, metrics in found.items()}
    tables.show(metric_rows(with_mean(columns), reasons))
    show_protocols(by_protocol({folder.name: metrics for folder, metrics in found.items()}))
    for protocol in sorted(stale):
        click.echo(
            f"{protocol}: known to train alone, by its manifest, see metrics.json of the run"
        )


def missing_in(run: Path) -> list[str]:
    """Videos that a run was trained or tested without, as --allow-missing had it."""
    from vadprep.evaluation.scores import read_json

    path = run / "config.json"
    return list(read_json(path).get("missing", ())) if path.exists() else []


def recorded_source(run: Path) -> dict[str, Any]:
    """The manifest options that a run was trained with.

    Raises CheckpointError when they are not recorded, or the manifest is not there any more.
    """
    from vadprep.evaluation.scores import read_json

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
