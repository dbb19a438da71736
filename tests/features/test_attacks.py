"""Feature folders and feature files that mean harm: one line, in bounded time and memory."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.attacks import FILES, JSON, is_plain, within
from support.commands import extract, run, without_network
from support.feature_attacks import (
    EVENTS,
    HDF5,
    LEASE,
    LEASE_NAMES,
    MANIFEST,
    NPY,
    PLAN,
    SPEC_JSON,
)
from support.runs import write_manifest
from support.stored import small_spec, stored_video, write_folder
from support.videos import write_video

from vadprep.core.array_files import read_npy
from vadprep.core.errors import VadprepError
from vadprep.evaluation.metrics import VideoScores
from vadprep.evaluation.scores import Origin, read_scores, write_scores
from vadprep.features.journal import Journal
from vadprep.features.reader import open_features
from vadprep.features.shard import kept_shard

SHARD = "shards/shard-00000.h5"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest m.csv of four videos and features f of them; nobody changes them."""
    place = tmp_path_factory.mktemp("place")
    write_manifest(place / "m.csv")
    videos = [stored_video(each, num_clips=2) for each in "abcd"]
    write_folder(place / "f" / "rgb", videos, shard_size=64)
    Journal(place / "f" / "rgb", 0).event("start", "a")
    return place


@pytest.fixture
def stream(place: Path, tmp_path: Path) -> Path:
    """A copy of the features of one stream, to be spoilt."""
    shutil.copytree(place / "f", tmp_path / "f")
    return tmp_path / "f" / "rgb"


def read_all(features: Path) -> None:
    """As training and the API do."""
    with open_features(features) as opened:
        for video in opened.values():
            assert len(video.rgb) == len(video.spans) and video.num_frames
            assert video.clock is not None and video.label in (0, 1)


def commands(stream: Path, place: Path) -> dict[str, tuple[object, ...]]:
    """Every command that reads feature folders, but those that train or decode."""
    features, manifest = stream.parent, ("--manifest", place / "m.csv")
    out = stream.parents[1]
    return {
        "status": ("status", features),
        "status of a video": ("status", features, "--video", "a"),
        "status by stage": ("status", features, "--by-stage"),
        "status as JSON": ("status", features, "--json"),
        "verify": ("verify", features),
        "merge": ("merge", features, "--out", out / "merged"),
        "compare": ("compare", features, place / "f"),
        "export": ("export", features, *manifest, "--layout", "rtfm", "--out", out / "rtfm"),
        "gt": (
            "gt", "build", *manifest, "--rule", "spans", "--features", features,
            "--out", out / "gt.npy",
        ),
    }  # fmt: skip


READERS = ("status", "verify", "merge", "compare", "export", "gt")


def refused(result: object, name: str) -> None:
    """A command has ended with one line that names the file."""
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and name in errors[0], result.output
    assert result.output.endswith(errors[0] + "\n") and is_plain(result.output)


def test_there_are_many_attacks() -> None:
    kinds = (HDF5, SPEC_JSON, PLAN, MANIFEST, EVENTS, LEASE, NPY, FILES, JSON)
    assert sum(map(len, kinds)) >= 220


def test_the_folder_is_sound_before_it_is_attacked(place: Path, stream: Path) -> None:
    read_all(stream.parent)
    for name, arguments in commands(stream, place).items():
        assert run(*arguments).exit_code == 0, name


# ---------------------------------------------------------------- what lies in a shard


REASONS = {
    "soft link": "link to another place",
    "external link to a FIFO": "link to another place",
    "group behind a link to a FIFO": "link to another place",
    "virtual": "not stored in the file in one piece",
    "external storage": "not stored in the file in one piece",
    "packed": "not stored in the file in one piece",
    "4 TB of features": "more than the file has",
    "16 TB of spans": "more than the file has",
    "a million crops": "more than the file has",
    "fps NaN": "attribute fps_source is no text, whole or finite number",
    "1200 attributes": "attributes",
}
"""Kind -> words of its refusal, where other guards would also refuse it, later."""
OTHERS = ("merge", "export", "compare", "gt")
COPIED = ("NaN", "infinity")
"""What ``merge`` copies, since its checksum is right; ``verify`` finds it."""


