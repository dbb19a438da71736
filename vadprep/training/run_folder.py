"""The folder of a run: whose it is, and whether a training may go on in it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os.path import lexists
from pathlib import Path
from typing import Any

from vadprep.core.atomic import make_folder, write_json
from vadprep.core.errors import CheckpointError
from vadprep.core.untrusted import malformed
from vadprep.evaluation.run_files import LAST, read_json, seed_folders
from vadprep.training.loop import RESUME, STEPS

PROVENANCE = {"source", "threads"}  # of config.json: a run may go on under others


def check_seeds(out: Path, seeds: Sequence[int], resume: bool) -> None:
    """Raise CheckpointError unless metrics.json will cover every seed that ``out`` then holds."""
    if len(seeds) > 1 and lexists(out / "config.json"):
        raise CheckpointError(f"{out}: holds a run of one seed: use another --out")
    found = seed_folders(out)
    if found and not (resume and len(seeds) > 1 and found.keys() <= set(seeds)):
        there, asked = (",".join(map(str, each)) for each in (found, seeds))
        raise CheckpointError(
            f"{out}: holds seeds {there}, asked for {asked}: use another --out, or --resume "
            f"with all those seeds and any more"
        )


@contextmanager
def claimed(folder: Path, record: Mapping[str, Any], resume: bool) -> Iterator[None]:
    """Make ``folder`` the place of this run; raises CheckpointError if it is another's.

    A training that ends before anything of an epoch is saved leaves nothing.
    """
    path = folder / "config.json"
    if not lexists(path) and not lexists(folder / RESUME):
        make_folder(folder)
        write_json(path, record)
    elif not resume:
        raise CheckpointError(f"{folder}: holds a run already: use --resume or another --out")
    else:
        found = read_json(path)
        if differing := differences(found, record):
            if len(differing) > 9:
                differing[8:] = [f"and {len(differing) - 8} more"]
            raise CheckpointError(
                f"{folder}: holds another run (there / asked for): {'; '.join(differing)}. Use the "
                f"same settings, or another --out"
            )
        with malformed(path, CheckpointError):
            threads = dict.fromkeys([*found.get("threads", []), *record["threads"]])
        updated = {**found, "source": record["source"], "threads": list(threads)}
        if updated != found:
            write_json(path, updated)
    try:
        yield
    except BaseException:
        if not any(lexists(folder / name) for name in (STEPS, RESUME, f"{LAST}.json")):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other files are there, or it is the current folder
                folder.rmdir()
        raise


def differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``config.epochs: 30 / 4`` for each field in which two config.json differ."""
    lines = []
    for name in dict.fromkeys([*found, *asked]):
        one, other = found.get(name), asked.get(name)
        if name in PROVENANCE or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: {reprlib.repr(one)} / {reprlib.repr(other)}")
    return lines
