from .records import (
    AlarmRecord as AlarmRecord,
    Record as Record,
    ScoreRecord as ScoreRecord,
    SourceRecord as SourceRecord,
    as_json as as_json,
)
from .run_plan import plan_for_run as plan_for_run
from .session import LiveSession as LiveSession, live as live
