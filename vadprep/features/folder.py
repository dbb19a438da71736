"""The feature folder of one stream: its spec, its plan, and where each file lies (README, Layout).

The files decide: a video is finished when its file lies in a partial folder or its shard is
final. The journal can always be completed from them.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from vadprep.core.atomic import make_folder, names_in, open_atomic
from vadprep.core.errors import FeaturesError, ShardError
from vadprep.core.spec import STREAMS, Spec, require_equal
from vadprep.core.untrusted import parse_json, reading
from vadprep.features.journal import (
    MOST_TABLE_BYTES,
    Event,
    Row,
    csv_bytes,
    read_events,
    read_rows,
    read_table,
)
from vadprep.features.remote import AnyPath, RemotePath, as_path, read_file
from vadprep.features.shard import MISSING, StoredVideo, read_video, state_of

SHARD_SIZE = 64
"""Videos in a shard, unless another number is given when the folder is made."""
MOST_SHARD_SIZE = 10**6

PLAN_COLUMNS = ("video_id", "shard", "number", "planned")
"""``number`` counts the videos from 1, ``planned`` is the number of the last one that was added
at the same time: so a plan that is cut short is found out."""


class Place(NamedTuple):
    """Place of a video: the number of its shard and its position (group) in it."""

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
        """Put a new video at the end of the last shard or into the next; else ValueError."""
        if shard == len(self.shards):
            self.shards.append([])
        if video_id in self.places or not shard == len(self.shards) - 1 >= 0:
            raise ValueError(f"{video_id!r} is out of order or listed twice")
        self.places[video_id] = Place(shard, len(self.shards[shard]))
        self.shards[shard].append(video_id)

    def extend(self, video_ids: Iterable[str], shard_size: int) -> bool:
        """Put ids that are new into new shards, in their order; True when there were any."""
        first, added = len(self.shards), 0
        for video_id in video_ids:
            if video_id not in self.places:
                self.add(video_id, first + added // shard_size)
                added += 1
        return bool(added)


def read_plan(path: Path) -> Plan:
    """The plan in ``plan.csv``, empty where there is none; raises FeaturesError naming the row that
    is wrong."""
    plan = Plan()
    try:
        rows = read_table(path)
        if next(rows, None) != list(PLAN_COLUMNS):
            raise ValueError("no header")
        total = 0
        for count, (video_id, shard, number, planned) in enumerate(rows, 1):
            if "\0" in video_id:
                raise ValueError(f"{video_id!r} holds a zero byte")
            plan.add(video_id, int(shard))
            total = int(planned)
            if int(number) != count:
                raise ValueError(f"number is {number}, not {count}")
        if total != len(plan.places):
            raise ValueError(f"{total} videos were planned")
    except (FileNotFoundError, NotADirectoryError):
        return plan
    except (ValueError, csv.Error) as error:
        raise FeaturesError(
            f"{path}, row {len(plan.places) + 2}: expected video_id,shard ({error}): restore the "
            "file or, if it was made from one manifest, remove it and run the same extract again"
        ) from None
    return plan


def grow_plan(path: Path, video_ids: Iterable[str], shard_size: int) -> Plan:
    """The plan in ``path``, extended by those of ``video_ids`` that it lacks, in new shards.

    Ranks that start at the same time write the same bytes, each by one rename. Raises
    FeaturesError when another run has added other videos at the same time; ``check_plan`` finds
    those that are added later.
    """
    before = _bytes_of(path)
    plan = read_plan(path)
    if not plan.extend(video_ids, shard_size) and before is not None:
        return plan
    planned = len(plan.places)
    places = enumerate(plan.places.items(), 1)
    rows = [(video_id, place.shard, number, planned) for number, (video_id, place) in places]
    content = csv_bytes([PLAN_COLUMNS, *rows], "\r\n")
    # The first plan replaces none, so that of two first ones one stays.
    with suppress(FileExistsError), open_atomic(path, replace=before is not None) as stream:
        stream.write(content)
        if _bytes_of(path) not in (before, content):
            raise _other_plan(path)
    if _bytes_of(path) != content:
        raise _other_plan(path)
    return plan


def _bytes_of(path: Path) -> bytes | None:
    """Content of a table, None where there is none."""
    try:
        return read_file(path, MOST_TABLE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _other_plan(path: Path) -> FeaturesError:
    return FeaturesError(f"{path}: another run has added other videos just now: run this again")


SHARD, PARTIAL, VIDEO = "shard-{:05d}.h5", "shard-{:05d}.partial", "{:06d}.h5"


@dataclass(frozen=True)
class StreamFolder:
    """The folder ``FEATURES/<stream>`` with its spec and plan.

    At a URL (``path`` is a RemotePath) it is as it was when it was opened, complete or not, and
    read with few requests: the plan names the shards, so that nothing needs to be listed.
    """

    path: Path
    spec: Spec
    plan: Plan = field(default_factory=Plan, repr=False, compare=False)
    shard_size: int = SHARD_SIZE
    """Videos in a shard, as the folder was made."""
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)
    """How the folder was made, as it says itself."""
    _checked: dict[str, tuple[tuple[int, ...], StoredVideo]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def open(cls, path: Path) -> StreamFolder:
        """Open an existing folder; raises FeaturesError when it is none or its plan is damaged."""
        found = _read_spec_file(path)
        if found is None:
            raise FeaturesError(f"{path}: no feature folder (spec.json is missing)")
        return cls(path, found[0], read_plan(path / "plan.csv"), *found[1:])

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

        The folder keeps the ``shard_size`` it was made with; another one given later is for videos
        that are new then. Raises SpecError when the folder holds features of another spec.
        """
        make_folder(path / "shards")
        content: dict[str, Any] = {"format": "vadprep-features", "version": 1, "hash": spec.hash}
        content |= {"spec": json.loads(spec.to_json()), "shard_size": shard_size or SHARD_SIZE}
        content["provenance"] = provenance or {}
        file = path / "spec.json"
        if not file.exists():
            with suppress(FileExistsError), open_atomic(file, replace=False) as stream:
                stream.write((json.dumps(content, indent=2) + "\n").encode())
        found = _read_spec_file(path)  # of another rank, if that was first
        assert found
        require_equal(spec, found[0], str(path))
        plan = grow_plan(path / "plan.csv", video_ids, shard_size or found[1])
        return cls(path, spec, plan, *found[1:])

    def check_plan(self) -> None:
        """Raise FeaturesError unless plan.csv has all videos of this plan in the same places, and
        maybe more. Called under the lease, before anything is written."""
        path = self.path / "plan.csv"
        if not self.plan.places.items() <= read_plan(path).places.items():
            raise _other_plan(path)

    def shard(self, shard: int) -> Path:
        """Path of a final shard, whether it exists yet or not."""
        return self.path / f"shards/{SHARD.format(shard)}"

    def partial(self, shard: int) -> Path:
        """Folder of a shard's finished videos while it is not final."""
        return self.path / f"shards/{PARTIAL.format(shard)}"

    def partial_video(self, place: Place) -> Path:
        """Path of one finished video while its shard is not final."""
        name = f"shards/{PARTIAL}/{VIDEO}"  # one join of paths, which is slow
        return self.path / name.format(place.shard, place.position)

    def final_shards(self) -> set[int]:
        """Numbers of the shards that are final."""
        return _existing(self.path / "shards", SHARD, len(self.plan.shards))

    def partial_shards(self) -> set[int]:
        """Numbers of the shards that have a folder of finished videos."""
        if isinstance(self.path, RemotePath):
            return set(range(len(self.plan.shards))) - self.final_shards()
        return _existing(self.path / "shards", PARTIAL, len(self.plan.shards))

    def finished(self, shard: int) -> set[int]:
        """Positions of the videos, done or failed, of a shard that is not final."""
        return _existing(self.partial(shard), VIDEO, len(self.plan.shards[shard]))

    def location(self, place: Place) -> tuple[Path, str]:
        """File and group of the video at ``place``: its own file if it has one, else the shard.

        A video that was extracted again has its own file beside the final shard for a while. It
        is not looked for at a URL.
        """
        own, final = self.partial_video(place), self.shard(place.shard)
        is_remote = isinstance(self.path, RemotePath)
        is_own = not _is_there(final) if is_remote else _is_there(own)
        return (own, "000000") if is_own else (final, place.group)

    def rows(self) -> dict[str, Row]:
        """The journal, as ``read_rows`` reads it."""
        return read_rows(self.path, len(self.plan.shards))

    def events(self) -> Iterator[Event]:
        """What the runs did, as ``read_events`` reads it."""
        return read_events(self.path, len(self.plan.shards))

    def done_ids(self) -> list[str]:
        """Ids of the videos that are done, in the order of the plan.

        The files are asked where the journal has no row: a copied folder, or a kill just then.
        """
        rows = self.rows()
        found = {each: rows.get(each) or self.find(each) for each in self.plan.places}
        return [video_id for video_id, video in found.items() if video and video.is_done]

    def is_retried(
        self, row: Row | None, retry_failed: bool, is_there: Callable[[str], bool]
    ) -> bool:
        """True for a failed video that is to be extracted again: with ``retry_failed`` any, else
        one whose file was missing and is there now."""
        if row is None or row.is_done or retry_failed:
            return row is not None and not row.is_done
        kind = row.kind
        if not kind:  # the table is of an older version, the failure may be not
            with suppress(ShardError):
                kind = str(self.stored(row.video_id).attributes.get("kind", ""))
        return kind == MISSING and is_there(row.video_id)

    def done(self, video_id: str, keep: bool = False) -> StoredVideo:
        """A video that the journal has as done; raises as ``stored``, and FeaturesError when its
        file says that it has failed."""
        video = self.stored(video_id, keep)
        if not video.is_done:
            raise FeaturesError(
                f"{self.location(self.plan.places[video_id])[0]}: {video_id!r}: no features, it "
                f"has failed ({video.attributes.get('reason', '')}), and manifest-*.csv says done: "
                f"{self.remedy(video_id)}"
            )
        return video

    def remedy(self, video_id: str) -> str:
        """What to do when the file of a video and its row in the journal differ."""
        again, file = "run the same extract again", self.location(self.plan.places[video_id])[0]
        is_own = file != self.shard(self.plan.places[video_id].shard)
        return again if is_own else f"remove {self.path}/manifest-*.csv and {again}"

    def find(self, video_id: str) -> StoredVideo | None:
        """A planned video that is done or has failed, by the files; None before that."""
        is_finished = _is_there(self.location(self.plan.places[video_id])[0])
        return self.stored(video_id) if is_finished else None

    def stored(self, video_id: str, keep: bool = False) -> StoredVideo:
        """A finished video; raises ShardError when its shard is missing, damaged or another's, and
        SpecError when it is of another spec. ``keep`` is that of ``opened_shard``, and keeps what
        was checked while the shard is the same."""
        path, group = self.location(self.plan.places[video_id])
        state = state_of(path) if keep else None
        if state and (known := self._checked.get(video_id)) and known[0] == state:
            return known[1]
        video = read_video(path, group, self.spec, keep)
        if video.video_id != video_id:
            raise ShardError(
                f"{path}, group {group}: holds {video.video_id!r} where plan.csv has {video_id!r}"
            )
        if state:
            self._checked[video_id] = state, video
        return video


