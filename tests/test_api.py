"""The Python API: every promised name is there, typed and documented, and loads nothing early."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import vadprep
from vadprep.extraction.options import FeatureOptions, PlanOptions

IN_MEMORY = FeatureOptions.__annotations__
FUNCTIONS = [name for name in vadprep.__all__ if inspect.isfunction(getattr(vadprep, name))]


def test_the_names_that_the_documents_promise_are_there() -> None:
    promised = (
        "extract extract_video open_features train score evaluate evaluate_online status verify "
        "merge import_features export_features read_manifest load_dataset find_videos "
        "plot_scores compare_features report live export_onnx"
    ).split()
    assert set(promised) == set(FUNCTIONS)
    with pytest.raises(AttributeError, match="attribute extrct"):
        vadprep.extrct  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_has_types_and_says_what_it_raises(name: str) -> None:
    function: Any = getattr(vadprep, name)
    signature = inspect.signature(function)
    untyped = [each for each, p in signature.parameters.items() if p.annotation is p.empty]
    assert not untyped and signature.return_annotation is not signature.empty
    assert "Raises" in inspect.getdoc(function)


def test_extraction_documents_each_of_its_options_and_refuses_others() -> None:
    documented = inspect.getdoc(vadprep.extract) or ""
    for name in (*inspect.signature(vadprep.extract).parameters, *PlanOptions.__annotations__):
        assert name == "options" or f":param {name}:" in documented
    assert all(f"``{name}``" in (vadprep.extract_video.__doc__ or "") for name in IN_MEMORY)
    with pytest.raises(TypeError, match="unexpected keyword argument 'weight'"):
        vadprep.extract("clips/", weight="random:0")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'workers'"):
        vadprep.extract_video("a.mp4", workers=1)  # type: ignore[call-arg]


def test_importing_it_loads_neither_torch_nor_ray_nor_matplotlib() -> None:
    code = "import vadprep, sys; vadprep.open_features, vadprep.SpecError; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "vadprep.features.reader" in loaded
    assert not {"torch", "ray", "matplotlib", "av", "decord", "click"} & set(loaded)
