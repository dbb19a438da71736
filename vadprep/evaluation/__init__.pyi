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
from .scores import (
    Origin as Origin,
    Scores as Scores,
    evaluate as evaluate,
    known_intervals as known_intervals,
    read_json as read_json,
    read_scores as read_scores,
    seed_folders as seed_folders,
    truth_of as truth_of,
    write_scores as write_scores,
)
