"""Commands train, eval, score and recipes: heads on features."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import vadprep
from vadprep import data
from vadprep.cli.config import forgotten_if_empty, write_run
from vadprep.cli.help import advanced, command
from vadprep.cli.options import (
    COUNT,
    FEATURES,
    FILE,
    FOLDER,
    PART,
    SHARE,
    assignments,
    chosen_manifest,
    config_option,
    manifest_options,
    message_options,
    page_option,
)
from vadprep.cli.text import MOST_LISTED, Cells, is_quiet, note, show, shown_progress
from vadprep.core.clips import Clock
from vadprep.core.errors import SettingError, VadprepError, counted
from vadprep.core.presets import PRESETS
from vadprep.core.records import Interval
from vadprep.evaluation.metrics import (
    ALARM,
    LEGEND,
    METRICS,
    SMOOTHED,
    TEMPORAL,
    Truth,
    Values,
    compute_metrics,
    with_mean,
)
from vadprep.evaluation.plots import metric_rows
from vadprep.evaluation.run_files import SCORES, recorded_source, seed_folders
from vadprep.evaluation.scores import Scores, read_scores
from vadprep.evaluation.truth import known_truth, outside_training

HEAD_NAMES = ("sultani", "rtfm", "arnet", "csltal", "ddl", "urdmu", "pel4vad", "vadclip")
"""As in ``heads.HEADS``, which needs torch."""
SCHEDULE = click.Choice(["published", "small"])
"""As in ``heads.SCHEDULES``."""
SCHEDULE_HELP = "small: settings chosen on the training videos, for tens to hundreds of them."
SET_HELP = "A setting in place of the published one (vadprep recipes HEAD). Repeatable."
VALIDATION_HELP = "Share of the training videos, 0 to 1, that chooses an epoch. Default: 0, none."
PROMPTS_HELP = (
    "Prompt embeddings for pel4vad, vadclip: .npz, an array for normal and each category."
)
SMOOTHING_HELP = "Also the metrics of smoothed scores: slide-7, fixed-8. Default: none."
ONLINE_HELP = "Also metrics and delays of scores that see the past alone; needs the features."
WINDOW_HELP = "With --online: snippets that the head sees. Default: as in its training."
CONTROL_HELP = "Train on shuffled labels. The AUC must be about 0.5 in the mean over many seeds."
COVERAGE = click.Choice(["cut", "hold"])
COVERAGE_HELP = (
    "Frames after the last clip: not scored (cut), or the last score (hold). Default: the run's."
)
CONTINUE = "every full epoch is saved, go on with --resume"
PRESET = click.Choice(list(PRESETS))
PRESET_HELP = "Preset for the settings that are unknown of imported features."
THRESHOLD_HELP = "A frame with this score or more is an alarm."
MOST_ALARMS = 3
"""Alarms of a video that are printed."""


@command("train", example="vadprep train ddl --dataset xd --seeds 0,1,2")
@click.argument("head", type=click.Choice(HEAD_NAMES))
@manifest_options
@click.option("--features", type=FEATURES, help="Feature folder. Default: features/NAME.")
@click.option("--out", type=FOLDER, help="Run folder. Default: runs/HEAD-NAME.")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat (both).")
@click.option("--seeds", help="One run for each seed, such as 0,1,2. Default: the published seed.")
@click.option("--device", help="cpu or cuda. Default: cuda if there is a GPU.")
@click.option("--resume", is_flag=True, help="Continue from the last full epoch.")
@advanced("--schedule", type=SCHEDULE, default="published", show_default=True, help=SCHEDULE_HELP)
@advanced("--set", "changes", multiple=True, metavar="FIELD=VALUE", help=SET_HELP)
@advanced("--validation", type=PART, default=0.0, help=VALIDATION_HELP)
@advanced("--prompts", type=FILE, help=PROMPTS_HELP)
@advanced("--control", is_flag=True, help=CONTROL_HELP)
@advanced("--smoothing", default="", metavar="RULE", help=SMOOTHING_HELP)
@advanced("--allow-missing", is_flag=True, help="Train without videos that have no features.")
@config_option
@message_options
def train(
    head: str, features: str | None, out: Path | None, changes: tuple[str, ...], **options: Any
) -> None:
    """Train a head on features; write its test scores and metrics."""
    from vadprep.core.signals import stop_on_signals

    ctx = click.get_current_context()
    if not (options["dataset"] or options["manifest"] or features):
        options["dataset"] = dataset_here()
    options["source"] = named_source(options)
    chosen = {"dataset": options["dataset"]}
    options["manifest"], name = chosen_manifest(options, with_paths=False)
    options["settings"] = {field: parsed(value) for field, value in assignments(changes)}
    options["seeds"] = parsed_seeds(options["seeds"] or "")
    features, out = features or f"features/{name}", out or Path("runs") / f"{head}-{name}"
    options["on_start"] = lambda: write_run(ctx, out, features=features, **chosen)
    with forgotten_if_empty(out), stop_on_signals(CONTINUE):
        report = vadprep.train(head, features, dataset=name, out=out, **options)
    show_caution(out, report.origin.caution())
    show_metrics(report.columns(), report.entries()[0]["undefined"])
    show_protocols(report.protocols())
    count = f"{len(report.by_seed)} run{'s' * (len(report.by_seed) != 1)}"
    click.echo("; ".join(filter(None, (f"{count} in {out}", report.remark()))))
    note(f"settings {report.settings}: {settings_legend(report.settings, name)}")


def parsed_seeds(text: str) -> list[int]:
    """Whole numbers with commas between; none of a blank text."""
    try:
        return [int(each) for each in text.split(",") if text]
    except ValueError:
        raise SettingError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def named_source(options: Mapping[str, Any]) -> dict[str, str]:
    """How config.json names the manifest of ``options``: names that are valid in any folder."""
    source = {name: options[name] for name in ("dataset", "manifest", "split_file")}
    if source["manifest"]:
        source["manifest"] = source["manifest"].absolute()
    split_file = source["split_file"]
    if split_file and data.split_path(split_file) == Path(split_file):
        source["split_file"] = Path(split_file).absolute()  # not a bundled one
    return {name: str(value) for name, value in source.items() if value}


def settings_legend(settings: str, name: str) -> str:
    """What the words for the settings of a head mean (``HeadKind.settings``), for data ``name``."""
    first, *others = settings.split(", ")
    of = first if first == name else f"{first}, since there are none for {name}"
    small = f"; small: {SCHEDULE_HELP.removeprefix('small: ')}" if "small" in others else ""
    return f"the published ones for {of}{small}"


def dataset_here() -> str:
    """The one included data set with a feature folder in ./features; else UsageError names them."""
    here = [name for name in data.dataset_names() if Path("features", name).is_dir()]
    if len(here) == 1:
        return here[0]
    found = f"are features of {', '.join(here)}" if here else "is no included data set"
    raise click.UsageError(
        f"in ./features there {found}: name the videos by one of --dataset "
        f"({', '.join(here or data.dataset_names())}) and --manifest"
    )


def show_caution(run: Path, caution: str) -> None:
    """Warn of what makes the metrics and scores of a run useless (``Origin.caution``)."""
    if caution:
        click.echo(f"{run}: {caution}")


def show_metrics(columns: Mapping[str, Values], reasons: Mapping[str, str] | None = None) -> None:
    """A table of metrics, and below it the names that do not say what they mean."""
    rows = metric_rows(columns, reasons)
    show(rows)
    shown = {row[0] for row in rows}.union(*(column.split(", ") for column in columns))
    for name, meaning in LEGEND.items():
        if name in shown and not is_quiet():
            click.echo(f"  {name}: {meaning}")


def show_protocols(protocols: Mapping[str, Mapping[str, Values]]) -> None:
    """A table of metrics for each protocol that only one paper uses."""
    for protocol, values in protocols.items():
        told = "a protocol of one paper that compares with nothing above"
        if protocol.startswith(SMOOTHED):
            told = "the same metrics of smoothed scores"
        click.echo(f"{protocol}, {told}:")
        show(metric_rows(values))


def parsed(text: str) -> Any:
    """A number, true, false or null as in JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@command("eval", example="vadprep eval runs/ddl-xd")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=COVERAGE, help=COVERAGE_HELP)
