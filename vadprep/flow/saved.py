"""Flow on the disk: an HDF5 file a video, or the JPEGs that two-stream code reads.

The README of this folder lists the files. u and v are quantised. u_sum is the quantised u plus the
quantised -u, modulo 256: it is nearly constant, so it costs no space, and keeps mirrored crops
exact. JPEG loses such detail anyway: there -u comes from the quantised u.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vadprep.core import atomic
from vadprep.core.array_files import DAMAGE, array_in, attributes_of, opened_hdf5
from vadprep.core.clips import num_flows
from vadprep.core.errors import DecodeError, FeaturesError, SpecError
from vadprep.core.spec import Spec
from vadprep.core.untrusted import open_regular, parse_json, read_regular
from vadprep.flow.quantise import Keep, Quantisation

JPEG_QUALITY = 95  # OpenCV's default, which denseflow writes
HDF5, JPEG = "hdf5", f"jpeg {JPEG_QUALITY}"
KINDS = {"hdf5": HDF5, "jpeg": JPEG}
"""Name of a format -> how a spec names flow that was read from it."""

RECIPE = ("fps", "resize", "filter", "decoder", "flow", "flow_bound", "quantisation")
"""Fields of a spec that decide what the saved flow is."""

LONGEST_NAME = 150  # bytes; a file system takes 255, temporary names need a hundred
NO_FLOW_KIND = "no-flow"  # of a DecodeError: saved flow is missing, damaged or another's
REMEDY = "remove it and save it again (--save-flow, with another --out)"

Size = tuple[int, ...]
"""Height and width."""

Planes = NDArray[np.uint8]
"""Flow images uint8 [n, h, w, 3]: u, v, and u as it is mirrored."""

Append = Callable[[Planes], None]
Read = Callable[[int, int], Planes]
"""Images ``start`` to ``stop`` of a video."""


def file_name(video_id: str) -> str:
    """A file name of its own for each id: percent-encoded, a long one cut and hashed."""
    content = video_id.encode("utf-8", "surrogateescape")
    name = quote(content, safe=" ")
    if set(name) == {"."} or name == "flow.json" or ".tmp-" in name:
        name = name.replace(".", "%2E")
    if len(name) <= LONGEST_NAME:
        return name
    # No percent-encoded name holds "%-".
    return f"{name[: LONGEST_NAME - 66]}%-{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True)
class SavedFlow:
    """A folder of saved flow of one kind, ``hdf5`` or ``jpeg 95``."""

    path: Path
    kind: str

    @classmethod
    def prepare(cls, path: Path, kind: str, spec: Spec) -> SavedFlow:
        """Make the folder, or join the one that is there.

        Raises SpecError when it holds flow of another kind or recipe, ValueError when the flow
        of ``spec`` is not quantised.
        """
        if spec.quantisation == "none":
            raise ValueError("saved flow is 8 bits: quantisation none has to be computed anew")
        atomic.make_folder(path)
        atomic.remove_stale(path)
        recipe = {name: getattr(spec, name) for name in RECIPE}
        content = {"format": "vadprep-flow", "version": 1, "kind": kind, "recipe": recipe}
        try:
            with atomic.open_atomic(path / "flow.json", replace=False) as stream:
                stream.write((json.dumps(content, indent=2) + "\n").encode())
        except FileExistsError:
            found = cls.open(path, spec)
            if found.kind != kind:
                raise SpecError(
                    f"{path} holds flow saved as {found.kind}, not {kind}: choose another folder"
                ) from None
        return cls(path, kind)

    @classmethod
    def open(cls, path: Path, spec: Spec) -> SavedFlow:
        """The folder that ``prepare`` made, to be read for ``spec``.

        Raises FeaturesError when there is none, SpecError when its flow is of another recipe.
        """
        file = path / "flow.json"
        try:
            content = parse_json(read_regular(file, FeaturesError), file, FeaturesError)
            kind, recipe = content["kind"], dict(content["recipe"])
            if kind not in KINDS.values():
                raise ValueError(f"kind {kind!r}")
        except (FileNotFoundError, NotADirectoryError):
            message = f"{file}: no such file: name a folder that --save-flow has written"
            raise FeaturesError(message) from None
        except (LookupError, TypeError, ValueError) as error:
            raise FeaturesError(f"{file}: damaged, or of a later version: {error}") from error
        asked = {name: getattr(spec, name) for name in RECIPE}
        odd = [f"{n}: {asked[n]} / {recipe.get(n)}" for n in RECIPE if asked[n] != recipe.get(n)]
        if odd:
            raise SpecError(
                f"{path} holds flow of other settings (asked for / found there): "
                f"{'; '.join(odd)}. Use the same settings, or another folder"
            )
        return cls(path, kind)

    @contextmanager
    def writer(self, video_id: str) -> Iterator[Keep]:
        """A function that appends images [n, h, w, 3] of a video; the file appears at the end.

        Nothing appears when the block is left by an exception. Raises OutputError when the disk
        refuses.
        """
        write = _write_hdf5 if self.kind == HDF5 else _write_jpegs
        with write(self._file(video_id), video_id) as append:
            yield lambda planes: append(planes.cpu().numpy())

    @contextmanager
    def reader(
        self, video_id: str, quantisation: Quantisation, device: torch.device
    ) -> Iterator[StoredFlow]:
        """A FlowSource that reads a video's images. It raises DecodeError, of kind ``no-flow``,
        when they are missing, damaged or another's."""
        file = self._file(video_id)
        if self.kind == JPEG:  # a folder does not say of which video it is
            yield StoredFlow(file, device, *_read_jpegs(file, quantisation))
            return
        with ExitStack() as stack:
            with _readable(file):
                opened = stack.enter_context(opened_hdf5(file, FeaturesError))
            yield StoredFlow(file, device, *_read_hdf5(file, opened, video_id))

    def holds(self, video_id: str) -> bool:
        """True when flow of the video is there."""
        return self._file(video_id).exists()

    def _file(self, video_id: str) -> Path:
        return self.path / (file_name(video_id) + (".h5" if self.kind == HDF5 else ""))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a DecodeError."""
    try:
        yield
    except FileNotFoundError:
        message = f"{file}: no such saved flow: save it first (--save-flow)"
        raise DecodeError(message, NO_FLOW_KIND) from None
    except (*DAMAGE, FeaturesError, Image.DecompressionBombError) as error:
        message = f"{file}: damaged saved flow ({error}): {REMEDY}"
        raise DecodeError(message, NO_FLOW_KIND) from error


class StoredFlow:
    """A FlowSource that reads the ``count`` images of one video, one for each pair of frames."""

    def __init__(
        self, file: Path, device: torch.device, count: int, read: Read, size: Size | None = None
    ) -> None:
        self._file, self._device, self._count, self._read = file, device, count, read
        self._size, self._given = size, 0

    def __call__(self, frames: Tensor) -> Tensor:
        """Images [n, h, w, 3] of the next frames uint8 [n + 1, h, w, 3]."""
        start, stop = self._given, self._given + num_flows(len(frames))
        if stop > self._count:
            raise self._mismatch(f"{stop} or more")
        self._check_size(frames, self._size)  # before memory is taken for as much as is declared
        with _readable(self._file):
            planes = self._read(start, stop)
        self._check_size(frames, planes.shape[1:3])
        self._given = stop
        return torch.from_numpy(planes).to(self._device)

    def _check_size(self, frames: Tensor, found: Size | None) -> None:
        height, width = frames.shape[1:3]
        if found not in (None, (height, width)):
            sizes = " x ".join(map(str, found or ()))
            raise self._mismatch(f"frames of {height} x {width} px, not {sizes}")

    def end(self) -> None:
        """Raise DecodeError when not all that is stored was read."""
        if self._given != self._count:
            raise self._mismatch(str(self._given))

    def _mismatch(self, needed: str) -> DecodeError:
        return DecodeError(
            f"{self._file}: {self._count} flows, but this video has {needed}: the saved flow is "
            f"incomplete, or of another video: {REMEDY}",
            NO_FLOW_KIND,
        )


def _read_hdf5(path: Path, file: h5py.File, video_id: str) -> tuple[int, Read, Size | None]:
    """The number of images of an open file, what reads them, and their size."""
    with _readable(path):
        found = attributes_of(file)["video_id"]
        if found != video_id:
            raise ValueError(f"it is of video {found!r}")
        names = ("u", "v", "u_sum") if "u" in file else ()
        stored = [array_in(file, name, ("uint8",), 3, chunked=True) for name in names]
        if len(shapes := {plane.shape for plane in stored}) > 1:
            raise ValueError(f"planes {', '.join(map(str, sorted(shapes)))}")

    def read(start: int, stop: int) -> Planes:
        u, v, u_sum = (plane[start:stop] for plane in stored)
        return np.stack([u, v, u_sum - u], axis=-1)

    return (len(stored[0]), read, stored[0].shape[1:]) if stored else (0, read, None)


def _read_jpegs(path: Path, quantisation: Quantisation) -> tuple[int, Read]:
    """As ``_read_hdf5``, of a folder of JPEGs."""
    with _readable(path):
        if not path.is_dir():
            raise FileNotFoundError
    sizes: list[tuple[int, int]] = []

    def plane(file: Path) -> Planes:
        with (
            _readable(file),
            open_regular(file, FeaturesError, None) as stream,
            Image.open(stream, formats=["JPEG"]) as image,
        ):
            sizes.append(image.size)
            if image.size != sizes[0]:
                raise ValueError(f"{image.size} px, others have {sizes[0]}")
            return np.asarray(image.convert("L"))

    def read(start: int, stop: int) -> Planes:
        u, v = (
            np.stack([plane(_jpeg(path, axis, n)) for n in range(start + 1, stop + 1)])
            for axis in "xy"
        )
        return np.stack([u, v, quantisation.mirror(u)], axis=-1)

    return sum(name.startswith("flow_x_") for name in atomic.names_in(path)), read


def _jpeg(folder: Path, axis: str, number: int) -> Path:
    return folder / f"flow_{axis}_{number:05d}.jpg"


class _Sink(io.FileIO):
    """The file that HDF5 writes into. It hides from HDF5 that the disk refused.

    After a failed write HDF5 can neither close nor release its file without a segmentation fault
    (measured, HDF5 1.14). So the error is kept, and everything after it is discarded.
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
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


