"""Feature folders -> a new one: shards of another size, or several folders joined.

Finished videos, done or failed, are copied as they are, shard by shard, and every checksum is
compared on the way. The sources are only read. A video that no source has finished stays in the
plan, so that extract can go on in the new folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vadprep.core.atomic import remove_stale
from vadprep.core.errors import FeaturesError, SpecError
from vadprep.core.signals import check_stop, request_stop, stop_on_signals
from vadprep.core.spec import STREAMS, differences, require_shared
from vadprep.features.folder import (
    StreamFolder,
    check_writable,
    read_provenance,
    read_shard_size,
    read_spec,
    required_folders,
)
from vadprep.features.journal import read_rows
from vadprep.features.lease import leased
from vadprep.features.plan import Place
from vadprep.features.reader import StreamReader
from vadprep.features.remote import AnyPath, as_path
from vadprep.features.shard import StoredVideo
from vadprep.features.writer import StreamWriter

GO_ON = "the shards that are written stay, run the same command again"
NAMED = 10
"""Ids that an error lists before it says how many more there are."""


def merge(
    sources: Sequence[str | AnyPath],
    out: str | Path,
    *,
    shard_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[StreamFolder]:
    """Copy the features in ``sources`` into ``out``/rgb, ``out``/flow: the folders it makes.

    ``shard_size`` is in videos, by default that of the first source. A video that is in several
    sources is taken once. ``progress`` learns how many videos are settled, and of how many. The
    same call goes on after any stop. Raises FeaturesError when a source holds no features, when
    two sources have different features of one video, or when ``out`` is a source or holds
    something else; SpecError when specs differ; ShardError at damage; OutputError when the disk
    refuses; LeaseError when another run works in ``out``; Stopped at a signal.
    """
    out = Path(out)
    with ExitStack() as stack:
        readers: dict[str, list[StreamReader]] = {}
        for source in sources:
            for stream, folder in required_folders(as_path(source)).items():
                reader = stack.enter_context(closing(StreamReader(folder)))
                readers.setdefault(stream, []).append(reader)
        _check_specs([reader.folder for each in readers.values() for reader in each])
        parts = [_part(out / stream, each, shard_size) for stream, each in readers.items()]
        check_writable(out)
        with stop_on_signals(GO_ON):
            total, done, folders = sum(len(part.origins) for part in parts), 0, []
            for part in parts:
                folders.append(_prepared(part))
                with leased(part.path, 0, 1, request_stop) as lease:
                    copying = _Copy(part, StreamWriter(folders[-1], lease=lease))
                    for number in range(len(folders[-1].plan.shards)):
                        lease.check()
                        done += copying.copy(number)
                        progress(done, max(done, total))
                        check_stop()
    return folders


def _check_specs(folders: Sequence[StreamFolder]) -> None:
    """Raise SpecError unless all folders of a stream have one spec, and the streams fit."""
    first: dict[str, StreamFolder] = {}
    for folder in folders:
        other = first.setdefault(folder.spec.stream, folder)
        lines = [] if other is folder else differences(other.spec, folder.spec)
        if lines:
            raise SpecError(
                f"{other.path} and {folder.path} hold features of different specs: "
                f"{'; '.join(lines)}. Only features of one spec can be joined"
            )
    if len(first) == len(STREAMS):
        rgb, flow = (first[stream] for stream in STREAMS)
        require_shared(rgb.spec, flow.spec, str(flow.path))


# ---------------------------------------------------------------- which video comes from where


@dataclass(frozen=True)
class _Part:
    """One stream of the new folder, as it is to be."""

    path: Path
    readers: Sequence[StreamReader]
    origins: Mapping[str, StreamReader]
    """Video id -> the folder it is taken from."""
    shard_size: int
    provenance: Mapping[str, Any]


def _part(path: Path, readers: Sequence[StreamReader], shard_size: int | None) -> _Part:
    shard_size = shard_size or read_shard_size(readers[0].folder.path)
    found = {str(each.folder.path.resolve()): each.folder.path for each in readers}
    origin = {"repacked": {name: read_provenance(source) for name, source in found.items()}}
    if str(path.resolve()) in found:
        raise FeaturesError(f"{path}: its features are to be read: choose another --out")
    if read_spec(path) and (read_provenance(path), read_shard_size(path)) != (origin, shard_size):
        raise FeaturesError(
            f"{path}: holds features that were not made of {', '.join(found)} with --shard-size "
            f"{shard_size}: choose another --out"
        )
    return _Part(path, readers, _origins(readers), shard_size, origin)


def _origins(readers: Sequence[StreamReader]) -> dict[str, StreamReader]:
    """Video id -> the folder it is taken from, in the order of the plans.

    Of a video in several folders that is the first which has done it, else the first in which it
    has failed. Raises FeaturesError naming the videos of which two folders have different features.
    """
    origins: dict[str, StreamReader] = {}
    different = []
    for reader in readers:
        for video_id in reader.planned():
            other = origins.setdefault(video_id, reader)
            if other is not reader:
                ours, theirs = _finished(other, video_id), _finished(reader, video_id)
                if _worth(theirs) > _worth(ours):
                    origins[video_id] = reader
                if _differ(ours, theirs):
                    different.append(
                        f"{video_id!r} in {other.folder.path} and {reader.folder.path}"
                    )
    if different:
        more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
        raise FeaturesError(
            f"different features of {'; '.join(different[:NAMED])}{more}: leave one of the "
            "folders out, or extract these videos again"
        )
    return origins


def _finished(reader: StreamReader, video_id: str) -> StoredVideo | None:
    """The video as a record that holds no file open; None when it is not finished."""
    if not reader.is_finished(video_id):
        return None
    video = reader.stored(video_id)
    return replace(video, blocks=lambda: reader.stored(video_id).blocks())


def _worth(video: StoredVideo | None) -> int:
    return 0 if video is None else 1 + video.is_done


def _differ(a: StoredVideo | None, b: StoredVideo | None) -> bool:
    """True when both are done with other features or spans, which their checksums tell."""
    if a is None or b is None or not (a.is_done and b.is_done):
        return False
    names = ("features_crc32", "spans_crc32")
    same = all(a.attributes[name] == b.attributes[name] for name in names)
    return not same or (a.shape, a.dtype) != (b.shape, b.dtype)


# ---------------------------------------------------------------- copying


def _prepared(part: _Part) -> StreamFolder:
    spec, provenance = part.readers[0].folder.spec, dict(part.provenance)
    return StreamFolder.prepare(part.path, spec, list(part.origins), part.shard_size, provenance)


class _Copy:
    """Writes one stream of the new folder; the numbers of a video are copied in blocks."""

    def __init__(self, part: _Part, writer: StreamWriter) -> None:
        self.origins = part.origins
        self.writer = writer
        for path in (part.path.parent, part.path, part.path / "shards"):
            remove_stale(path)
        self._times = {
            video_id: row.time
            for reader in part.readers
            for video_id, row in read_rows(reader.folder.path).items()
            if part.origins.get(video_id) is reader
        }

    def copy(self, shard: int) -> int:
        """Bring a shard as far as the sources are; returns the number of its videos.

        What is in the new folder already, from an earlier call or from extract, stays.
        """
        ids, folder = self.writer.folder.plan.shards[shard], self.writer.folder
        remove_stale(folder.partial(shard))
        if not folder.shard(shard).exists():
            found = {
                each: _finished(self.origins[each], each) for each in ids if each in self.origins
            }
            videos = {each: video for each, video in found.items() if video is not None}
            self.writer.finish(shard, videos)
        else:
            self.writer.finish(shard)
        for position, video_id in enumerate(ids):
            if video_id not in self.writer.rows and self.writer.is_finished(Place(shard, position)):
                self._record(video_id, shard)
        return len(ids)

    def _record(self, video_id: str, shard: int) -> None:
        origin = self.origins.get(video_id)  # extract may have planned more since
        if origin:
            file = str(origin.location(video_id)[0])
            self.writer.journal.event("copied", video_id, shard=shard, source=file)
        self.writer.record(video_id, self._times.get(video_id))
