"""Videos become features: one video in memory, or many into a folder, here or on a cluster."""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.extraction.api import VideoArrays, extract, extract_video
    from vadprep.extraction.dry_run import Estimate, estimate
    from vadprep.extraction.plan import ExtractionPlan, resolve_plan
    from vadprep.extraction.repeat import repeatable_specs
    from vadprep.extraction.run import OnReport, Progress, run_plan
    from vadprep.extraction.timing import StageSeconds, stage_seconds

__all__ = [
    "Estimate",
    "ExtractionPlan",
    "OnReport",
    "Progress",
    "StageSeconds",
    "VideoArrays",
    "estimate",
    "extract",
    "extract_video",
    "repeatable_specs",
    "resolve_plan",
    "run_plan",
    "stage_seconds",
]

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__ = lazy(
        __name__,
        {
            "dry_run": ["Estimate", "estimate"],
            "api": ["VideoArrays", "extract", "extract_video"],
            "plan": ["ExtractionPlan", "resolve_plan"],
            "repeat": ["repeatable_specs"],
            "run": ["OnReport", "Progress", "run_plan"],
            "timing": ["StageSeconds", "stage_seconds"],
        },
    )
