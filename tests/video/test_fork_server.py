"""Decoder processes are forks of a server, which outlives their crashes and no parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support.fake_decoder import fake_stream
from support.videos import write_video

from vadprep.core import child as child_module
from vadprep.core.errors import DecodeError
from vadprep.video import FrameStream, fork_server, open_frames

FRAMES = 60


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", FRAMES)


@pytest.fixture(autouse=True)
def none_before_and_after() -> Iterator[None]:
    fork_server.close_idle_servers()
    yield
    fork_server.close_idle_servers()
    assert not servers()


def servers() -> list[psutil.Process]:
    return [
        each for each in psutil.Process().children() if "fork_server" in " ".join(each.cmdline())
    ]


def decoded(video: Path, decoder: str = "decord") -> int:
    with open_frames(video, decoder=decoder) as stream:
        return sum(map(len, stream))


def child_of(stream: FrameStream) -> psutil.Process:
    assert stream._process is not None
    return psutil.Process(stream._process.pid)


def test_videos_have_one_server_and_a_process_each(video: Path) -> None:
    children = set()
    for decoder in ("decord", "pyav", "decord"):
        with open_frames(video, decoder=decoder) as stream:
            children.add(child_of(stream).pid)
            (server,) = servers()
            assert child_of(stream).ppid() == server.pid and server.num_threads() == 1
            assert sum(map(len, stream)) == FRAMES
    assert servers() == [server] and len(children) == 3
    assert not server.children()


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os._exit(3)", "exit code 3"),
        ("sys.exit(4)", "exit code 1: SystemExit: 4"),
    ],
)
def test_a_crash_leaves_the_server_to_the_next_video(video: Path, then: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        list(fake_stream(Path("fake.mp4"), "fake", 10, then))
    (server,) = servers()
    list(fake_stream(Path("fake.mp4"), "fake", 10, "pass"))
    assert servers() == [server]


def test_what_a_child_writes_is_not_there_for_the_next(video: Path) -> None:
    """Memory, environment, limits."""
    deeds = "import vadprep; vadprep.mark = 1; os.environ['MARK'] = '1'; os.nice(5)"
    list(fake_stream(Path("fake.mp4"), "fake", 10, deeds))
    look = """
        import resource, vadprep
        assert not hasattr(vadprep, "mark") and "MARK" not in os.environ
        assert os.getpriority(0, 0) == os.getpriority(0, os.getppid())
    """
    list(fake_stream(Path("fake.mp4"), "fake", 10, look))


def test_a_server_that_is_killed_is_replaced(video: Path) -> None:
    assert decoded(video) == FRAMES
    (server,) = servers()
    server.kill()
    assert decoded(video) == FRAMES
    (other,) = servers()
    assert other.pid != server.pid


@pytest.mark.slow
def test_a_video_outlives_its_server(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 600, size=(640, 360))
    with open_frames(path) as stream:
        blocks, child = iter(stream), child_of(stream)
        seen = len(next(blocks))
        (server,) = servers()
        server.kill()
        server.wait()
        assert seen + sum(map(len, blocks)) == 600
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()
    assert decoded(path) == 600


@pytest.mark.slow
def test_a_stream_that_is_closed_ends_its_process_without_the_server(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 600, size=(640, 360))
    stream = open_frames(path)
    child, (server,) = child_of(stream), servers()
    server.kill()
    server.wait()
    stream.close()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_a_server_that_does_not_start_is_a_crash(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('this one is broken')\n")
    monkeypatch.setattr(
        fork_server, "child_environment", lambda: {**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    monkeypatch.setattr(
        child_module, "INSTALLED_ONLY", f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; "
    )
    with pytest.raises(DecodeError, match="crashed, exit code 1: ImportError: this one is broken"):
        open_frames(video)


def test_a_change_of_the_environment_reaches_the_next_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list(fake_stream(Path("fake.mp4"), "fake", 10, "pass"))
    monkeypatch.setenv("MARK", "7")
    list(fake_stream(Path("fake.mp4"), "fake", 10, "assert os.environ['MARK'] == '7'"))
    assert len(servers()) == 1


def test_streams_at_the_same_time_have_a_server_each(video: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decoded, [video] * 8)) == [FRAMES] * 8
    assert 1 <= len(servers()) <= 4
    with open_frames(video) as one, open_frames(video) as other:
        counts = [sum(map(len, blocks)) for blocks in (one, other)]
    assert counts == [FRAMES] * 2


FORKING = """
import os, sys
from pathlib import Path
from vadprep.video import open_frames

def decoded():
    with open_frames(Path(sys.argv[1])) as stream:
        return sum(map(len, stream))

counts = [decoded()]
pid = os.fork()
if not pid:
    os._exit(0 if decoded() == counts[0] else 1)
assert os.waitpid(pid, 0)[1] == 0
print(counts + [decoded()])
"""


def test_a_fork_of_the_program_has_a_server_of_its_own(video: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(video)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (run.stdout.strip(), run.stderr) == (str([FRAMES] * 2), "")


WAITING = """
import sys, time
from pathlib import Path
import psutil
from vadprep.video import open_frames

streams = [open_frames(Path(each)) for each in sys.argv[1:]]
streams[0].close()
print(*(each.pid for each in psutil.Process().children(recursive=True)), flush=True)
time.sleep(60)
"""


def test_a_kill_of_the_program_leaves_no_process(tmp_path: Path) -> None:
    """An idle server, one with a child, and the child."""
    long = write_video(tmp_path / "a.mp4", 1000)
    command = [sys.executable, "-c", WAITING, str(long), str(long)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert parent.stdout is not None
    left = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(left) == 3
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    gone, alive = psutil.wait_procs(left, timeout=5)
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)


def test_an_idle_server_ends_by_itself(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hasty = "import vadprep.video.fork_server as server; server.IDLE_SECONDS = 0.2; "
    monkeypatch.setattr(child_module, "INSTALLED_ONLY", child_module.INSTALLED_ONLY + hasty)
    assert decoded(video) == FRAMES
    (server,) = servers()
    psutil.wait_procs([server], timeout=5)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert decoded(video) == FRAMES
