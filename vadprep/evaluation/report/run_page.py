"""The pages of runs: an overview with a table of all videos, and a page for each video."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import lexists
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder
from vadprep.core.clips import Clock, frame_labels
from vadprep.core.errors import CheckpointError, ManifestError, SettingError, allowed_are
from vadprep.core.records import Preview, Video, Wanted
from vadprep.core.untrusted import malformed
from vadprep.data import Manifest
from vadprep.evaluation.metrics import ALARM, METRICS, TEMPORAL, Truth, VideoScores, roc_auc
from vadprep.evaluation.report.page import write_assets, write_page
from vadprep.evaluation.scores import (
    SCORES,
    Scores,
    known_truth,
    mean_scores,
    read_bytes,
    read_json,
    read_scores,
    recorded_manifest,
    seed_folders,
)

MOST_POINTS = 2_000
"""Steps of a drawn curve; of a longer one the lowest and the highest of each part are kept."""
SPARKS = 60
"""Points of the small curve in the table of videos."""
BINS = 50
"""Bars of a histogram of scores."""
UNKNOWN = Truth(None, None)
NOT_ASKED = Preview(reason="No preview of this video was asked for.")


@dataclass(frozen=True)
class ReportedRun:
    """A run as its pages show it."""

    name: str
    scores: Scores
    """Of several seeds the mean."""
    truth: Mapping[str, Truth] = field(default_factory=dict)
    """By video id; a video without an entry has unknown ground truth."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The record of metrics.json; empty where there is none."""
    losses: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """Rows of log.csv by seed."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The record of config.json of the first seed."""
    videos: tuple[Video, ...] = ()
    """The rows of the manifest that gives the ground truth."""
    why_unknown: str = ""
    """Why no manifest gives the ground truth, where that is known."""

    def truth_of(self, video_id: str) -> Truth:
        """The ground truth of a video; unknown where no manifest has it."""
        return self.truth.get(video_id, UNKNOWN)


def read_run(path: Path, manifest: Manifest | None) -> ReportedRun:
    """A run folder, the folder of one seed, or a scores file.

    The ground truth is that of ``manifest``, else of the manifest of the run where that is there.
    Raises CheckpointError for a file that is missing or damaged, ManifestError as ``truth_of``.
    """
    if path.suffix == ".h5" or path.is_file():
        scores = read_scores(path)
        truth = known_truth(scores, manifest) if manifest else {}
        return ReportedRun(path.stem, scores, truth, videos=manifest.videos if manifest else ())
    seeds = {str(seed): each for seed, each in seed_folders(path).items()} or {"": path}
    scores = mean_scores([read_scores(folder / SCORES) for folder in seeds.values()])
    why_unknown = ""
    if manifest is None:
        try:
            manifest = recorded_manifest(path)
        except (CheckpointError, ManifestError) as error:
            why_unknown = str(error)
    of_seed = f"{path.absolute().parent.name} " if path.name.startswith("seed-") else ""
    first, losses = next(iter(seeds.values())), dict[str, list[dict[str, str]]]()
    for seed, folder in seeds.items():
        if lexists(folder / "log.csv"):
            text = read_bytes(folder / "log.csv").decode("utf-8", "replace")
            losses[seed] = list(csv.DictReader(io.StringIO(text)))
    return ReportedRun(
        of_seed + path.name,
        scores,
        known_truth(scores, manifest) if manifest else {},
        read_json(path / "metrics.json") if lexists(path / "metrics.json") else {},
        losses,
        read_json(first / "config.json") if lexists(first / "config.json") else {},
        manifest.videos if manifest else (),
        why_unknown,
    )


def page_names(runs: Sequence[ReportedRun]) -> dict[str, str]:
    """Names of the files of each scored video, without endings: ``000000-NAME``, in ASCII."""
    ids = dict.fromkeys(video_id for run in runs for video_id in run.scores)
    safe = (re.sub(r"[^A-Za-z0-9_.-]", "_", PurePosixPath(video_id).name)[:60] for video_id in ids)
    return {
        each: f"{place:06d}-{name}"
        for place, (each, name) in enumerate(zip(ids, safe, strict=True))
    }


PREVIEWS = ("all", "test", "worst:N", "none")
"""Which videos get a preview; N is a number."""


