"""Feature files of other code: .npy arrays or lines of numbers, read without running code."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vadprep.core.array_files import read_npy, require_memory
from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.errors import FeaturesError
from vadprep.core.spec import STREAMS
from vadprep.core.untrusted import read_regular
from vadprep.data import file_names
from vadprep.features.exchange.layouts import Naming

REMEDY = "copy the file again"
MOST_TEXT_BYTES = 256 << 20


class Form(NamedTuple):
    """What the headers of a video's files say: [num_clips, num_crops, dim] of a float type."""

    num_clips: int
    num_crops: int
    dim: int
    dtype: np.dtype[Any]


def form_of(crops: Mapping[int, Path]) -> Form:
    """Shape and number type of a video's files, from their headers; FeaturesError for a missing
    crop, files that differ, or what is no float array."""
    arrays = _open(crops)
    shape = arrays[0].shape
    num_crops = len(arrays) if len(shape) == 2 else shape[1]
    return Form(shape[0], num_crops, shape[-1], arrays[0].dtype)


def read_features(crops: Mapping[int, Path]) -> NDArray[np.floating]:
    """Features of a video, [num_clips, num_crops, dim], float16 or float32.

    Numbers of 64 bits are rounded to 32, as every reader of these files does. Raises
    FeaturesError as ``form_of``, and for values that are not finite.
    """
    arrays = _open(crops)
    num_bytes = sum(array.size for array in arrays) * (arrays[0].itemsize + 4)
    require_memory(num_bytes, crops[0], FeaturesError)
    features = arrays[0][:] if arrays[0].ndim == 3 else np.stack(arrays, axis=1)
    kind = np.float16 if features.dtype == np.float16 else np.float32
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, dtype=kind)
    if not np.isfinite(features).all():
        raise FeaturesError(f"{crops[0]}: values that are not finite: {REMEDY}")
    return features


def _open(crops: Mapping[int, Path]) -> list[NDArray[np.floating]]:
    """The arrays of the crops in order, [num_clips, dim] each or one [num_clips, crops, dim]."""
    missing = set(range(max(crops) + 1)) - set(crops)
    if missing:
        raise FeaturesError(
            f"{next(iter(crops.values()))}: crop {min(missing)} of {max(crops) + 1} is not there"
        )
    arrays: list[NDArray[np.floating]] = []
    for path in (crops[crop] for crop in range(len(crops))):
        try:
            if path.suffix == ".txt":  # a row a line, as Save_C3DFeatures_32Segments.m writes them
                text = io.BytesIO(read_regular(path, FeaturesError, MOST_TEXT_BYTES))
                array = np.loadtxt(text, np.float32, comments=None, ndmin=2)
            else:
                array = read_npy(path, FeaturesError, most_bytes=None)
        except (OSError, ValueError) as error:
            raise FeaturesError(f"{path}: cannot be read ({error}): {REMEDY}") from None
        if array.ndim not in (2, 3) or array.dtype.kind != "f" or not array.size:
            raise FeaturesError(
                f"{path}: {array.dtype} {array.shape}: expected floats [num_clips, dim] or "
                f"[num_clips, num_crops, dim]"
            )
        arrays.append(array)
        if array.shape != arrays[0].shape or (array.ndim == 3 and len(arrays) > 1):
            raise FeaturesError(f"{path}: {array.shape} where crop 0 is {arrays[0].shape}")
    return arrays


def write_features(path: Path, array: NDArray[np.floating]) -> None:
    """Write an array as float32, what every reader of these files takes, by one rename.

    Into a .txt file go rows as lines, with nine digits, which give every float32 back exactly.
    """
    make_folder(path.parent)
    array = np.ascontiguousarray(array, dtype=np.float32)
    with open_atomic(path) as stream:
        if path.suffix == ".txt":
            np.savetxt(stream, array.reshape(len(array), -1), fmt="%.9g")
        else:
            np.save(stream, array, allow_pickle=False)


