"""DeepMind's Inception-I3D checkpoints: read without TensorFlow, and recognised by their CRCs.

``model.ckpt.index`` is a table of LevelDB's format, name -> a protocol buffer with type, shape,
place and CRC of a tensor. ``model.ckpt.data-00000-of-00001`` is the tensors, end to end.

``deepmind_crc32c.csv`` holds the masked CRC-32C that the ``.index`` files of ``rgb_imagenet``
and ``flow_imagenet`` state for each of the 230 tensors. With it any conversion of those weights
is compared with the release, tensor by tensor.
"""

from __future__ import annotations

import csv
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.backbones.graphs import canonical_shapes
from vadprep.backbones.weights.names import deepmind_name
from vadprep.core.errors import WeightsError

RELEASES = {"rgb_imagenet": "inception_i3d", "flow_imagenet": "inception_i3d_flow"}
"""Checkpoints whose CRCs are known, and their graphs."""
SCOPES = {"inception_i3d": "RGB", "inception_i3d_flow": "Flow"}
"""First part of the names in a checkpoint."""
TABLE = Path(__file__).with_name("deepmind_crc32c.csv")

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
TRAILER_BYTES = 5
"""Behind a block: its compression and its masked CRC."""
FLOAT32 = 1
"""DT_FLOAT in TensorFlow's types.proto."""
DATA = ".data-00000-of-00001"

State = Mapping[str, Tensor]
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


# --- a checkpoint of TensorFlow -----------------------------------------------------------


def masked_crc32c(content: bytes) -> int:
    """CRC-32C in the form that TensorFlow and LevelDB store, which keeps CRCs of CRCs good."""
    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


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


def read_tensors(data: Path, index: Mapping[str, Entry]) -> Arrays:
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
        if masked_crc32c(raw.tobytes()) != entry.crc:
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
    if masked_crc32c(content) != stored:
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


# --- a release of DeepMind ----------------------------------------------------------------


def released_crcs(release: str) -> dict[str, int]:
    """Masked CRC-32C by DeepMind's name (behind the scope), as the index of the release has it."""
    with open(TABLE, newline="") as file:
        return {row["tensor"]: int(row[release], 16) for row in csv.DictReader(file)}


def released_index(release: str) -> dict[str, Entry]:
    """The index of a release, for a data file that has no index beside it.

    Its tensors lie end to end in order of their names, filters as [t, h, w, in, out].
    """
    graph = RELEASES[release]
    shapes = {
        theirs: (*shape[2:], shape[1], shape[0]) if len(shape) == 5 else tuple(shape)
        for ours, shape in canonical_shapes(graph).items()
        if (theirs := deepmind_name(ours))
    }
    index, offset = {}, 0
    for name, crc in sorted(released_crcs(release).items()):
        entry = Entry(shapes[name], offset, crc)
        index[f"{SCOPES[graph]}/inception_i3d/{name}"] = entry
        offset += entry.size
    return index


def is_checkpoint(path: Path) -> bool:
    """True for a file of a TensorFlow checkpoint, by its name."""
    return path.name.endswith((".index", DATA))


def read_checkpoint(path: Path, release: str = "") -> Arrays:
    """Tensors of the checkpoint that ``path``, its index or data file, belongs to.

    Without an ``.index`` beside it, the bundled one of ``release`` serves. Raises WeightsError
    for a file that is missing or damaged, with the name of the tensor.
    """
    stem = path.name.removesuffix(".index").removesuffix(DATA)
    index_path, data = path.with_name(stem + ".index"), path.with_name(stem + DATA)
    if not data.is_file():
        raise WeightsError(f"{data}: no such file, which holds the tensors of {path.name}")
    if index_path.is_file():
        return read_tensors(data, read_index(index_path))
    if release not in RELEASES:
        raise WeightsError(
            f"{index_path}: no such file, without which the data file cannot be read "
            f"(only of {', '.join(RELEASES)} is it bundled: name one with --as)"
        )
    return read_tensors(data, released_index(release))


def scope_graph(arrays: Arrays) -> str | None:
    """Graph id that the names of a checkpoint say, None for another network."""
    scopes = {name.split("/")[0] for name in arrays}
    return next((graph for graph, scope in SCOPES.items() if scopes == {scope}), None)


def from_deepmind(arrays: Arrays, graph: str) -> dict[str, Tensor]:
    """Tensors under canonical names, transposed, with the batch-norm scale of 1 filled in.

    Names that the graph does not have stay as they are; the caller refuses them.
    """
    left = dict(arrays)
    state = {}
    for ours, shape in canonical_shapes(graph).items():
        theirs = deepmind_name(ours)
        if theirs is None:
            state[ours] = torch.ones(shape)
        elif (array := left.pop(f"{SCOPES[graph]}/inception_i3d/{theirs}", None)) is not None:
            ordered = array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array
            state[ours] = torch.from_numpy(np.ascontiguousarray(ordered, dtype=np.float32))
    return state | {name: torch.from_numpy(array.copy()) for name, array in left.items()}


@dataclass(frozen=True)
class ReleaseComparison:
    """An Inception-I3D against a release of DeepMind's."""

    release: str
    num_equal: int
    """Of the 230 tensors that DeepMind has."""
    differing: tuple[str, ...]
    """Canonical names."""

    @property
    def is_original(self) -> bool:
        """True when every tensor is DeepMind's to the bit."""
        return not self.differing

    def __str__(self) -> str:
        if self.is_original:
            return f"original: all {self.num_equal} tensors are DeepMind's {self.release}"
        first = ", ".join(self.differing[:3])
        more = f" and {len(self.differing) - 3} more" if len(self.differing) > 3 else ""
        return (
            f"NOT the original: {self.num_equal} tensors are DeepMind's {self.release}; "
            f"not {first}{more}"
        )


def compare_with_release(state: State, graph: str) -> ReleaseComparison:
    """Which tensors of an Inception-I3D are DeepMind's; ValueError for another graph.

    Batch-norm scales, which the release does not hold, count as equal when they are 1.
    """
    release = next((name for name, of in RELEASES.items() if of == graph), None)
    if release is None:
        raise ValueError(f"{graph = }: CRCs are published for {', '.join(RELEASES.values())}")
    crcs = released_crcs(release)
    equal, differing = 0, []
    for ours, tensor in state.items():
        array, theirs = tensor.numpy(), deepmind_name(ours)
        if theirs is None:  # a batch-norm scale
            is_equal = bool((array == 1).all())
        else:
            ordered = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
            content = np.ascontiguousarray(ordered, dtype="<f4").tobytes()
            is_equal = masked_crc32c(content) == crcs[theirs]
            equal += is_equal
        if not is_equal:
            differing.append(ours)
    return ReleaseComparison(release, equal, tuple(differing))
