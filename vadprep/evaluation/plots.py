"""Plots of scores as PNG files, and metrics as rows of a table."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.records import Interval
from vadprep.data import Manifest, choose_manifest
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.scores import read_origin, read_scores, truth_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE_COLOUR = "#1f4e79"
ANOMALY_COLOUR = "#e8a598"
TITLE_LENGTH = 90
"""Characters of a title line; ids of XD-Violence are longer than a plot is wide."""


def plot_scores(
    scores: Mapping[str, VideoScores] | str | Path,
    out: str | Path,
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    note: str = "",
) -> dict[str, Path]:
    """Write a PNG of the frame scores of each video into the folder ``out``; returns the paths.

    ``scores`` are by video id, or a scores file such as ``RUN/scores-last.h5``, whose caution on
    untrained weights goes into the titles. Files are named ``000000-NAME.png``, in order. With a
    bundled data set or a manifest (opened, or the path of its CSV) the anomalous intervals are
    shaded. ``note`` is a second line of the titles. Raises as ``evaluate`` does, OutputError when
    the disk refuses. Needs matplotlib.
    """
    if not isinstance(scores, Mapping):
        note = "; ".join(filter(None, (note, read_origin(Path(scores)).caution())))
        scores = read_scores(Path(scores))
    truth = {}
    if dataset is not None or manifest is not None:
        truth = truth_of(scores, choose_manifest(dataset, manifest, with_paths=False))
    folder, paths = Path(out), dict[str, Path]()
    make_folder(folder)
    for index, (video_id, video) in enumerate(scores.items()):
        intervals = truth[video_id].intervals if truth else None
        paths[video_id] = folder / f"{index:06d}-{safe_name(video_id)}.png"
        plot_video(paths[video_id], video_id, video, intervals, note)
    return paths


def safe_name(video_id: str) -> str:
    """The last part of an id as part of a file name: at most 60 letters, digits, _ . and -."""
    return re.sub(r"[^\w.-]", "_", PurePosixPath(video_id).name)[:60]


def plot_video(
    path: Path,
    video_id: str,
    scores: VideoScores,
    intervals: Sequence[Interval] | None = None,
    note: str = "",
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
    _draw(axes, scores.frames(), intervals, scores.fps)
    half = TITLE_LENGTH // 2 - 1  # both ends of an id tell videos apart
    name = video_id if len(video_id) <= TITLE_LENGTH else f"{video_id[:half]}...{video_id[-half:]}"
    heading = f"{name}\n{note}" if note else name
    # Ids hold $, _ and ^: they are text, not formulas.
    axes.set_title(heading, fontsize=10, loc="left", parse_math=False)
    content = io.BytesIO()
    canvas.print_png(content)
    with open_atomic(path) as stream:
        stream.write(content.getvalue())


def _draw(
    axes: Axes,
    frame_scores: NDArray[np.float64],
    intervals: Sequence[Interval] | None,
    fps: float | None,
) -> None:
    rate = fps or 1.0
    end = max(len(frame_scores), 1) / rate
    for number, (start, stop) in enumerate(intervals or ()):
        once = "anomalous" if number == 0 else None
        axes.axvspan(start / rate, stop / rate, color=ANOMALY_COLOUR, lw=0, label=once)
        end = max(end, stop / rate)
    edges = np.arange(len(frame_scores) + 1) / rate
    label = "score" if intervals is not None else "score (ground truth unknown)"
    axes.stairs(frame_scores, edges, baseline=None, color=SCORE_COLOUR, lw=1.4, label=label)
    axes.set_xlim(0, end)
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "", "0.5", "", "1"])
    axes.set_xlabel("time in seconds" if fps else "frame")
    axes.set_ylabel("anomaly score")
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no score can be under it.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9)


def metric_rows(
    columns: Mapping[str, Mapping[str, float | None]], reasons: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """Rows of a table, header first: one row a metric, one column an entry of ``columns``.

    Values are in percent with two decimals, as papers print them; one that is None is a dash,
    with its reason, where given, in a last cell.
    """
    reasons = reasons or {}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    head = ("metric", *columns, *(["why not"] if reasons else []))
    rows = [
        (
            name,
            *(_percent(values.get(name)) for values in columns.values()),
            *([reasons.get(name, "")] if reasons else []),
        )
        for name in names
    ]
    return [head, *rows]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
