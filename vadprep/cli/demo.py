"""``vadprep demo``: the full pipeline on a small synthetic data set.

The order is videos, features, training of DDL, scores, metrics. Every number shown is computed
here. Labels and intervals of test videos are used by the last step only. Untrained weights are
named. Two controls stand beside the result: the plain difference of consecutive frames, and the
same training on shuffled labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from vadprep.backbones import has_cpu_bf16
from vadprep.cli.demo_scene import write_dataset
from vadprep.cli.help import command
from vadprep.cli.options import FOLDER
from vadprep.cli.text import Cells, duration, show, shown_progress
from vadprep.core.atomic import make_folder, write_json
from vadprep.core.clips import CLIP_LENGTH
from vadprep.core.errors import VadprepError
from vadprep.core.resources import worker_cores
from vadprep.data import Manifest, read_manifest
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.plots import plot_video
from vadprep.evaluation.scores import evaluate, known_intervals, read_scores
from vadprep.extraction import ExtractionPlan, OnReport, resolve_plan, run_plan
from vadprep.features.folder import stream_folders
from vadprep.features.reader import Features, open_features
from vadprep.features.status import stream_status, verify_stream
from vadprep.heads.ddl import DDLConfig
from vadprep.training import TrainingRun, train
from vadprep.video import open_frames

SEEDS = (0, 1, 2)
CONTROL_SEEDS = tuple(range(24))
"""Shuffles of the labels. A network that has learnt nothing ranks the few, salient events of the
test split all high or all low: one run alone comes out anywhere from 0.2 to 0.8 (measured)."""

HEAD = DDLConfig(
    epochs=8, batch_size=36, cosine_epochs=8, learning_rate=2e-4, sigma=1.0, kernel=1,
    standardize=True,
)  # fmt: skip
"""DDL as for XD-Violence, but for 36 videos of ten clips: one batch of them all, few epochs, a
prior and a classifier that see fewer neighbours, and standardized features, without which
nothing is learnt from an untrained network. Scene and settings were chosen while looking at the
test splits of this set and of two more (seeds 0 to 2): a demonstration, not a result."""


class Stages:
    """A table of what was done and how long it took, header first."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.rows: list[Cells] = [("stage", "what", "time")]

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time the block. What it appends to the list is shown beside the time."""
        self.say(f"{name} ...")
        start, what = time.perf_counter(), list[str]()
        yield what
        self.rows.append((name, ", ".join(what), duration(time.perf_counter() - start)))


@command("demo", example="vadprep demo --streams rgb,flow")
@click.option(
    "--out",
    type=FOLDER,
    default=Path("vadprep-demo"),
    show_default=True,
    help="Folder of the demo.",
)
@click.option("--streams", default="rgb", show_default=True, help="rgb, flow or rgb,flow.")
@click.option(
    "--weights",
    default="random:0",
    show_default=True,
    help="File, name in vadprep weights list, or random:SEED.",
)
@click.option(
    "--flow-weights", help="Weights of stream flow. Default: --weights if random, else fetched."
)
@click.option(
    "--workers", type=click.IntRange(1), help="Number of workers. Default: one for each core."
)
def demo(
    out: Path, streams: str, weights: str, flow_weights: str | None, workers: int | None
) -> None:
    """Run the full pipeline on a small synthetic data set."""
    plan = resolve_plan(  # wrong settings and weights are reported before anything is made
        out / "features",
        weights=weights,
        flow_weights=flow_weights,
        streams=streams,
        settings={"fps": "native", "precision": "bf16" if has_cpu_bf16() else "fp32"},
        workers=workers or worker_cores(),
    )
    with shown_progress() as progress:
        stages = Stages(progress.say)
        metrics, notes = run_demo(out, plan, progress, stages)
    for rows in (stages.rows, metrics):
        click.echo()
        show(rows)
    click.echo()
    for note in notes:
        click.echo(note)
    click.echo(f"Everything is in {out}: data, features, runs, plots, report.json")


def run_demo(
    out: Path, plan: ExtractionPlan, on_report: OnReport, stages: Stages
) -> tuple[list[Cells], list[str]]:
    """Run the full pipeline in the folder ``out``: a table of metrics, and notes for the reader.

    A second run continues a stopped one. Two streams are trained on side by side. Raises what the
    stages raise, and VadprepError when the features do not verify.
    """
    make_folder(out)
    root, workers = out / "data", plan.workers
    with stages.stage("draw videos") as what:
        is_drawn = (root / "manifest.csv").exists()
        if not is_drawn:
            write_dataset(root, workers=workers)
        manifest = read_manifest(root / "manifest.csv")
        num_videos = len(manifest.videos)
        what += [f"{num_videos} mp4 files", *_from_before(num_videos * is_drawn, num_videos)]
    with stages.stage("extract") as what:
        earlier = stream_folders(out / "features")
        streams = [spec.stream for spec in plan.specs]
        is_new = set(streams) - set(earlier)
        num_done = 0 if is_new else min(stream_status(earlier[each]).done for each in streams)
        folders = run_plan(plan, manifest, root, on_report)
        specs = [folder.spec for folder in folders]
        what += [f"I3D {each.stream}, {each.precision}, weights {each.weights}" for each in specs]
        what.append(f"{workers} workers on Ray" if workers > 1 else "in process")
        what += _from_before(num_done, num_videos)
    with stages.stage("verify") as what:
        for folder in folders:
            found = verify_stream(folder)
            if found.problems:
                raise VadprepError(f"the features do not verify: {found.problems[0]}")
            counts = f"{found.videos} videos, {found.clips} clips, no problem"
            what.append(f"{folder.spec.stream}: {counts}")
    choice = "concat" if len(folders) > 1 else specs[0].stream
    with open_features(out / "features") as features:
        trained = _trained(stages, features, manifest, out / "runs" / f"ddl-{choice}", choice)
        control = _trained(stages, features, manifest, out / "runs" / f"control-{choice}", choice)
        with stages.stage("score and plot") as what:
            difference = difference_scores(features, manifest, root)
            what.append(f"{_plot(out / 'plots', manifest, trained)} plots in {out / 'plots'}")
    baseline = evaluate(difference, manifest=manifest).values["frame_auc"]
    metrics: list[Cells] = [
        ("frame AUC on the test split, last step", "mean", "spread", "runs"),
        ("ddl", *_auc(trained)),
        ("control: ddl on shuffled labels", *_auc(control)),
        ("control: frame difference", baseline, None, None),
    ]
    notes = [
        "The videos are synthetic, and the settings were chosen on sets like this one: the metrics "
        "show that the pipeline works. They say nothing about surveillance video."
    ]
    random = dict.fromkeys(spec.weights for spec in specs if spec.is_random)
    if random:
        notes.append(
            f"The network has weights {', '.join(random)}: it was NEVER TRAINED. "
            "For features to use, give --weights FILE."
        )
    content = {
        "specs": {spec.stream: json.loads(spec.to_json()) for spec in specs},
        "random_weights": bool(random),
        "ddl": trained.as_json(),
        "control_shuffled_labels": control.as_json(),
        "control_frame_difference": {"frame_auc": baseline},
        "stages": [list(row) for row in stages.rows[1:]],
        "notes": notes,
    }
    write_json(out / "report.json", content)
    return metrics, notes


def _from_before(count: int, total: int) -> list[str]:
    """Words on what an earlier run left, so that the time is not taken for that of all."""
    return [f"{count} of {total} were there already"] if count else []


def _trained(
    stages: Stages, features: Features, manifest: Manifest, run: Path, streams: str
) -> TrainingRun:
    control = run.name.startswith("control")
    seeds = CONTROL_SEEDS if control else SEEDS
    with stages.stage("train on shuffled labels" if control else "train ddl") as what:
        num_done = sum((run / f"seed-{seed}" / "metrics.json").exists() for seed in seeds)
        result = train(
            "ddl", features, manifest=manifest, out=run, settings=HEAD, streams=streams,
            seeds=seeds, control=control, resume=True, snapshots=0, device="cpu",
        )  # fmt: skip
        what += [f"{len(manifest.in_split('train'))} videos", f"{len(seeds)} seeds"]
        what += _from_before(num_done, len(seeds))
    return result


def difference_scores(
    features: Features, manifest: Manifest, root: Path
) -> Mapping[str, VideoScores]:
    """The control that needs no learning: mean absolute grey difference of the consecutive frames
    inside each whole clip of a test video. Grey is the mean of the three colours."""
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


def _plot(folder: Path, manifest: Manifest, report: TrainingRun) -> int:
    """One PNG for each test video, scores of the first seed over the shaded ground truth."""
    make_folder(folder)
    scores = read_scores(report.folder / f"seed-{SEEDS[0]}" / "scores-last.h5")
    for video in manifest.in_split("test"):
        found = scores[video.video_id]
        title = "; ".join(filter(None, (video.category, report.origin.caution())))
        path, intervals = folder / f"{video.video_id}.png", known_intervals(video, found)
        plot_video(path, video.video_id, found, intervals, title)
    return len(scores)


def _auc(report: TrainingRun) -> tuple[float | None, float | None, int]:
    return report.mean()["frame_auc"], report.spread()["frame_auc"], len(report.by_seed)
