"""Features are read from web servers, S3 and other stores, and only as much as is asked for."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
from support.commands import message, run
from support.servers import FolderServer
from support.stored import (
    FLOW,
    ODD_IDS,
    VIDEOS,
    failed_video,
    features_of,
    row_of,
    shapes_of,
    small_spec,
    stored_video,
    videos_in,
    write_folder,
)

from vadprep.core.errors import FeaturesError, ShardError, SpecError
from vadprep.features import remote
from vadprep.features.folder import Place, StreamFolder
from vadprep.features.journal import Journal
from vadprep.features.merge import merge
from vadprep.features.reader import open_features
from vadprep.features.remote import RemotePath
from vadprep.features.shard import write_shard
from vadprep.features.status import status, verify, verify_stream

KINDS = ("http", "http that lists", "s3", "memory")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


@contextlib.contextmanager
def published(kind: str, folder: Path) -> Iterator[str]:
    """The URL under which the files of ``folder`` can be read."""
    if kind == "memory":
        store = fsspec.filesystem("memory")
        store.put(f"{folder}/", "/bucket/xd/", recursive=True)
        yield "memory://bucket/xd"
        store.rm("/bucket", recursive=True)
        return
    with FolderServer(folder.parents[1], lists=kind == "http that lists") as server:
        if kind != "s3":
            yield f"{server.url}/bucket/xd"
            return
        with pytest.MonkeyPatch.context() as patch:
            settings = {"endpoint_url": server.url, "anon": True}
            patch.setitem(fsspec.config.conf, "s3", settings)
            yield "s3://bucket/xd"


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A complete feature folder of two streams; one video has failed."""
    write_folder(tmp_path / "bucket" / "xd" / "rgb", [*VIDEOS, failed_video("bad", "no frames")])
    write_folder(tmp_path / "bucket" / "xd" / "flow", VIDEOS, FLOW)
    return tmp_path / "bucket" / "xd"


@pytest.fixture
def web(bucket: Path) -> Iterator[FolderServer]:
    with FolderServer(bucket.parent) as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_folder_is_read_like_a_local_one(bucket, kind):
    with published(kind, bucket) as url, open_features(url) as features:
        assert features.streams == ("rgb", "flow")
        assert list(features) == list(ODD_IDS)
        for video in VIDEOS:
            found = features[video.video_id]
            assert np.array_equal(found.rgb, features_of(video))
            assert np.array_equal(found.flow, features_of(video))
            assert np.array_equal(found.spans, video.spans)
            assert (found.label, found.split, found.fps) == (0, "train", 25.0)


