from .metrics import (
    ALARM as ALARM,
    METRICS as METRICS,
    Metrics as Metrics,
    VideoScores as VideoScores,
    listed as listed,
)
from .plots import (
    metric_rows as metric_rows,
    plot_scores as plot_scores,
    plot_video as plot_video,
    write_alarms as write_alarms,
)
from .protocol import evaluate as evaluate
from .run_files import read_json as read_json, seed_folders as seed_folders
from .scores import (
    Origin as Origin,
    Scores as Scores,
    read_scores as read_scores,
    write_scores as write_scores,
)
from .truth import known_intervals as known_intervals, truth_of as truth_of
