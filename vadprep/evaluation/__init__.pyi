from .alarms import write_alarms as write_alarms
from .metrics import (
    ALARM as ALARM,
    METRICS as METRICS,
    Metrics as Metrics,
    VideoScores as VideoScores,
    listed as listed,
)
from .plots import metric_rows as metric_rows, plot_scores as plot_scores, plot_video as plot_video
from .scores import (
    Origin as Origin,
    Scores as Scores,
    check_tested as check_tested,
    evaluate as evaluate,
    known_intervals as known_intervals,
    read_json as read_json,
    read_origin as read_origin,
    read_scores as read_scores,
    truth_of as truth_of,
    videos_in_split as videos_in_split,
    write_scores as write_scores,
)
