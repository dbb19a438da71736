"""Command merge: feature folders joined, and shards of another size."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vadprep.cli import text as tables
from vadprep.cli.bar import shown_bar
from vadprep.cli.options import FEATURES, FOLDER
from vadprep.features.merge import merge as merge_features
from vadprep.features.status import stream_status


@click.command()
@click.argument("features", type=FEATURES, nargs=-1, required=True)
@click.option(
    "--shard-size",
    type=click.IntRange(1),
    help="Number of videos in a shard. Default: as in the first folder.",
)
@click.option("--out", type=FOLDER, required=True, help="The new feature folder.")
def merge(features: tuple[Path, ...], shard_size: int | None, out: Path) -> None:
    """Join feature folders, or copy one with other shards.

    The folders must have the same spec, and videos that two of them share the same features. They
    are only read. After any stop, run the same command again.
    """
    with shown_bar("copying") as progress:
        folders = merge_features(features, out, shard_size=shard_size, progress=progress)
    results = [stream_status(folder) for folder in folders]
    tables.show(tables.status_rows(results))
    for result in results:
        tables.show_failures(result)
    sys.exit(0 if all(each.is_complete for each in results) else 1)
