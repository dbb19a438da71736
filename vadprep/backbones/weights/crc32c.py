"""The CRC-32C of TensorFlow's files."""

import google_crc32c


def crc32c(content: bytes) -> int:
    """CRC-32C of the bytes."""
    return int(google_crc32c.value(content))


def masked(crc: int) -> int:
    """The form in which TensorFlow stores a CRC."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
