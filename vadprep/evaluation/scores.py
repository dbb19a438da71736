"""Scores of whole videos: their file, where they come from, and how they are evaluated."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import lexists
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vadprep.core.arguments import PATH, TEXT, Kind, check_kind, check_kinds
from vadprep.core.array_files import DAMAGE, array_in, attributes_of, group_in, opened_hdf5
from vadprep.core.atomic import open_atomic
from vadprep.core.clips import COVERAGES, MOST_FRAMES, check_spans
from vadprep.core.errors import (
    CheckpointError,
    ManifestError,
    SettingError,
    allowed_are,
    counted,
)
from vadprep.core.log import get_logger
from vadprep.core.records import Interval, Video
from vadprep.core.untrusted import (
    MOST_BYTES as MOST_JSON_BYTES,
    malformed,
    parse_json,
    read_regular,
)
from vadprep.data import (
    Manifest,
    apply_splits,
    choose_manifest,
    frame_bounds,
    hint_of_ids,
    split_path,
    video_intervals,
)
from vadprep.evaluation.metrics import (
    SMOOTHED,
    Metrics,
    Truth,
    Values,
    VideoScores,
    compute_metrics,
    listed,
)
from vadprep.features import VideoFeatures

_LOG = get_logger(__name__)

LAST = "checkpoint-last"  # the checkpoint of the last step in a run folder
SCORES = "scores-last.h5"  # its scores of the test videos


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
        raise CheckpointError(f"{path}: not there; {_why_not_there(path)}") from None


def _why_not_there(path: Path) -> str:
    """What to do about a file that a run folder does not hold."""
    folder = path.parent
    if lexists(folder / "config.json") and not lexists(folder / f"{LAST}.json"):
        return "the training has not ended: give its command again, vadprep train with --resume"
    return f"is {folder} a run folder?"


@dataclass(frozen=True)
class Origin:
    """What scores and metrics come from, so that they are not taken for more than they are."""

    weights: Mapping[str, str]
    """Names of the weights behind the features, by stream."""
    control: bool = False
    """Trained on shuffled labels: a control, not a detector."""
    preset: str = ""
    """Preset that filled in unknown fields of the feature spec; blank for none."""

    @property
    def random_weights(self) -> bool:
        """True when a network behind the features was never trained."""
        return any(name.startswith("random:") for name in self.weights.values())

    def as_json(self) -> dict[str, Any]:
        """The part of metrics.json that names it."""
        known = {
            "weights": dict(self.weights),
            "random_weights": self.random_weights,
            "control": self.control,
        }
        return known | ({"preset": self.preset} if self.preset else {})

    def caution(self) -> str:
        """What has to be said beside every metric and plot; blank for an honest detector."""
        names = dict.fromkeys(self.weights.values())
        parts = [f"weights {name}, NEVER TRAINED" for name in names if name.startswith("random:")]
        if self.control:
            parts.append("CONTROL on shuffled labels, not a detector")
        if self.preset:
            parts.append(f"preset {self.preset} taken for what is unknown of the features")
        return "; ".join(parts)


@dataclass(frozen=True)
class Scores(Mapping[str, VideoScores]):
    """Scores of videos by id, and what they come from."""

    by_id: Mapping[str, VideoScores]
    origin: Origin
    from_preset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Stream -> the unknown fields of its spec that a preset filled in."""
    missing: tuple[str, ...] = ()
    """Ids of videos that were asked for and could not be decoded."""

    def __getitem__(self, video_id: str) -> VideoScores:
        return self.by_id[video_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_id)

    def __len__(self) -> int:
        return len(self.by_id)


def mean_scores(seeds: Sequence[Scores]) -> Scores:
    """The mean of the scores that each seed of a run gives the same videos; of one, itself.

    Ids, spans and origin are those of the first. Raises CheckpointError when the seeds have other
    classes.
    """
    scores = {}
    for video_id, first in seeds[0].items():
        found = [each[video_id] for each in seeds]
        if any(each.class_names != first.class_names for each in found):
            names = " / ".join(", ".join(each.class_names) or "none" for each in found)
            raise CheckpointError(f"{video_id}: the seeds have other classes: {names}")
        classes = [each.classes for each in found if each.classes is not None]
        overall = [each.overall for each in found if each.overall is not None]
        scores[video_id] = replace(
            first,
            snippets=np.mean([each.snippets for each in found], axis=0),
            overall=float(np.mean(overall)) if overall else None,
            classes=np.mean(classes, axis=0) if classes else None,
        )
    return replace(seeds[0], by_id=scores)


