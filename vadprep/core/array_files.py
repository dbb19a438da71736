"""Arrays in files that this run did not write, .npy, .npz and HDF5: what a file declares is checked
before it is used.

Nothing is unpickled, nothing is followed out of the file, and no more memory is taken than the file
really has bytes for.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from vadprep.core.errors import VadprepError
from vadprep.core.resources import free_memory
from vadprep.core.untrusted import open_regular, read_regular, reading_problem

DAMAGE = (
    OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError,
    MemoryError,
)  # fmt: skip
"""What h5py raises at a damaged file."""

MOST_BYTES = 1 << 30
MOST_ATTRIBUTES, MOST_ATTRIBUTE_BYTES = 1000, 1 << 20
SMALL_BYTES = 64 << 20
"""So much memory is taken without asking whether it is there."""

Value = str | int | float


def require_memory(num_bytes: int, what: object, error: type[VadprepError]) -> None:
    """Raise ``error``, which begins with ``what``, when ``num_bytes`` are more than is free."""
    if num_bytes > SMALL_BYTES and num_bytes > (free := free_memory()):
        needed = f"{num_bytes / 2**30:.1f} GiB of memory needed, {free / 2**30:.1f} GiB free"
        raise error(f"{what}: {needed}: use a machine with more, or check the file")


def all_finite(array: NDArray[Any]) -> bool:
    """False when a number is NaN or infinite."""
    if array.dtype != np.float16 or not array.size:
        return bool(np.isfinite(array).all())
    # Bits above those of the largest number; 30 times as fast as isfinite, which knows no float16.
    signed, unsigned = array.view(np.int16), array.view(np.uint16)
    return bool(signed.max() < 0x7C00 and unsigned.max() < 0xFC00)


def read_npy(
    path: Path, error: type[VadprepError], most_bytes: int | None = MOST_BYTES
) -> NDArray[Any]:
    """The numbers in a .npy file of any shape, mapped into memory, so that none is read yet.

    Raises ``error``, which names the file, when it cannot be read, is no .npy file of numbers, or
    declares more of them than it has. FileNotFoundError as ``open_regular``.
    """
    with open_regular(path, error, most_bytes):
        try:
            with np.errstate(over="ignore"):
                # A memory map cannot hold objects, so that nothing is unpickled.
                array: NDArray[Any] = open_memmap(path, mode="r")
        except OSError as reason:
            raise error(f"{path}: cannot be read: {reading_problem(reason)}") from None
        except Exception:  # a header is parsed as Python text, with all that this may raise
            raise error(f"{path}: not a whole .npy file of numbers: save it by np.save") from None
    if array.dtype.kind not in "biuf":
        raise error(f"{path}: not a whole .npy file of numbers: save it by np.save")
    return array


MOST_ARRAYS, MOST_ARRAY_BYTES, MOST_NPZ_BYTES = 10_000, 1 << 20, 160 << 20
"""Of a .npz file of small arrays, which are read whole; the last of the file, and of all arrays."""


def read_npz(path: Path, error: type[VadprepError]) -> tuple[dict[str, NDArray[Any]], str]:
    """The small arrays of numbers in a .npz file by name, and the SHA-256 of the file.

    Raises ``error``, which names file and array, when the file cannot be read, or an array is none
    of numbers, larger than ``MOST_ARRAY_BYTES``, or not as long as it says, and when all of them
    are larger than ``MOST_NPZ_BYTES``. FileNotFoundError as ``open_regular``.
    """
    content = read_regular(path, error, MOST_NPZ_BYTES)
    found: dict[str, NDArray[Any]] = {}
    left = MOST_NPZ_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if not 0 < len(members) <= MOST_ARRAYS:
                raise ValueError(f"{len(members)} arrays")
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    data = stream.read(MOST_ARRAY_BYTES + 1)
                left -= len(data)
                if name in found or len(data) > MOST_ARRAY_BYTES or left < 0:
                    raise ValueError(f"array {name!r} is there twice, or too large")
                found[name] = _array_of(data)
    except Exception as reason:  # zip files and headers raise whatever damage makes them
        raise error(f"{path}: not a .npz file of small arrays of numbers ({reason})") from None
    return found, hashlib.sha256(content).hexdigest()


def _array_of(data: bytes) -> NDArray[Any]:
    """The numbers in the bytes of a .npy file; raises ValueError unless they are all there."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, is_fortran, dtype = read[version](stream)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or size != len(data) - stream.tell():
        raise ValueError(f"{dtype} {shape} in {len(data)} bytes")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


