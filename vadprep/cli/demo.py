"""The whole line on a small drawn data set: videos -> features -> DDL -> scores -> figures.

Nothing is shown that was not computed here. No label or interval of a test video is used before
the last step; untrained weights are named; and two controls stand beside the result: the plain
difference of consecutive frames, and the same training on shuffled labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadprep.backbones import has_cpu_bf16
from vadprep.backbones.weights.load import RANDOM
from vadprep.cli.demo_scene import frame_difference, write_dataset
from vadprep.cli.demo_scenery import FPS
from vadprep.cli.text import Cells, duration
from vadprep.core.atomic import make_folder, write_json
from vadprep.core.errors import VadprepError
from vadprep.core.spec import Spec
from vadprep.data.manifest import Manifest, read_manifest
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.plots import plot_scores
from vadprep.evaluation.scores import evaluate_scores, known_intervals, read_scores
from vadprep.extraction.config import Settings
from vadprep.extraction.run import Progress, extract_dataset, settle_specs
from vadprep.features.folder import StreamFolder
from vadprep.features.reader import Features, open_features, stream_folders
from vadprep.features.status import status
from vadprep.features.verify import verify
from vadprep.heads.ddl import DDLConfig
from vadprep.training.results import RunReport
from vadprep.training.train import TrainConfig, train
from vadprep.video.decoder import open_frames

SEEDS = (0, 1, 2)
CONTROL_SEEDS = tuple(range(24))
"""Shuffles of the labels. A network that has learnt nothing ranks the few, salient events of the
test split all high or all low: one run alone comes out anywhere from 0.2 to 0.8 (measured)."""

HEAD = DDLConfig(
    epochs=8,
    batch_size=36,
    cosine_epochs=8,
    learning_rate=2e-4,
    sigma=1.0,
    kernel=1,
    standardize=True,
)
"""DDL as for XD-Violence, but for 36 videos of ten clips: one batch of them all, few epochs, a
prior and a classifier that see fewer neighbours, and standardized features, without which
nothing is learnt from an untrained network. Scene and settings were chosen while looking at the
test splits of this set and of two more (seeds 0 to 2): a demonstration, not a result."""

Say = Callable[[str], None]


@dataclass
class Stages:
    """What was done and how long each stage took."""

    say: Say
    rows: list[Cells] = field(default_factory=lambda: [("stage", "what", "time")])

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time the block; what it appends to the list is what the table says of it."""
        self.say(f"{name} ...")
        start, what = time.perf_counter(), list[str]()
        yield what
        self.rows.append((name, ", ".join(what), duration(time.perf_counter() - start)))


@dataclass(frozen=True)
class DemoReport:
    """What the demo found."""

    stages: list[Cells]
    figures: list[Cells]
    notes: tuple[str, ...]


def demo_settings(
    weights: str, flow_weights: str | None, streams: tuple[str, ...], workers: int
) -> Settings:
    """How the demo extracts; raises ValueError for streams or weights that cannot be had."""
    return Settings(
        weights=weights,
        flow_weights=flow_weights,
        streams=streams,
        overrides={"fps": "native", "precision": "bf16" if has_cpu_bf16() else "fp32"},
        workers=workers,
    )


def run_demo(out: Path, settings: Settings, progress: Progress, say: Say) -> DemoReport:
    """Run the whole line in the folder ``out``; a second run goes on where a first was stopped.

    Two streams are trained on side by side. Raises what the stages raise, and VadprepError when
    the features do not verify.
    """
    stages = Stages(say)
    settle_specs(out / "features", settings)  # wrong weights are found out before anything is made
    make_folder(out)
    root, workers = out / "data", settings.workers
    with stages.stage("draw videos") as what:
        is_drawn = (root / "manifest.csv").exists()
        if not is_drawn:
            write_dataset(root, workers=workers)
        manifest = read_manifest(root / "manifest.csv")
        num_videos = len(manifest.videos)
        what += [f"{num_videos} mp4 files", *_there(num_videos * is_drawn, num_videos)]
    for weights in dict.fromkeys(map(settings.weights_of, settings.streams)):
        if weights.startswith(RANDOM):
            say(f"weights {weights}: NOT TRAINED, features are for trying things out")
    with stages.stage("extract") as what:
        num_done = _num_done(out / "features", settings.streams)
        folders = extract_dataset(manifest, root, out / "features", settings, progress)
        what += [_described(folder.spec) for folder in folders]
        what.append(f"{workers} workers on Ray" if workers > 1 else "in process")
        what += _there(num_done, num_videos)
    with stages.stage("verify") as what:
        what += map(_verified, folders)
    choice = "concat" if len(folders) > 1 else folders[0].spec.stream
    with open_features(out / "features") as features:
        trained, control = (
            _trained(features, manifest, out / "runs" / f"{name}-{choice}", stages, choice)
            for name in ("ddl", "control")
        )
        with stages.stage("score and plot") as what:
            difference = difference_scores(features, manifest, root)
            what.append(f"{_plot(out / 'plots', manifest, trained)} plots in {out / 'plots'}")
    specs = [folder.spec for folder in folders]
    return _report(out, specs, stages, trained, control, difference, manifest)


