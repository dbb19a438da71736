"""Commands import, export and compare: features of other code bases."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from vadprep.cli.features import show_failures, status_rows
from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    argument_errors,
    chosen_manifest,
    manifest_options,
    parsed_fields,
    warn,
)
from vadprep.cli.progress import shown_bar
from vadprep.cli.text import Cells, printable, show, show_list, show_notes
from vadprep.core.spec import STREAMS
from vadprep.features import stream_status
from vadprep.features.compare import SAMPLE, Comparison, compare_features
from vadprep.features.exchange import LAYOUTS, SPANS, export_features, import_features

LAYOUT = click.option(
    "--layout", type=click.Choice(list(LAYOUTS)), required=True, help="Code base of the files."
)
STREAM = click.option(
    "--stream", type=click.Choice(STREAMS), default="rgb", show_default=True, help="Stream."
)
READ_HELP = "Number of videos to read; 0 reads all. Clips are counted in all videos."
SET_HELP = "A field of the spec that you know, such as fps=24. Repeatable."
SPANS_HELP = "fit: by the tail rule that gives the number of clips. stretch: evenly over the video."


@command("import", example="vadprep import i3d-features/ --layout xdviodet --dataset xd")
@click.argument("folder", type=FOLDER)
@LAYOUT
@manifest_options
@click.option("--out", type=FOLDER, help="Feature folder. Default: features/NAME.")
@STREAM
@advanced("--spans", type=click.Choice(SPANS), default="fit", show_default=True, help=SPANS_HELP)
@advanced("--set", "fields", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
def import_(
    folder: Path,
    out: Path | None,
    layout: str,
    stream: str,
    spans: str,
    fields: tuple[str, ...],
    **options: Any,
) -> None:
    """Convert features of another code base to a feature folder.

    To continue after a stop, run the same command again.
    """
    manifest, name = chosen_manifest(options)
    warn(manifest)
    with argument_errors():
        settings = parsed_fields(fields)
    with shown_bar("importing") as progress:
        result = import_features(
            folder,
            out or Path("features") / name,
            layout=layout,
            manifest=manifest,
            stream=stream,
            spans=spans,
            settings=settings,
            on_progress=progress,
        )
    status = stream_status(result.folder)
    show(status_rows([status]))
    show_failures(status)
    show_notes(result.notes)
    show_list("no files for", list(result.missing))
    show_list("not in the manifest", list(result.others))
    sys.exit(0 if status.is_complete and not result.missing else 1)


@command("export", example="vadprep export features/xd --layout rtfm --dataset xd --out rtfm/")
@click.argument("features", type=FEATURES)
@LAYOUT
@manifest_options
@click.option("--out", type=FOLDER, required=True, help="New folder for features and lists.")
@STREAM
def export(features: Path, layout: str, out: Path, stream: str, **options: Any) -> None:
    """Convert a feature folder to files for another code base."""
    manifest, _ = chosen_manifest(options)
    warn(manifest)
    with shown_bar("exporting") as progress:
        result = export_features(
            features, out, layout=layout, manifest=manifest, stream=stream, on_progress=progress
        )
    click.echo(f"{result.num_videos:,} videos in {out}")
    for path in result.lists:
        click.echo(f"  {path}")
    if result.num_labels:
        click.echo(f"{result.num_labels:,} labels in the ground truth, 16 a clip")
    show_notes(result.notes)
    show_list("no features of", list(result.missing))
    sys.exit(1 if result.missing else 0)


@command("compare", example="vadprep compare features/xd i3d-features/")
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@STREAM
@click.option("--videos", type=click.IntRange(0), default=SAMPLE, show_default=True, help=READ_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(a: Path, b: Path, stream: str, videos: int, as_json: bool) -> None:
    """Compare two sets of features and say what differs.

    A and B are feature folders or folders of .npy files.
    """
    found = compare_features(a, b, stream=stream, videos=videos or None)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    rows: list[Cells] = [("video", "clips A", "clips B", "compared", "cosine", "least")]
    for each in found.videos:
        cosines = _number(each.cosine_mean), _number(each.cosine_least)
        rows.append((each.video_id, each.clips_a, each.clips_b, each.num_compared, *cosines))
    for table in (rows, _set_rows(found), _measure_rows(found)):
        show(table)
        click.echo()
    for line in compared_words(found):
        click.echo(printable(line))
    show_list("could not be compared", list(found.unread))


def _set_rows(found: Comparison) -> list[Cells]:
    """What the two sets are, a column each."""
    rules = found.evidence.counts.rules
    return [
        ("", "A", "B"),
        ("videos", found.num_a, found.num_b),
        ("crops", *found.evidence.crops),
        ("dimension", *found.evidence.dims),
        ("tail rules that fit", *(", ".join(each) or "-" for each in rules)),
    ]


MEASURES = {
    "cosine_mean": ("cosine, mean", ".4f"),
    "cosine_least": ("cosine, least", ".4f"),
    "largest_difference": ("largest difference / largest value", ".1e"),
    "same_features": ("features that find themselves (chance: 0.00)", ".2f"),
    "same_profile": ("correlation of the features' means", ".2f"),
    "same_course": ("correlation of the course in time", ".2f"),
    "course_by_chance": ("share of other videos with such a course", ".2f"),
    "scene_by_chance": ("share of other videos with such a scene", ".2f"),
    "correlation": ("correlation without the means", ".4f"),
    "scale": ("scale of B", ".4f"),
    "shift": ("shift of B / mean of A", "+.4f"),
}
"""Measure of ``Evidence``, or of its ``spread`` -> what the table calls it, and its format."""


def _measure_rows(found: Comparison) -> list[Cells]:
    """What was measured over the videos that were read; - where there was too little."""
    seen = found.evidence
    values = {**vars(seen), **(vars(seen.spread) if seen.spread else {})}
    rows = [(text, _number(values[n], form)) for n, (text, form) in MEASURES.items() if n in values]
    return [("measure", "value"), *rows]


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def compared_words(found: Comparison) -> list[str]:
    """The verdict, how much was read, the differences, and what the specs say, a line each."""
    read = f"{len(found.videos):,} of {found.num_common:,} common videos read"
    counts = found.evidence.counts
    lines = [
        f"{found.verdict}: {read}, {found.evidence.num_clips:,} clips compared; "
        f"{counts.num_equal:,} of {counts.num_videos:,} have as many clips"
    ]
    lines += [f"{each.sure}: {each.text}" for each in found.differences]
    sure = "" if found.evidence.by_specs is None else "certain, "
    lines += [f"{sure}by the specs (A / B): {line}" for line in found.declared]
    return lines
