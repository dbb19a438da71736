"""Reading features: a feature folder as a mapping from video id to lazy features.

    features = open_features("features/xd")
    video = features["Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0"]
    video.rgb      float16 [num_clips, num_crops, dim], read when asked for
    video.spans    int64 [num_clips, 2]: the source frames each snippet answers for

Needs numpy and h5py only, and fsspec where the folder is a URL (``s3://bucket/xd``). Safe with
forked and with spawned DataLoader workers: each process opens its own files.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import FeaturesError, ShardError, SpecError
from vadprep.core.spec import Spec, require_equal
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.journal import read_rows
from vadprep.features.remote import AnyPath, as_path
from vadprep.features.shard import Shard, StoredVideo

OPEN_FILES = 16
"""Shards kept open a process."""


class StreamReader:
    """Reads the finished videos of one stream, opening shards as they are needed."""

    def __init__(self, folder: StreamFolder) -> None:
        self.folder = folder
        self._open: OrderedDict[Path, Shard] = OrderedDict()
        self._process = os.getpid()

    def ids(self) -> list[str]:
        """Ids of the videos that are done, in the order of the plan.

        The files are asked where the journal has no row: a copied folder, or a kill just then.
        """
        rows = read_rows(self.folder.path)

        def is_done(video_id: str) -> bool:
            if video_id in rows:
                return rows[video_id].is_done
            return self.is_finished(video_id) and self.stored(video_id).is_done

        return [video_id for video_id in self.folder.plan.places if is_done(video_id)]

    def location(self, video_id: str) -> tuple[Path, str]:
        """File and group of a planned video; the file is missing before it is finished."""
        return self.folder.location(self.folder.plan.places[video_id])

    def is_finished(self, video_id: str) -> bool:
        """True when the video is done or has failed, by the files."""
        return self.location(video_id)[0].exists()

    def stored(self, video_id: str) -> StoredVideo:
        """What the shard holds of a video; raises ShardError when it is damaged or another's."""
        shard, group = self._shard(video_id)
        video = shard.video(group)
        if video.video_id != video_id:
            raise ShardError(
                f"{shard.path}, group {group}: holds {video.video_id!r} where plan.csv has "
                f"{video_id!r}"
            )
        return video

    def features(self, video_id: str) -> NDArray[Any]:
        """Features of a video, checked against their CRC: [num_clips, num_crops, dim]."""
        shard, group = self._shard(video_id)
        return shard.features(group)

    def _shard(self, video_id: str) -> tuple[Shard, str]:
        if self._process != os.getpid():  # forked: the parent's handles are not ours
            self._open, self._process = OrderedDict(), os.getpid()
        path, group = self.location(video_id)
        if path not in self._open:
            shard = Shard(path)
            try:
                require_equal(self.folder.spec, shard.spec, str(path))
            except SpecError:
                shard.close()
                raise
            self._open[path] = shard
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path], group

    def close(self) -> None:
        """Close the files this process opened."""
        if self._process == os.getpid():
            for shard in self._open.values():
                shard.close()
        self._open = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


