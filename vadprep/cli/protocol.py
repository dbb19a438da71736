"""Commands on what papers publish: flat ground truths, recipes."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vadprep.cli import text as tables
from vadprep.cli.options import FEATURES, FILE, arguments, chosen_manifest, manifest_options
from vadprep.data.ground_truth import READINGS, RULES, Decoded, FlatTruth, build, read_flat
from vadprep.data.ground_truth_check import Check, check
from vadprep.data.manifest import Manifest

MOST_VIDEOS = 20
"""Videos listed by ``gt check``."""
LIST_HELP = "Text file, a video id or file name a line: the order. [split test of the manifest]"


@click.group()
def gt() -> None:
    """Flat frame-level ground truth: build it, or explain somebody's."""


@gt.command("build")
@manifest_options
@click.option("--rule", type=click.Choice(RULES), required=True, help="Length of each video.")
@click.option(
    "--intervals",
    "reading",
    type=click.Choice(list(READINGS)),
    default="half-open",
    show_default=True,
    help="How their numbers are read: [start, stop), [start, stop], or counted from 1.",
)
@click.option("--features", type=FEATURES, help="Spans and decoded lengths. Needed for spans.")
@click.option("--split", default="test", show_default=True)
@click.option("--out", type=FILE, default=Path("gt.npy"), show_default=True)
def gt_build(
    rule: str, reading: str, features: Path | None, split: str, out: Path, **options: Any
) -> None:
    """Manifest -> one label a frame (.npy), and a CSV of whose they are."""
    manifest, _ = chosen_manifest(options)
    if rule == "spans" and features is None:
        raise click.UsageError("--rule spans needs --features")
    if out.suffix != ".npy":
        raise click.UsageError(f"--out {out}: a file of labels ends in .npy")
    truth = build(manifest, rule, split, reading, _decoded(features, manifest))
    write_truth(out, truth)
    anomalous = int(truth.labels.sum())
    click.echo(f"{out}: {len(truth.labels):,} labels, {anomalous:,} anomalous; whose: {_csv(out)}")


def _decoded(features: Path | None, manifest: Manifest) -> dict[str, Decoded]:
    """What features know of the videos of ``manifest``; nothing without features."""
    from vadprep.features.reader import open_features

    if features is None:
        return {}
    decoded = {}
    with open_features(features) as found:
        for video_id in (video.video_id for video in manifest.videos):
            if video_id in found:
                stored = found[video_id]
                end = int(stored.spans[-1, 1]) if stored.num_clips else 0
                decoded[video_id] = Decoded(stored.num_frames, end, stored.fps)
    return decoded


def _csv(path: Path) -> Path:
    """A name that no other file has: gt.csv may be the manifest."""
    return path.with_name(f"{path.name}.csv")


def write_truth(path: Path, truth: FlatTruth) -> None:
    """Write the labels, and beside them ``video_id, start, stop`` of each video."""
    import numpy as np

    from vadprep.core.atomic import open_atomic

    rows, start = [], 0
    for video_id, length in zip(truth.video_ids, truth.lengths, strict=True):
        rows.append((video_id, start, start + length))
        start += length
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("video_id", "start", "stop"), *rows])
    with open_atomic(_csv(path)) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
    with open_atomic(path) as stream:
        np.save(stream, truth.labels)


@gt.command("check")
@click.argument("path", type=FILE)
@manifest_options
@click.option("--list", "order", type=FILE, help=LIST_HELP)
@click.option("--features", type=FEATURES, help="Spans, decoded lengths and rates.")
@click.option("--json", "as_json", is_flag=True, help="For programs, with every video.")
def gt_check(
    path: Path, order: Path | None, features: Path | None, as_json: bool, **options: Any
) -> None:
    """Which length rule somebody's labels follow, and what they lost."""
    manifest, _ = chosen_manifest(options)
    ids = listed_ids(order) if order else None
    found = check(read_flat(path), manifest, ids, _decoded(features, manifest))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        show_check(found)
    if not found.is_sound:
        sys.exit(1)


def show_check(found: Check) -> None:
    """Print the verdict, and the videos whose labels differ from the manifest."""
    for line in verdict(found):
        click.echo(line)
    if odd := found.odd:
        head = ("video", "start", "length", "wrong labels")
        cells = ((each.video_id, each.start, each.length, each.wrong) for each in odd)
        tables.show([head, *itertools.islice(cells, MOST_VIDEOS)])
        if len(odd) > MOST_VIDEOS:
            click.echo(f"and {len(odd) - MOST_VIDEOS} more videos: use --json to see all")


def listed_ids(path: Path) -> list[str]:
    """Ids in a list file, folders, suffix and crop number taken off, each once in order."""
    import re

    from vadprep.core.errors import ManifestError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    names = (Path(line.strip()).name for line in lines if line.strip())
    ids = (re.sub(r"(__\d+)?(_i3d)?\.(npy|mp4|avi|txt)$", "", name) for name in names)
    return list(dict.fromkeys(ids))


def verdict(found: Check) -> list[str]:
    """What ``gt check`` says first, line by line."""
    wrong = sum(each.wrong for each in found.videos)
    if found.rules:
        rules = " or ".join(found.rules)
        lines = [
            f"{found.num_labels:,} labels of {len(found.videos)} videos: rule {rules}, "
            f"intervals {found.reading}"
        ]
    else:
        totals = ", ".join(f"{rule} {total:,}" for rule, total in found.totals.items())
        lines = [
            f"{found.num_labels:,} labels: no rule gives this length ({totals}): the file has "
            f"other videos, another order, or several rules. By rule {found.rule} it agrees up to "
            f"the first video below"
        ]
    lines.append(f"{wrong:,} labels are not the manifest's")
    for category, (lost, total) in found.lost.items():
        whole = "LOST, all" if lost == total else "lost in part,"
        lines.append(f"category {category}: {whole} {lost} of {total} videos marked normal")
    return lines


@click.command()
@click.argument("head", required=False)
def recipes(head: str | None) -> None:
    """Published settings and figures, and what others got.

    With the name of a head all its settings, which train takes by --set.
    """
    from vadprep.training.recipes import FIGURES, recipe_rows, setting_rows

    if head is None:
        tables.show(recipe_rows())
        click.echo(f"{FIGURES}; vadprep recipes HEAD: its settings")
        return
    with arguments():
        tables.show(setting_rows(head))
