"""How other code bases name the feature files of a video, and which of them a folder holds.

An id is never taken apart at a dot, ``#`` or ``=``: what follows it in a file name is matched as
a whole. (I3D_Feature_Extraction_resnet cuts at the first dot, which maps the 3,954 training
videos of XD-Violence to 2,197 files.)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
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
        last = self.suffix
        if self.one_file_a_crop:
            before, after = map(re.escape, self.suffix.split("{}"))
            if found := re.fullmatch(f"(.+){before}([0-9]){after}", name, re.DOTALL):
                is_named = found[2] != "0" or self.first is None
                return (found[1], int(found[2])) if is_named else None
            if self.first is None:
                return None
            last = self.first
        video_id = name.removesuffix(last)
        return (video_id, 0) if video_id not in ("", name) else None


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


class Tree:
    """The feature files in a folder, by video.

    ``videos`` maps the path of each file relative to the root, without what the naming adds, to
    the paths of its crops by number; ``places`` maps names to such paths. ``others`` are files that
    are not of this naming.
    """

    def __init__(self, root: Path, naming: Naming, files: Iterable[PurePosixPath]) -> None:
        self.root, self.naming = root, naming
        self.videos: dict[str, dict[int, Path]] = {}
        self.places: dict[str, list[str]] = defaultdict(list)
        self.others: list[str] = []
        for path in files:
            if (parsed := naming.parse(path.name)) is None:
                self.others.append(str(path))
                continue
            name, crop = parsed
            place = str(path.parent / name)
            if place not in self.videos:
                self.places[name].append(place)
            self.videos.setdefault(place, {})[crop] = root / path

    def find(self, video_id: str) -> Mapping[int, Path]:
        """Files of a video by crop: at its id as a path, else the ones of that name; or none.

        Raises FeaturesError if files of that name are in two folders.
        """
        if video_id in self.videos:
            return self.videos[video_id]
        places = self.places.get(PurePosixPath(video_id).name, [])
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
    if not root.is_dir():
        raise FeaturesError(f"{root}: no such folder: correct the path")
    others = tuple(name for name in STREAMS if name != stream)
    files = [
        PurePosixPath(folder, name)
        for folder, names in file_names(root)
        if not any(part.lower().startswith(others) for part in folder.parts)
        for name in names
        if wanted or not LABELS.fullmatch(name)
    ]
    trees = [Tree(root, naming, files) for naming in namings]
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
