"""The extraction that a trained run asks for: its own specs, on this machine."""

from __future__ import annotations

from pathlib import Path

import torch

from vadprep.backbones import graph_of
from vadprep.extraction import ExtractionPlan, resolve_plan
from vadprep.training import Checkpoint, check_dimension, check_features


def plan_for_run(
    run: Checkpoint,
    out: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    preset: str | None = None,
    device: str | None = None,
) -> ExtractionPlan:
    """The plan to make features for ``run``, by one worker, in ``out`` or in memory.

    The arguments are those of ``vadprep.score``. Raises what ``resolve_plan`` raises, and
    CheckpointError when the features would not be those that the run was trained on.
    """
    plan = resolve_plan(
        out,
        specs=run.specs,
        preset=preset,
        weights=weights,
        flow_weights=flow_weights,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        workers=1,
    )
    made = {spec.stream: spec for spec in plan.specs}
    check_features(run, made, "extracting for the run", preset=preset)
    if preset:  # what a preset fills in may name another network
        check_dimension(run, {spec.graph: graph_of(spec.graph).dim for spec in plan.specs})
    return plan
