"""Kill an extraction at many moments and see that running it again makes it whole.

    python tests/kill_many.py --times 100 --seed 0 [--streams rgb,flow]

Each kill has a folder of its own. A SIGKILL hits the whole process group, Ray's processes and
all, at a moment drawn from the time that the undisturbed work takes, counted from the first
video's start. Then the extraction is run again, and everything is compared with the undisturbed
folder.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from interrupted import RGB, extract_all, make_runner, stream_paths
from videos import write_video

from vadprep.features import open_features
from vadprep.folder import StreamFolder
from vadprep.journal import read_events, read_rows
from vadprep.records import VadprepError
from vadprep.verify import verify

TESTS = Path(__file__).parent
RUNNERS = ("ray", "process", "process")
"""What the kills hit, in turn: Ray has two workers."""
SECONDS_TO_DIE = 2.0
IDLE_SECONDS_TO_DIE = 30.0
WITHOUT_OUR_CODE = ("ray::IDLE", "ray::_Actor.__init__")
"""Workers of Ray in which our code does not run yet; they find out later that they are alone."""
PATIENCE = 120.0


@dataclass(frozen=True)
class Kill:
    """What a kill did. ``problems`` is empty when nothing is wrong."""

    runner: str
    moment: float
    """Seconds after the first start event."""
    finished: bool
    """The run was through before the kill came."""
    committed: int
    """Videos that stood before the kill, and are not to be done again."""
    repeated: int
    """Videos that were started before and again after the kill."""
    half_done: str
    """What the kill left of a shard: nothing, or the steps it was between."""
    problems: tuple[str, ...]


def make_videos(folder: Path, count: int = 9) -> Path:
    """The folder, with short videos of several lengths."""
    folder.mkdir()
    for number in range(count):
        write_video(folder / f"v{number}.mp4", 60 + 37 * number, size=(128, 96))
    return folder


def snippets(folder: Path) -> dict[str, bytes]:
    """Features and spans of each video of a stream, as bytes."""
    with open_features(folder) as features:
        (stream,) = features.streams
        return {
            each: features[each].stream(stream).tobytes() + features[each].spans.tobytes()
            for each in features
        }


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def shared_memory() -> set[str]:
    """Names in /dev/shm but for semaphores, which neither Ray nor we make."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def start(
    folder: Path, videos: Path, runner: str, workers: int, streams: Sequence[str] = RGB
) -> subprocess.Popen[bytes]:
    """An extraction in a process group of its own."""
    script = [sys.executable, str(TESTS / "interrupted.py")]
    return subprocess.Popen(
        [*script, str(folder), str(videos), runner, str(workers), ",".join(streams)],
        env=os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_start(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return at the first start event; raises RuntimeError when none comes."""
    events = folder / "events-00000.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (events.exists() and b'"start"' in events.read_bytes()):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no video was started: exit code {process.poll()}")
        time.sleep(0.005)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The process and all below it: Ray, its workers, the decoders."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def survivors(processes: Sequence[psutil.Process]) -> list[str]:
    """Names of those that outlive their time."""
    start = time.monotonic()
    while alive := {each: name for each in processes if (name := _name_if_alive(each))}:
        is_idle = all(name.startswith(WITHOUT_OUR_CODE) for name in alive.values())
        if time.monotonic() - start > (IDLE_SECONDS_TO_DIE if is_idle else SECONDS_TO_DIE):
            return sorted(alive.values())
        time.sleep(0.02)
    return []


def _name_if_alive(process: psutil.Process) -> str:
    try:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline()[:4]) or process.name()
    except psutil.NoSuchProcess:
        pass
    return ""


def undisturbed(folder: Path, videos: Path, streams: Sequence[str] = RGB) -> float:
    """Make the folder in one go; returns the seconds from the first start to the end."""
    extract_all(folder, videos, make_runner("process", streams=streams), streams)
    events = read_events(stream_paths(folder, streams)[streams[0]])
    return time.time() - next(each["time"] for each in events if each["event"] == "start")


def kill_once(
    folder: Path, whole: Path, videos: Path, runner: str, moment: float, streams: Sequence[str]
) -> Kill:
    """Start an extraction, kill it ``moment`` seconds after its first start, and run it again."""
    before_shm = shared_memory()
    parts = stream_paths(folder, streams)
    process = start(folder, videos, runner, 2 if runner == "ray" else 1, streams)
    wait_for_start(parts[streams[0]], process)
    time.sleep(moment)
    members = family(process)
    finished = process.poll() is not None
    if not finished:
        os.killpg(process.pid, signal.SIGKILL)
    _, words = process.communicate()
    problems = [f"alive after the kill: {each}" for each in survivors(members)]
    if finished and process.returncode:
        problems.append(f"ended by itself: {words.decode().strip().splitlines()[-1]}")
    half_done = ", ".join(filter(None, map(left_of_shards, parts.values())))
    in_file = sum(map(committed, parts.values()))
    extract_all(folder, videos, make_runner("process", streams=streams), streams)
    for name, expected in stream_paths(whole, streams).items():
        problems += differences(parts[name], expected)
    if left := shared_memory() - before_shm:
        problems.append(f"left in shared memory: {sorted(left)}")
    repeated = max(map(started_twice, parts.values()))
    return Kill(runner, moment, finished, in_file, repeated, half_done, tuple(problems))


def committed(folder: Path) -> int:
    """Number of videos of a stream that stand, with a row or without."""
    if not (folder / "spec.json").exists():
        return 0
    done = {each for each, row in read_rows(folder).items() if row.status == "done"}
    return len(done) + unjournaled(folder, done)


def started_twice(folder: Path) -> int:
    """Number of videos of a stream that were started more than once."""
    starts = Counter(each["video_id"] for each in read_events(folder) if each["event"] == "start")
    return sum(count > 1 for count in starts.values())


def left_of_shards(folder: Path) -> str:
    """Which steps a kill came between: a half-written file, a shard half finished."""
    shards = folder / "shards"
    found = []
    if list(folder.rglob("*.tmp-*")):
        found.append("file half written")
    if any(path.with_suffix(".h5").exists() for path in shards.glob("*.partial")):
        found.append("shard final, parts still there")
    return ", ".join(found)


def unjournaled(folder: Path, done: set[str]) -> int:
    """Number of videos whose file stands and whose row does not."""
    stands = StreamFolder.open(folder)
    ids = [
        stands.plan.shards[shard][position]
        for shard in set(range(len(stands.plan.shards))) - stands.final_shards()
        for position in stands.finished(shard)
    ]
    return len(set(ids) - done)


def differences(folder: Path, whole: Path) -> list[str]:
    """Lines for all in which ``folder`` is not what the undisturbed ``whole`` is."""
    found = list(verify(StreamFolder.open(folder)).problems)
    try:
        if snippets(folder) != snippets(whole):
            found.append("features or spans differ")
    except VadprepError as error:
        found.append(f"features or spans differ: {error}")
    if files_in(folder) != files_in(whole):
        found.append(f"files differ: {sorted(set(files_in(folder)) ^ set(files_in(whole)))}")
    rows, expected = read_rows(folder), read_rows(whole)
    if {each: row.checksum for each, row in rows.items()} != {
        each: row.checksum for each, row in expected.items()
    }:
        found.append("journals differ")
    return found + restarted(folder)


def restarted(folder: Path) -> list[str]:
    """Lines for committed videos that were started again."""
    done: set[str] = set()
    found = []
    for event in read_events(folder):
        if event["event"] == "start" and event["video_id"] in done:
            found.append(f"{event['video_id']} was committed and started again")
        if event["event"] == "committed":
            done.add(event["video_id"])
    return found


def moments(times: int, seconds: float, seed: int) -> list[float]:
    """One moment in each of ``times`` equal parts of the work, in mixed order."""
    generator = random.Random(seed)
    drawn = [seconds * (part + generator.random()) / times for part in range(times)]
    generator.shuffle(drawn)
    return drawn


def kill_many(
    folder: Path,
    times: int,
    seed: int,
    streams: Sequence[str] = RGB,
    runners: Sequence[str] = RUNNERS,
    count: int = 9,
) -> list[Kill]:
    """``times`` kills, ``runners`` in turn; ``folder`` is for ``count`` videos and features."""
    videos = make_videos(folder / "videos", count)
    seconds = undisturbed(folder / "whole", videos, streams)
    kills = []
    drawn = zip(moments(times, seconds, seed), itertools.cycle(runners), strict=False)
    for number, (moment, runner) in enumerate(drawn):
        target = folder / f"killed-{number}"
        kills.append(kill_once(target, folder / "whole", videos, runner, moment, streams))
        shutil.rmtree(target)
        print(_line(number, kills[-1]), flush=True)
    return kills


def _line(number: int, kill: Kill) -> str:
    how = "finished before" if kill.finished else kill.half_done
    result = "; ".join(kill.problems) or "same bytes"
    return (
        f"{number:4d}  {kill.runner:8s} {kill.moment:6.2f} s {kill.committed:10d} "
        f"{kill.repeated:9d}  {result}  {how}"
    )


def main() -> int:
    """1 when a kill did harm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=lambda text: text.split(","), default=RGB)
    options = parser.parse_args()
    print("kill  runner     moment  committed  repeated  result")
    with tempfile.TemporaryDirectory() as folder:
        kills = kill_many(Path(folder), options.times, options.seed, options.streams)
    hit = [kill for kill in kills if not kill.finished]
    harmed = [kill for kill in kills if kill.problems]
    print(
        f"{len(hit)} of {len(kills)} kills hit a running extraction, {len(harmed)} did harm; "
        f"{sum(kill.committed for kill in hit)} committed videos were kept, "
        f"{sum(kill.repeated for kill in hit)} videos in flight were done again; "
        f"{sum(bool(kill.half_done) for kill in hit)} kills came amid the steps of a file or shard"
    )
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
