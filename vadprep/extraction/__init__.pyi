from .api import VideoArrays as VideoArrays, extract as extract, extract_video as extract_video
from .dry_run import Estimate as Estimate, estimate as estimate
from .extractor import (
    Extractor as Extractor,
    fixed_threads as fixed_threads,
    make_extractor as make_extractor,
)
from .plan import ExtractionPlan as ExtractionPlan, resolve_plan as resolve_plan
from .run import OnReport as OnReport, Progress as Progress, run_plan as run_plan
from .streams import Branch as Branch, Snippets as Snippets
from .timing import (
    StageSeconds as StageSeconds,
    Stopwatch as Stopwatch,
    stage_seconds as stage_seconds,
)
