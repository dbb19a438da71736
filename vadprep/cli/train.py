"""Commands train and recipes: heads on features, by published settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep import data
from vadprep.cli.config import forgotten_if_empty, write_run
from vadprep.cli.help import advanced, command
from vadprep.cli.metrics import show_caution, show_metrics, show_protocols
from vadprep.cli.options import (
    FEATURES,
    FILE,
    FOLDER,
    PART,
    assignments,
    chosen_manifest,
    config_option,
    manifest_options,
    message_options,
)
from vadprep.cli.text import note, show
from vadprep.core.errors import SettingError

HEAD_NAMES = ("sultani", "rtfm", "arnet", "csltal", "ddl", "urdmu", "pel4vad", "vadclip")
"""As in ``heads.HEADS``, which needs torch."""
SCHEDULE = click.Choice(["published", "small"])
"""As in ``heads.SCHEDULES``."""
SCHEDULE_HELP = "small: settings chosen on the training videos, for tens to hundreds of them."
SET_HELP = "A setting in place of the published one (vadprep recipes HEAD). Repeatable."
VALIDATION_HELP = "Share of the training videos, 0 to 1, that chooses an epoch. Default: 0, none."
PROMPTS_HELP = (
    "Prompt embeddings for pel4vad, vadclip: .npz, an array for normal and each category."
)
SMOOTHING_HELP = "Also the metrics of smoothed scores: slide-7, fixed-8. Default: none."
CONTROL_HELP = "Train on shuffled labels. The AUC must be about 0.5 in the mean over many seeds."
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
@advanced("--schedule", type=SCHEDULE, default="published", show_default=True, help=SCHEDULE_HELP)
@advanced("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@advanced("--validation", type=PART, default=0.0, help=VALIDATION_HELP)
@advanced("--prompts", type=FILE, help=PROMPTS_HELP)
@advanced("--control", is_flag=True, help=CONTROL_HELP)
@advanced("--smoothing", default="", metavar="RULE", help=SMOOTHING_HELP)
@advanced("--allow-missing", is_flag=True, help="Train without videos that have no features.")
@config_option
@message_options
def train(
    head: str, features: str | None, out: Path | None, changes: tuple[str, ...], **options: Any
) -> None:
    """Train a head on features; write its test scores and metrics."""
    from vadprep.core.signals import stop_on_signals

    ctx = click.get_current_context()
    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    options["source"] = named_source(options)
    chosen = {"dataset": options["dataset"]}
    options["manifest"], name = chosen_manifest(options, with_paths=False)
    options["settings"] = {field: parsed(value) for field, value in assignments(changes)}
    options["seeds"] = parsed_seeds(options["seeds"] or "")
    features, out = features or f"features/{name}", out or Path("runs") / f"{head}-{name}"
    options["on_start"] = lambda: write_run(ctx, out, features=features, **chosen)
    with forgotten_if_empty(out), stop_on_signals(CONTINUE):
        report = vadprep.train(head, features, dataset=name, out=out, **options)
    show_caution(out, report.origin.caution())
    show_metrics(report.columns(), report.entries()[0]["undefined"])
    show_protocols(report.protocols())
    count = f"{len(report.by_seed)} run{'s' * (len(report.by_seed) != 1)}"
    click.echo("; ".join(filter(None, (f"{count} in {out}", report.remark()))))
    note(f"settings {report.settings}: {settings_legend(report.settings, name)}")


def parsed_seeds(text: str) -> list[int]:
    """Whole numbers with commas between; none of a blank text."""
    try:
        return [int(each) for each in text.split(",") if text]
    except ValueError:
        raise SettingError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def named_source(options: Mapping[str, Any]) -> dict[str, str]:
    """How config.json names the manifest of ``options``: names that are valid in any folder."""
    source = {name: options[name] for name in ("dataset", "manifest", "split_file")}
    if source["manifest"]:
        source["manifest"] = source["manifest"].absolute()
    split_file = source["split_file"]
    if split_file and data.split_path(split_file) == Path(split_file):
        source["split_file"] = Path(split_file).absolute()  # not a bundled one
    return {name: str(value) for name, value in source.items() if value}


def settings_legend(settings: str, name: str) -> str:
    """What the words for the settings of a head mean (``HeadKind.settings``), for data ``name``."""
    first, *others = settings.split(", ")
    of = first if first == name else f"{first}, since there are none for {name}"
    small = f"; small: {SCHEDULE_HELP.removeprefix('small: ')}" if "small" in others else ""
    return f"the published ones for {of}{small}"


def dataset_here() -> str:
    """The one included data set with a feature folder in ./features; else UsageError names them."""
    here = [name for name in data.dataset_names() if Path("features", name).is_dir()]
    if len(here) == 1:
        return here[0]
    found = f"are features of {', '.join(here)}" if here else "is no included data set"
    raise click.UsageError(
        f"in ./features there {found}: name the videos by one of --dataset "
        f"({', '.join(here or data.dataset_names())}) and --manifest"
    )


def parsed(text: str) -> Any:
    """A number, true, false or null as in JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@command("recipes", example="vadprep recipes ddl")
@click.argument("head", required=False)
def recipes(head: str | None) -> None:
    """Published settings and metrics of each head.

    With HEAD: all its settings, which train --set changes.
    """
    if head is None:
        from vadprep.training.recipes import RECIPES, UNITS

        rows = [(f"vadprep train {name} --dataset {on}", *cells) for name, on, *cells in RECIPES]
        show([("command", "features", "published", "others got"), *rows])
        click.echo(f"{UNITS}; vadprep recipes HEAD: its settings")
        return
    from vadprep.heads import head_kind

    published = {name: asdict(config) for name, config in head_kind(head).published.items()}
    names = next(iter(published.values()))
    rows = [(name, *(str(each[name]) for each in published.values())) for name in names]
    show([("setting", *published), *rows])
