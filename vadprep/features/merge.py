"""Feature folders -> a new one: several folders joined, or one with shards of another size.

Finished videos, done or failed, are copied as they are, and every checksum is compared on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from vadprep.core.atomic import remove_stale
from vadprep.core.errors import FeaturesError, SpecError, counted
from vadprep.core.log import get_logger
from vadprep.core.signals import check_stop, stop_on_signals
from vadprep.core.spec import STREAMS, differences, require_shared
from vadprep.core.untrusted import reading
from vadprep.data import hint_of_ids
from vadprep.features.engines import AGREEMENT, engines_of, recorded_engines
from vadprep.features.folder import StreamFolder, read_spec, required_folders
from vadprep.features.lease import leased
from vadprep.features.remote import AnyPath
from vadprep.features.shard import StoredVideo
from vadprep.features.writer import StreamWriter

logger = get_logger(__name__)

GO_ON = "the shards that are written stay, run the same command again"
NAMED = 10
"""Ids that an error lists before it says how many more there are."""


@reading(FeaturesError)
def merge(
    sources: Sequence[str | AnyPath],
    out: str | Path,
    *,
    shard_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[StreamFolder]:
    """Copy the features in ``sources`` into ``out``/rgb, ``out``/flow: the folders it makes.

    ``shard_size`` is in videos, by default that of the first source. A video that is in several
    sources is taken once. ``progress`` is called with the number of videos that are copied, and
    of all. The same call goes on after any stop. Raises FeaturesError when a source holds no
    features, when two sources have different features of one video, or when ``out`` is a source
    or holds something else; SpecError when specs differ; ShardError at damage; OutputError when
    the disk refuses; LeaseError when another run works in ``out``; Stopped at a signal.
    """
    found: dict[str, list[StreamFolder]] = {}
    for source in sources:
        for stream, folder in required_folders(source).items():
            found.setdefault(stream, []).append(folder)
    _check_specs(found)
    for folders in found.values():
        made_by = set().union(*(engines_of(each, each.plan.places) for each in folders))
        if len(made_by) > 1:
            names = ", ".join(sorted(made_by))
            logger.warning("%s: the features were made by %s: %s", out, names, AGREEMENT)
        for a, b in combinations(folders, 2):
            twice = "they may be the same videos, which are then there twice"
            if hint := hint_of_ids(b.plan.places, a.plan.places, str(a.path), twice):
                videos = counted(len(b.plan.places), "video")
                logger.warning("%s: %s%s", b.path, videos, hint)
    origins = {stream: _origins(each) for stream, each in found.items()}
    made = {name: _provenance(Path(out) / name, each, shard_size) for name, each in found.items()}
    total, done, folders = sum(map(len, origins.values())), 0, []
    with stop_on_signals(GO_ON) as request_stop:
        for stream, (first, *_) in found.items():
            path, ids, size = Path(out) / stream, list(origins[stream]), first.shard_size
            new = StreamFolder.prepare(path, first.spec, ids, shard_size or size, made[stream])
            with leased(path, 0, 1, request_stop) as lease:
                writer = StreamWriter(new, lease=lease)
                for each in (path.parent, path, path / "shards"):
                    remove_stale(each)
                for shard, ids in enumerate(new.plan.shards):
                    lease.check()
                    _copy(writer, shard, origins[stream])
                    done += len(ids)
                    progress(done, max(done, total))
                    check_stop()
            folders.append(new)
    return folders


def _check_specs(found: Mapping[str, Sequence[StreamFolder]]) -> None:
    """Raise SpecError unless all folders of a stream have one spec, and the streams fit."""
    for folders in found.values():
        for a, b in pairwise(folders):
            if lines := differences(a.spec, b.spec):
                raise SpecError(
                    f"{a.path} and {b.path} hold features of different specs: {'; '.join(lines)}. "
                    "Only features of one spec can be joined"
                )
    if len(found) == len(STREAMS):
        rgb, flow = (found[stream][0] for stream in STREAMS)
        require_shared(rgb.spec, flow.spec, str(flow.path))


def _provenance(
    path: Path, folders: Sequence[StreamFolder], shard_size: int | None
) -> dict[str, Any]:
    """How the folder ``path`` is made; raises FeaturesError when it is a source, or has features
    that were made otherwise."""
    found = {str(each.path.resolve()): _with_engines(each) for each in folders}
    provenance, size = {"repacked": found}, shard_size or folders[0].shard_size
    if str(path.resolve()) in found:
        raise FeaturesError(f"{path}: its features are to be read: choose another --out")
    if read_spec(path):
        there = StreamFolder.open(path)
        if (there.provenance, there.shard_size) != (provenance, size):
            raise FeaturesError(
                f"{path}: holds features that were not made of {', '.join(found)} with "
                f"--shard-size {size}: choose another --out"
            )
    return provenance


def _with_engines(folder: StreamFolder) -> dict[str, Any]:
    """The provenance of ``folder``, with all engines where its journal names others."""
    engines = engines_of(folder, folder.plan.places)
    others = engines - recorded_engines(folder.provenance)
    return folder.provenance | ({"engines": sorted(engines)} if others else {})


def _copy(writer: StreamWriter, shard: int, origins: Mapping[str, StreamFolder]) -> None:
    """Bring a shard as far as the sources are. What it has already, from an earlier call or from
    extract, stays; extract may have planned more videos since."""
    folder = writer.folder
    remove_stale(folder.partial(shard))
    lacking = () if folder.shard(shard).exists() else folder.plan.shards[shard]
    found = {each: origins[each].find(each) for each in lacking if each in origins}
    writer.finish(shard, {each: video for each, video in found.items() if video})
    writer.adopt(shard)


def _origins(folders: Sequence[StreamFolder]) -> dict[str, StreamFolder]:
    """Video id -> the folder it is taken from, in the order of the plans.

    Of a video in several folders that is the first which has done it, else the first in which it
    has failed. Raises FeaturesError naming the videos of which two folders have different features.
    """
    origins: dict[str, StreamFolder] = {}
    different = []
    for folder in folders:
        for video_id in folder.plan.places:
            other = origins.setdefault(video_id, folder)
            if other is folder or not (theirs := folder.find(video_id)):
                continue
            ours = other.find(video_id)
            if ours is None or theirs.is_done > ours.is_done:
                origins[video_id] = folder
            elif ours.is_done and theirs.is_done and _content(ours) != _content(theirs):
                paths = f"{other.path} and {folder.path}"
                different.append(f"{video_id!r} in {paths}")
    if different:
        more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
        raise FeaturesError(
            f"different features of {'; '.join(different[:NAMED])}{more}: leave one of the "
            "folders out, or extract these videos again"
        )
    return origins


def _content(video: StoredVideo) -> tuple[object, ...]:
    checksums = (video.attributes[name] for name in ("features_crc32", "spans_crc32"))
    return *checksums, video.shape, video.dtype
