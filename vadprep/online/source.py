"""What a live source may be, and its name without credentials."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vadprep.core.errors import SettingError, allowed_are, printable

SCHEMES = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "",
    "https": "",
    "rtmp": "",
    "udp": "",
    "rtp": "rtp",
}
"""Scheme of a URL -> FFmpeg's name of the container; blank where FFmpeg finds it out."""


@dataclass(frozen=True)
class Source:
    """One camera, stream, video file or growing folder."""

    address: str
    """As it was given: a URL may hold a password."""
    kind: Literal["stream", "device", "file", "folder"]
    name: str
    """What records, logs and pages call it."""

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.kind})"


def parse_sources(sources: str | Path | Sequence[str | Path]) -> list[Source]:
    """The sources of a session, with names that differ.

    Raises SettingError for none, for a file that is not there, and for a URL of another scheme.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if not given:
        raise SettingError("name a source: a URL, a device, a video file or a folder")
    found: list[Source] = []
    for each in given:
        address = str(each)
        kind, name = _kind(address), printable(address)
        taken = [other.name for other in found]
        if name in taken:
            count = 2
            while f"{name} ({count})" in taken:
                count += 1
            name = f"{name} ({count})"
        found.append(Source(address, kind, name))
    return found


def _kind(address: str) -> Literal["stream", "device", "file", "folder"]:
    scheme, colon, _ = address.partition("://")
    if colon:
        if scheme.lower() not in SCHEMES:
            raise SettingError(f"{address}: scheme {scheme}: {allowed_are(scheme, SCHEMES)}")
        return "stream"
    path = Path(address)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingError(f"source {address}: {error.strerror}") from None
    if stat.S_ISCHR(mode):
        return "device"
    if stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISREG(mode):
        return "file"
    raise SettingError(f"source {address}: neither a URL, a device, a video file nor a folder")
