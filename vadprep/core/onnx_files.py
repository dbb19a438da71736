"""ONNX files: written when onnxruntime has given what the network gave, else not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep import __version__
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import ExportError

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest value of an output, or of 1 if that is less."""

OPSET = 18
"""Version of the operators: the lowest that the exporter of torch writes by itself."""

Arrays = Mapping[str, NDArray[Any]]


class Case(NamedTuple):
    """Inputs by name, and the outputs that they must give."""

    inputs: Arrays
    outputs: Arrays


def write_onnx(path: Path, model: Any, metadata: Mapping[str, str], cases: Iterable[Case]) -> float:
    """Write ``model``, an ``onnx.ModelProto``, with ``metadata``; returns the largest difference.

    ``cases`` are run in onnxruntime first. Raises ExportError when a difference is larger than
    ``TOLERANCE``: nothing is written then, and a file of an earlier export is removed. Raises
    OutputError when the disk refuses.
    """
    import onnx

    model.producer_name, model.producer_version = "vadprep", __version__
    model.doc_string = metadata.get("caution", "")
    onnx.helper.set_model_props(model, dict(metadata))
    content, worst = model.SerializeToString(), 0.0
    session = session_of(content)
    for case in cases:
        found = session.run(list(case.outputs), dict(case.inputs))
        for name, got in zip(case.outputs, found, strict=True):
            apart = difference(got, case.outputs[name])
            worst = max(worst, apart)
            if not apart <= TOLERANCE:
                path.unlink(missing_ok=True)
                shapes = ", ".join(f"{n} {list(each.shape)}" for n, each in case.inputs.items())
                raise ExportError(
                    f"{path}: not written: {name} of {shapes} differs by {apart:.2g} from that of "
                    f"torch, allowed are {TOLERANCE:g}: try other versions of onnxruntime and torch"
                )
    with open_atomic(path) as stream:
        stream.write(content)
    return worst


def session_of(content: bytes) -> Any:
    """An onnxruntime session of a model on the CPU, which says nothing but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def difference(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference as a share of the largest value, or of 1; infinite for another shape or
    values that are no numbers."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    if not expected.size:
        return 0.0
    return float(np.abs(got - expected).max() / max(1.0, np.abs(expected).max()))
