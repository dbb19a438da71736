"""Temporary files and folders: they have an owner, and what a kill left is removed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from typing import NoReturn

import pytest

from vadprep.core import atomic as files
from vadprep.core.atomic import (
    create_temporary,
    open_atomic,
    remove_stale,
    temporary_folder,
    temporary_name,
)
from vadprep.core.errors import OutputError


def test_only_temporary_files_of_dead_writers_here_are_removed(tmp_path):
    """A writer has a lock. The number of its process says nothing: another may have it now."""
    mine, file = create_temporary(tmp_path / "a.h5")
    dead = temporary_name(tmp_path / "a.h5")
    elsewhere = tmp_path / "a.h5.tmp-another.host-4194304-0"
    final = tmp_path / "a.h5"
    for path in (dead, elsewhere, final):
        path.touch()
    remove_stale(tmp_path)
    remove_stale(tmp_path / "gone")
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere, final])
    remove_stale(tmp_path, with_own=True)
    assert sorted(tmp_path.iterdir()) == sorted([elsewhere, final])
    file.close()


def test_without_locks_the_number_of_the_process_decides(tmp_path, monkeypatch):
    def unlocked(descriptor: int, how: int) -> NoReturn:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", unlocked)
    mine, file = create_temporary(tmp_path / "a.h5")
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-4194304-"))
    dead.touch()
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    file.close()


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    """Another process may take it for left just then."""
    flock, lost = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not lost:
            lost.extend(tmp_path.iterdir())
            remove_stale(tmp_path)
        flock(descriptor, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with open_atomic(tmp_path / "a.h5") as stream:
        stream.write(b"whole")
    assert (tmp_path / "a.h5").read_bytes() == b"whole" and len(lost) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from vadprep.core.atomic import open_atomic, open_atomic_folder, temporary_folder
with (open_atomic(Path("a.json")) as stream, open_atomic_folder(Path("b")) as folder,
      temporary_folder() as other):
    stream.write(b"half")
    (folder / "x").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_kill_left_is_removed_by_the_next_process_that_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", KILLED], env=environment)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_atomic(tmp_path / "c.json"):
        assert len([path for path in tmp_path.iterdir() if ".tmp-" in path.name]) == 1
    with temporary_folder() as folder:
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "c.json", folder])


def test_two_writers_of_one_file_never_mix(tmp_path):
    target = tmp_path / "a.json"
    with open_atomic(target) as one, open_atomic(target) as other:
        one.write(b"one")
        other.write(b"other")
        remove_stale(tmp_path)
    assert target.read_bytes() == b"one"  # the one that ended last
    assert list(tmp_path.iterdir()) == [target]


def test_no_place_for_temporary_files_is_one_line_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    with pytest.raises(OutputError, match="set TMPDIR to a folder"), temporary_folder():
        pass
