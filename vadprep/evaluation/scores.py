"""Scores of whole videos, what they come from, and their file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vadprep.core.array_files import DAMAGE, array_in, attributes_of, group_in, opened_hdf5
from vadprep.core.atomic import open_atomic
from vadprep.core.clips import MOST_FRAMES, check_spans
from vadprep.core.errors import CheckpointError
from vadprep.core.untrusted import parse_json
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.run_files import why_not_there

FORMAT = "vadprep-scores"
FORMAT_VERSION = 1
MOST_CLASSES = 1000


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
            f"{path}: scores are missing or damaged: not there; {why_not_there(path)}"
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
