"""The feature folder of one stream: its spec, its plan, and where each file stands.

    FEATURES/rgb/
      spec.json                        created exclusively, then compared; also the shard size
      plan.csv                         video_id -> shard; append-only
      shards/shard-00017.h5            final
      shards/shard-00017.partial/000003.h5   a finished video, a shard of one
      manifest-<rank>.csv  events-<rank>.jsonl   see ``journal``

The files are the truth: a video is finished when its file stands in a partial folder or its
shard is final. The journal can always be completed from them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vadprep.files import disk_errors, make_folder, names_in, temporary_name, written
from vadprep.records import FeaturesError
from vadprep.shards import Shard, StoredVideo, read_blocks
from vadprep.spec import Spec, require_own

SHARD_SIZE = 64
"""Videos a shard, unless said otherwise when the folder is made."""


@dataclass(frozen=True)
class Place:
    """Where a video stands: the shard's number and the position (group) in it."""

    shard: int
    position: int

    @property
    def group(self) -> str:
        return f"{self.position:06d}"


@dataclass
class Plan:
    """Which shard each video belongs to: a function of the manifest and the shard size alone."""

    places: dict[str, Place] = field(default_factory=dict)
    shards: list[list[str]] = field(default_factory=list)

    def add(self, video_id: str, shard: int) -> None:
        """Put a video at the end of ``shard``, which is the last one or the next."""
        if shard == len(self.shards):
            self.shards.append([])
        if video_id in self.places or shard != len(self.shards) - 1:
            raise FeaturesError(f"plan.csv: {video_id!r} is out of order or stands twice")
        self.places[video_id] = Place(shard, len(self.shards[shard]))
        self.shards[shard].append(video_id)

    def extend(self, video_ids: Iterable[str], shard_size: int) -> bool:
        """Put ids that are new into new shards, in their order; True when there were any."""
        new = [video_id for video_id in video_ids if video_id not in self.places]
        first = len(self.shards)
        for index, video_id in enumerate(new):
            self.add(video_id, first + index // shard_size)
        return bool(new)


def read_plan(path: Path) -> Plan:
    """The plan in ``plan.csv``; raises FeaturesError naming the line that is off."""
    plan = Plan()
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        for number, row in enumerate(csv.reader(stream)):
            if number == 0:
                continue
            try:
                plan.add(row[0], int(row[1]))
            except (IndexError, ValueError):
                raise FeaturesError(f"{path}, row {number + 1}: expected video_id,shard") from None
    return plan


def write_plan(path: Path, plan: Plan) -> None:
    """Replace ``plan.csv``; two ranks that extend it alike write the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["video_id", "shard"])
    writer.writerows((video_id, place.shard) for video_id, place in plan.places.items())
    with written(path) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class StreamFolder:
    """The folder ``FEATURES/<stream>`` with its spec and plan."""

    path: Path
    spec: Spec
    plan: Plan

    @classmethod
    def open(cls, path: Path) -> StreamFolder:
        """Open an existing folder; raises FeaturesError when it is none."""
        spec = read_spec(path)
        if spec is None:
            raise FeaturesError(f"{path}: no feature folder (spec.json is missing)")
        plan_path = path / "plan.csv"
        return cls(path, spec, read_plan(plan_path) if plan_path.exists() else Plan())

    @classmethod
    def prepare(
        cls,
        path: Path,
        spec: Spec,
        video_ids: Sequence[str],
        shard_size: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> StreamFolder:
        """Create the folder, or join the one that is there; its plan then covers ``video_ids``.

        The folder keeps the ``shard_size`` it was made with; another that is asked for later
        holds for the videos that are new then. Raises SpecError when the folder holds features
        of another spec.
        """
        make_folder(path / "shards")
        _settle_spec(path, spec, shard_size or SHARD_SIZE, provenance or {})
        plan_path = path / "plan.csv"
        plan = read_plan(plan_path) if plan_path.exists() else Plan()
        if plan.extend(video_ids, shard_size or read_shard_size(path)):
            write_plan(plan_path, plan)
        return cls(path, spec, plan)

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
        return {
            number
            for number in _numbers(self.path / "shards", "shard-", ".h5")
            if number < len(self.plan.shards)
        }

    def finished(self, shard: int) -> set[int]:
        """Positions of the videos, done or failed, of a shard that is not final."""
        return set(_numbers(self.partial(shard), "", ".h5"))

    def location(self, place: Place) -> tuple[Path, str]:
        """File and group of the video at ``place``: its own file if it has one, else the shard.

        A video that was done again has its own file beside the final shard for a while.
        """
        own = self.partial_video(place)
        return (own, "000000") if own.exists() else (self.shard(place.shard), place.group)

    def stored(self, place: Place) -> StoredVideo:
        """The finished video at ``place``; holds no file open, its blocks open it once each."""
        path, group = self.location(place)
        with Shard(path) as shard:
            video = shard.video(group)
        return replace(video, blocks=partial(read_blocks, partial(_block, path, group)))


def _block(path: Path, group: str, number: int) -> NDArray[Any]:
    with Shard(path) as shard:
        return shard.block(group, number)


def _numbers(folder: Path, prefix: str, suffix: str) -> Iterator[int]:
    for name in names_in(folder):
        digits = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{digits}{suffix}" and digits.isdecimal():
            yield int(digits)


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
    """Videos a shard in the folder ``path``: what it was made with, else SHARD_SIZE."""
    size = (_spec_file(path) or {}).get("shard_size", SHARD_SIZE)
    if not isinstance(size, int) or size < 1:
        raise FeaturesError(f"{path / 'spec.json'}: damaged: shard_size is {size!r}")
    return size


def read_provenance(path: Path) -> dict[str, Any]:
    """What the folder ``path`` says of how it came to be; empty when there is no folder."""
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


def _settle_spec(path: Path, spec: Spec, shard_size: int, provenance: dict[str, Any]) -> None:
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
            with written(file, replace=False) as stream:
                stream.write((json.dumps(content, indent=2) + "\n").encode())
        except FileExistsError:  # another rank was first: compare with its spec
            pass
    found = read_spec(path)
    assert found is not None
    require_own(spec, found, str(path))


def check_writable(path: Path) -> None:
    """Make ``path``; raise OutputError unless this process can write and rename a file there.

    It says nothing of other machines: whether they see the same folder is not checked.
    """
    make_folder(path)
    probe = temporary_name(path / ".write-probe")  # of our own: other ranks check as well
    with disk_errors(path):
        with written(probe):
            pass
        probe.unlink()
