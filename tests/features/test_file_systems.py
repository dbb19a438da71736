"""File systems without locks, hard links or folder syncs do; files appear by one rename."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.commands import CHEAP, cheaply, run
from support.videos import write_video

import vadprep
from vadprep.core.atomic import is_temporary, open_atomic

APPENDED = ("manifest-", "events-", "events.out.tfevents")
"""Files that grow line by line, each by one process; readers pass over half a line."""

MANIFEST = """video_id,path,split,label,intervals
a,a.mp4,train,0,[]
b,b.mp4,train,1,
c,c.mp4,test,0,[]
d,d.mp4,test,1,"[[16, 32]]"
"""


def refuse(number: int):
    def refused(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for name in "abcd":
        write_video(tmp_path / "videos" / f"{name}.mp4", 50)
    (tmp_path / "videos" / "m.csv").write_text(MANIFEST)
    return tmp_path / "videos"


@pytest.fixture(autouse=True)
def cheap() -> Iterator[None]:
    with cheaply():
        yield


def whole_line(videos: Path, out: Path) -> None:
    """Everything that writes files for good: features, shards, checkpoints, scores, exports."""
    features, named = out / "f", ("--manifest", videos / "m.csv")
    saved = ("--streams", "rgb,flow", "--shard-size", 2, "--save-flow", out / "flow")
    for arguments in (
        ("extract", *named, "--root", videos, "--out", features, *CHEAP, *saved),
        ("verify", features),
        ("merge", features, "--shard-size", 4, "--out", out / "packed"),
        ("train", "ddl", *named, "--features", out / "packed", "--out", out / "run"),
        ("score", out / "run", "--features", features, "--out", out / "scores"),
        ("export", features, *named, "--layout", "rtfm", "--out", out / "rtfm"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """No locks, hard links or syncs of folders, and no renames from folder to folder.

    Returns the files that have appeared by a rename so far.
    """
    appeared: set[Path] = set()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    def renamed(real: Callable[[Path, Path], None], source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)
        if is_temporary(Path(source).name):
            appeared.add(Path(target))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, partial(renamed, getattr(os, name)))
    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse(errno.ENOLCK))
    return appeared


def test_a_poor_file_system_will_do_and_files_appear_by_a_rename(videos, tmp_path, poor):
    whole_line(videos, tmp_path / "out")
    files = {each for each in (tmp_path / "out").rglob("*") if each.is_file()}
    assert {each for each in files - poor if not each.name.startswith(APPENDED)} == set()
    kinds = {each.suffix for each in files & poor}
    assert {".h5", ".json", ".csv", ".safetensors", ".npy"} <= kinds


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=os.strerror)
def test_without_hard_links_the_first_writer_wins_all_the_same(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refuse(number))
    with open_atomic(tmp_path / "spec.json", replace=False) as stream:
        stream.write(b"first")
    with (
        pytest.raises(FileExistsError),
        open_atomic(tmp_path / "spec.json", replace=False) as stream,
    ):
        stream.write(b"second")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"first"]


def test_every_hdf5_file_on_a_disk_is_opened_without_a_lock():
    opened = []
    for path in Path(vadprep.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "h5py.File":
                mode = ast.literal_eval(node.args[1])
                locks = [ast.unparse(each.value) for each in node.keywords if each.arg == "locking"]
                opened.append((path.name, mode, locks))
    read = [(name, locks) for name, mode, locks in opened if mode == "r"]
    assert len(read) >= 3
    # Of the URL's file, which has no lock, HDF5 sees an object of ours.
    assert [name for name, locks in read if locks != ["False"]] == ["remote.py"]
    assert {mode for _, mode, _ in opened} == {"r", "w"}  # to memory, or to our own descriptor
