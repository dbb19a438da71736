"""TensorFlow checkpoints (tensor bundles) with numpy alone.

``model.ckpt.index`` is a table of LevelDB's format, name -> a protocol buffer with type, shape,
place and CRC of a tensor. ``model.ckpt.data-00000-of-00001`` is the tensors, end to end.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vadprep.backbones.weights.crc32c import crc32c, masked
from vadprep.core.errors import WeightsError

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
TRAILER_BYTES = 5
"""Behind a block: its compression and its masked CRC."""
FLOAT32 = 1
"""DT_FLOAT in TensorFlow's types.proto."""
DATA = ".data-00000-of-00001"

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Entry:
    """One tensor: where its bytes lie in the data file, and their masked CRC."""

    shape: tuple[int, ...]
    offset: int
    crc: int
    dtype: int = FLOAT32

    @property
    def size(self) -> int:
        """Bytes of float32."""
        return 4 * math.prod(self.shape)


Index = Mapping[str, Entry]


def read_index(path: Path) -> dict[str, Entry]:
    """Entries of an ``.index`` file by name; WeightsError when it is not one, or damaged."""
    table = path.read_bytes()
    if len(table) < FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise WeightsError(f"{path}: not an index of a TensorFlow checkpoint: copy it again")
    try:
        footer = _Reader(table[-FOOTER_BYTES:])
        footer.varint(), footer.varint()  # place and size of the meta index, which is empty
        entries = {}
        for _, handle in _pairs(_block(table, footer, path)):
            for key, value in _pairs(_block(table, _Reader(handle), path)):
                if key:  # the entry without a name is the header
                    entries[key.decode()] = _entry(value, key.decode(), path)
    except (IndexError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise WeightsError(f"{path}: damaged ({error}): copy it again") from error
    return entries


def read_tensors(data: Path, index: Index) -> Arrays:
    """float32 tensors by name, each checked against its CRC.

    Raises WeightsError that names the first tensor whose bytes are not those of the index.
    """
    content = np.fromfile(data, dtype=np.uint8)
    arrays = {}
    for name, entry in index.items():
        if entry.dtype != FLOAT32:
            raise WeightsError(f"{data}: {name} is no float32 (type {entry.dtype})")
        raw = content[entry.offset : entry.offset + entry.size]
        if len(raw) < entry.size:
            raise WeightsError(f"{data}: ends within {name}: download it again")
        if masked(crc32c(raw)) != entry.crc:
            raise WeightsError(f"{data}: {name} is damaged (CRC-32C differs): download it again")
        arrays[name] = raw.view("<f4").reshape(entry.shape)
    return arrays


class _Reader:
    """Reads protocol-buffer and LevelDB numbers from the front of some bytes."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def __bool__(self) -> bool:
        return self._at < len(self._content)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._content[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._content):
            raise IndexError(f"{count} bytes are wanted where fewer are left")
        self._at += count
        return self._content[self._at - count : self._at]


def _block(table: bytes, handle: _Reader, path: Path) -> bytes:
    """Content of the block that a handle (offset, size) points at, its CRC checked."""
    offset, size = handle.varint(), handle.varint()
    content = table[offset : offset + size + 1]
    (stored,) = struct.unpack("<I", table[offset + size + 1 : offset + size + TRAILER_BYTES])
    if masked(crc32c(content)) != stored:
        raise WeightsError(f"{path}: a block is damaged (CRC-32C differs): copy it again")
    if content[-1] != 0:
        raise WeightsError(f"{path}: compressed, which TensorFlow's checkpoints never are")
    return content[:-1]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values. A key is stored as what it shares with the one before, and the rest."""
    (restarts,) = struct.unpack("<I", block[-4:])
    reader = _Reader(block[: len(block) - 4 * (restarts + 1)])
    key = b""
    while reader:
        shared, own, length = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(own)
        yield key, reader.take(length)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol buffer."""
    reader = _Reader(message)
    while reader:
        tag = reader.varint()
        match tag & 7:
            case 0:
                yield tag >> 3, reader.varint()
            case 2:
                yield tag >> 3, reader.take(reader.varint())
            case 5:
                yield tag >> 3, struct.unpack("<I", reader.take(4))[0]
            case kind:
                raise KeyError(f"field of wire type {kind}")


def _entry(message: bytes, name: str, path: Path) -> Entry:
    """``BundleEntryProto``: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 CRC, 7 slices."""
    found = dict(_fields(message))
    if found.get(3) or 7 in found:
        raise WeightsError(f"{path}: {name} lies in another shard or in slices: not supported")
    entry = Entry(_shape(found.get(2, b"")), int(found.get(4, 0)), int(found[6]), int(found[1]))
    if entry.dtype == FLOAT32 and found.get(5, 0) != entry.size:
        raise WeightsError(f"{path}: {name} of shape {list(entry.shape)} has {found[5]!r} bytes")
    return entry


def _shape(message: int | bytes) -> tuple[int, ...]:
    """``TensorShapeProto``: 2 a dimension, of which 1 is the size."""
    assert isinstance(message, bytes)
    sizes = (dict(_fields(each)) for _, each in _fields(message) if isinstance(each, bytes))
    return tuple(int(each.get(1, 0)) for each in sizes)
