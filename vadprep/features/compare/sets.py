"""A set of features to compare: one of our folders, or a tree of .npy files of a known layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vadprep.core.clips import CLIP_LENGTH, Resampling
from vadprep.core.errors import FeaturesError
from vadprep.core.spec import Spec
from vadprep.features.exchange.arrays import form_of, read_features
from vadprep.features.exchange.layouts import ALL_NAMINGS, Tree, read_tree
from vadprep.features.folder import stream_folders
from vadprep.features.reader import Features, open_features


class FeatureSet(Protocol):
    """Features of one stream by video id."""

    @property
    def ids(self) -> tuple[str, ...]: ...

    @property
    def spec(self) -> Spec | None:
        """What is known of how they were made; None for a tree."""

    @property
    def clip_length(self) -> int:
        """Frames of a clip, at the rate of the features."""

    def form(self, video_id: str) -> tuple[int, int, int]:
        """[num_clips, num_crops, dim] of a video, without reading it."""

    def read(self, video_id: str) -> NDArray[np.float32]:
        """Features of a video, float32 [num_clips, num_crops, dim]."""

    def frames(self, video_id: str) -> int | None:
        """Frames of the video at the rate of the features, where that is known."""


class FolderSet:
    """One stream of a feature folder of ours."""

    def __init__(self, features: Features, stream: str) -> None:
        self._features = features
        self._stream = stream
        self.ids = tuple(features)
        self.spec = features.specs[stream]
        self.clip_length = self.spec.clip_length

    def form(self, video_id: str) -> tuple[int, int, int]:
        video = self._features[video_id]
        return video.num_clips, video.num_crops, video.dim

    def read(self, video_id: str) -> NDArray[np.float32]:
        return self._features[video_id].stream(self._stream).astype(np.float32)

    def frames(self, video_id: str) -> int | None:
        video = self._features[video_id]
        source, used = (video.attributes.get(f"fps_{name}") for name in ("source", "used"))
        if self.spec.fps == "native":
            return video.num_frames
        if source is None or used is None:
            return None
        rates = [Fraction(float(fps)).limit_denominator(1001) for fps in (source, used)]
        return Resampling(*rates).count(video.num_frames)


class TreeSet:
    """The files of another code base; its ids are file names without what the naming adds."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.spec: Spec | None = None
        self.clip_length = CLIP_LENGTH
        names = Counter(PurePosixPath(place).name for place in tree.videos)
        self.ids = tuple(
            PurePosixPath(place).name if names[PurePosixPath(place).name] == 1 else place
            for place in tree.videos
        )

    def form(self, video_id: str) -> tuple[int, int, int]:
        """The form of the first file. Others that differ are found when the video is read."""
        crops = self._tree.find(video_id)
        first = form_of({0: crops.get(0, next(iter(crops.values())))})
        num_crops = first.num_crops if len(crops) == 1 else len(crops)
        return first.num_clips, num_crops, first.dim

    def read(self, video_id: str) -> NDArray[np.float32]:
        return read_features(self._tree.find(video_id)).astype(np.float32)

    def frames(self, video_id: str) -> int | None:
        return None


def open_set(path: Path, stream: str, wanted: Collection[str] = ()) -> FeatureSet:
    """The features of a stream in ``path``; a tree is read in the naming that has ``wanted``.

    Raises FeaturesError when there are none.
    """
    if not path.is_dir():
        raise FeaturesError(f"{path}: no such folder: correct the path")
    folders = stream_folders(path)
    if not folders:
        return TreeSet(read_tree(path, ALL_NAMINGS, stream, wanted))
    if stream not in folders:
        there = ", ".join(folders)
        raise FeaturesError(f"{path}: no {stream} features there, only {there}: --stream {there}")
    return FolderSet(open_features(folders[stream].path), stream)


def open_pair(a: Path, b: Path, stream: str) -> tuple[FeatureSet, FeatureSet]:
    """Both sets, a tree in the naming that has the ids of the other where that is ours."""
    if stream_folders(a) or not stream_folders(b):
        first = open_set(a, stream)
        return first, open_set(b, stream, first.ids)
    second = open_set(b, stream)
    return open_set(a, stream, second.ids), second
