"""The feature files of one video: .npy arrays or lines of numbers, read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from vadprep.core.atomic import make_folder, open_atomic
from vadprep.core.errors import FeaturesError

REMEDY = "copy the file again"


class Form(NamedTuple):
    """What the headers of a video's files say: [num_clips, num_crops, dim] of a float type."""

    num_clips: int
    num_crops: int
    dim: int
    dtype: np.dtype[Any]


def form_of(crops: Mapping[int, Path]) -> Form:
    """Shape and number type of a video's files, from their headers.

    Raises FeaturesError for a missing crop, files that differ, or what is no float array.
    """
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
                array = np.loadtxt(path, np.float32, comments=None, ndmin=2)
            else:  # never np.load: a memory map cannot hold objects, so nothing is unpickled
                array = open_memmap(path, mode="r")
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
