"""A video in the making: its snippets, and then its own file, a shard of this one video."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import disk_errors
from vadprep.core.errors import FeaturesError
from vadprep.core.spec import Spec
from vadprep.features.shard import (
    BLOCK_BYTES,
    DONE,
    FAILED,
    Attributes,
    StoredVideo,
    crc32,
    read_video,
    write_shard,
)


class Draft:
    """A video in the making: snippets are appended as they are computed, then committed.

    They are kept in a nameless file in the folder of ``path``, of which a kill leaves nothing;
    ``commit`` makes ``path``, a shard of this one video, by one rename. Use as a context manager.
    """

    def __init__(self, path: Path, spec: Spec) -> None:
        self.path = path
        self.spec = spec
        self.checksum = 0
        self._shape = (0, 0, 0)
        with disk_errors(path):
            self._file = tempfile.TemporaryFile(dir=path.parent)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # of a full disk, again: what was not written has no name
            self._file.close()

    def append(self, features: NDArray[np.floating]) -> None:
        """Add snippets [n, num_crops, dim], stored in the spec's dtype.

        Raises FeaturesError when one is not finite, as when a number exceeds what the dtype holds.
        """
        with np.errstate(over="ignore"):
            block = features.astype(self.spec.dtype)
        if not np.isfinite(block).all():
            raise FeaturesError(
                f"{self.path}: features that are not finite with precision {self.spec.precision}, "
                f"dtype {self.spec.dtype}: use --precision fp32 --set dtype=float32 and a new --out"
            )
        self.checksum = crc32(block, self.checksum)
        self._shape = (self._shape[0] + len(block), block.shape[1], block.shape[2])
        with disk_errors(self.path):
            self._file.write(block.data)

    def commit(
        self,
        attributes: Attributes,
        spans: NDArray[np.int64],
        times: NDArray[np.float64] | None = None,
    ) -> None:
        """Publish the video with ``attributes`` (status and checksums are added here)."""
        with disk_errors(self.path):
            self._file.flush()
        checksums = {"features_crc32": self.checksum, "spans_crc32": crc32(spans)}
        if times is not None:
            checksums["times_crc32"] = crc32(times)
        checked = {**attributes, "status": DONE, **checksums}
        video = StoredVideo(checked, self._shape, self.spec.dtype, spans, self._blocks, times)
        write_shard(self.path, self.spec, [video])

    def _blocks(self) -> Iterator[NDArray[Any]]:
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield np.frombuffer(block, np.uint8)


def write_failure(
    path: Path, spec: Spec, attributes: Attributes, reason: str, kind: str = ""
) -> None:
    """Write the shard ``path`` of one video that failed, with its reason and the kind of it.

    Features that are there already stay. Raises ShardError when the file that is there is damaged.
    """
    if path.exists() and read_video(path).is_done:
        return
    about = {"status": FAILED, "reason": reason, **({"kind": kind} if kind else {})}
    failed = StoredVideo({**attributes, **about})
    write_shard(path, spec, [failed])
