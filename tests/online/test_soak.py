"""Hours of a stream in minutes: memory, files and processes do not grow; SIGTERM ends it.

VADPREP_SOAK_MINUTES is how long the stream is, at 20 times real time; an hour takes 3 minutes on a
quiet machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.stream_server import SILENCE, StreamServer
from support.videos import write_video

from vadprep.core.child import INSTALLED_ONLY
from vadprep.online.capture_process import MOST_PACE

MINUTES = float(os.environ.get("VADPREP_SOAK_MINUTES", "60"))
SPEED, RATE, FRAMES = 20, 25, 1000
PROGRAM = """
import sys
sys.path.append({tests!r})
import vadprep
from support import live
from vadprep.online.alarms import AlarmRule

def start(run, sources, *, threshold, port, **options):
    return live.start(live.make_checkpoint(), sources, AlarmRule(*threshold), port=port)

vadprep.live = start
from vadprep.cli.main import main
main()
"""


def long_stream(folder: Path, num_frames: int) -> bytes:
    """An MPEG-TS that is handed on at SPEED times RATE: the same FRAMES again and again."""
    fps = round(RATE * SPEED / MOST_PACE)
    short = write_video(folder / "short.mkv", FRAMES, size=(160, 120), fps=fps, codec="libx264")
    with av.open(str(short)) as file, av.open(str(folder / "long.ts"), "w") as copy:
        video = file.streams.video[0]
        packets = [each for each in file.demux(video) if each.dts is not None]
        stream = copy.add_stream_from_template(video)
        content = [
            (bytes(p), p.pts * p.time_base, p.dts * p.time_base, p.is_keyframe) for p in packets
        ]
        for number in range(num_frames // FRAMES):
            shift = Fraction(number * FRAMES, fps)
            for data, pts, dts, is_keyframe in content:
                packet = av.Packet(data)
                packet.time_base = Fraction(1, 90_000)
                packet.pts, packet.dts = (round((t + shift) * 90_000) for t in (pts, dts))
                packet.is_keyframe = is_keyframe
                packet.stream = stream
                copy.mux(packet)
    return (folder / "long.ts").read_bytes()


def memory_and_files(pid: int) -> tuple[float, int]:
    """MiB that a process and its child hold, and its open files."""
    memory = 0.0
    for each in [pid, *children(pid)]:
        for line in Path("/proc", str(each), "status").read_text().splitlines():
            if line.startswith("RssAnon"):
                memory += int(line.split()[1]) / 1024
    return memory, len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> list[int]:
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path("/proc", each, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(each))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_flat_and_nothing_is_left(tmp_path: Path) -> None:
    num_frames = round(MINUTES * 60 * RATE) // FRAMES * FRAMES
    content = long_stream(tmp_path, num_frames)
    measured: list[tuple[float, int]] = []
    with StreamServer([content, SILENCE]) as server:
        program = INSTALLED_ONLY + PROGRAM.format(tests=str(Path(__file__).parents[1]))
        command = [sys.executable, "-c", program, "live", str(tmp_path)]
        command += [f"http://{server.place}/", "--threshold", "0.5,0.49", "--port", "0"]
        process = subprocess.Popen([*command, "-q"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        records, stop = [], 0
        while stop < num_frames - 200:
            records.append(json.loads(process.stdout.readline()))
            if records[-1]["kind"] == "score":
                stop = records[-1]["frames"][1]
                if stop >= num_frames * (len(measured) + 1) / 8:
                    measured.append(memory_and_files(process.pid))
        (child,) = children(process.pid)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
        seconds = time.monotonic() - begin
    records += map(json.loads, rest.splitlines())
    print(f"\n{MINUTES:g} minutes: MiB and open files {measured}, ended in {seconds:.1f} s")
    assert process.returncode == 75 and seconds < 5
    assert not Path("/proc", str(child)).exists()
    early, late = measured[1], measured[-1]
    assert late[0] - early[0] < 30 and late[1] <= early[1] + 2
    lost = sum(each.get("lost_frames", 0) for each in records)
    dropped = sum(each.get("dropped_clips", 0) for each in records)
    scores = [each for each in records if each["kind"] == "score"]
    print(f"{len(scores)} clips scored, {dropped} dropped, {lost} frames lost")
    assert len(scores) + dropped + lost / 16 > 0.95 * num_frames / 16
    assert threading.active_count() < 20
