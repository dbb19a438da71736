"""Training: features become bags, a head is trained on them, and scores are made by it."""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.training.checkpoint import Checkpoint, load_checkpoint, load_run
    from vadprep.training.recipes import RECIPES
    from vadprep.training.results import TrainingRun
    from vadprep.training.run import train
    from vadprep.training.scoring import score_features

__all__ = [
    "RECIPES",
    "Checkpoint",
    "TrainingRun",
    "load_checkpoint",
    "load_run",
    "score_features",
    "train",
]

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__ = lazy(
        __name__,
        {
            "checkpoint": ["Checkpoint", "load_checkpoint", "load_run"],
            "recipes": ["RECIPES"],
            "results": ["TrainingRun"],
            "scoring": ["score_features"],
            "run": ["train"],
        },
    )
