"""The run: whatever stops it and wherever, running it again ends in the same folder."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.commands import run as run_command
from support.standin import standin_spec
from support.stored import features_of, small_spec, stored_video
from support.waiting import wait_for

from vadprep.core import atomic as files
from vadprep.core.errors import FeaturesError, OutputError, Stopped
from vadprep.core.records import RUNNING, SKIPPED, Report, Task, Video
from vadprep.core.signals import check_stop, stop_on_signals
from vadprep.data import Manifest, SourceIndex, fingerprint
from vadprep.extraction.plan import ExtractionPlan, StreamPlan
from vadprep.extraction.run import (
    Extraction,
    in_process,
    locked_extraction,
    warn_of_conv3d,
    warn_of_other_engine,
)
from vadprep.features.draft import Draft, write_failure
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_events, read_rows
from vadprep.features.merge import merge
from vadprep.features.reader import open_features
from vadprep.features.shard import DONE, FAILED, StoredVideo, write_shard
from vadprep.features.status import stream_status, verify_stream
from vadprep.features.writer import Share

SPEC = small_spec()
IDS = [f"video {n}" for n in range(7)]
BAD = "video 3"
FAILURE = {"status": FAILED, "reason": "broken", "kind": "damaged"}


def make_root(path: Path, ids: list[str] = IDS) -> tuple[Manifest, Path]:
    path.mkdir(exist_ok=True)
    for video_id in ids:
        (path / video_id).write_bytes(b"x")
    videos = tuple(Video(each, each, num_frames=100 + n) for n, each in enumerate(ids))
    return Manifest(path / "m.csv", videos), path


def fake_worker(task: Task) -> Report:
    """Commits features that depend on the id alone; one video fails."""
    video_id = task.video.video_id
    if video_id == BAD:
        write_failure(task.targets["rgb"], SPEC, {"video_id": video_id}, "broken")
        return Report(video_id, FAILED, "broken", "damaged")
    video = stored_video(video_id, num_clips=5)
    with Draft(task.targets["rgb"], SPEC) as draft:
        for row in features_of(video):
            draft.append(row[None])
        known = ("video_id", "split", "label", "num_frames", "fps_source")
        draft.commit({name: video.attributes[name] for name in known}, video.spans)
    return Report(video_id, DONE, num_clips=5, num_frames=85, checksums={"rgb": draft.checksum})


def drive(
    path: Path,
    manifest: Manifest,
    root: Path,
    worker=fake_worker,
    share=None,
    retry=False,
    engine="torch 2",
) -> StreamFolder:
    ids = [video.video_id for video in manifest.videos]
    folder = StreamFolder.prepare(path, SPEC, ids, shard_size=3, provenance={"engine": engine})
    with locked_extraction([folder], manifest, root, share or Share()) as extraction:
        extraction.recover()
        extraction.run(in_process(lambda: worker), retry_failed=retry, engine=engine)
    return folder


def content(path: Path) -> dict[str, bytes]:
    with open_features(path) as features:
        return {
            each: features[each].rgb.tobytes() + features[each].spans.tobytes() for each in features
        }


def tree(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


@pytest.fixture
def undisturbed(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    folder = drive(tmp_path / "undisturbed", manifest, root)
    assert verify_stream(folder).problems == ()
    return manifest, root, folder


def test_a_run_ends_in_final_shards_with_the_failure_and_nothing_else(undisturbed):
    _, _, folder = undisturbed
    assert tree(folder.path) == [
        "events-00000.jsonl",
        "manifest-00000.csv",
        "plan.csv",
        *(f"shards/shard-0000{n}.h5" for n in range(3)),
        "spec.json",
    ]
    found = stream_status(folder)
    assert (found.done, found.missing, found.shards_final) == (6, (), 3)
    assert [(row.video_id, row.reason) for row in found.failed] == [(BAD, "broken")]


def test_running_it_again_does_nothing(undisturbed):
    manifest, root, folder = undisturbed
    before = {each: (folder.path / each).read_bytes() for each in tree(folder.path)}
    drive(folder.path, manifest, root, never)
    assert {each: (folder.path / each).read_bytes() for each in tree(folder.path)} == before


class Stepping:
    """A worker that says how far it is: at a half, and once more when that is overtaken."""

    def steps(self, task: Task):
        video_id = task.video.video_id
        yield Report(video_id, RUNNING, num_clips=2, share=0.5)
        yield fake_worker(task)
        yield Report(video_id, RUNNING, num_clips=2, share=0.5)


def test_the_work_of_videos_that_run_is_counted_and_the_journal_has_whole_videos(tmp_path):
    manifest, root = make_root(tmp_path / "videos", IDS[:2])
    folder, seen = StreamFolder.prepare(tmp_path / "f", SPEC, IDS[:2]), []
    with locked_extraction([folder], manifest, root, Share()) as extraction:
        extraction.run(in_process(Stepping), seen.append)
    assert [(each.work_left, len(each.running), each.is_start) for each in seen] == [
        (201, 0, True), (150.5, 1, False), (100, 0, False), (50, 1, False), (0, 0, False),
    ]  # fmt: skip
    lines = (tmp_path / "f" / "events-00000.jsonl").read_text().splitlines()
    left = [json.loads(line).get("work_left") for line in lines]
    assert left == [201, None, 100, None, 0]


def test_the_longest_video_comes_first(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    order = []
    drive(tmp_path / "f", manifest, root, lambda task: order.append(task) or fake_worker(task))
    assert [task.video.video_id for task in order] == IDS[::-1]


class Crash(BaseException):
    """What a kill looks like from inside: nothing catches it."""


def crash_points(monkeypatch, at: int, after: bool) -> list[str]:
    """Let the ``at``-th step that changes the disk be the last; returns the steps taken."""
    steps: list[str] = []
    real = {name: getattr(os, name) for name in ("replace", "fsync", "link")}

    def step(name):
        def call(*args, **kwargs):
            steps.append(name)
            if len(steps) == at and not after:
                raise Crash
            result = real[name](*args, **kwargs)
            if len(steps) == at:
                raise Crash
            return result

        return call

    for name in real:
        monkeypatch.setattr(files.os, name, step(name))
    return steps


@pytest.mark.parametrize(
    "after", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"]
)
def test_a_crash_at_any_step_is_recovered_by_running_again(undisturbed, tmp_path, after):
    manifest, root, folder = undisturbed
    expected, files_expected = content(folder.path), tree(folder.path)
    for at in range(1, 200):
        path = tmp_path / f"crashed-{at}"
        with pytest.MonkeyPatch.context() as patch:
            steps = crash_points(patch, at, after)
            try:
                drive(path, manifest, root)
            except Crash:
                pass
        if len(steps) < at:
            break
        again = drive(path, manifest, root)
        assert verify_stream(again).problems == (), at
        assert content(path) == expected
        assert tree(path) == files_expected
        assert no_committed_video_started_again(path)
    assert at > 30


def no_committed_video_started_again(path: Path) -> bool:
    finished: set[str] = set()
    for event in read_events(path):
        if event.event == "start" and event.video_id in finished:
            return False
        if event.event in ("committed", "failed"):
            finished.add(event.video_id)
    return True


def test_ranks_share_the_shards_and_another_world_size_changes_nothing(undisturbed, tmp_path):
    manifest, root, folder = undisturbed
    for rank in range(2):
        drive(tmp_path / "two", manifest, root, share=Share(rank, 2))
    assert content(tmp_path / "two") == content(folder.path)
    rows = read_rows(tmp_path / "two")
    drive(tmp_path / "two", manifest, root, share=Share(0, 1))
    assert read_rows(tmp_path / "two") == rows


def test_a_rank_leaves_the_files_in_the_works_of_another_alone(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, IDS, shard_size=3)
    mine = files.temporary_name(folder.partial(0) / "000000.h5")
    left = []
    for shard in range(2):
        folder.partial(shard).mkdir()
        dead = mine.name.replace(f"-{os.getpid()}-", "-4194304-")
        left.append(folder.partial(shard) / dead)
        left[-1].touch()
    Extraction([folder], manifest, root, Share(1, 2)).recover()
    assert [path.exists() for path in left] == [True, False]


def test_what_a_stop_left_of_our_own_files_is_swept(tmp_path):
    """A signal may come when a file is there and nobody has taken charge of it."""
    manifest, root = make_root(tmp_path / "videos")
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, IDS, shard_size=3)
    left = [files.temporary_name(folder.shard(0))]
    elsewhere = folder.path / "shards" / "shard-00001.h5.tmp-another.host-1-1"

    def stopped(tasks, on_start):
        on_start(tasks[0])
        left.append(files.temporary_name(tasks[0].targets["rgb"]))
        for path in (*left, elsewhere):
            path.touch()
        raise Stopped("just now")
        yield

    extraction = Extraction([folder], manifest, root, Share())
    with pytest.raises(Stopped):
        extraction.run(stopped)
    assert [path.exists() for path in (*left, elsewhere)] == [False, False, True]


# ---------------------------------------------------------------- files that were replaced


def reading_worker(task: Task) -> Report:
    """Commits features that depend on the file, and says which file it was."""
    video = stored_video(task.video.video_id, num_clips=3 + task.source.stat().st_size)
    with Draft(task.targets["rgb"], SPEC) as draft:
        for row in features_of(video):
            draft.append(row[None])
        about = {name: video.attributes[name] for name in ("num_frames", "fps_source")}
        about |= {**task.video.attributes, **fingerprint(task.source)}
        draft.commit(about, video.spans)
    return Report(task.video.video_id, DONE, checksums={"rgb": draft.checksum})


def never(task: Task) -> Report:
    raise AssertionError(task)


@pytest.fixture
def replaced(tmp_path):
    """Of ten videos in shards of three, one in a final shard has another file now."""
    ids = [f"v{n}" for n in range(10)]
    manifest, root = make_root(tmp_path / "videos", ids)
    folder = drive(tmp_path / "f", manifest, root, reading_worker)
    time.sleep(0.01)  # clocks of file systems tick some hundred times a second
    os.utime(root / "v2")  # changed, but not another file
    (root / "v4").write_bytes(b"another")
    os.utime(root / "v4", (0, 0))  # as by cp -p
    return manifest, root, folder


def test_a_run_that_continues_features_of_another_engine_says_so(tmp_path, caplog):
    manifest, root = make_root(tmp_path / "videos")
    folder = drive(tmp_path / "f", manifest, root, engine="openvino 1")
    warn_of_other_engine(folder, "openvino 1")
    assert not caplog.records and stream_status(folder).engines == ("openvino 1",)
    warn_of_other_engine(folder, "torch 2")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"{folder.path}: its features were made by openvino 1, new ones are by torch" in warning


def test_a_second_engine_is_noticed_when_the_first_comes_back(tmp_path, caplog):
    """Of two ranks, one of which has gone on with another engine."""
    ids, (both, share) = IDS[:3], ("openvino 1, torch 2", Share(1, 2))
    manifest, root = make_root(tmp_path / "videos", ids)
    drive(tmp_path / "f", manifest, root, engine="openvino 1")
    manifest, root = make_root(tmp_path / "videos", [*ids, "a", "b", "c"])
    folder = drive(tmp_path / "f", manifest, root, share=share, engine="torch 2")
    assert folder.provenance == {"engine": "openvino 1"}
    warn_of_other_engine(folder, "openvino 1")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "its features were made by torch 2, new ones are by openvino 1" in warning
    (note,) = verify_stream(folder).notes
    assert note.startswith(f"the features were made by {both}: ") and "another --out" in note
    assert stream_status(folder).engines == ("openvino 1", "torch 2")
    for command in ("status", "verify"):
        result = run_command(command, folder.path)
        assert result.exit_code == 0 and f"made by {both}: " in result.stderr
    merged = merge([folder.path], tmp_path / "merged")
    assert verify_stream(StreamFolder.open(merged[0].path)).notes == (note,)


def test_what_counts_is_the_engine_that_made_the_features_that_are_there(tmp_path, caplog):
    manifest, root = make_root(tmp_path / "videos", IDS[:3])

    def broken(task: Task) -> Report:
        write_failure(task.targets["rgb"], SPEC, {"video_id": task.video.video_id}, "broken")
        return Report(task.video.video_id, FAILED, "broken", "damaged")

    drive(tmp_path / "f", manifest, root, broken, engine="openvino 1")
    folder = drive(tmp_path / "f", manifest, root, retry=True, engine="torch 2")
    warn_of_other_engine(folder, "torch 2")
    assert not caplog.records and stream_status(folder).engines == ("torch 2",)
    for journal in folder.path.glob("events-*"):
        journal.unlink()
    assert stream_status(folder).engines == ("openvino 1",)  # spec.json is all that is known


def test_a_file_that_was_replaced_is_named_and_its_features_stay(replaced, caplog):
    manifest, root, folder = replaced
    before = content(folder.path)
    drive(folder.path, manifest, root, never)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("1 video replaced since") and "made: 'v4': the" in warning
    assert "--retry-failed" in warning
    assert content(folder.path) == before
    (problem,) = verify_stream(folder, SourceIndex(root)).problems
    assert "v4 is not the file" in problem and "it has 7 bytes, not 1" in problem


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_file_that_was_replaced_is_done_again_with_retry_failed(replaced, caplog, is_killed):
    manifest, root, folder = replaced
    before, done = content(folder.path), []

    def worker(task: Task) -> Report:
        done.append(task.video.video_id)
        report = reading_worker(task)
        if is_killed:
            raise MemoryError("as good as a kill: its file is there, its row is not")
        return report

    with pytest.raises(MemoryError) if is_killed else nullcontext():
        drive(folder.path, manifest, root, worker, retry=True)
    drive(folder.path, manifest, root, never)
    drive(folder.path, manifest, root, never, retry=True)
    assert done == ["v4"] and not caplog.records
    after = content(folder.path)
    assert {each for each in after if after[each] != before[each]} == {"v4"}
    assert verify_stream(folder, SourceIndex(root)).problems == ()


def broken_worker(task: Task) -> Report:
    """Finds every file broken."""
    reason = f"{task.source.name} is cut off"
    write_failure(task.targets["rgb"], SPEC, {"video_id": task.video.video_id}, reason, "damaged")
    return Report(task.video.video_id, FAILED, reason, "damaged")


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_final", [True, False])
def test_features_stay_when_the_file_that_replaced_theirs_is_broken(
    tmp_path, caplog, is_final, is_killed
):
    manifest, root = make_root(tmp_path / "videos", ["v3", "v4", "v5"])

    def first(task: Task) -> Report:
        is_left = task.video.video_id == "v3" and not is_final
        return Report("v3", SKIPPED, "worker died") if is_left else reading_worker(task)

    def second(task: Task) -> Report:
        report = broken_worker(task)
        if is_killed and task.video.video_id == "v4":
            raise MemoryError("as good as a kill")
        return report

    folder = drive(tmp_path / "f", manifest, root, first)
    assert folder.final_shards() == ({0} if is_final else set())
    time.sleep(0.01)
    (root / "v4").write_bytes(b"a cut copy")
    before, row = content(folder.path), read_rows(folder.path)["v4"]
    with pytest.raises(MemoryError) if is_killed else nullcontext():
        drive(folder.path, manifest, root, second, retry=True)
    if not is_killed:
        (warning,) = [each.getMessage() for each in caplog.records]
        assert warning.startswith("'v4': the file has changed and cannot be read (v4 is cut off)")
        assert "its features stay; restore the file" in warning
        lines = map(json.loads, (folder.path / "events-00000.jsonl").read_text().splitlines())
        (event,) = [x for x in lines if (x["event"], x["video_id"]) == ("failed", "v4")]
        assert f"'v4': {event['reason']}" == warning
    caplog.clear()
    folder = drive(folder.path, manifest, root, fake_worker)  # v3 may be left
    (warning,) = [each.getMessage() for each in caplog.records]
    assert "replaced" in warning and "'v4'" in warning
    after = content(folder.path)
    assert {each: after[each] for each in before} == before
    assert read_rows(folder.path)["v4"] == row
    assert not [each for each in tree(folder.path) if "partial" in each and "000001" in each]
    assert "v4" not in {each.video_id for each in stream_status(folder).failed}
    assert verify_stream(folder).problems == ()


def test_a_file_that_is_empty_or_cannot_be_looked_at_is_not_another_one(replaced, caplog):
    manifest, root, folder = replaced
    (root / "v4").write_bytes(b"")
    drive(folder.path, manifest, root, never, retry=True)
    assert not caplog.records
    (problem,) = verify_stream(folder, SourceIndex(root)).problems
    assert "it has 0 bytes, not 1; it is empty or cannot be looked at: restore it" in problem


def test_a_failure_is_journaled_with_its_last_reason_after_a_kill(undisturbed):
    manifest, root, folder = undisturbed

    def killed(task: Task) -> Report:
        broken_worker(task)
        raise MemoryError

    with pytest.raises(MemoryError):
        drive(folder.path, manifest, root, killed, retry=True)
    assert read_rows(folder.path)[BAD].reason == "broken"
    drive(folder.path, manifest, root, never)
    row = read_rows(folder.path)[BAD]
    assert (row.status, row.reason, row.kind) == (FAILED, f"{BAD} is cut off", "damaged")
    rows = (folder.path / "manifest-00000.csv").read_bytes()
    drive(folder.path, manifest, root, never)
    assert (folder.path / "manifest-00000.csv").read_bytes() == rows


@pytest.mark.parametrize("place", ["its own file", "the final shard"])
def test_features_that_the_journal_alone_has_are_an_error_with_the_remedy(undisturbed, place):
    """Kills of older versions left such folders."""
    manifest, root, folder = undisturbed
    video_id, failure = "video 1", StoredVideo({**FAILURE, "video_id": "video 1"})
    own, shard = folder.partial_video(folder.plan.places[video_id]), folder.shard(0)
    if place == "its own file":
        own.parent.mkdir()
        write_shard(own, SPEC, [failure])
        file, remedy = own, "run the same extract again"
    else:
        write_shard(shard, SPEC, [folder.stored(IDS[0]), failure, folder.stored(IDS[2])])
        file, remedy = shard, f"remove {folder.path}/manifest-*.csv and run the same extract again"
    with open_features(folder.path) as features:
        for read in (lambda: features[video_id].rgb, lambda: features[video_id].spans):
            with pytest.raises(FeaturesError) as caught:
                read()
            words = str(caught.value)
            assert words.startswith(f"{file}: {video_id!r}: no features, it has failed (broken)")
            assert words.endswith(f": {remedy}")
    (problem,) = verify_stream(folder).problems
    assert problem.startswith(f"{file}: {video_id!r}: ") and problem.endswith(f": {remedy}")
    if place == "the final shard":
        (folder.path / "manifest-00000.csv").unlink()
    drive(folder.path, manifest, root, never)
    assert verify_stream(folder).problems == ()
    is_done = video_id in open_features(folder.path)
    assert is_done == (place == "its own file")


def test_verify_compares_the_content_of_each_file(replaced):
    _, root, folder = replaced
    (root / "v4").write_bytes(b"y")
    (root / "v5").unlink()
    (root / "v6").unlink()
    os.mkfifo(root / "v6")
    assert verify_stream(folder).problems == ()
    found = verify_stream(folder, SourceIndex(root)).problems
    assert len(found) == 3
    assert "'v4'" in found[0] and "its content differs; extract it into another --out" in found[0]
    assert "neither v5 nor another v5 is under" in found[1]
    assert "it has 0 bytes, not 1" in found[2]


def test_a_shard_of_more_videos_than_may_be_open_becomes_final(tmp_path):
    ids = [f"v{n}" for n in range(40)]
    manifest, root = make_root(tmp_path / "videos", ids)
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, ids, shard_size=len(ids))
    extraction = Extraction([folder], manifest, root, Share())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 12, hard))
    try:
        extraction.run(in_process(lambda: fake_worker))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert folder.final_shards() == {0}
    assert verify_stream(folder).videos == len(ids)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank, world_size):
    with pytest.raises(ValueError, match="world_size"):
        Share(rank, world_size)


def test_a_failed_video_is_done_again_on_request_and_replaces_its_failure(undisturbed):
    manifest, root, folder = undisturbed

    def repaired(task: Task) -> Report:
        assert task.video.video_id == BAD
        video = stored_video(BAD, num_clips=2)
        with Draft(task.targets["rgb"], SPEC) as draft:
            draft.append(features_of(video))
            draft.commit({"video_id": BAD, "num_frames": 40}, video.spans)
        return Report(BAD, DONE, num_clips=2, num_frames=40, checksums={"rgb": draft.checksum})

    before = content(folder.path)
    drive(folder.path, manifest, root, repaired, retry=True)
    assert verify_stream(folder).problems == ()
    assert stream_status(folder).is_complete
    after = content(folder.path)
    again = stored_video(BAD, num_clips=2)
    assert after.pop(BAD) == features_of(again).tobytes() + again.spans.tobytes()
    assert after == before


def test_failures_of_another_manifest_keep_no_parts_of_a_shard(tmp_path):
    manifest, root = make_root(tmp_path / "videos")

    def failing(task: Task) -> Report:
        video_id = task.video.video_id
        write_failure(task.targets["rgb"], SPEC, {"video_id": video_id}, "broken")
        return Report(video_id, FAILED, "broken", "damaged")

    folder = drive(tmp_path / "f", manifest, root, failing)
    fewer = Manifest(manifest.path, manifest.videos[:1])
    extraction = Extraction([folder], fewer, root, Share())
    extraction.recover()
    extraction.run(in_process(lambda: fake_worker), retry_failed=True)
    assert not list(folder.path.rglob("*.partial"))
    assert {row.video_id for row in stream_status(folder).failed} == set(IDS[1:])


def test_a_failed_video_that_is_done_again_in_another_world_size_counts_once(tmp_path):
    ids = [f"v{n}" for n in range(12)]
    manifest, root = make_root(tmp_path / "videos", ids)
    path = tmp_path / "f"

    def failing(*bad: str):
        def work(task: Task) -> Report:
            if task.video.video_id not in bad:
                return fake_worker(task)
            write_failure(task.targets["rgb"], SPEC, {"video_id": task.video.video_id}, "broken")
            return Report(task.video.video_id, FAILED, "broken", "damaged")

        return work

    for rank in range(4):
        drive(path, manifest, root, failing("v1", "v4", "v10"), Share(rank, 4))
    found = stream_status(StreamFolder.open(path))
    assert (found.done, {row.video_id for row in found.failed}) == (9, {"v1", "v4", "v10"})
    for rank in range(2):
        drive(path, manifest, root, failing("v4"), Share(rank, 2), retry=True)
    found = stream_status(StreamFolder.open(path))
    assert (found.done, [row.video_id for row in found.failed]) == (11, ["v4"])
    folder = drive(path, manifest, root, retry=True)
    found = stream_status(StreamFolder.open(path))
    assert found.is_complete and (found.done, found.num_clips) == (12, 60)
    assert verify_stream(folder).problems == ()
    (path / "manifest-00000.csv").unlink()
    drive(path, manifest, root)
    assert stream_status(StreamFolder.open(path)).is_complete


def test_a_skipped_video_is_left_for_the_next_run(tmp_path):
    manifest, root = make_root(tmp_path / "videos")

    def skips_one(task: Task) -> Report:
        if task.video.video_id == IDS[0]:
            return Report(IDS[0], SKIPPED, "worker died")
        return fake_worker(task)

    folder = drive(tmp_path / "f", manifest, root, skips_one)
    assert stream_status(folder).missing == (IDS[0],)
    drive(tmp_path / "f", manifest, root)
    assert stream_status(folder).missing == ()


def test_a_grown_manifest_adds_shards_and_leaves_the_others_alone(undisturbed, tmp_path):
    _, root, folder = undisturbed
    before = [folder.shard(n).read_bytes() for n in range(3)]
    manifest, root = make_root(root, [*IDS, "new"])
    drive(folder.path, manifest, root)
    assert [folder.shard(n).read_bytes() for n in range(3)] == before
    assert "new" in content(folder.path)


def test_a_run_whose_plan_is_not_that_on_the_disk_ends_before_it_writes(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    folder = StreamFolder.prepare(tmp_path / "f", SPEC, IDS, 3)
    (folder.path / "plan.csv").unlink()
    StreamFolder.prepare(folder.path, SPEC, ["another", *IDS], 3)
    before = tree(folder.path)
    with pytest.raises(FeaturesError, match=r"plan\.csv: another run has added other videos"):
        with locked_extraction([folder], manifest, root, Share()):
            raise AssertionError("it would write")
    assert tree(folder.path) == before


def test_a_run_whose_plan_is_replaced_ends_before_its_next_commit(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    plan, done = tmp_path / "f" / "plan.csv", []

    def worker(task: Task) -> Report:
        done.append(task.video.video_id)
        if len(done) == 2:  # only grown: it goes on
            StreamFolder.prepare(plan.parent, SPEC, [*IDS, "new"], 3)
        if len(done) == 3:
            plan.unlink()
            StreamFolder.prepare(plan.parent, SPEC, ["another", *IDS], 3)
        return fake_worker(task)

    with pytest.raises(FeaturesError, match="another run has added other videos"):
        drive(plan.parent, manifest, root, worker)
    assert len(done) == 3 and set(read_rows(plan.parent)) == set(done[:2])


def test_a_missing_file_is_a_task_without_a_source(tmp_path):
    manifest, root = make_root(tmp_path / "videos")
    (root / IDS[1]).unlink()
    tasks = []
    drive(tmp_path / "f", manifest, root, lambda task: tasks.append(task) or fake_worker(task))
    assert [task.video.video_id for task in tasks if task.source is None] == [IDS[1]]


def test_a_full_disk_stops_the_run_and_the_next_goes_on(undisturbed, tmp_path, monkeypatch):
    manifest, root, folder = undisturbed
    path = tmp_path / "full"
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if 19 <= len(calls) < 24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match="the disk is full: make space"):
            drive(path, manifest, root)
    drive(path, manifest, root)
    assert content(path) == content(folder.path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_with_everything_committed(tmp_path, number):
    manifest, root = make_root(tmp_path / "videos")
    path = tmp_path / "f"
    before = signal.getsignal(number)

    def signalled(task: Task) -> Report:
        if task.video.video_id == IDS[2]:
            os.kill(os.getpid(), number)
        return fake_worker(task)

    with pytest.raises(Stopped, match=signal.Signals(number).name):
        drive(path, manifest, root, signalled)
    assert signal.getsignal(number) is before
    assert set(read_rows(path)) == set(IDS[3:])
    assert stream_status(drive(path, manifest, root)).missing == ()


def test_a_worker_that_dies_amid_a_file_when_the_run_ends_leaves_no_half_file(tmp_path):
    manifest, root = make_root(tmp_path / "videos")

    def runner(tasks, on_start):
        yield in_process(lambda: fake_worker)(tasks, on_start).__next__()
        on_start(tasks[1])
        target = tasks[1].targets["rgb"]
        code = "import sys, time; open(sys.argv[1] + str(__import__('os').getpid()) + '-0', 'w')"
        half = f"{target}.tmp-{socket.gethostname()}-"
        dying = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(0.7)", half])
        threading.Thread(target=dying.wait).start()  # as Ray's processes are nobody's children
        wait_for(lambda: list(target.parent.glob("*.tmp-*")))
        raise OutputError("cannot write it")

    path = tmp_path / "f"
    folder = StreamFolder.prepare(path, SPEC, [each.video_id for each in manifest.videos], 3)
    extraction = Extraction([folder], manifest, root, Share())
    with pytest.raises(OutputError):
        extraction.run(runner)
    assert not [name for name in tree(path) if ".tmp-" in name]


def test_stop_on_signals_has_its_own_exit_code():
    with pytest.raises(Stopped) as caught, stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 75


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_python_swallowed_comes_at_the_next_step():
    class Noisy:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # the handler runs between two of these
                pass

    with pytest.raises(Stopped), stop_on_signals():
        thing = Noisy()
        del thing
        check_stop()
    check_stop()  # outside the block nothing is asked any more


@pytest.mark.parametrize(
    ("device", "precision", "lines"),
    [("cuda", "bf16", 1), ("cuda", "fp16", 1), ("cuda", "tf32", 0), ("cpu", "bf16", 0)],
)
def test_a_run_in_16_bits_warns_of_a_gpu_that_computes_conv3d_badly(
    device: str, precision: str, lines: int, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1")
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91002)
    stream = StreamPlan(standin_spec(precision=precision), "random:0")
    warn_of_conv3d(ExtractionPlan((stream,), None, device))
    assert ["cuDNN 9.10.2 is slow" in each.getMessage() for each in caplog.records] == (
        [True] * lines
    )
