"""``vadprep score``: scores, alarms and plots of videos or features with a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep import data
from vadprep.cli.evaluate import manifest_of
from vadprep.cli.help import advanced, command
from vadprep.cli.metrics import show_caution
from vadprep.cli.options import (
    FEATURES,
    FOLDER,
    SHARE,
    manifest_options,
    message_options,
    page_option,
)
from vadprep.cli.text import MOST_LISTED, Cells, note, show, shown_progress
from vadprep.core.clips import Clock
from vadprep.core.errors import VadprepError, counted
from vadprep.core.presets import PRESETS
from vadprep.core.records import Interval
from vadprep.evaluation.metrics import ALARM, Truth, compute_metrics
from vadprep.evaluation.scores import Scores, write_scores
from vadprep.evaluation.truth import known_truth, outside_training

PRESET = click.Choice(list(PRESETS))
PRESET_HELP = "Preset for the settings that are unknown of imported features."
THRESHOLD_HELP = "A frame with this score or more is an alarm."
MOST_ALARMS = 3
"""Alarms of a video that are printed."""


@command("score", example="vadprep score runs/ddl-xd clip.mp4")
@click.argument("run", type=FOLDER)
@click.argument("videos", type=click.Path(path_type=Path), nargs=-1, metavar="[VIDEO]...")
@click.option("--features", type=FEATURES, help="Score this feature folder instead of videos.")
@manifest_options
@click.option("--weights", help="Weights of the network, if they are not fetched.")
@advanced("--flow-weights", help="Weights of the network of stream flow.")
@advanced("--preset", type=PRESET, metavar="NAME", help=PRESET_HELP)
@click.option("--threshold", type=SHARE, default=ALARM, show_default=True, help=THRESHOLD_HELP)
@click.option("--out", type=FOLDER, help="Folder of the scores. Default: RUN/scores.")
@click.option("--no-plots", is_flag=True, help="Write scores without plots.")
@page_option
@message_options
def score(
    run: Path, videos: tuple[Path, ...], features: str | None, out: Path | None, **options: Any
) -> None:
    """Score videos or features with a run; list alarms, draw plots.

    VIDEO is a video file or a folder of videos. Ids and ground truth are those of --dataset or
    --manifest; by default of the manifest of the run.
    """
    from vadprep.core.atomic import make_folder
    from vadprep.evaluation.plots import write_alarms
    from vadprep.training.checkpoint import load_run

    if (features is None) == (not videos):
        raise click.UsageError("name what to score by one of --features and VIDEO ...")
    if (options["weights"] or options["flow_weights"]) and not videos:
        raise click.UsageError("--weights goes with VIDEO ...: features have theirs behind them")
    threshold, with_plots = options.pop("threshold"), not options.pop("no_plots")
    checkpoints, out = load_run(run), out or run / "scores"
    page = options.pop("page") or out / "page"
    named = {name: options.pop(name) for name in ("dataset", "manifest", "split_file")}
    is_named, manifest, truth = any(named.values()), None, dict[str, Truth]()
    with optional_unless(is_named):
        manifest = manifest_of(run, named)
    opened = vadprep.open_features(features) if features else nullcontext(videos)
    with shown_progress() as progress, opened as source:
        options |= {"out": out / "features", "on_report": progress, "manifest": manifest}
        scores = vadprep.score(checkpoints, source, **options)
    show_caution(run, scores.origin.caution())
    count = len(scores) + len(scores.missing)
    if not scores:
        raise click.ClickException(
            f"none of {counted(count, 'video')} could be scored: {out} is as it was"
        )
    with optional_unless(is_named):
        truth = known_truth(scores, manifest) if manifest else {}
    make_folder(out)
    write_scores(out / "scores.h5", scores, scores.origin, str(run))
    head, filled = checkpoints[0].head_name, dict(scores.from_preset)
    about = {"run": str(run), "head": head, "taken_from_preset": filled}
    high = write_alarms(out, scores, threshold, about, with_plots, truth)
    show_alarms(high, scores, truth, threshold)
    if manifest:
        show_auc(scores, truth, manifest)
    if str(page) != "none":
        rows = manifest if truth else None
        index = vadprep.report(
            out / "scores.h5", out=page, videos=videos, manifest=rows, threshold=threshold
        )
        click.echo(f"Look at the scores in a browser: {index}")
    scored = f"{len(scores)} of " * bool(scores.missing) + counted(count, "video")
    click.echo(f"{scored} scored in {out}: scores.json, scores.h5, a CSV a video")
    sys.exit(1 if scores.missing else 0)


@contextmanager
def optional_unless(is_named: bool) -> Iterator[None]:
    """Ground truth that nobody named may be missing: a note says why."""
    try:
        yield
    except VadprepError as error:
        if is_named:
            raise
        note(f"note: no ground truth: {error}")


def show_auc(scores: Scores, truth: Mapping[str, Truth], manifest: data.Manifest) -> None:
    """Print the AUC over the frames with known ground truth, without split train."""
    if not {video.video_id for video in manifest.videos} & scores.keys():
        note(f"note: no ground truth: none of the videos is in {manifest.path}")
    tested = outside_training(truth, manifest.videos)
    tested = {name: each for name, each in tested.items() if each.intervals is not None}
    auc = compute_metrics({name: scores[name] for name in tested}, tested).values["frame_auc"]
    if auc is not None:
        click.echo(
            f"frame_auc {auc:.4f} over {counted(len(tested), 'video')} with ground truth in "
            f"{manifest.path.name}, those of split train left out"
        )


def show_alarms(
    alarms: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Scores,
    truth: Mapping[str, Truth],
    threshold: float,
) -> None:
    """Print the alarms of the first videos, beside the ground truth where that of any is known."""
    table: list[Cells] = [("video", "alarms", f"score {threshold:g} or more", "ground truth")]
    for video_id, found in list(alarms.items())[:MOST_LISTED]:
        spans = [(each["start_frame"], each["stop_frame"]) for each in found]
        known, clock, shown = truth.get(video_id), scores[video_id].clock, "-"
        if known and known.label is not None:
            words = "abnormal" if known.label else "normal"
            shown = shown_spans(known.intervals or (), clock, words)
        table.append((video_id, len(found), shown_spans(spans, clock), shown))
    show(table if truth else [row[:3] for row in table])
    if len(alarms) > MOST_LISTED:
        click.echo(f"and {counted(len(alarms) - MOST_LISTED, 'more video')}")


def shown_spans(spans: Sequence[Interval], clock: Clock | None, none: str = "-") -> str:
    """The first of ``spans`` in seconds, in frames where the rate is unknown; ``none`` for none."""
    shown = [
        f"{clock.seconds(a):.1f}-{clock.seconds(b):.1f} s" if clock else f"frames {a}-{b}"
        for a, b in spans[:MOST_ALARMS]
    ]
    more = f" and {len(spans) - MOST_ALARMS} more" if len(spans) > MOST_ALARMS else ""
    return (", ".join(shown) or none) + more
