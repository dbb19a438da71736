"""The words that all rooms share: records, errors, specs and presets, clips and crops, files.

Every module here may be imported by every room, for example ``vadprep.core.clips``.
"""

from vadprep.core.errors import VadprepError
from vadprep.core.presets import PRESETS, Preset, resolve
from vadprep.core.records import Interval, Report, Task, Video
from vadprep.core.spec import STREAMS, UNKNOWN, Spec

__all__ = [
    "PRESETS",
    "STREAMS",
    "UNKNOWN",
    "Interval",
    "Preset",
    "Report",
    "Spec",
    "Task",
    "VadprepError",
    "Video",
    "resolve",
]
