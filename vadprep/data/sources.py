"""What a video file or a folder of frames is, byte by byte."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from vadprep.core.errors import DecodeError, ManifestError, counted
from vadprep.core.log import get_logger
from vadprep.core.records import Video
from vadprep.core.video_files import VIDEO_SUFFIXES, id_of_path, is_hidden, is_video
from vadprep.data.ids import ids_of_paths
from vadprep.data.manifest import Manifest, frame_bounds

_LOG = get_logger(__name__)

READ_BYTES = 1 << 20

FRAME_SUFFIXES = {"images": frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))}
"""Decoder of a folder of frames -> the file name endings, in lower case, that it reads."""

ALL_FRAME_SUFFIXES = frozenset().union(*FRAME_SUFFIXES.values())


def fingerprint(path: Path) -> dict[str, str | int]:
    """Size and SHA-256 of a source: ``source_bytes``, ``source_sha256``.

    Of a folder: of the names and the contents of its files, in order of their names.
    """
    digest, size = hashlib.sha256(), 0
    for file in _files(path):
        if file != path:
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
        with open(file, "rb") as stream:
            while block := stream.read(READ_BYTES):
                digest.update(block)
                size += len(block)
    return {"source_bytes": size, "source_sha256": digest.hexdigest()}


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; 0 when it cannot be looked at."""
    try:
        return sum(file.stat().st_size for file in _files(path))
    except OSError:
        return 0


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file())
    else:
        yield path


def find_videos(root: str | Path) -> Manifest:
    """A manifest of every video under the folder ``root``, sorted by path: ids and paths alone.

    A video is a file with a video suffix, or a folder that directly holds images and no video
    file (a cover picture beside videos is no video). The id is the path relative to ``root``
    without its suffix; files that differ by it alone keep it. Hidden names are left out. Raises
    ManifestError if there is no video.
    """
    ids = ids_of_paths(paths_of_videos(root))
    return Manifest(Path(root), tuple(Video(ids[path], path, extra={}) for path in ids))


def paths_of_videos(root: str | Path) -> list[str]:
    """Paths of the videos of ``find_videos``, relative to ``root``, sorted."""
    folder = _existing(Path(root))
    passed_over: Counter[str] = Counter()
    paths = sorted(path.as_posix() for path in source_paths(folder, passed_over))
    if passed_over:
        suffixes = ", ".join(f"{name or 'none'} ({n})" for name, n in passed_over.most_common(8))
        _LOG.warning(
            "%s: passed over %s that cannot be a video, by suffix: %s",
            *(folder, counted(passed_over.total(), "file"), suffixes),
        )
    if not paths:
        raise ManifestError(
            f"{folder}: no video here: looked for files ending in "
            f"{' '.join(sorted(VIDEO_SUFFIXES))} and for folders of frames ending in "
            f"{' '.join(sorted(ALL_FRAME_SUFFIXES))}"
        )
    return paths


def list_videos(sources: str | Path | Sequence[str | Path]) -> Manifest:
    """The videos in files and folders, each once. Ids are absolute paths, since names may repeat.

    Raises ManifestError for a source that is not there.
    """
    paths: list[str] = []
    for source in [sources] if isinstance(sources, str | Path) else sources:
        place = os.path.abspath(source)
        if not os.path.exists(place):
            raise ManifestError(f"{str(source)!r} does not exist: correct the path of the videos")
        inside = paths_of_videos(place) if os.path.isdir(place) else ()
        found = [os.path.normpath(os.path.join(place, path)) for path in inside]
        paths += found or [place]
    videos = (Video(video_id=path, path=path) for path in dict.fromkeys(paths))
    return Manifest(Path("VIDEO"), tuple(videos))


def ids_of_videos(manifest: Manifest, num_frames: Mapping[str, int]) -> dict[str, str]:
    """Ids of files by their absolute path, whose decoded frames ``num_frames`` counts.

    The id is that of the row of ``manifest`` that the file belongs to, unless the row says another
    length (more than ``MAX_PAST_END`` frames off): then, and without a row, it is the path.
    """
    ids = {path: path for path in num_frames}
    for path, video in rows_of_files(manifest, num_frames).items():
        bounds, count = frame_bounds(video), num_frames[path]
        if bounds.nearly_allow(count):
            ids[path] = video.video_id
        else:
            _LOG.warning(
                "%s: has %d frames, and %r of %s has %s: taken for another video",
                *(path, count, video.video_id, manifest.path, bounds),
            )
    return ids


