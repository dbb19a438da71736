"""The files of a run folder: where they lie, and what to do about one that is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vadprep.core.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError naming the file when it is missing or damaged."""
    try:
        record = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, not JSON: {error}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: damaged, not a JSON object")
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; {why_not_there(path)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def why_not_there(path: Path) -> str:
    """What to do about a file that a run folder does not hold."""
    folder = path.parent
    if (folder / "config.json").exists() and not (folder / f"{LAST}.json").exists():
        return "the training has not ended: go on with the same vadprep train ... --resume"
    return f"is {folder} a run folder?"


LAST = "checkpoint-last"
