"""What a person looks at: score curves of videos as PNG files, and figures as rows of text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import open_atomic
from vadprep.core.records import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE_COLOUR = "#1f4e79"
ANOMALY_COLOUR = "#e8a598"
TITLE_LENGTH = 90
"""Characters of a title line; ids of XD-Violence are longer than a plot is wide."""


def plot_scores(
    path: Path,
    video_id: str,
    frame_scores: NDArray[np.float64],
    intervals: Sequence[Interval] | None,
    fps: float | None = None,
    title: str = "",
) -> None:
    """Write a PNG of the frame scores of a video, its anomalous intervals shaded.

    ``frame_scores`` float64 [num_frames] in [0, 1]; ``intervals`` in the same frames, None where
    unknown. Time runs in seconds, without ``fps`` in frames. Needs matplotlib, touches none of
    its global state, and appears at once. Raises OutputError when the disk refuses.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, frame_scores, intervals, fps)
    heading = f"{_shortened(video_id)}\n{title}" if title else _shortened(video_id)
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


def _shortened(video_id: str) -> str:
    """The id, its middle left out where it is too long: both ends tell videos apart."""
    if len(video_id) <= TITLE_LENGTH:
        return video_id
    half = TITLE_LENGTH // 2 - 1
    return f"{video_id[:half]}...{video_id[-half:]}"


def metric_rows(
    columns: Mapping[str, Mapping[str, float | None]], reasons: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """Rows of a table, header first: one row a figure, one column an entry of ``columns``.

    Values are in percent with two decimals, as papers print them; one that is None is a dash,
    with its reason, where given, in a last cell.
    """
    reasons = reasons or {}
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    head = ("figure", *columns, *(["why not"] if reasons else []))
    rows = [
        (
            name,
            *(_percent(figures.get(name)) for figures in columns.values()),
            *([reasons.get(name, "")] if reasons else []),
        )
        for name in names
    ]
    return [head, *rows]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
