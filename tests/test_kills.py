"""kill -9 of all or of a part, at ten moments: running the extraction again makes it whole, byte
for byte.

``python tests/kill_many.py --times 100`` does the same a hundred times.
"""

from __future__ import annotations

import pytest
from kill_many import HITS, Hit, differences, kill_many, make_videos, moments, undisturbed


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
    assert all(kill.repeated for kill in kills if kill.hit.target == "worker")
    print(f"done again: {sum(kill.repeated for kill in kills)} videos of 60")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_kills_of_two_streams_cost_only_the_videos_in_flight(tmp_path):
    hits = [Hit("process", target) for target in ("group", "driver", "group")]
    kills = kill_many(tmp_path, 3, 1, streams=("rgb", "flow"), hits=hits, count=6)
    assert [kill.problems for kill in kills] == [()] * 3
    assert any(kill.committed for kill in kills) and any(kill.repeated for kill in kills)
    assert all(kill.repeated <= 1 for kill in kills)


def test_the_comparison_sees_a_changed_byte_and_a_stray_file(tmp_path):
    videos = make_videos(tmp_path / "videos", count=3)
    undisturbed(tmp_path / "one", videos)
    undisturbed(tmp_path / "two", videos)
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
