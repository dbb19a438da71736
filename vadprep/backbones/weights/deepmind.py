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
from io import BytesIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vadprep.backbones.graphs import canonical_shapes
from vadprep.backbones.weights.names import rename
from vadprep.core.errors import WeightsError
from vadprep.core.untrusted import read_regular

RELEASES = {"rgb_imagenet": "inception_i3d", "flow_imagenet": "inception_i3d_flow"}
"""Checkpoints whose CRCs are known, and their graphs."""
SCOPES = {"inception_i3d": "RGB", "inception_i3d_flow": "Flow"}
"""First part of the names in a checkpoint."""
TABLE = Path(__file__).with_name("deepmind_crc32c.csv")

FOOTER_BYTES = 48
MOST_INDEX_BYTES, MOST_BYTES = 1 << 18, 1 << 30
"""Of an index file and of the data: the releases have 20 kB and 50 MB."""
MOST_TENSORS, LONGEST_NAME = 10_000, 1000
MAGIC = 0xDB4775248B80FB57
FLOAT32 = 1  # DT_FLOAT in TensorFlow's types.proto
DATA = ".data-00000-of-00001"


@dataclass(frozen=True)
class Entry:
    """One float32 tensor: where its bytes lie in the data file, and their masked CRC."""

    shape: tuple[int, ...]
    offset: int
    crc: int

    @property
    def size(self) -> int:
        """Bytes."""
        return 4 * math.prod(self.shape)


def masked_crc32c(content: bytes) -> int:
    """CRC-32C in the form that TensorFlow and LevelDB store, which keeps CRCs of CRCs good."""
    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_index(path: Path) -> dict[str, Entry]:
    """Entries of an ``.index`` file by name; WeightsError when it is not one, or damaged.

    An entry is a ``BundleEntryProto``: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 CRC, 7 slices.
    In the shape, field 2 is a dimension, of which field 1 is the size.
    """
    table = read_regular(path, WeightsError, MOST_INDEX_BYTES)
    if len(table) < FOOTER_BYTES or struct.unpack("<Q", table[-8:])[0] != MAGIC:
        raise WeightsError(f"{path}: not an index of a TensorFlow checkpoint: copy it again")
    entries = {}
    try:
        footer = BytesIO(table[-FOOTER_BYTES:])
        _varint(footer), _varint(footer)  # place and size of the meta index, which is empty
        blocks = (handle for _, handle in _pairs(_block(table, footer, path)))
        pairs = (pair for each in blocks for pair in _pairs(_block(table, BytesIO(each), path)))
        for count, (key, value) in enumerate(pairs):
            if count > MOST_TENSORS:
                raise ValueError(f"more than {MOST_TENSORS} tensors")
            if not key:  # the header
                continue
            name, found = key.decode(), dict(_fields(value))
            if found.get(3) or 7 in found:
                raise WeightsError(f"{path}: {name} lies in another shard or in slices")
            sizes = [dict(_fields(each)) for i, each in _fields(found.get(2, b"")) if i == 2]
            shape = tuple(int(each.get(1, 0)) for each in sizes)
            entry = Entry(shape, int(found.get(4, 0)), found[6])
            if found[1] != FLOAT32 or found.get(5, 0) != entry.size:
                raise WeightsError(f"{path}: {name} of type {found[1]} is no float32 {entry.shape}")
            entries[name] = entry
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise WeightsError(f"{path}: damaged ({error}): copy it again") from error
    return entries


def read_tensors(data: Path, index: Mapping[str, Entry]) -> dict[str, NDArray[np.float32]]:
    """Tensors by name; WeightsError names the first whose bytes are not those of the index."""
    content = np.frombuffer(read_regular(data, WeightsError, MOST_BYTES), np.uint8).copy()
    arrays, total = {}, 0
    for name, entry in index.items():
        raw = content[entry.offset : entry.offset + entry.size]
        total += entry.size
        if len(raw) < entry.size or total > len(content):
            raise WeightsError(f"{data}: ends within {name}: download it again")
        if masked_crc32c(raw.tobytes()) != entry.crc:
            raise WeightsError(f"{data}: {name} is damaged (CRC-32C differs): download it again")
        arrays[name] = raw.view("<f4").reshape(entry.shape)
    return arrays


