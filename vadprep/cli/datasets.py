"""Commands datasets, presets and gt: what there is before videos are decoded."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from vadprep.cli.help import command, group
from vadprep.cli.options import (
    FEATURES,
    FILE,
    FOLDER,
    ROOT_HELP,
    argument_errors,
    chosen_manifest,
    manifest_options,
    warn,
)
from vadprep.cli.text import MOST_LISTED, Cells, show, show_list
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import ManifestError
from vadprep.core.presets import FLOW, PRESETS
from vadprep.data import (
    READINGS,
    RULES,
    Check,
    FlatTruth,
    Manifest,
    build_ground_truth,
    check_files,
    check_ground_truth,
    dataset_names,
    load_dataset,
    named_manifest,
    read_ground_truth,
    summarize,
)
from vadprep.features import open_features

SHOWN_SECONDS = 10.0
"""Time between two lines that say how many videos are decoded."""


@group("datasets", example="vadprep datasets check ucf --root /data/ucf")
def datasets() -> None:
    """List data sets, show their counts, check the video files."""


@datasets.command("list", example="vadprep datasets list")
def datasets_list() -> None:
    """Names and counts of the included data sets."""
    show(dataset_rows([(name, load_dataset(name)) for name in dataset_names()]))


@datasets.command("show", example="vadprep datasets show xd")
@click.argument("name", metavar="NAME|CSV")
def datasets_show(name: str) -> None:
    """Counts of a data set or manifest by split, and warnings about it."""
    with argument_errors():
        manifest = named_manifest(name)
    show(dataset_rows([(name, manifest)]))
    warn(manifest)


def dataset_rows(manifests: Iterable[tuple[str, Manifest]]) -> list[Cells]:
    """Counts of data sets, a line for each split.

    Frames are blank where the length of a video is not public, and scored frames where there is
    no public ground truth. The anomalous frames are among the scored ones.
    """
    head = ("data set", "split", "videos", "normal", "abnormal", "frames", "scored", "anomalous")
    rows: list[Cells] = [head]
    for name, manifest in manifests:
        rows += [(name, *each) for each in summarize(manifest)]
    return rows


@datasets.command("check", example="vadprep datasets check mine.csv --root /data/videos")
@click.argument("name", metavar="NAME|CSV")
@click.option("--root", type=FOLDER, envvar="VADPREP_ROOT", default=Path(), help=ROOT_HELP)
@click.option("--no-decode", is_flag=True, help="Only look for the files; do not count frames.")
def datasets_check(name: str, root: Path, no_decode: bool) -> None:
    """Find missing, extra and unreadable files of a data set or manifest."""
    with argument_errors():
        manifest = named_manifest(name)
    count: Callable[[Path], int] | None = None
    if not no_decode:
        import av  # noqa: F401  a missing package is not a fault of the files

        from vadprep.video import count_frames

        count = with_progress(count_frames, len(manifest.videos))
    warn(manifest)
    found = check_files(manifest, root, count)
    show_files(found)
    sys.exit(1 if any(found[each] for each in found if each != "extra") else 0)


def with_progress(count: Callable[[Path], int], total: int) -> Callable[[Path], int]:
    """``count``, which also prints every ten seconds how many of ``total`` videos it has seen."""
    calls, shown = 0, time.monotonic()

    def counted(path: Path) -> int:
        nonlocal calls, shown
        calls += 1
        if time.monotonic() - shown >= SHOWN_SECONDS:
            shown = time.monotonic()
            click.echo(f"decoding {calls:,} of {total:,} videos", err=True)
        return count(path)

    return counted


def show_files(found: dict[str, list[str]]) -> None:
    """Print what ``datasets check`` found, list by list."""
    for heading, lines in found.items():
        click.echo(f"{heading}: {len(lines):,}")
        show_list(f"  {heading}", lines)


# ---------------------------------------------------------------- presets

OVERVIEW = {
    "graph": "graph", "fps": "fps", "resize": "resize", "filter": "filter", "crops": "crops",
    "crop_order": "order", "crop_size": "size", "scaling": "scaling", "clip_length": "clip",
    "tail": "tail",
}  # fmt: skip
"""Fields of a preset that the overview shows, and their headings."""


@command("presets", example="vadprep presets i3d")
@click.argument("name", type=click.Choice(list(PRESETS)), required=False, metavar="[NAME]")
def presets(name: str | None) -> None:
    """Named settings for features, with the source of each value.

    With NAME: every setting of this preset, and what its authors did not publish.
    """
    if name is None:
        show([("preset", "streams", *OVERVIEW.values(), "source"), *map(_overview, PRESETS)])
        click.echo("vadprep presets NAME: the source of each value, and what is not known")
        return
    preset = PRESETS[name]
    settings = preset.settings
    if preset.has_flow:
        settings = {**settings, **FLOW, "flow": ("tvl1", FLOW["flow"][1])}
    rows: list[Cells] = [("field", name, "source"), ("streams", ",".join(preset.streams), "")]
    rows += [(field, value, source) for field, (value, source) in settings.items()]
    show(rows + [("unknown", "", each) for each in preset.open_questions])


def _overview(name: str) -> Cells:
    preset = PRESETS[name]
    values = (preset.settings[field][0] for field in OVERVIEW)
    return name, ",".join(preset.streams), *values, preset.origin


# ---------------------------------------------------------------- flat ground truth

READING_HELP = "How the intervals are read: [start, stop), [start, stop], or counted from 1."
LIST_HELP = (
    "Text file with one video id or file name on each line: the order of the videos. "
    "Default: split test of the manifest."
)


@group("gt", example="vadprep gt check gt-ucf.npy --dataset ucf")
def gt() -> None:
    """Build or check flat frame-level ground truth."""


@gt.command("build", example="vadprep gt build --dataset ucf --rule scored --out gt.npy")
@manifest_options
@click.option("--rule", type=click.Choice(RULES), required=True, help="Length of each video.")
@click.option(
    "--intervals", "reading", type=click.Choice(list(READINGS)), default="half-open",
    show_default=True, help=READING_HELP,
)  # fmt: skip
@click.option("--features", type=FEATURES, help="Feature folder, for rule spans and lengths.")
@click.option("--split", default="test", show_default=True, help="Split of the manifest.")
@click.option("--out", type=FILE, default=Path("gt.npy"), show_default=True, help="New file.")
def gt_build(
    rule: str, reading: str, features: Path | None, split: str, out: Path, **options: Any
) -> None:
    """Write a file with one label for each frame.

    Beside FILE.npy it writes FILE.npy.csv with the first and last frame of each video.
    """
    manifest, _ = chosen_manifest(options)
    if rule == "spans" and features is None:
        raise click.UsageError("--rule spans needs --features")
    if out.suffix != ".npy":
        raise click.UsageError(f"--out {out}: a file of labels ends in .npy")
    with open_features(features) if features else nullcontext() as decoded:
        truth = build_ground_truth(manifest, rule, split, reading, decoded)
    write_truth(out, truth)
    anomalous = int(truth.labels.sum())
    click.echo(
        f"{out}: {len(truth.labels):,} labels, {anomalous:,} anomalous; "
        f"frames of each video: {_csv(out)}"
    )


def _csv(path: Path) -> Path:
    """``gt.npy.csv``: gt.csv may be the manifest."""
    return path.with_name(f"{path.name}.csv")


def write_truth(path: Path, truth: FlatTruth) -> None:
    """Write the labels, and beside them ``video_id, start, stop`` of each video."""
    stops = np.cumsum([0, *truth.lengths]).tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("video_id", "start", "stop"))
    table.writerows(zip(truth.video_ids, stops, stops[1:], strict=False))
    with open_atomic(_csv(path)) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
    with open_atomic(path) as stream:
        np.save(stream, truth.labels)


@gt.command("check", example="vadprep gt check gt-ucf.npy --dataset ucf")
@click.argument("path", type=FILE)
@manifest_options
@click.option("--list", "order", type=FILE, help=LIST_HELP)
@click.option("--features", type=FEATURES, help="Feature folder with spans, lengths and rates.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every video.")
def gt_check(
    path: Path, order: Path | None, features: Path | None, as_json: bool, **options: Any
) -> None:
    """Find the length rule of a file of labels.

    Also lists the videos whose labels differ from the manifest.
    """
    manifest, _ = chosen_manifest(options)
    ids = listed_ids(order) if order else None
    with open_features(features) if features else nullcontext() as decoded:
        found = check_ground_truth(read_ground_truth(path), manifest, ids, decoded)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        show_truth(found)
    sys.exit(0 if found.is_sound else 1)


def listed_ids(path: Path) -> list[str]:
    """Ids in a list file, without folders, suffix and crop number; each once, in order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    names = (Path(line.strip()).name for line in lines if line.strip())
    ids = (re.sub(r"(__\d+)?(_i3d)?\.(npy|mp4|avi|txt)$", "", name) for name in names)
    return list(dict.fromkeys(ids))


def show_truth(found: Check) -> None:
    """Print the verdict, and the videos whose labels differ from the manifest."""
    for line in verdict(found):
        click.echo(line)
    if odd := found.odd:
        cells = [(each.video_id, each.start, each.length, each.wrong) for each in odd]
        show([("video", "start", "length", "wrong labels"), *cells[:MOST_LISTED]])
        if len(odd) > MOST_LISTED:
            click.echo(f"and {len(odd) - MOST_LISTED} more videos: use --json to see all")


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
