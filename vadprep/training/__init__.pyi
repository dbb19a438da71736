from .checkpoint import (
    Checkpoint as Checkpoint,
    Run as Run,
    check_dimension as check_dimension,
    check_features as check_features,
    load_checkpoint as load_checkpoint,
    load_run as load_run,
)
from .online import OnlineEvaluation as OnlineEvaluation, evaluate_online as evaluate_online
from .recipes import RECIPES as RECIPES
from .results import TrainingRun as TrainingRun
from .run import train as train
from .scoring import score_features as score_features, score_newest as score_newest