def wanted_previews(
    runs: Sequence[ReportedRun], rows: Mapping[str, Video], choice: str
) -> list[Wanted]:
    """The videos that ``choice`` names: ``all``, ``test``, ``worst:N`` or ``none``.

    ``rows`` are those of the manifests by id; an id without one is the path of its video. Raises
    SettingError for another choice.
    """
    ids, (kind, _, count) = list(page_names(runs)), choice.partition(":")
    if kind == "worst" and count.isdecimal():
        ids = sorted(ids, key=lambda each: -badness(runs, each))[: int(count)]
    elif choice == "test":
        ids = [each for each in ids if each in rows and rows[each].split == "test"]
    elif choice == "none":
        return []
    elif choice != "all":
        raise SettingError(f"previews = {choice!r}: {allowed_are(choice, PREVIEWS)}")
    found = []
    for video_id in ids:
        scores = next(run.scores[video_id] for run in runs if video_id in run.scores)
        video = rows.get(video_id) or Video(video_id, video_id)
        frames = scores.frames()
        shown = int(frames.argmax()) if len(frames) else 0
        found.append(Wanted(video, scores.num_frames, scores.fps, shown))
    return found


def badness(runs: Sequence[ReportedRun], video_id: str) -> float:
    """How wrong scores of a video are: the most by which a missed event or a false alarm is off.

    Where the ground truth is unknown, the score of the video.
    """
    worst = 0.0
    for run in runs:
        if video_id not in run.scores:
            continue
        video, truth = run.scores[video_id], run.truth_of(video_id)
        if truth.intervals is None:
            worst = max(worst, video.of_video() if len(video.snippets) else 0.0)
            continue
        found = _judged(video, truth, ALARM)
        worst = max(worst, found["highest_normal"] or 0.0)
        if found["missed"]:
            worst = max(worst, 1 - found["missed"]["score"])
    return worst


def write_run_pages(
    folder: Path,
    runs: Sequence[ReportedRun],
    previews: Mapping[str, Preview],
    threshold: float = ALARM,
) -> Path:
    """Write ``index.html`` and a page for each video; returns the path of the first.

    ``previews`` is by video id. Raises OutputError when the disk refuses, VadprepError where plotly
    is missing.
    """
    make_folder(folder / "videos")
    write_assets(folder)
    runs = _labelled(runs)
    ids = list(page_names(runs))
    pages = {each: f"videos/{name}.html" for each, name in page_names(runs).items()}
    names = [run.name for run in runs]
    for path in (folder / "videos").glob("[0-9]*-*.html"):  # of an earlier report
        if f"videos/{path.name}" not in pages.values():
            path.unlink()
    for place, video_id in enumerate(ids):
        data = _video_data(runs, video_id, previews.get(video_id, NOT_ASKED), threshold)
        around = {-1: "before", 1: "after"}
        links = {
            word: Path(pages[ids[place + step]]).name
            for step, word in around.items()
            if 0 <= place + step < len(ids)
        }
        write_page(folder / pages[video_id], "video.js", video_id, {**data, "links": links})
    rows = [
        {
            "id": video_id,
            "page": pages[video_id],
            "picture": previews.get(video_id, NOT_ASKED).picture,
            "runs": [_table_row(run, video_id, threshold) for run in runs],
        }
        for video_id in ids
    ]
    data = {
        "title": ", ".join(names),
        "threshold": threshold,
        "runs": [_overview(run, threshold) for run in runs],
        "videos": rows,
    }
    write_page(folder / "index.html", "run.js", f"vadprep: {', '.join(names)}", data)
    return folder / "index.html"


def _labelled(runs: Sequence[ReportedRun]) -> list[ReportedRun]:
    """The runs under names that say their streams, where runs of several streams are shown."""
    streams = [str(run.config.get("streams", "")) for run in runs]
    if len({*streams} - {""}) < 2:
        return [*runs]
    pairs = zip(runs, streams, strict=True)
    return [replace(run, name=f"{run.name} ({each})") for run, each in pairs]


def _overview(run: ReportedRun, threshold: float) -> dict[str, Any]:
    """What the overview shows of a run; CheckpointError where its records are damaged."""
    with malformed(f"run {run.name}: metrics.json or config.json", CheckpointError):
        return {**_records(run), "curves": _curves(run, threshold), "losses": _losses(run)}


