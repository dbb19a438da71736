"""One HDF5 file with the snippets of several videos of one stream.

    /                attributes: format, version, stream, spec (JSON), spec_hash
    /000000          attributes of one video: video_id, status, label, split, category, path,
                     num_frames, num_frames_header, repaired_frames, max_damage, length_note,
                     fps_source, fps_used, decoder, source_bytes, source_sha256, features_crc32,
                     spans_crc32, times_crc32, reason, kind; what is unknown is absent
    /000000/features [num_clips, num_crops, dim], contiguous
    /000000/spans    int64 [num_clips, 2], half-open source frames
    /000000/times    float64 [num_frames + 1], seconds at which each frame begins and the last one
                     ends; only where the frame rate varies
    /000001 ...

A failed video is a group without data sets, with its reason and, but for those of older versions,
the kind of the failure in one word (``DecodeError.kind``). Groups are numbered, since ids such as
``..`` or ``a/b`` are not safe as HDF5 names.

The HDF5 library never touches the disk while writing: after a failed write (a full disk) its
files can neither be closed nor let go of without a segmentation fault (measured, HDF5 1.14). It
lays the file out in memory, where the data sets are holes, and we copy the few kilobytes of
metadata and stream the numbers into the holes ourselves.

A flipped bit anywhere is found: the numbers have our checksums, and HDF5's own cover the metadata
from format 1.10 on. Strings are of fixed length, since those of variable length lie in a heap
without a checksum; plain h5py reads them as bytes, in UTF-8.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from vadprep.core.array_files import DAMAGE, Value, array_in, attributes_of, group_in
from vadprep.core.atomic import open_atomic
from vadprep.core.clips import MOST_FRAMES, check_spans
from vadprep.core.errors import ShardError
from vadprep.core.spec import DTYPES, UNKNOWN, Spec, require_equal
from vadprep.core.untrusted import REMEDIES as READING_REMEDIES, open_regular, reading_problem
from vadprep.features.remote import AnyPath, opened_file

try:
    from isal.isal_zlib import crc32 as crc32_of_bytes
except ModuleNotFoundError:  # the same numbers, ten times as slow
    from zlib import crc32 as crc32_of_bytes

FORMAT = "vadprep-shard"
VERSION = 1
BLOCK_BYTES = 8 << 20
"""Numbers are copied in blocks of about this size, so that memory is bounded."""

LIBVER = ("v110", "v110")
"""HDF5 format of the files: the oldest whose metadata have checksums."""

REMEDY = "remove the file and run the same extract again"

KINDS = dict(
    video_id=str, status=str, kind=str, split=str, category=str, path=str, decoder=str, reason=str,
    length_note=str, source_sha256=str, source_bytes=int, label=int, num_frames=int,
    num_frames_header=int, repaired_frames=int, fps_source=float, fps_used=float,
    features_crc32=int, spans_crc32=int, times_crc32=int,
)  # fmt: skip
"""Types of the attributes of a video that are read again."""
FAILED_NAMES = ("video_id", "status")
DONE_NAMES = (*FAILED_NAMES, "num_frames", "features_crc32", "spans_crc32")
"""Attributes that a video must have, by its status."""

RANGES = dict(
    label=(0, 1), source_bytes=(0, 2**63), num_frames=(0, MOST_FRAMES), fps_source=(1e-6, 1e6),
    fps_used=(1e-6, 1e6),
)  # fmt: skip
MOST_CROPS, MOST_NUMBERS = 100, 1 << 20
"""Of a clip, and in a feature of one crop."""

OPEN_SHARDS = 128
"""That a process keeps open."""

DONE, FAILED = "done", "failed"
MISSING = "missing"
"""Kind of the failure of a video whose file was not there."""
Attributes = Mapping[str, Value]


@dataclass(frozen=True)
class StoredVideo:
    """One video as it is stored in a shard, or is to be.

    ``blocks`` gives the features in order, [n, num_crops, dim] each, and raises ShardError at the
    end when they are damaged; ``spans`` is int64 [num_clips, 2]. Both are empty for a failed video.
    ``times`` is float64 [num_frames + 1], None at a constant frame rate.
    """

    attributes: Attributes
    shape: tuple[int, int, int] = (0, 0, 0)
    dtype: str = "float16"
    spans: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    blocks: Callable[[], Iterable[NDArray[Any]]] = tuple
    times: NDArray[np.float64] | None = None
    whole: Callable[[], NDArray[Any]] | None = None
    """All features by one read, where that is faster."""

    @property
    def video_id(self) -> str:
        return str(self.attributes["video_id"])

    @property
    def is_done(self) -> bool:
        return self.attributes["status"] == DONE

    def features(self) -> NDArray[Any]:
        """All features of a done video: [num_clips, num_crops, dim]."""
        return self.whole() if self.whole else np.concatenate(list(self.blocks()))

    @property
    def most_bytes(self) -> int:
        """Memory that ``features`` takes: blocks are joined, so twice their size."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return size if self.whole else 2 * size


