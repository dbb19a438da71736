"""Folders are merged, with shards of any size: nothing lost or mixed, sources untouched."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.commands import extract, message, run, without_network
from support.stored import (
    FLOW,
    ODD_IDS,
    VIDEOS,
    failed_video,
    features_of,
    small_spec,
    stored_video,
    videos_in,
    write_folder,
)
from support.videos import write_video

from vadprep.core.errors import FeaturesError, ShardError, SpecError, Stopped
from vadprep.core.presets import resolve
from vadprep.features.engines import recorded_engines
from vadprep.features.folder import Place, StreamFolder
from vadprep.features.journal import Journal, Row, read_rows
from vadprep.features.merge import merge
from vadprep.features.reader import open_features
from vadprep.features.shard import StoredVideo, crc32, write_shard
from vadprep.features.status import stream_status, verify_stream

BAD = failed_video("bad", "no frames")


def tree(path: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    files = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


def contents(path: Path) -> dict[str, object]:
    """All that the shards of a stream folder say, by id."""
    found: dict[str, object] = {}
    for file in sorted((path / "shards").glob("*.h5")):
        for video in videos_in(file):
            numbers = features_of(video).tobytes() if video.is_done else b""
            found[video.video_id] = video.attributes, video.spans.tolist(), numbers
    return found


@pytest.mark.parametrize("size", [1, 4, 100])
def test_other_shards_hold_the_same(tmp_path, size):
    write_folder(tmp_path / "a" / "rgb", [*VIDEOS, BAD])
    write_folder(tmp_path / "a" / "flow", VIDEOS, FLOW)
    before = tree(tmp_path / "a")
    result = run("merge", tmp_path / "a", "--shard-size", size, "--out", tmp_path / "b")
    assert result.exit_code == 1 and "no frames" in result.output  # as extract: one has failed
    for stream, count in (("rgb", len(VIDEOS) + 1), ("flow", len(VIDEOS))):
        old, new = tmp_path / "a" / stream, tmp_path / "b" / stream
        assert contents(new) == contents(old)
        assert len(list((new / "shards").iterdir())) == -(-count // size)
        assert StreamFolder.open(new).shard_size == size
        assert verify_stream(StreamFolder.open(new)).problems == ()
    with open_features(tmp_path / "b") as features:
        assert list(features) == list(ODD_IDS)
    assert tree(tmp_path / "a") == before
    assert run("verify", tmp_path / "b").exit_code == 0


def test_the_same_shard_size_gives_the_same_bytes_again(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS, shard_size=2)
    merge([tmp_path / "a"], tmp_path / "b", shard_size=5)
    merge([tmp_path / "b"], tmp_path / "c", shard_size=2)
    for file in (tmp_path / "a" / "rgb" / "shards").iterdir():
        assert (tmp_path / "c" / "rgb" / "shards" / file.name).read_bytes() == file.read_bytes()


def test_rows_say_the_same_with_the_new_shard(tmp_path):
    write_folder(tmp_path / "a" / "rgb", [*VIDEOS, BAD])
    [new] = merge([tmp_path / "a"], tmp_path / "b", shard_size=8)
    old, rows = read_rows(tmp_path / "a" / "rgb"), read_rows(new.path)
    assert [row.shard for row in rows.values()] == [0] * 8 + [1]
    assert list(rows) == list(old)
    assert all(rows[each].checksum == old[each].checksum for each in old)


def test_merged_features_of_two_engines_are_said_to_be(tmp_path, caplog):
    made = [{"engine": "openvino 2", "torch": "2.15"}, {"torch": "2.14"}, {"imported": {}}]
    for name, provenance in zip("abc", made, strict=True):
        StreamFolder.prepare(tmp_path / name, small_spec(), [name], 2, provenance)
    assert [recorded_engines(each) for each in made] == [
        {"openvino 2"}, {"an older vadprep with torch 2.14"}, set(),
    ]  # fmt: skip
    merge([tmp_path / "a", tmp_path / "c"], tmp_path / "one")
    assert not caplog.records
    [new] = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "two")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "by an older vadprep with torch 2.14, openvino 2:" in warning
    found = recorded_engines(StreamFolder.open(new.path).provenance)
    assert found == {"openvino 2", "an older vadprep with torch 2.14"}


def test_the_spec_and_what_made_the_features_stay(tmp_path):
    StreamFolder.prepare(tmp_path / "a" / "rgb", small_spec(), ODD_IDS, 2, {"torch": "2.15"})
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    [new] = merge([tmp_path / "a"], tmp_path / "b", shard_size=3)
    assert new.spec == small_spec()
    where = str(tmp_path / "a" / "rgb")
    assert StreamFolder.open(new.path).provenance == {"repacked": {where: {"torch": "2.15"}}}


# ---------------------------------------------------------------- merging


def test_folders_are_joined_and_shared_videos_taken_once(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS[:5])
    write_folder(tmp_path / "b" / "rgb", VIDEOS[3:])
    result = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    with open_features(tmp_path / "c") as features:
        assert list(features) == list(ODD_IDS)
        for video in VIDEOS:
            assert np.array_equal(features[video.video_id].rgb, features_of(video))
    assert StreamFolder.open(tmp_path / "c" / "rgb").shard_size == 2
    assert verify_stream(StreamFolder.open(tmp_path / "c" / "rgb")).videos == len(VIDEOS)


def test_ids_that_differ_by_suffix_alone_are_named(tmp_path, caplog):
    write_folder(tmp_path / "a" / "rgb", [failed_video("x", "no frames")])
    write_folder(tmp_path / "b" / "rgb", [failed_video("x.mp4", "no frames")])
    [new] = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert list(new.plan.places) == ["x", "x.mp4"]
    (line,) = caplog.messages
    assert "b/rgb: 1 video; 1 id differs from those of" in line and "there twice" in line


def test_streams_of_two_folders_become_one_folder(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    write_folder(tmp_path / "b" / "flow", VIDEOS[1:], FLOW)
    merge([tmp_path / "a", tmp_path / "b" / "flow"], tmp_path / "c")
    with open_features(tmp_path / "c") as features:
        assert features.streams == ("rgb", "flow")
        assert list(features) == list(ODD_IDS[1:])


def test_streams_that_do_not_fit_are_refused(tmp_path):
    other = resolve("i3d", "cpu", ("w", "0"), {"tail": "xd"}, "flow")
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    write_folder(tmp_path / "b" / "flow", VIDEOS, other)
    with pytest.raises(SpecError, match="tail: drop / xd"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_done_video_goes_before_a_failed_one(tmp_path, order):
    write_folder(tmp_path / "0" / "rgb", [failed_video("a"), stored_video("b")])
    write_folder(tmp_path / "1" / "rgb", [stored_video("a"), failed_video("b")])
    [new] = merge([tmp_path / str(each) for each in order], tmp_path / "c")
    assert stream_status(new).done == 2
    assert verify_stream(new).problems == ()


def test_different_features_of_one_video_are_an_error_that_names_it(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    write_folder(tmp_path / "b" / "rgb", [stored_video("a/b", num_clips=9), VIDEOS[0]])
    result = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    line = message(result)
    for word in ("different features of 'a/b' in", str(tmp_path / "a"), str(tmp_path / "b")):
        assert word in line
    assert ODD_IDS[0] + "'" not in line
    assert not (tmp_path / "c").exists()


def test_different_specs_are_refused_by_field(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS[:2])
    write_folder(tmp_path / "b" / "rgb", VIDEOS[2:], small_spec(tail="xd"))
    line = message(run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c"))
    assert "tail: drop / xd" in line and str(tmp_path / "b" / "rgb") in line
    assert not (tmp_path / "c").exists()


def test_features_of_unknown_settings_are_copied_but_not_joined(tmp_path):
    for name, videos in (("a", VIDEOS[:2]), ("b", VIDEOS[2:])):
        write_folder(tmp_path / name / "rgb", videos, small_spec(filter="unknown"))
    assert verify_stream(merge([tmp_path / "a"], tmp_path / "c", shard_size=1)[0]).problems == ()
    with pytest.raises(SpecError, match="filter: unknown / unknown"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "d")


def test_what_is_unfinished_stays_in_the_plan(tmp_path):
    write_folder(tmp_path / "a" / "rgb", [stored_video("a"), stored_video("b"), stored_video("c")])
    (tmp_path / "a" / "rgb" / "shards" / "shard-00001.h5").unlink()
    folder = StreamFolder.prepare(tmp_path / "b" / "rgb", small_spec(), ["d", "e"], 2)
    folder.partial(0).mkdir()
    write_shard(folder.partial_video(Place(0, 1)), small_spec(), [stored_video("e")])
    [new] = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", shard_size=3)
    assert [new.plan.shards, sorted(new.final_shards())] == [[["a", "b", "c"], ["d", "e"]], []]
    found = stream_status(new)
    assert (found.done, found.missing) == (3, ("c", "d"))
    # The source goes on, and so does the copy.
    write_shard(folder.partial_video(Place(0, 0)), small_spec(), [stored_video("d")])
    [new] = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", shard_size=3)
    assert new.final_shards() == {1} and not new.partial(1).exists()
    # What extract has done in the new folder itself is kept.
    write_shard(new.partial_video(Place(0, 2)), small_spec(), [stored_video("c", num_clips=7)])
    [new] = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", shard_size=3)
    assert stream_status(new).is_complete and verify_stream(new).problems == ()
    assert new.stored("c").shape[0] == 7


# ---------------------------------------------------------------- what may go wrong


def test_the_new_folder_is_no_source_and_holds_nothing_else(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    before = tree(tmp_path / "a")
    with pytest.raises(FeaturesError, match="choose another --out"):
        merge([tmp_path / "a"], tmp_path / "a", shard_size=4)
    write_folder(tmp_path / "b" / "rgb", VIDEOS[:2])
    with pytest.raises(FeaturesError, match="not made of .*choose another --out"):
        merge([tmp_path / "a"], tmp_path / "b", shard_size=4)
    merge([tmp_path / "a"], tmp_path / "c", shard_size=4)
    with pytest.raises(FeaturesError, match="--shard-size 5: choose another --out"):
        merge([tmp_path / "a"], tmp_path / "c", shard_size=5)
    assert tree(tmp_path / "a") == before


def test_a_folder_without_features(tmp_path):
    line = message(run("merge", tmp_path, "--shard-size", 2, "--out", tmp_path / "b"))
    assert str(tmp_path) in line and "spec.json" in line


@pytest.mark.parametrize("array", ["features", "spans"])
def test_a_flipped_bit_in_a_source_is_never_copied(tmp_path, array):
    folder = write_folder(tmp_path / "a" / "rgb", VIDEOS)
    video = VIDEOS[2]
    numbers = features_of(video) if array == "features" else video.spans
    content = bytearray(folder.shard(1).read_bytes())
    content[content.index(numbers.tobytes()) + 3] ^= 4
    folder.shard(1).write_bytes(content)
    with pytest.raises(ShardError, match="two.nlines|shard-00001"):
        merge([tmp_path / "a"], tmp_path / "b", shard_size=8)
    assert not list((tmp_path / "b" / "rgb" / "shards").glob("*.h5"))


def test_a_shard_of_another_spec_or_video_is_never_copied(tmp_path):
    folder = write_folder(tmp_path / "a" / "rgb", VIDEOS)
    write_shard(folder.shard(1), small_spec(tail="xd"), VIDEOS[2:4])
    with pytest.raises(SpecError, match="shard-00001.h5"):
        merge([tmp_path / "a"], tmp_path / "b", shard_size=8)
    write_shard(folder.shard(1), small_spec(), VIDEOS[4:6])
    with pytest.raises(ShardError, match="shard-00001.h5.*plan.csv"):
        merge([tmp_path / "a"], tmp_path / "c", shard_size=8)


def _die_at(step: int, sources: list[Path], out: Path, size: int) -> None:
    """Merge, but end the process, without any clean-up, in place of file sync number ``step``."""
    count, sync = itertools.count(), os.fsync

    def fsync(descriptor: int) -> None:
        if next(count) == step:
            os._exit(9)
        sync(descriptor)

    os.fsync = fsync  # a process of its own
    merge(sources, out, shard_size=size)
    os._exit(0)


def untimed(path: Path) -> list[Row]:
    return [row._replace(time=0) for row in read_rows(path).values()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_killed_anywhere_the_same_command_goes_on(tmp_path):
    write_folder(tmp_path / "a" / "rgb", [*VIDEOS[:4], BAD], shard_size=1)
    sources, before = [tmp_path / "a"], tree(tmp_path / "a")
    [whole] = merge(sources, tmp_path / "whole", shard_size=3)
    fork = multiprocessing.get_context("fork")
    for step in itertools.count():
        out = tmp_path / str(step)
        process = fork.Process(target=_die_at, args=(step, sources, out, 3))
        process.start()
        process.join()
        [new] = merge(sources, out, shard_size=3)
        for shard in range(2):
            assert new.shard(shard).read_bytes() == whole.shard(shard).read_bytes()
        assert untimed(new.path) == untimed(whole.path)
        assert verify_stream(new).problems == ()
        names = {str(each.relative_to(whole.path)) for each in whole.path.rglob("*")}
        assert {str(each.relative_to(new.path)) for each in new.path.rglob("*")} == names
        if process.exitcode == 0:
            break
    assert step > 15
    assert tree(tmp_path / "a") == before


def test_a_stop_keeps_what_is_written(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS)

    def stop(done: int, total: int) -> None:
        assert total == len(VIDEOS)
        os.kill(os.getpid(), 15)

    with pytest.raises(Stopped, match="run the same command again"):
        merge([tmp_path / "a"], tmp_path / "b", shard_size=3, progress=stop)
    assert StreamFolder.open(tmp_path / "b" / "rgb").final_shards() == {0}
    assert stream_status(merge([tmp_path / "a"], tmp_path / "b", shard_size=3)[0]).is_complete


def large_video(video_id: str, blocks: int) -> StoredVideo:
    """A video of ``blocks`` MiB that is never in memory as a whole."""
    block = np.ones((1024, 1, 512), np.float16)
    checksum = 0
    for _ in range(blocks):
        checksum = crc32(block, checksum)
    edges = np.arange(1024 * blocks + 1)
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    known = {"video_id": video_id, "status": "done", "num_frames": len(edges)}
    known |= {"features_crc32": checksum, "spans_crc32": crc32(spans)}
    shape = (1024 * blocks, 1, 512)
    return StoredVideo(known, shape, "float16", spans, lambda: itertools.repeat(block, blocks))


def test_memory_is_bounded_by_a_block_whatever_the_video(tmp_path):
    write_folder(tmp_path / "a" / "rgb", [large_video(each, 48) for each in "ab"])
    tracemalloc.start()
    try:
        merge([tmp_path / "a"], tmp_path / "b", shard_size=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20, f"{peak >> 20} MiB for videos of 48"


def test_the_journal_of_a_copy_serves_json_status(tmp_path):
    write_folder(tmp_path / "a" / "rgb", VIDEOS)
    merge([tmp_path / "a"], tmp_path / "b", shard_size=3)
    [found] = json.loads(run("status", tmp_path / "b", "--json").output)
    assert found["done"] == len(VIDEOS)
    Journal(tmp_path / "b" / "rgb", 0)  # a rank of extract goes on behind it
    assert len(read_rows(tmp_path / "b" / "rgb")) == len(VIDEOS)


def test_extract_goes_on_in_the_new_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "abcde":
        write_video(tmp_path / "videos" / f"{name}.mp4", 40)
    with without_network():
        half = ("--shard-size", 2, "--rank", 1, "--world-size", 2)
        assert extract(tmp_path / "videos", tmp_path / "half", *half).exit_code == 0
        merge([tmp_path / "half"], tmp_path / "new", shard_size=3)
        assert stream_status(StreamFolder.open(tmp_path / "new" / "rgb")).missing == (
            "a",
            "b",
            "e",
        )
        assert extract(tmp_path / "videos", tmp_path / "new").exit_code == 0
        assert extract(tmp_path / "videos", tmp_path / "all", "--shard-size", 3).exit_code == 0
    for file in (tmp_path / "all" / "rgb" / "shards").iterdir():
        assert (tmp_path / "new" / "rgb" / "shards" / file.name).read_bytes() == file.read_bytes()
