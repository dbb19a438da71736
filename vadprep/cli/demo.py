"""``vadprep demo``: the full pipeline on a small synthetic data set.

Labels and intervals of test videos are used by the last step only. Two controls stand beside the
result: the plain difference of consecutive frames, and the same training on shuffled labels.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import vadprep
from vadprep.cli.help import command
from vadprep.cli.options import COUNT, FOLDER, page_option
from vadprep.cli.text import Cells, duration, show, shown_progress
from vadprep.core.atomic import write_json
from vadprep.core.errors import VadprepError, counted
from vadprep.core.resources import worker_cores

if TYPE_CHECKING:
    from vadprep.core.spec import Spec
    from vadprep.data import Manifest
    from vadprep.evaluation import VideoScores
    from vadprep.features import Features
    from vadprep.training import TrainingRun

SEEDS = (0, 1, 2)
CONTROL_SEEDS = tuple(range(24))
"""Shuffles of the labels. A network that has learnt nothing ranks the few, salient events of the
test split all high or all low: one run alone comes out anywhere from 0.2 to 0.8 (measured)."""

HEAD = {
    "epochs": 8, "batch_size": 36, "cosine_epochs": 8, "learning_rate": 2e-4, "sigma": 1.0,
    "kernel": 1, "standardize": True,
}  # fmt: skip
"""DDL as for XD-Violence, but for 36 videos of ten clips: one batch of them all, few epochs, a
prior and a classifier that see fewer neighbours, and standardized features, without which
nothing is learnt from an untrained network. Scene and settings were chosen while looking at the
test splits of this set and of two more (seeds 0 to 2): a demonstration, not a result."""

SYNTHETIC = (
    "The videos are synthetic, and the settings were chosen on sets like this one: the metrics "
    "show that the pipeline works. They say nothing about surveillance video."
)
STREAMS = click.Choice(["rgb", "flow", "rgb,flow"])
FLOW_WEIGHTS_HELP = "Weights of stream flow. Default: --weights if random, else fetched."
WEIGHTS_HELP = "File, name in vadprep weights list, or random:SEED."
OUT = Path("vadprep-demo")


@command("demo", example="vadprep demo --streams rgb,flow")
@click.option("--out", type=FOLDER, default=OUT, show_default=True, help="Folder of the demo.")
@click.option("--streams", type=STREAMS, default="rgb", show_default=True, help="Streams.")
@click.option("--weights", default="random:0", show_default=True, help=WEIGHTS_HELP)
@click.option("--flow-weights", help=FLOW_WEIGHTS_HELP)
@click.option("--workers", type=COUNT, help="Number of workers. Default: one for each core.")
@page_option
def demo(out: Path, workers: int | None, page: Path | None, **options: Any) -> None:
    """Run the full pipeline on a small synthetic data set.

    To continue after a stop, run the same command again.
    """
    from vadprep.backbones import has_cpu_bf16
    from vadprep.cli.demo_scene import write_dataset
    from vadprep.extraction.plan import resolve_plan

    logging.getLogger("vadprep").setLevel(logging.WARNING)  # no line for each epoch
    workers, root, runs = workers or worker_cores(), out / "data", {}
    options["settings"] = {"fps": "native", "precision": "bf16" if has_cpu_bf16() else "fp32"}
    resolve_plan(out / "features", workers=workers, **options)  # wrong weights: nothing is made
    stages: list[Cells] = [("stage", "what", "time")]
    with _stage(stages, "draw videos") as what:
        if not (root / "manifest.csv").exists():
            write_dataset(root, workers=workers)
        manifest = vadprep.read_manifest(root / "manifest.csv")
        what.append(f"{len(manifest.videos)} mp4 files")
    with _stage(stages, "extract") as what, shown_progress() as progress:
        features = vadprep.extract(
            manifest, out / "features", root=root, workers=workers, on_report=progress, **options
        )
        specs = features.specs.values()
        what += [f"I3D {each.stream}, {each.precision}, weights {each.weights}" for each in specs]
        what.append(f"{workers} workers on Ray" if workers > 1 else "in process")
    with _stage(stages, "verify") as what:
        for stream, found in vadprep.verify(out / "features").items():
            if found.problems:
                raise VadprepError(f"the features do not verify: {found.problems[0]}")
            what.append(
                f"{stream}: {counted(found.videos, 'video')}, {counted(found.clips, 'clip')}, "
                "no problem"
            )
    streams = "concat" if len(features.streams) > 1 else features.streams[0]
    for name, words, seeds in (
        ("ddl", "train ddl", SEEDS),
        ("control", "train on shuffled labels", CONTROL_SEEDS),
    ):
        with _stage(stages, words) as what:
            runs[name] = vadprep.train(
                "ddl", features, manifest=manifest, out=out / "runs" / f"{name}-{streams}",
                settings=HEAD, streams=streams, seeds=seeds, control=name == "control",
                resume=True, snapshots=0, device="cpu",
            )  # fmt: skip
            what += [f"{len(manifest.in_split('train'))} videos", f"{len(seeds)} seeds"]
    with _stage(stages, "score and plot") as what, features:
        difference = difference_scores(features, manifest, root)
        scores = out / "runs" / f"ddl-{streams}" / f"seed-{SEEDS[0]}" / "scores-last.h5"
        plots = vadprep.plot_scores(scores, out / "plots", manifest=manifest)
        what.append(f"{len(plots)} plots in {out / 'plots'}")
    if str(page) != "none":
        with _stage(stages, "write the page") as what:
            sources = [out / "runs" / f"{name}-{streams}" for name in runs]
            page = vadprep.report(
                sources, out=page or out / "page", videos=root, manifest=manifest, previews="all"
            )
            what.append(str(page))
    baseline = vadprep.evaluate(difference, manifest=manifest).values["frame_auc"]
    show_result(out, stages, runs, baseline, list(specs))
    if str(page) != "none":
        click.echo(f"Look at the scores in a browser: {page}")


def show_result(
    out: Path,
    stages: list[Cells],
    runs: Mapping[str, TrainingRun],
    baseline: float | None,
    specs: Sequence[Spec],
) -> None:
    """Print the stages and the metrics, and write report.json."""
    metrics: list[Cells] = [("frame AUC on the test split, last step", "mean", "spread", "runs")]
    for words, run in (("ddl", runs["ddl"]), ("control: ddl on shuffled labels", runs["control"])):
        auc = run.mean()["frame_auc"], run.spread()["frame_auc"]
        metrics.append((words, *auc, len(run.by_seed)))
    metrics.append(("control: frame difference", baseline, None, None))
    notes, random = [SYNTHETIC], dict.fromkeys(each.weights for each in specs if each.is_random)
    if random:
        notes.append(
            f"The network has weights {', '.join(random)}: it was NEVER TRAINED. "
            "For features to use, give --weights FILE."
        )
    content = {
        "specs": {each.stream: json.loads(each.to_json()) for each in specs},
        "random_weights": bool(random),
        "ddl": runs["ddl"].as_json(),
        "control_shuffled_labels": runs["control"].as_json(),
        "control_frame_difference": {"frame_auc": baseline},
        "stages": [list(row) for row in stages[1:]],
        "notes": notes,
    }
    write_json(out / "report.json", content)
    for rows in (stages, metrics):
        click.echo()
        show(rows)
    for line in ("", *notes, f"Everything is in {out}: data, features, runs, plots, report.json"):
        click.echo(line)


@contextmanager
def _stage(rows: list[Cells], name: str) -> Iterator[list[str]]:
    """Time the block and add a row: its name, what it appends to the list, and its time."""
    click.echo(f"{name} ...", err=True)
    start, what = time.perf_counter(), list[str]()
    yield what
    rows.append((name, ", ".join(what), duration(time.perf_counter() - start)))


def difference_scores(features: Features, manifest: Manifest, root: Path) -> dict[str, VideoScores]:
    """The control that needs no learning: mean absolute grey difference of the consecutive frames
    inside each whole clip of a test video. Grey is the mean of the three colours."""
    import numpy as np

    from vadprep.core.clips import CLIP_LENGTH
    from vadprep.evaluation import VideoScores
    from vadprep.video import open_frames

    scores = {}
    for video in manifest.in_split("test"):
        with open_frames(root / video.path, decoder="pyav") as stream:
            grey = np.concatenate([block.mean(axis=3) for block in stream])
        changes = np.abs(np.diff(grey, axis=0, prepend=grey[:1])).mean(axis=(1, 2))
        whole = changes[: len(changes) // CLIP_LENGTH * CLIP_LENGTH].reshape(-1, CLIP_LENGTH)
        found = features[video.video_id]  # the first change of a clip reaches into the clip before
        scores[video.video_id] = VideoScores(
            whole[:, 1:].mean(axis=1), found.spans, found.num_frames, found.fps
        )
    return scores
