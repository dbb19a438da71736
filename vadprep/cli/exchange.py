"""Commands on foreign features: import, export, compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from vadprep.cli import text as tables
from vadprep.cli.bar import shown_bar
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    arguments,
    chosen_manifest,
    manifest_options,
    parsed_fields,
    warn,
)
from vadprep.core.spec import STREAMS
from vadprep.features.compare.compare import SAMPLE
from vadprep.features.compare.compare import compare as compare_sets
from vadprep.features.compare.sets import open_pair
from vadprep.features.exchange.export import export_features
from vadprep.features.exchange.import_ import import_features
from vadprep.features.exchange.layouts import LAYOUTS
from vadprep.features.exchange.surveying import SPANS, Request
from vadprep.features.reader import open_features
from vadprep.features.status import stream_status

LAYOUT = click.option("--layout", type=click.Choice(list(LAYOUTS)), required=True)
STREAM = click.option("--stream", type=click.Choice(STREAMS), default="rgb", show_default=True)
SPANS_HELP = "Of clips whose count fits the frames, or evenly over all frames."

READ_HELP = "How many to read, spread evenly; 0 for all. Clips are counted in all."


@click.command("import")
@click.argument("folder", type=FOLDER)
@LAYOUT
@manifest_options
@click.option("--out", type=FOLDER, help="Feature folder. [features/NAME]")
@STREAM
@click.option(
    "--spans", type=click.Choice(SPANS), default="fit", show_default=True, help=SPANS_HELP
)
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="A spec field known.")
def import_(
    folder: Path,
    out: Path | None,
    layout: str,
    stream: str,
    spans: str,
    fields: tuple[str, ...],
    **options: Any,
) -> None:
    """Features of another code base -> a feature folder. Run it again to go on after any stop."""
    manifest, name = chosen_manifest(options)
    warn(manifest)
    with arguments():
        request = Request(layout, stream, spans, parsed_fields(fields))
    with shown_bar("importing") as progress:
        result = import_features(
            folder, manifest, out or Path("features") / name, request, progress
        )
    status = stream_status(result.folder)
    tables.show(tables.status_rows([status]))
    tables.show_failures(status)
    _notes(result.notes)
    tables.listed("no files for", list(result.missing))
    tables.listed("not asked for by the manifest", list(result.others))
    sys.exit(0 if status.is_complete and not result.missing else 1)


@click.command("export")
@click.argument("features", type=FEATURES)
@LAYOUT
@manifest_options
@click.option("--out", type=FOLDER, required=True, help="Folder for features and lists.")
@STREAM
def export(features: Path, layout: str, out: Path, stream: str, **options: Any) -> None:
    """A feature folder -> files and lists for another code base."""
    manifest, _ = chosen_manifest(options)
    warn(manifest)
    with open_features(features) as found, shown_bar("exporting") as progress:
        result = export_features(found, manifest, out, layout, stream, progress)
    click.echo(f"{result.num_videos:,} videos in {out}")
    for path in result.lists:
        click.echo(f"  {path}")
    if result.num_labels:
        click.echo(f"{result.num_labels:,} labels in the ground truth, 16 a clip")
    _notes(result.notes)
    tables.listed("no features of", list(result.missing))
    sys.exit(1 if result.missing else 0)


@click.command("compare")
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@STREAM
@click.option("--videos", type=click.IntRange(0), default=SAMPLE, show_default=True, help=READ_HELP)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def compare(a: Path, b: Path, stream: str, videos: int, as_json: bool) -> None:
    """Two feature sets, ours or .npy trees: what differs, in words."""
    found = compare_sets(*open_pair(a, b, stream), videos or None)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    for rows in (tables.compared_rows, tables.compared_sets, tables.compared_figures):
        tables.show(rows(found))
        click.echo()
    for line in tables.compared_words(found):
        click.echo(tables.printable(line))
    tables.listed("could not be compared", list(found.unread))


def _notes(lines: tuple[str, ...]) -> None:
    for line in lines:
        click.echo(f"note: {tables.printable(line)}", err=True)
