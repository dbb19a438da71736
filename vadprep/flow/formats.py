"""The files of saved flow: HDF5 with planes in chunks, or a folder of JPEGs (see ``saved``)."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vadprep.core.atomic import disk_errors, names_in, open_atomic, sync_folder, temporary_name
from vadprep.core.errors import DecodeError

Planes = NDArray[np.uint8]
"""Pictures uint8 [n, h, w, 3]: u, v, and u as it is mirrored."""

JPEG_QUALITY = 95
"""OpenCV's default, which denseflow writes."""

GZIP_LEVEL = 1
"""The fastest: flow of a fixed camera is mostly one value."""

NO_FLOW_KIND = "no-flow"
"""Kind of the DecodeError of a video whose saved flow is missing, damaged or another's."""

REMEDY = "remove it and save it again (--save-flow, with another --out)"
"""What helps against saved flow that is not what it should be."""

Append = Callable[[Planes], None]


class Stored(Protocol):
    """The flow of one video as it lies on the disk."""

    @property
    def count(self) -> int:
        """Number of flows."""

    def __call__(self, start: int, stop: int) -> Planes:
        """Pictures [start, stop)."""


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a DecodeError."""
    try:
        yield
    except FileNotFoundError:
        raise _missing(file) from None
    except (OSError, LookupError, RuntimeError, TypeError, ValueError) as error:
        message = f"{file}: damaged saved flow ({error}): {REMEDY}"
        raise DecodeError(message, NO_FLOW_KIND) from error


def _missing(file: Path) -> DecodeError:
    return DecodeError(f"{file}: no such saved flow: save it first (--save-flow)", NO_FLOW_KIND)


# --- HDF5 ---------------------------------------------------------------------------------


class _Sink(io.FileIO):
    """The file that HDF5 writes into. HDF5 never hears that the disk refused.

    After a failed write it can neither close its file nor let go of it without a segmentation
    fault (measured, HDF5 1.14), so the error is kept, and what comes after goes nowhere.
    """

    error: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content)
        while left and self.error is None:
            try:
                left = left[super().write(left) :]
            except OSError as error:
                self.error = error
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


@contextmanager
def hdf5_writer(path: Path, video_id: str) -> Iterator[Append]:
    """A function that appends pictures; the file appears when the block is left in good order.

    Raises OutputError when the disk refuses.
    """
    with open_atomic(path) as stream:
        sink = _Sink(stream.fileno(), "r+", closefd=False)
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            content = np.bytes_(video_id.encode("utf-8", "surrogateescape"))
            file.attrs.create(
                "video_id", content, dtype=h5py.string_dtype("utf-8", len(content) or 1)
            )

            def append(planes: Planes) -> None:
                u, v, mirrored = np.moveaxis(planes, -1, 0)
                for name, plane in (("u", u), ("v", v), ("u_sum", u + mirrored)):  # modulo 256
                    _append(file, name, plane)
                with disk_errors(path):
                    sink.check()

            yield append
        with disk_errors(path):
            sink.check()


def _append(file: h5py.File, name: str, plane: Planes) -> None:
    if name not in file:
        file.create_dataset(
            name,
            shape=(0, *plane.shape[1:]),
            maxshape=(None, *plane.shape[1:]),
            chunks=(1, *plane.shape[1:]),
            dtype=np.uint8,
            compression="gzip",
            compression_opts=GZIP_LEVEL,
            fletcher32=True,
            track_times=False,
        )
    start = len(file[name])
    file[name].resize(start + len(plane), axis=0)
    file[name][start:] = plane


class _HDF5Flow:
    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path = path
        self._planes = [file[name] for name in ("u", "v", "u_sum") if "u" in file]
        kinds = {(plane.dtype.name, plane.shape) for plane in self._planes}
        if len(kinds) > 1 or any(name != "uint8" for name, _ in kinds):
            raise ValueError(f"planes {', '.join(map(str, sorted(kinds)))}")
        self.count = len(self._planes[0]) if self._planes else 0

    def __call__(self, start: int, stop: int) -> Planes:
        with _readable(self._path):
            u, v, u_sum = (plane[start:stop] for plane in self._planes)
            return np.stack([u, v, u_sum - u], axis=-1)


@contextmanager
def hdf5_reader(path: Path, video_id: str) -> Iterator[Stored]:
    """The pictures of a file; DecodeError when it is missing, damaged or another video's."""
    with _readable(path):
        file = h5py.File(path, "r", locking=False)
    with file:
        with _readable(path):
            found = bytes(file.attrs["video_id"]).decode("utf-8", "surrogateescape")
            if found != video_id:
                raise ValueError(f"it is of video {found!r}")
            stored = _HDF5Flow(path, file)
        yield stored


# --- JPEG ---------------------------------------------------------------------------------


@contextmanager
def jpeg_writer(path: Path, video_id: str) -> Iterator[Append]:
    """As ``hdf5_writer``, a folder of JPEGs."""
    folder, count = temporary_name(path), 0
    with disk_errors(path):
        folder.mkdir()

    def append(planes: Planes) -> None:
        nonlocal count
        with disk_errors(path):
            for picture in planes:
                count += 1
                for axis, plane in (("x", 0), ("y", 1)):
                    image = Image.fromarray(np.ascontiguousarray(picture[..., plane]))
                    image.save(_jpeg(folder, axis, count), quality=JPEG_QUALITY)

    try:
        yield append
        with disk_errors(path):
            shutil.rmtree(path, ignore_errors=True)  # of a run that was killed before its features
            os.replace(folder, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _jpeg(folder: Path, axis: str, number: int) -> Path:
    return folder / f"flow_{axis}_{number:05d}.jpg"


class _JPEGFlow:
    def __init__(self, path: Path, mirrored: Callable[[Planes], Planes]) -> None:
        self._path, self._mirrored = path, mirrored
        names = names_in(path)
        self.count = sum(name.startswith("flow_x_") for name in names)
        self._size: tuple[int, int] | None = None

    def __call__(self, start: int, stop: int) -> Planes:
        u, v = (
            np.stack([self._plane(_jpeg(self._path, axis, n)) for n in range(start + 1, stop + 1)])
            for axis in ("x", "y")
        )
        return np.stack([u, v, self._mirrored(u)], axis=-1)

    def _plane(self, file: Path) -> Planes:
        with _readable(file), Image.open(file) as image:
            self._size = self._size or image.size
            if image.size != self._size:
                raise ValueError(f"{image.size} px where others have {self._size}")
            return np.asarray(image.convert("L"))


@contextmanager
def jpeg_reader(
    path: Path, video_id: str, mirrored: Callable[[Planes], Planes]
) -> Iterator[Stored]:
    """As ``hdf5_reader``; a folder does not say whose it is.

    ``mirrored`` gives u as it is mirrored, which no JPEG holds.
    """
    if not path.is_dir():
        raise _missing(path)
    yield _JPEGFlow(path, mirrored)