@pytest.mark.parametrize("kind", HDF5)
def test_a_shard_that_means_harm_is_named_by_its_readers(
    stream: Path, place: Path, kind: str
) -> None:
    os.mkfifo(stream / "shards" / "fifo")
    shutil.copy(stream / SHARD, stream / "shards" / "shard-00001.h5")
    with h5py.File(stream / SHARD, "r+") as file:
        HDF5[kind](file)
    with within(), pytest.raises(VadprepError) as caught:
        read_all(stream.parent)
    assert str(stream / SHARD) in str(caught.value) and str(caught.value).isprintable()
    assert REASONS.get(kind, "") in str(caught.value)
    kept_shard.cache_clear()
    called, other = commands(stream, place), OTHERS[list(HDF5).index(kind) % len(OTHERS)]
    with within():
        found = run(*called["verify"])
    assert found.exit_code == 1 and SHARD in found.output and is_plain(found.output)
    with within():
        result = run(*called[other])
    if (other, kind) in {("merge", each) for each in COPIED} or (other == "gt" and kind in COPIED):
        assert result.exit_code == 0, result.output
    elif other == "gt":  # reads two videos of four
        assert is_plain(result.output)
    elif other == "compare" and result.exit_code == 0:  # of the other videos
        assert SHARD in result.output and is_plain(result.output)
    else:
        refused(result, SHARD)


# ---------------------------------------------------------------- what lies in place of a file

EIO = "a file that cannot be read"
PLACES: dict[str, Callable[[Path], object]] = {
    **FILES,
    EIO: lambda path: path.symlink_to("/proc/self/mem"),
    "empty": Path.touch,
    "text": lambda path: path.write_text("hello"),
    "NUL": lambda path: path.write_bytes(bytes(5000)),
    "a link to /dev/full": lambda path: path.symlink_to("/dev/full"),
    "a link to /dev/tty": lambda path: path.symlink_to("/dev/tty"),
}
NAMES = ("spec.json", "plan.csv", "manifest-00000.csv", "events-00000.jsonl", SHARD)
READERS_OF = {
    "spec.json": READERS,
    "plan.csv": READERS,
    "manifest-00000.csv": ("status", "verify", "compare", "export", "gt"),
    "events-00000.jsonl": ("status by stage",),
    SHARD: ("merge", "export", "gt"),
}
HARMLESS = {
    ("events-00000.jsonl", "empty"), ("events-00000.jsonl", "text"), ("events-00000.jsonl", "NUL"),
}  # fmt: skip
"""Half a line, as a kill leaves it."""


