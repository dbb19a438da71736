"""What the page of one video shows: the curve of each run, the intervals, the preview."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import Clock
from vadprep.core.records import Preview
from vadprep.evaluation.report.reported_run import ReportedRun

MOST_POINTS = 2_000
"""Steps of a drawn curve; of a longer one the lowest and the highest of each part are kept."""


def video_data(
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
    frames = run.scores[video_id].frames(run.coverage)
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
            "means": rounded(np.add.reduceat(values, starts) / lengths, 6) if len(starts) else [],
        }
        for name, values in run.scores[video_id].class_frames(run.coverage).items()
    ]
    return found


def _drawn(frames: NDArray[np.float64], clock: Clock) -> dict[str, list[float]]:
    """The steps of a curve that is only looked at: seconds ``x``, values ``y``."""
    if not len(frames):
        return {"x": [], "y": []}
    starts = np.append(0, np.flatnonzero(np.diff(frames)) + 1)
    starts = starts[thinned(frames[starts], MOST_POINTS)]
    edges = [round(clock.seconds(int(frame)), 3) for frame in (*starts, len(frames))]
    return {"x": edges, "y": rounded(np.append(frames[starts], frames[-1]), 4)}


def thinned(values: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Places of at most ``most`` values, in order: lowest and highest of each equal part."""
    parts = np.array_split(np.arange(len(values)), max(1, most // 2))
    ends = [(p[values[p].argmin()], p[values[p].argmax()]) for p in parts if len(p)]
    return np.unique(np.array(ends, dtype=np.int64))


def rounded(values: NDArray[np.float64], digits: int = 5) -> list[float]:
    return [round(float(value), digits) for value in values]