LABELS = re.compile(r"(.*[-_])?gt([-_.].*)?")
"""Names of ground truth, which lies beside the features in many trees."""


class Tree:
    """The feature files in a folder, by video.

    ``videos`` maps the path of each file relative to the root, without what the naming adds, to
    the paths of its crops by number; ``places`` maps names to such paths. ``others`` are files that
    are not of this naming.
    """

    def __init__(self, root: Path, naming: Naming, files: Iterable[PurePosixPath]) -> None:
        self.root, self.naming = root, naming
        self.videos: dict[str, dict[int, Path]] = {}
        self.places: dict[str, list[str]] = defaultdict(list)
        self.others: list[str] = []
        for path in files:
            if (parsed := naming.parse(path.name)) is None:
                self.others.append(str(path))
                continue
            name, crop = parsed
            place = str(path.parent / name)
            if place not in self.videos:
                self.places[name].append(place)
            self.videos.setdefault(place, {})[crop] = root / path

    def find(self, video_id: str) -> Mapping[int, Path]:
        """Files of a video by crop: at its id as a path, else the ones of that name; or none.
        Raises FeaturesError if files of that name are in two folders."""
        if video_id in self.videos:
            return self.videos[video_id]
        places = self.places.get(PurePosixPath(video_id).name, [])
        if len(places) > 1:
            raise FeaturesError(
                f"{self.root}: features of {video_id!r} are there twice, {places[0]} and "
                f"{places[1]}: name the folder of one of them"
            )
        return self.videos[places[0]] if places else {}

    def explained(self, wanted: Collection[str] = ()) -> int:
        """How many of the ``wanted`` videos have their first crop here; without wanted ids, 1 when
        half of the files are of such videos, else 0."""
        whole = {place: crops for place, crops in self.videos.items() if 0 in crops}
        if not wanted:
            num_files = sum(map(len, self.videos.values())) + len(self.others)
            return int(2 * sum(map(len, whole.values())) >= num_files > 0)
        named = {PurePosixPath(place).name for place in whole}
        return sum(each in whole or PurePosixPath(each).name in named for each in wanted)

    def unused(self, used: Iterable[Mapping[int, Path]]) -> tuple[str, ...]:
        """Feature files relative to the root that are in none of ``used``, what ``find`` gave.

        Lists, notes and ground truth are none; .npy files of another naming are.
        """
        taken = {path for crops in used for path in crops.values()}
        left = {path for crops in self.videos.values() for path in crops.values()} - taken
        places = sorted(path.relative_to(self.root).as_posix() for path in left)
        places += [each for each in self.others if each.endswith(".npy")]
        return tuple(each for each in places if not LABELS.fullmatch(PurePosixPath(each).name))


def read_tree(
    root: Path, namings: Iterable[Naming], stream: str, wanted: Collection[str] = ()
) -> Tree:
    """The files under ``root`` in the naming that has most of the ``wanted`` ids.

    Without wanted ids: in the first naming that half of the files have. Folders named after another
    stream (``Flow``, ``FlowTest``) are passed over. Raises FeaturesError when there is none.
    """
    if not root.is_dir():
        raise FeaturesError(f"{root}: no such folder: correct the path")
    others = tuple(name for name in STREAMS if name != stream)
    files = [
        PurePosixPath(folder, name)
        for folder, names in file_names(root)
        if not any(part.lower().startswith(others) for part in folder.parts)
        for name in names
        if wanted or not LABELS.fullmatch(name)
    ]
    trees = [Tree(root, naming, files) for naming in namings]
    best = max(trees, key=lambda tree: tree.explained(wanted))  # the first of equals
    if not best.explained(wanted):
        example = next(iter(wanted), "ID")
        expected = ", ".join(sorted({tree.naming.name(example) for tree in trees}))
        there = f"there is {files[0]}" if files else "there is no file"
        raise FeaturesError(
            f"{root}: no {stream} features in this layout (looked for {expected}; {there}): "
            f"check the folder, --layout and the manifest"
        )
    return best