FORMAT = "vadprep-scores"
FORMAT_VERSION = 1
MOST_CLASSES = 1000


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
    tested = outside_training(truth, rows)
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


Timed = VideoScores | VideoFeatures
"""What holds the number of frames of a video and its rate."""


def truth_of(found: Mapping[str, Timed], manifest: Manifest) -> dict[str, Truth]:
    """What ``manifest`` says of videos, in its order.

    Raises ManifestError that lists ids it lacks, and for an interval past the end of a video.
    """
    videos = {video.video_id: video for video in manifest.videos if video.video_id in found}
    if unknown := found.keys() - videos.keys():
        others = {video.video_id for video in manifest.videos} - videos.keys()
        raise ManifestError(
            f"{manifest.path}: no row for scored videos: {listed(unknown)}: use the manifest of "
            f"the run, or add them{hint_of_ids(unknown, others, 'the manifest')}"
        )
    truth, notes, lengths = dict[str, Truth](), list[str](), list[str]()
    for video_id, video in videos.items():
        count, bounds = found[video_id].num_frames, frame_bounds(video)
        if not bounds.nearly_allow(count):
            lengths.append(f"{video_id!r} has {count}, the manifest says {bounds}")
        intervals = known_intervals(video, found[video_id], manifest.where(video), notes)
        label = video.label
        if label is None and intervals is not None:
            label = int(bool(intervals))
        truth[video_id] = Truth(intervals, label, video.category)
    if notes:
        _LOG.warning("%s past the end of a video: %s", counted(len(notes), "interval"), notes[0])
    if lengths:
        _LOG.warning(
            "%s: %s with another number of frames, such as %s: are they the same videos?",
            *(manifest.path, counted(len(lengths), "video"), lengths[0]),
        )
    return truth


def outside_training(truth: Mapping[str, Truth], manifest: Manifest) -> dict[str, Truth]:
    """``truth`` without the videos of split train: what was learnt from them judges nothing."""
    trained = {video.video_id for video in manifest.in_split("train")}
    return {video_id: each for video_id, each in truth.items() if video_id not in trained}


def known_truth(found: Mapping[str, Timed], manifest: Manifest) -> dict[str, Truth]:
    """``truth_of`` those videos that ``manifest`` has."""
    known = {video.video_id for video in manifest.videos}
    return truth_of({each: video for each, video in found.items() if each in known}, manifest)


def known_intervals(
    video: Video, found: Timed, where: str = "", notes: list[str] | None = None
) -> tuple[Interval, ...] | None:
    """Anomalous decoded frames of a video; none for a normal one, None where unknown.

    ``notes`` as of ``video_intervals``.
    """
    if video.label == 0:
        return ()
    return video_intervals(video, found.num_frames, found.clock, where, notes)


def write_scores(
    path: Path, scores: Mapping[str, VideoScores], origin: Origin, checkpoint: str
) -> None:
    """Write a scores file (see the README of this folder) at once.

    Attributes of the file are ``checkpoint`` and those of ``origin``, ``weights`` as JSON, and
    ``classes``, JSON with the names of classes, which all videos share, where there are some.
    Raises OutputError when the disk refuses.
    """
    buffer, names = io.BytesIO(), next((video.class_names for video in scores.values()), ())
    with h5py.File(buffer, "w") as file:
        file.attrs.update({"format": FORMAT, "version": FORMAT_VERSION, "checkpoint": checkpoint})
        file.attrs.update(origin.as_json() | {"weights": json.dumps(dict(origin.weights))})
        if names:
            file.attrs["classes"] = json.dumps({"names": names})
        for index, (video_id, video) in enumerate(scores.items()):
            group = file.create_group(f"{index:06d}")
            # Ids made of file names that are not UTF-8 keep their bytes, as in shards.
            name = video_id.encode("utf-8", "surrogateescape")
            group.attrs.create("video_id", name, dtype=h5py.string_dtype("utf-8"))
            group.attrs["num_frames"] = video.num_frames
            if video.fps is not None:
                group.attrs["fps"] = video.fps
            if video.overall is not None:
                group.attrs["overall"] = video.overall
            group.create_dataset("scores", data=video.snippets.astype(np.float64))
            group.create_dataset("spans", data=video.spans.astype(np.int64))
            if video.times is not None:
                group.create_dataset("times", data=video.times)
            if video.classes is not None:
                group.create_dataset("classes", data=video.classes.astype(np.float64))
    with open_atomic(path) as stream:
        stream.write(buffer.getvalue())


