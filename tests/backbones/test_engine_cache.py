"""What is compiled is made once, by one process, and removed when nobody uses it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.waiting import wait_for

from vadprep.backbones import engine_cache
from vadprep.backbones.engine_cache import load_or_make, one_at_a_time, read_entry, write_entry
from vadprep.core.child import child_environment
from vadprep.core.errors import OutputError

DAY = 86_400

PROGRAM = """
import sys, time
from pathlib import Path
from vadprep.backbones.engine_cache import load_or_make

def make():
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")
    time.sleep(float(sys.argv[3]))
    return b"compiled"

assert load_or_make(Path(sys.argv[1]), bytes, make)[0] == b"compiled"
"""


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return entry_at(tmp_path, 1)


def entry_at(tmp_path: Path, number: int) -> Path:
    return tmp_path / "openvino" / f"{number:032x}.blob"


def process(entry: Path, log: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, entry, log, str(seconds)]
    return subprocess.Popen(command, env=child_environment())


def test_of_several_processes_one_makes_an_entry(entry: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    workers = [process(entry, log, 0.5) for _ in range(3)]
    assert [each.wait(30) for each in workers] == [0, 0, 0]
    assert log.read_text() == "made\n"
    assert list(entry.parent.iterdir()) == [entry]


def test_the_lock_of_a_killed_process_ends_with_it(entry: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = process(entry, log, 60)
    wait_for(lambda: log.exists() and log.read_text())
    others = [process(entry, log, 0) for _ in range(2)]
    time.sleep(0.3)
    assert log.read_text() == "made\n"  # they wait
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    assert [each.wait(30) for each in others] == [0, 0]
    assert log.read_text() == "made\nmade\n"
    assert list(entry.parent.iterdir()) == [entry]


def count_made(entry: Path) -> int:
    """How often two threads make an entry between them."""
    made, first = list[int](), threading.Event()

    def make() -> bytes:
        made.append(1)
        first.set()
        time.sleep(0.2)
        return b"compiled"

    def work() -> None:
        assert load_or_make(entry, bytes, make)[0] == b"compiled"

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    first.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    return len(made)


def test_threads_wait_as_processes_do(entry: Path) -> None:
    assert count_made(entry) == 1


def test_where_no_folder_can_be_made_each_makes_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert count_made(entry_at(tmp_path / "file", 1)) == 2
    assert len(caplog.records) == 2
    assert all("VADPREP_CACHE" in record.getMessage() for record in caplog.records)


def test_who_waited_for_what_cannot_be_kept_makes_its_own(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OutputError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(engine_cache, "open_atomic", full)
    assert count_made(entry) == 2
    assert list(entry.parent.iterdir()) == []


def test_a_file_system_without_locks_does_without(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert count_made(entry) == 2
    assert read_entry(entry)


def test_nobody_waits_for_ever(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "PATIENCE", 0.1)
    with one_at_a_time(entry):  # by somebody who hangs
        assert load_or_make(entry, bytes, lambda: b"compiled")[0] == b"compiled"
        assert entry.with_suffix(".lock").exists()
    assert list(entry.parent.iterdir()) == [entry]


def test_what_cannot_be_loaded_is_made_again_and_said_once(
    entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(blob: bytes) -> str:
        if blob != b"new":
            raise ValueError("of another kind")
        return "loaded"

    write_entry(entry, b"old")
    with caplog.at_level(logging.WARNING):
        assert load_or_make(entry, load, lambda: b"new")[0] == "loaded"
    (record,) = caplog.records
    assert record.getMessage() == f"{entry}: cannot be used, made again: of another kind"


def test_what_was_not_used_for_long_goes_when_another_entry_comes(tmp_path: Path) -> None:
    entries = [entry_at(tmp_path, number) for number in range(5)]
    old, read, held, young, new = entries
    lock, foreign = old.with_suffix(".lock"), old.parent / "mine.blob"
    for path in (old, read, held, young):
        write_entry(path, b"compiled")
    for path in (lock, foreign):
        path.touch()
    for path in (old, read, held, lock, foreign):
        os.utime(path, (0, time.time() - 31 * DAY))
    os.utime(young, (0, time.time() - 29 * DAY))
    in_use = read_entry(held)
    os.utime(held, (0, time.time() - 31 * DAY))
    assert read_entry(read)  # and not kept
    write_entry(new, b"compiled")
    assert in_use and set(old.parent.iterdir()) == {read, held, young, new, foreign}
    del in_use
    write_entry(new, b"compiled")
    assert held not in old.parent.iterdir()


def test_of_too_much_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [entry_at(tmp_path, number) for number in range(4)]
    for number, path in enumerate(entries[:3]):
        write_entry(path, bytes(1000))
        os.utime(path, (0, time.time() - 100 * number))
    monkeypatch.setattr(engine_cache, "MOST_BYTES", 3500)
    write_entry(entries[3], bytes(1000))
    assert set(entries[0].parent.iterdir()) == {*entries[:2], entries[3]}
    monkeypatch.setattr(engine_cache, "MOST_BYTES", 0)
    write_entry(entries[3], bytes(1000))
    assert list(entries[0].parent.iterdir()) == [entries[3]]
