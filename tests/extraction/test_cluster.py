"""A cluster of several nodes: they leave and join, and some cannot do the work."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from support.interrupted import SPEC, extract_all, make_standin
from support.kill_many import differences, files_in
from support.standin import standin_extractor
from support.waiting import wait_for

from vadprep.core.errors import ClusterError, WeightsError
from vadprep.core.records import Report, Task, Video
from vadprep.extraction.ray_runner import Pool, on_ray
from vadprep.extraction.workload import NodeCheck, node_check
from vadprep.features.journal import read_events
from vadprep.features.shard import DONE

VIDEOS = 9

pytestmark = [
    pytest.mark.usefixtures("importable_in_workers"),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
"""From <sched.h> and <sys/mount.h>."""


@pytest.fixture(autouse=True)
def quiet_ray(monkeypatch):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture
def cluster():
    """One node, without a core for workers; ``add_node`` adds others."""
    made = Cluster(
        initialize_head=True,
        shutdown_at_exit=False,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **MEMORY},
    )
    yield made
    ray.shutdown()
    made.shutdown()


MEMORY = {"object_store_memory": 80 << 20}


class Slow:
    """A worker that takes a while for each video, and writes down which process did it."""

    def __init__(self, log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds
        self.extract = standin_extractor(SPEC)

    def __call__(self, task: Task) -> Report:
        node = ray.get_runtime_context().get_node_id()
        with open(self.log, "a") as stream:
            stream.write(f"{node} {task.video.video_id}\n")
        time.sleep(self.seconds)
        return self.extract(task)


def done_by(log: Path) -> dict[str, list[str]]:
    """Node -> the videos that it was given."""
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        node, video_id = line.split()
        found.setdefault(node, []).append(video_id)
    return found


def starts(folder: Path) -> Counter[str]:
    return Counter(each.video_id for each in read_events(folder) if each.event == "start")


@pytest.mark.slow
@pytest.mark.parametrize("is_graceful", [True, False])
def test_a_node_leaves_and_another_joins_and_nothing_is_lost_or_double(
    cluster, tmp_path, videos, whole, caplog, is_graceful
):
    folder, log = tmp_path / "f", tmp_path / "log"
    leaving, staying = (cluster.add_node(num_cpus=1, **MEMORY) for _ in "ab")
    late = []
    pool = Pool(3, address=cluster.address, out=folder)
    runner = on_ray(partial(Slow, log, 1.5), pool)

    def disturbed(tasks, on_start):
        for number, report in enumerate(runner(tasks, on_start)):
            if number == 1:
                cluster.remove_node(leaving, allow_graceful=is_graceful)
                late.append(cluster.add_node(num_cpus=1, **MEMORY))
            yield report

    with caplog.at_level(logging.WARNING):
        reports = extract_all(folder, videos, disturbed)
    assert Counter(report.video_id for report in reports) == Counter(
        f"v{number}" for number in range(VIDEOS)
    )
    assert {report.status for report in reports} == {DONE}
    assert differences(folder, whole) == []
    by_node = done_by(log)
    assert by_node[leaving.node_id] and by_node[staying.node_id] and by_node[late[0].node_id]
    again = [video_id for video_id, count in starts(folder).items() if count > 1]
    assert len(again) <= 1 and max(starts(folder).values()) <= 2  # what the node had in hand
    said = [record.getMessage() for record in caplog.records]
    assert sum("3 workers asked for, and the cluster has CPUs for 2" in each for each in said) == 1
    assert sum("is gone: its videos are done again" in each for each in said) == len(again)
    assert "died over" not in " ".join(said)  # no video was blamed
    assert not [name for name in files_in(folder) if "tmp" in name]


def hidden_node(cluster: Cluster, folder: Path):
    """A node that has another, empty folder in the place of ``folder``."""
    made = []

    def start() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            return
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        if not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, None):
            made.append(cluster.add_node(num_cpus=1, **MEMORY))

    thread = threading.Thread(target=start)  # whose mounts are its own, and of what it starts
    thread.start()
    thread.join()
    if not made:
        pytest.skip("this process may not mount anything")
    return made[0]


@pytest.mark.slow
def test_a_node_without_the_output_folder_is_reported_and_unused(
    cluster, tmp_path, videos, whole, caplog
):
    folder, log = tmp_path / "f", tmp_path / "log"
    folder.mkdir()
    good = cluster.add_node(num_cpus=1, **MEMORY)
    bad = hidden_node(cluster, folder)
    pool = Pool(2, address=cluster.address, out=folder)
    with caplog.at_level(logging.WARNING):
        reports = extract_all(folder, videos, on_ray(partial(Slow, log, 0.0), pool))
    assert {report.status for report in reports} == {DONE}
    assert differences(folder, whole) == [] and set(starts(folder).values()) == {1}
    assert set(done_by(log)) == {good.node_id} and bad.node_id != good.node_id
    said = [each.getMessage() for each in caplog.records if "gets no videos" in each.getMessage()]
    assert len(said) == 1 and f"{folder} is another folder there" in said[0]


class Unable:
    """A worker that cannot be built."""

    def __init__(self) -> None:
        raise WeightsError("/w.pt: no such file")


@pytest.mark.slow
def test_without_a_node_that_can_do_the_work_the_run_ends_with_the_reasons(
    cluster, tmp_path, videos
):
    for _ in "ab":
        cluster.add_node(num_cpus=1, **MEMORY)
    pool = Pool(2, address=cluster.address, out=tmp_path / "f")
    with pytest.raises(ClusterError, match="no node of the cluster can do the work") as found:
        extract_all(tmp_path / "f", videos, on_ray(Unable, pool))
    assert str(found.value).count("/w.pt: no such file") == 2 and found.value.exit_code == 2
    assert starts(tmp_path / "f") == {}
    wanted = Pool(1, gpus_each=1, address=cluster.address, out=tmp_path / "f")
    with pytest.raises(ClusterError, match="has no GPUs"):
        extract_all(tmp_path / "f", videos, on_ray(Unable, wanted))
    assert not [name for name in files_in(tmp_path) if "tmp-" in name]


HOLDER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
class Holder:
    def here(self): pass
held = ray.remote(Holder).options(num_cpus=1).remote()
ray.get(held.here.remote())
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_wait_for_what_others_hold_and_say_so(cluster, tmp_path, videos, caplog):
    cluster.add_node(num_cpus=1, **MEMORY)
    command = [sys.executable, "-c", HOLDER, cluster.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    said = "1 of the cluster's 1 CPUs are in use: workers wait until they are free, see ray status"
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()

        def let_go_when_told() -> None:
            try:
                wait_for(lambda: said in caplog.messages)
            finally:
                other.stdin.close()

        waiting = threading.Thread(target=let_go_when_told)
        waiting.start()
        runner = on_ray(make_standin, Pool(1, address=cluster.address, out=tmp_path / "f"))
        with caplog.at_level(logging.WARNING):
            reports = extract_all(tmp_path / "f", videos, runner)
        waiting.join()
    assert said in caplog.messages
    assert {report.status for report in reports} == {DONE} and len(reports) == VIDEOS


def test_an_address_without_a_cluster_is_one_line(tmp_path, videos, monkeypatch):
    def init(**options):
        raise ConnectionError("Could not find any running Ray instance.\nMore words.")

    monkeypatch.setattr(ray, "init", init)
    pool = Pool(1, address="auto", out=tmp_path)
    with pytest.raises(
        ClusterError, match="^--address auto: no cluster could be joined: .*instance.$"
    ):
        extract_all(tmp_path / "f", videos, on_ray(make_standin, pool))


# ---------------------------------------------------------------- what a node is asked


@pytest.fixture
def asked(tmp_path):
    """A folder of videos, an output folder, and what a node is asked about them."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    tasks = []
    for number in range(20):
        path = root / f"{number}.mp4"
        path.write_bytes(b"x" * (number + 1))
        tasks.append(Task(Video(path.name, path.name), {}, path))
    with node_check(tasks, out) as check:
        yield root, out, check
    assert list(out.iterdir()) == []


def test_a_node_that_sees_everything_has_no_problem(asked):
    _, out, check = asked
    check.require()
    assert len(check.sources) == 3
    assert [path.name for path in out.iterdir()] == [check.token.name]


def test_a_node_with_other_videos_another_folder_or_another_version_is_told_apart(asked, tmp_path):
    root, out, check = asked
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="0.mp4 is not there: the videos must lie under the"):
        check.require()
    root.mkdir()
    (root / "0.mp4").write_bytes(b"other")
    with pytest.raises(ClusterError, match="0.mp4 has 5 bytes there and 1 here"):
        check.require()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ClusterError, match="mine is another folder there"):
        NodeCheck(check.version, (), tmp_path / "mine" / check.token.name).require()
    with pytest.raises(ClusterError, match="not 0.0.1: install the same there"):
        NodeCheck("0.0.1", check.sources, check.token).require()