def in_place_of(path: Path, kind: str) -> None:
    path.unlink()
    PLACES[kind](path)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_such_file_is_named_by_every_reader(
    stream: Path, place: Path, name: str, kind: str
) -> None:
    in_place_of(stream / name, kind)
    called = commands(stream, place)
    for command in READERS_OF[name]:
        with within():
            result = run(*called[command])
        if (name, kind) in HARMLESS:
            assert result.exit_code == 0 and is_plain(result.output), result.output
        else:
            refused(result, name)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of 20 frames, and what is extracted from it."""
    place = tmp_path_factory.mktemp("extracted")
    (place / "videos").mkdir()
    write_video(place / "videos" / "a.mp4", 20)
    with without_network():
        assert extract(place / "videos", place / "f").exit_code == 0
    return place


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_extract_goes_on_in_no_such_folder(
    extracted: Path, tmp_path: Path, name: str, kind: str
) -> None:
    shutil.copytree(extracted / "f", tmp_path / "f")
    in_place_of(tmp_path / "f" / "rgb" / name, kind)
    with without_network(), within(10.0, 1 << 30):
        result = extract(extracted / "videos", tmp_path / "f")
    assert is_plain(result.output)
    if result.exit_code:
        refused(result, name)


# ---------------------------------------------------------------- what lies in the tables


SPOILT: list[tuple[str, str, Callable[[Path], object]]] = [
    *(("spec.json", kind, change) for kind, change in SPEC_JSON.items()),
    *(
        (name, kind, lambda path, content=content: path.write_bytes(content))
        for name, kinds in (
            ("spec.json", JSON),
            ("plan.csv", PLAN),
            ("manifest-00000.csv", MANIFEST),
            ("events-00000.jsonl", EVENTS),
        )
        for kind, content in kinds.items()
    ),
]


@pytest.mark.parametrize("name, kind, spoil", SPOILT, ids=[f"{n}-{kind}" for n, kind, _ in SPOILT])
def test_a_record_that_means_harm_is_named(
    stream: Path, place: Path, name: str, kind: str, spoil: Callable[[Path], object]
) -> None:
    spoil(stream / name)
    is_table = name in ("spec.json", "plan.csv", "manifest-00000.csv")
    for command in ("status", "gt") if is_table else ("status by stage",):
        with within():
            result = run(*commands(stream, place)[command])
        refused(result, name)
    if is_table:
        with within(), pytest.raises(VadprepError) as caught:
            read_all(stream.parent)
        assert str(stream / name) in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [*LEASE, *JSON, *LEASE_NAMES])
def test_a_lease_says_no_more_than_it_can(stream: Path, place: Path, kind: str) -> None:
    """Its content may be half written at any time, so that it counts by its name alone."""
    name = kind if kind in LEASE_NAMES else "lease-00000-of-00001-h-1.json"
    content = JSON[kind] if kind in JSON else json.dumps(LEASE.get(kind, {})).encode()
    (stream / name).write_bytes(content)
    for command in ("status", "status as JSON", "status of a video", "verify"):
        with within():
            result = run(*commands(stream, place)[command])
        assert result.exit_code in (0, 1) and is_plain(result.output), result.output


@pytest.mark.parametrize("kind", PLACES)
def test_a_lease_that_is_no_file_is_named(stream: Path, place: Path, kind: str) -> None:
    name = "lease-00000-of-00001-h-1.json"
    PLACES[kind](stream / name)
    with within():
        result = run(*commands(stream, place)["status"])
    if kind in ("empty", "text", "NUL"):
        assert result.exit_code == 0 and is_plain(result.output)
    else:
        refused(result, name)


# ---------------------------------------------------------------- errors of the disk


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Nothing in ``path`` may be read, not even by root, which is another user meanwhile."""
    path.chmod(0)
    user = os.geteuid()
    for parent in list(path.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(0o755)


@pytest.mark.parametrize(
    "name", ["spec.json", "plan.csv", "manifest-00000.csv", SHARD, "", "shards"]
)
def test_what_may_not_be_read_is_named(stream: Path, place: Path, name: str) -> None:
    with within(), without_rights(stream / name), pytest.raises(VadprepError) as caught:
        read_all(stream.parent)
    text = str(caught.value)
    assert str(stream / name) in text and "Permission denied" in text and "rights" in text


@pytest.mark.parametrize(
    "code", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE], ids=os.strerror
)
@pytest.mark.parametrize("name", NAMES[:3] + (SHARD,))
def test_an_error_of_the_disk_is_named_with_its_remedy(
    stream: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def broken(path: object, *arguments: object, **named: object) -> int:
        if str(path) == str(stream / name):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", broken)
    with within(), pytest.raises(VadprepError) as caught:
        read_all(stream.parent)
    text = str(caught.value)
    assert str(stream / name) in text and f"{os.strerror(code)}: " in text
    assert "remove the file" not in text  # it may be sound


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES], ids=os.strerror)
@pytest.mark.parametrize("command", ["status", "verify", "merge", "compare", "export", "gt"])
def test_a_folder_that_cannot_be_listed_is_named(
    stream: Path, place: Path, command: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: object = ".") -> list[str]:
        raise OSError(code, os.strerror(code), str(path))

    called = commands(stream, place)[command]
    monkeypatch.setattr(os, "listdir", broken)
    monkeypatch.setattr(os, "scandir", broken)
    with within():
        result = run(*called)
    assert result.exit_code in (0, 1, 2) and is_plain(result.output)
    assert not result.exit_code or f"{os.strerror(code)}" in result.output, result.output


def test_without_file_numbers_nothing_is_called_damaged(stream: Path) -> None:
    read_all(stream.parent)
    opened = open_features(stream.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    try:
        kept_shard.cache_clear()
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(free_numbers())]
        with pytest.raises(VadprepError, match=r"shard-00000.h5.*Too many open files: allow"):
            opened["a"].rgb  # noqa: B018
        for each in held:
            os.close(each)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def free_numbers() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sum(not os.path.lexists(f"/proc/self/fd/{number}") for number in range(soft))


# ---------------------------------------------------------------- files of other code


