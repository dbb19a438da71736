"""TensorBoard's event files, written without TensorBoard.

A file is a row of records, each a protobuf message ``Event`` of tensorflow/core/util/event.proto:

    record   uint64 length, masked CRC-32C of it, message, masked CRC-32C of that; little-endian
    Event    1 wall_time double, 2 step int64, 3 file_version string, 5 summary
    Summary  1 value (repeated): 1 tag string, 2 simple_value float
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from vadprep.backbones.weights.crc32c import crc32c, masked
from vadprep.core.atomic import open_atomic

NAME = "log.tfevents"
"""TensorBoard reads files with ``tfevents`` in their name."""


def write_events(path: Path, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Write the scalars by tag of each step, in order, at once.

    The clock of the file is the step, in seconds: equal runs give equal files.
    """
    events = [_double(1, 0.0) + _bytes(3, b"brain.Event:2")]
    for step, scalars in points:
        values = [_bytes(1, _bytes(1, tag.encode()) + _float(2, v)) for tag, v in scalars.items()]
        events.append(_double(1, step) + _tag(2, 0) + _varint(step) + _bytes(5, b"".join(values)))
    with open_atomic(path) as stream:
        for event in events:
            stream.write(_record(event))


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(message)


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", masked(crc32c(content)))


def _tag(number: int, wire: int) -> bytes:
    return bytes([number << 3 | wire])


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _bytes(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(content)) + content


def _double(number: int, value: float) -> bytes:
    return _tag(number, 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _tag(number, 5) + struct.pack("<f", value)