@contextmanager
def _write_hdf5(path: Path, video_id: str) -> Iterator[Append]:
    """A function that appends images. The file appears when the block ends without an exception."""
    with atomic.open_atomic(path) as stream:
        sink = _Sink(stream.fileno(), "r+", closefd=False)
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            content = np.bytes_(video_id.encode("utf-8", "surrogateescape"))
            kind = h5py.string_dtype("utf-8", len(content) or 1)
            file.attrs.create("video_id", content, dtype=kind)

            def append(planes: Planes) -> None:
                u, v, mirrored = np.moveaxis(planes, -1, 0)
                for name, plane in (("u", u), ("v", v), ("u_sum", u + mirrored)):  # modulo 256
                    size = plane.shape[1:]
                    if name not in file:
                        file.create_dataset(
                            name, shape=(0, *size), maxshape=(None, *size), chunks=(1, *size),
                            dtype=np.uint8, fletcher32=True, track_times=False,
                            compression="gzip", compression_opts=1,  # mostly one value: the fastest
                        )  # fmt: skip
                    start = len(file[name])
                    file[name].resize(start + len(plane), axis=0)
                    file[name][start:] = plane
                with atomic.disk_errors(path):
                    sink.check()

            yield append
        with atomic.disk_errors(path):
            sink.check()


@contextmanager
def _write_jpegs(path: Path, video_id: str) -> Iterator[Append]:
    """As ``_write_hdf5``, but a folder of JPEGs."""
    count = 0
    with atomic.open_atomic_folder(path) as folder:  # it replaces that of a run that was killed

        def append(planes: Planes) -> None:
            nonlocal count
            with atomic.disk_errors(path):
                for image in planes:
                    count += 1
                    for axis, plane in zip("xy", (image[..., 0], image[..., 1]), strict=True):
                        picture = Image.fromarray(np.ascontiguousarray(plane))
                        picture.save(_jpeg(folder, axis, count), quality=JPEG_QUALITY)

        yield append