@pytest.mark.parametrize("kind", [*NPY, *(kind for kind in PLACES if kind != "folder")])
def test_an_array_that_means_harm_is_named(
    place: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    for video in "abcd":
        np.save(tmp_path / "tree" / f"{video}_i3d.npy", np.zeros((2, 1, 4), np.float32) + 1)
    spoilt = tmp_path / "tree" / "a_i3d.npy"
    if kind in NPY:
        spoilt.write_bytes(NPY[kind])
    else:
        in_place_of(spoilt, kind)
    imported = ("import", tmp_path / "tree", "--layout", "rtfm", "--manifest", place / "m.csv")
    with within():
        result = run(*imported, "--out", tmp_path / "f")
    assert result.exit_code == 1 and spoilt.name in result.output and is_plain(result.output)
    assert run("verify", tmp_path / "f").exit_code == 0
    with within():
        result = run("compare", tmp_path / "tree", place / "f")
    assert result.exit_code in (0, 2) and spoilt.name in result.output and is_plain(result.output)
    assert not (tmp_path / "run").exists()


NUMBERS = ("no axis", "one axis", "no rows", "NaN", "infinity")
"""Kinds that are no features, but are arrays of numbers."""


@pytest.mark.parametrize("kind", [kind for kind in NPY if kind not in NUMBERS])
def test_what_is_no_array_of_numbers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.npy").write_bytes(NPY[kind])
    with within(), pytest.raises(VadprepError, match="a.npy: not a whole .npy file of numbers"):
        read_npy(tmp_path / "a.npy", VadprepError)


@pytest.mark.parametrize("crops", [2, 3, 11])
def test_an_import_of_another_number_of_crops_is_refused(
    place: Path, tmp_path: Path, crops: int
) -> None:
    for video in "abcd":
        np.save(tmp_path / f"{video}_i3d.npy", np.zeros((2, crops, 4), np.float32))
    named = ("--layout", "rtfm", "--manifest", place / "m.csv", "--out", tmp_path / "f")
    result = run("import", tmp_path, *named)
    refused(result, "a_i3d.npy")
    assert f"{crops} crops" in result.output


@pytest.mark.parametrize("kind", ["NaN", "infinity", "reversed", "gap", "frames", "other", "fps"])
def test_scores_that_mean_harm_are_named(tmp_path: Path, kind: str) -> None:
    spans = np.array([[0, 16], [16, 32]])
    write_scores(
        tmp_path / "s.h5", {"a": VideoScores(np.ones(2), spans, 40, 25.0)}, Origin({}), "last"
    )
    assert len(read_scores(tmp_path / "s.h5")) == 1
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        group = file["000000"]
        if kind in ("NaN", "infinity"):
            group["scores"][0] = np.nan if kind == "NaN" else np.inf
        elif kind in ("reversed", "gap"):
            group["spans"][...] = spans[::-1] if kind == "reversed" else [[0, 16], [20, 32]]
        elif kind == "other":
            file["000001"] = h5py.ExternalLink("/dev/zero", "x")
        else:
            group.attrs.update({"num_frames": 2**60} if kind == "frames" else {"fps": np.nan})
    with within(), pytest.raises(VadprepError, match="s.h5: scores are missing or damaged"):
        read_scores(tmp_path / "s.h5")


@pytest.mark.parametrize("kind", PLACES)
def test_no_scores_file(tmp_path: Path, kind: str) -> None:
    PLACES[kind](tmp_path / "s.h5")
    with within(), pytest.raises(VadprepError, match="s.h5"):
        read_scores(tmp_path / "s.h5")


@pytest.mark.parametrize("layout", ["rtfm", "xdviodet", "sultani-txt"])
def test_an_id_that_is_too_long_for_the_disk(tmp_path: Path, layout: str) -> None:
    video_id = "n" * 300
    videos = [stored_video(video_id, num_crops=5)]
    write_folder(tmp_path / "f" / "rgb", videos, small_spec(crops=5, crop_order="xd"))
    row = (video_id, "test", 0, "[]")
    manifest = ("--manifest", write_manifest(tmp_path / "m.csv", [row]))
    with within():
        result = run(
            "export", tmp_path / "f", *manifest, "--layout", layout, "--out", tmp_path / "e"
        )
    assert result.exit_code == 1 and "File name too long; " in result.output
    assert "shorter" in result.output and is_plain(result.output)


# ---------------------------------------------------------------- fuzzing


def fuzzed(content: bytes, kind: str, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(content)), chance.randrange(1, 40)
    match kind:
        case "flip":
            return (
                content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
            )
        case "cut":
            return content[:at]
        case "insert":
            return content[:at] + chance.randbytes(size) + content[at:]
        case "zero":
            return content[:at] + bytes(size) + content[at + size :]
        case "repeat":
            return content[: at + size] + content[at:]
    raise AssertionError(kind)


FUZZ = ("flip", "cut", "insert", "zero", "repeat")


@pytest.mark.parametrize("kind", FUZZ)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_spoilt_anywhere_gives_sound_features_or_its_name(
    stream: Path, place: Path, name: str, kind: str
) -> None:
    chance, path, called = random.Random(f"{name} {kind}"), stream / name, commands(stream, place)
    content = path.read_bytes()
    with open_features(place / "f") as sound:
        expected = {each: sound[each].rgb.tobytes() for each in sound}
    for _ in range(20):
        path.write_bytes(fuzzed(content, kind, chance))
        with within(10.0):
            try:
                with open_features(stream.parent) as found:
                    assert all(found[each].rgb.tobytes() == expected[each] for each in found)
            except VadprepError as error:
                assert str(error).isprintable() and str(stream) in str(error)
            result = run(*called["status by stage"])
        assert result.exit_code in (0, 1, 2) and is_plain(result.output)
