"""How other code bases name the feature files of a video, and which of them a folder holds.

An id is never taken apart at a dot, ``#`` or ``=``: what follows it in a file name is matched as
a whole. (I3D_Feature_Extraction_resnet cuts at the first dot, which maps the 3,954 training
videos of XD-Violence to 2,197 files.)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vadprep.core.errors import FeaturesError
from vadprep.core.spec import STREAMS
from vadprep.data import file_names


@dataclass(frozen=True)
class Naming:
    """What follows the id in the name of a feature file."""

    suffix: str
    """``{}`` stands for the crop; without it one file holds all crops."""
    first: str | None = None
    """Suffix of crop 0 where it is another."""

    @property
    def one_file_a_crop(self) -> bool:
        return "{}" in self.suffix

    def name(self, video_id: str, crop: int = 0) -> str:
        """File name of a crop of a video."""
        if crop == 0 and self.first is not None:
            return video_id + self.first
        return video_id + self.suffix.format(crop)

    def parse(self, name: str) -> tuple[str, int] | None:
        """Id and crop of a file name; None when it is not of this naming."""
        before, braces, after = self.suffix.partition("{}")
        if not braces:
            return _without(name, self.suffix)
        stem = name.removesuffix(after)
        if stem != name and stem[-1:].isdecimal() and stem[:-1].endswith(before):
            video_id, crop = stem[:-1].removesuffix(before), int(stem[-1])
            is_named = bool(video_id) and not (crop == 0 and self.first is not None)
            return (video_id, crop) if is_named else None
        return None if self.first is None else _without(name, self.first)


def _without(name: str, suffix: str) -> tuple[str, int] | None:
    video_id = name.removesuffix(suffix)
    return (video_id, 0) if video_id and video_id != name else None


ARRAY = Naming("_i3d.npy")
PER_CROP = Naming("__{}.npy")
BARE_FIRST = Naming("__{}.npy", first=".npy")
UNDERSCORE = Naming("_{}.npy")
TEXT = Naming("_C.txt")

LAYOUTS: dict[str, tuple[Naming, ...]] = {
    "rtfm": (ARRAY,),
    "xdviodet": (PER_CROP,),
    "deepmil": (PER_CROP, BARE_FIRST),
    "urdmu": (PER_CROP,),
    "pel4vad": (BARE_FIRST, PER_CROP, UNDERSCORE),
    "sultani-txt": (TEXT,),
}
"""The namings that files of a layout may have.

=========== ================================ ============================================
rtfm        ``ID_i3d.npy``                   [num_clips, num_crops, dim]; RTFM, MGFN, S3R
xdviodet    ``ID__0.npy`` to ``ID__4.npy``   [num_clips, dim]; XDVioDet
deepmil     ``ID__0.npy`` or ``ID.npy``, ... [num_clips, dim]; Roc-Ng's UCF-Crime features
urdmu       ``ID__0.npy`` to ``ID__9.npy``   [num_clips, dim]; UR-DMU
pel4vad     UCF-Crime ``ID.npy``, ``ID__1.npy``, ...; XD-Violence ``ID__0.npy``, ...;
            ShanghaiTech ``ID_0.npy``, ...   [num_clips, dim]; PEL4VAD
