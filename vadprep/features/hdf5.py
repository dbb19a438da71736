"""HDF5 files that are read, on a disk or at a URL: ``opened(path)`` gives either.

``ask(get)`` gives what ``get`` reads from the open file, ``rows(get, slice)`` rows of the data
set that ``get`` finds in it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from vadprep.features.remote import RemotePath

BLOCK_BYTES = 64 << 10
"""What is fetched at a time of a file's metadata."""

KEPT_BLOCKS = 64
"""Blocks of a file that are kept in memory between two calls, at most."""

PIECE_BYTES = 16 << 20
"""The most that is fetched of its numbers in one request."""

T = TypeVar("T")


class LocalFile:
    """An HDF5 file on a disk, opened without HDF5's lock, which network file systems often lack."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r", locking=False)

    def ask(self, get: Callable[[h5py.File], T]) -> T:
        """What ``get`` reads from the file."""
        return get(self._file)

    def rows(self, get: Callable[[h5py.File], h5py.Dataset], rows: slice) -> NDArray[Any]:
        """Some rows of the data set that ``get`` finds."""
        numbers: NDArray[Any] = get(self._file)[rows]
        return numbers

    def close(self) -> None:
        self._file.close()


class _Absent(Exception):
    """HDF5 has asked for a block that was not fetched yet."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.block = block


def _extent(array: h5py.Dataset) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    """Where the numbers of a data set begin, its shape and type; ValueError when in chunks."""
    if array.chunks is not None:
        raise ValueError(f"{array!r} is stored in chunks, expected contiguous numbers")
    return array.id.get_offset() or 0, array.shape, array.dtype


class RemoteFile(io.RawIOBase):
    """An HDF5 file at a URL, of which only the blocks that are needed are fetched.

    h5py holds a lock of the whole process while HDF5 reads, and may need it in fsspec's thread as
    well, where the garbage collector can run: a read that waits for the network there can wait
    for ever (h5py issue 2019). So HDF5 never waits: where a block is missing it gives up, the
    block is fetched outside of the lock, and HDF5 is asked again. Nor does a file stay open in
    HDF5 between two calls: one of this kind that is open when Python ends is a segmentation
    fault (measured, h5py 3.16).
    """

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self.path = path
        self._size = path.num_bytes()
        self._blocks: dict[int, bytes] = {}
        self._at = 0

    def ask(self, get: Callable[[h5py.File], T]) -> T:
        """What ``get`` reads from the file; it may be called several times."""
        if len(self._blocks) > KEPT_BLOCKS:
            self._blocks.clear()
        while True:
            try:
                with h5py.File(self, "r") as file:
                    return get(file)
            except _Absent as absent:
                start = absent.block * BLOCK_BYTES
                stop = min(start + BLOCK_BYTES, self._size)
                self._blocks[absent.block] = self.path.read_range(start, stop)

    def rows(self, get: Callable[[h5py.File], h5py.Dataset], rows: slice) -> NDArray[Any]:
        """Some rows, without a step, of the contiguous data set that ``get`` finds."""
        offset, shape, dtype = self.ask(lambda file: _extent(get(file)))
        start, stop, _ = rows.indices(shape[0])
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        numbers = np.empty((max(0, stop - start), *shape[1:]), dtype)
        content = numbers.reshape(-1).view(np.uint8)
        for at in range(0, len(content), PIECE_BYTES):
            piece = content[at : at + PIECE_BYTES]
            first = offset + start * row_bytes + at
            piece[:] = np.frombuffer(self.path.read_range(first, first + len(piece)), np.uint8)
        return numbers

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        start, stop = self._at, min(self._at + len(buffer), self._size)
        wanted = range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        for block in wanted:
            if block not in self._blocks:
                raise _Absent(block)
        content = b"".join(self._blocks[block] for block in wanted)
        first = wanted.start * BLOCK_BYTES
        count = max(0, stop - start)
        buffer[:count] = content[start - first : stop - first]
        self._at += count
        return count


def opened(path: Path) -> LocalFile | RemoteFile:
    """The file at ``path``; raises what h5py raises, FeaturesError where the network fails."""
    return RemoteFile(path) if isinstance(path, RemotePath) else LocalFile(path)