def _existing(folder: AnyPath, name: str, count: int) -> set[int]:
    """The numbers below ``count`` for which ``folder`` has a file or folder ``name``."""
    if isinstance(folder, RemotePath):
        return {number for number in range(count) if (folder / name.format(number)).exists()}
    names = set(names_in(folder))
    return {number for number in range(count) if name.format(number) in names} if names else set()


@reading(FeaturesError)
def stream_folders(source: str | AnyPath) -> dict[str, StreamFolder]:
    """Stream -> folder for each stream in FEATURES, or for the one folder ``source`` itself."""
    path = as_path(source)
    paths = [path] if _is_there(path / "spec.json") else [path / name for name in STREAMS]
    there = [cast(Path, each) for each in paths if _is_there(each / "spec.json")]
    return {folder.spec.stream: folder for folder in map(StreamFolder.open, there)}


def _is_there(file: AnyPath) -> bool:
    """True for a file or a link; FeaturesError where that cannot be found out."""
    if isinstance(file, RemotePath):
        return file.exists()
    with reading(FeaturesError, file):
        try:
            os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


@reading(FeaturesError)
def required_folders(path: str | AnyPath) -> dict[str, StreamFolder]:
    """``stream_folders``; raises FeaturesError when there are none."""
    folders = stream_folders(path)
    if not folders:
        places = ", ".join(["spec.json", *(f"{name}/spec.json" for name in STREAMS)])
        raise FeaturesError(
            f"{as_path(path)}: no features here (looked for {places}): make them with vadprep "
            "extract, or name the folder they are in (train, score: --features)"
        )
    return folders


def read_spec(path: Path) -> Spec | None:
    """The spec of the folder ``path``, None when there is none."""
    found = _read_spec_file(path)
    return found[0] if found else None


def _read_spec_file(path: Path) -> tuple[Spec, int, dict[str, Any]] | None:
    """Spec, shard size and provenance of the folder ``path``, None when there is none."""
    file = path / "spec.json"
    try:
        content = parse_json(read_file(file), file, FeaturesError)
    except (FileNotFoundError, NotADirectoryError):
        return None
    spec = Spec.from_json(json.dumps(content.get("spec")), str(file))
    shard_size, provenance = content.get("shard_size"), content.get("provenance")
    if type(shard_size) is not int or not 1 <= shard_size <= MOST_SHARD_SIZE:
        raise FeaturesError(f"{file}: damaged: shard_size is {shard_size!r}")
    if not isinstance(provenance, dict):
        raise FeaturesError(f"{file}: damaged: provenance is {provenance!r}")
    return spec, shard_size, provenance
