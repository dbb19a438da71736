"""The pages of runs: an overview with a table of all videos, and a page for each video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder
from vadprep.core.clips import frame_labels
from vadprep.core.errors import CheckpointError, SettingError, allowed_are, counted
from vadprep.core.records import Preview, Video, Wanted
from vadprep.core.untrusted import malformed
from vadprep.evaluation.metrics import ALARM, METRICS, TEMPORAL, Truth, roc_auc
from vadprep.evaluation.report.page import write_assets, write_page
from vadprep.evaluation.report.reported_run import ReportedRun
from vadprep.evaluation.report.video_data import rounded, video_data
from vadprep.evaluation.truth import outside_training

SPARKS = 60
"""Points of the small curve in the table of videos."""
BINS = 50
"""Bars of a histogram of scores."""
NOT_ASKED = Preview(reason="No preview of this video was asked for.")


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
        first = next(run for run in runs if video_id in run.scores)
        scores, video = first.scores[video_id], rows.get(video_id) or Video(video_id, video_id)
        frames = scores.frames(first.coverage)
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
        found = _judged(video.frames(run.coverage), truth, ALARM)
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
        data = video_data(runs, video_id, previews.get(video_id, NOT_ASKED), threshold)
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
        "published": run.published,
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
    """ROC, precision-recall and histograms over all frames with known ground truth, without those
    of split train."""
    tested = outside_training(run.truth, run.videos)
    pairs = [
        (frame_labels(truth.intervals, video.num_frames)[: len(frames)], frames)
        for video_id, truth in tested.items()
        if truth.intervals is not None
        and len(frames := (video := run.scores[video_id]).frames(run.coverage))
    ]
    trained = counted(len(run.truth) - len(tested), "video")
    if not pairs and run.truth and not tested:
        return {"reason": f"All {trained} are of split train, so there are no ROC and PR curves."}
    if not pairs:
        why = f" ({run.why_unknown})" if run.why_unknown else ""
        return {"reason": f"The ground truth is unknown{why}, so there are no ROC and PR curves."}
    labels, scores = (np.concatenate(each) for each in zip(*pairs, strict=True))
    edges = np.linspace(0, 1, BINS + 1)
    left_out = f"Curves and histograms leave out {trained} of split train."
    found: dict[str, Any] = {
        "note": left_out if len(tested) < len(run.truth) else "",
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
        "roc": [[0.0, *rounded(false[kept])], [0.0, *rounded(recall[kept])]],
        "pr": [rounded(recall[kept]), rounded(precision[kept])],
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


def _judged(frames: NDArray[np.float64], truth: Truth, threshold: float) -> dict[str, Any]:
    """How the frame scores of one video stand against its known ground truth, in source frames."""
    intervals = truth.intervals or ()
    labels = frame_labels(intervals, len(frames))
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
    frames = video.frames(run.coverage)
    found: dict[str, Any] = {
        "category": truth.category,
        "label": truth.label,
        "score": video.of_video() if len(video.snippets) else None,
        "spark": _sparks(frames),
        "known": truth.intervals is not None,
    }
    if truth.intervals is not None and len(frames):
        judged = _judged(frames, truth, threshold)
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
    return rounded(np.maximum.reduceat(frames, edges), 3)


def _short(value: float) -> float:
    return round(value, 5)
