"""One HDF5 file with the snippets of several videos of one stream.

    /                attributes: format, version, stream, spec (JSON), spec_hash
    /000000          attributes of one video: video_id, status, label, split, category, path,
                     num_frames, num_frames_header, repaired_frames, max_damage, length_note,
                     fps_source, fps_used, decoder, source_bytes, source_sha256, features_crc32,
                     spans_crc32, reason; what is unknown is absent
    /000000/features [num_clips, num_crops, dim], contiguous
    /000000/spans    int64 [num_clips, 2], half-open source frames
    /000001 ...

A failed video is a group without data sets, with its reason. Groups are numbered, since ids such
as ``..`` or ``a/b`` are not safe as HDF5 names.

The HDF5 library never touches the disk while writing: after a failed write (a full disk) its
files can neither be closed nor let go of without a segmentation fault (measured, HDF5 1.14). It
lays the file out in memory, where the data sets are holes, and we copy the few kilobytes of
metadata and stream the numbers into the holes ourselves.

A flipped bit anywhere is found: the numbers have our checksums, and HDF5's own cover the metadata
from format 1.10 on. Strings are of fixed length, since those of variable length lie in a heap
without a checksum; plain h5py reads them as bytes, in UTF-8.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from vadprep.core.atomic import disk_errors, open_atomic
from vadprep.core.errors import FeaturesError, ShardError
from vadprep.core.spec import Spec
from vadprep.features.remote import AnyPath, opened

FORMAT = "vadprep-shard"
VERSION = 1
BLOCK_BYTES = 8 << 20
"""Numbers are copied in blocks of about this size, so that memory is bounded."""

LIBVER = ("v110", "v110")
"""HDF5 format of the files: the oldest whose metadata have checksums."""

REMEDY = "remove the file and run the same extract again"

DAMAGE = (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError)
"""What h5py raises at a damaged file."""

KINDS = dict(video_id=str, status=str, num_frames=int, features_crc32=int, spans_crc32=int)
"""Attributes that a done video must have; a failed one has the first two."""

DONE, FAILED = "done", "failed"
Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class StoredVideo:
    """One video as it is stored in a shard, or is to be.

    ``blocks`` gives the features in order, [n, num_crops, dim] each; ``spans`` is int64
    [num_clips, 2]. Both are empty for a failed video.
    """

    attributes: Attributes
    shape: tuple[int, int, int] = (0, 0, 0)
    dtype: str = "float16"
    spans: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    blocks: Callable[[], Iterable[NDArray[Any]]] = tuple

    @property
    def video_id(self) -> str:
        return str(self.attributes["video_id"])

    @property
    def is_done(self) -> bool:
        return self.attributes["status"] == DONE


def crc32(array: NDArray[Any], start: int = 0) -> int:
    """CRC-32 of the bytes of a contiguous array, continuing from ``start``."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data, start)


def write_shard(path: Path, spec: Spec, videos: Sequence[StoredVideo]) -> None:
    """Write ``videos`` as groups 000000, 000001, ... of the shard ``path``, by one rename.

    Raises OutputError when the disk refuses and ShardError when a checksum in a video's
    attributes does not match its numbers; ``path`` is then as it was.
    """
    with io.FileIO(os.memfd_create("vadprep-shard"), "w+") as image, open_atomic(path) as out:
        holes = _lay_out(image, spec, videos)
        _copy_metadata(image.fileno(), out)
        for video, offsets in zip(videos, holes, strict=True):
            if video.is_done:
                _write_array(out, offsets[0], video.blocks(), video, "features")
                _write_array(out, offsets[1], [video.spans], video, "spans")


def _lay_out(image: io.FileIO, spec: Spec, videos: Sequence[StoredVideo]) -> list[list[int]]:
    """Write all but the numbers; returns the byte offsets of each video's features and spans."""
    root: Attributes = {
        "format": FORMAT,
        "version": VERSION,
        "stream": spec.stream,
        "spec": spec.to_json(),
        "spec_hash": spec.hash,
    }
    # Without the times of their making the same videos give the same bytes.
    group_options = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    group_options.set_obj_track_times(False)
    array_options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    array_options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    array_options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    array_options.set_obj_track_times(False)
    holes = []
    with h5py.File(image, "w", libver=LIBVER) as file:
        _set_attributes(file, root)
        for index, video in enumerate(videos):
            group = h5py.h5g.create(file.id, b"%06d" % index, gcpl=group_options)
            _set_attributes(h5py.Group(group), video.attributes)
            arrays = (b"features", video.shape, video.dtype), (b"spans", video.spans.shape, "int64")
            offsets = []
            for name, shape, dtype in arrays if video.is_done else ():
                kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
                array = h5py.h5d.create(group, name, kind, space, array_options)
                offsets.append(array.get_offset() or 0)
            holes.append(offsets)
    return holes


