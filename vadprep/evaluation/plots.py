"""Scores for people and programs: plots, tables of metrics, and where scores are high."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vadprep.core.atomic import make_folder, open_atomic, write_json
from vadprep.core.clips import Clock
from vadprep.core.errors import CheckpointError
from vadprep.core.records import Interval
from vadprep.data import Manifest, choose_manifest
from vadprep.evaluation.metrics import Truth, VideoScores
from vadprep.evaluation.run_files import read_json
from vadprep.evaluation.scores import Scores, read_scores
from vadprep.evaluation.truth import truth_of

SCORE_COLOUR = "#1f4e79"
ANOMALY_COLOUR = "#e8a598"
TITLE_LENGTH = 90  # characters of a line; ids of XD-Violence are longer than a plot is wide


def plot_scores(
    scores: Mapping[str, VideoScores] | str | Path,
    out: str | Path,
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    note: str = "",
) -> dict[str, Path]:
    """Write a PNG of the frame scores of each video into the folder ``out``; returns the paths.

    ``scores`` are by video id, or a scores file, whose caution on untrained weights goes into the
    titles. With an included data set or a manifest (opened, or the path of its CSV) the anomalous
    intervals are shaded. ``note`` is a second line of the titles. Raises as ``evaluate`` does,
    OutputError when the disk refuses. Needs matplotlib.
    """
    if not isinstance(scores, Mapping):
        scores = read_scores(Path(scores))
        note = "; ".join(filter(None, (note, scores.origin.caution())))
    truth = {}
    if dataset is not None or manifest is not None:
        truth = truth_of(scores, choose_manifest(dataset, manifest, with_paths=False))
    folder = Path(out)
    make_folder(folder)
    paths = {video_id: folder / f"{name}.png" for video_id, name in file_names(scores).items()}
    for video_id, path in paths.items():
        intervals = truth[video_id].intervals if truth else None
        plot_video(path, video_id, scores[video_id], intervals, note)
    return paths


def file_names(ids: Iterable[str]) -> dict[str, str]:
    """``NAME.scores`` for each id: what its files are called. No two are alike, whatever the case.

    NAME is the id in letters, digits, _ . and -, at most 120 bytes; of an absolute path the last
    part. Where ids would share it, the later ones end in -2, -3, ...
    """
    names, used = dict[str, str](), set[str]()
    for video_id in ids:
        path = PurePosixPath(video_id)
        name = re.sub(r"[^\w.-]", "_", path.name if path.is_absolute() else video_id).lstrip(".")
        name = name.encode()[:120].decode(errors="ignore") or "video"
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([name], numbered) if n.casefold() not in used)
        used.add(name.casefold())
        names[video_id] = f"{name}.scores"
    return names


def plot_video(
    path: Path, video_id: str, scores: VideoScores, intervals: Sequence[Interval] | None, note: str
) -> None:
    """Write a PNG of the frame scores of a video, its anomalous intervals shaded.

    ``intervals`` are in decoded frames, None where unknown. Time runs in seconds, in frames where
    the rate is unknown. Touches no global state of matplotlib; the file appears at once. Raises
    OutputError when the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    frames, clock = scores.frames(), scores.clock or Clock(1.0)
    end = clock.seconds(max(len(frames), 1))
    for number, interval in enumerate(intervals or ()):
        shown = [clock.seconds(frame) for frame in interval]
        once = "anomalous" if number == 0 else None
        axes.axvspan(*shown, color=ANOMALY_COLOUR, lw=0, label=once)
        end = max(end, shown[1])
    edges = np.array([clock.seconds(frame) for frame in range(len(frames) + 1)])
    label = "score" if intervals is not None else "score (ground truth unknown)"
    axes.stairs(frames, edges, baseline=None, color=SCORE_COLOUR, lw=1.4, label=label)
    axes.set(xlabel="time in seconds" if scores.fps else "frame", ylabel="anomaly score")
    axes.set(xlim=(0, end), ylim=(-0.03, 1.03))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "", "0.5", "", "1"])
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no score can be under it.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9)
    half = TITLE_LENGTH // 2 - 1  # both ends of an id tell videos apart
    name = video_id if len(video_id) <= TITLE_LENGTH else f"{video_id[:half]}...{video_id[-half:]}"
    heading = f"{name}\n{note}" if note else name
    # Ids hold $, _ and ^: they are text, not formulas.
    axes.set_title(heading, fontsize=10, loc="left", parse_math=False)
    with open_atomic(path) as stream:
        canvas.print_png(stream)


