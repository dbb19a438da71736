"""Runs with given scores, and videos for them, without any training."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.evaluation import Origin, VideoScores, write_scores

TRAINED = Origin({"rgb": "some-weights"})


def video_scores(
    snippets: list[float] | NDArray[np.float64], fps: float | None = 25.0, length: int = 16
) -> VideoScores:
    """Snippets of ``length`` frames each, without a rest."""
    edges = np.arange(len(snippets) + 1) * length
    spans = np.stack([edges[:-1], edges[1:]], axis=1).reshape(-1, 2)
    return VideoScores(np.asarray(snippets, dtype=float), spans, int(edges[-1]), fps)


def with_classes(
    values: list[list[float]] | NDArray[np.float64], names: Sequence[str], length: int = 16
) -> VideoScores:
    """Class scores [num_clips, num_classes]; the anomaly score is their highest."""
    classes = np.asarray(values, dtype=float)
    found = video_scores(classes.max(axis=1), length=length)
    return replace(found, class_names=tuple(names), classes=classes)


def write_run(
    folder: Path,
    scores: Mapping[str, VideoScores],
    origin: Origin = TRAINED,
    manifest: Path | None = None,
    streams: str = "rgb",
) -> Path:
    """A run folder with scores, and the manifest that it was trained with."""
    folder.mkdir(parents=True, exist_ok=True)
    write_scores(folder / "scores-last.h5", scores, origin, "checkpoint-last")
    source = {"manifest": str(manifest)} if manifest else {}
    (folder / "config.json").write_text(
        json.dumps({"head": "ddl", "source": source, "streams": streams})
    )
    return folder


def write_manifest(path: Path, rows: Mapping[str, tuple[str, str]]) -> Path:
    """A manifest of test videos: id -> path and frame intervals as JSON, ``[]`` for normal."""
    lines = ["video_id,path,split,label,category,intervals"]
    for video_id, (file, intervals) in rows.items():
        label, category = (0, "normal") if intervals == "[]" else (1, "fire")
        cells = [video_id, file, "test", str(label), category, intervals]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    path.write_text("\n".join(lines) + "\n")
    return path


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def data_of(page: Path) -> dict[str, Any]:
    """What a page holds; its markup is that of every page."""
    text = page.read_text()
    parser = Tags()
    parser.feed(text)
    assert parser.tags.count("script") == 4 and "img" not in parser.tags
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert found
    return json.loads(found[1])
