"""The feature folder of one stream: its spec, its plan, and where each file lies.

    FEATURES/rgb/
      spec.json                        created exclusively, then compared; also the shard size
      plan.csv                         video_id -> shard; see ``plan``
      shards/shard-00017.h5            final
      shards/shard-00017.partial/000003.h5   a finished video, a shard of one
      manifest-<rank>.csv  events-<rank>.jsonl   see ``journal``
      lease-<share>-<host>-<process>.json        see ``lease``

The files decide: a video is finished when its file lies in a partial folder or its shard is
final. The journal can always be completed from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from vadprep.core.atomic import disk_errors, make_folder, names_in, open_atomic, temporary_name
from vadprep.core.errors import FeaturesError
from vadprep.core.spec import STREAMS, Spec, require_equal
from vadprep.features.lease import Run, running
from vadprep.features.plan import SHARD_SIZE, Place, Plan, grow_plan, read_plan
from vadprep.features.remote import AnyPath, RemotePath, as_path
from vadprep.features.shard import Shard, StoredVideo


@dataclass(frozen=True)
class StreamFolder:
    """The folder ``FEATURES/<stream>`` with its spec and plan."""

    path: Path
    spec: Spec
    plan: Plan = field(default_factory=Plan, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> StreamFolder:
        """Open an existing folder; raises FeaturesError when it is none or its plan is damaged."""
        spec = read_spec(path)
        if spec is None:
            raise FeaturesError(f"{path}: no feature folder (spec.json is missing)")
        plan = path / "plan.csv"
        return cls(path, spec, read_plan(plan) if plan.exists() else Plan())

    @classmethod
    def prepare(
        cls,
        path: Path,
        spec: Spec,
        video_ids: Iterable[str],
        shard_size: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> StreamFolder:
        """Create the folder, or join the one that exists; its plan then covers ``video_ids``.

        The folder keeps the ``shard_size`` it was made with; another one given later is used for
        the videos that are new then. Raises SpecError when the folder holds features of another
        spec.
        """
        make_folder(path / "shards")
        _write_spec(path, spec, shard_size or SHARD_SIZE, provenance or {})
        size = shard_size or read_shard_size(path)
        return cls(path, spec, grow_plan(path / "plan.csv", video_ids, size))

    @property
    def plan_path(self) -> Path:
        return self.path / "plan.csv"

    def shard(self, shard: int) -> Path:
        """Path of a final shard, whether it exists yet or not."""
        return self.path / "shards" / f"shard-{shard:05d}.h5"

    def partial(self, shard: int) -> Path:
        """Folder of a shard's finished videos while it is not final."""
        return self.path / "shards" / f"shard-{shard:05d}.partial"

    def partial_video(self, place: Place) -> Path:
        """Path of one finished video while its shard is not final."""
        return self.partial(place.shard) / f"{place.group}.h5"

    def final_shards(self) -> set[int]:
        """Numbers of the shards that are final."""
        planned = len(self.plan.shards)
        return {n for n in _numbers(self.path / "shards", "shard-", ".h5") if n < planned}

    def partial_shards(self) -> set[int]:
        """Numbers of the shards that have a folder of finished videos."""
        return set(_numbers(self.path / "shards", "shard-", ".partial"))

    def unfinished_shards(self) -> set[int]:
        """Numbers of the shards that are not final, or whose parts still lie beside them."""
        return (set(range(len(self.plan.shards))) - self.final_shards()) | self.partial_shards()

    def finished(self, shard: int) -> set[int]:
        """Positions of the videos, done or failed, of a shard that is not final."""
        return set(_numbers(self.partial(shard), "", ".h5"))

    def runs(self) -> list[Run]:
        """The runs that work on it now, by their leases."""
        return running(self.path)

    def location(self, place: Place) -> tuple[Path, str]:
        """File and group of the video at ``place``: its own file if it has one, else the shard.

        A video that was extracted again has its own file beside the final shard for a while.
        """
        own = self.partial_video(place)
        return (own, "000000") if own.exists() else (self.shard(place.shard), place.group)

    def stored(self, place: Place) -> StoredVideo:
        """The finished video at ``place``; holds no file open."""
        path, group = self.location(place)
        with Shard(path) as shard:
            return shard.video(group)


def _numbers(folder: Path, prefix: str, suffix: str) -> Iterator[int]:
    for name in names_in(folder):
        digits = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{digits}{suffix}" and digits.isdecimal():
            yield int(digits)