def rows_of_files(manifest: Manifest, paths: Iterable[str]) -> dict[str, Video]:
    """The row of ``manifest`` that each file or folder of frames belongs to, where there is one.

    That is the row whose path is the end of the file's, the longest one, else the row whose id is
    the name of the file. None where two rows or two files compete. ``paths`` are absolute.
    """
    by_path, by_id = defaultdict[str, list[Video]](list), defaultdict[str, list[Video]](list)
    for video in manifest.videos:
        by_path[_plain(str(PurePosixPath(video.path.replace("\\", "/"))))].append(video)
        by_id[_plain(video.video_id)].append(video)
    found = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        ends = [_plain(str(PurePosixPath(*parts[k:]))) for k in range(len(parts))]
        name = PurePosixPath(path).name
        names = [_plain(name), _plain(id_of_path(name))]
        alike = [by_path[end] for end in ends if end in by_path]
        alike += [by_id[name] for name in names if name in by_id]
        if alike and len(alike[0]) == 1:
            found[path] = alike[0][0]
    uses = Counter(video.video_id for video in found.values())
    return {path: video for path, video in found.items() if uses[video.video_id] == 1}


class SourceIndex:
    """Where the videos of a manifest lie under ``root``.

    The tree is walked once, and only when the first video is not where its path says. No file is
    that of two of the ``videos``. Raises ManifestError when ``root`` is no folder.
    """

    def __init__(self, root: str | Path, videos: Iterable[Video] = ()) -> None:
        self.root, self._videos, self._has_warned = _existing(Path(root)), videos, False

    def find(self, video: Video) -> Path:
        """``root / video.path`` if it exists, else the one file or folder of that name.

        Of several the one whose path ends like the video's. Raises ManifestError for two that do,
        DecodeError of kind ``missing`` for none and for one that belongs to another video: a
        missing video fails alone, and the others go on.
        """
        direct = self.root / video.path
        if os.path.exists(direct):
            return direct
        if os.path.islink(direct):
            raise DecodeError(
                f"{direct}: a link to {os.readlink(direct)}, which is not there: correct the link",
                kind="missing",
            )
        path = _parts(video)
        alike = [each for each in self._places[_plain(path.name)] if (self.root / each).exists()]
        most = max((_common_end(path, each) for each in alike), default=0)
        alike = [each for each in alike if _common_end(path, each) == most]
        places = [each for each in alike if each.name == path.name] or alike
        if len(places) > 1:
            raise ManifestError(
                f"video {video.video_id!r}: {video.path} is not under {self.root}, and {path.name} "
                f"is there twice: {places[0]} and {places[1]}: correct the path"
            )
        if not places:
            raise DecodeError(
                f"video {video.video_id!r}: neither {video.path} nor another {path.name} is under "
                f"{self.root}: correct the root or the path",
                kind="missing",
            )
        (place,) = places
        if owner := self._owner(place, most, video):
            raise DecodeError(
                f"video {video.video_id!r}: {video.path} is not under {self.root}, and {place} may "
                f"be that of video {owner!r}: correct the root or the paths",
                kind="missing",
            )
        if most < len(path.parts) and self._videos and not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "%s: %s not at their paths: files of the same names are taken, such as %s for %s",
                *(self.root, counted(sum(map(len, self._astray.values())), "video")),
                *(place, video.path),
            )
        return self.root / place

    def _owner(self, place: Path, common: int, video: Video) -> str:
        """Id of another video whose path says ``place``, or ends like it in ``common`` parts."""
        if place.as_posix() in self._at_place:
            return self._at_place[place.as_posix()]
        rivals = (
            other.video_id
            for other in self._astray.get(_plain(place.name), ())
            if other.video_id != video.video_id and _common_end(_parts(other), place) >= common
        )
        return next(rivals, "")

    def has(self, video: Video) -> bool:
        """True when ``find`` finds the video; raises ManifestError as it does."""
        try:
            return bool(self.find(video))
        except DecodeError:
            return False

    @cached_property
    def _at_place(self) -> dict[str, str]:
        """Ids of the videos that are where their paths say, by those paths."""
        there = (each for each in self._videos if os.path.exists(self.root / each.path))
        return {os.path.normpath(each.path): each.video_id for each in there}

    @cached_property
    def _astray(self) -> dict[str, list[Video]]:
        """The other videos, by the plain names of their files."""
        there, found = set(self._at_place.values()), defaultdict[str, list[Video]](list)
        for video in self._videos:
            if video.video_id not in there:
                found[_plain(_parts(video).name)].append(video)
        return found

    @cached_property
    def _places(self) -> dict[str, list[Path]]:
        """Paths relative to the root by plain name; images have none, there are too many."""
        places: dict[str, list[Path]] = defaultdict(list)
        for folder, files in file_names(self.root):
            places[_plain(folder.name)].append(folder)
            for name in files:
                if not _is(name, ALL_FRAME_SUFFIXES):
                    places[_plain(name)].append(folder / name)
        return places