def _records(run: ReportedRun) -> dict[str, Any]:
    """What metrics.json and config.json say."""
    entries = [
        (words, entry)
        for key, words in (
            ("last", "last step"),
            ("best_on_validation", "best on validation"),
            ("best_on_test", "best on test (optimistic)"),
        )
        if isinstance(entry := run.metrics.get(key), Mapping)
    ]

    spec = {
        stream: each.get("spec", {})
        for stream, each in run.config.get("specs", {}).items()
        if isinstance(each, Mapping)
    }
    return {
        "name": run.name,
        "head": run.config.get("head", ""),
        "caution": run.scores.origin.caution(),
        "seeds": list(run.losses) if len(run.losses) > 1 else [],
        "metrics": [
            {
                "words": words,
                "values": _metrics(entry),
                "spread": _metrics(entry.get("spread", {})),
                "undefined": {name: str(why) for name, why in entry.get("undefined", {}).items()},
                "per_category": {
                    name: _numbers(each) for name, each in entry.get("per_category", {}).items()
                },
            }
            for words, entry in entries
        ],
        "spec": spec,
        "config": run.config.get("config", {}),
        "weights": dict(run.scores.origin.weights),
    }


def _metrics(values: Mapping[str, Any]) -> dict[str, float | None]:
    names = (*METRICS, *(name for name in TEMPORAL if name in values))
    return _numbers({name: values.get(name) for name in names})


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if each is None else float(each) for name, each in values.items()}


def _curves(run: ReportedRun, threshold: float) -> dict[str, Any]:
    """ROC, precision-recall and histograms over all frames with known ground truth."""
    pairs = [
        (frame_labels(truth.intervals, video.num_frames)[: len(frames)], frames)
        for video_id, video in run.scores.items()
        if (truth := run.truth_of(video_id)).intervals is not None and len(frames := video.frames())
    ]
    if not pairs:
        why = f" ({run.why_unknown})" if run.why_unknown else ""
        return {"reason": f"The ground truth is unknown{why}, so there are no ROC and PR curves."}
    labels, scores = (np.concatenate(each) for each in zip(*pairs, strict=True))
    edges = np.linspace(0, 1, BINS + 1)
    found: dict[str, Any] = {
        "bins": edges.round(4).tolist(),
        "normal": np.histogram(scores[~labels], edges)[0].tolist(),
        "abnormal": np.histogram(scores[labels], edges)[0].tolist(),
    }
    if labels.all() or not labels.any():
        which = "abnormal" if labels.all() else "normal"
        return {**found, "reason": f"All frames are {which}, so there are no ROC and PR curves."}
    order = np.argsort(-scores, kind="stable")
    # A step for each different score: frames of one score change sides together.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits, alarms = np.cumsum(labels[order])[ends], ends + 1
    recall, false = hits / labels.sum(), (alarms - hits) / (~labels).sum()
    precision = hits / alarms
    kept = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), 500)).astype(int))
    alarm, true = scores >= threshold, labels
    at = {
        "recall": float((alarm & true).sum() / true.sum()),
        "false": float((alarm & ~true).sum() / (~true).sum()),
        "precision": float((alarm & true).sum() / alarm.sum()) if alarm.any() else None,
    }
    return {
        **found,
        "roc": [[0.0, *_rounded(false[kept])], [0.0, *_rounded(recall[kept])]],
        "pr": [_rounded(recall[kept]), _rounded(precision[kept])],
        "base": float(labels.mean()),
        "at": at,
    }


def _losses(run: ReportedRun) -> dict[str, Any]:
    """Training losses: for each term its values, epochs, by seed."""
    found: dict[str, Any] = {}
    for seed, rows in run.losses.items():
        for row in rows:
            for term, value in row.items():
                if term in ("epoch", "step", "learning_rate") or not value:
                    continue
                try:
                    point = (float(row["epoch"]), float(value))
                except (KeyError, ValueError, TypeError):
                    continue
                if np.isfinite(point).all():
                    found.setdefault(term, {}).setdefault(seed, []).append(point)
    return found


def _judged(video: VideoScores, truth: Truth, threshold: float) -> dict[str, Any]:
    """How the scores of one video stand against its known ground truth, in source frames."""
    frames = video.frames()
    intervals = truth.intervals or ()
    labels = frame_labels(intervals, video.num_frames)[: len(frames)]
    events = [(frames[start:stop], start) for start, stop in intervals if len(frames[start:stop])]
    missed = min(events, key=lambda event: event[0].max(), default=None)
    normal = frames[~labels]
    return {
        "auc": roc_auc(labels, frames) if labels.any() and not labels.all() else None,
        "false_alarms": float((normal >= threshold).mean()) if len(normal) else None,
        "highest_normal": float(normal.max()) if len(normal) else None,
        "missed": missed and {"score": float(missed[0].max()), "frame": int(missed[1])},
    }


