"""Commands datasets, presets and gt: what there is before videos are decoded."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

import vadprep
from vadprep import data
from vadprep.cli.help import command, group
from vadprep.cli.options import FEATURES, FILE, chosen_manifest, manifest_options, root_option, warn
from vadprep.cli.text import MOST_LISTED, Cells, show, show_list, shown_bar
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import ManifestError, counted
from vadprep.core.preset import FLOW
from vadprep.core.presets import PRESETS
from vadprep.core.untrusted import read_regular


@group("datasets", example="vadprep datasets check ucf --root /data/ucf")
def datasets() -> None:
    """List data sets, show their counts, check the video files."""


@datasets.command("list", example="vadprep datasets list")
def datasets_list() -> None:
    """Names and counts of the included data sets."""
    show(dataset_rows((name, data.load_dataset(name)) for name in data.dataset_names()))


@datasets.command("show", example="vadprep datasets show xd")
@click.argument("name", metavar="NAME|CSV")
def datasets_show(name: str) -> None:
    """Counts of a data set or manifest by split, and warnings about it."""
    manifest = data.named_manifest(name)
    show(dataset_rows([(name, manifest)]))
    warn(manifest)


def dataset_rows(manifests: Iterable[tuple[str, data.Manifest]]) -> list[Cells]:
    """Counts of data sets, a line for each split. What is not public is blank; the anomalous
    frames are among the scored ones."""
    head = ("data set", "split", "videos", "normal", "abnormal", "frames", "scored", "anomalous")
    rows: list[Cells] = [head]
    for name, manifest in manifests:
        rows += [(name, *each) for each in data.summarize(manifest)]
    return rows


@datasets.command("check", example="vadprep datasets check mine.csv --root /data/videos")
@click.argument("name", metavar="NAME|CSV")
@root_option
@click.option("--no-decode", is_flag=True, help="Only look for the files; do not count frames.")
def datasets_check(name: str, root: Path, no_decode: bool) -> None:
    """Find missing, extra and unreadable files of a data set or manifest."""
    manifest = data.named_manifest(name)
    warn(manifest)
    if no_decode:
        found = data.check_files(manifest, root)
    else:
        import av  # noqa: F401  a missing package is not a fault of the files

        from vadprep.video import count_frames

        numbers = itertools.count(1)
        with shown_bar("decoding") as progress:

            def count(path: Path) -> int:
                progress(next(numbers), len(manifest.videos))
                return count_frames(path)

            found = data.check_files(manifest, root, count)
    for heading, lines in found.items():
        click.echo(f"{heading}: {len(lines):,}")
        show_list(f"  {heading}", lines)
    sys.exit(1 if any(found[each] for each in found if each != "extra") else 0)


OVERVIEW = "graph fps resize filter crops crop_order crop_size scaling clip_length tail".split()
"""Fields of a preset that the overview shows."""


@command("presets", example="vadprep presets i3d")
@click.argument("name", type=click.Choice(list(PRESETS)), required=False, metavar="[NAME]")
def presets(name: str | None) -> None:
    """Named settings for features, with the source of each value.

    With NAME: every setting of this preset, and what its authors did not publish.
    """
    if name is None:
        rows: list[Cells] = [("preset", "streams", *OVERVIEW, "source")]
        for key, each in PRESETS.items():
            values = (each.settings[field][0] for field in OVERVIEW)
            rows.append((key, ",".join(each.streams), *values, each.origin))
        show(rows)
        click.echo("vadprep presets NAME: the source of each value, and what is not known")
        return
    preset = PRESETS[name]
    settings = preset.settings
    if preset.has_flow:
        settings = {**settings, **FLOW, "flow": ("tvl1", FLOW["flow"][1])}
    rows = [("field", name, "source"), ("streams", ",".join(preset.streams), "")]
    rows += [(field, value, source) for field, (value, source) in settings.items()]
    rows += [("unknown", "", each) for each in preset.open_questions]
    show([*rows, ("--set", "takes", ", ".join(preset.settable))])


RULE_HELP = (
    "Labels of a video of n frames. frames: n; floor, rtfm: whole clips of 16 below or above; "
    "xdviodet: 16*floor((n-1)/16); scored: the published length; spans: to the end of the features."
)
READING: dict[str, Any] = {"type": click.Choice(list(data.READINGS)), "default": "half-open"}
READING_HELP = "How the intervals are read: [start, stop), [start, stop], or counted from 1."
LIST_HELP = (
    "Text file with one video id or file name on each line: the order of the videos. "
    "Default: split test of the manifest."
)


@group("gt", example="vadprep gt check gt-ucf.npy --dataset ucf")
def gt() -> None:
    """Build or check flat ground truth; write clicked frames."""


@gt.command("build", example="vadprep gt build --dataset ucf --rule scored --out gt.npy")
@manifest_options
@click.option("--rule", type=click.Choice(data.RULES), required=True, help=RULE_HELP)
@click.option("--intervals", "reading", **READING, show_default=True, help=READING_HELP)
@click.option("--features", type=FEATURES, help="Feature folder, for rule spans and lengths.")
@click.option("--split", default="test", show_default=True, help="Split of the manifest.")
@click.option("--out", type=FILE, default=Path("gt.npy"), show_default=True, help="New file.")
def gt_build(
    rule: str, reading: str, features: str | None, split: str, out: Path, **options: Any
) -> None:
    """Write a file with one label for each frame.

    Beside FILE.npy it writes FILE.npy.csv: which labels [start, stop) of the file, counted from 0,
    belong to each video.
    """
    manifest, _ = chosen_manifest(options)
    if rule == "spans" and features is None:
        raise click.UsageError("--rule spans needs --features")
    if out.suffix != ".npy":
        raise click.UsageError(f"--out {out}: a file of labels ends in .npy")
    with vadprep.open_features(features) if features else nullcontext() as decoded:
        truth = data.build_ground_truth(manifest, rule, split, reading, decoded)
    stops = np.cumsum([0, *truth.lengths]).tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("video_id", "start", "stop"))
    table.writerows(zip(truth.video_ids, stops, stops[1:], strict=False))
    frames = out.with_name(f"{out.name}.csv")  # gt.csv may be the manifest
    with open_atomic(frames) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
    with open_atomic(out) as stream:
        np.save(stream, truth.labels)
    counts = f"{len(truth.labels):,} labels, {int(truth.labels.sum()):,} anomalous"
    click.echo(f"{out}: {counts}; frames of each video: {frames}")


@gt.command("check", example="vadprep gt check gt-ucf.npy --dataset ucf")
@click.argument("path", type=FILE)
@manifest_options
@click.option("--list", "order", type=FILE, help=LIST_HELP)
@click.option("--features", type=FEATURES, help="Feature folder with spans, lengths and rates.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every video.")
def gt_check(
    path: Path, order: Path | None, features: str | None, as_json: bool, **options: Any
) -> None:
    """Find the length rule of a file of labels.

    Also lists the videos whose labels differ from the manifest.
    """
    manifest, _ = chosen_manifest(options)
    ids = listed_ids(order) if order else None
    with vadprep.open_features(features) if features else nullcontext() as decoded:
        labels = data.read_ground_truth(path)
        found = data.check_ground_truth(labels, manifest, ids, decoded)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        sys.exit(0 if found.is_sound else 1)
    read = counted(found.num_labels, "label")
    if found.rules:
        rules = f"rule {' or '.join(found.rules)}, intervals {found.reading}"
        click.echo(f"{read} of {counted(len(found.videos), 'video')}: {rules}")
    else:
        totals = ", ".join(f"{rule} {total:,}" for rule, total in found.totals.items())
        click.echo(
            f"{read}: no rule gives this length ({totals}): the file has "
            f"other videos, another order, or several rules. By rule {found.rule} it agrees up to "
            f"the first video below"
        )
    click.echo(f"labels that are not the manifest's: {sum(each.wrong for each in found.videos):,}")
    for category, (lost, total) in found.lost.items():
        whole = "LOST, all" if lost == total else "lost in part,"
        of = counted(total, "video")
        click.echo(f"category {category}: {whole} {lost} of {of} marked normal")
    if odd := found.odd:
        cells = [(each.video_id, each.start, each.length, each.wrong) for each in odd]
        show([("video", "start", "length", "wrong labels"), *cells[:MOST_LISTED]])
        if len(odd) > MOST_LISTED:
            click.echo(
                f"and {counted(len(odd) - MOST_LISTED, 'more video')}: use --json to see all"
            )
    sys.exit(0 if found.is_sound else 1)


@gt.command("glances", example="vadprep gt glances --dataset ucf --clicks clicks.csv --out ucf.csv")
@manifest_options
@click.option("--clicks", type=FILE, help="CSV with the columns video-id,glance: a click a row.")
@click.option("--seed", type=click.IntRange(0), help="Draw a frame of each interval instead.")
@click.option("--out", type=FILE, default=Path("glances.csv"), show_default=True, help="New file.")
def gt_glances(clicks: Path | None, seed: int | None, out: Path, **options: Any) -> None:
    """Write a manifest with a clicked frame of each event.

    They are those of a public file of clicks, or drawn from the intervals.
    """
    if (clicks is None) == (seed is None):
        raise click.UsageError("name one of --clicks and --seed")
    manifest, _ = chosen_manifest(options, with_paths=False)
    if clicks is not None:
        found = data.read_glances(manifest, clicks)
    else:
        found = data.drawn_glances(manifest, seed or 0)
    text = data.manifest_text(data.with_glances(manifest, found))
    with open_atomic(out) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))
    count = sum(len(each) for each in found.values())
    trained = sum(video.video_id in found for video in manifest.in_split("train"))
    share = f"{trained:,} of split train" if trained else "none of split train: nothing to train on"
    click.echo(f"{out}: {counted(count, 'glance')} in {counted(len(found), 'video')}, {share}")


MOST_LIST_BYTES = 1 << 28


def listed_ids(path: Path) -> list[str]:
    """Ids in a list file, without folders, suffix and crop number; each once, in order."""
    try:
        lines = read_regular(path, ManifestError, MOST_LIST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    names = (Path(line.strip()).name for line in lines if line.strip())
    ids = (re.sub(r"(__\d+)?(_i3d)?\.(npy|mp4|avi|txt)$", "", name) for name in names)
    return list(dict.fromkeys(ids))