def read_scores(path: Path) -> Scores:
    """What ``write_scores`` wrote; raises CheckpointError for a missing or damaged file."""
    try:
        with opened_hdf5(path, CheckpointError) as file:
            known = attributes_of(file)
            found = (known.get("format"), known.get("version"))
            if found != (FORMAT, FORMAT_VERSION):
                raise CheckpointError(f"{path}: not a scores file of this version: {found}")
            weights = parse_json(str(known["weights"]), f"{path}: weights", CheckpointError)
            origin = Origin(
                {stream: str(name) for stream, name in weights.items()},
                bool(known["control"]),
                str(known.get("preset", "")),
            )
            where, stored = f"{path}: classes", known.get("classes")
            if stored is not None:
                stored = parse_json(str(stored), where, CheckpointError)["names"]
            names = class_names(stored, where)
            groups = (group_in(file, name) for name in file)
            scores = dict(_video_scores(group, names) for group in groups)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path}: scores are missing or damaged: not there; {_why_not_there(path)}"
        ) from None
    except DAMAGE as error:
        raise CheckpointError(f"{path}: scores are missing or damaged: {error}") from error
    return Scores(scores, origin)


def class_names(stored: object, where: str) -> tuple[str, ...]:
    """Names of classes from JSON; None has none. Raises CheckpointError, which begins with
    ``where``, unless they are different texts, at most ``MOST_CLASSES``, that UTF-8 can write."""
    if stored is None:
        return ()
    if not isinstance(stored, list) or not all(isinstance(each, str) for each in stored):
        raise CheckpointError(f"{where}: damaged: not a list of names")
    if not 0 < len(set(stored)) == len(stored) <= MOST_CLASSES:
        raise CheckpointError(f"{where}: damaged: {len(stored)} names, or one of them twice")
    if odd := [each for each in stored if each != each.encode("utf-8", "replace").decode()]:
        raise CheckpointError(f"{where}: damaged: {odd[0]!r} is no text")
    return tuple(stored)


def _video_scores(group: h5py.Group, names: tuple[str, ...]) -> tuple[str, VideoScores]:
    """Id and scores of a video; raises LookupError or ValueError unless they are sound."""
    known = attributes_of(group)
    num_frames, fps = int(known["num_frames"]), known.get("fps")
    spans = array_in(group, "spans", ("int64",), 2)[()]
    snippets = array_in(group, "scores", ("float64",), 1)[()]
    times = array_in(group, "times", ("float64",), 1)[()] if "times" in group else None
    classes = array_in(group, "classes", ("float64",), 2)[()] if names else None
    check_spans(spans, num_frames)
    arrays = (each for each in (snippets, times, classes) if each is not None)
    is_finite = all(np.isfinite(each).all() for each in arrays)
    if not is_finite or len(snippets) != len(spans):
        raise ValueError(f"{known['video_id']!r}: scores are not finite, or not one a span")
    if classes is not None and classes.shape != (len(spans), len(names)):
        raise ValueError(f"{known['video_id']!r}: classes {classes.shape}, not one a span and name")
    if num_frames > MOST_FRAMES or (times is not None and len(times) != num_frames + 1):
        raise ValueError(f"{known['video_id']!r}: num_frames is {num_frames}")
    if fps is not None and not 0 < float(fps) < 1e6:
        raise ValueError(f"{known['video_id']!r}: fps is {fps}")
    overall = float(known["overall"]) if "overall" in known else None
    rate = None if fps is None else float(fps)
    video = VideoScores(snippets, spans, num_frames, rate, overall, times, names, classes)
    return str(known["video_id"]), video
