"""Imports point one way, and reading features needs neither torch nor Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vadprep

PACKAGE = Path(vadprep.__file__).parent

ROWS = [
    ["records"],
    [
        *("files", "remote", "signals", "sources", "stopwatch", "machine"),
        *("clips", "costs", "crops", "figures"),
    ],
    ["appended", "hdf5", "known", "spec", "stages"],
    ["shards", "manifest", "presets", "lease", "claims"],
    ["journal", "datasets", "download", "groundtruth"],
    ["folder", "truth_check"],
    ["remote_folder"],
    ["features", "pace", "ranks", "standing"],
    ["legacy", "repack", "status", "verify"],
    ["compare"],
    ["decoders", "backbones", "fitting", "flow", "views"],
    ["decoding", "snippets", "tensorboard"],
    ["decode", "sampling", "batching", "logs"],
    ["extract", "metrics", "mil", "kinetics"],
    ["bags", "checkpoint", "tasks", "workload", "probe"],
    ["driver"],
    ["score", "dispatch", "settings"],
    ["cluster", "subsampled"],
    ["snapshots"],
    ["fit", "outcome"],
    ["runner", "train"],
    ["tables", "report", "scenery", "bar"],
    [
        *("alarms", "progress", "estimate", "bench", "scene"),
        *("bench_flow", "bench_memory", "bench_plan", "bench_train"),
    ],
    ["bench_workers", "demo", "doctor", "recipes"],
    ["options"],
    [
        *("cli_exchange", "cli_features", "cli_models", "cli_protocol"),
        *("cli_score", "cli_shards", "cli_tools", "cli_weights"),
    ],
    ["cli"],
]
"""Modules from the bottom up: each imports only from rows below its own, or from its package."""

ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
LIGHT = [
    *("features", "manifest", "datasets", "spec", "shards", "status", "verify", "repack", "driver"),
    "cli",
    *("legacy.importing", "legacy.exporting", "compare.comparing"),
]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Parts of the package that a module imports, wherever in it, but for type checkers only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vadprep"):
            _, _, rest = (node.module or "").partition(".")
            names = [rest] if rest else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return found - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: part_of(path))
def test_a_module_imports_only_from_rows_below(path: Path) -> None:
    part = part_of(path)
    assert part in ROW_OF, f"{part} has no row: give it one"
    wrong = [each for each in imported(path) - {part} if ROW_OF[each] >= ROW_OF[part]]
    assert not wrong, f"{part} imports {wrong}, which stand in its row or above"


@pytest.mark.parametrize("name", LIGHT)
def test_reading_needs_neither_torch_nor_ray(name: str) -> None:
    code = f"import sys, vadprep.{name}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "ray", "decord", "av", "rich", "matplotlib", "PIL"} & set(loaded)
    assert not heavy
    assert f"vadprep.{name}" in loaded
