"""Live sessions with a stand-in for the network, and what the same video scores offline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support.standin import standin_branch, standin_extractor, standin_spec

from vadprep.core.records import Task, Video
from vadprep.core.spec import Spec
from vadprep.extraction import Extractor, Stopwatch
from vadprep.heads import head_kind
from vadprep.online import LiveSession, Record, ScoreRecord, SourceRecord
from vadprep.online.alarms import AlarmRule
from vadprep.online.outputs import Outputs
from vadprep.online.source import parse_sources
from vadprep.training import Checkpoint


def make_checkpoint(streams: str = "rgb", **settings: object) -> Checkpoint:
    """An untrained head that looks at each snippet alone, on features of the stand-in."""
    names = ("rgb", "flow") if streams == "concat" else (streams,)
    specs = {name: standin_spec(name, **settings) for name in names}
    torch.manual_seed(0)
    kind = head_kind("sultani")
    network = kind.network(256 * len(specs), kind.config(scoring="snippets"), ()).eval()
    return Checkpoint("sultani", network, streams, specs, 0)


def start(
    checkpoint: Checkpoint,
    sources: object,
    rule: AlarmRule | None = None,
    network: Callable[[], object] | None = None,
    speed: float | None = None,
    stall_seconds: float = 5.0,
    **options: Any,
) -> LiveSession:
    """A session with one worker."""
    specs: Sequence[Spec] = list(checkpoint.specs.values())
    extractor = Extractor([standin_branch(spec, network and network()) for spec in specs])
    parsed = parse_sources(sources)  # type: ignore[arg-type]
    outputs = Outputs(parsed, rule or AlarmRule(), **options)
    return LiveSession([checkpoint], [extractor], parsed, 200, speed, stall_seconds, outputs)


def scores_of(records: Sequence[Record]) -> list[ScoreRecord]:
    return [each for each in records if isinstance(each, ScoreRecord)]


def states(records: Sequence[Record]) -> list[str]:
    return [each.state for each in records if isinstance(each, SourceRecord)]


def reasons(records: Sequence[Record], state: str) -> str:
    found = [r.reason for r in records if isinstance(r, SourceRecord) and r.state == state]
    return "\n".join(found)


def until(session: LiveSession, condition: Callable[[list[Record]], Any]) -> list[Record]:
    """The records up to the one that makes ``condition`` true."""
    records, stop = list[Record](), time.monotonic() + 60
    for record in session:
        records.append(record)
        if condition(records):
            return records
        assert time.monotonic() < stop, records
    raise AssertionError(records)


def offline(
    checkpoint: Checkpoint, path: Path
) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Scores and spans of a whole video by the extraction, through the type that is stored."""
    extractor = standin_extractor(*checkpoint.specs.values())
    video = Video(video_id="a", path=str(path), extra={})
    task = Task(video=video, source=path, targets=dict.fromkeys(checkpoint.specs, Path()))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in checkpoint.specs}
    decoder = "pyav" if path.suffix == ".ts" else ""  # which decord does not read
    with extractor.opened(video, path, decoder) as stream:
        for name, batch in extractor.features(task, stream, Stopwatch()):
            found[name].append(batch)
        spec = extractor.spec
        form = spec.tail, spec.clip_length, spec.clip_stride
        spans = extractor._resampling(stream).spans(stream.report.num_frames, *form)
    parts = [np.concatenate(each).astype(np.float16) for each in found.values()]
    snippets = torch.from_numpy(np.concatenate(parts, axis=2)).float().transpose(0, 1)
    with torch.inference_mode():
        scores = checkpoint.head.of_video(snippets).scores[0].numpy()
    return scores, [(first, stop) for first, stop in spans.tolist()]
