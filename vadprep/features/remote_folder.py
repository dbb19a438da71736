"""The feature folder of a stream at a URL, as it stood when it was opened.

A folder that is complete needs no listing: its plan names the shards. So the shards decide; files
of single videos, which stand beside them while an extraction runs, are looked for where a listing
shows their folder or, without listings, where the shard is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vadprep.features.folder import StreamFolder
from vadprep.features.lease import Run
from vadprep.features.plan import Place
from vadprep.features.remote import RemotePath


@dataclass(frozen=True)
class RemoteFolder(StreamFolder):
    """A StreamFolder that is read through fsspec, with as few requests as will do."""

    def final_shards(self) -> set[int]:
        return {shard for shard in range(len(self.plan.shards)) if self.shard(shard).exists()}

    def partial_shards(self) -> set[int]:
        return {shard for shard in range(len(self.plan.shards)) if self._has_partial(shard)}

    def finished(self, shard: int) -> set[int]:
        ids = self.plan.shards[shard] if self._has_partial(shard) else []
        places = (Place(shard, position) for position in range(len(ids)))
        return {place.position for place in places if self.partial_video(place).exists()}

    def runs(self) -> list[Run]:
        return []  # they work on disks

    def location(self, place: Place) -> tuple[Path, str]:
        own = self.partial_video(place)
        if self._has_partial(place.shard) and own.exists():
            return own, "000000"
        return self.shard(place.shard), place.group

    def _has_partial(self, shard: int) -> bool:
        assert isinstance(self.path, RemotePath)
        if self.path.lists:
            return self.partial(shard).exists()
        return not self.shard(shard).exists()