class VideoFeatures:
    """The features of one video, all streams; nothing is read before it is asked for.

    Raises FeaturesError when the streams disagree about the spans, ShardError when a file is
    damaged.
    """

    def __init__(self, video_id: str, readers: Mapping[str, StreamReader]) -> None:
        self.video_id = video_id
        self._readers = readers

    def stream(self, name: str) -> NDArray[Any]:
        """Features of a stream: [num_clips, num_crops, dim], float16 or float32."""
        if name not in self._readers:
            raise FeaturesError(
                f"no {name} features here, only {', '.join(self._readers)}: "
                f"run extract with --streams {name}"
            )
        self._stored  # noqa: B018  the spans of all streams agree
        return self._readers[name].features(self.video_id)

    @property
    def rgb(self) -> NDArray[Any]:
        return self.stream("rgb")

    @property
    def flow(self) -> NDArray[Any]:
        return self.stream("flow")

    @cached_property
    def _stored(self) -> StoredVideo:
        stored = [reader.stored(self.video_id) for reader in self._readers.values()]
        if any(not np.array_equal(stored[0].spans, other.spans) for other in stored[1:]):
            raise FeaturesError(
                f"{self.video_id!r}: the spans of {' and '.join(self._readers)} differ"
            )
        return stored[0]

    @property
    def spans(self) -> NDArray[np.int64]:
        """Source frames each snippet answers for: int64 [num_clips, 2]."""
        return self._stored.spans

    @property
    def num_clips(self) -> int:
        return self._stored.shape[0]

    @property
    def num_crops(self) -> int:
        return self._stored.shape[1]

    @property
    def dim(self) -> int:
        """Length of a feature of the first stream."""
        return self._stored.shape[2]

    @property
    def num_frames(self) -> int:
        """Source frames decoded."""
        return int(self._stored.attributes["num_frames"])

    @property
    def fps(self) -> float | None:
        """Frames a second of the source, None for a folder of frames without any."""
        fps = self._stored.attributes.get("fps_source")
        return None if fps is None else float(fps)

    @property
    def label(self) -> int | None:
        """0 normal, 1 abnormal, None unknown: as the manifest said when it was extracted."""
        label = self.attributes.get("label")
        return None if label is None else int(label)

    @property
    def split(self) -> str:
        return str(self.attributes.get("split", ""))

    @property
    def category(self) -> str:
        return str(self.attributes.get("category", ""))

    @property
    def attributes(self) -> Mapping[str, str | int | float]:
        """All that the shard says of the video."""
        return self._stored.attributes

    def __repr__(self) -> str:
        return f"VideoFeatures({self.video_id!r}, {'+'.join(self._readers)}, {self._stored.shape})"


class Features(Mapping[str, VideoFeatures]):
    """Video id -> features, for the videos that every stream has done."""

    def __init__(self, readers: Mapping[str, StreamReader]) -> None:
        self._readers = dict(readers)
        ids = [reader.ids() for reader in self._readers.values()]
        common = set(ids[0]).intersection(*ids[1:])
        self._videos = {
            video_id: VideoFeatures(video_id, self._readers)
            for video_id in ids[0]
            if video_id in common
        }

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self._readers)

    @property
    def specs(self) -> dict[str, Spec]:
        """The spec of each stream."""
        return {name: reader.folder.spec for name, reader in self._readers.items()}

    def __getitem__(self, video_id: str) -> VideoFeatures:
        return self._videos[video_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._videos)

    def __len__(self) -> int:
        return len(self._videos)

    def close(self) -> None:
        """Close the files this process opened."""
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_features(path: str | AnyPath) -> Features:
    """The features in a folder FEATURES (all its streams) or FEATURES/rgb (one).

    ``path`` may be a URL that fsspec reads, as ``s3://bucket/xd`` or ``https://host/xd``: only
    the videos that are asked for are fetched. Raises FeaturesError when there are none.
    """
    folders = required_folders(as_path(path))
    return Features({name: StreamReader(folder) for name, folder in folders.items()})


STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "rgb": ("rgb",),
    "flow": ("flow",),
    "concat": ("rgb", "flow"),
}
"""Streams that a head sees; ``concat`` joins them along the feature axis, rgb first."""


def streams_of(choice: str, available: Sequence[str]) -> tuple[str, ...]:
    """The streams of a choice; raises ValueError or, when one is not there, FeaturesError."""
    if choice not in STREAM_CHOICES:
        raise ValueError(f"streams = {choice!r}: allowed are {', '.join(STREAM_CHOICES)}")
    missing = set(STREAM_CHOICES[choice]) - set(available)
    if missing:
        raise FeaturesError(
            f"streams {choice!r} need {', '.join(sorted(missing))}, but the features hold only "
            f"{', '.join(available)}: extract that stream or choose another"
        )
    return STREAM_CHOICES[choice]


def read_snippets(video: VideoFeatures, streams: Sequence[str]) -> NDArray[np.floating]:
    """Snippets of one video as stored: float [num_clips, num_crops, sum of the streams' dims].

    Raises FeaturesError that names the video when streams disagree or values are not finite.
    """
    parts = [video.stream(stream) for stream in streams]
    if len({part.shape[:2] for part in parts}) > 1:
        shapes = ", ".join(f"{s} {p.shape}" for s, p in zip(streams, parts, strict=True))
        raise FeaturesError(f"{video.video_id}: streams differ in clips or crops: {shapes}")
    snippets = np.concatenate(parts, axis=2)
    if not np.isfinite(snippets).all():
        raise FeaturesError(f"{video.video_id}: features hold NaN or infinity, extract it again")
    return snippets
