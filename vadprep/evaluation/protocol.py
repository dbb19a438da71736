"""The protocol: of which videos, under which ground truth, scores are evaluated."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from os.path import lexists
from pathlib import Path
from typing import Any

from vadprep.core.arguments import PATH, TEXT, Kind, check_kind, check_kinds
from vadprep.core.clips import COVERAGES
from vadprep.core.errors import (
    CheckpointError,
    ManifestError,
    SettingError,
    allowed_are,
    counted,
)
from vadprep.core.log import get_logger
from vadprep.core.untrusted import malformed
from vadprep.data import Manifest, choose_manifest, hint_of_ids
from vadprep.evaluation.metrics import (
    SMOOTHED,
    Metrics,
    Truth,
    Values,
    VideoScores,
    compute_metrics,
    listed,
)
from vadprep.evaluation.run_files import (
    SCORES,
    read_json,
    recorded_coverage,
    recorded_manifest,
    seed_folders,
)
from vadprep.evaluation.scores import read_scores
from vadprep.evaluation.truth import outside_training, truth_of

_LOG = get_logger(__name__)

MANIFEST = PATH._replace(words="a manifest, or the path of its CSV", types=(*PATH.types, Manifest))
KINDS = {
    "manifest": MANIFEST,
    **dict.fromkeys(("dataset", "coverage", "smoothing"), TEXT),
}
SCORES_KIND = PATH._replace(
    words="scores by video id, a scores file, or a run folder", types=(*PATH.types, Mapping)
)
OF_VIDEO = Kind("VideoScores", (VideoScores,))


def evaluate(
    scores: Mapping[str, VideoScores] | str | os.PathLike[str],
    *,
    dataset: str | None = None,
    manifest: Manifest | str | Path | None = None,
    coverage: str | None = None,
    smoothing: str = "",
) -> Metrics:
    """Metrics of scores against the ground truth of the same videos, as fractions of 1.

    :param scores: by video id, a scores file such as ``RUN/scores-last.h5``, or the run folder of
        a seed. That folder must hold the scores of split test. Metrics under the protocol of a
        single paper need the network: they are those of the run, if the ground truth is the same
    :param dataset: an included data set with the ground truth
    :param manifest: a manifest with it, opened, or the path of its CSV. A run folder has its own
    :param coverage: what frames after the last span score: ``cut`` or ``hold``; by default as in
        the training of the run, else ``cut``
    :param smoothing: a rule such as ``slide-7``: ``protocols`` of the result has the metrics of
        smoothed scores, too

    Videos of split train are left out, and a warning counts them, unless there are no others.
    Raises CheckpointError for a file that is missing or damaged and for a folder of several seeds,
    SettingError for other arguments than these, and as ``truth_of`` does.
    """
    given = {"manifest": manifest, "dataset": dataset, "coverage": coverage, "smoothing": smoothing}
    check_kinds(KINDS, given)
    check_kind("scores", scores, SCORES_KIND)
    if coverage and coverage not in COVERAGES:
        raise SettingError(f"{coverage = }: {allowed_are(coverage, COVERAGES)}")
    folder, path = None, Path()
    if not isinstance(scores, Mapping):
        path = Path(scores)
        if not path.is_file() and path.suffix != ".h5":
            folder, path = path, path / SCORES
    if folder and (seeds := [*seed_folders(folder).values()]):
        raise CheckpointError(f"{folder}: holds several seeds: name one, such as {seeds[0]}")
    if folder and dataset is None and manifest is None:
        rows = recorded_manifest(folder)
    else:
        rows = choose_manifest(dataset, manifest, with_paths=False)
    if not isinstance(scores, Mapping):
        scores = read_scores(path)
    for video_id, each in scores.items():
        check_kind(f"scores of {video_id!r}", each, OF_VIDEO)
    if folder:
        _require_test_split(folder, scores, rows)
    truth = truth_of(scores, rows)
    tested = outside_training(truth, rows.videos)
    if tested and len(tested) < len(truth):
        count = counted(len(truth) - len(tested), "video")
        _LOG.warning("%s: %s of split train left out", rows.path, count)
        truth, scores = tested, {video_id: scores[video_id] for video_id in tested}
    coverage = coverage or (recorded_coverage(folder) if folder else COVERAGES[0])
    metrics = compute_metrics(scores, truth, coverage, smoothing)
    if folder and lexists(folder / "metrics.json"):
        return _with_saved_protocols(metrics, folder / "metrics.json", scores, truth)
    return metrics


def _require_test_split(folder: Path, scores: Collection[str], rows: Manifest) -> None:
    """Raise ManifestError unless a run has ``scores`` of the test videos of ``rows`` and of no
    others, but for those that had no features when it was made."""
    path, missing = folder / "config.json", set[str]()
    if lexists(path):
        with malformed(path, CheckpointError):
            missing = {str(each) for each in read_json(path).get("missing", ())}
    tests = {video.video_id for video in rows.in_split("test")}
    known = {video.video_id for video in rows.videos}
    for ids, what in (
        (known & set(scores) - tests, "scored videos of another split than test"),
        (tests - set(scores) - missing, "videos of split test without scores"),
    ):
        if ids:
            raise ManifestError(
                f"{rows.path}: column 'split': {what}: {listed(ids)}: metrics would be those "
                "of another set: use the manifest of the run, or correct the column"
                + hint_of_ids(ids, set(scores) - known, "the scores")
            )


def _with_saved_protocols(
    metrics: Metrics,
    path: Path,
    scores: Mapping[str, VideoScores],
    truth: Mapping[str, Truth],
) -> Metrics:
    """``metrics`` with those under protocols of single papers that metrics.json, ``path``, has.

    Where they do not hold any more, the reason.
    """
    with malformed(path, CheckpointError):
        saved = read_json(path)["last"]
        held = protocols_that_hold(saved, scores, truth)
        if metrics.coverage != saved.get("coverage"):  # smoothed scores are judged under it, too
            held = {name: held[name] for name in held if not name.startswith(SMOOTHED)}
        protocols = {**held, **metrics.protocols}
        reason = "only known on the manifest of the training, see metrics.json of the run"
        gone = {
            name: "ask for it by --smoothing" if name.startswith(SMOOTHED) else reason
            for name in saved.get("protocols", {})
            if name not in protocols
        }
    return replace(metrics, protocols=protocols, reasons={**metrics.reasons, **gone})


def protocols_that_hold(
    saved: Mapping[str, Any], scores: Mapping[str, VideoScores], truth: Mapping[str, Truth]
) -> Mapping[str, Values]:
    """Metrics under protocols of single papers in an entry of metrics.json, made from ``scores``.

    None unless all else in the entry is what the ground truth gives now, numbers to 1e-9.
    """
    found = {name: dict(values) for name, values in saved.get("protocols", {}).items()}
    if not found:
        return {}
    now = replace(compute_metrics(scores, truth, saved["coverage"]), protocols=found)
    return found if same_entry({**saved, **now.as_json()}, saved) else {}


def same_entry(one: object, other: object) -> bool:
    """True when two entries of metrics.json are equal, their numbers to 1e-9."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=1e-9)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_entry(one[k], other[k]) for k in one)
    return one == other
