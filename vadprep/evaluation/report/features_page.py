"""The page of a feature folder: what is there, what failed, and which features look unusual."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder
from vadprep.core.errors import printable
from vadprep.core.records import Preview, Video, Wanted
from vadprep.evaluation.report.page import write_assets, write_page
from vadprep.features import Features, VideoFeatures, open_features, status
from vadprep.features.journal import Event

MOST_POINTS = 4_000
"""Clips in the projection, spread evenly over all videos."""
MOST_TIMES = 500
"""Points of the pace."""
NO_PREVIEW = Preview()
UNUSUAL = 5
"""Videos with the most unusual features that have a picture."""


def write_features_page(
    folder: Path, found: Mapping[str, Any], previews: Mapping[str, Preview]
) -> Path:
    """Write ``index.html`` from what ``look`` found, with the pictures of the unusual videos.

    Returns its path. Raises OutputError when the disk refuses, VadprepError where plotly is
    missing.
    """
    make_folder(folder)
    write_assets(folder)
    unusual = [
        row | {"picture": previews.get(row["id"], NO_PREVIEW).picture} for row in found["unusual"]
    ]
    title = f"vadprep: features {found['title']}"
    write_page(folder / "index.html", "features.js", title, {**found, "unusual": unusual})
    return folder / "index.html"


def look(source: str | Path) -> dict[str, Any]:
    """What the page shows of a feature folder; reads every feature once.

    Raises FeaturesError when there are no features, ShardError for a damaged file.
    """
    streams = [_stream(name, each) for name, each in status(source).items()]
    with open_features(source) as features:
        rows, points = _videos(features)
    return {
        "title": str(source),
        "streams": streams,
        "videos": rows,
        "points": points,
        "unusual": sorted(rows, key=lambda row: -(row["unusual"] or 0))[:UNUSUAL],
    }


def unusual_videos(found: Mapping[str, Any]) -> list[Wanted]:
    """The most unusual videos, to make pictures of: the clip that is least like its video."""
    return [
        Wanted(Video(row["id"], row["path"]), row["frames"], row["fps"], row["unusual_frame"])
        for row in found["unusual"]
    ]


def _stream(name: str, found: Any) -> dict[str, Any]:
    """Counts, failures by reason, seconds of each stage, and the pace of one stream."""
    events = list(found.folder.events())
    failures = Counter(_reason(row.video_id, row.reason) for row in found.failed)
    return {
        "name": name,
        "weights": found.spec.weights,
        "random": found.spec.is_random,
        "spec": {key: str(value) for key, value in found.spec.identity().items()},
        "counts": {
            "planned": found.planned,
            "done": found.done,
            "failed": len(found.failed),
            "running": len(found.running),
            "missing": len(found.missing),
            "clips": found.num_clips,
            "frames": found.num_frames,
            "repaired frames": found.repaired_frames,
        },
        "failures": failures.most_common(),
        "stages": _stages(events),
        "pace": _pace(events),
    }


def _reason(video_id: str, reason: str) -> str:
    """A reason without the name of its video, so that equal ones are counted together."""
    first, sign, rest = reason.partition(": ")
    names_video = bool(sign) and ("/" in first or reason.startswith(video_id))
    return printable(rest if names_video else reason)


def _stages(events: Sequence[Event]) -> dict[str, float]:
    """Seconds of each stage, summed over all videos."""
    seconds: Counter[str] = Counter()
    for event in events:
        seconds.update(event.seconds)
    return {name: round(value, 2) for name, value in seconds.items()}


def _pace(events: Sequence[Event]) -> list[list[float]]:
    """Hours since the first event, and the clips that were done by then."""
    ends = sorted((e.time, e.num_clips) for e in events if e.event == "committed" and e.is_end)
    if not ends:
        return [[], []]
    start = min(event.time for event in events)
    times, clips = np.array(ends).T
    kept = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), MOST_TIMES)).astype(int))
    hours = ((times - start) / 3600)[kept].round(5)
    return [hours.tolist(), np.cumsum(clips)[kept].tolist()]


def _videos(features: Features) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each video, and the projection of clips on the first two principal components."""
    step = max(1, -(-sum(features[each].num_clips for each in features) // MOST_POINTS))
    rows, means, sampled, owner, seen = [], [], [], list[int](), 0
    for number, video_id in enumerate(features):
        video = features[video_id]
        parts = [video.stream(each, allow_nan=True) for each in features.streams]
        values = np.concatenate(parts, axis=2)
        row, clips = _row(video_id, video, values.astype(np.float32))
        rows.append(row)
        means.append(clips.mean(axis=0) if len(clips) else np.zeros(values.shape[2], np.float32))
        sampled.append(clips[-seen % step :: step])
        owner += [number] * len(sampled[-1])
        seen += len(clips)
    if not rows:
        return [], {"x": [], "y": [], "video": []}
    middle = np.stack(means)
    spread = middle.std(axis=0)
    known = spread > 1e-6 * max(float(spread.max()), 1e-12)
    for row, mean in zip(
        rows, (middle - middle.mean(axis=0))[:, known] / spread[known], strict=True
    ):
        row["unusual"] = round(float(np.sqrt(np.mean(mean**2))), 3) if mean.size else 0.0
    x, y = _projected(np.concatenate(sampled)).T.round(4).tolist()
    return rows, {"x": x, "y": y, "video": owner}


def _row(
    video_id: str, video: VideoFeatures, values: NDArray[np.float32]
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Counts of one video, and its clips of the first crop; what is not finite counts as 0."""
    finite = np.isfinite(values).all(axis=(1, 2))
    values = np.where(np.isfinite(values), values, 0)
    clips, norms = values[:, 0], np.linalg.norm(values, axis=2)
    cosines = (values[:, :1] * values[:, 1:]).sum(axis=2) / np.maximum(
        norms[:, :1] * norms[:, 1:], 1e-12
    )
    far = np.linalg.norm(clips - clips.mean(axis=0), axis=1).argmax() if len(clips) else 0
    row = {
        "id": video_id,
        "path": str(video.attributes.get("path", video_id)),
        "label": video.label,
        "category": video.category,
        "clips": len(values),
        "frames": video.num_frames,
        "fps": video.fps,
        "seconds": video.clock and round(video.clock.seconds(video.num_frames), 2),
        "not_finite": int(np.sum(~finite)),
        "constant": int((values.std(axis=2) == 0).all(axis=1).sum()),
        "duplicates": int((values[1:] == values[:-1]).all(axis=(1, 2)).sum()),
        "norms": norms.mean(axis=0).round(3).tolist() if len(values) else [],
        "cosine": round(float(cosines.mean()), 4) if cosines.size else None,
        "unusual_frame": int(video.spans[far, 0]) if len(clips) else 0,
    }
    return row, clips


def _projected(clips: NDArray[np.float32]) -> NDArray[np.float64]:
    """Clips [n, dim] on their first two principal components: float64 [n, 2]."""
    centred = clips.astype(np.float64) - clips.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, :-3:-1]
