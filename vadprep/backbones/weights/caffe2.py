"""Blobs of a caffe2 pickle, with an unpickler that can build numpy arrays and nothing else."""

from __future__ import annotations

import _codecs
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.errors import WeightsError

_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _codecs.encode,  # how bytes were written by Python 2
    **{
        (f"numpy.{core}.multiarray", name): made
        for core in ("core", "_core")
        for name, made in {"_reconstruct": _RECONSTRUCT, "scalar": _SCALAR}.items()
    },
}
"""All that a pickle of arrays needs. None of it runs code of the file's choosing."""

DAMAGED = (
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    TypeError,
    UnicodeDecodeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What unpickling raises on bytes that are no such pickle."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read_blobs(path: Path) -> dict[str, NDArray[np.float32]]:
    """Arrays of the pickle's ``blobs`` by name, without momentum and single numbers.

    Raises WeightsError for a pickle that is damaged or that asks for anything but arrays.
    """
    try:
        with open(path, "rb") as file:
            found = _Unpickler(file, encoding="latin1").load()
    except (*DAMAGED, MemoryError) as error:
        raise WeightsError(
            f"{path}: not a caffe2 pickle of arrays, truncated, or one that would run code "
            f"({error}); download it again"
        ) from error
    blobs = found.get("blobs") if isinstance(found, Mapping) else None
    if not isinstance(blobs, Mapping):
        raise WeightsError(f"{path}: holds no 'blobs', so it is no caffe2 model")
    return {
        str(name): _numbers(np.asarray(blob), str(name), path)
        for name, blob in blobs.items()
        if "momentum" not in str(name) and np.size(blob) > 1  # learning rates, counters
    }


def _numbers(array: np.ndarray[Any, Any], name: str, path: Path) -> NDArray[np.float32]:
    if array.dtype.kind != "f":
        raise WeightsError(f"{path}: blob {name} holds no numbers but {array.dtype}")
    return array.astype(np.float32)
