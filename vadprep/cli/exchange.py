"""Commands import, export and compare: features of other code bases; export-onnx: a head."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep.cli.features import show_status
from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    chosen_manifest,
    manifest_options,
    message_options,
    parsed_fields,
)
from vadprep.cli.text import Cells, printable, show, show_list, shown_bar
from vadprep.core.errors import counted
from vadprep.core.spec import STREAMS
from vadprep.features.compare import SAMPLE, Comparison
from vadprep.features.exchange import LAYOUTS, SPANS

LAYOUT_HELP = "Code base of the files."
LAYOUT = click.option("--layout", type=click.Choice(LAYOUTS), required=True, help=LAYOUT_HELP)
CHOICE = click.Choice(STREAMS)
STREAM = click.option("--stream", type=CHOICE, default="rgb", show_default=True, help="Stream.")
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
@message_options
def import_(folder: Path, out: Path | None, fields: tuple[str, ...], **options: Any) -> None:
    """Convert features of another code base to a feature folder.

    To continue after a stop, run the same command again.
    """
    options["manifest"], name = chosen_manifest(options)
    options["settings"], out = parsed_fields(fields), out or Path("features") / name
    with shown_bar("importing") as progress:
        result = vadprep.import_features(folder, out, on_progress=progress, **options)
    status = vadprep.status(out)[options["stream"]]
    show_status([status])
    show_list("note", result.notes)
    show_list("no files for", result.missing)
    show_list("not in the manifest", result.others)
    sys.exit(0 if status.is_complete and not result.missing else 1)


@command("export", example="vadprep export features/xd --layout rtfm --dataset xd --out rtfm/")
@click.argument("features", type=FEATURES)
@LAYOUT
@manifest_options
@click.option("--out", type=FOLDER, required=True, help="New folder for features and lists.")
@STREAM
@message_options
def export(features: str, out: Path, **options: Any) -> None:
    """Convert a feature folder to files for another code base."""
    options["manifest"], _ = chosen_manifest(options)
    with shown_bar("exporting") as progress:
        result = vadprep.export_features(features, out, on_progress=progress, **options)
    click.echo(f"{counted(result.num_videos, 'video')} in {out}")
    for path in result.lists:
        click.echo(f"  {path}")
    if result.num_labels:
        click.echo(f"{counted(result.num_labels, 'label')} in the ground truth, 16 a clip")
    show_list("note", result.notes)
    show_list("no features of", result.missing)
    sys.exit(1 if result.missing else 0)


@command("export-onnx", example="vadprep export-onnx runs/ddl-xd --out onnx/")
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder for the files.")
@click.option("--backbone", is_flag=True, help="Also Inception-I3D RGB, from clips to features.")
@click.option("--weights", help="Weights of the network, if they are not fetched.")
@message_options
def export_onnx(run: Path, out: Path, backbone: bool, weights: str | None) -> None:
    """Write the head of a run as ONNX, checked against torch.

    Beside it lies a program of ten lines that runs it with onnxruntime.
    """
    from vadprep.training import load_run

    checkpoints = load_run(run)
    found = vadprep.export_onnx(checkpoints, out, backbone=backbone, weights=weights)
    if caution := checkpoints[0].origin.caution():
        click.echo(f"{run}: {caution}")
    for name, apart in found.items():
        click.echo(f"{out / name}: within {apart:.1g} of torch in onnxruntime")
    click.echo(f"Try it: python {out / 'example.py'}")


@command("compare", example="vadprep compare features/xd i3d-features/")
@click.argument("a", type=FEATURES)
@click.argument("b", type=FEATURES)
@STREAM
@click.option("--videos", type=click.IntRange(0), default=SAMPLE, show_default=True, help=READ_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(a: str, b: str, stream: str, videos: int, as_json: bool) -> None:
    """Compare two sets of features and say what differs.

    A and B are feature folders or folders of .npy files.
    """
    found = vadprep.compare_features(a, b, stream=stream, videos=videos or None)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    seen = found.evidence
    read: list[Cells] = [("video", "clips A", "clips B", "compared", "cosine", "least")]
    for each in found.videos:
        cosines = _number(each.cosine_mean), _number(each.cosine_least)
        read.append((each.video_id, each.clips_a, each.clips_b, each.num_compared, *cosines))
    sets: list[Cells] = [
        ("", "A", "B"),
        ("videos", found.num_a, found.num_b),
        ("crops", *seen.crops),
        ("dimension", *seen.dims),
        ("tail rules that fit", *(", ".join(each) or "-" for each in seen.counts.rules)),
    ]
    values = {**vars(seen), **(vars(seen.spread) if seen.spread else {})}
    measures: list[Cells] = [("measure", "value")]
    for name, (text, form) in MEASURES.items():
        if name in values:
            measures.append((text, _number(values[name], form)))
    for rows in (read, sets, measures):
        show(rows)
        click.echo()
    for line in compared_words(found):
        click.echo(printable(line))
    show_list("could not be compared", found.unread)


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


def _number(value: float, form: str = ".4f") -> str:
    """``-`` where there was too little to measure."""
    return "-" if math.isnan(value) else format(value, form)


def compared_words(found: Comparison) -> list[str]:
    """The verdict, how much was read, the differences, and what the specs say, a line each."""
    read = f"{len(found.videos):,} of {counted(found.num_common, 'common video')} read"
    counts = found.evidence.counts
    lines = [
        f"{found.verdict}: {read}, {counted(found.evidence.num_clips, 'clip')} compared; "
        f"{counts.num_equal:,} of {counts.num_videos:,} have as many clips"
    ]
    lines += [f"{each.sure}: {each.text}" for each in found.differences]
    sure = "" if found.evidence.by_specs is None else "certain, "
    lines += [f"{sure}by the specs (A / B): {line}" for line in found.declared]
    return lines
