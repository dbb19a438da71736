"""Feature folders -> a new one: several folders joined, or one with shards of another size.

Finished videos, done or failed, are copied as they are, shard by shard, and every checksum is
compared on the way. The sources are only read. A video that no source has finished stays in the
plan, so that extract can go on in the new folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

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
    sources is taken once. ``progress`` is called with the number of videos that are copied, and
    of all. The same call goes on after any stop. Raises FeaturesError when a source holds no
    features, when two sources have different features of one video, or when ``out`` is a source
    or holds something else; SpecError when specs differ; ShardError at damage; OutputError when
    the disk refuses; LeaseError when another run works in ``out``; Stopped at a signal.
    """
    with ExitStack() as stack:
        readers: dict[str, list[StreamReader]] = {}
        for source in sources:
            for stream, folder in required_folders(as_path(source)).items():
                reader = stack.enter_context(closing(StreamReader(folder)))
                readers.setdefault(stream, []).append(reader)
        _check_specs(readers)
        parts = [_Stream(Path(out) / name, each, shard_size) for name, each in readers.items()]
        check_writable(Path(out))
        total, done = sum(len(part.origins) for part in parts), 0

        def copied(videos: int) -> None:
            nonlocal done
            done += videos
            progress(done, max(done, total))
            check_stop()

        with stop_on_signals(GO_ON):
            return [part.copy(copied) for part in parts]


def _check_specs(readers: dict[str, list[StreamReader]]) -> None:
    """Raise SpecError unless all folders of a stream have one spec, and the streams fit."""
    for each in readers.values():
        for a, b in pairwise(reader.folder for reader in each):
            if lines := differences(a.spec, b.spec):
                raise SpecError(
                    f"{a.path} and {b.path} hold features of different specs: {'; '.join(lines)}. "
                    "Only features of one spec can be joined"
                )
    if len(readers) == len(STREAMS):
        rgb, flow = (readers[stream][0].folder for stream in STREAMS)
        require_shared(rgb.spec, flow.spec, str(flow.path))


class _Stream:
    """One stream of the new folder, checked when it is made, written by ``copy``."""

    def __init__(self, path: Path, readers: Sequence[StreamReader], shard_size: int | None) -> None:
        self.path, self.readers = path, readers
        self.shard_size = shard_size or read_shard_size(readers[0].folder.path)
        found = {str(each.folder.path.resolve()): each.folder.path for each in readers}
        self.provenance = {"repacked": {name: read_provenance(at) for name, at in found.items()}}
        self.origins = _origins(readers)
        """Video id -> the folder it is taken from."""
        if str(path.resolve()) in found:
            raise FeaturesError(f"{path}: its features are to be read: choose another --out")
        made = read_provenance(path), read_shard_size(path)
        if read_spec(path) and made != (self.provenance, self.shard_size):
            raise FeaturesError(
                f"{path}: holds features that were not made of {', '.join(found)} with "
                f"--shard-size {self.shard_size}: choose another --out"
            )

    def copy(self, copied: Callable[[int], None]) -> StreamFolder:
        """Bring every shard as far as the sources are; ``copied`` gets its number of videos.

        What is in the new folder already, from an earlier call or from extract, stays.
        """
        spec = self.readers[0].folder.spec
        folder = StreamFolder.prepare(
            self.path, spec, list(self.origins), self.shard_size, self.provenance
        )
        times = {
            video_id: row.time
            for reader in self.readers
            for video_id, row in read_rows(reader.folder.path).items()
            if self.origins.get(video_id) is reader
        }
        with leased(self.path, 0, 1, request_stop) as lease:
            writer = StreamWriter(folder, lease=lease)
            for path in (self.path.parent, self.path, self.path / "shards"):
                remove_stale(path)
            for shard, ids in enumerate(folder.plan.shards):
                lease.check()
                remove_stale(folder.partial(shard))
                self._finish(writer, shard)
                for position, video_id in enumerate(ids):
                    if video_id not in writer.rows and writer.is_finished(Place(shard, position)):
                        if origin := self.origins.get(video_id):
                            file = str(origin.location(video_id)[0])
                            writer.journal.event("copied", video_id, shard=shard, source=file)
                        writer.record(video_id, times.get(video_id))
                copied(len(ids))
        return folder

    def _finish(self, writer: StreamWriter, shard: int) -> None:
        found = {}
        if not writer.folder.shard(shard).exists():
            for video_id in writer.folder.plan.shards[shard]:
                origin = self.origins.get(video_id)  # extract may have planned more since
                if origin and (video := _finished(origin, video_id)):
                    found[video_id] = video
        writer.finish(shard, found)


def _origins(readers: Sequence[StreamReader]) -> dict[str, StreamReader]:
    """Video id -> the folder it is taken from, in the order of the plans.

    Of a video in several folders that is the first which has done it, else the first in which it
    has failed. Raises FeaturesError naming the videos of which two folders have different features.
    """
    origins: dict[str, StreamReader] = {}
    different = []
    for reader in readers:
        for video_id in reader.folder.plan.places:
            other = origins.setdefault(video_id, reader)
            if other is not reader:
                ours, theirs = _finished(other, video_id), _finished(reader, video_id)
                if theirs and (ours is None or theirs.is_done > ours.is_done):
                    origins[video_id] = reader
                if ours and theirs and _differ(ours, theirs):
                    paths = f"{other.folder.path} and {reader.folder.path}"
                    different.append(f"{video_id!r} in {paths}")
    if different:
        more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
        raise FeaturesError(
            f"different features of {'; '.join(different[:NAMED])}{more}: leave one of the "
            "folders out, or extract these videos again"
        )
    return origins


def _finished(reader: StreamReader, video_id: str) -> StoredVideo | None:
    return reader.stored(video_id) if reader.is_finished(video_id) else None


def _differ(a: StoredVideo, b: StoredVideo) -> bool:
    """True when both are done with other features or spans, by their checksums."""
    names = ("features_crc32", "spans_crc32")
    same = all(a.attributes.get(name) == b.attributes.get(name) for name in names)
    return a.is_done and b.is_done and (not same or (a.shape, a.dtype) != (b.shape, b.dtype))
