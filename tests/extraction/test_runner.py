"""In process and on Ray: the same bytes, whatever dies; and a clean stop at a signal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
from support.interrupted import SPEC, extract_all, make_standin
from support.kill_many import (
    differences,
    family,
    files_in,
    make_videos,
    snippets,
    start,
    survivors,
    wait_for_moment,
)
from support.standin import standin_extractor
from support.videos import write_video
from support.waiting import wait_for

from vadprep.core.errors import ClusterError, OutputError, SpecError, Stopped
from vadprep.core.records import RUNNING, SKIPPED, Report, Task
from vadprep.core.resources import worker_cores
from vadprep.extraction import ray_runner
from vadprep.extraction.api import extract
from vadprep.extraction.extractor import Extractor
from vadprep.extraction.ray_runner import Pool, on_ray
from vadprep.extraction.run import in_process
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_events, read_rows
from vadprep.features.reader import open_features
from vadprep.features.shard import DONE
from vadprep.features.status import stream_status, verify_stream

VIDEOS = 7

pytestmark = [
    pytest.mark.usefixtures("importable_in_workers"),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Dying:
    """A worker that dies over one video, each time or only while ``marker`` is not there."""

    def __init__(self, video_id: str, marker: Path | None) -> None:
        self.video_id = video_id
        self.marker = marker
        self.extract = standin_extractor(SPEC)

    def __call__(self, task: Task) -> Report:
        if task.video.video_id == self.video_id and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.extract(task)


def test_ray_gives_the_bytes_of_one_process_though_a_worker_dies_and_leaves_nothing(
    tmp_path, videos, whole, monkeypatch
):
    folder = tmp_path / "f"
    place = Path(tempfile.mkdtemp(prefix="vp", dir="/tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    mine = f"vadprep.{zlib.crc32(socket.gethostname().encode()):08x}.left"
    for name in (mine, "vadprep.00000000.left"):  # nobody has a lock: but on another host?
        (place / name).mkdir()
    monkeypatch.chdir(tmp_path)  # Ray would let workers look for modules there
    for name in ("numpy", "numbers", "av"):
        Path(f"{name}.py").write_text("raise SystemExit('not the one that is installed')")
    where, has = [], {}
    worker = partial(Dying, "v3", tmp_path / "died")

    def runner(tasks, on_start):
        for report in on_ray(worker, Pool(2))(tasks, on_start):
            where.extend(place.glob("vadprep.*/session_*"))
            has.update(ray.cluster_resources())
            yield report

    before = signal.getsignal(signal.SIGTERM)
    reports = extract_all(folder, videos, runner)
    assert [report.status for report in reports] == [DONE] * VIDEOS
    assert (tmp_path / "died").exists()
    assert differences(folder, whole) == []
    assert signal.getsignal(signal.SIGTERM) is before  # Ray puts its own in place
    assert where
    assert has["object_store_memory"] == 100 << 20 and has["CPU"] == 2
    assert not ray.is_initialized()
    (place / "vadprep.00000000.left").rmdir()
    place.rmdir()  # nothing else is left in it


def starting(monkeypatch, call) -> dict:
    """Options with which Ray is started; ``call`` is called instead of its start."""
    seen = {}

    def init(**options):
        seen.update(options)
        call()

    monkeypatch.setattr(ray, "init", init)
    return seen


def test_a_start_that_fails_is_one_line_and_leaves_no_process(monkeypatch):
    started = []

    def fail():
        started.append(subprocess.Popen(["sleep", "100"]))
        raise Exception("the node\ntimed out")  # as Ray does

    starting(monkeypatch, fail)
    with pytest.raises(ClusterError) as caught:
        list(on_ray(make_standin, Pool(2))([], print))
    assert str(caught.value) == "Ray does not start here: the node; --workers 1 needs no Ray"
    assert started[0].wait(timeout=5) == -signal.SIGKILL


def test_a_start_that_hangs_is_ended(monkeypatch):
    def hang():
        if subprocess.run(["sleep", "100"]).returncode:
            raise ConnectionError("Ray is gone")

    starting(monkeypatch, hang)
    monkeypatch.setattr(ray_runner, "START_SECONDS", 0.1)
    with pytest.raises(ClusterError, match="Ray does not start here: Ray is gone"):
        list(on_ray(make_standin, Pool(2))([], print))


def test_programs_of_the_caller_that_are_called_as_those_of_ray_go_on(monkeypatch, tmp_path):
    """Whenever they were started; and so does another Ray of the caller."""
    package = Path(ray.__file__).parent
    started = []

    def start_program(path: Path) -> None:
        words = [sys.executable, "-Sc", "import time; time.sleep(100)", str(path)]
        started.append(subprocess.Popen(words))

    def start_some():
        start_program(package / "autoscaler" / "_private" / "monitor.py")
        start_program(tmp_path / "monitor.py")

    starting(monkeypatch, start_some)
    start_program(package / "dashboard" / "dashboard.py")
    start_program(tmp_path / "log_monitor.py")
    try:
        list(on_ray(make_standin, Pool(2))([], print))
        assert started[2].wait(timeout=5) == -signal.SIGKILL
        assert [each.poll() for each in started] == [None, None, -signal.SIGKILL, None]
    finally:
        for each in started:
            each.kill()
            each.wait()


def test_without_shared_memory_ray_keeps_its_objects_in_the_session(monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/shm" and access(path, mode))
    seen = starting(monkeypatch, lambda: None)
    list(on_ray(make_standin, Pool(2))([], print))
    assert seen["_plasma_directory"] == seen["_temp_dir"]


class Slow:
    """A worker that takes some seconds for a video, and says how far it is."""

    def __init__(self) -> None:
        self.extract = standin_extractor(SPEC)

    def steps(self, task: Task):
        for share in (0.2, 0.4, 0.6):
            yield Report(task.video.video_id, RUNNING, share=share)
            time.sleep(1.5)
        yield self.extract(task)


@pytest.mark.slow
def test_how_far_a_video_is_in_a_worker_is_known_while_it_runs(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", 40)
    seen = []

    def runner(tasks, on_start):
        for report in on_ray(Slow, Pool(1))(tasks, on_start):
            seen.append((report.status, report.share))
            yield report

    (report,) = extract_all(tmp_path / "f", tmp_path / "videos", runner)
    assert report.status == DONE and seen[-1] == (DONE, 0.0)
    assert {(RUNNING, share) for share in (0.2, 0.4, 0.6)} >= {*seen[:-1]} and len({*seen}) >= 3


# ---------------------------------------------------------------- workers that die or fail


@pytest.mark.slow
def test_a_video_that_kills_two_workers_is_left_for_the_next_run(tmp_path, videos, whole):
    folder = tmp_path / "f"
    reports = extract_all(folder, videos, on_ray(partial(Dying, "v3", None), Pool(1)))
    starts = Counter(each.video_id for each in read_events(folder) if each.event == "start")
    assert starts.pop("v3") == 2
    assert set(starts.values()) == {1}  # none was sent to the dead
    skipped = [report for report in reports if report.status == SKIPPED]
    assert [report.video_id for report in skipped] == ["v3"]
    assert "2 workers died over it" in skipped[0].reason
    assert stream_status(StreamFolder.open(folder)).missing == ("v3",)
    extract_all(folder, videos, in_process(make_standin))
    assert differences(folder, whole) == []


class Pair:
    """A worker of two videos at once. It dies over one of them, once it has another in hand."""

    def __init__(self, video_id: str, met: Path) -> None:
        self.video_id, self.met = video_id, met
        self.in_hand = 0
        self.extract = standin_extractor(SPEC)

    def __call__(self, task: Task) -> Report:
        self.in_hand += 1
        if task.video.video_id != self.video_id:
            if not self.met.exists():
                time.sleep(60)  # the other comes meanwhile, and ends both
        else:
            while self.in_hand < 2 and not self.met.exists():
                time.sleep(0.01)
            self.met.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.extract(task)


@pytest.mark.slow
@pytest.mark.skipif(worker_cores() < 2, reason="a worker of one core has one video")
def test_of_two_videos_in_a_worker_that_dies_only_the_guilty_one_is_left(tmp_path, videos, whole):
    folder = tmp_path / "f"
    pool = Pool(1, videos=2, most_videos=2)
    worker = partial(Pair, f"v{VIDEOS - 1}", tmp_path / "met")  # the longest comes first
    reports = extract_all(folder, videos, on_ray(worker, pool))
    statuses = {report.video_id: report.status for report in reports}
    assert statuses.pop(f"v{VIDEOS - 1}") == SKIPPED and set(statuses.values()) == {DONE}
    starts = Counter(each.video_id for each in read_events(folder) if each.event == "start")
    assert sorted(starts.values()) == [1] * (VIDEOS - 2) + [2, 2]  # the guilty and its neighbour
    extract_all(folder, videos, in_process(make_standin))
    assert differences(folder, whole) == []


class Failing:
    """A worker whose disk is full at one video."""

    def __call__(self, task: Task) -> Report:
        if task.video.video_id == "v3":
            raise OutputError("cannot write it: the disk is full")
        return make_standin()(task)


def unbuildable() -> Extractor:
    raise SpecError("the weights are others")


@pytest.mark.parametrize(
    ("worker", "error"),
    [(Failing, OutputError), (unbuildable, SpecError)],
)
@pytest.mark.slow
def test_an_error_of_a_worker_ends_the_run_as_it_would_in_process(tmp_path, videos, worker, error):
    folder = tmp_path / "f"
    with pytest.raises(error):
        extract_all(folder, videos, on_ray(worker, Pool(2)))
    assert "v3" not in read_rows(folder)
    assert not ray.is_initialized()


# ---------------------------------------------------------------- a stop by a signal


@pytest.mark.parametrize(
    ("runner", "number"),
    [
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGUSR1, marks=pytest.mark.slow),
        ("process", signal.SIGTERM),
    ],
)
def test_a_signal_stops_within_ten_seconds_and_leaves_nothing_behind(
    tmp_path, videos, whole, runner, number
):
    folder = tmp_path / "f"
    process = start(folder, videos, runner, 2)
    wait_for_moment(process, {folder: 0})
    wait_for_commit(folder)
    members = family(process)
    sent = time.monotonic()
    process.send_signal(number)
    _, words = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert process.returncode == 75, words.decode()
    assert number.name in words.decode()
    assert survivors(members) == []
    assert not [name for name in files_in(folder) if ".tmp" in name]
    committed = set(read_rows(folder))
    assert committed
    extract_all(folder, videos, in_process(make_standin))
    assert differences(folder, whole) == []


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_the_run_though_rays_head_is_gone(tmp_path, videos, whole):
    folder = tmp_path / "f"
    process = start(folder, videos, "ray", 2)
    wait_for_moment(process, {folder: 0})
    members = family(process)
    (head,) = [each for each in members if "gcs_server" in each.name()]
    head.terminate()
    time.sleep(2)  # now the driver waits for it, to be told which nodes there are
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, words = process.communicate(timeout=50)  # Ray gives its head up after 60 s
    assert process.returncode == 75, words.decode()
    assert survivors(members) == []
    extract_all(folder, videos, in_process(make_standin))
    assert differences(folder, whole) == []


def wait_for_commit(folder: Path) -> None:
    wait_for(lambda: read_rows(folder))


@pytest.mark.slow
def test_a_signal_while_ray_starts_is_not_lost(tmp_path, videos, monkeypatch):
    real = ray.init

    def init(**options):
        os.kill(os.getpid(), signal.SIGUSR1)
        result = real(**options)
        os.kill(os.getpid(), signal.SIGUSR1)
        return result

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(Stopped, match="SIGUSR1"):
        extract_all(tmp_path / "f", videos, on_ray(make_standin, Pool(1)))
    assert not ray.is_initialized()


# ---------------------------------------------------------------- the real network


@pytest.mark.slow
def test_the_real_network_gives_the_same_bytes_on_ray(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        write_video(videos / f"v{number}.mp4", 33 + 16 * number, size=(128, 96))
    for workers in (1, 2):
        out = tmp_path / f"out-{workers}"
        extract(videos, out, weights="random:0", workers=workers).close()
        folder = StreamFolder.open(out / "rgb")
        assert verify_stream(folder).problems == ()
        assert stream_status(folder).num_clips == 5
    assert snippets(tmp_path / "out-1") == snippets(tmp_path / "out-2")


CLI = "from vadprep.cli.main import main; main()"


@pytest.mark.slow
def test_a_user_without_a_home_folder_can_run_under_uv(tmp_path: Path) -> None:
    """As in a container with another user id: Ray finds no place there for its token.

    Under uv, Ray would pack the working directory: it refuses a pyproject.toml above it.
    """
    (tmp_path / "pyproject.toml").touch()
    work = tmp_path / "work"
    (work / "videos").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        write_video(work / "videos" / name, 32)
    (work / "run").write_text('"$@"; exit $?')
    command = ["extract", "--videos", "videos", "--out", "f", "--weights", "random:0"]
    result = subprocess.run(
        ["uv", "run", sys.executable, "-c", CLI, *command, "--workers", "2"],
        executable="/bin/sh",
        env={**os.environ, "HOME": "/proc/none"},
        cwd=work,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert sorted(open_features(work / "f")) == ["a", "b"]


READ_ONLY = ("unshare", "-m", "--propagation", "private", "sh", "-c",
             'mount -o remount,bind,ro /dev/shm && exec "$@"', "sh")  # fmt: skip
"""Runs a command that cannot write /dev/shm. Without ``bind`` nobody on the machine could."""


@pytest.mark.slow
def test_ray_works_in_a_temporary_folder_with_blanks_and_without_shared_memory(tmp_path):
    """In a real process, which leaves neither files nor processes."""
    place = Path(tempfile.mkdtemp(prefix="v p", dir="/tmp"))  # short, for the sockets of Ray
    can_mount = subprocess.run([*READ_ONLY, "true"], capture_output=True).returncode == 0
    assert os.access("/dev/shm", os.W_OK)  # here
    videos = make_videos(tmp_path / "videos", 2)
    script = Path(__file__).parents[1] / "support" / "interrupted.py"
    paths = os.pathsep.join(map(str, (script.parents[2], script.parents[1])))
    process = subprocess.Popen(
        [*READ_ONLY * can_mount, sys.executable, script, tmp_path / "f", videos, "ray", "2"],
        env=os.environ | {"TMPDIR": str(place), "PYTHONPATH": paths},
        start_new_session=True,
    )
    kin: set[psutil.Process] = set()
    while process.poll() is None:
        kin.update(family(process))
        time.sleep(0.2)
    assert process.returncode == 0 and survivors(list(kin)) == []
    with open_features(tmp_path / "f") as features:
        assert len(features) == 2
    assert list(place.iterdir()) == []
    place.rmdir()
