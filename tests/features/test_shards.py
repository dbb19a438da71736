"""Shards: what goes in comes out, damage is named, and nothing is ever half written."""

from __future__ import annotations

import errno
import os
import time
import zlib
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
import pytest
from support.stored import ODD_IDS, failed_video, features_of, small_spec, stored_video, videos_in

from vadprep.core import atomic as files
from vadprep.core.array_files import all_finite
from vadprep.core.atomic import (
    REMEDIES,
    UNSYNCABLE,
    open_atomic,
    sync_folder,
)
from vadprep.core.errors import FeaturesError, OutputError, ShardError, Stopped
from vadprep.features import shard as shards
from vadprep.features.draft import Draft, write_failure
from vadprep.features.shard import crc32, opened_shard, read_video, write_shard

SPEC = small_spec()


def test_what_was_written_comes_back(tmp_path):
    videos = [stored_video(each, num_clips=n + 1, num_crops=5) for n, each in enumerate(ODD_IDS)]
    write_shard(tmp_path / "a.h5", SPEC, [*videos, failed_video("bad", "no frames")])
    with opened_shard(tmp_path / "a.h5") as (file, spec):
        assert spec == SPEC
        assert list(file) == [f"{n:06d}" for n in range(len(videos) + 1)]
    *done, bad = videos_in(tmp_path / "a.h5")
    for found, video in zip(done, videos, strict=True):
        assert found.attributes == video.attributes
        assert np.array_equal(found.spans, video.spans)
        assert np.array_equal(features_of(found), features_of(video))
    assert (bad.video_id, bad.is_done, bad.attributes["reason"]) == ("bad", False, "no frames")


def test_plain_h5py_reads_a_shard_and_its_checksums(tmp_path):
    video = stored_video("x", num_clips=40)
    write_shard(tmp_path / "a.h5", SPEC, [video])
    with h5py.File(tmp_path / "a.h5") as file:
        group = file["000000"]
        assert group["features"].chunks is None
        assert np.array_equal(group["features"][()], features_of(video))
        assert group.attrs["features_crc32"] == zlib.crc32(features_of(video).tobytes())
        assert file.attrs["spec_hash"].decode() == SPEC.hash


def test_a_copy_of_a_shard_has_the_same_bytes(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write_shard(first, SPEC, [stored_video(each, num_clips=9) for each in ODD_IDS])
    time.sleep(1 - time.time() % 1)  # HDF5 keeps times in whole seconds
    write_shard(second, SPEC, videos_in(first))
    assert first.read_bytes() == second.read_bytes()


def test_a_draft_becomes_a_shard_of_one_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "000003.h5"
    features = np.random.default_rng(0).random((7, 2, 8)).astype(np.float32)
    spans = np.stack([np.arange(7), np.arange(1, 8)], axis=1)
    with Draft(target, SPEC) as draft:
        for block in np.split(features, [2, 5]):
            draft.append(block)
        assert list(tmp_path.iterdir()) == []
        draft.commit({"video_id": "x", "num_frames": 8}, spans)
    assert list(tmp_path.iterdir()) == [target]
    found = read_video(target)
    assert np.array_equal(features_of(found), features.astype(np.float16))
    assert found.attributes["features_crc32"] == draft.checksum


def test_an_abandoned_draft_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), Draft(tmp_path / "a.h5", SPEC) as draft:
        draft.append(np.zeros((1, 1, 4), np.float32))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [1e6, np.inf, np.nan], ids=str)
def test_features_that_are_not_finite_are_never_committed(tmp_path, value):
    target = tmp_path / "a.h5"
    with Draft(target, SPEC) as draft, pytest.raises(FeaturesError) as caught:
        draft.append(np.full((1, 1, 4), value, np.float32))  # 1e6 is beyond float16
    for word in (str(target), "precision fp32", "dtype float16"):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["video_id", "status", "num_frames", "features_crc32"])
