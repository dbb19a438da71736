"""Commands on models: train, score, eval."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vadprep import tables
from vadprep.datasets import videos_in
from vadprep.manifest import Manifest
from vadprep.options import (
    FEATURES,
    FOLDER,
    arguments,
    chosen_manifest,
    dataset_here,
    manifest_options,
    manifest_source,
)
from vadprep.records import CheckpointError, Video
from vadprep.spec import COMPUTED, NO_FLOW, PRESETS, UNKNOWN, Spec

if TYPE_CHECKING:
    from vadprep.checkpoint import Origin, Run
    from vadprep.metrics import VideoScores
    from vadprep.settings import Settings

HEAD_NAMES = ("sultani", "rtfm", "arnet", "csltal", "ddl")
"""As in ``mil.HEADS``, which needs torch."""
SCHEDULES = ("published", "small")
"""As in ``mil.SCHEDULES``."""
SOURCES = click.Path(path_type=Path, exists=True)
SET_HELP = "A setting of the head instead of the published one."
VALIDATION_HELP = "Share of the training videos to choose an epoch by. [0: none]"
CONTROL_HELP = "Train on shuffled labels: about 0.5 in the mean over many seeds."
GO_ON = "every full epoch is saved, go on with --resume"


@click.command()
@click.argument("head", type=click.Choice(HEAD_NAMES))
@manifest_options
@click.option("--features", type=FEATURES, help="Feature folder. [features/NAME]")
@click.option("--out", type=FOLDER, help="Run folder. [runs/HEAD-NAME]")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat.")
@click.option("--seeds", help="One run each, such as 0,1,2. [the published seed]")
@click.option("--device", help="cpu or cuda. [cuda, if any]")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="published", show_default=True)
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@click.option("--validation", type=float, default=0.0, help=VALIDATION_HELP)
@click.option("--control", is_flag=True, help=CONTROL_HELP)
@click.option("--resume", is_flag=True, help="Go on from the last full epoch.")
@click.option("--allow-missing", is_flag=True, help="Go on without videos that have no features.")
def train(
    head: str,
    features: Path | None,
    out: Path | None,
    seeds: str | None,
    device: str | None,
    changes: tuple[str, ...],
    **options: Any,
) -> None:
    """Features -> a trained head, its test scores, and figures."""
    import torch

    from vadprep.features import open_features
    from vadprep.logs import shown_epochs
    from vadprep.report import figure_rows
    from vadprep.signals import stop_on_signals
    from vadprep.train import TrainConfig
    from vadprep.train import train as train_head

    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    source = manifest_source(options)
    manifest, name = chosen_manifest(options)
    with arguments():
        config = TrainConfig(
            head=head,
            dataset=name,
            source=source,
            seeds=parsed_seeds(seeds),
            changes=parsed_changes(changes),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            **options,
        )
    out = out or Path("runs") / f"{head}-{name}"
    with (
        open_features(features or Path("features") / name) as found,
        stop_on_signals(GO_ON),
        shown_epochs(),
    ):
        report = train_head(found, manifest, config, out)
    show_origin(out, report.origin)
    tables.show(figure_rows(report.columns(), next(iter(report.by_seed.values())).reasons))
    click.echo(
        f"{len(report.by_seed)} run(s) in {out}, settings {report.settings}, percent; "
        f"what is best on test was chosen on test: optimistic"
    )


def parsed_changes(texts: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as values: numbers, true, false and null as in JSON, else text."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text}: expected FIELD=VALUE")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def parsed_seeds(text: str | None) -> tuple[int, ...]:
    """``0,1,2`` as whole numbers."""
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def show_origin(run: Path, origin: Origin) -> None:
    """Say what figures and scores must not be taken for."""
    if origin.caution():
        click.echo(f"{run}: {origin.caution()}")


# ---------------------------------------------------------------- score


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("videos", type=SOURCES, nargs=-1, metavar="[VIDEO]...")
@click.option("--features", type=FEATURES, help="Feature folder, instead of videos.")
@click.option("--weights", help="For videos: the weights file that the run's features are of.")
@click.option("--flow-weights", help="For videos: that of the run's stream flow.")
@click.option("--out", type=FOLDER, help="Folder of the scores. [RUN/scores]")
@click.option("--no-plots", is_flag=True, help="Write the scores only.")
def score(
    run: Path,
    videos: tuple[Path, ...],
    features: Path | None,
    out: Path | None,
    no_plots: bool,
    **weights: str | None,
) -> None:
    """Features or videos -> snippet scores and a plot of every video."""
    from vadprep.checkpoint import load_run
    from vadprep.features import open_features
    from vadprep.files import make_folder
    from vadprep.score import score_features, write_scores

    if (features is None) == (not videos):
        raise click.UsageError("name what to score by one of --features and VIDEO ...")
    if any(weights.values()) and not videos:
        raise click.UsageError("--weights goes with VIDEO ...: features have theirs behind them")
    loaded, out = load_run(run), out or run / "scores"
    show_origin(run, loaded.origin)
    manifest = listed_videos(videos) if videos else None
    if manifest:
        features = out / "features"
        extract_as(loaded, manifest, features, weights)
    with open_features(features or Path()) as found:
        ids = [each.video_id for each in manifest.videos] if manifest else list(found)
        scores = score_features(loaded, found, [each for each in ids if each in found])
    make_folder(out)
    write_scores(out / "scores.h5", scores, loaded.origin, str(run))
    if not no_plots:
        plot_all(out, scores, loaded.origin.caution())
    click.echo(f"{len(scores)} videos scored in {out / 'scores.h5'}")
    if len(scores) < len(ids):
        sys.exit(1)


def listed_videos(sources: Sequence[Path]) -> Manifest:
    """The videos in files and folders, each once. Ids are absolute paths: names may repeat."""
    paths: list[str] = []
    for source in map(os.path.abspath, sources):
        inside = videos_in(source).videos if os.path.isdir(source) else ()
        found = [os.path.normpath(os.path.join(source, video.path)) for video in inside]
        paths += found or [source]
    videos = (Video(video_id=path, path=path) for path in dict.fromkeys(paths))
    return Manifest(Path("VIDEO"), tuple(videos))


def extract_as(run: Run, manifest: Manifest, out: Path, weights: Mapping[str, str | None]) -> None:
    """Extract ``manifest`` into ``out`` with the settings that ``run`` was trained on.

    ``weights`` are the options ``weights`` and ``flow_weights``. Prints the videos that failed.
    Raises CheckpointError, before anything is decoded, for settings that cannot be repeated and
    for other weights.
    """
    from vadprep.checkpoint import check_features
    from vadprep.progress import shown_progress
    from vadprep.runner import extract_dataset, settle_specs
    from vadprep.status import status

    settings = settings_of(run.specs, weights)
    specs = {spec.stream: spec for spec in settle_specs(out, settings)}
    check_features(run, specs, "extracting for the run")
    with shown_progress() as progress:
        folder, *_ = extract_dataset(manifest, Path(), out, settings, progress, retry_failed=True)
    asked = {video.video_id for video in manifest.videos}
    for row in status(folder).failed:
        if row.video_id in asked:
            click.echo(f"failed: {tables.printable(f'{row.video_id}: {row.reason}')}", err=True)


def settings_of(specs: Mapping[str, Spec], weights: Mapping[str, str | None]) -> Settings:
    """Settings that extract with ``specs`` (by stream), every field of them by name.

    Raises CheckpointError for specs that cannot be extracted with again, UsageError without
    weights.
    """
    import torch

    from vadprep.settings import SETTABLE, SETTABLE_FLOW, Settings

    overrides: dict[str, Any] = {}
    for stream, spec in specs.items():
        check_repeatable(spec)
        fields = (*SETTABLE, *SETTABLE_FLOW) if stream == "flow" else SETTABLE
        values = {name: getattr(spec, name) for name in fields}
        differ = [name for name in values if overrides.get(name, values[name]) != values[name]]
        if differ:
            raise CheckpointError(
                f"the run's streams differ in {', '.join(differ)}, so that they cannot be "
                "extracted together: name features by --features"
            )
        overrides |= values
    with arguments():
        return Settings(
            weights=named_weights("rgb", specs, weights["weights"]),
            flow_weights=named_weights("flow", specs, weights["flow_weights"]),
            streams=tuple(specs),
            preset=next(iter(specs.values())).preset,
            overrides=overrides,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )


def check_repeatable(spec: Spec) -> None:
    """Raise CheckpointError for a spec that no extraction from videos alone can have."""
    unknown = [name for name, value in spec.identity().items() if value == UNKNOWN]
    odd = []
    if unknown or spec.preset not in PRESETS:
        odd.append(f"preset {spec.preset}, unknown: {', '.join(unknown) or 'nothing'}")
    if spec.flow_source not in (NO_FLOW, COMPUTED, UNKNOWN):
        odd.append(f"flow was read from {spec.flow_source}")
    if odd:
        raise CheckpointError(
            f"the features of the run cannot be extracted again ({', '.join(odd)}): name features "
            "by --features"
        )


def named_weights(stream: str, specs: Mapping[str, Spec], weights: str | None) -> str | None:
    """Weights of a stream: those named, else the seed of the run's; UsageError for neither."""
    spec = specs.get(stream)
    if weights or spec is None:
        return weights
    if spec.is_random:
        return spec.weights
    option = "--flow-weights" if stream == "flow" else "--weights"
    raise click.UsageError(f"the run's features are of {spec.weights}: name it by {option}")