def _there(count: int, total: int) -> list[str]:
    """What to say of so many that an earlier run has left, so that the time is not taken for
    that of all."""
    return [f"{count} of {total} were there already"] if count else []


def _num_done(features: Path, streams: Sequence[str]) -> int:
    """Videos of which every stream is done."""
    folders = stream_folders(features)
    return min(status(folders[name], 0).done if name in folders else 0 for name in streams)


def _described(spec: Spec) -> str:
    return f"I3D {spec.stream}, {spec.precision}, weights {spec.weights}"


def _verified(folder: StreamFolder) -> str:
    result = verify(folder)
    if result.problems:
        raise VadprepError(f"the features do not verify: {result.problems[0]}")
    return f"{folder.spec.stream}: {result.videos} videos, {result.clips} clips, no problem"


def _trained(
    features: Features, manifest: Manifest, run: Path, stages: Stages, choice: str
) -> RunReport:
    control = run.name.startswith("control")
    seeds = CONTROL_SEEDS if control else SEEDS
    config = TrainConfig(
        head_config=HEAD, streams=choice, seeds=seeds, control=control, resume=True, snapshots=0
    )
    name = "train on shuffled labels" if control else "train ddl"
    with stages.stage(name) as what:
        num_trained = sum((run / f"seed-{seed}" / "metrics.json").exists() for seed in seeds)
        report = train(features, manifest, config, run)
        what += [f"{len(manifest.in_split('train'))} videos", f"{len(seeds)} seeds"]
        what += _there(num_trained, len(seeds))
    return report


def difference_scores(features: Features, manifest: Manifest, root: Path) -> dict[str, VideoScores]:
    """The control that needs no learning: mean change between frames of each clip."""
    scores = {}
    for video in manifest.in_split("test"):
        with open_frames(root / video.path, decoder="pyav") as stream:
            changes = frame_difference(stream)
        found = features[video.video_id]
        scores[video.video_id] = VideoScores(changes, found.spans, found.num_frames, found.fps)
    return scores


def _plot(folder: Path, manifest: Manifest, report: RunReport) -> int:
    """One PNG for each test video, scores of the first seed over the shaded truth."""
    make_folder(folder)
    scores = read_scores(report.folder / f"seed-{SEEDS[0]}" / "scores-last.h5")
    for video in manifest.in_split("test"):
        found = scores[video.video_id]
        path = folder / f"{video.video_id}.png"
        title = "; ".join(filter(None, (video.category, report.origin.caution())))
        intervals = known_intervals(video, found)
        plot_scores(path, video.video_id, found.frames(), intervals, FPS, title)
    return len(scores)


def _report(
    out: Path,
    specs: Sequence[Spec],
    stages: Stages,
    trained: RunReport,
    control: RunReport,
    difference: Mapping[str, VideoScores],
    manifest: Manifest,
) -> DemoReport:
    baseline = evaluate_scores(difference, manifest).figures["frame_auc"]
    rows: list[Cells] = [
        ("frame AUC on the test split, last step", "mean", "spread", "runs"),
        ("ddl", *_auc(trained)),
        ("control: ddl on shuffled labels", *_auc(control)),
        ("control: frame difference", baseline, None, None),
    ]
    notes = [
        "The videos are drawn, and the settings were chosen on sets like this one: the figures "
        "show that the line works, and nothing about surveillance video.",
    ]
    random = [spec.weights for spec in specs if spec.is_random]
    if random:
        notes.append(
            f"The network has weights {', '.join(dict.fromkeys(random))}: it was NEVER TRAINED. "
            "For features to use, give --weights FILE."
        )
    content: dict[str, Any] = {
        "specs": {spec.stream: json.loads(spec.to_json()) for spec in specs},
        "random_weights": bool(random),
        "ddl": trained.as_json(),
        "control_shuffled_labels": control.as_json(),
        "control_frame_difference": {"frame_auc": baseline},
        "stages": [list(row) for row in stages.rows[1:]],
        "notes": notes,
    }
    write_json(out / "report.json", content)
    return DemoReport(stages.rows, rows, tuple(notes))


def _auc(report: RunReport) -> tuple[float | None, float | None, int]:
    return report.mean()["frame_auc"], report.spread()["frame_auc"], len(report.by_seed)