sultani-txt ``ID_C.txt``                     32 lines of numbers, segments; Sultani et al.
=========== ================================ ============================================
"""

SEGMENT_LAYOUT = "sultani-txt"
"""The layout whose rows are segments of a video, not clips."""

ALL_NAMINGS = (ARRAY, TEXT, PER_CROP, UNDERSCORE, BARE_FIRST)
"""Every naming, those that explain fewer files by chance first."""

LABELS = re.compile(r"(.*[-_])?gt([-_.].*)?")
"""Names of ground truth, which lies beside the features in many trees."""


@dataclass(frozen=True)
class Tree:
    """The feature files in a folder, by video.

    ``videos`` maps the path of each file relative to the root, without what the naming adds, to
    the paths of its crops by number.
    """

    root: Path
    naming: Naming
    videos: Mapping[str, Mapping[int, Path]]
    others: tuple[str, ...]
    """Files that are not of this naming, relative to the root."""
    _by_name: Mapping[str, list[str]] = field(default_factory=dict)

    def find(self, video_id: str) -> Mapping[int, Path]:
        """Files of a video by crop: at its id as a path, else the ones of that name; or none.

        Raises FeaturesError if files of that name are in two folders.
        """
        if video_id in self.videos:
            return self.videos[video_id]
        places = self._by_name.get(PurePosixPath(video_id).name, [])
        if len(places) > 1:
            raise FeaturesError(
                f"{self.root}: features of {video_id!r} are there twice, {places[0]} and "
                f"{places[1]}: name the folder of one of them"
            )
        return self.videos[places[0]] if places else {}

    def explained(self, wanted: Collection[str] = ()) -> int:
        """How many of the ``wanted`` videos have their first crop here.

        Without wanted ids, 1 when half of the files are of such videos, else 0.
        """
        whole = {place: crops for place, crops in self.videos.items() if 0 in crops}
        if not wanted:
            num_files = sum(map(len, self.videos.values())) + len(self.others)
            return int(2 * sum(map(len, whole.values())) >= num_files > 0)
        named = {PurePosixPath(place).name for place in whole}
        return sum(each in whole or PurePosixPath(each).name in named for each in wanted)

    def unused(self, used: Iterable[Mapping[int, Path]]) -> tuple[str, ...]:
        """Files relative to the root that are in none of ``used``, what ``find`` gave."""
        taken = {path for crops in used for path in crops.values()}
        left = {path for crops in self.videos.values() for path in crops.values()} - taken
        return (*sorted(path.relative_to(self.root).as_posix() for path in left), *self.others)


def read_tree(
    root: Path, namings: Iterable[Naming], stream: str, wanted: Collection[str] = ()
) -> Tree:
    """The files under ``root`` in the naming that has most of the ``wanted`` ids.

    Without wanted ids: in the first naming that half of the files have. Folders named after another
    stream (``Flow``, ``FlowTest``) are passed over. Raises FeaturesError when there is none.
    """
    files = [path for path in _files(root) if not _is_of_another_stream(path, stream)]
    if not wanted:
        files = [path for path in files if not LABELS.fullmatch(path.name)]
    trees = [_tree(root, naming, files) for naming in namings]
    best = max(trees, key=lambda tree: tree.explained(wanted))  # the first of equals
    if not best.explained(wanted):
        example = next(iter(wanted), "ID")
        expected = ", ".join(sorted({tree.naming.name(example) for tree in trees}))
        there = f"there is {files[0]}" if files else "there is no file"
        raise FeaturesError(
            f"{root}: no {stream} features in this layout (looked for {expected}; {there}): "
            f"check the folder, --layout and the manifest"
        )
    return best


def _files(root: Path) -> list[PurePosixPath]:
    if not root.is_dir():
        raise FeaturesError(f"{root}: no such folder: correct the path")
    found = [folder / name for folder, names in file_names(root) for name in names]
    return [PurePosixPath(path.as_posix()) for path in found]


def _is_of_another_stream(path: PurePosixPath, stream: str) -> bool:
    others = tuple(name for name in STREAMS if name != stream)
    return any(part.lower().startswith(others) for part in path.parts[:-1])


def _tree(root: Path, naming: Naming, files: Iterable[PurePosixPath]) -> Tree:
    videos: dict[str, dict[int, Path]] = defaultdict(dict)
    by_name: dict[str, list[str]] = defaultdict(list)
    others = []
    for path in files:
        parsed = naming.parse(path.name)
        if parsed is None:
            others.append(str(path))
            continue
        name, crop = parsed
        place = str(path.parent / name)
        if place not in videos:
            by_name[name].append(place)
        videos[place][crop] = root / path
    return Tree(root, naming, dict(videos), tuple(others), dict(by_name))