def plot_all(out: Path, scores: dict[str, VideoScores], caution: str) -> None:
    """One PNG a video; file names are numbers, since ids are not safe as names."""
    from vadprep.report import plot_scores

    for index, (video_id, each) in enumerate(scores.items()):
        path = out / f"{index:06d}.png"
        plot_scores(path, video_id, each.frames(), None, each.fps or 0.0, caution)


# ---------------------------------------------------------------- eval


@click.command("eval")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=click.Choice(["cut", "hold"]), default="cut", show_default=True)
def evaluate(run: Path, coverage: str, **options: Any) -> None:
    """The figures of a run on its own manifest, or on another."""
    from vadprep.checkpoint import seed_folders
    from vadprep.outcome import with_mean
    from vadprep.report import figure_rows
    from vadprep.score import evaluate_scores, read_origin, read_scores

    folders = list(seed_folders(run).values()) or [run]
    if not (options["dataset"] or options["manifest"]):
        options = recorded_source(folders[0]) | {k: v for k, v in options.items() if v}
    manifest, _ = chosen_manifest(options)
    show_origin(run, read_origin(folders[0] / "scores-last.h5"))  # all seeds have the same
    columns: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for folder in folders:
        metrics = evaluate_scores(read_scores(folder / "scores-last.h5"), manifest, coverage)
        columns[folder.name] = metrics.figures
        reasons |= metrics.reasons
    tables.show(figure_rows(with_mean(columns), reasons))


def recorded_source(run: Path) -> dict[str, Any]:
    """The manifest options that a run was trained with.

    Raises CheckpointError when they are not recorded, or the manifest is not there any more.
    """
    from vadprep.checkpoint import read_json

    source = read_json(run / "config.json").get("source", {})
    if not source:
        raise CheckpointError(f"{run / 'config.json'}: names no manifest: name it by --manifest")
    manifest = source.get("manifest")
    if manifest and not Path(manifest).is_file():
        raise CheckpointError(
            f"{manifest}: the manifest of {run} is not there any more: name it by --manifest"
        )
    found = {name: source.get(name) for name in ("dataset", "split_file")}
    return found | {"manifest": Path(manifest) if manifest else None}
