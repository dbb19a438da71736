"""Reading features: a feature folder as a mapping from video id to lazy features.

Safe with forked and with spawned DataLoader workers: each process opens its own files, and keeps a
few open.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.array_files import SMALL_BYTES, all_finite, require_memory
from vadprep.core.clips import Clock
from vadprep.core.errors import FeaturesError, SettingError, allowed_are
from vadprep.core.spec import Spec
from vadprep.core.untrusted import reading
from vadprep.data import similar_ids
from vadprep.features.folder import StreamFolder, required_folders
from vadprep.features.remote import AnyPath
from vadprep.features.shard import StoredVideo, kept_shard


class VideoFeatures:
    """The features of one video, all streams; nothing is read before it is asked for.

    Raises FeaturesError when the streams disagree about the spans, or when the file has no
    features where the journal says done; ShardError when a file is damaged.
    """

    def __init__(self, video_id: str, folders: Mapping[str, StreamFolder]) -> None:
        self.video_id = video_id
        self._folders = folders

    def stream(self, name: str, *, allow_nan: bool = False) -> NDArray[Any]:
        """Features of a stream: [num_clips, num_crops, dim], float16 or float32.

        Raises FeaturesError where one is not finite, unless ``allow_nan``, or when memory does not
        suffice.
        """
        if name not in self._folders:
            raise FeaturesError(
                f"no {name} features here, only {', '.join(self._folders)}: "
                f"run extract with --streams {name}"
            )
        if len(self._folders) > 1:
            self._stored  # noqa: B018  the spans of all streams agree
        # Asked for anew: its shard may have become final since.
        folder = self._folders[name]
        stored = folder.done(self.video_id, keep=True)
        if stored.most_bytes > SMALL_BYTES:
            require_memory(stored.most_bytes, self._where(name), FeaturesError)
        features = stored.features()
        if not (allow_nan or all_finite(features)):
            raise FeaturesError(
                f"{self._where(name)}: features hold NaN or infinity: extract it again"
            )
        return features

    def _where(self, stream: str) -> str:
        folder = self._folders[stream]
        return f"{folder.location(folder.plan.places[self.video_id])[0]}: {self.video_id!r}"

    @property
    def rgb(self) -> NDArray[Any]:
        return self.stream("rgb")

    @property
    def flow(self) -> NDArray[Any]:
        return self.stream("flow")

    @cached_property
    def _stored(self) -> StoredVideo:
        first, *others = (
            folder.done(self.video_id, keep=True) for folder in self._folders.values()
        )
        if any(not np.array_equal(first.spans, each.spans) for each in others):
            names = " and ".join(self._folders)
            raise FeaturesError(f"{self.video_id!r}: the spans of {names} differ")
        return first

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
        return int(self.attributes["num_frames"])

    @property
    def fps(self) -> float | None:
        """Frames a second of the source, None for a folder of frames without any."""
        fps = self.attributes.get("fps_source")
        return None if fps is None else float(fps)

    @property
    def times(self) -> NDArray[np.float64] | None:
        """Seconds at which each source frame begins and the last one ends: float64
        [num_frames + 1]; None where all last equally long."""
        return self._stored.times

    @property
    def clock(self) -> Clock | None:
        """The way between source frames and seconds; None without a frame rate."""
        return None if self.fps is None else Clock(self.fps, self.times)

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
        return f"VideoFeatures({self.video_id!r}, {'+'.join(self._folders)}, {self._stored.shape})"


class UnknownVideoError(FeaturesError, KeyError):
    """No features of a video are here. ``vadprep status --video`` says why."""

    __str__ = Exception.__str__  # KeyError shows its message in quotes


class Features(Mapping[str, VideoFeatures]):
    """Video id -> features, for the videos that every stream has done."""

    def __init__(self, folders: Mapping[str, StreamFolder]) -> None:
        self._folders = dict(folders)
        first, *others = (folder.done_ids() for folder in folders.values())
        common = set(first).intersection(*others)
        ids = (each for each in first if each in common) if others else first
        self._videos = dict[str, VideoFeatures | None](dict.fromkeys(ids))

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self._folders)

    @property
    def specs(self) -> dict[str, Spec]:
        """The spec of each stream."""
        return {name: folder.spec for name, folder in self._folders.items()}

    def __getitem__(self, video_id: str) -> VideoFeatures:
        """The features of a video; raises UnknownVideoError, a KeyError, when it is not done."""
        if video_id not in self._videos:
            path = next(iter(self._folders.values())).path
            raise UnknownVideoError(
                f"{path}: no features of {video_id!r}{similar_ids(video_id, self._videos)}; for "
                f"the reason: vadprep status {path} --video {shlex.quote(video_id)}"
            )
        video = self._videos[video_id]
        if video is None:
            video = self._videos[video_id] = VideoFeatures(video_id, self._folders)
        return video

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._videos

    def get(self, video_id: str, default: Any = None) -> Any:
        return self[video_id] if video_id in self._videos else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._videos)

    def __len__(self) -> int:
        return len(self._videos)

    def close(self) -> None:
        """Close the files that this process keeps open. They are opened again when needed."""
        kept_shard.cache_clear()

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@reading(FeaturesError)
def open_features(path: str | AnyPath) -> Features:
    """The features in a folder FEATURES (all its streams) or FEATURES/rgb (one).

    ``path`` may be a URL that fsspec reads, as ``s3://bucket/xd`` or ``https://host/xd``: only
    the videos that are asked for are fetched. Raises FeaturesError when there are none.
    """
    return Features(required_folders(path))


STREAM_CHOICES: dict[str, tuple[str, ...]] = {
    "rgb": ("rgb",),
    "flow": ("flow",),
    "concat": ("rgb", "flow"),
}
"""Streams that a head sees; ``concat`` joins them along the feature axis, rgb first."""


def streams_of(choice: str, available: Sequence[str]) -> tuple[str, ...]:
    """The streams of a choice; raises SettingError or, when one is not there, FeaturesError."""
    if choice not in STREAM_CHOICES:
        raise SettingError(f"streams = {choice!r}: {allowed_are(choice, STREAM_CHOICES)}")
    missing = set(STREAM_CHOICES[choice]) - set(available)
    if missing:
        raise FeaturesError(
            f"streams {choice!r} need {', '.join(sorted(missing))}, but the features hold only "
            f"{', '.join(available)}: extract that stream or choose another"
        )
    return STREAM_CHOICES[choice]


def read_snippets(video: VideoFeatures, streams: Sequence[str]) -> NDArray[np.floating]:
    """Snippets of one video as stored: float [num_clips, num_crops, sum of the streams' dims].

    Raises FeaturesError that names the video when streams disagree.
    """
    parts = [video.stream(stream) for stream in streams]
    if len({part.shape[:2] for part in parts}) > 1:
        shapes = ", ".join(f"{s} {p.shape}" for s, p in zip(streams, parts, strict=True))
        raise FeaturesError(f"{video.video_id}: streams differ in clips or crops: {shapes}")
    return np.concatenate(parts, axis=2)