@pytest.mark.parametrize("kind", KINDS)
def test_status_and_verify_of_a_remote_folder(bucket, kind):
    with published(kind, bucket) as url:
        found = run("status", url)
        assert found.exit_code == 1 and "no frames" in found.output  # one has failed
        found = run("verify", url)
        assert found.exit_code == 0, found.output
        assert f"{url}/flow: {len(VIDEOS)} videos" in found.output.replace("\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfinished_folder_gives_what_is_finished(tmp_path, kind):
    path = tmp_path / "bucket" / "xd" / "rgb"
    write_folder(path, [stored_video("a"), stored_video("b")])
    folder = StreamFolder.prepare(path, small_spec(), ["a", "b", "c", "d", "e"], 2)
    folder.partial(1).mkdir()
    write_shard(folder.partial_video(Place(1, 1)), small_spec(), [stored_video("d")])
    with published(kind, path.parent) as url:
        with open_features(url) as features:
            assert list(features) == ["a", "b", "d"]
            assert np.array_equal(features["d"].rgb, features_of(stored_video("d")))
        assert "not extracted yet" in run("verify", url).output
        found = run("status", url, "--missing-ranks", "--world-size", 3)
        assert (found.exit_code, found.stdout) == (1, "1-2\n")


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_the_rows_of_all_ranks_are_found(tmp_path, kind):
    path = tmp_path / "bucket" / "xd" / "rgb"
    folder = write_folder(path, VIDEOS)
    whole = (path / "manifest-00000.csv").read_bytes()
    for rank in (1, 2):
        (path / f"manifest-{rank:05d}.csv").write_bytes(whole)
    with published(kind, path.parent) as url:
        names = [each.name for each in RemotePath(f"{url}/rgb").glob("manifest-*.csv", 4)]
        assert names == [f"manifest-{rank:05d}.csv" for rank in range(3)]
        (path / "manifest-00000.csv").unlink()  # only the shards are left to be asked
        (path / "manifest-00001.csv").unlink()
        with open_features(url) as features:
            assert list(features) == list(folder.plan.places)


@pytest.mark.parametrize(("rank", "missing"), [(1, "0,2-5"), (4, "0-3,5")])
def test_a_folder_whose_first_ranks_have_no_journal_yet_is_read(tmp_path, rank, missing):
    ids = [f"v{n}" for n in range(6)]
    path = tmp_path / "bucket" / "xd" / "rgb"
    folder = StreamFolder.prepare(path, small_spec(), ids, 1)
    write_shard(folder.shard(rank), small_spec(), [stored_video(ids[rank])])
    journal = Journal(path, rank)
    journal.add(row_of(stored_video(ids[rank]), rank))
    journal.event("start", ids[rank], world_size=49)
    with FolderServer(tmp_path / "bucket") as server:
        url = f"{server.url}/xd"
        assert (status(url)["rgb"].done, verify(url)["rgb"].videos) == (1, 1)
        found = run("status", url, "--missing-ranks")
        assert run("status", url, "--by-stage").exit_code == 1
        asked = re.findall(r"events-\d+", " ".join(server.requests))
        assert set(asked) == {f"events-{each:05d}" for each in range(6)}  # as many as shards
        assert "of 49 ranks" in found.stderr and found.stdout == f"{missing}\n"


def test_few_files_of_many_ranks_are_asked_for_and_those_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "rgb"
    folder.mkdir()
    monkeypatch.setattr(remote, "MOST_APART", gap := 40)
    for rank in (0, 7, 39):
        (folder / f"manifest-{rank:05d}.csv").write_text("x")
    working, most = [], []

    def behave(handler, number: int) -> bool:
        working.append(number)
        most.append(len(working))
        time.sleep(0.003)
        working.remove(number)
        return False

    with FolderServer(tmp_path) as server:
        server.behave = behave
        path = RemotePath(f"{server.url}/rgb")
        names = [each.name for each in path.glob("manifest-*.csv", 100_000)]
        assert names == [f"manifest-{rank:05d}.csv" for rank in (0, 7, 39)]
        assert 39 + gap < len(server.requests) <= 39 + gap + 2 * remote.AT_ONCE
        assert 2 < max(most) <= remote.AT_ONCE


@pytest.mark.parametrize("code", [503, 429, 403])
def test_a_file_is_asked_for_again_when_the_server_was_busy(tmp_path, code):
    (tmp_path / "manifest-00002.csv").write_text("x")
    with FolderServer(tmp_path) as server:
        server.behave = lambda handler, number: number <= 5 and handler.send_error(code) is None
        names = [each.name for each in RemotePath(server.url).glob("manifest-*.csv", 5)]
        assert names == ([] if code == 403 else ["manifest-00002.csv"])


def test_a_server_that_has_a_page_for_every_name_is_asked_for_no_more_than_there_are(tmp_path):
    with FolderServer(tmp_path) as server:
        server.behave = lambda handler, number: handler.reply_file(b"x", True) is None
        names = [each.name for each in RemotePath(server.url).glob("manifest-*.csv", 9)]
        assert len(names) == len(server.requests) == 9


def test_a_remote_folder_can_be_packed_to_the_disk(bucket, tmp_path):
    with published("http", bucket) as url:
        folders = merge([url], tmp_path / "packed", shard_size=100)
        assert run("merge", url, "--out", tmp_path / "merged").exit_code == 1
    local = merge([bucket], tmp_path / "local", shard_size=100)
    for here, there in zip(local, folders, strict=True):
        assert there.shard(0).read_bytes() == here.shard(0).read_bytes()
        assert verify_stream(there).problems == ()


# ---------------------------------------------------------------- only what is asked for


def test_one_video_of_a_large_shard_costs_little_more_than_itself(tmp_path):
    videos = [stored_video(f"v{n:02d}", num_clips=400, dim=1024) for n in range(32)]
    folder = write_folder(tmp_path / "xd" / "rgb", videos, shard_size=32)
    size = folder.shard(0).stat().st_size
    assert size > 24 << 20
    with FolderServer(tmp_path) as server, open_features(f"{server.url}/xd") as features:
        video = features["v17"]
        assert video.num_clips == 400
        metadata = server.sent
        numbers = video.rgb
        assert np.array_equal(numbers, features_of(videos[17]))
        assert metadata < 1 << 20
        assert server.sent - metadata <= numbers.nbytes + remote.BLOCK_BYTES
        before = server.sent, len(server.requests)
        assert features["v17"].rgb.shape == numbers.shape  # the metadata are not fetched again
        assert server.sent - before[0] == numbers.nbytes
        assert len(server.requests) - before[1] == 1
        for name in features:
            assert features[name].num_clips == 400
        assert len(server.requests) - before[1] < 3 * len(features)


def test_local_folders_do_without_fsspec(tmp_path):
    write_folder(tmp_path / "rgb", VIDEOS)
    code = (
        "import sys; from vadprep.features.reader import open_features\n"
        f"assert len(open_features({str(tmp_path)!r})) == {len(VIDEOS)}\n"
        "assert 'fsspec' not in sys.modules\n"
        "sys.modules['fsspec'] = sys.modules['fsspec.core'] = None\n"
        "open_features('s3://bucket/xd')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AssertionError" not in done.stderr
    assert "fsspec" in done.stderr and "needs pip install 'vadprep[remote]'" in done.stderr


def test_headers_that_fsspec_is_configured_with_are_sent(web, monkeypatch):
    given: list[tuple[str | None, str | None]] = []

    def look(handler, request: int) -> bool:
        given.append((handler.headers.get("X-Key"), handler.headers.get("Accept-Encoding")))
        return False

    web.behave = look
    settings = {"client_kwargs": {"headers": {"X-Key": "a", "Accept-Encoding": "gzip"}}}
    monkeypatch.setitem(fsspec.config.conf, "http", settings)
    assert len(open_features(f"{web.url}/xd")) == len(VIDEOS)
    assert set(given) == {("a", "identity")}


# ---------------------------------------------------------------- processes and threads


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_remote_features_work_in_forked_and_spawned_workers(web, method):
    features = open_features(f"{web.url}/xd")
    expected = [features[each].rgb.shape for each in ODD_IDS]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(shapes_of, [(features, ODD_IDS)] * 4)
    assert all(shapes == expected for shapes, _ in found)
    assert os.getpid() not in {process for _, process in found}
    assert np.array_equal(features[ODD_IDS[3]].rgb, features_of(VIDEOS[3]))


def test_remote_features_can_be_pickled_and_left_open_at_the_end(web):
    code = (
        "import pickle, sys; from vadprep.features.reader import open_features\n"
        "features = open_features(sys.argv[1])\n"
        "print(features['a/b'].rgb.shape, pickle.loads(pickle.dumps(features))['a/b'].flow.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"{web.url}/xd"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "(2, 1, 4) (2, 1, 4)\n"), done.stderr


def test_no_garbage_is_collected_while_hdf5_waits_for_the_network(web):
    """fsspec's thread would collect what belongs to h5py, which waits for HDF5's lock."""
    enabled: list[bool] = []

    def look(*request: object) -> bool:
        frame = sys._current_frames()[threading.main_thread().ident]
        while frame and frame.f_code.co_name != "opened_file":
            frame = frame.f_back
        if frame:
            enabled.append(gc.isenabled())
        return False

    web.behave = look
    with open_features(f"{web.url}/xd") as features:
        assert features["a/b"].rgb.shape == (2, 1, 4)
    assert enabled and not any(enabled)
    assert gc.isenabled()


# ---------------------------------------------------------------- failures


def cut(handler, count):
    """Half an answer, at each third request."""
    if count % 3 or handler.command == "HEAD":
        return False
    handler.send_response(206)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True
    return True


def broken(handler, count):
    """Status 500 at each second request."""
    if count % 2:
        return False
    handler.send_error(500)
    return True


@pytest.mark.parametrize("behave", [cut, broken])
def test_a_failed_request_is_made_again(web, behave):
    web.behave = behave
    with open_features(f"{web.url}/xd") as features:
        assert list(features) == list(ODD_IDS)
        for video in VIDEOS:
            assert np.array_equal(features[video.video_id].flow, features_of(video))


@pytest.mark.parametrize(
    ("status", "tries"), [(500, 1 + len(remote.WAITS)), (429, 1 + len(remote.WAITS)), (401, 1)]
)
def test_a_server_that_goes_on_failing_is_a_named_error(web, status, tries):
    features = open_features(f"{web.url}/xd")
    assert features[ODD_IDS[0]].num_clips == 1
    before = len(web.requests)
    web.behave = lambda handler, count: handler.send_error(status) is None
    with pytest.raises(FeaturesError, match="shard-00003.h5: cannot be read .*network") as caught:
        features[ODD_IDS[7]].rgb  # noqa: B018
    assert "\n" not in str(caught.value)
    assert len(web.requests) - before == tries
    web.behave = None
    assert features[ODD_IDS[7]].rgb.shape == (8, 1, 4)


def test_a_server_that_is_gone_is_a_named_error(bucket):
    with FolderServer(bucket.parent) as server:
        url = f"{server.url}/xd"
    line = message(run("status", url))
    assert url in line and "network" in line


def test_a_store_that_forbids_what_is_missing(bucket, web):
    """As S3 does where listing is not allowed."""

    def forbid(handler, count):
        exists = (bucket.parent / handler.path.lstrip("/")).is_file()
        return not exists and handler.send_error(403) is None

    web.behave = forbid
    with open_features(f"{web.url}/xd") as features:
        assert list(features) == list(ODD_IDS)


def test_a_server_without_ranges_is_a_named_error(bucket):
    with FolderServer(bucket.parent, ranges=False) as server:
        with pytest.raises(FeaturesError, match="whole files only: download the folder"):
            open_features(f"{server.url}/xd")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_features_says_what_was_looked_for(bucket, kind):
    with published(kind, bucket) as url:
        line = message(run("status", f"{url}/none"))
        assert f"{url}/none" in line and "spec.json" in line


@pytest.mark.parametrize("failure", [None, 404, 401, 500, "gone"])
def test_credentials_in_a_url_stand_nowhere(web, tmp_path, failure):
    url = web.url.replace("http://", "http://evelyn:to%20ken@") + "/xd"
    if failure == "gone":
        url = "http://evelyn:to%20ken@127.0.0.1:9/xd"
    elif failure:
        web.behave = lambda handler, count: handler.send_error(failure) is None
    texts = []
    for command in (
        ("status", url), ("status", url, "--json"), ("verify", url),
        ("merge", url, "--out", tmp_path / "merged"), ("compare", url, url),
    ):  # fmt: skip
        result = run(*command)
        texts.append(result.output)
        assert result.exit_code in ((0, 1) if failure is None else (1, 2))  # a video has failed
    with contextlib.suppress(FeaturesError), open_features(url) as features:
        texts.append(repr(features["nobody"]) if "nobody" in features else str(features))
    texts += [each.read_bytes().decode("latin1") for each in tmp_path.rglob("*") if each.is_file()]
    assert any(texts) and not [text for text in texts if "evelyn" in text or "ken@" in text]


def test_the_time_of_a_hanging_server_is_bounded(bucket, monkeypatch):
    monkeypatch.setattr(remote, "TIME_LIMITS", {"total": 5, "sock_connect": 1, "sock_read": 0.2})
    with socket.create_server(("127.0.0.1", 0)) as server:  # it listens, and never answers
        start = time.monotonic()
        with pytest.raises(FeaturesError, match="cannot be read .*network"):
            open_features(f"http://127.0.0.1:{server.getsockname()[1]}/xd")
        assert time.monotonic() - start < 30


def test_a_protocol_that_is_none_is_named():
    assert "ftpx" in message(run("status", "ftpx://host/xd"))


@pytest.mark.parametrize("kind", ["http", "memory"])
def test_damage_is_named_as_in_a_local_shard(bucket, kind):
    folder = StreamFolder.open(bucket / "rgb")
    content = bytearray(folder.shard(1).read_bytes())
    content[content.index(features_of(VIDEOS[2]).tobytes()) + 3] ^= 1
    folder.shard(1).write_bytes(content)
    write_shard(folder.shard(2), small_spec(tail="xd"), VIDEOS[4:6])
    folder.shard(3).write_bytes(folder.shard(3).read_bytes()[:3000])
    with published(kind, bucket) as url, open_features(f"{url}/rgb") as features:
        with pytest.raises(ShardError, match="rgb/shards/shard-00001.h5.*checksum differs"):
            features[ODD_IDS[2]].rgb  # noqa: B018
        with pytest.raises(SpecError, match="shard-00002.h5.*tail"):
            features[ODD_IDS[4]].rgb  # noqa: B018
        with pytest.raises(ShardError, match="shard-00003.h5"):
            features[ODD_IDS[6]].rgb  # noqa: B018
        assert features[ODD_IDS[3]].rgb.shape == (4, 1, 4)
        problems = "\n".join(verify_stream(StreamFolder.open(bucket / "rgb")).problems)
        assert all(f"shard-0000{each}" in problems for each in (1, 2, 3))


def test_a_remote_shard_is_a_shard(bucket, web):
    name = "xd/rgb/shards/shard-00001.h5"
    there, here = videos_in(RemotePath(f"{web.url}/{name}")), videos_in(bucket.parent / name)
    assert len(there) == len(here) == 2
    for found, expected in zip(there, here, strict=True):
        assert found.attributes == expected.attributes
        assert np.array_equal(features_of(found), features_of(expected))


def test_commands_take_a_url(bucket, web, tmp_path):
    rows = [f'"{video_id}",x.mp4,test,0,[]' for video_id in ODD_IDS[4:6]]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["video_id,path,split,label,intervals", *rows]) + "\n")
    for place, out in ((f"{web.url}/xd", "there"), (bucket, "here")):
        named = ("--manifest", manifest, "--layout", "rtfm", "--out", tmp_path / out)
        result = run("export", place, *named)
        assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "here").rglob("*.npy"))
    assert len(files) >= 2
    for file in files:
        there = tmp_path / "there" / file.relative_to(tmp_path / "here")
        assert there.read_bytes() == file.read_bytes()


def _read_nothing() -> None:
    with remote.opened_file(RemotePath("memory://empty.h5")):
        pass


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_worker_that_is_forked_while_another_thread_reads_can_read():
    content = io.BytesIO()
    h5py.File(content, "w").close()
    fsspec.filesystem("memory").pipe("/empty.h5", content.getvalue())
    inside = threading.Event()

    def read() -> None:
        with remote.opened_file(RemotePath("memory://empty.h5")):
            inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=read)
    thread.start()
    inside.wait()
    worker = multiprocessing.get_context("fork").Process(target=_read_nothing, daemon=True)
    worker.start()
    worker.join(20)
    thread.join()
    assert worker.exitcode == 0
