"""Which engines computed the features of a folder, and what it means when they are several."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_events, run_events

AGREEMENT = "they agree to about 1e-4 in fp32, not to the byte"


def engines_of(folder: StreamFolder, done: Collection[str]) -> set[str]:
    """Names and versions of the engines that made the videos ``done``, as ``torch 2.14.1``.

    The events say which run has committed a video last, and by what; for what they do not know,
    spec.json says what began the folder. Events at a URL are not read. Empty where nothing is done,
    and for imported features. Raises FeaturesError for damaged events.
    """
    made_by = recorded_engines(folder.provenance)
    if not (done and isinstance(folder.path, Path)):
        return made_by if done else set()
    if len(made_by | {run.engine for run in run_events(folder.path)} - {""}) < 2:
        return made_by
    engines = _last_engines(folder.path)
    found = {engines.get(video_id, "") for video_id in done}
    return found - {""} | (made_by if "" in found else set())


def _last_engines(path: Path) -> dict[str, str]:
    """Video id -> the engine of the run that committed it last; blank where it named none."""
    last: dict[str, tuple[float, str]] = {}
    engine = ""
    for event in read_events(path):  # rank by rank, and each begins with a run
        if event.event == "run":
            engine = event.engine
        elif event.event == "committed" and not event.recovered:
            last[event.video_id] = max((event.time, engine), last.get(event.video_id, (0.0, "")))
    return {video_id: engine for video_id, (_, engine) in last.items()}


def recorded_engines(provenance: Mapping[str, Any]) -> set[str]:
    """The engines that the provenance of a folder names: several where folders were merged."""
    if isinstance(merged := provenance.get("repacked"), dict):
        parts = (each for each in merged.values() if isinstance(each, dict))
        return set().union(*map(recorded_engines, parts))
    if isinstance(several := provenance.get("engines"), list):
        return set(map(str, several))
    engine, torch = provenance.get("engine"), provenance.get("torch")
    if not engine and torch:
        engine = f"an older vadprep with torch {torch}"
    return {str(engine)} if engine else set()


def mixture(engines: Collection[str]) -> str:
    """One line on features of several engines: what that means, and what to do; else empty."""
    if len(engines) < 2:
        return ""
    names = ", ".join(sorted(engines))
    return (
        f"the features were made by {names}: {AGREEMENT}; to have them of one engine, extract "
        "again into another --out"
    )
