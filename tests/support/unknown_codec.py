"""Videos of a codec that no FFmpeg knows."""

from __future__ import annotations

NAMES = {b"avc1": b"qqqq", b"V_MPEG4/ISO/AVC": b"V_QQQQQ/QQQ/QQQ"}
"""H.264 in MP4 and in Matroska -> names of the same length that nobody uses."""


def with_unknown_codec(content: bytes) -> bytes:
    """An MP4 or Matroska file of H.264 that says it is of another codec."""
    for name, other in NAMES.items():
        content = content.replace(name, other)
    return content
