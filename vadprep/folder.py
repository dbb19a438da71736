"""The feature folder of one stream: its spec, its plan, and where each file stands.

    FEATURES/rgb/
      spec.json                        created exclusively, then compared
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vadprep.files import disk_errors, make_folder, temporary_name, written
from vadprep.records import FeaturesError
from vadprep.shards import Shard, StoredVideo
from vadprep.spec import Spec, require_equal

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
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
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
    writer = csv.writer(text)
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
        shard_size: int = SHARD_SIZE,
        provenance: dict[str, Any] | None = None,
    ) -> StreamFolder:
        """Create the folder, or join the one that is there; its plan then covers ``video_ids``.

        Raises SpecError when the folder holds features of another spec.
        """
        make_folder(path / "shards")
        _settle_spec(path, spec, provenance or {})
        plan_path = path / "plan.csv"
        plan = read_plan(plan_path) if plan_path.exists() else Plan()
        if plan.extend(video_ids, shard_size):
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

    def stored(self, place: Place) -> StoredVideo:
        """The finished video at ``place``: from its own file if there is one, else the shard."""
        path, group = self.partial_video(place), "000000"
        if not path.exists():
            path, group = self.shard(place.shard), place.group
        return Shard(path).video(group)


def _numbers(folder: Path, prefix: str, suffix: str) -> Iterator[int]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        digits = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name == f"{prefix}{digits}{suffix}" and digits.isdecimal():
            yield int(digits)


def read_spec(path: Path) -> Spec | None:
    """The spec of the folder ``path``, None when there is none."""
    file = path / "spec.json"
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Spec.from_json(json.dumps(json.loads(text)["spec"]), str(file))
    except (ValueError, KeyError, TypeError) as error:
        raise FeaturesError(f"{file}: damaged: {error}") from error


def _settle_spec(path: Path, spec: Spec, provenance: dict[str, Any]) -> None:
    content = {
        "format": "vadprep-features",
        "version": 1,
        "hash": spec.hash,
        "spec": json.loads(spec.to_json()),
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
    require_equal(spec, found, str(path))


def check_shared(path: Path) -> None:
    """Raise OutputError unless files can be made and renamed in ``path``."""
    make_folder(path)
    probe = temporary_name(path / ".write-probe")  # of our own: other ranks check as well
    with disk_errors(path):
        with written(probe):
            pass
        probe.unlink()
