"""Damaged and hostile files: every good video is done, every bad one is listed, nothing is left."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.commands import extract, run, without_network
from support.hostile import (
    FRAMES,
    LYING,
    NAMES,
    SECRET,
    flipped,
    good_names,
    hostile_folder,
    is_called,
    make_hostile_worker,
    misbehave,
    reasons,
    sound_folder,
    sound_video,
)
from support.interrupted import SPEC, extract_all
from support.kill_many import files_in
from support.videos import CODECS, truncate, write_video

from vadprep.cli.text import printable
from vadprep.data import ids_of_paths
from vadprep.extraction.ray_runner import Pool, on_ray
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Row, read_rows
from vadprep.features.reader import open_features
from vadprep.features.shard import DONE
from vadprep.features.status import verify_stream
from vadprep.video.decoder_process import MEMORY_BYTES


@contextmanager
def nothing_left(out: Path) -> Iterator[None]:
    """What is run inside leaves only its features in ``out``, nothing in the folder for temporary
    files and where it stands, and no process, open file or mapping of shared memory."""
    here = psutil.Process()
    place = Path(tempfile.mkdtemp(prefix="vp", dir="/tmp"))  # short, for the sockets of Ray
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(place))
        patch.setenv("TMPDIR", str(place))
        patch.chdir(place)
        before = {child.pid for child in here.children(recursive=True)}
        yield
    assert {child.pid for child in here.children(recursive=True)} <= before
    assert list(place.iterdir()) == []
    place.rmdir()
    assert not [name for name in os.listdir("/dev/shm") if "vadprep" in name]
    fixed = {"spec.json", "plan.csv", "manifest-00000.csv", "events-00000.jsonl"}
    assert {name for name in files_in(out) if not name.startswith("shards/")} == fixed
    assert {Path(name).suffix for name in files_in(out / "shards")} == {".h5"}


# ---------------------------------------------------------------- every kind once


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """Suffix -> features of the sound video, by an undisturbed run."""
    folder = tmp_path_factory.mktemp("sound")
    with without_network():
        assert extract(sound_folder(folder / "videos"), folder / "f").exit_code == 0
    with open_features(folder / "f") as features:
        return {Path(each).suffix: features[each].rgb.tobytes() for each in features}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, list[str]]:
    """The features of a folder with every kind, and the lines of the run."""
    folder = tmp_path_factory.mktemp("hostile")
    videos = hostile_folder(folder / "videos")
    with without_network() as patch, nothing_left(folder / "f" / "rgb"):
        misbehave(patch)
        result = extract(videos, folder / "f")
    assert result.exit_code == 1
    return folder / "f", result.output.splitlines()


def test_there_are_many_kinds() -> None:
    assert len(reasons()) + len(LYING) >= 25 and not set(reasons()) & set(good_names())


IDS = ids_of_paths([*good_names(), *reasons()])
"""Name in the hostile folder -> id. Two pairs of names differ by their suffix alone."""


def test_every_good_video_is_done_as_if_it_were_alone(hostile, sound) -> None:
    with open_features(hostile[0]) as features:
        assert sorted(features) == sorted(IDS[name] for name in good_names())
        for name in good_names():
            if name != SECRET:
                kind = Path(name).suffix.lower()
                assert features[IDS[name]].rgb.tobytes() == sound[kind], name
                assert len(features[IDS[name]].spans) == FRAMES // 16
    assert run("verify", hostile[0]).exit_code == 0


def test_every_bad_video_is_listed_with_its_reason_on_one_line(hostile) -> None:
    out, lines = hostile
    (status,) = json.loads(run("status", out, "--json").output)
    assert sorted(status["failed"]) == sorted(IDS[name] for name in reasons())
    assert not status["missing"]
    for name, words in reasons().items():
        assert words in status["failed"][IDS[name]], name
        if name != "loop.mp4":  # missing, as dangling.mp4: one line is of the first of them
            shown = [line for line in lines if line.startswith(f"failed: {IDS[name]}: ")]
            assert any(words in line for line in shown), name
    events = [
        json.loads(line) for line in (out / "rgb/events-00000.jsonl").read_text().splitlines()
    ]
    failed = [event["video_id"] for event in events if event["event"] == "failed"]
    assert sorted(failed) == sorted(IDS[name] for name in reasons())


def test_odd_names_are_shown_on_one_line(hostile) -> None:
    lines = run("status", hostile[0]).output.splitlines()
    known = ("stream", "rgb", "failed: ", "retry: ", "repaired: ", "length: ")
    assert all(line.startswith(known) for line in lines)
    assert len({printable(name) for name in NAMES}) == len(NAMES)


def test_nothing_that_a_file_names_was_opened(hostile) -> None:
    assert not is_called()


def test_a_second_run_has_nothing_to_do(hostile) -> None:
    out, _ = hostile
    content = {name: (out / name).read_bytes() for name in files_in(out)}
    with without_network(), nothing_left(out / "rgb"):
        assert extract(out.parent / "videos", out).exit_code == 1
    assert {name: (out / name).read_bytes() for name in files_in(out)} == content


# ---------------------------------------------------------------- what may be lost


@pytest.fixture
def half(tmp_path) -> Path:
    """A folder with a sound video, one that lacks its second half, and a manifest."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "whole.webm", 120)
    truncate(write_video(folder / "half.webm", 120), 0.55)
    (tmp_path / "m.csv").write_text(
        "video_id,path,num_frames\nwhole,whole.webm,100\nhalf,half.webm,120\n"
    )
    return tmp_path


