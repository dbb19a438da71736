"""Evaluation: scores become frame scores, metrics, plots and alarms."""

from vadprep.evaluation.alarms import write_alarms
from vadprep.evaluation.metrics import ALARM, METRICS, Metrics, VideoScores, listed
from vadprep.evaluation.plots import metric_rows, plot_scores, plot_video
from vadprep.evaluation.scores import (
    Origin,
    Scores,
    check_tested,
    evaluate,
    known_intervals,
    read_json,
    read_origin,
    read_scores,
    truth_of,
    videos_in_split,
    write_scores,
)

__all__ = [
    "ALARM",
    "METRICS",
    "Metrics",
    "Origin",
    "Scores",
    "VideoScores",
    "check_tested",
    "evaluate",
    "known_intervals",
    "listed",
    "metric_rows",
    "plot_scores",
    "plot_video",
    "read_json",
    "read_origin",
    "read_scores",
    "truth_of",
    "videos_in_split",
    "write_alarms",
    "write_scores",
]
