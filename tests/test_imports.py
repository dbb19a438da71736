"""Imports point down the ladder of rooms, and reading features needs neither torch nor Ray."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vadprep

PACKAGE = Path(vadprep.__file__).parent

LADDER = [
    {"core", "heads"},
    {"data", "backbones", "flow"},
    {"video", "features"},
    {"evaluation", "extraction"},
    {"training"},
    {"online"},
    {"cli"},
]
"""Rooms from the ground up: a room imports only from rows below its own."""

ALLOWED = {("heads", "core")}
"""Within a row."""

NEVER = {
    *(("features", room) for room in ("video", "backbones")),
    *(("evaluation", room) for room in ("video", "backbones")),
    *(("training", room) for room in ("extraction", "video", "backbones")),
}
NO_TORCH = {"core", "data", "features", "evaluation"}
"""Rooms that another project can use without torch."""

ROW_OF = {room: row for row, rooms in enumerate(LADDER) for room in rooms}
LIGHT = [
    *("features.reader", "data.manifest", "data.datasets", "core.spec", "features.shard"),
    *("features.status", "features.merge", "cli.main"),
    *("features.exchange.import_", "features.exchange.export", "features.compare.compare"),
]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported(path: Path) -> set[str]:
    """Dotted names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "vadprep" and len(parts) > 1 else ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rows_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert room in ROW_OF, f"{room} is no room"
    for name in imported(path):
        other = room_of(name)
        assert not (room in NO_TORCH and name.split(".")[0] == "torch"), f"{path} imports torch"
        if other in ROW_OF and other != room and (room, other) not in ALLOWED:
            assert ROW_OF[other] < ROW_OF[room], f"{path} imports {name}, up the ladder"
            assert (room, other) not in NEVER, f"{path} imports {name}"


@pytest.mark.parametrize("name", LIGHT)
def test_reading_needs_neither_torch_nor_ray(name: str) -> None:
    code = f"import sys, vadprep.{name}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "ray", "decord", "av", "rich", "matplotlib", "PIL"} & set(loaded)
    assert not heavy
    assert f"vadprep.{name}" in loaded


def test_all_is_checked_against_the_oldest_python() -> None:
    """mypy knows what each version's standard library holds; ruff goes by requires-python."""
    root = PACKAGE.parent
    settings = (root / "pyproject.toml").read_text()
    assert re.findall(r'requires-python = ">=(.+)"', settings) == ["3.10"]
    assert re.findall(r'python_version = "(.+)"', settings) == ["3.10"]
    assert "target-version" not in settings
    for path in (*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py")):
        ast.parse(path.read_text(), str(path), feature_version=(3, 10))


def test_no_two_test_files_have_one_name() -> None:
    """Test folders are no packages, so pytest stops at the second file of a name."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
