"""The engine of the CPU in extraction: as torch computes, and the same bytes, come what may."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.kill_many import differences, family, make_videos, survivors
from support.waiting import wait_for

from vadprep.backbones import engine, engine_of, has_cpu_bf16
from vadprep.core.child import child_environment
from vadprep.extraction.api import extract_video
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_rows
from vadprep.features.status import stream_status

pytestmark = pytest.mark.slow

PRESETS = ("i3d", "rtfm-r50", "ptv-r50", "swin3d_t", "arnet")


@pytest.fixture(autouse=True)
def openvino() -> None:
    pytest.importorskip("openvino")
    assert engine_of("cpu").startswith("openvino")


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("preset", PRESETS)
def test_features_of_real_clips_by_two_engines_agree(
    real_clips: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every clip, one crop, in float32, as float16 would round to 3e-4.

    Of ``arnet`` both streams of one video, for TV-L1 takes long and is the same by both engines.
    """
    settings = {"crops": 1, "dtype": "float32", "precision": "fp32"}
    options = {"preset": preset, "weights": "random:0", "settings": settings, "device": "cpu"}
    streams, videos = "rgb", sorted(real_clips.glob("*.mp4"))
    if preset == "arnet":
        streams, videos = "rgb,flow", [real_clips / "bikes.mp4"]
        options["flow_weights"] = "random:1"
    options["streams"] = streams
    ours = [extract_video(path, **options) for path in videos]
    monkeypatch.setattr(engine, "installed_version", lambda name: "")
    assert engine_of("cpu").startswith("torch")
    theirs = [extract_video(path, **options) for path in videos]
    for stream in streams.split(","):
        found = np.concatenate([getattr(each, stream) for each in ours])
        expected = np.concatenate([getattr(each, stream) for each in theirs])
        assert found.dtype == np.float32 and len(found) == sum(len(each.spans) for each in ours)
        assert not np.array_equal(found, expected)
        errors = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        whole = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"{preset} {stream}: {len(found)} clips, {whole:.1e}, the worst {errors.max():.1e}")
        assert errors.max() < 1e-4


CLI = "from vadprep.cli.main import main; main()"


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_kills_nor_workers_nor_ray_change_a_byte(tmp_path: Path, precision: str) -> None:
    """Two workers on Ray, killed and run again, against one in process that nobody disturbs."""
    if precision == "bf16" and not has_cpu_bf16():
        pytest.skip("processor without bfloat16")
    videos, (whole, killed) = make_videos(tmp_path / "videos", 6), (tmp_path / "a", tmp_path / "b")
    options = f"--preset r3d_18 --weights random:0 --precision {precision}"
    command = [sys.executable, "-c", CLI, "extract", "--videos", videos, *options.split()]
    command += ["--shard-size", "2"]
    options_of = {"env": child_environment(), "stderr": subprocess.PIPE}
    subprocess.run([*command, "--workers", "1", "--out", whole], check=True, **options_of)
    command += ["--workers", "2", "--out", killed]
    process = subprocess.Popen(command, start_new_session=True, **options_of)
    wait_for(lambda: read_rows(killed / "rgb") or process.poll() is not None, 300)
    members = family(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert survivors(members) == [] and 1 <= len(read_rows(killed / "rgb")) < 6
    subprocess.run(command, check=True, **options_of)
    assert differences(killed / "rgb", whole / "rgb") == []
    folder = StreamFolder.open(killed / "rgb")
    assert folder.spec.precision == precision
    assert stream_status(folder).engines == (engine_of("cpu"),)
