"""Command score: videos or features -> scores."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vadprep.cli.help import advanced, command
from vadprep.cli.options import FEATURES, FOLDER, PATH, argument_errors
from vadprep.cli.text import MOST_LISTED, Cells, show, show_caution
from vadprep.core.errors import CheckpointError
from vadprep.core.presets import PRESETS, fill_unknown
from vadprep.core.records import Video
from vadprep.core.spec import COMPUTED, NO_FLOW, UNKNOWN, Spec
from vadprep.data import Manifest, find_videos
from vadprep.evaluation.metrics import ALARM

if TYPE_CHECKING:
    from vadprep.evaluation.scores import Origin
    from vadprep.features.reader import Features
    from vadprep.training.checkpoint import Checkpoint

PRESET_HELP = "Preset for the settings that are unknown of imported features."
THRESHOLD_HELP = "Least score of a frame that is an alarm."


@command("score", example="vadprep score runs/ddl-xd clip.mp4")
@click.argument("run", type=FOLDER)
@click.argument("videos", type=PATH, nargs=-1, metavar="[VIDEO]...")
@click.option("--features", type=FEATURES, help="Score this feature folder instead of videos.")
@click.option("--weights", help="Weights of the network, if they are not fetched.")
@advanced("--flow-weights", help="Weights of the network of stream flow.")
@advanced("--preset", type=click.Choice(list(PRESETS)), metavar="NAME", help=PRESET_HELP)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=ALARM,
    show_default=True,
    help=THRESHOLD_HELP,
)
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
    from vadprep.core.atomic import make_folder
    from vadprep.evaluation.alarms import write_alarms
    from vadprep.evaluation.scores import write_scores
    from vadprep.features.reader import open_features
    from vadprep.training.checkpoint import load_checkpoint
    from vadprep.training.scoring import score_features

    if (features is None) == (not videos):
        raise click.UsageError("name what to score by one of --features and VIDEO ...")
    if any(weights.values()) and not videos:
        raise click.UsageError("--weights goes with VIDEO ...: features have theirs behind them")
    loaded, out = load_checkpoint(run), out or run / "scores"
    manifest = listed_videos(videos) if videos else None
    if manifest:
        features = out / "features"
        extract_as(loaded, manifest, features, weights, preset)
    with open_features(features or Path()) as found:
        origin, assumed = origin_on(loaded, found, preset)
        show_caution(run, origin.caution())
        ids = [each.video_id for each in manifest.videos] if manifest else list(found)
        there = [each for each in ids if each in found]
        scores = score_features(loaded, found, ids=there, preset=preset)
    if not scores:
        raise click.ClickException(f"none of {len(ids)} videos could be scored: {out} is as it was")
    make_folder(out)
    write_scores(out / "scores.h5", scores, origin, str(run))
    about = {"run": str(run), "head": loaded.head_name, "taken_from_preset": assumed}
    high = write_alarms(out, scores, threshold, origin, about, not no_plots)
    show_alarms(high, threshold)
    count = len(scores) if len(scores) == len(ids) else f"{len(scores)} of {len(ids)}"
    noun = "video" if len(ids) == 1 else "videos"
    click.echo(f"{count} {noun} scored in {out}: scores.json, scores.h5, a CSV a video")
    if len(scores) < len(ids):
        sys.exit(1)


def origin_on(
    run: Checkpoint, features: Features, preset: str | None
) -> tuple[Origin, dict[str, dict[str, Any]]]:
    """What scores of ``run`` on ``features`` come from, and the fields that ``preset`` filled.

    The fields are those that the run's or the others' spec does not tell, by stream. Raises
    UsageError for a preset that fills none.
    """
    if preset is None:
        return run.origin, {}
    weights, assumed = dict(run.origin.weights), dict[str, dict[str, Any]]()
    for stream in run.specs.keys() & features.specs.keys():
        specs = run.specs[stream], features.specs[stream]
        if weights[stream] == UNKNOWN:
            weights[stream] = specs[1].weights
        with argument_errors():
            filled = [(spec, fill_unknown(spec, preset).identity()) for spec in specs]
        assumed[stream] = {
            name: values[name]
            for spec, values in filled
            for name, value in spec.identity().items()
            if value == UNKNOWN != values[name]
        }
    if not any(assumed.values()):
        raise click.UsageError(f"--preset {preset}: nothing is unknown that it could stand for")
    return replace(run.origin, weights=weights, preset=preset), assumed


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


# ---------------------------------------------------------------- videos


def listed_videos(sources: Sequence[Path]) -> Manifest:
    """The videos in files and folders, each once. Ids are absolute paths: names may repeat.

    Raises UsageError for a source that is not there.
    """
    if gone := [str(source) for source in sources if not source.exists()]:
        raise click.UsageError(f"{gone[0]!r} does not exist")
    paths: list[str] = []
    for source in map(os.path.abspath, sources):
        inside = find_videos(source).videos if os.path.isdir(source) else ()
        found = [os.path.normpath(os.path.join(source, video.path)) for video in inside]
        paths += found or [source]
    videos = (Video(video_id=path, path=path) for path in dict.fromkeys(paths))
    return Manifest(Path("VIDEO"), tuple(videos))


def extract_as(
    run: Checkpoint,
    manifest: Manifest,
    out: Path,
    weights: Mapping[str, str | None],
    preset: str | None = None,
) -> None:
    """Extract ``manifest`` into ``out`` with the settings that ``run`` was trained on.

    ``weights`` are the options ``weights`` and ``flow_weights``; ``preset`` stands in for what
    is unknown. Raises CheckpointError, before anything is decoded, for settings that cannot be
    repeated and for other weights.
    """
    import torch

    from vadprep.backbones.graphs import graph_of
    from vadprep.cli.progress import shown_progress
    from vadprep.extraction import resolve_plan, run_plan
    from vadprep.training.checkpoint import check_features

    specs = repeatable_specs(run.specs, weights, preset)
    options: dict[str, Any] = dict(weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = resolve_plan(out, specs=specs, device=device, workers=1, **options)
    made = {spec.stream: spec for spec in plan.specs}
    check_features(run, made, "extracting for the run", preset=preset)
    dims = {spec.graph: graph_of(spec.graph).dim for spec in made.values()}
    if preset and sum(dims.values()) != run.head.dim:
        given = ", ".join(f"{graph} gives {dim}" for graph, dim in dims.items())
        raise CheckpointError(
            f"the run was trained on features of dimension {run.head.dim}, {given}: take a preset "
            "of another network"
        )
    with shown_progress() as progress:
        run_plan(plan, manifest, Path(), progress, retry_failed=True)


def repeatable_specs(
    specs: Mapping[str, Spec], weights: Mapping[str, str | None], preset: str | None = None
) -> dict[str, Spec]:
    """The specs (by stream) that a run's features are extracted with again.

    ``preset`` stands in for unknown fields. Raises CheckpointError for specs that no extraction
    from videos alone can have, UsageError when no weights are named, fetched, or made of a seed.
    """
    from vadprep.backbones.weights.catalog import stored_weights

    if preset:
        with argument_errors():
            specs = {stream: fill_unknown(spec, preset) for stream, spec in specs.items()}
    for stream, spec in specs.items():
        settled = OF_THE_MACHINE if preset else ()
        unknown = [
            name
            for name, value in spec.identity().items()
            if value == UNKNOWN and name not in settled
        ]
        reasons = []
        if unknown or spec.preset not in PRESETS:
            reasons.append(f"preset {spec.preset}, unknown: {', '.join(unknown) or 'nothing'}")
        if spec.flow_source not in (NO_FLOW, COMPUTED, UNKNOWN):
            reasons.append(f"flow was read from {spec.flow_source}")
        if reasons:
            remedy = "take a preset for what is unknown (--preset NAME), or " if unknown else ""
            raise CheckpointError(
                f"the features of the run cannot be extracted again ({', '.join(reasons)}): "
                f"{remedy}name features by --features"
            )
        option = "flow_weights" if stream == "flow" else "weights"
        if not (weights[option] or spec.is_random or stored_weights(spec.graph)):
            named = f"--{option.replace('_', '-')}"
            if spec.weights == UNKNOWN:
                raise click.UsageError(
                    f"nobody knows of which weights the run's features are: {named}"
                )
            raise click.UsageError(f"the run's features are of {spec.weights}: name it by {named}")
    return dict(specs)


OF_THE_MACHINE = ("weights_sha256", "precision", "batch")
"""Fields that no preset holds; unknown, they are what weights and machine are."""