class RemoteFolder(StreamFolder):
    """A StreamFolder at a URL, as it was when it was opened, read with few requests.

    A complete folder needs no listing: its plan names the shards. Files of single videos are
    looked for where a listing shows their folder or, without listings, where a shard is missing.
    """

    path: RemotePath  # type: ignore[assignment]  # reading needs no more of a Path than it has

    def final_shards(self) -> set[int]:
        return {shard for shard in range(len(self.plan.shards)) if self.shard(shard).exists()}

    def partial_shards(self) -> set[int]:
        return {shard for shard in range(len(self.plan.shards)) if self._has_partial(shard)}

    def finished(self, shard: int) -> set[int]:
        count = len(self.plan.shards[shard]) if self._has_partial(shard) else 0
        return {n for n in range(count) if self.partial_video(Place(shard, n)).exists()}

    def runs(self) -> list[Run]:
        return []  # they work on disks

    def location(self, place: Place) -> tuple[Path, str]:
        if self._has_partial(place.shard):
            return super().location(place)
        return self.shard(place.shard), place.group

    def _has_partial(self, shard: int) -> bool:
        if self.path.lists:
            return self.partial(shard).exists()
        return not self.shard(shard).exists()


def stream_folders(path: AnyPath) -> dict[str, StreamFolder]:
    """Stream -> folder for each stream in FEATURES, or for the one folder ``path`` itself."""
    paths = [path] if (path / "spec.json").exists() else [path / name for name in STREAMS]
    kind = RemoteFolder if isinstance(path, RemotePath) else StreamFolder
    folders = [kind.open(cast(Path, each)) for each in paths if (each / "spec.json").exists()]
    return {folder.spec.stream: folder for folder in folders}


def is_feature_folder(path: str | AnyPath) -> bool:
    """True for a URL, and for a folder that holds the spec of a stream."""
    place = as_path(path)
    return isinstance(place, RemotePath) or bool(stream_folders(place))


def required_folders(path: AnyPath) -> dict[str, StreamFolder]:
    """``stream_folders``; raises FeaturesError when there are none."""
    folders = stream_folders(path)
    if not folders:
        places = ", ".join(["spec.json", *(f"{name}/spec.json" for name in STREAMS)])
        raise FeaturesError(
            f"{path}: no features here (looked for {places}): make them with vadprep extract, or "
            "name the folder they are in (train, score: --features)"
        )
    return folders


# ---------------------------------------------------------------- spec.json


def read_spec(path: Path) -> Spec | None:
    """The spec of the folder ``path``, None when there is none."""
    content = _spec_file(path)
    if content is None:
        return None
    file = path / "spec.json"
    try:
        return Spec.from_json(json.dumps(content["spec"]), str(file))
    except KeyError as error:
        raise FeaturesError(f"{file}: damaged: {error} is missing") from error


def read_shard_size(path: Path) -> int:
    """Videos in a shard of the folder ``path``: what it was made with, else SHARD_SIZE."""
    size = (_spec_file(path) or {}).get("shard_size", SHARD_SIZE)
    if not isinstance(size, int) or size < 1:
        raise FeaturesError(f"{path / 'spec.json'}: damaged: shard_size is {size!r}")
    return size


def read_provenance(path: Path) -> dict[str, Any]:
    """How the folder ``path`` was made, as it says itself; empty when there is no folder."""
    return dict((_spec_file(path) or {}).get("provenance", {}))


def _spec_file(path: Path) -> dict[str, Any] | None:
    file = path / "spec.json"
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise FeaturesError(f"{file}: damaged: {error}") from error
    if not isinstance(content, dict):
        raise FeaturesError(f"{file}: damaged: expected a JSON object")
    return content


def _write_spec(path: Path, spec: Spec, shard_size: int, provenance: dict[str, Any]) -> None:
    """Write spec.json, or compare with the one that exists."""
    content = {
        "format": "vadprep-features",
        "version": 1,
        "hash": spec.hash,
        "spec": json.loads(spec.to_json()),
        "shard_size": shard_size,
        "provenance": provenance,
    }
    file = path / "spec.json"
    if not file.exists():
        try:
            with open_atomic(file, replace=False) as stream:
                stream.write((json.dumps(content, indent=2) + "\n").encode())
        except FileExistsError:  # another rank was first: compare with its spec
            pass
    found = read_spec(path)
    assert found is not None
    require_equal(spec, found, str(path))


def check_writable(path: Path) -> None:
    """Make ``path``; raise OutputError unless this process can write and rename a file there."""
    make_folder(path)
    probe = temporary_name(path / ".write-probe")  # of our own: other ranks check as well
    with disk_errors(path):
        with open_atomic(probe):
            pass
        probe.unlink()