@advanced("--smoothing", default="", metavar="RULE", help=SMOOTHING_HELP)
@click.option("--online", is_flag=True, help=ONLINE_HELP)
@advanced("--features", type=FEATURES, help="With --online: feature folder. Default: the run's.")
@advanced("--window", type=COUNT, help=WINDOW_HELP)
@advanced("--device", help="With --online: cpu or cuda. Default: cpu.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every category.")
@message_options
def evaluate(
    run: Path, coverage: str | None, smoothing: str, online: bool, as_json: bool, **options: Any
) -> None:
    """Compute the metrics of a run, on its own or another manifest.

    With --online also those of scores that see no future, and how late alarms are.
    """
    for_online = {name: options.pop(name) for name in ("features", "window", "device")}
    if online:
        from vadprep.cli.online import show_online

        if smoothing:
            raise click.UsageError("--smoothing sees later clips: it does not go with --online")
        is_own = not any(options[name] for name in ("dataset", "manifest", "split_file"))
        show_online(
            run, manifest_of(run, options), is_own, as_json, coverage=coverage, **for_online
        )
        return
    if any(for_online.values()):
        raise click.UsageError("--features, --window and --device go with --online")
    folders, manifest = list(seed_folders(run).values()) or [run], manifest_of(run, options)
    found = {
        folder: vadprep.evaluate(folder, manifest=manifest, coverage=coverage, smoothing=smoothing)
        for folder in folders
    }
    origins = {folder: read_scores(folder / SCORES).origin for folder in folders}
    if as_json:
        record = {str(f): {**m.as_json(), **origins[f].as_json()} for f, m in found.items()}
        click.echo(json.dumps(record, indent=2))
        return
    show_caution(run, origins[folders[0]].caution())  # all seeds have the same
    reasons = {name: why for metrics in found.values() for name, why in metrics.reasons.items()}
    columns = {folder.name: metrics.values for folder, metrics in found.items()}
    show_metrics(with_mean(columns), reasons)
    protocols: dict[str, dict[str, Values]] = {}
    for folder, metrics in found.items():
        for name, values in metrics.protocols.items():
            protocols.setdefault(name, {})[folder.name] = values
    show_protocols({name: with_mean(columns) for name, columns in protocols.items()})
    for name in sorted(reasons.keys() - {*METRICS, *TEMPORAL}):
        click.echo(f"{name}: {reasons[name]}")