def _set_attributes(group: h5py.Group, attributes: Attributes) -> None:
    """Store values; file names that are not UTF-8 keep their bytes, as Python reads them."""
    for key, value in sorted(attributes.items()):
        if isinstance(value, str):
            text = value.encode("utf-8", "surrogateescape")
            kind = h5py.string_dtype("utf-8", max(1, len(text)))
            group.attrs.create(key, np.bytes_(text), dtype=kind)
        else:
            group.attrs[key] = value


def _copy_metadata(descriptor: int, out: BinaryIO) -> None:
    """Copy what HDF5 wrote, leaving the holes where the numbers go."""
    size = os.fstat(descriptor).st_size
    os.ftruncate(out.fileno(), size)
    start = 0
    while start < size:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:  # ENXIO: only holes are left
            return
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        out.seek(start)
        out.write(os.pread(descriptor, stop - start, start))
        start = stop


def _write_array(
    out: BinaryIO, offset: int, blocks: Iterable[NDArray[Any]], video: StoredVideo, name: str
) -> None:
    out.seek(offset)
    checksum = 0
    for block in blocks:
        checksum = crc32(block, checksum)
        out.write(np.ascontiguousarray(block).view(np.uint8).reshape(-1).data)
    if checksum != video.attributes[f"{name}_crc32"]:
        raise ShardError(f"{name} of {video.video_id!r} changed on the way: checksum differs")


