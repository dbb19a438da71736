"""Tensor names."""
from __future__ import annotations
from pathlib import Path
from torch import Tensor
from vadprep.records import WeightsError
def canonical_state(path: Path, graph: str) -> tuple[dict[str, Tensor], str]:
    raise WeightsError(f"{path}: not yet")
