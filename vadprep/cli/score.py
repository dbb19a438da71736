"""Command score: videos or features -> scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from vadprep.cli.help import advanced, command
from vadprep.cli.options import FEATURES, FOLDER, PATH
from vadprep.cli.text import MOST_LISTED, Cells, show, show_caution
from vadprep.core.presets import PRESETS
from vadprep.evaluation.metrics import ALARM

PRESET_HELP = "Preset for the settings that are unknown of imported features."
SHARE = click.FloatRange(0, 1)
THRESHOLD_HELP = "A frame with this score or more is an alarm."


@command("score", example="vadprep score runs/ddl-xd clip.mp4")
@click.argument("run", type=FOLDER)
@click.argument("videos", type=PATH, nargs=-1, metavar="[VIDEO]...")
@click.option("--features", type=FEATURES, help="Score this feature folder instead of videos.")
@click.option("--weights", help="Weights of the network, if they are not fetched.")
@advanced("--flow-weights", help="Weights of the network of stream flow.")
@advanced("--preset", type=click.Choice(list(PRESETS)), metavar="NAME", help=PRESET_HELP)
@click.option("--threshold", type=SHARE, default=ALARM, show_default=True, help=THRESHOLD_HELP)
@click.option("--out", type=FOLDER, help="Folder of the scores. Default: RUN/scores.")
@click.option("--no-plots", is_flag=True, help="Write scores without plots.")
def score(
    run: Path,
    videos: tuple[Path, ...],
    features: Path | None,
    preset: str | None,
    threshold: float,
    out: Path | None,
    no_plots: bool,
    **weights: str | None,
) -> None:
    """Score videos or features with a run; list alarms, draw plots.

    VIDEO is a video file or a folder of videos.
    """
    import vadprep
    from vadprep.cli.progress import shown_progress
    from vadprep.core.atomic import make_folder
    from vadprep.evaluation.alarms import write_alarms
    from vadprep.evaluation.scores import write_scores
    from vadprep.features import open_features
    from vadprep.training.checkpoint import load_run

    if (features is None) == (not videos):
        raise click.UsageError("name what to score by one of --features and VIDEO ...")
    if any(weights.values()) and not videos:
        raise click.UsageError("--weights goes with VIDEO ...: features have theirs behind them")
    checkpoints, out = load_run(run), out or run / "scores"
    with (
        shown_progress() as progress,
        open_features(features) if features else nullcontext(videos) as source,
    ):
        scores = vadprep.score(
            checkpoints,
            source,
            out=out / "features",
            preset=preset,
            on_report=progress,
            **weights,
        )
    show_caution(run, scores.origin.caution())
    count = len(scores) + len(scores.missing)
    if not scores:
        raise click.ClickException(f"none of {count} videos could be scored: {out} is as it was")
    make_folder(out)
    write_scores(out / "scores.h5", scores, scores.origin, str(run))
    head, filled = checkpoints[0].head_name, dict(scores.from_preset)
    about = {"run": str(run), "head": head, "taken_from_preset": filled}
    high = write_alarms(out, scores, threshold, scores.origin, about, not no_plots)
    show_alarms(high, threshold)
    scored = f"{len(scores)} of {count}" if scores.missing else count
    noun = "video" if count == 1 else "videos"
    click.echo(f"{scored} {noun} scored in {out}: scores.json, scores.h5, a CSV a video")
    if scores.missing:
        sys.exit(1)


def show_alarms(high: Mapping[str, Sequence[Mapping[str, Any]]], threshold: float) -> None:
    """Print the first videos with their alarms."""
    rows: list[Cells] = [("video", "alarms", f"where the score is {threshold:g} or more")]
    for video_id, found in list(high.items())[:MOST_LISTED]:
        shown = ", ".join(map(_interval, found[:MOST_ALARMS]))
        more = f" and {len(found) - MOST_ALARMS} more" if len(found) > MOST_ALARMS else ""
        rows.append((video_id, len(found), (shown or "-") + more))
    show(rows)
    if len(high) > MOST_LISTED:
        click.echo(f"and {len(high) - MOST_LISTED} more videos")


MOST_ALARMS = 3
"""Alarms of a video that are printed."""


def _interval(alarm: Mapping[str, Any]) -> str:
    if alarm["start_seconds"] is None:
        return f"frames {alarm['start_frame']}-{alarm['stop_frame']}"
    return f"{alarm['start_seconds']:.1f}-{alarm['stop_seconds']:.1f} s"
