"""A tree of another code base -> a feature folder like any other, whose spec says what is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder
from vadprep.core.errors import FeaturesError, SpecError
from vadprep.core.records import Video
from vadprep.core.signals import check_stop, request_stop, stop_on_signals
from vadprep.core.spec import Spec
from vadprep.data import Manifest
from vadprep.features.exchange.arrays import read_features
from vadprep.features.exchange.layouts import LAYOUTS, read_tree
from vadprep.features.exchange.spans import (
    SEGMENTS,
    Length,
    fitted_spans,
    resampling,
    segment_spans,
    stretched_spans,
)
from vadprep.features.exchange.surveying import (
    SEGMENTED,
    Item,
    Request,
    notes_on,
    spec_of,
    surveyed,
)
from vadprep.features.folder import StreamFolder, read_provenance, read_spec
from vadprep.features.lease import Lease, leased
from vadprep.features.plan import Place
from vadprep.features.shard import Draft, write_failure
from vadprep.features.writer import StreamWriter


@dataclass(frozen=True)
class Imported:
    """What an import has made."""

    folder: StreamFolder
    missing: tuple[str, ...]
    """Ids of the manifest without files: not in the folder's plan."""
    others: tuple[str, ...]
    """Files under the root that no video of the manifest asked for."""
    notes: tuple[str, ...]
    """What to know of the features, a line each."""


def import_features(
    root: Path,
    manifest: Manifest,
    out: Path,
    request: Request,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Import the videos of ``manifest`` that have files under ``root`` into ``out``/<stream>.

    A video whose files are damaged or whose count of clips fits no tail rule fails with its
    reason, as in an extraction; the same command goes on after a stop and tries failed ones
    again. ``progress`` learns how many videos are done, and of how many. Raises FeaturesError
    when nothing can be imported, SpecError when ``out`` holds other features, LeaseError when
    another run works there, Stopped at a signal.
    """
    ids = [video.video_id for video in manifest.videos]
    tree = read_tree(root, LAYOUTS[request.layout], request.stream, ids)
    files = {video_id: crops for video_id in ids if (crops := tree.find(video_id))}
    path = out / request.stream
    origin = {"layout": request.layout, "root": str(root.resolve())}
    _check_origin(path, origin)
    settled = read_spec(path)
    request = replace(request, known={**_settled(settled), **request.known})
    videos = [video for video in manifest.videos if video.video_id in files]
    items = surveyed([(video, files[video.video_id]) for video in videos], request)
    spec = spec_of(items, request)
    folder = StreamFolder.prepare(path, spec, list(files), provenance={"imported": origin})
    with stop_on_signals(), leased(path, 0, 1, request_stop) as lease:
        writer = StreamWriter(folder, lease=lease)
        _Import(writer, request, items).run(lease, progress)
    missing = tuple(video_id for video_id in ids if video_id not in files)
    return Imported(folder, missing, tree.unused(files.values()), notes_on(items, spec))


def _check_origin(path: Path, origin: Mapping[str, str]) -> None:
    """Raise SpecError when ``path`` was made of other files: unknown fields would hide it."""
    before = read_provenance(path).get("imported")
    if read_spec(path) and before != origin:
        was = f"imported from {before['root']}" if before else "extracted"
        raise SpecError(f"{path}: holds features {was}: use another --out")


def _settled(spec: Spec | None) -> dict[str, Any]:
    """What an import found out before; it holds for the videos that come later, too."""
    return {} if spec is None else {"tail": spec.tail, "fps": spec.fps}


# ---------------------------------------------------------------- writing


class _Import:
    """Writes the items into a feature folder, one video in memory at a time."""

    def __init__(self, writer: StreamWriter, request: Request, items: Sequence[Item]) -> None:
        self.writer = writer
        self.folder = writer.folder
        self.request = request
        self.items = {item.video.video_id: item for item in items}

    def run(self, lease: Lease, progress: Callable[[int, int], None]) -> None:
        """Bring every shard to its final form; done videos stay, failed ones are tried again."""
        total = len(self.folder.plan.places)
        done = 0
        for shard, ids in enumerate(self.folder.plan.shards):
            lease.check()
            for position, video_id in enumerate(ids):
                self._import(video_id, Place(shard, position))
                check_stop()
                done += 1
                progress(done, total)
            self.writer.finish(shard)

    def _import(self, video_id: str, place: Place) -> None:
        """Write the video unless it is stored already; a kill may have cost its row alone."""
        item, row = self.items.get(video_id), self.writer.rows.get(video_id)
        exists = self.writer.is_finished(place)
        if item is None or (exists and row is not None and row.is_done):
            return
        if not exists or row is not None:
            self._write(item, self.folder.partial_video(place))
        self.writer.record(video_id)

    def _write(self, item: Item, target: Path) -> None:
        make_folder(target.parent)
        fps = item.video.fps
        known = item.video.attributes | ({} if fps is None else {"fps_source": fps})
        try:
            if item.problem:
                raise FeaturesError(item.problem)
            features = read_features(item.crops)
        except FeaturesError as error:
            write_failure(target, self.folder.spec, known, str(error))
            return
        spans = self._spans(item.video, len(features))
        known["num_frames"] = max(int(spans[-1, 1]), Length.of(item.video).least or 0)
        with Draft(target, self.folder.spec) as draft:
            draft.append(features)
            draft.commit(known, spans)

    def _spans(self, video: Video, clips: int) -> NDArray[np.int64]:
        """Source frames of the rows of a video that was surveyed without a problem."""
        length = Length.of(video)
        if not self.request.by_length:
            return fitted_spans(clips, length, resampling(video, self.request.fps_used))
        assert length.most is not None
        if self.request.layout == SEGMENTED and clips == SEGMENTS:
            return segment_spans(length.most)
        return stretched_spans(clips, length.most)