def crc32(array: NDArray[Any], start: int = 0) -> int:
    """CRC-32 of the bytes of an array, continuing from ``start``."""
    return crc32_of_bytes(np.ascontiguousarray(array).data, start)


def write_shard(path: Path, spec: Spec, videos: Sequence[StoredVideo]) -> None:
    """Write ``videos`` as groups 000000, 000001, ... of the shard ``path``, by one rename.

    Raises OutputError when the disk refuses and ShardError when a checksum in a video's
    attributes does not match its numbers; ``path`` is then as it was.
    """
    with io.FileIO(os.memfd_create("vadprep-shard"), "w+") as image, open_atomic(path) as out:
        holes = _lay_out(image, spec, videos)
        _copy_metadata(image.fileno(), out)
        for video, offsets in zip(videos, holes, strict=True):
            arrays = {"features": video.blocks(), "spans": [video.spans]}
            if video.times is not None:
                arrays["times"] = [video.times]
            for (name, blocks), offset in zip(arrays.items(), offsets, strict=False):
                out.seek(offset)
                checksum = 0
                for block in blocks:
                    checksum = crc32(block, checksum)
                    out.write(np.ascontiguousarray(block).data)
                if checksum != video.attributes[f"{name}_crc32"]:
                    raise ShardError(
                        f"{name} of {video.video_id!r} changed on the way: checksum differs"
                    )


def _lay_out(image: io.FileIO, spec: Spec, videos: Sequence[StoredVideo]) -> list[list[int]]:
    """Write all but the numbers; returns the byte offsets of features and spans of each video,
    none for a failed one."""
    root: dict[str, str | int] = {"format": FORMAT, "version": VERSION, "stream": spec.stream}
    root |= {"spec": spec.to_json(), "spec_hash": spec.hash}
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
            arrays = {b"features": (video.shape, video.dtype)}
            arrays[b"spans"] = video.spans.shape, "int64"
            if video.times is not None:
                arrays[b"times"] = video.times.shape, "float64"
            offsets = []
            for name, (shape, dtype) in arrays.items() if video.is_done else ():
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
    stop, size = 0, os.fstat(descriptor).st_size
    os.ftruncate(out.fileno(), size)
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # only holes are left
        stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        out.seek(start)
        out.write(os.pread(descriptor, stop - start, start))


def _spec_of(file: h5py.File, path: AnyPath) -> Spec:
    known = attributes_of(file)
    if (known.get("format"), known.get("version")) != (FORMAT, VERSION):
        raise ShardError(
            f"{path}: attribute format/version is {known.get('format')!r}/"
            f"{known.get('version')!r}, expected {FORMAT!r}/{VERSION}"
        )
    spec = Spec.from_json(str(known.get("spec")), f"{path}, attribute spec")
    if spec.hash != known.get("spec_hash"):
        raise ShardError(f"{path}: attribute spec_hash does not fit attribute spec")
    return spec


@lru_cache(OPEN_SHARDS)
def kept_shard(path: Path, process: int, *state: int) -> tuple[h5py.File, Spec]:
    """A final shard, which stays open for further reads of this process while it is the same."""
    with open_regular(path, ShardError, most_bytes=None):
        file = h5py.File(path, "r", locking=False)
    return file, _spec_of(file, path)