@pytest.mark.parametrize("value", [None, 1.5])
def test_an_attribute_that_is_missing_or_odd_is_named(tmp_path, name, value):
    path = tmp_path / "a.h5"
    write_shard(path, SPEC, [stored_video("x")])
    with h5py.File(path, "r+") as file:
        del file["000000"].attrs[name]
        if value:
            file["000000"].attrs[name] = value
    with pytest.raises(ShardError) as caught:
        read_video(path)
    for word in (str(path), "group 000000", f"attribute {name}"):
        assert word in str(caught.value)


def test_a_video_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK_BYTES", 4 * 2 * 3)
    video = stored_video("x", num_clips=8)
    write_shard(tmp_path / "a.h5", SPEC, [video])
    blocks = list(read_video(tmp_path / "a.h5").blocks())
    assert [len(block) for block in blocks] == [3, 3, 2]
    assert np.array_equal(np.concatenate(blocks), features_of(video))


def test_a_flipped_bit_in_the_features_is_found(tmp_path):
    path = tmp_path / "a.h5"
    video = stored_video("x", num_clips=50)
    write_shard(path, SPEC, [video])
    content = bytearray(path.read_bytes())
    content[content.index(features_of(video).tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match="a.h5, group 000000, features"):
        features_of(read_video(path))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.9])
def test_a_truncated_shard_is_a_named_error(tmp_path, keep):
    path = tmp_path / "a.h5"
    write_shard(path, SPEC, [stored_video(each, num_clips=60) for each in ODD_IDS])
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ShardError, match="a.h5"):
        for video in videos_in(path):
            features_of(video)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_another_file_is_no_shard(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ShardError, match="a.h5"):
        read_video(tmp_path / "a.h5")


def test_a_foreign_hdf5_file_is_no_shard(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ShardError, match="format"):
        read_video(tmp_path / "a.h5")


def test_a_failure_is_a_group_with_a_reason(tmp_path):
    write_failure(tmp_path / "a.h5", SPEC, {"video_id": "x"}, "too short")
    assert read_video(tmp_path / "a.h5").attributes["reason"] == "too short"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_is_one_line_with_a_remedy(tmp_path, number):
    target = tmp_path / "a.json"
    target.write_text("before")
    with pytest.raises(OutputError) as caught, open_atomic(target) as stream:
        stream.write(b"half")
        raise OSError(number, os.strerror(number))
    assert str(target) in str(caught.value)
    assert REMEDIES[number] in str(caught.value)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [*UNSYNCABLE, errno.EIO])
def test_only_a_folder_that_cannot_be_synced_at_all_is_let_pass(tmp_path, monkeypatch, number):
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number in UNSYNCABLE:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OutputError, match=str(tmp_path)):
            sync_folder(tmp_path)


def test_metadata_that_cannot_be_copied_are_no_shard(tmp_path, monkeypatch):
    def lseek(descriptor: int, position: int, how: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(shards.os, "lseek", lseek)
    with pytest.raises(OutputError, match="a.h5: Invalid argument"):
        write_shard(tmp_path / "a.h5", small_spec(), [stored_video("a")])
    assert os.listdir(tmp_path) == []


def test_with_replace_off_the_first_writer_wins(tmp_path):
    target = tmp_path / "spec.json"
    with open_atomic(target, replace=False) as stream:
        stream.write(b"first")
    with pytest.raises(FileExistsError), open_atomic(target, replace=False) as stream:
        stream.write(b"second")
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_stop_just_when_the_file_is_made_leaves_none(tmp_path, monkeypatch):
    def stopped(path: Path, mode: str) -> NoReturn:
        path.touch()
        raise Stopped("just now")

    monkeypatch.setattr(files, "open", stopped, raising=False)
    with pytest.raises(Stopped), open_atomic(tmp_path / "a.h5"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found(dtype: str, odd: float) -> None:
    array = np.full((3, 1, 4), np.finfo(dtype).min, dtype)
    array[1] = np.finfo(dtype).max
    assert all_finite(array) and all_finite(array[:0])
    array[2, 0, 3] = odd
    assert not all_finite(array) and not all_finite(array.transpose(2, 0, 1))


def test_checksums_are_those_of_zlib() -> None:
    content = np.arange(1000, dtype=np.float32)
    assert crc32(content) == zlib.crc32(content) == crc32(content[9:], crc32(content[:9]))
