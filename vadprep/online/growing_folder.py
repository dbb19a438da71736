"""The video files of a folder that gets more of them, each once it is complete."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from time import monotonic

from vadprep.core.video_files import is_video

SETTLED_SECONDS = 2.0
"""A file is given when it has not changed for so long, by looks at it."""


class GrowingFolder:
    """Gives each video file of a folder once, when its size and time of change stand still.

    The time of change is only compared with that of the look before: it may be of a clock that is
    ahead or behind, as that of a camera or file server. So each file is looked at for
    SETTLED_SECONDS, also one that seems to be old. Hidden names are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._given = set[str]()
        self._seen: dict[str, tuple[int, int, float]] = {}
        """By name: size, time of change, and since when these are so, by the monotonic clock."""
        self._looked = float("-inf")

    def take(self) -> Path | None:
        """The first complete file by name that was not given yet. Raises OSError."""
        self._look()
        for name, (size, _, since) in sorted(self._seen.items()):
            if size and self._looked - since >= SETTLED_SECONDS:
                self._given.add(name)
                return self._path / name
        return None

    def look(self) -> None:
        """Note what is there, for a later ``take``; may be called often. Raises OSError."""
        if monotonic() - self._looked >= SETTLED_SECONDS:
            self._look()

    def _look(self) -> None:
        before, now = self._seen, monotonic()
        self._seen, self._looked = {}, now
        for name in os.listdir(self._path):
            if name in self._given or not is_video(name):
                continue
            try:
                status = os.stat(self._path / name)
            except OSError:  # a broken link, or it was removed just now
                continue
            if stat.S_ISREG(status.st_mode):
                size, changed, since = before.get(name, (-1, -1, now))
                if (size, changed) != (status.st_size, status.st_mtime_ns):
                    since = now
                self._seen[name] = status.st_size, status.st_mtime_ns, since