def test_max_damage_says_which_videos_are_there_and_is_no_part_of_the_spec(half) -> None:
    options = ("--manifest", half / "m.csv", "--root", half / "videos", "--out", half / "f")
    cheap = ("--weights", "random:0", "--workers", "1", "--fps", "native")
    with without_network():
        first = run("extract", *options, *cheap)
        assert first.exit_code == 1 and "more than 10% are lost (--max-damage)" in first.output
        with open_features(half / "f") as features:
            before = features["whole"].rgb.tobytes()
        second = run("extract", *options, *cheap, "--max-damage", "0.6", "--retry-failed")
    assert second.exit_code == 0, second.output
    with open_features(half / "f") as features:
        assert list(features) == ["whole", "half"] and features["whole"].rgb.tobytes() == before
    shown = run("status", half / "f")
    assert shown.exit_code == 0
    assert "length: half: truncated after frame " in shown.output
    rate = "1.2 = 30/25, counted at another frame rate"
    assert f"length: whole: the manifest has 100 frames, the video has 120: {rate}" in shown.output
    (status,) = json.loads(run("status", half / "f", "--json").output)
    assert set(status["length_notes"]) == {"whole", "half"}
    assert run("verify", half / "f").exit_code == 0


def test_repaired_frames_are_counted_up_to_status(tmp_path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    content = write_video(videos / "a.mp4", 200, size=(160, 120)).read_bytes()
    (videos / "b.mp4").write_bytes(flipped(content, seed=1, start=0.3, stop=0.5, bits=12))
    with without_network():
        assert extract(videos, tmp_path / "f").exit_code == 0
    (row,) = (r for r in read_rows(tmp_path / "f/rgb").values() if r.repaired_frames)
    (status,) = json.loads(run("status", tmp_path / "f", "--json").output)
    assert (status["repaired_frames"], status["repaired_videos"]) == (row.repaired_frames, 1)
    shown = run("status", tmp_path / "f").output
    assert f"repaired: b: {row.repaired_frames} of 200 frames" in shown
    assert "repaired" in shown.splitlines()[0]


def test_bounds_of_a_decoder() -> None:
    code = """
import resource
from vadprep.video.decoder_process import bound_resources
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
bound_resources()
print(*resource.getrlimit(resource.RLIMIT_DATA), *resource.getrlimit(resource.RLIMIT_CORE))
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
bound_resources()
print(resource.getrlimit(resource.RLIMIT_DATA)[1])
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=env)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    assert most in (resource.RLIM_INFINITY, MEMORY_BYTES) or most > MEMORY_BYTES
    assert output.split() == [str(MEMORY_BYTES)] * 2 + ["0", "0", str(1 << 30)]


# ---------------------------------------------------------------- many places, on Ray

PLACES = {
    "header": (0.0, 0.01),
    "first keyframe": (0.01, 0.06),
    "middle": (0.4, 0.6),
    "end": (0.93, 0.99),
    "index": (0.99, 1.0),
}
"""Parts of a file, in fractions of its length; an mp4 has its index at its end or its beginning."""


def swept_folder(folder: Path, sources: list[Path], seeds: int) -> Path:
    """The folder, with each source whole, with a bit flipped in each place, and cut at tenths."""
    folder.mkdir()
    for source in sources:
        content, suffix, stem = source.read_bytes(), source.suffix, source.stem[:5]
        (folder / f"{stem} whole{suffix}").write_bytes(content)
        for place, (start, stop) in PLACES.items():
            for seed in range(seeds):
                changed = flipped(content, seed, start, stop)
                (folder / f"{stem} {place} {seed}{suffix}").write_bytes(changed)
        for tenth in range(1, 10):
            cut = content[: tenth * len(content) // 10]
            (folder / f"{stem} cut {tenth}{suffix}").write_bytes(cut)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_flips_and_cuts_at_many_places_on_ray(tmp_path, real_clips, monkeypatch) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests}")
    made = tmp_path / "made"
    made.mkdir()
    codecs = CODECS | {".ts": "libx264"}
    sources = [
        write_video(made / f"a{suffix}", 96, size=(160, 120), codec=codec)
        for suffix, codec in codecs.items()
    ]
    sources.append(sound_video(made / "b.mp4", 96))
    real = sorted(real_clips.glob("*.mp4"))
    videos = hostile_folder(tmp_path / "videos")
    swept_folder(videos / "real", real, seeds=2)
    swept_folder(videos / "made", sources, seeds=1)
    out = tmp_path / "f"
    with nothing_left(out):
        extract_all(out, videos, on_ray(partial(make_hostile_worker, SPEC), Pool(2)))
    rows = read_rows(out)
    assert not verify_stream(StreamFolder.open(out)).problems
    expected = reasons()
    del expected["16000x2.mkv"]  # the stand-in for the network does not resize
    assert {n for n, words in expected.items() if words not in rows[IDS[n]].reason} == set()
    assert {name for name in good_names() if rows[IDS[name]].status != DONE} == set()
    for folder in ("real", "made"):
        judge_sweep({name: row for name, row in rows.items() if name.startswith(f"{folder}/")}, out)


def judge_sweep(rows: dict[str, Row], out: Path) -> None:
    """Fail when a length is other than that of the whole file without a word; tell the rest."""
    verdicts: dict[str, list[str]] = {"failed": [], "told": [], "the same": [], "unseen": []}
    with open_features(out) as features:
        for name, row in rows.items():
            folder, _, file = name.rpartition("/")
            whole = f"{folder}/{file.split(' ')[0]} whole{Path(name).suffix}"
            if row.status != DONE:
                assert row.reason and "\n" not in row.reason
                verdict = "failed"
            elif row.repaired_frames or row.reason:
                verdict = "told"
            elif features[name].rgb.tobytes() == features[whole].rgb.tobytes():
                verdict = "the same"
            else:
                is_cut_stream = name.endswith(".ts") and " cut " in name  # it claims no length
                assert is_cut_stream or row.num_frames == rows[whole].num_frames, name
                verdict = "unseen"
            verdicts[verdict].append(name)
    print({verdict: len(names) for verdict, names in verdicts.items()}, verdicts["unseen"])
    assert len(verdicts["unseen"]) <= 0.2 * len(rows)