# ---------------------------------------------------------------- HDF5


@contextmanager
def opened_hdf5(path: Path, error: type[VadprepError]) -> Iterator[h5py.File]:
    """A regular HDF5 file, without HDF5's lock, which network file systems often lack.

    Raises ``error`` as ``open_regular`` does, and what h5py raises (``DAMAGE``).
    """
    with open_regular(path, error, most_bytes=None), h5py.File(path, "r", locking=False) as file:
        yield file


def attributes_of(group: h5py.Group) -> dict[str, Value]:
    """The attributes of a group; ValueError when one is no text, whole or finite number.

    Text that is not UTF-8 keeps its bytes, as Python reads file names.
    """
    if (count := h5py.h5a.get_num_attrs(group.id)) > MOST_ATTRIBUTES:
        raise ValueError(f"{count} attributes")
    names: list[bytes] = []
    h5py.h5a.iterate(group.id, lambda name, *_: names.append(name))
    found: dict[str, Value] = {}
    for raw in names:  # by name: to open the n-th one HDF5 sorts all of them each time
        attribute = h5py.h5a.open(group.id, raw)
        name, kind, value = raw.decode("utf-8", "replace"), attribute.dtype, None
        if attribute.shape == () and attribute.get_storage_size() <= MOST_ATTRIBUTE_BYTES:
            if kind.kind in "Sbiuf":
                attribute.read(array := np.empty((), kind))
                value = array.item()
            elif h5py.check_string_dtype(kind):
                value = group.attrs[name]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        if not isinstance(value, Value) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"attribute {name} is no text, whole or finite number")
        found[name] = value
    return found


def group_in(parent: h5py.Group, name: str) -> h5py.Group:
    """A group that is stored in ``parent`` itself; raises LookupError or ValueError."""
    return _member(parent, name, h5py.Group)


def array_in(
    group: h5py.Group, name: str, dtypes: Collection[str], ndim: int, chunked: bool = False
) -> h5py.Dataset:
    """An array that is stored in ``group`` itself, in one piece unless ``chunked``.

    Raises LookupError when there is none, and ValueError when it is of another number type or
    number of axes, elsewhere (a link, external storage, a virtual data set), or larger than the
    file.
    """
    found = _member(group, name, h5py.Dataset)
    if found.ndim != ndim or found.dtype.name not in dtypes:
        kinds = f"{ndim} axes of {' or '.join(dtypes)}"
        raise ValueError(f"{name} is {found.dtype.name} {found.shape}, expected {kinds}")
    storage = found.id.get_create_plist()
    layouts = (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED if chunked else h5py.h5d.CONTIGUOUS)
    if storage.get_layout() not in layouts or storage.get_external_count():
        raise ValueError(f"{name} is not stored in the file in one piece")
    num_bytes, offset = math.prod(found.shape) * found.dtype.itemsize, found.id.get_offset()
    if num_bytes and not chunked:
        if offset is None or offset + num_bytes > group.file.id.get_filesize():
            raise ValueError(f"{name} declares {found.shape} numbers, more than the file has")
    return found


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    # The low-level calls of h5py: its mapping takes five times as long.
    try:
        link = group.id.links.get_info(name.encode())
    except KeyError:
        raise LookupError(f"{name} is missing") from None
    if link.type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to another place")
    found = h5py.h5o.open(group.id, name.encode())
    expected = h5py.h5g.GroupID if kind is h5py.Group else h5py.h5d.DatasetID
    if not isinstance(found, expected):
        raise ValueError(f"{name} is {found!r}, expected {kind.__name__.lower()}")
    return kind(found)
