"""What it costs a run to see no future: its metrics with online scores beside those without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import lexists
from pathlib import Path
from typing import Any

from vadprep.core.arguments import device_name
from vadprep.core.atomic import write_json
from vadprep.core.errors import CheckpointError, FeaturesError
from vadprep.core.untrusted import malformed
from vadprep.data import Manifest, choose_manifest
from vadprep.evaluation import Metrics, Scores, read_json, seed_folders, truth_of, write_scores
from vadprep.evaluation.delay import Delays, compute_delays
from vadprep.evaluation.metrics import Values, compute_metrics, listed, mean_and_spread, with_mean
from vadprep.evaluation.run_files import LAST, recorded_coverage
from vadprep.features import Features, open_features
from vadprep.training.checkpoint import load_checkpoint
from vadprep.training.run import check_device
from vadprep.training.scoring import score_features

ONLINE_SCORES = "scores-online.h5"
FORMS = ("offline", "online")


@dataclass(frozen=True)
class OnlineEvaluation:
    """Metrics of a run, offline and online, by the folder of each seed and then by ``FORMS``."""

    window: int
    """Snippets that the head saw at a time."""
    metrics: Mapping[str, Mapping[str, Metrics]]
    delays: Mapping[str, Mapping[str, Delays]]
    scores: Mapping[str, Scores]
    """Online scores by the folder of each seed."""

    def columns(self, names: Sequence[str]) -> dict[str, Values]:
        """Columns of a table: metrics ``names`` and all of the delays, with mean and spread."""
        columns: dict[str, Values] = {}
        for form in FORMS:
            own: dict[str, Values] = {}
            for seed in self.metrics:
                values = self.metrics[seed][form].values
                kept = {name: values[name] for name in names if name in values}
                own[seed] = {**kept, **self.delays[seed][form].flat()}
            single = len(own) == 1
            for seed, column in with_mean(own).items():
                if single or seed in ("mean", "spread"):
                    columns[form if single else f"{form}, {seed}"] = column
        return columns

    def reasons(self) -> dict[str, str]:
        """Why a value is None, by its name in ``columns``."""
        found: dict[str, str] = {}
        for seed in self.metrics:
            for form in FORMS:
                found |= {**self.metrics[seed][form].reasons, **self.delays[seed][form].reasons}
        return found

    def as_json(self, seed: str) -> dict[str, Any]:
        """The entry ``online`` in metrics.json of a seed."""
        forms = {
            form: {
                **self.metrics[seed][form].as_json(),
                "delay": self.delays[seed][form].as_json(),
            }
            for form in FORMS
        }
        return {"window": self.window, **forms}

    def mean_as_json(self) -> dict[str, Any]:
        """The entry ``online`` in metrics.json of a run of several seeds: mean and spread."""
        found: dict[str, Any] = {"window": self.window}
        for form in FORMS:
            entries = [self.metrics[seed][form].values for seed in self.metrics]
            delays = [self.delays[seed][form].flat() for seed in self.metrics]
            joined = [{**a, **b} for a, b in zip(entries, delays, strict=True)]
            mean, spread = mean_and_spread(joined)
            found[form] = {**mean, "spread": spread}
        return found


def evaluate_online(
    run: str | Path,
    features: Features | str | Path,
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    coverage: str | None = None,
    window: int | None = None,
    device: str | None = None,
) -> OnlineEvaluation:
    """Metrics of a run whose head sees the last ``window`` snippets, beside those of whole videos.

    Both are scores of the test videos of the manifest, by the checkpoint of the last step, on
    ``device`` (``cpu`` by default). ``run`` is a run folder, also of several seeds; ``features`` an
    opened feature folder, or its path or URL. ``window`` is ``Head.online_window`` by default,
    ``coverage`` that of the training.
    Beside the metrics of ``evaluate`` there are delays, false alarms an hour and the average
    precision delay (``evaluation.delay``). The frame rate of a video is that of its features, else
    the column ``fps`` of the manifest. Nothing is written, see ``write_online``.

    Raises CheckpointError for a run that has not ended or is damaged and for features of another
    spec, FeaturesError for test videos without features, ManifestError for ground truth that does
    not fit, SettingError for a window below 1 or an unknown device.
    """
    rows = choose_manifest(dataset, manifest, with_paths=False)
    folders = list(seed_folders(Path(run)).values()) or [Path(run)]
    coverage = coverage or recorded_coverage(folders[0])
    device = device_name(device) or "cpu"
    if isinstance(features, str | Path):
        with open_features(features) as opened:
            return _evaluate(folders, opened, rows, coverage, window, device)
    return _evaluate(folders, features, rows, coverage, window, device)


def _evaluate(
    folders: Sequence[Path],
    features: Features,
    rows: Manifest,
    coverage: str,
    window: int | None,
    device: str,
) -> OnlineEvaluation:
    check_device(device)
    videos = rows.in_split("test")
    ids = [v.video_id for v in videos if v.video_id in features and features[v.video_id].num_clips]
    absent = {video.video_id for video in videos} - set(ids) - _missing(folders[0])
    if absent:
        raise FeaturesError(f"test videos without features: {listed(absent)}: extract them first")
    rates = {video.video_id: video.fps for video in videos}
    truth = truth_of({video_id: features[video_id] for video_id in ids}, rows)
    metrics, delays = dict[str, dict[str, Metrics]](), dict[str, dict[str, Delays]]()
    online, length = dict[str, Scores](), 0
    for folder in folders:
        checkpoint, seed = load_checkpoint(folder), folder.name
        metrics[seed], delays[seed] = {}, {}
        length = checkpoint.head.online_window if window is None else window
        for form in FORMS:
            is_online = form == "online"
            scores = score_features(
                checkpoint,
                features,
                ids=ids,
                device=device,
                online=is_online,
                window=length if is_online else None,
            )
            timed = {
                name: replace(video, fps=rates[name]) if video.fps is None else video
                for name, video in scores.items()
            }
            metrics[seed][form] = compute_metrics(scores, truth, coverage)
            delays[seed][form] = compute_delays(timed, truth)
            if is_online:
                online[seed] = scores
    return OnlineEvaluation(length, metrics, delays, online)


def _missing(folder: Path) -> set[str]:
    """Videos that had no features when the run was made, from its config.json."""
    path = folder / "config.json"
    if not lexists(path):
        return set()
    with malformed(path, CheckpointError):
        return {str(each) for each in read_json(path).get("missing", ())}


def write_online(run: str | Path, found: OnlineEvaluation) -> None:
    """Put the entry ``online`` into metrics.json of a run, and online scores beside its others.

    Every seed folder gets both, the folder of several seeds their mean. A training that goes on
    with the run writes metrics.json anew, without it. Raises CheckpointError for a metrics.json
    that is missing or damaged, OutputError when the disk refuses.
    """
    seeds = seed_folders(Path(run))
    for folder in list(seeds.values()) or [Path(run)]:
        scores = found.scores[folder.name]
        write_scores(folder / ONLINE_SCORES, scores, scores.origin, LAST)
        _add(folder / "metrics.json", found.as_json(folder.name))
    if seeds:
        _add(Path(run) / "metrics.json", found.mean_as_json())


def _add(path: Path, entry: Mapping[str, Any]) -> None:
    write_json(path, {**read_json(path), "online": entry})
