"""CRC-32C (Castagnoli, RFC 3720 appendix B) of long buffers with numpy alone.

A CRC without its pre- and post-inversion is linear: the buffer is cut into lanes that are
divided in step, and their remainders are joined by multiplying with powers of x.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78
"""Reflected: the lowest bit is the highest power."""
LANE_BYTES = 1024
"""Least bytes of a lane; joining lanes costs as much as some hundred steps."""
MAX_LANES = 1 << 13

Vector = NDArray[np.uint32]


def crc32c(buffer: bytes | memoryview | NDArray[np.uint8]) -> int:
    """CRC-32C of the bytes, as an unsigned 32-bit number."""
    data = np.frombuffer(buffer, dtype=np.uint8)
    count = len(data)
    lanes = 1
    while lanes < MAX_LANES and lanes * 2 * LANE_BYTES <= count:
        lanes *= 2
    length = -(-max(count, 4) // (2 * lanes)) * 2
    padded = np.zeros(lanes * length, dtype=np.uint8)  # zeros in front change no remainder
    padded[len(padded) - count :] = data
    remainders = _remainders(padded.view("<u2").reshape(lanes, length // 2))
    while len(remainders) > 1:
        remainders = _times(_zeros(length), remainders[0::2]) ^ remainders[1::2]
        length *= 2
    # The inversion before the first byte, carried to the end of the buffer.
    inverted = _times(_zeros(count), np.array([0xFFFFFFFF], dtype=np.uint32))
    return int(remainders[0] ^ inverted[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which TensorFlow and LevelDB store a CRC, so that CRCs of CRCs stay good."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _remainders(rows: NDArray[np.uint16]) -> Vector:
    """Remainder of each row [lanes, steps] of pairs of bytes, started from 0."""
    table = _table(2)
    crc = np.zeros(len(rows), dtype=np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crc = table[(crc ^ column) & 0xFFFF] ^ (crc >> 16)
    return crc


@lru_cache(maxsize=2)
def _table(num_bytes: int) -> Vector:
    """Remainder of every number of so many bytes."""
    crc = np.arange(1 << 8 * num_bytes, dtype=np.uint32)
    for _ in range(8 * num_bytes):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(POLYNOMIAL), crc >> 1)
    return crc


@lru_cache(maxsize=256)
def _zeros(count: int) -> Vector:
    """Matrix [32] (a column for each bit) that takes a remainder past ``count`` zero bytes."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if count == 0:
        return bits
    if count == 1:
        return _table(1)[bits & 0xFF] ^ (bits >> 8)
    half = _zeros(count // 2)
    both = _times(half, half)
    return _times(_zeros(1), both) if count % 2 else both


def _times(matrix: Vector, vectors: Vector) -> Vector:
    """The matrix applied to each of ``vectors``, over GF(2)."""
    product = np.zeros_like(vectors)
    for bit, column in enumerate(matrix):
        product ^= np.where(vectors >> np.uint32(bit) & 1, column, np.uint32(0))
    return product