def _varint(reader: BytesIO) -> int:
    value = shift = 0
    while True:
        byte = reader.read(1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _take(reader: BytesIO, count: int) -> bytes:
    content = reader.read(count)
    if len(content) < count:
        raise IndexError(f"{count} bytes are wanted where fewer are left")
    return content


def _block(table: bytes, handle: BytesIO, path: Path) -> bytes:
    """Content of the block that a handle (offset, size) points at, its CRC checked.

    Behind it are a byte that says how it is compressed, and its masked CRC in four.
    """
    offset, size = _varint(handle), _varint(handle)
    content = table[offset : offset + size + 1]
    (stored,) = struct.unpack("<I", table[offset + size + 1 : offset + size + 5])
    if masked_crc32c(content) != stored:
        raise WeightsError(f"{path}: a block is damaged (CRC-32C differs): copy it again")
    if content[-1] != 0:
        raise WeightsError(f"{path}: compressed, which TensorFlow's checkpoints never are")
    return content[:-1]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values. A key is stored as what it shares with the one before, and the rest."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (restarts + 1)
    reader, key = BytesIO(block[: max(0, end)]), b""
    while reader.tell() < end:
        shared, own, length = _varint(reader), _varint(reader), _varint(reader)
        key = key[:shared] + _take(reader, own)
        if len(key) > LONGEST_NAME:
            raise ValueError("a name has no end")
        yield key, _take(reader, length)


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a protocol buffer: numbers, or the bytes of another one."""
    reader = BytesIO(message)
    while reader.tell() < len(message):
        tag = _varint(reader)
        match tag & 7:
            case 0:
                yield tag >> 3, _varint(reader)
            case 2:
                yield tag >> 3, _take(reader, _varint(reader))
            case 5:
                yield tag >> 3, int.from_bytes(_take(reader, 4), "little")
            case kind:
                raise KeyError(f"field of wire type {kind}")


DEEPMIND_NAMES = {
    # A slip of the release: in this one block the 3x3x3 convolution is called 0a, not 0b.
    "Mixed_5b.Branch_2.Conv3d_0b_3x3": "Mixed_5b.Branch_2.Conv3d_0a_3x3",
    ".conv.weight": "/conv_3d/w", ".bn.bias": "/batch_norm/beta",
    ".bn.running_mean": "/batch_norm/moving_mean", ".bn.running_var": "/batch_norm/moving_variance",
    "Logits.Conv3d_0c_1x1.weight": "Logits/Conv3d_0c_1x1/conv_3d/w",
    "Logits.Conv3d_0c_1x1.bias": "Logits/Conv3d_0c_1x1/conv_3d/b", ".": "/",
}  # fmt: skip


def deepmind_name(name: str) -> str | None:
    """The name in DeepMind's checkpoints behind ``RGB/inception_i3d/``.

    None for a batch-norm scale, which they do not have: it is 1.
    """
    return None if name.endswith(".bn.weight") else rename(DEEPMIND_NAMES, name)


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


def read_checkpoint(path: Path, release: str = "") -> tuple[str, dict[str, Tensor]]:
    """Graph id, and tensors under canonical names, of the checkpoint with that index or data file.

    Without ``.index``, the bundled one of ``release`` serves. The batch-norm scale of 1 is filled
    in. Names that the graph does not have stay, for the caller to refuse. Raises WeightsError for
    a file that is missing or damaged, with the name of the tensor, and for another network.
    """
    stem = path.name.removesuffix(".index").removesuffix(DATA)
    index_path, data = path.with_name(stem + ".index"), path.with_name(stem + DATA)
    if not data.is_file():
        raise WeightsError(f"{data}: no such file, which holds the tensors of {path.name}")
    if not index_path.is_file() and release not in RELEASES:
        raise WeightsError(
            f"{index_path}: no such file, without which the data file cannot be read "
            f"(only of {', '.join(RELEASES)} is it bundled: name one with --as)"
        )
    index = read_index(index_path) if index_path.is_file() else released_index(release)
    left = read_tensors(data, index)
    scopes = {name.split("/")[0] for name in left}
    graph = next((graph for graph, scope in SCOPES.items() if scopes == {scope}), None)
    if graph is None:
        raise WeightsError(f"{path}: tensor {next(iter(left), '')!r} is of another network")
    state = {}
    for ours, shape in canonical_shapes(graph).items():
        theirs = deepmind_name(ours)
        if theirs is None:
            state[ours] = torch.ones(shape)
        elif (array := left.pop(f"{SCOPES[graph]}/inception_i3d/{theirs}", None)) is not None:
            ordered = array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array
            state[ours] = torch.from_numpy(np.ascontiguousarray(ordered, dtype=np.float32))
    return graph, state | {name: torch.from_numpy(array.copy()) for name, array in left.items()}


def compare_with_release(state: Mapping[str, Tensor], graph: str) -> tuple[list[str], str]:
    """Canonical names of the tensors that are not DeepMind's to the bit, and a line for people.

    Batch-norm scales, which the release does not hold, count as equal when they are 1.
    """
    release = next(name for name, of in RELEASES.items() if of == graph)
    crcs, differing, num_equal = released_crcs(release), [], 0
    for ours, tensor in state.items():
        array, theirs = tensor.numpy(), deepmind_name(ours)
        if theirs is None:  # a batch-norm scale
            is_equal = bool((array == 1).all())
        else:
            ordered = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
            is_equal = masked_crc32c(ordered.astype("<f4").tobytes()) == crcs[theirs]
            num_equal += is_equal
        if not is_equal:
            differing.append(ours)
    equal = f"{num_equal} tensors are DeepMind's {release}"
    if not differing:
        return [], f"original: all {equal}"
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return differing, f"NOT the original: {equal}; not {', '.join(differing[:3])}{more}"
