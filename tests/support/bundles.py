"""TensorFlow checkpoints, written from the description of their format.

An index is blocks of sorted entries and, last, a block that says where each of them lies. A key
shares its start with the one before, except at every sixteenth.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RESTART = 16
BLOCK_BYTES = 4096
MAGIC = 0xDB4775248B80FB57
TABLE = [0] * 256
for _byte in range(256):
    _crc = _byte
    for _ in range(8):
        _crc = _crc >> 1 ^ (0x82F63B78 if _crc & 1 else 0)
    TABLE[_byte] = _crc


def slow_crc(content: bytes) -> int:
    """CRC-32C byte by byte."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Turned right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)


def varint(value: int) -> bytes:
    more = bytearray()
    while value > 127:
        more.append(value & 127 | 128)
        value >>= 7
    return bytes([*more, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    content, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % RESTART == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        before = key
    for at in restarts or [0]:
        content += struct.pack("<I", at)
    return content + struct.pack("<I", len(restarts or [0]))


def index(entries: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """The bytes of an ``.index`` file."""
    table = b""

    def add(content: bytes) -> bytes:
        nonlocal table
        handle = varint(len(table)) + varint(len(content))
        whole = content + bytes([compression])
        table += whole + struct.pack("<I", mask(slow_crc(whole)))
        return handle

    handles, waiting = [], []
    for each in entries:
        waiting.append(each)
        if sum(len(key) + len(value) for key, value in waiting) > BLOCK_BYTES:
            handles.append((waiting[-1][0], add(block(waiting))))
            waiting = []
    if waiting:
        handles.append((waiting[-1][0], add(block(waiting))))
    footer = add(block([])) + add(block(handles))
    return table + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def entry(array: NDArray[np.float32], offset: int, crc: int) -> bytes:
    """A ``BundleEntryProto``. Zeros are not written, as protocol buffers have it."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    place = field(4, offset) if offset else b""
    crc_field = varint(6 << 3 | 5) + struct.pack("<I", crc)
    return field(1, 1) + field(2, shape) + place + field(5, array.nbytes) + crc_field


def write_checkpoint(
    stem: Path, arrays: Mapping[str, NDArray[np.float32]], crcs: Mapping[str, int]
) -> None:
    """``stem.index`` and ``stem.data-00000-of-00001``, tensors in order of their names."""
    entries = [(b"", field(1, 1) + field(3, field(1, 1)))]  # the header: one shard, version 1
    with open(f"{stem}.data-00000-of-00001", "wb") as file:
        for name in sorted(arrays):
            entries.append((name.encode(), entry(arrays[name], file.tell(), crcs[name])))
            file.write(arrays[name].astype("<f4").tobytes())
    Path(f"{stem}.index").write_bytes(index(entries))