def _parts(video: Video) -> PurePosixPath:
    return PurePosixPath(video.path.replace("\\", "/"))


def _common_end(one: PurePath, other: PurePath) -> int:
    """How many parts two paths have in common, from the end on."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return len(list(takewhile(lambda pair: _plain(pair[0]) == _plain(pair[1]), pairs)))


def _plain(name: str) -> str:
    """A name without what tables and file systems change: blanks around it, case, Unicode form."""
    return unicodedata.normalize("NFC", name).strip().casefold()


OWN_FILES = frozenset(
    ("spec.json", "flow.json", "checkpoint-last.json", "scores.json", "page.json")
)
"""Files of folders that vadprep writes: features, saved flow, runs, scores with plots, reports."""

SYSTEM_FOLDERS = frozenset(("$recycle.bin", "#recycle", "@eadir", "system volume information"))
"""Recycle bins, and folders of file servers for thumbnails, in lower case."""


def source_paths(root: Path, passed_over: Counter[str] | None = None) -> Iterator[Path]:
    """Paths relative to ``root`` of every video file and folder of frames.

    Folders that vadprep writes and those of the system are left out. ``passed_over`` counts the
    other files by their suffix in lower case.
    """
    for folder, files in file_names(root, OWN_FILES):
        videos = [name for name in files if is_video(name)]
        yield from (folder / name for name in videos)
        frames = [name for name in files if _is(name, ALL_FRAME_SUFFIXES)]
        if frames and not videos:
            yield folder
        if passed_over is not None:
            used = {*videos, *(frames if not videos else ())}
            passed_over.update(Path(name).suffix.lower() for name in files if name not in used)


def file_names(root: Path, marks: frozenset[str] = frozenset()) -> Iterator[tuple[Path, list[str]]]:
    """Each folder under ``root``, relative to it, with its file names, both sorted.

    Links to folders are followed, since data sets often lie on other disks, but no folder is
    entered twice, so a loop ends. A folder that holds a file of ``marks`` is left out whole.
    """
    seen, of_system = set(), list[str]()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_log_unread):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen or marks & set(files):
            subfolders.clear()
            if marks & set(files):
                _LOG.warning("%s: left out: vadprep has written it", folder)
            continue
        seen.add((status.st_dev, status.st_ino))
        of_system += [f"{folder}/{name}" for name in subfolders if name.lower() in SYSTEM_FOLDERS]
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not is_hidden(name) and name.lower() not in SYSTEM_FOLDERS
        )
        yield Path(folder).relative_to(root), sorted(f for f in files if not is_hidden(f))
    if marks and of_system:
        text = "%s: left out %s (recycle bins, thumbnails), such as %s"
        _LOG.warning(text, root, counted(len(of_system), "system folder"), of_system[0])


def _log_unread(error: OSError) -> None:
    _LOG.warning("%s: left out: %s", error.filename, error.strerror)


def _is(name: str, suffixes: frozenset[str]) -> bool:
    return PurePosixPath(name).suffix.lower() in suffixes


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder: correct the path")
    return folder
