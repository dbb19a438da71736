"""Flow on the disk: an HDF5 file a video, or the JPEGs that two-stream code reads.

    FLOW/flow.json                  what made the flow; flow of another recipe is refused
    FLOW/NAME.h5                    hdf5: u, v, u_sum uint8 [num_frames - 1, h, w]
    FLOW/NAME/flow_x_00001.jpg      jpeg: u and (flow_y) v of the first two frames
    FLOW/NAME/flow_y_00001.jpg

NAME is the video's id, percent-encoded where it is not safe as a name. u and v are quantised;
u_sum is what u and the quantised -u add up to, modulo 256: nearly constant, it costs no space
and keeps mirrored crops exact. JPEG loses such detail anyway: there -u comes from the quantised u.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from vadprep.core.atomic import make_folder, open_atomic, remove_stale
from vadprep.core.clips import num_flows
from vadprep.core.errors import DecodeError, FeaturesError, SpecError
from vadprep.core.spec import Spec
from vadprep.flow.formats import (
    JPEG_QUALITY,
    NO_FLOW_KIND,
    REMEDY,
    Stored,
    hdf5_reader,
    hdf5_writer,
    jpeg_reader,
    jpeg_writer,
)
from vadprep.flow.quantise import Quantisation

HDF5, JPEG = "hdf5", f"jpeg {JPEG_QUALITY}"
KINDS = {"hdf5": HDF5, "jpeg": JPEG}
"""Name of a format -> what a spec says of flow that was read from it."""

RECIPE = ("fps", "resize", "filter", "decoder", "flow", "flow_bound", "quantisation")
"""Fields of a spec that decide what the saved flow is."""

LONGEST_NAME = 150
"""Bytes of a name before it is cut; a file system takes 255, temporary names need a hundred."""


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
        make_folder(path)
        remove_stale(path)
        content = {"format": "vadprep-flow", "version": 1, "kind": kind, "recipe": recipe(spec)}
        try:
            with open_atomic(path / "flow.json", replace=False) as stream:
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
        content = _read_json(path / "flow.json")
        if not isinstance(content.get("recipe"), dict) or content.get("kind") not in (HDF5, JPEG):
            raise FeaturesError(f"{path / 'flow.json'}: damaged, or of a later version")
        odd = [
            f"{name}: {value} / {content['recipe'].get(name)}"
            for name, value in recipe(spec).items()
            if content["recipe"].get(name) != value
        ]
        if odd:
            raise SpecError(
                f"{path} holds flow of other settings (asked for / found there): "
                f"{'; '.join(odd)}. Use the same settings, or another folder"
            )
        return cls(path, content["kind"])

    @contextmanager
    def writer(self, video_id: str) -> Iterator[Callable[[Tensor], None]]:
        """A function that appends pictures [n, h, w, 3] of a video, which appears at the end.

        Nothing appears when the block is left by an exception. Raises OutputError when the disk
        refuses.
        """
        write = hdf5_writer if self.kind == HDF5 else jpeg_writer
        with write(self._file(video_id), video_id) as append:
            yield lambda planes: append(planes.cpu().numpy())

    @contextmanager
    def reader(
        self, video_id: str, quantisation: Quantisation, device: torch.device
    ) -> Iterator[ReadFlow]:
        """A FlowSource that reads a video's pictures. It raises DecodeError, of kind ``no-flow``,
        when they are missing, damaged or another's."""
        file = self._file(video_id)
        reader = (
            hdf5_reader(file, video_id)
            if self.kind == HDF5
            else jpeg_reader(file, video_id, quantisation.mirrored)
        )
        with reader as stored:
            yield ReadFlow(file, stored, device)

    def holds(self, video_id: str) -> bool:
        """True when flow of the video is there."""
        return self._file(video_id).exists()

    def _file(self, video_id: str) -> Path:
        return self.path / (file_name(video_id) + (".h5" if self.kind == HDF5 else ""))


def recipe(spec: Spec) -> dict[str, Any]:
    """The fields of ``spec`` that decide what its flow is."""
    return {name: getattr(spec, name) for name in RECIPE}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FeaturesError(
            f"{file}: no such file: name a folder that --save-flow has written"
        ) from None
    except ValueError as error:
        raise FeaturesError(f"{file}: damaged: {error}") from error
    return content if isinstance(content, dict) else {}


class ReadFlow:
    """A FlowSource that gives what is stored, as many pictures as there are pairs of frames."""

    def __init__(self, file: Path, stored: Stored, device: torch.device) -> None:
        self._file, self._stored, self._device = file, stored, device
        self._given = 0

    def __call__(self, frames: Tensor) -> Tensor:
        start, stop = self._given, self._given + num_flows(len(frames))
        if stop > self._stored.count:
            raise self._unfit(f"{stop} or more")
        planes = self._stored(start, stop)
        if planes.shape[1:3] != frames.shape[1:3]:
            raise self._unfit(
                f"frames of {frames.shape[1]} x {frames.shape[2]} px, not "
                f"{planes.shape[1]} x {planes.shape[2]}"
            )
        self._given = stop
        return torch.from_numpy(planes).to(self._device)

    def end(self) -> None:
        """Raise DecodeError when not all that is stored was asked for."""
        if self._given != self._stored.count:
            raise self._unfit(str(self._given))

    def _unfit(self, needed: str) -> DecodeError:
        return DecodeError(
            f"{self._file}: {self._stored.count} flows, where this video has {needed}: not all are "
            f"there, or they are of another video: {REMEDY}",
            NO_FLOW_KIND,
        )
