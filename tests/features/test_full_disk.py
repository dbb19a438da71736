"""A disk that is full, or is not to be written any more, in the middle of a run.

The run ends with one line and exit code 1, nothing half written is left, and the same command
goes on once there is space again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interrupted import extract_all, make_standin
from support.kill_many import differences, family, files_in, start, survivors
from support.waiting import wait_for

from vadprep.extraction.run import in_process
from vadprep.features.journal import read_rows

VIDEOS = 16
MS_REMOUNT, MNT_DETACH = 32, 2
"""From <sys/mount.h>."""

LIBC = ctypes.CDLL(None, use_errno=True)


class Disk:
    """A file system of its own, in memory, with the folder of an extraction on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path / "f"
        path.mkdir()
        if LIBC.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, b"size=64m"):
            pytest.skip(f"this process may not mount: {os.strerror(ctypes.get_errno())}")

    def remount(self, options: bytes) -> None:
        """Change the size while files are open."""
        if LIBC.mount(b"tmpfs", str(self.path).encode(), b"tmpfs", MS_REMOUNT, options):
            raise OSError(ctypes.get_errno(), "cannot remount")

    def used_kib(self) -> int:
        stands = os.statvfs(self.path)
        return (stands.f_blocks - stands.f_bfree) * stands.f_frsize >> 10

    def forbid(self, sign: str) -> None:
        """Take the permission to make and remove files (+), which holds for root too; give it
        back (-)."""
        folders = [path for path in self.folder.rglob("*") if path.is_dir()]
        done = subprocess.run(["chattr", f"{sign}i", *folders], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            pytest.skip(f"no file can be made immutable here: {done.stderr.strip()}")

    def unmount(self) -> None:
        LIBC.umount2(str(self.path).encode(), MNT_DETACH)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


def fill_up(disk: Disk) -> None:
    """No room but for a page or two."""
    while True:
        try:
            return disk.remount(f"size={disk.used_kib() + 8}k".encode())
        except OSError as error:  # more was written meanwhile than there is to be room for
            if error.errno != errno.EINVAL:
                raise


def forbid(disk: Disk) -> None:
    disk.forbid("+")


def repair(disk: Disk) -> None:
    disk.remount(b"size=64m")
    disk.forbid("-")


@pytest.mark.parametrize(
    ("runner", "harm", "words"),
    [
        ("process", fill_up, "the disk is full: make space and run the same command again"),
        pytest.param("process", forbid, "no permission to write there", marks=pytest.mark.slow),
        pytest.param(*("ray", fill_up, "the disk is full: make space"), marks=pytest.mark.slow),
        pytest.param(*("ray", forbid, "no permission to write there"), marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_refuses_stops_the_run_and_it_goes_on_afterwards(
    disk, videos, whole, runner, harm, words
):
    folder = disk.folder
    process = start(folder, videos, runner, 2)
    wait_for(lambda: read_rows(folder), 120)
    members = family(process)
    try:
        harm(disk)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1, said.decode()
    assert words in said.decode().splitlines()[-1], said.decode()
    assert survivors(members) == []
    committed = set(read_rows(folder))
    assert committed and len(committed) < VIDEOS
    if harm is fill_up:  # the others forbid to remove files as well
        assert not [name for name in files_in(folder) if ".tmp-" in name]
    repair(disk)
    extract_all(folder, videos, in_process(make_standin))
    assert differences(folder, whole) == []
