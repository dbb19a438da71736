"""The Python API of extraction: what may be named as videos, and the same numbers everywhere."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import without_network
from support.videos import write_images, write_video

from vadprep.core.errors import DecodeError, FeaturesError, ManifestError, SettingError, SpecError
from vadprep.core.resources import worker_cores
from vadprep.core.signals import STOP_SIGNALS
from vadprep.data.manifest import read_manifest
from vadprep.extraction import extract, extract_video, resolve_plan
from vadprep.extraction.extractor import make_extractor
from vadprep.extraction.options import PlanOptions
from vadprep.features.journal import read_rows
from vadprep.flow.saved import HDF5, SavedFlow

CHEAP = {"weights": "random:0", "workers": 1, "device": "cpu", "settings": {"fps": "native"}}
BOTH = {"streams": "rgb,flow", "settings": {"fps": "native"}, "weights": "random:0"}


@pytest.fixture(scope="module", autouse=True)
def _cheap():
    with without_network():
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "b").mkdir()
    write_video(folder / "a.mp4", 40)
    write_video(folder / "b" / "c.mp4", 56)
    return folder


def test_videos_are_a_folder_a_file_a_list_a_table_or_a_manifest(videos, tmp_path, monkeypatch):
    table = tmp_path / "mine.csv"
    table.write_text("video_id,path\nfirst,a.mp4\nsecond,b/c.mp4\n")
    monkeypatch.chdir(tmp_path)
    found = {}
    for name, source, root in (
        ("folder", videos, None),
        ("file", str(videos / "a.mp4"), None),
        ("list", [videos / "b" / "c.mp4", str(videos / "a.mp4")], None),
        ("table", table, videos),
        ("manifest", read_manifest(table), videos),
    ):
        with extract(source, name, root=root, **CHEAP) as features:
            found[name] = sorted(features)
    assert found == {
        "folder": ["a", "b/c"],
        "file": ["a"],
        "list": ["a", "b/c"],
        "table": ["first", "second"],
        "manifest": ["first", "second"],
    }
    with extract(table, root=videos, **CHEAP) as features:
        assert len(features) == 2 and (tmp_path / "features" / "mine" / "rgb").is_dir()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "one of videos and dataset"),
        ([], "the list of videos is empty"),
        (["/no/such.mp4"], "'/no/such.mp4' does not exist"),
        ("/no/such", "/no/such: no such folder"),
    ],
)
def test_videos_that_are_not_there(source, words, tmp_path):
    with pytest.raises(ManifestError, match=words):
        extract(source, tmp_path / "f", **CHEAP)


def test_a_root_without_a_manifest_is_not_ignored(videos, tmp_path):
    for source in (videos, videos / "a.mp4", [videos / "a.mp4"]):
        with pytest.raises(ManifestError, match="only a manifest or data set has a root"):
            extract(source, tmp_path / "f", root=tmp_path, **CHEAP)


def test_a_video_in_memory_has_the_numbers_of_the_folder(videos, tmp_path):
    video = extract_video(videos / "a.mp4", device="cpu", **BOTH)
    with extract(videos, tmp_path / "f", workers=1, device="cpu", **BOTH) as features:
        stored = features["a"]
        for ours, theirs in ((video.rgb, stored.rgb), (video.flow, stored.flow)):
            assert ours.dtype == theirs.dtype == np.float16 and ours.any()
            assert ours.tobytes() == theirs.tobytes()
        assert video.spans.tolist() == stored.spans.tolist()
        assert (video.fps, video.num_frames) == (stored.fps, stored.num_frames) == (25, 40)
        assert {name: spec.hash for name, spec in video.specs.items()} == {
            name: spec.hash for name, spec in features.specs.items()
        }
    assert extract_video(videos / "a.mp4", **{**CHEAP_VIDEO, "streams": "rgb"}).flow is None


CHEAP_VIDEO = {"weights": "random:0", "device": "cpu", "settings": {"fps": "native"}}


def test_a_folder_of_frames_in_memory_takes_its_frame_rate(tmp_path):
    frames = write_images(tmp_path / "frames", 40)
    assert extract_video(frames, **CHEAP_VIDEO).fps is None
    assert extract_video(frames, fps=10.0, **CHEAP_VIDEO).fps == 10


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "10"])
def test_a_rate_of_frames_is_a_finite_number_above_0(fps, videos):
    with pytest.raises(SettingError, match="^fps = .*: expected a number"):
        extract_video(videos, fps=fps, **CHEAP_VIDEO)


def test_a_video_file_takes_no_frame_rate(videos):
    with pytest.raises(SettingError, match=r"to resample use settings=\{'fps': 10\}"):
        extract_video(videos / "a.mp4", fps=10, **CHEAP_VIDEO)


def test_a_folder_of_videos_is_no_video_in_memory(videos, tmp_path):
    for settings in ({"fps": "native"}, {"fps": "25"}):
        for folder in (videos, videos.parent):
            with pytest.raises(SettingError, match=f"^{folder}: a folder of videos: use vadprep"):
                extract_video(folder, **{**CHEAP_VIDEO, "settings": settings})
    with pytest.raises(DecodeError, match=f"^{tmp_path}: a folder has no frame rate: name it by"):
        extract_video(tmp_path, weights="random:0", device="cpu")
    frames = write_images(tmp_path / "frames", 40)  # with a video among its images
    (frames / "a.mp4").write_bytes((videos / "a.mp4").read_bytes())
    assert extract_video(frames, **CHEAP_VIDEO).num_frames == 40


def test_the_device_may_be_one_of_torch(videos):
    plan = resolve_plan(None, weights="random:0", device=torch.device("cpu"))
    assert plan.device == "cpu" and plan.workers


@pytest.mark.parametrize(
    "option",
    [
        {"weights": 0},
        {"flow_weights": 3},
        {"preset": ["i3d"]},
        {"streams": 3},
        {"streams": [1]},
        {"settings": "a"},
        {"settings": {"crops": [5]}},
        {"max_damage": "a"},
        {"device": 0},
    ],
)
def test_an_option_of_another_kind_is_a_setting_error(option, videos, tmp_path):
    (name,) = option
    with pytest.raises(SettingError, match=f"({name}|crops) = .*: expected a "):
        extract_video(videos / "a.mp4", **{**CHEAP_VIDEO, **option})
    with pytest.raises(SettingError, match=f"({name}|crops) = .*: expected a "):
        extract(videos, tmp_path / "f", **{**CHEAP, **option})
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": None},
        {"path": 3},
        {"videos": 3},
        {"videos": [3]},
        {"videos": {"a": 1}},
        {"out": 3},
        {"root": 3},
        {"dataset": 3},
        {"workers": "2"},
        {"workers": 0},
        {"gpus": "1"},
        {"rank": "0"},
        {"shard_size": "1"},
        {"specs": 3},
        {"save_flow": 3},
        {"stall_seconds": float("nan")},
        {"stall_seconds": float("inf")},
        {"max_damage": float("nan")},
        {"max_damage": 1.5},
    ],
)
def test_what_is_of_another_kind_than_asked_for_is_named(arguments, videos, tmp_path):
    (name,) = arguments
    with pytest.raises(SettingError, match=f"^{name} = .*: expected a"):
        if name == "path":
            extract_video(**arguments)
        else:
            extract(**{"videos": videos, "out": tmp_path / "f", **CHEAP, **arguments})
    assert not (tmp_path / "f").exists()


def test_none_stands_for_the_default_of_each_option():
    given = dict.fromkeys(PlanOptions.__annotations__)
    plan = resolve_plan(None, **{**given, "weights": "random:0", "device": "cpu"})
    assert plan == resolve_plan(None, weights="random:0", device="cpu")


def test_videos_without_a_folder_in_common_need_a_feature_folder(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["/etc/passwd", videos / "a.mp4"]
    with pytest.raises(SettingError, match="no folder in common but /: name the feature folder"):
        extract(files, **CHEAP)
    assert not list(tmp_path.iterdir())
    with extract(files, "f", **CHEAP) as features:
        assert len(features) == 1


def test_videos_may_be_an_iterator(videos, tmp_path):
    with extract(iter([videos / "a.mp4"]), tmp_path / "f", **CHEAP) as features:
        assert list(features) == ["a"]


def test_extraction_in_threads_changes_no_handler_of_signals(videos, tmp_path):
    before = [signal.getsignal(each) for each in STOP_SIGNALS]

    def found(name: str) -> list[str]:
        with extract(videos, tmp_path / name, **CHEAP) as features:
            return [*map(str, features), *map(str, map(signal.getsignal, STOP_SIGNALS))]

    with ThreadPoolExecutor(2) as threads:
        for name, seen in zip("ab", threads.map(found, "ab"), strict=True):
            assert sorted(seen[:2]) == ["a", "b/c"], name
            assert seen[2:] == list(map(str, before))
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


@pytest.mark.slow
def test_extraction_in_a_thread_on_ray(videos, tmp_path):
    with ThreadPoolExecutor(1) as threads:
        options = {**CHEAP, "workers": 2}
        with threads.submit(extract, videos, tmp_path / "f", **options).result() as features:
            assert sorted(features) == ["a", "b/c"]


def test_a_video_that_cannot_be_read_is_raised_from_memory(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 999)
    with pytest.raises(DecodeError, match=r"bad\.mp4") as found:
        extract_video(tmp_path / "bad.mp4", **CHEAP_VIDEO)
    assert found.value.kind == "unreadable"
    with pytest.raises(DecodeError, match="no such file"):
        extract_video(tmp_path / "none.mp4", **CHEAP_VIDEO)


def test_progress_is_reported_at_the_start_and_after_each_video(videos, tmp_path):
    seen = []
    extract(videos, tmp_path / "f", on_report=seen.append, **CHEAP).close()
    assert any(each.running for each in seen)
    left = [each.work_left for each in seen]
    assert left == sorted(left, reverse=True)
    seen = [each for each in seen if each.is_start or each.report]
    assert [each.videos_left for each in seen] == [2, 1, 0]
    assert [each.report and each.report.video_id for each in seen] == [None, "b/c", "a"]
    assert seen[0].work == seen[0].work_left > seen[1].work_left > seen[2].work_left == 0
    seen.clear()
    extract(videos, tmp_path / "f", on_report=seen.append, **CHEAP).close()
    assert [(each.videos, each.videos_left) for each in seen] == [(0, 0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "best"}, "preset = 'best': allowed are"),
        ({"streams": "both"}, "allowed are rgb, flow, rgb,flow"),
        ({"settings": {"colour": 1}}, "setting 'colour': allowed are"),
        ({"device": "tpu"}, "allowed are cpu, cuda"),
        ({"rank": 2, "world_size": 2}, "ranks run from 0"),
        ({"shard_size": 0}, "shard_size = 0"),
        ({"flow_format": "hdf5"}, "--flow-format goes with --save-flow"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_value_error(options, words, videos, tmp_path):
    with pytest.raises(SettingError, match=words) as found:
        extract(videos, tmp_path / "f", **{**CHEAP, **options})
    assert isinstance(found.value, ValueError) and not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("cuda", 2)),
        ({"device": "cuda"}, ("cuda", 2)),
        ({"device": "cuda", "workers": 1}, ("cuda", 1)),
        ({"gpus": 1}, ("cuda", 1)),
        ({"workers": 3}, ("cpu", 3)),
        ({"device": "cpu"}, ("cpu", worker_cores())),
        ({"gpus": 3}, "gpus 3: this machine has 2"),
        ({"device": "cuda", "workers": 3}, "gpus 3: this machine has 2"),
        ({"gpus": 1, "workers": 1}, "exclude each other"),
        ({"gpus": 8, "address": "1.2.3.4:6379"}, ("cuda", 8)),
        ({"address": "1.2.3.4:6379"}, "say how much of the cluster"),
    ],
)
def test_where_a_run_takes_place_on_a_machine_with_two_gpus(options, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if isinstance(expected, str):
        with pytest.raises(SettingError, match=expected):
            resolve_plan(None, weights="random:0", **options)
    else:
        plan = resolve_plan(None, weights="random:0", **options)
        assert (plan.device, plan.workers) == expected


def test_a_worker_without_the_saved_flow_says_so_before_its_first_video(tmp_path):
    options = {"weights": "random:0", "device": "cpu", "streams": "flow"}
    SavedFlow.prepare(tmp_path / "flow", HDF5, resolve_plan(None, **options).specs[0])
    plan = resolve_plan(None, **options, flow_from=tmp_path / "flow").for_workers()
    (tmp_path / "flow").rename(tmp_path / "elsewhere")
    with pytest.raises(FeaturesError, match=r"flow\.json: no such file: name a folder that"):
        make_extractor(plan)


def test_a_worker_with_other_weights_under_the_path_refuses_them():
    plan = resolve_plan(None, weights="random:0", device="cpu").for_workers()
    (stream,) = plan.streams
    other = replace(plan, streams=(replace(stream, source="random:1"),))
    with pytest.raises(SpecError, match=r"^random:1: SHA-256 .* \(random:0\): put the same file"):
        make_extractor(other)


def test_specs_are_repeated_and_their_random_weights_with_them(videos, tmp_path):
    settings = {"fps": "10", "crops": 5, "tail": "xd"}
    first = {"streams": "rgb,flow", "settings": settings, "weights": "random:3", "workers": 1}
    with extract(videos, tmp_path / "one", device="cpu", **first) as features:
        specs = features.specs
    plan = resolve_plan(tmp_path / "two", specs=specs, device="cpu")
    assert {spec.stream: spec.hash for spec in plan.specs} == {
        name: spec.hash for name, spec in specs.items()
    }
    with pytest.raises(SpecError, match="weights_sha256"):
        resolve_plan(tmp_path / "one", specs=specs, weights="random:4", device="cpu")


def test_weights_are_read_once_in_one_process(videos, tmp_path, monkeypatch):
    from vadprep.extraction import plan

    calls, real = [], plan.load_weights
    monkeypatch.setattr(plan, "load_weights", lambda *given: calls.append(given) or real(*given))
    extract(videos / "a.mp4", tmp_path / "f", **CHEAP).close()
    assert len(calls) == 1 and len(read_rows(tmp_path / "f" / "rgb")) == 1