def _table_row(run: ReportedRun, video_id: str, threshold: float) -> dict[str, Any] | None:
    """The cells of a video in the table; None where the run has no scores of it."""
    if video_id not in run.scores:
        return None
    video, truth = run.scores[video_id], run.truth_of(video_id)
    frames = video.frames()
    found: dict[str, Any] = {
        "category": truth.category,
        "label": truth.label,
        "score": video.of_video() if len(video.snippets) else None,
        "spark": _sparks(frames),
        "known": truth.intervals is not None,
    }
    if truth.intervals is not None and len(frames):
        judged = _judged(video, truth, threshold)
        missed, clock = judged["missed"], video.clock
        found |= {
            "auc": judged["auc"],
            "false_alarms": judged["false_alarms"],
            "missed": missed and missed["score"],
            "missed_at": missed and clock and round(clock.seconds(missed["frame"]), 2),
        }
    return {n: _short(v) if isinstance(v, float) else v for n, v in found.items()}


def _sparks(frames: NDArray[np.float64]) -> list[float]:
    """The highest score of each of ``SPARKS`` equal parts."""
    if not len(frames):
        return []
    edges = np.unique(np.arange(SPARKS) * len(frames) // SPARKS)
    return _rounded(np.maximum.reduceat(frames, edges), 3)


def _video_data(
    runs: Sequence[ReportedRun], video_id: str, preview: Preview, threshold: float
) -> dict[str, Any]:
    """What the page of a video shows."""
    having = [run for run in runs if video_id in run.scores]
    first = having[0].scores[video_id]
    truth = having[0].truth_of(video_id)
    clock = first.clock or Clock(25.0)
    return {
        "id": video_id,
        "category": truth.category,
        "label": truth.label,
        "threshold": threshold,
        "fps": first.fps,
        "num_frames": first.num_frames,
        "end": round(clock.seconds(first.num_frames), 4),
        "frame": 1 / (first.fps or 25.0),
        "intervals": None
        if truth.intervals is None
        else [[round(clock.seconds(edge), 4) for edge in pair] for pair in truth.intervals],
        "runs": [_curve_of(run, video_id, clock) for run in having],
        "movie": f"../{preview.movie}" if preview.movie else "",
        "board": f"../{preview.board}" if preview.board else "",
        "picture": f"../{preview.picture}" if preview.picture else "",
        "tile": list(preview.tile),
        "seconds": list(preview.seconds),
        "reason": preview.reason,
    }


def _curve_of(run: ReportedRun, video_id: str, clock: Clock) -> dict[str, Any]:
    """The scores of a video as steps: equal neighbours are one, so alarms are unions of steps.

    Of classes there is the mean of each step, from which the page names the class of an alarm.
    """
    frames = run.scores[video_id].frames()
    starts = np.append(0, np.flatnonzero(np.diff(frames)) + 1) if len(frames) else np.array([], int)
    values = frames[starts]
    edges = [round(clock.seconds(int(frame)), 4) for frame in (*starts, len(frames))]
    found = {
        "name": run.name,
        "caution": run.scores.origin.caution(),
        "edges": edges if len(starts) else [],
        "frames": [*starts.tolist(), len(frames)] if len(starts) else [],
        "values": values.tolist(),
    }
    if len(values) > MOST_POINTS:
        kept = thinned(values, MOST_POINTS)
        found["drawn"] = kept.tolist()
    lengths = np.diff(starts, append=len(frames))
    found["classes"] = [
        {
            "name": name,
            **_drawn(values, clock),
            "means": _rounded(np.add.reduceat(values, starts) / lengths, 6) if len(starts) else [],
        }
        for name, values in run.scores[video_id].class_frames().items()
    ]
    return found


def _drawn(frames: NDArray[np.float64], clock: Clock) -> dict[str, list[float]]:
    """The steps of a curve that is only looked at: seconds ``x``, values ``y``."""
    if not len(frames):
        return {"x": [], "y": []}
    starts = np.append(0, np.flatnonzero(np.diff(frames)) + 1)
    starts = starts[thinned(frames[starts], MOST_POINTS)]
    edges = [round(clock.seconds(int(frame)), 3) for frame in (*starts, len(frames))]
    return {"x": edges, "y": _rounded(np.append(frames[starts], frames[-1]), 4)}


def thinned(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Places of at most ``most`` values, in order: lowest and highest of each equal part."""
    parts = np.array_split(np.arange(len(values)), max(1, most // 2))
    ends = [(p[values[p].argmin()], p[values[p].argmax()]) for p in parts if len(p)]
    return np.unique(np.array(ends, dtype=np.int64))


def _rounded(values: NDArray[np.float64], digits: int = 5) -> list[float]:
    return [round(float(value), digits) for value in values]


def _short(value: float) -> float:
    return round(value, 5)
