"""Commands on models: train, score, eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vadprep import tables
from vadprep.options import FOLDER, arguments, chosen_manifest, manifest_options


@click.command()
@click.argument("head", type=click.Choice(["ddl"]))
@manifest_options
@click.option("--features", type=FOLDER, help="Feature folder. [features/NAME]")
@click.option("--out", type=FOLDER, help="Run folder. [runs/HEAD-NAME]")
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or concat.")
@click.option("--seeds", help="One run each, such as 0,1,2. [the published seed]")
@click.option("--device", help="cpu or cuda. [cuda, if any]")
@click.option("--control", is_flag=True, help="Train on shuffled labels: must come out at 0.5.")
@click.option("--resume", is_flag=True, help="Go on from the last full epoch.")
@click.option("--allow-missing", is_flag=True, help="Go on without videos that have no features.")
def train(
    head: str,
    features: Path | None,
    out: Path | None,
    seeds: str | None,
    device: str | None,
    **options: Any,
) -> None:
    """Features -> a trained head, its test scores, and figures."""
    import torch

    from vadprep.features import open_features
    from vadprep.report import figure_rows
    from vadprep.signals import stop_on_signals
    from vadprep.train import TrainConfig
    from vadprep.train import train as train_head

    manifest, name = chosen_manifest(options)
    with arguments():
        config = TrainConfig(
            head=head,
            dataset=name,
            seeds=parsed_seeds(seeds),
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            **options,
        )
    out = out or Path("runs") / f"{head}-{name}"
    with open_features(features or Path("features") / name) as found, stop_on_signals():
        report = train_head(found, manifest, config, out)
    columns = {f"seed {seed}": each.figures for seed, each in report.by_seed.items()}
    if len(columns) > 1:
        columns |= {"mean": report.mean(), "spread": report.spread()}
    show_origin(out, report.control, [spec.weights for spec in found.specs.values()])
    tables.show(figure_rows(columns, next(iter(report.by_seed.values())).reasons))
    click.echo(f"{len(report.by_seed)} run(s) in {out}, last step, percent")


def parsed_seeds(text: str | None) -> tuple[int, ...]:
    """``0,1,2`` as whole numbers."""
    try:
        return tuple(int(each) for each in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def show_origin(run: Path, control: bool, weights: list[str]) -> None:
    """Say what figures must not be taken for: random features, shuffled labels."""
    for name in weights:
        if name.startswith("random:"):
            click.echo(f"{run}: features of weights {name}, which were NEVER TRAINED")
    if control:
        click.echo(f"{run}: CONTROL on shuffled labels, not a detector")


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--features", type=FOLDER, required=True, help="Feature folder.")
@click.option("--out", type=FOLDER, help="Folder of the scores. [RUN/scores]")
@click.option("--no-plots", is_flag=True, help="Write the scores only.")
def score(run: Path, features: Path, out: Path | None, no_plots: bool) -> None:
    """Features -> snippet scores and a plot of every video."""
    from vadprep.checkpoint import load_run
    from vadprep.features import open_features
    from vadprep.files import make_folder
    from vadprep.score import score_features, write_scores

    loaded, out = load_run(run), out or run / "scores"
    with open_features(features) as found:
        show_origin(run, loaded.control, [spec.weights for spec in found.specs.values()])
        scores = score_features(loaded, found)
        make_folder(out)
        write_scores(out / "scores.h5", scores, {"checkpoint": str(run)})
        if not no_plots:
            plot_all(out, scores)
    click.echo(f"{len(scores)} videos scored in {out / 'scores.h5'}")


def plot_all(out: Path, scores: Any) -> None:
    """One PNG a video; file names are numbers, since ids are not safe as names."""
    from vadprep.report import plot_scores

    for index, (video_id, each) in enumerate(scores.items()):
        path = out / f"{index:06d}.png"
        plot_scores(path, video_id, each.frames(), None, each.fps or 0.0)


@click.command("eval")
@click.argument("run", type=FOLDER)
@manifest_options
@click.option("--coverage", type=click.Choice(["cut", "hold"]), default="cut", show_default=True)
def evaluate(run: Path, coverage: str, **options: Any) -> None:
    """The figures of a run, from its test scores and a manifest."""
    from vadprep.report import figure_rows
    from vadprep.score import evaluate_scores, read_scores

    manifest, _ = chosen_manifest(options)
    folders = sorted(run.glob("seed-*")) or [run]
    columns, reasons = {}, {}
    for folder in folders:
        metrics = evaluate_scores(read_scores(folder / "scores-last.h5"), manifest, coverage)
        columns[folder.name], reasons = metrics.figures, dict(metrics.reasons)
    tables.show(figure_rows(columns, reasons))