class Shard:
    """A shard: its spec and its videos by group name. Use as a context manager.

    Raises ShardError when ``path`` is no shard, is cut off, or is of a later version. ``path``
    may be a RemotePath: then only what is asked for is fetched.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        try:
            self._file = opened(path)
        except FileNotFoundError:
            raise ShardError(f"{path}: missing: run the same extract again") from None
        except DAMAGE as error:
            raise ShardError(f"{path}: not a readable HDF5 file ({error}): {REMEDY}") from error
        try:
            self.spec = self._read_spec()
        except BaseException:
            self.close()
            raise

    def _read_spec(self) -> Spec:
        with self._checked():
            known = self._file.with_file(_attributes)
            if (known.get("format"), known.get("version")) != (FORMAT, VERSION):
                raise ShardError(
                    f"{self.path}: attribute format/version is {known.get('format')!r}/"
                    f"{known.get('version')!r}, expected {FORMAT!r}/{VERSION}"
                )
            spec = Spec.from_json(str(known["spec"]), f"{self.path}, attribute spec")
            if spec.hash != known["spec_hash"]:
                raise ShardError(f"{self.path}: attribute spec_hash does not fit attribute spec")
        return spec

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        """Names of the groups, in order."""
        with self._checked():
            return iter(self._file.with_file(list))

    def video(self, name: str) -> StoredVideo:
        """The video in group ``name``, without its features: ``blocks()`` opens the file anew."""
        with self._checked(name):
            video = self._file.with_file(lambda file: _stored(file[name], self.path, name))
        where = f"{self.path}, group {name} ({video.video_id!r})"
        if video.spans.shape != (video.shape[0], 2):
            raise ShardError(f"{where}: spans {video.spans.shape} for features {video.shape}")
        if video.is_done and crc32(video.spans) != video.attributes["spans_crc32"]:
            raise ShardError(f"{where}, spans: checksum differs: {REMEDY}")
        return video

    def features(self, name: str) -> NDArray[Any]:
        """All features of the video in group ``name``: [num_clips, num_crops, dim].

        Raises ShardError when their checksum does not match.
        """
        video = self.video(name)
        features = self.rows(name, slice(None))
        if crc32(features) != video.attributes["features_crc32"]:
            raise ShardError(
                f"{self.path}, group {name}, features of {video.video_id!r}: checksum differs: "
                f"{REMEDY}"
            )
        return features

    def rows(self, name: str, rows: slice) -> NDArray[Any]:
        """Features of some snippets of the video in group ``name``, without a check."""
        with self._checked(name):
            numbers: NDArray[Any] = self._file.with_file(lambda file: file[name]["features"][rows])
        return numbers

    @contextmanager
    def _checked(self, group: str | None = None) -> Iterator[None]:
        """Turn what h5py raises at a damaged file into a ShardError that says where."""
        try:
            yield
        except DAMAGE as error:
            where = str(self.path) if group is None else f"{self.path}, group {group}"
            raise ShardError(f"{where}: damaged: {error}: {REMEDY}") from error


def _blocks(path: AnyPath, name: str, num_rows: int, step: int) -> Iterator[NDArray[Any]]:
    """The features of a video, ``step`` snippets at a time."""
    with Shard(path) as shard:
        for start in range(0, num_rows, step):
            yield shard.rows(name, slice(start, start + step))


def _attributes(group: h5py.Group) -> dict[str, Any]:
    """The attributes of a group as str, int or float."""
    known = {}
    for name, value in group.attrs.items():
        plain = value.item() if isinstance(value, np.generic) else value
        is_text = isinstance(plain, bytes)
        known[name] = plain.decode("utf-8", "surrogateescape") if is_text else plain
    return known


def _stored(group: h5py.Group, path: AnyPath, name: str) -> StoredVideo:
    """The video in a group; raises ValueError naming what is missing or odd."""
    known = _attributes(group)
    is_done = known.get("status") == DONE
    for key, kind in KINDS.items() if is_done else (("video_id", str), ("status", str)):
        if not isinstance(known.get(key), kind):
            found = repr(known[key]) if key in known else "missing"
            raise ValueError(f"attribute {key} is {found}, expected {kind.__name__}")
    if not is_done:
        if known["status"] != FAILED:
            raise ValueError(f"attribute status is {known['status']!r}, expected done or failed")
        return StoredVideo(known)
    features, spans = _array(group, "features", "float", 3), _array(group, "spans", "int64", 2)
    row_bytes = features.dtype.itemsize * math.prod(features.shape[1:])
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    blocks = partial(_blocks, path, name, features.shape[0], step)
    return StoredVideo(known, features.shape, features.dtype.name, spans[()], blocks)


def _array(group: h5py.Group, name: str, kind: str, ndim: int) -> h5py.Dataset:
    """The data set ``name``; raises ValueError when it is no array of that kind."""
    array = group[name]
    is_array = isinstance(array, h5py.Dataset) and array.ndim == ndim
    if not is_array or not array.dtype.name.startswith(kind):
        raise ValueError(f"{name} is {array!r}, expected {ndim} dimensions of {kind}")
    return array


class Draft:
    """A video in the making: snippets are appended as they are computed, then committed.

    They are kept in a nameless file in the folder of ``path``, of which a kill leaves nothing;
    ``commit`` makes ``path``, a shard of this one video, by one rename. Use as a context manager.
    """

    def __init__(self, path: Path, spec: Spec) -> None:
        self.path = path
        self.spec = spec
        self.checksum = 0
        self._shape = (0, 0, 0)
        with disk_errors(path):
            self._file = tempfile.TemporaryFile(dir=path.parent)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # of a full disk, again: what was not written has no name
            self._file.close()

    def append(self, features: NDArray[np.floating]) -> None:
        """Add snippets [n, num_crops, dim], stored in the spec's dtype.

        Raises FeaturesError when one is not finite, as when a number exceeds what the dtype holds.
        """
        block = stored_values(features, self.spec, str(self.path))
        self.checksum = crc32(block, self.checksum)
        self._shape = (self._shape[0] + len(block), block.shape[1], block.shape[2])
        with disk_errors(self.path):
            self._file.write(block.data)

    def commit(self, attributes: Attributes, spans: NDArray[np.int64]) -> None:
        """Publish the video with ``attributes`` (status and checksums are added here)."""
        with disk_errors(self.path):
            self._file.flush()
        checked = {
            **attributes,
            "status": DONE,
            "features_crc32": self.checksum,
            "spans_crc32": crc32(spans),
        }
        video = StoredVideo(checked, self._shape, self.spec.dtype, spans, self._blocks)
        write_shard(self.path, self.spec, [video])

    def _blocks(self) -> Iterator[NDArray[Any]]:
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield np.frombuffer(block, np.uint8)


def stored_values(features: NDArray[np.floating], spec: Spec, where: str) -> NDArray[Any]:
    """``features`` in the dtype of ``spec``; raises FeaturesError naming ``where`` when one is not
    finite."""
    with np.errstate(over="ignore"):
        block = features.astype(spec.dtype)
    if not np.isfinite(block).all():
        raise FeaturesError(
            f"{where}: features that are not finite with precision {spec.precision}, "
            f"dtype {spec.dtype}: use --precision fp32 --set dtype=float32 and a new --out"
        )
    return block


def write_failure(path: Path, spec: Spec, attributes: Attributes, reason: str) -> None:
    """Write the shard ``path`` of one video that failed for good, with its reason."""
    failed = StoredVideo({**attributes, "status": FAILED, "reason": reason})
    write_shard(path, spec, [failed])
