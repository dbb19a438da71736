"""The id of a video that is named by its file, and ids that differ by little."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from vadprep.core.errors import ManifestError, counted
from vadprep.core.log import get_logger
from vadprep.core.video_files import id_of_path

_LOG = get_logger(__name__)

MOST_COMPARED = 20_000
"""Ids that an unknown one is compared with, which takes 0.1 ms each; of more only those that
contain it, or that it contains."""
MOST_SIMILAR = 3


def ids_of_paths(
    paths: Sequence[str],
    planned: Collection[str] = (),
    made_of: Callable[[str], str] = lambda video_id: "",
) -> dict[str, str]:
    """The id of each of ``paths``, files and folders of frames: ``id_of_path``, if that is unique.

    Where several paths differ by their suffix alone, the id of each is the path itself; a line in
    the log says so. ``planned`` are the ids in a feature folder. A path that has one of them keeps
    it, and if they are paths with suffix, as versions before this rule made them, new ones are too.
    Of several paths that could have a planned id it belongs to the file whose features are
    there: ``made_of`` gives its path, blank if there are none. Then it is the first path's.
    """
    rivals = defaultdict[str, list[str]](list)  # id -> the paths that could have it
    for path in paths:
        for video_id in dict.fromkeys((path, id_of_path(path))):
            rivals[video_id].append(path)
    ids = _kept_ids(rivals, planned, made_of)
    taken, with_suffix, alike = set(ids.values()), _have_suffixes(planned), list[str]()
    for path in (each for each in paths if each not in ids):
        short = id_of_path(path)
        is_unique = len(rivals[short]) == 1 and short not in taken
        ids[path] = short if is_unique and not with_suffix else path
        if ids[path] in taken:
            raise ManifestError(
                f"{path}: {path!r} is the id of another video in the features: rename one of them"
            )
        if not is_unique and not with_suffix and path != short:
            alike.append(path)
    if alike:
        _LOG.warning(
            "suffix alone tells %s from another one: it stays in the id, as in %r",
            *(counted(len(alike), "video"), alike[0]),
        )
    return {path: ids[path] for path in paths}


def _kept_ids(
    rivals: Mapping[str, Sequence[str]], planned: Collection[str], made_of: Callable[[str], str]
) -> dict[str, str]:
    """Path -> the id of ``planned`` that it has; ``rivals`` are the paths that could have an id."""
    ids = dict[str, str]()
    kept = [video_id for video_id in rivals if video_id in planned]
    for video_id in sorted(kept, key=lambda each: each not in rivals[each]):  # whole paths first
        free = [path for path in rivals[video_id] if path not in ids]
        free.sort(key=lambda path: path != video_id)
        if free[1:]:
            name = PurePosixPath(made_of(video_id)).name
            free.sort(key=lambda path: PurePosixPath(path).name != name)
        if free:
            ids[free[0]] = video_id
    return ids


def _have_suffixes(ids: Collection[str]) -> bool:
    """True when an id has a suffix though no other one is the same without it."""
    counts = Counter(map(id_of_path, ids))
    return any(counts[id_of_path(each)] == 1 and id_of_path(each) != each for each in ids)


def similar_ids(video_id: str, ids: Collection[str]) -> str:
    """``; similar ids: ...``, or nothing when there are none."""
    short = id_of_path(video_id)
    if len(ids) > MOST_COMPARED:
        ids = [each for each in ids if each in video_id or short in each][:MOST_COMPARED]
    near = [*_alike([video_id], ids).get(video_id, ()), *difflib.get_close_matches(video_id, ids)]
    named = ", ".join(map(repr, list(dict.fromkeys(near))[:MOST_SIMILAR]))
    return f"; similar ids: {named}" if near else ""


def hint_of_ids(
    ids: Collection[str],
    others: Collection[str],
    where: str,
    remedy: str = "write the same ids into column video_id",
) -> str:
    """``; ...: remedy``, where ids differ from ``others`` by suffix or folder alone, else blank.

    ``where`` says whose ids the ``others`` are.
    """
    alike = _alike(set(ids) - set(others), sorted(set(others) - set(ids)))
    pairs = {
        each: near[0]
        for each, near in sorted(alike.items())
        if len(near) == 1 or id_of_path(near[0]) == id_of_path(each)  # of other folders only one
    }
    if not pairs:
        return ""
    kinds = set[str]()
    for one, other in pairs.items():
        a, b = PurePosixPath(one), PurePosixPath(other)
        kinds |= {"suffix"} if a.name != b.name else set()
        kinds |= {"folder"} if a.parent != b.parent else set()
    one, other = next(iter(pairs.items()))
    return (
        f"; {'1 id differs' if len(pairs) == 1 else f'{len(pairs)} ids differ'} from those of "
        f"{where} by {' or '.join(sorted(kinds))} alone, as {one!r} from {other!r}: {remedy}"
    )


def _alike(ids: Iterable[str], others: Iterable[str]) -> dict[str, list[str]]:
    """Id -> those of the ``others`` that are the same without suffix, else without folder, too."""
    found = defaultdict[str, list[str]](list)
    for each in others:
        short = id_of_path(each)
        for key in dict.fromkeys((short, "/" + PurePosixPath(short).name)):
            found[key].append(each)
    keys = {each: id_of_path(each) for each in ids}
    near = {e: found.get(k) or found.get("/" + PurePosixPath(k).name) for e, k in keys.items()}
    return {each: those for each, those in near.items() if those}
