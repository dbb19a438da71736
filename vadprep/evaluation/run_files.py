"""The files of a run folder: where they are, and what they record."""

from __future__ import annotations

import re
from os.path import lexists
from pathlib import Path
from typing import Any

from vadprep.core.clips import COVERAGES
from vadprep.core.errors import CheckpointError
from vadprep.core.untrusted import (
    MOST_BYTES as MOST_JSON_BYTES,
    malformed,
    parse_json,
    read_regular,
)
from vadprep.data import Manifest, apply_splits, choose_manifest, split_path

LAST = "checkpoint-last"
"""The checkpoint of the last step, without the ending of its files."""
SCORES = "scores-last.h5"
"""Its scores of the test videos."""
MOST_BYTES = 1 << 30
"""Of a file of a run folder."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError naming the file when it is missing or damaged."""
    return parse_json(read_bytes(path, MOST_JSON_BYTES), path, CheckpointError)


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """A file of a run folder; raises CheckpointError when it is missing or cannot be read."""
    try:
        return read_regular(path, CheckpointError, most_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: not there; {why_not_there(path)}") from None


def why_not_there(path: Path) -> str:
    """What to do about a file that a run folder does not hold."""
    folder = path.parent
    if lexists(folder / "config.json") and not lexists(folder / f"{LAST}.json"):
        return "the training has not ended: give its command again, vadprep train with --resume"
    return f"is {folder} a run folder?"


def recorded_coverage(run: Path) -> str:
    """What frames after the last span score in the training of a run; ``cut`` where none is known.

    Raises CheckpointError for a damaged config.json.
    """
    path = next(iter(seed_folders(run).values()), run) / "config.json"
    if not lexists(path):
        return COVERAGES[0]
    with malformed(path, CheckpointError):
        coverage = read_json(path).get("coverage", COVERAGES[0])
        if coverage not in COVERAGES:
            raise ValueError(f"{coverage = }")
    return str(coverage)


def recorded_source(run: Path) -> dict[str, Any]:
    """What named the manifest of a run: ``dataset``, ``manifest`` and ``split_file``, None if not
    given. CheckpointError when it is not recorded, or the manifest does not exist any more."""
    path = next(iter(seed_folders(run).values()), run) / "config.json"
    with malformed(path, CheckpointError):
        source = dict(read_json(path).get("source", {}))
        names = ("dataset", "split_file", "manifest")
        found = {name: str(source[name]) if source.get(name) else None for name in names}
    if not source:
        raise CheckpointError(f"{path}: names no manifest: name it by --manifest")
    manifest = found["manifest"]
    if manifest and not Path(manifest).is_file():
        raise CheckpointError(
            f"{manifest}: the manifest of {run} is not there any more: name it by --manifest"
        )
    return found | {"manifest": Path(manifest) if manifest else None}


def recorded_manifest(run: Path) -> Manifest:
    """The manifest that a run was trained with; raises as ``recorded_source`` and as reading it."""
    source = recorded_source(run)
    manifest = choose_manifest(source["dataset"], source["manifest"], with_paths=False)
    split = source["split_file"]
    return apply_splits(manifest, split_path(split)) if split else manifest


def seed_folders(folder: Path) -> dict[int, Path]:
    """Run folders of single seeds in the folder of a run of several, by seed, in order."""
    found = {path.name.removeprefix("seed-"): path for path in folder.glob("seed-*")}
    seeds = [seed for seed in found if re.fullmatch("[0-9]{1,10}", seed)]
    return {int(seed): found[seed] for seed in sorted(seeds, key=int)}
