"""kill -9 of all or of a part, at ten moments: running the extraction again makes it whole, byte
for byte.

``PYTHONPATH=tests python -m support.kill_many --times 100`` does the same a hundred times.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.interrupted import extract_all, make_runner
from support.kill_many import HITS, Hit, differences, kill_many, make_videos, moments
from support.waiting import wait_for

from vadprep.features.folder import StreamFolder
from vadprep.features.journal import read_rows
from vadprep.features.reader import open_features
from vadprep.features.status import verify_stream


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ten_kills_cost_only_the_videos_in_flight(tmp_path):
    kills = kill_many(tmp_path, times=10, seed=0)
    assert [kill.problems for kill in kills] == [()] * 10
    assert sum(not kill.finished for kill in kills) >= 8, "most kills must hit running work"
    assert any(kill.committed for kill in kills) and any(kill.repeated for kill in kills)
    assert {kill.hit for kill in kills} == set(HITS)
    assert all(kill.repeated <= kill.hit.workers for kill in kills)
    reached = [kill for kill in kills if not kill.finished]
    assert {kill.hit.target for kill in reached} == {hit.target for hit in HITS}
    assert any(kill.repeated for kill in reached if kill.hit.target == "worker")
    print(f"done again: {sum(kill.repeated for kill in kills)} videos of 60")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_kills_of_two_streams_cost_only_the_videos_in_flight(tmp_path):
    hits = [Hit("process", target) for target in ("group", "driver", "group")]
    kills = kill_many(tmp_path, 3, 1, streams=("rgb", "flow"), hits=hits, count=12)
    assert [kill.problems for kill in kills] == [()] * 3
    assert any(kill.committed for kill in kills) and any(kill.repeated for kill in kills)
    assert all(kill.repeated <= 1 for kill in kills)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_real_clips_with_both_networks_and_tvl1_survive_a_kill(tmp_path, real_clips):
    """The command itself, at the real size, two frames a second."""
    options = "--workers 1 --streams rgb,flow --fps 2 --set crops=1"
    options += " --weights random:0 --flow-weights random:1"
    command = [sys.executable, "-c", "from vadprep.cli.main import main; main()", "extract"]
    command += ["--videos", str(real_clips), *options.split(), "--out"]
    subprocess.run([*command, tmp_path / "whole"], check=True, capture_output=True)
    streams = {name: tmp_path / "f" / name for name in ("rgb", "flow")}
    process = subprocess.Popen(
        [*command, tmp_path / "f"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for(lambda: read_rows(streams["rgb"]) or process.poll() is not None, 600)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(read_rows(streams["rgb"])) < 3
    subprocess.run([*command, tmp_path / "f"], check=True, capture_output=True)
    for name, folder in streams.items():
        assert verify_stream(StreamFolder.open(folder)).problems == ()
        assert differences(folder, tmp_path / "whole" / name) == []
    with open_features(tmp_path / "f") as found:
        assert len(found) == 3
        for video in map(found.__getitem__, found):
            assert video.rgb.shape == video.flow.shape == (len(video.spans), 1, 1024)
            assert np.ptp(video.flow.astype(float)) > 0


def test_the_comparison_sees_a_changed_byte_and_a_stray_file(tmp_path):
    videos = make_videos(tmp_path / "videos", count=3)
    for name in ("one", "two"):
        extract_all(tmp_path / name, videos, make_runner("process"))
    assert differences(tmp_path / "one", tmp_path / "two") == []
    shard = tmp_path / "one" / "shards" / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (tmp_path / "one" / "left.tmp-host-1-2").touch()
    found = " ".join(differences(tmp_path / "one", tmp_path / "two"))
    assert "differ" in found and "left.tmp-host-1-2" in found


def test_the_moments_cover_the_work():
    drawn = sorted(moments(10, 5.0, 0))
    assert all(part * 0.5 <= moment <= (part + 1) * 0.5 for part, moment in enumerate(drawn))
