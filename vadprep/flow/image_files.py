"""Flow as JPEG images: u and v of each pair of frames, in one folder a video.

Programs name such files differently. vadprep writes each of these names, and reads them:

    flow_x_00001.jpg, flow_y_00001.jpg    yjxiong/dense_flow (TSN), and ``--flow-format jpeg``
    flow_x_00000.jpg, flow_y_00000.jpg    open-mmlab/denseflow
    x_00001.jpg, y_00001.jpg              mmaction2, tools/misc/flow_extraction.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vadprep.core import atomic
from vadprep.core.array_files import DAMAGE
from vadprep.core.errors import DecodeError, FeaturesError
from vadprep.core.untrusted import open_regular

JPEG_QUALITY = 95  # OpenCV's default, which all these programs write
IMAGE = re.compile(r"(flow_)?([xy])_([0-9]{5,9})\.jpg")

NO_FLOW_KIND = "no-flow"  # of a DecodeError: saved flow is missing, damaged or another's
REMEDY = "remove it and save it again (--save-flow, with another --out)"
"""For flow that vadprep has saved."""

Plane = NDArray[np.uint8]
"""Images of u or of v, uint8 [..., h, w]."""

Planes = NDArray[np.uint8]
"""Flow images uint8 [n, h, w, 3]: u, v, and u as it is mirrored."""

Append = Callable[[Planes], None]
Read = Callable[[int, int], Planes]
"""Images ``start`` to ``stop`` of a video."""


@dataclass(frozen=True)
class Names:
    """How the images of a video are named."""

    prefix: str
    """``flow_``, or nothing."""
    first: int
    """Number of the first pair of frames, 0 or 1."""

    def file(self, axis: str, number: int) -> str:
        """The name of the image ``x`` (u) or ``y`` (v) of pair ``number``, from 0."""
        return f"{self.prefix}{axis}_{self.first + number:05d}.jpg"

    @property
    def program(self) -> str:
        """The program whose names these are."""
        if not self.prefix:
            return "mmaction2"
        return "dense_flow" if self.first else "denseflow"

    @classmethod
    def of(cls, files: Iterable[str]) -> Names | None:
        """The names of files of one video; None where none is an image of flow.

        Raises ValueError for numbers that begin at neither 0 nor 1.
        """
        found = [match for file in files if (match := IMAGE.fullmatch(file)) and match[2] == "x"]
        if not found:
            return None
        first = min(found, key=lambda match: int(match[3]))
        if int(first[3]) > 1:
            raise ValueError(f"{first[0]} is the first image: expected number 00000 or 00001")
        return cls(first[1] or "", int(first[3]))


@contextmanager
def readable(file: Path, remedy: str = REMEDY) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a DecodeError that ends with ``remedy``."""
    try:
        yield
    except FileNotFoundError:
        remedy = "save it first (--save-flow)" if remedy == REMEDY else remedy
        raise DecodeError(f"{file}: no such saved flow: {remedy}", NO_FLOW_KIND) from None
    except (*DAMAGE, FeaturesError, Image.DecompressionBombError) as error:
        message = f"{file}: damaged saved flow ({error}): {remedy}"
        raise DecodeError(message, NO_FLOW_KIND) from error


NAMES = {"jpeg": Names("flow_", 1), "denseflow": Names("flow_", 0), "mmaction2": Names("", 1)}
"""Format of ``--save-flow`` -> the names of its images."""


def names_below(root: Path) -> Names:
    """The names of the images in the folders of ``root``, one for each video, or in theirs.

    Raises FeaturesError when there are none, when they lie in ``root`` itself, or when their
    numbers begin at neither 0 nor 1.
    """
    children = [root / name for name in sorted(atomic.names_in(root))]
    deeper = (child / name for child in children for name in sorted(atomic.names_in(child)))
    if any(IMAGE.fullmatch(name) for name in atomic.names_in(root)):
        raise FeaturesError(
            f"{root} holds images of flow itself: name the folder above, which has a folder for "
            "each video"
        )
    try:
        for folder in chain(children, deeper):
            if names := Names.of(atomic.names_in(folder)):
                return names
    except ValueError as error:
        raise FeaturesError(f"{folder}: {error}: rename the images") from error
    examples = " or ".join(names.file("x", 0) for names in NAMES.values())
    raise FeaturesError(
        f"{root}: neither flow.json, as --save-flow writes it, nor folders of videos with "
        f"{examples}, as dense_flow, denseflow and mmaction2 write them"
    )


def read_images(
    folder: Path, names: Names, mirror: Callable[[Plane], Plane], remedy: str
) -> tuple[int, Read]:
    """The number of pairs in ``folder``, and what reads their images; ``mirror`` gives -u of u.

    Raises DecodeError, which ends with ``remedy``, when there is no such folder, when an image is
    missing, and when the images have other names.
    """
    with readable(folder, remedy):
        if not folder.is_dir():
            raise FileNotFoundError
    files = set(atomic.names_in(folder))
    found = [match[2] for file in files if (match := IMAGE.fullmatch(file))]
    count = max(map(found.count, "xy"))
    for number in range(count):
        pair = [names.file(axis, number) for axis in "xy"]
        if lacking := [file for file in pair if file not in files]:
            reason = _why_lacking(folder, names, lacking, files)
            raise DecodeError(f"{reason}: {remedy}", NO_FLOW_KIND)
    sizes: list[tuple[int, int]] = []

    def plane(file: Path) -> Plane:
        with (
            readable(file, remedy),
            open_regular(file, FeaturesError, None) as stream,
            Image.open(stream, formats=["JPEG"]) as image,
        ):
            sizes.append(image.size)
            if image.size != sizes[0]:
                raise ValueError(f"{image.size} px, others have {sizes[0]}")
            return np.asarray(image.convert("L"))

    def read(start: int, stop: int) -> Planes:
        u, v = (
            np.stack([plane(folder / names.file(axis, n)) for n in range(start, stop)])
            for axis in "xy"
        )
        return np.stack([u, v, mirror(u)], axis=-1)

    return count, read


def _why_lacking(folder: Path, names: Names, lacking: list[str], files: set[str]) -> str:
    """Why ``lacking``, x or y of a pair or both, are not among ``files``."""
    try:
        there = Names.of(files)
    except ValueError as error:
        return f"{folder}: {error}"
    if there and there != names:
        return (
            f"{folder}: the images begin with {there.file('x', 0)}, where "
            f"{names.file('x', 0)} is expected: it is missing, or they are numbered otherwise"
        )
    which = "the other of x and y" if len(lacking) == 1 else "a later one"
    return f"{folder / lacking[0]}: no such file, though {which} is there"


@contextmanager
def write_images(path: Path, names: Names) -> Iterator[Append]:
    """A function that appends images. The folder appears when the block ends without an
    exception, in the place of an older one."""
    count = 0
    with atomic.open_atomic_folder(path) as folder:

        def append(planes: Planes) -> None:
            nonlocal count
            with atomic.disk_errors(path):
                for image in planes:
                    for axis, plane in zip("xy", (image[..., 0], image[..., 1]), strict=True):
                        picture = Image.fromarray(np.ascontiguousarray(plane))
                        picture.save(folder / names.file(axis, count), quality=JPEG_QUALITY)
                    count += 1

        yield append