def state_of(path: AnyPath) -> tuple[int, ...] | None:
    """What changes when a final shard on a disk is replaced; None for any other file.

    Raises ShardError when it is missing or cannot be read.
    """
    # Not of one in a partial folder, which is not to be kept open: NFS could not remove the folder.
    if not (isinstance(path, Path) and path.parent.name == "shards"):
        return None
    with _damage_named(path, "/"):
        found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def _damage_named(path: AnyPath, group: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a ShardError that says where."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(f"{path}: missing: run the same extract again") from None
    except DAMAGE as error:
        where = str(path) if group == "/" else f"{path}, group {group}"
        if isinstance(error, OSError) and error.errno in READING_REMEDIES:
            raise ShardError(f"{where}: cannot be read: {reading_problem(error)}") from error
        raise ShardError(f"{where}: damaged: {error}: {REMEDY}") from error


@contextmanager
def opened_shard(
    path: AnyPath, group: str = "/", keep: bool = False
) -> Iterator[tuple[h5py.Group, Spec]]:
    """A group of a shard to read from, and the spec of the shard.

    Raises ShardError, which says where, when ``path`` is missing, no shard, damaged, or of a later
    version. Of a file at a URL only what is asked for is fetched. ``keep`` leaves a final shard on
    a disk open for the next time.
    """
    with _damage_named(path, group):
        if keep and (state := state_of(path)):
            file, spec = kept_shard(cast(Path, path), os.getpid(), *state)
            yield file if group == "/" else group_in(file, group), spec
        else:
            with opened_file(path) as file:
                spec = _spec_of(file, path)
                yield file if group == "/" else group_in(file, group), spec


def _checksum_differs(path: AnyPath, name: str, known: Attributes) -> ShardError:
    where = f"{path}, group {name}, features of {known['video_id']!r}"
    return ShardError(f"{where}: checksum differs: {REMEDY}")


def read_video(
    path: AnyPath, name: str = "000000", spec: Spec | None = None, keep: bool = False
) -> StoredVideo:
    """The video in group ``name``, without its features: ``blocks()`` opens the file anew.

    Raises SpecError when the shard is not of ``spec``.
    """
    with opened_shard(path, name, keep) as (group, found_spec):
        if spec:
            require_equal(spec, found_spec, str(path))
        known = attributes_of(group)
        status = known.get("status")
        if status not in (DONE, FAILED):
            raise ValueError(f"attribute status is {status!r}, expected done or failed")
        _check_attributes(known, DONE_NAMES if status == DONE else FAILED_NAMES)
        if status == FAILED:
            return StoredVideo(known)
        features = array_in(group, "features", DTYPES, 3)
        clips, crops, numbers = features.shape
        if crops > MOST_CROPS or numbers > MOST_NUMBERS or clips > MOST_FRAMES:
            raise ValueError(f"features are {features.shape}")
        form = (("crops", crops), ("dtype", features.dtype.name)) if spec else ()
        for field_name, value in form:
            if (expected := getattr(spec, field_name)) not in (value, UNKNOWN):
                what = f"features of {known['video_id']!r}"
                raise ValueError(f"{what}: {field_name} {value}, expected {expected}")
        num_frames = int(known["num_frames"])
        spans = _read_checked(group, "spans", "int64", (clips, 2), known)
        stride = found_spec.clip_stride
        check_spans(spans, num_frames, stride not in (found_spec.clip_length, UNKNOWN))
        times = None
        if "times_crc32" in known:
            times = _read_checked(group, "times", "float64", (num_frames + 1,), known)
            if not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
                raise ValueError("times do not ascend")
        about = known, features.shape, features.dtype.name
        blocks, whole = partial(_blocks, path, name, known, keep), None
        if keep and state_of(path):
            whole = partial(
                _read_whole, cast(Path, path), name, *about, features.id.get_offset() or 0
            )
        return StoredVideo(*about, spans, blocks, times, whole)


def _check_attributes(known: Attributes, names: Iterable[str]) -> None:
    """Raise ValueError unless ``names`` are there and all values are of their types and ranges."""
    for name in {**dict.fromkeys(names), **known}:
        value, kind = known.get(name), KINDS.get(name)
        if kind and not (isinstance(value, kind) or (kind is float and isinstance(value, int))):
            there = repr(value) if name in known else "missing"
            raise ValueError(f"attribute {name} is {there}, expected {kind.__name__}")
        least, most = RANGES.get(name, (0, 2**32))
        if isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(f"attribute {name} is {value}, expected {least} to {most}")


def _read_checked(
    group: h5py.Group, name: str, dtype: str, shape: tuple[int, ...], known: Attributes
) -> NDArray[Any]:
    """A small array of a video; ValueError unless it has this shape and its checksum."""
    found = array_in(group, name, (dtype,), len(shape))
    if found.shape != shape:
        raise ValueError(f"{name} {found.shape}, expected {shape}")
    array: NDArray[Any] = found[()]
    if crc32(array) != known[f"{name}_crc32"]:
        raise ValueError(f"{name} of {known['video_id']!r}: checksum differs")
    return array


def _read_whole(
    path: Path, name: str, known: Attributes, shape: tuple[int, ...], dtype: str, offset: int
) -> NDArray[Any]:
    """Features of a final shard on a disk, from where they were; the checksum tells of others."""
    features = np.empty(shape, dtype)
    with opened_shard(path, keep=True) as (file, _):
        descriptor, rest = file.id.get_vfd_handle(), features.reshape(-1).view(np.uint8).data
        while rest:
            count = os.preadv(descriptor, [rest], offset)
            if not count:
                raise ValueError(f"group {name} was cut short")
            rest, offset = rest[count:], offset + count
    if crc32(features) != known["features_crc32"]:
        raise _checksum_differs(path, name, known)
    return features


def _blocks(path: AnyPath, name: str, known: Attributes, keep: bool) -> Iterator[NDArray[Any]]:
    """The features of a video, some snippets at a time; ShardError when their checksum differs."""
    checksum, start, stop = 0, 0, 1
    while start < stop:
        with opened_shard(path, name, keep) as (group, _):
            array = array_in(group, "features", DTYPES, 3)
            stop, row_bytes = len(array), array.dtype.itemsize * math.prod(array.shape[1:])
            block = array[start : start + max(1, BLOCK_BYTES // max(1, row_bytes))]
        checksum, start = crc32(block, checksum), start + len(block)
        yield block
    if checksum != known["features_crc32"]:
        raise _checksum_differs(path, name, known)
