from .records import (
    AlarmRecord as AlarmRecord,
    Record as Record,
    ScoreRecord as ScoreRecord,
    SourceRecord as SourceRecord,
    as_json as as_json,
)
from .session import LiveSession as LiveSession, live as live