def metric_rows(
    columns: Mapping[str, Mapping[str, float | None]], reasons: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """Rows of a table, header first: one row a metric, one column an entry of ``columns``.

    Values are fractions of 1 with four decimals, as everywhere; one that is None is a dash,
    with its reason, where given, in a last cell.
    """
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    reasons = {name: why for name, why in (reasons or {}).items() if name in names}
    rows = [("metric", *columns, *(["why not"] if reasons else []))]
    for name in names:
        found = [values.get(name) for values in columns.values()]
        cells = ["-" if value is None else f"{value:.4f}" for value in found]
        rows.append((name, *cells, *([reasons.get(name, "")] if reasons else [])))
    return rows


def write_alarms(
    folder: Path,
    scores: Scores,
    threshold: float,
    about: Mapping[str, Any],
    plots: bool = True,
    truth: Mapping[str, Truth] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Write scores and alarms of each video into ``folder``; returns the alarms of each.

    The README of this folder lists the files; scores.json holds ``about`` too. Intervals of
    ``truth`` are shaded in the plots. Each file appears at once. Raises OutputError when the
    disk refuses.
    """
    earlier, videos = files_of(folder), list[dict[str, Any]]()
    names, caution = file_names(scores), scores.origin.caution()
    for video_id, video in scores.items():
        name, frames, clock = names[video_id], video.frames(), video.clock
        known = (truth or {}).get(video_id, Truth(None, None))
        classes, text = video.class_frames(), io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["frame", "seconds", "score", *classes])
        columns = [each.tolist() for each in (frames, *classes.values())]
        for frame, row in enumerate(zip(*columns, strict=True)):
            seconds = f"{clock.seconds(frame):.3f}" if clock else ""
            table.writerow([frame, seconds, *(f"{each:.6f}" for each in row)])
        with open_atomic(folder / f"{name}.csv") as stream:
            stream.write(text.getvalue().encode("utf-8", "surrogateescape"))
        if plots:
            plot_video(folder / f"{name}.png", video_id, video, known.intervals, caution)
        videos.append(
            {
                "video_id": video_id,
                "frames": f"{name}.csv",
                "plot": f"{name}.png" if plots else None,
                "num_frames": video.num_frames,
                "num_frames_scored": len(frames),
                "fps": video.fps,
                "label": known.label,
                "intervals": known.intervals,
                "score": video.of_video() if len(video.snippets) else None,
                "alarms": video.alarms(threshold),
            }
        )
    record = {**about, **scores.origin.as_json(), "threshold": threshold, "videos": videos}
    write_json(folder / "scores.json", record)
    for name in earlier - files_of(folder):
        (folder / name).unlink(missing_ok=True)
    return {video["video_id"]: video["alarms"] for video in videos}


OWN_NAME = r"([^/]+\.scores|\d{6,}-[^/]*)\.(csv|png)"
"""Names of files that are written here; the second form is of earlier versions."""


def files_of(folder: Path) -> set[str]:
    """Names of the CSVs and plots that scores.json in ``folder`` names; none without one."""
    try:
        videos = read_json(folder / "scores.json").get("videos")
    except CheckpointError:
        return set()
    known = [each for each in videos if isinstance(each, dict)] if isinstance(videos, list) else []
    named = [str(each.get(key)) for each in known for key in ("frames", "plot")]
    return {name for name in named if re.fullmatch(OWN_NAME, name)}
