"""Commands on whole feature folders: shards pack, split, merge."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from vadprep.cli import text as tables
from vadprep.cli.bar import shown_bar
from vadprep.cli.options import FEATURES, FOLDER
from vadprep.features.merge import repack
from vadprep.features.reader import required_folders
from vadprep.features.status import status as status_of

OUT = click.option("--out", type=FOLDER, required=True, help="The new feature folder.")
SIZE = click.option("--shard-size", type=click.IntRange(1), required=True, help="Videos a shard.")
MERGED_SIZE = click.option(
    "--shard-size", type=click.IntRange(1), help="Videos a shard. [of the first folder]"
)


@click.group()
def shards() -> None:
    """Other shard sizes: pack, split; folders in one: merge.

    The old folders are only read. Run the same command again to go on after any stop.
    """


@shards.command()
@click.argument("features", type=FEATURES)
@SIZE
@OUT
def pack(features: Path, shard_size: int, out: Path) -> None:
    """More videos a shard: fewer and larger files."""
    _check_count("pack", features, shard_size)
    _repack([features], out, shard_size)


@shards.command()
@click.argument("features", type=FEATURES)
@SIZE
@OUT
def split(features: Path, shard_size: int, out: Path) -> None:
    """Fewer videos a shard: more and smaller files."""
    _check_count("split", features, shard_size)
    _repack([features], out, shard_size)


@shards.command()
@click.argument("features", type=FEATURES, nargs=-1, required=True)
@MERGED_SIZE
@OUT
def merge(features: tuple[Path, ...], shard_size: int | None, out: Path) -> None:
    """Join folders of the same spec; what two of them share must be the same."""
    _repack(features, out, shard_size)


def _check_count(command: str, features: Path, shard_size: int) -> None:
    """Raise UsageError where the other of pack and split would do what ``command`` says it does."""
    for folder in required_folders(features).values():
        before = len(folder.plan.shards)
        after = math.ceil(len(folder.plan.places) / shard_size)
        fitting = "split" if after > before else "pack" if after < before else command
        if fitting != command:
            raise click.UsageError(
                f"--shard-size {shard_size} makes {after} shards of the {before} in {folder.path}: "
                f"for that there is vadprep shards {fitting}"
            )


def _repack(sources: Sequence[Path], out: Path, shard_size: int | None) -> None:
    with shown_bar("copying") as progress:
        folders = repack(sources, out, shard_size, progress)
    results = [status_of(folder) for folder in folders]
    tables.show(tables.status_rows(results))
    for result in results:
        tables.show_failures(result)
    sys.exit(0 if all(each.is_complete for each in results) else 1)
