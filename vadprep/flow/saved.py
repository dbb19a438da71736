"""Flow on the disk: an HDF5 file a video, or the JPEGs that two-stream code reads and writes.

The README of this folder lists the files. u and v are quantised. u_sum is the quantised u plus the
quantised -u, modulo 256: it is nearly constant, so it costs no space, and keeps mirrored crops
exact. JPEG loses such detail anyway: there -u comes from the quantised u.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
import torch
from torch import Tensor

from vadprep.core import atomic
from vadprep.core.array_files import array_in, attributes_of, opened_hdf5
from vadprep.core.clips import num_flows
from vadprep.core.errors import DecodeError, FeaturesError, SpecError, counted
from vadprep.core.spec import DECODED, UNKNOWN, Spec
from vadprep.core.untrusted import parse_json, read_regular
from vadprep.core.video_files import id_of_path
from vadprep.flow.image_files import (
    JPEG_QUALITY,
    NAMES,
    NO_FLOW_KIND,
    REMEDY,
    Append,
    Names,
    Planes,
    Read,
    names_below,
    read_images,
    readable,
    write_images,
)
from vadprep.flow.quantise import Keep, Quantisation

HDF5, JPEG = "hdf5", f"jpeg {JPEG_QUALITY}"
"""How a spec names flow that was read from a format."""
FORMATS = (HDF5, *NAMES)

RECIPE = ("fps", "frames", "resize", "filter", "decoder", "flow", "flow_bound", "quantisation")
"""Fields of a spec that decide what the saved flow is."""
BEFORE_FRAMES = {"frames": DECODED}
"""What a recipe means that does not have this field."""

BOUND_IN_NAME = re.compile(r"(?:^|[_.-])b(?:ound)?[_=-]?([1-9][0-9]{0,4})(?=$|[_.-])")
"""A bound in px in the name of a folder: ``ucf_b20``, ``flow-bound=32``."""
REMEDY_OF_OTHERS = (
    "the folder needs the path or the id of the video as its name, with two images for each pair "
    "of successive frames (denseflow -s=1) at --fps native"
)

LONGEST_NAME = 150  # bytes; a file system takes 255, temporary names need a hundred

Size = tuple[int, ...]
"""Height and width."""


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
    """A folder of saved flow: of vadprep, with a ``flow.json``, or of another program."""

    path: Path
    form: str
    """One of ``FORMATS``; of others the program whose names their images have."""
    others: Names | None = None
    """The names of images that another program has written."""

    @property
    def source(self) -> str:
        """What ``Spec.flow_source`` says of flow from here: ``hdf5``, ``jpeg 95``, or the program
        whose names the images have."""
        return self.form if self.others or self.form == HDF5 else JPEG

    @classmethod
    def prepare(cls, path: Path, form: str, spec: Spec) -> SavedFlow:
        """Make the folder, or join the one that is there; ``form`` is one of ``FORMATS``.

        Raises SpecError when it holds flow of another format or recipe, ValueError when the flow
        of ``spec`` is not quantised.
        """
        if spec.quantisation == "none":
            raise ValueError("saved flow is 8 bits: quantisation none has to be computed anew")
        atomic.make_folder(path)
        atomic.remove_stale(path)
        recipe = {name: getattr(spec, name) for name in RECIPE}
        made = cls(path, form)
        content = {"format": "vadprep-flow", "version": 1, "kind": made.source, "recipe": recipe}
        if form not in (HDF5, "jpeg"):
            content["names"] = form
        try:
            with atomic.open_atomic(path / "flow.json", replace=False) as stream:
                stream.write((json.dumps(content, indent=2) + "\n").encode())
        except FileExistsError:
            found = cls.open(path, spec)
            if found != made:
                raise SpecError(
                    f"{path} holds flow saved as {found.form}, not {form}: choose another folder"
                ) from None
        return made

    @classmethod
    def open(cls, path: Path, spec: Spec) -> SavedFlow:
        """The folder that ``prepare`` made, to be read for ``spec``.

        Raises FeaturesError when there is none, SpecError when its flow is of another recipe.
        """
        file = path / "flow.json"
        try:
            content = parse_json(read_regular(file, FeaturesError), file, FeaturesError)
            kind, recipe = content["kind"], BEFORE_FRAMES | dict(content["recipe"])
            found = cls(path, content.get("names", HDF5 if kind == HDF5 else "jpeg"))
            if kind != found.source or found.form not in FORMATS:
                raise ValueError(f"kind {kind!r}, names {content.get('names')!r}")
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
        return found

    @classmethod
    def find(cls, path: Path, spec: Spec, named: Collection[str]) -> tuple[SavedFlow, Spec]:
        """The flow in ``path`` that is to be read, and ``spec`` with what it says of this flow.

        It is of vadprep or of another program. What nobody says of the latter is unknown: the
        algorithm, unless it is among the fields ``named``. The bound is one of these, or stands in
        the name of the folder; without one of these the quantisation is that of the program. Raises
        as ``open``, FeaturesError when there are no images of flow, and ValueError when there is no
        bound, or another one in the name, or a quantisation that JPEG cannot hold.
        """
        if not path.is_dir() or (path / "flow.json").exists():
            found = cls.open(path, spec)
            return found, replace(spec, flow_source=found.source)
        names = names_below(path)
        found = cls(path, names.program, names)
        in_name = BOUND_IN_NAME.search(path.name)
        bound = spec.flow_bound if "flow_bound" in named else in_name and int(in_name[1])
        if bound is None:
            raise ValueError(
                f"{path}: at how many px was this flow cut off? Say it by --set flow_bound=20 "
                "(-b of denseflow, 32 where it was not named; --bound of mmaction2, 20)"
            )
        if in_name and bound != int(in_name[1]):
            raise ValueError(f"{path}: the name says {in_name[1]} px, not flow_bound = {bound}")
        quantisation = "mmaction2" if names.program == "mmaction2" else "denseflow"
        if "quantisation" in named:
            quantisation = spec.quantisation
        if quantisation == "none":
            raise ValueError(f"{path} holds images of 8 bits: quantisation none is not theirs")
        return found, replace(
            spec,
            flow=spec.flow if "flow" in named else UNKNOWN,
            flow_source=found.source,
            flow_bound=bound,
            quantisation=quantisation,
        )

    def check(self, spec: Spec) -> None:
        """Raise as ``open`` or ``find`` when the folder, say on another node, is not this one."""
        if not self.others:
            self.open(self.path, spec)
        elif (names := names_below(self.path)) != self.others:
            file = names.file("x", 0)
            raise SpecError(f"{self.path}: images like {file}, not {self.others.file('x', 0)}")

    @contextmanager
    def writer(self, video_id: str) -> Iterator[Keep]:
        """A function that appends images [n, h, w, 3] of a video; the file appears at the end.

        Nothing appears when the block is left by an exception. Raises OutputError when the disk
        refuses.
        """
        file = self._file(video_id)
        with (
            _write_hdf5(file, video_id)
            if self.form == HDF5
            else write_images(file, NAMES[self.form]) as append
        ):
            yield lambda planes: append(planes.cpu().numpy())

    @contextmanager
    def reader(
        self, video_id: str, quantisation: Quantisation, device: torch.device
    ) -> Iterator[StoredFlow]:
        """A FlowSource that reads a video's images. It raises DecodeError, of kind ``no-flow``,
        when they are missing, damaged or another's."""
        file = self._file(video_id)
        if self.form != HDF5:  # a folder does not say of which video it is
            remedy = REMEDY_OF_OTHERS if self.others else REMEDY
            names = self.others or NAMES[self.form]
            count, read = read_images(file, names, quantisation.mirror, remedy)
            yield StoredFlow(file, device, count, read, remedy=remedy)
            return
        with ExitStack() as stack:
            with readable(file):
                opened = stack.enter_context(opened_hdf5(file, FeaturesError))
            yield StoredFlow(file, device, *_read_hdf5(file, opened, video_id))

    def holds(self, video_id: str) -> bool:
        """True when flow of the video is there."""
        return self._file(video_id).exists()

    def _file(self, video_id: str) -> Path:
        """Where the flow of a video is or is to be.

        Other programs name a folder by the path of the video, with or without its suffix.
        """
        if not self.others:
            return self.path / (file_name(video_id) + (".h5" if self.form == HDF5 else ""))
        inside = PurePosixPath(video_id)
        if inside.is_absolute() or ".." in inside.parts or "\0" in video_id:
            return self.path / file_name(video_id)
        shorter = self.path / id_of_path(video_id)
        return shorter if shorter.is_dir() else self.path / video_id


