"""One HDF5 file with the snippets of several videos of one stream.

    /                attributes: format, version, stream, spec (JSON), spec_hash
    /000000          attributes of one video: video_id, status, label, split, category, path,
                     num_frames, num_frames_header, repaired_frames, fps_source, fps_used,
                     decoder, source_bytes, source_sha256, features_crc32, spans_crc32, reason;
                     what is unknown is absent
    /000000/features [num_clips, num_crops, dim], contiguous
    /000000/spans    int64 [num_clips, 2], half-open source frames
    /000001 ...

A failed video is a group without data sets, with its reason. Groups are numbered, since ids such
as ``..`` or ``a/b`` are not safe as HDF5 names.

The HDF5 library never touches the disk while writing: after a failed write (a full disk) its
files can neither be closed nor let go of without a segmentation fault (measured, HDF5 1.14). It
lays the file out in memory, where the data sets are holes, and we copy the few kilobytes of
metadata and stream the numbers into the holes ourselves.
"""

from __future__ import annotations

import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from vadprep.files import disk_errors, written
from vadprep.records import ShardError
from vadprep.spec import Spec

FORMAT = "vadprep-shard"
VERSION = 1
BLOCK_BYTES = 8 << 20
"""Numbers are copied in blocks of about this size, so that memory is bounded."""

REMEDY = "remove the file and run the same extract again"

DONE, FAILED = "done", "failed"
Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class StoredVideo:
    """One video as it stands, or is to stand, in a shard.

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
    with io.FileIO(os.memfd_create("vadprep-shard"), "w+") as image, written(path) as out:
        holes = _lay_out(image, spec, videos)
        _copy_metadata(image.fileno(), out)
        for video, (features_at, spans_at) in zip(videos, holes, strict=True):
            if video.is_done:
                _write_array(out, features_at, video.blocks(), video, "features")
                _write_array(out, spans_at, [video.spans], video, "spans")


def _lay_out(image: io.FileIO, spec: Spec, videos: Sequence[StoredVideo]) -> list[tuple[int, int]]:
    """Write all but the numbers; returns the byte offsets of each video's features and spans."""
    holes = []
    with h5py.File(image, "w") as file:
        file.attrs.update(
            format=FORMAT,
            version=VERSION,
            stream=spec.stream,
            spec=spec.to_json(),
            spec_hash=spec.hash,
        )
        for index, video in enumerate(videos):
            group = file.create_group(f"{index:06d}")
            for key, value in sorted(video.attributes.items()):
                _set_attribute(group, key, value)
            holes.append(_reserve(group, video) if video.is_done else (0, 0))
    return holes


def _set_attribute(group: h5py.Group, key: str, value: str | int | float) -> None:
    """Store a value; file names that are not UTF-8 keep their bytes, as Python reads them."""
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        group.attrs.create(key, text, dtype=h5py.string_dtype("utf-8"))
    else:
        group.attrs[key] = value


def _reserve(group: h5py.Group, video: StoredVideo) -> tuple[int, int]:
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    offsets = []
    for name, shape, dtype in (
        (b"features", video.shape, video.dtype),
        (b"spans", video.spans.shape, "int64"),
    ):
        kind = h5py.h5t.py_create(np.dtype(dtype))
        dataset = h5py.h5d.create(group.id, name, kind, h5py.h5s.create_simple(shape), early)
        offsets.append(dataset.get_offset() or 0)
    return offsets[0], offsets[1]


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
    """An open shard: its spec and its videos by group name. Use as a context manager.

    Raises ShardError when ``path`` is no shard, is cut off, or is of a later version. The file
    is opened without HDF5's lock, which network file systems often lack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
        except FileNotFoundError:
            raise ShardError(f"{path}: not there: run the same extract again") from None
        except OSError as error:
            raise ShardError(f"{path}: not a readable HDF5 file ({error}): {REMEDY}") from error
        try:
            self.spec = self._read_spec()
        except BaseException:
            self.close()
            raise

    def _read_spec(self) -> Spec:
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise ShardError(
                f"{self.path}: attribute format/version is {attributes.get('format')!r}/"
                f"{attributes.get('version')!r}, expected {FORMAT!r}/{VERSION}"
            )
        spec = Spec.from_json(str(attributes["spec"]), f"{self.path}, attribute spec")
        if spec.hash != attributes["spec_hash"]:
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
        return iter(self._file)

    def video(self, name: str) -> StoredVideo:
        """The video in group ``name``; its features stay on the disk until ``blocks()``."""
        with self._naming(name):
            group = self._file[name]
            attributes = {key: _plain(value) for key, value in group.attrs.items()}
            if attributes["status"] != DONE:
                return StoredVideo(attributes)
            dataset = group["features"]
            spans = group["spans"][()]
            video = StoredVideo(
                attributes, dataset.shape, dataset.dtype.name, spans, lambda: _blocks(dataset)
            )
        self._check(video, name)
        return video

    def features(self, name: str) -> NDArray[Any]:
        """All features of the video in group ``name``: [num_clips, num_crops, dim].

        Raises ShardError when their checksum does not match.
        """
        with self._naming(name):
            group = self._file[name]
            features: NDArray[Any] = group["features"][()]
            expected = int(group.attrs["features_crc32"])
            video_id = group.attrs["video_id"]
        if crc32(features) != expected:
            raise ShardError(
                f"{self.path}, group {name}, features of {video_id!r}: checksum differs: {REMEDY}"
            )
        return features

    def _check(self, video: StoredVideo, name: str) -> None:
        where = f"{self.path}, group {name} ({video.video_id!r})"
        if video.spans.shape != (video.shape[0], 2):
            raise ShardError(f"{where}: spans {video.spans.shape} for features {video.shape}")
        if crc32(video.spans) != video.attributes.get("spans_crc32"):
            raise ShardError(f"{where}, spans: checksum differs: {REMEDY}")

    def _naming(self, name: str) -> _Naming:
        return _Naming(f"{self.path}, group {name}")


class _Naming:
    """Turn what h5py raises at a damaged file into a ShardError that says where."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, KeyError, RuntimeError, TypeError, ValueError)):
            raise ShardError(f"{self.where}: damaged: {error}") from error


class Draft:
    """A video in the making: snippets are appended as they are computed, then committed.

    They wait in a nameless file in the folder of ``path``, which a kill leaves nothing of;
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
        self._file.close()

    def append(self, features: NDArray[np.floating]) -> None:
        """Add snippets [n, num_crops, dim], stored in the spec's dtype."""
        block = features.astype(self.spec.dtype)
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


def write_failure(path: Path, spec: Spec, attributes: Attributes, reason: str) -> None:
    """Write the shard ``path`` of one video that failed for good, with its reason."""
    failed = StoredVideo({**attributes, "status": FAILED, "reason": reason})
    write_shard(path, spec, [failed])


def _plain(value: Any) -> str | int | float:
    return value.item() if isinstance(value, np.generic) else value


def _blocks(dataset: h5py.Dataset) -> Iterator[NDArray[Any]]:
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, dataset.shape[0], step):
        yield dataset[start : start + step]