def manifest_of(run: Path, options: dict[str, Any]) -> data.Manifest:
    """The manifest that ``options`` name, else that of the run; the split file likewise."""
    if not (options["dataset"] or options["manifest"]):
        options = recorded_source(run) | {name: v for name, v in options.items() if v}
    return chosen_manifest(options, with_paths=False)[0]


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
    from vadprep.evaluation.scores import write_scores
    from vadprep.training.checkpoint import load_run

    if (features is None) == (not videos):
        raise click.UsageError("name what to score by one of --features and VIDEO ...")
    if (options["weights"] or options["flow_weights"]) and not videos:
        raise click.UsageError("--weights goes with VIDEO ...: features have theirs behind them")
    threshold, with_plots = options.pop("threshold"), not options.pop("no_plots")
    checkpoints, out = load_run(run), out or run / "scores"
    page = options.pop("page") or out / "page"
    source_of_truth = {name: options.pop(name) for name in ("dataset", "manifest", "split_file")}
    is_named, manifest = any(source_of_truth.values()), None
    try:
        manifest = manifest_of(run, source_of_truth)
    except VadprepError as error:
        if is_named:
            raise
        note(f"note: no ground truth: {error}")
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
    truth: dict[str, Truth] = {}
    try:
        if manifest:
            truth = known_truth(scores, manifest)
    except VadprepError as error:
        if is_named:
            raise
        note(f"note: no ground truth: {error}")
    make_folder(out)
    write_scores(out / "scores.h5", scores, scores.origin, str(run))
    head, filled = checkpoints[0].head_name, dict(scores.from_preset)
    about = {"run": str(run), "head": head, "taken_from_preset": filled}
    high = write_alarms(out, scores, threshold, about, with_plots, truth)
    show_alarms(high, scores, truth, threshold)
    if manifest and not {video.video_id for video in manifest.videos} & scores.keys():
        note(f"note: no ground truth: none of the videos is in {manifest.path}")
    tested = outside_training(truth, manifest.videos) if manifest else {}
    tested = {name: each for name, each in tested.items() if each.intervals is not None}
    auc = compute_metrics({name: scores[name] for name in tested}, tested).values["frame_auc"]
    if manifest and auc is not None:
        where = f"{len(tested)} video{'s' * (len(tested) != 1)} with ground truth"
        where += f" in {manifest.path.name}, those of split train left out"
        click.echo(f"frame_auc {auc:.4f} over {where}")
    if str(page) != "none":
        rows = manifest if truth else None
        index = vadprep.report(
            out / "scores.h5", out=page, videos=videos, manifest=rows, threshold=threshold
        )
        click.echo(f"Look at the scores in a browser: {index}")
    scored = f"{len(scores)} of " * bool(scores.missing) + counted(count, "video")
    click.echo(f"{scored} scored in {out}: scores.json, scores.h5, a CSV a video")
    sys.exit(1 if scores.missing else 0)


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


@command("recipes", example="vadprep recipes ddl")
@click.argument("head", required=False)
def recipes(head: str | None) -> None:
    """Published settings and metrics of each head.

    With HEAD: all its settings, which train --set changes.
    """
    if head is None:
        from vadprep.training.recipes import RECIPES, UNITS

        rows = [(f"vadprep train {name} --dataset {on}", *cells) for name, on, *cells in RECIPES]
        show([("command", "features", "published", "others got"), *rows])
        click.echo(f"{UNITS}; vadprep recipes HEAD: its settings")
        return
    from vadprep.heads import head_kind

    published = {name: asdict(config) for name, config in head_kind(head).published.items()}
    names = next(iter(published.values()))
    rows = [(name, *(str(each[name]) for each in published.values())) for name in names]
    show([("setting", *published), *rows])