class StoredFlow:
    """A FlowSource that reads the ``count`` images of one video, one for each pair of frames."""

    def __init__(
        self,
        file: Path,
        device: torch.device,
        count: int,
        read: Read,
        size: Size | None = None,
        remedy: str = REMEDY,
    ) -> None:
        self._file, self._device, self._count, self._read = file, device, count, read
        self._size, self._remedy, self._given = size, remedy, 0

    def __call__(self, frames: Tensor) -> Tensor:
        """Images [n, h, w, 3] of the next frames uint8 [n + 1, h, w, 3]."""
        start, stop = self._given, self._given + num_flows(len(frames))
        if stop > self._count:
            raise self._mismatch(f"{stop} or more")
        self._check_size(frames, self._size)  # before memory is taken for as much as is declared
        with readable(self._file, self._remedy):
            planes = self._read(start, stop)
        self._check_size(frames, planes.shape[1:3])
        self._given = stop
        return torch.from_numpy(planes).to(self._device)

    def _check_size(self, frames: Tensor, found: Size | None) -> None:
        height, width = frames.shape[1:3]
        if found not in (None, (height, width)):
            sizes = " x ".join(map(str, found or ()))
            other = f"frames of {height} x {width} px, not {sizes}"
            fitting = f"use --set resize={sizes.replace(' ', '')}"
            raise self._mismatch(other, REMEDY if self._remedy == REMEDY else fitting)

    def end(self) -> None:
        """Raise DecodeError when not all that is stored was read."""
        if self._given != self._count:
            raise self._mismatch(str(self._given))

    def _mismatch(self, needed: str, remedy: str = "") -> DecodeError:
        return DecodeError(
            f"{self._file}: {counted(self._count, 'flow')}, but this video has {needed}: the saved "
            f"flow is incomplete, or of another video: {remedy or self._remedy}",
            NO_FLOW_KIND,
        )


def _read_hdf5(path: Path, file: h5py.File, video_id: str) -> tuple[int, Read, Size | None]:
    """The number of images of an open file, what reads them, and their size."""
    with readable(path):
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
