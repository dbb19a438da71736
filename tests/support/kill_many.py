"""Kill an extraction at many moments and see that running it again makes it whole.

    PYTHONPATH=tests python -m support.kill_many --times 100 --seed 0 [--streams rgb,flow]

A SIGKILL hits the whole process group, Ray's processes and all, or the driver alone, a worker of
Ray, or a decoder, at a drawn moment: so many videos of the run have ended, and a part of the time
of one more has passed. So a slow machine is killed at the same work as a fast one. Then the
extraction is run again, and may be killed again; in the end everything is compared with the
undisturbed folder.
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from support.interrupted import RGB, extract_all, make_runner, stream_paths
from support.videos import write_video

from vadprep.core.errors import VadprepError
from vadprep.extraction.ray_runner import WorkerProcess
from vadprep.features.folder import StreamFolder
from vadprep.features.journal import Event, read_events, read_rows
from vadprep.features.reader import open_features
from vadprep.features.status import verify_stream
from vadprep.video import fork_server

TESTS = Path(__file__).parents[1]
SECONDS_TO_DIE = 2.0
IDLE_SECONDS_TO_DIE = 30.0
WITHOUT_OUR_CODE = ("ray::IDLE", f"ray::{WorkerProcess.__init__.__qualname__}")
"""Workers of Ray in which our code does not run yet; they find out later that they are alone."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes of Ray without our code: of a driver killed alone they try to tell others for 60 s."""
AGENT_SECONDS_TO_DIE = 90.0
PATIENCE = 120.0
LONGEST_CHAIN = 5
"""Kills of one extraction."""
LATEST = 0.9
"""The part of the videos that are left after which the last kill comes."""

NAMES = {
    "worker": f"ray::{WorkerProcess.work.__qualname__}",
    "decoder": fork_server.__name__,
}
"""What the command line of a process says of it."""


@dataclass(frozen=True)
class Hit:
    """What is killed: the whole process ``group``, the ``driver`` alone, a ``worker`` of Ray or a
    ``decoder``."""

    runner: str
    target: str

    @property
    def workers(self) -> int:
        return 2 if self.runner == "ray" else 1

    @property
    def goes_on(self) -> bool:
        """The run is to come to its end all the same."""
        return self.target in NAMES


HITS = (
    *(Hit("ray", target) for target in ("group", "driver", "worker", "decoder")),
    *(Hit("process", target) for target in ("group", "driver", "decoder")),
)


@dataclass(frozen=True)
class Kill:
    """What a kill did. ``problems`` is empty when nothing is wrong."""

    hit: Hit
    moment: float
    """Videos of the run that ended before, and the part of one more."""
    finished: bool
    """The run was through before the kill came."""
    committed: int
    """Videos that stood afterwards, and are not to be done again."""
    repeated: int
    """Videos that were in flight and so are, or were, started again."""
    repeated_of: dict[str, int]
    """The same of each stream."""
    half_done: str
    """What the kill left of a shard: nothing, or the steps it was between."""
    problems: tuple[str, ...]
    agents: tuple[psutil.Process, ...] = ()
    """Those of Ray that are still to end."""


def make_videos(folder: Path, count: int = 9, more_frames: int = 37) -> Path:
    """The folder, with short videos of several lengths."""
    folder.mkdir()
    for number in range(count):
        num_frames = 60 + more_frames * (number % 10)
        write_video(folder / f"v{number}.mp4", num_frames, size=(128, 96))
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
    script = [sys.executable, str(TESTS / "support" / "interrupted.py")]
    return subprocess.Popen(
        [*script, str(folder), str(videos), runner, str(workers), ",".join(streams)],
        env=os.environ
        | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_moment(
    process: subprocess.Popen[bytes],
    offsets: Mapping[Path, int],
    moment: float = 0.0,
    seconds_per_video: float = 0.0,
) -> None:
    """Return at the ``moment`` of the run, by default its first start, or at its end.

    ``offsets`` counts the events of each stream's folder that are not of this run. RuntimeError
    when neither comes.
    """
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        events = [e.event for folder, known in offsets.items() for e in events_of(folder)[known:]]
        if "start" in events and len(events) - events.count("start") >= int(moment):
            time.sleep(moment % 1 * seconds_per_video)
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{moment:.1f} videos in {PATIENCE:.0f} s: only {Counter(events)}")
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
    """Make the folder in one go; returns the seconds from the first start to the end.

    By a process like those that are killed: what it loads after its first start counts in both.
    """
    with start(folder, videos, "process", 1, streams) as process:
        _, words = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {last_line(words)}")
    events = read_events(stream_paths(folder, streams)[streams[0]])
    return time.time() - next(each.time for each in events if each.event == "start")


def kill_once(
    folder: Path,
    videos: Path,
    hit: Hit,
    moment: float,
    seconds_per_video: float,
    choose: random.Random,
    streams: Sequence[str],
) -> Kill:
    """Start an extraction, or go on with it, and hit it at the ``moment``.

    A run of which only a worker or a decoder was killed has to come to its end by itself.
    """
    before_shm = shared_memory()
    parts = stream_paths(folder, streams)
    offsets = {path: len(events_of(path)) for path in parts.values()}
    with start(folder, videos, hit.runner, hit.workers, streams) as process:
        wait_for_moment(process, offsets, moment, seconds_per_video)
        members = family(process)
        finished = not strike(hit, process, choose)
        if hit.goes_on:
            _, words = process.communicate()
        else:
            process.wait()
        agents = [each for each in members if _name_if_alive(each).startswith(AGENTS)]
        spared = agents if hit.target == "driver" else []
        to_die = [each for each in members if each not in spared]
        problems = [f"alive after the kill: {each}" for each in survivors(to_die)]
        if not hit.goes_on:
            _, words = process.communicate()  # its pipe is open until the last of them is gone
    if (finished or hit.goes_on) and process.returncode:
        problems.append(f"exit code {process.returncode}: {last_line(words)}")
    if left := shared_memory() - before_shm:
        problems.append(f"left in shared memory: {sorted(left)}")
    lost = {name: repeats(path, offsets[path]) for name, path in parts.items()}
    if max(lost.values()) > hit.workers:
        problems.append(f"more than the {hit.workers} videos in flight are done again: {lost}")
    return Kill(
        hit=hit,
        moment=moment,
        finished=finished,
        committed=sum(map(committed, parts.values())),
        repeated=max(lost.values()),
        repeated_of=lost,
        half_done=", ".join(filter(None, map(left_of_shards, parts.values()))),
        problems=tuple(problems),
        agents=tuple(agents),
    )


def strike(hit: Hit, process: subprocess.Popen[bytes], choose: random.Random) -> bool:
    """Kill what ``hit`` says; False when the run was through before."""
    if hit.target == "group" and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        return True
    while process.poll() is None:  # until there is one, between two videos
        found = [process.pid] if hit.target == "driver" else targets(process, hit.target)
        if found:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(choose.choice(found), signal.SIGKILL)
                return True
        time.sleep(0.005)
    return False


def targets(process: subprocess.Popen[bytes], target: str) -> list[int]:
    """Processes of the kind ``worker`` or ``decoder`` below ``process``."""
    found = {each.pid: _name_if_alive(each) for each in family(process)}
    return [pid for pid, name in found.items() if NAMES[target] in name]


def last_line(words: bytes) -> str:
    return (words.decode(errors="replace").strip().splitlines() or ["no words"])[-1]


def events_of(folder: Path) -> list[Event]:
    return list(read_events(folder)) if folder.is_dir() else []


def repeats(folder: Path, offset: int) -> int:
    """Videos that a run, whose events begin at ``offset``, started again or left in flight."""
    events = events_of(folder)
    starts = Counter(each.video_id for each in events[offset:] if each.event == "start")
    ended = {each.video_id for each in events if each.event != "start"}
    in_flight = set(starts) - ended - unjournaled(folder, ended)
    return sum(starts.values()) - len(starts) + len(in_flight)


def committed(folder: Path) -> int:
    """Number of videos of a stream that stand, with a row or without."""
    if not (folder / "spec.json").exists():
        return 0
    done = {each for each, row in read_rows(folder).items() if row.status == "done"}
    return len(done | unjournaled(folder, done))


def starts_too_many(folder: Path) -> int:
    """Starts of videos of a stream beyond the first of each."""
    starts = [each.video_id for each in read_events(folder) if each.event == "start"]
    return len(starts) - len(set(starts))


def left_of_shards(folder: Path) -> str:
    """Which steps a kill came between: a half-written file, a shard half finished."""
    shards = folder / "shards"
    found = []
    if list(folder.rglob("*.tmp-*")):
        found.append("file half written")
    if any(path.with_suffix(".h5").exists() for path in shards.glob("*.partial")):
        found.append("shard final, parts still there")
    return ", ".join(found)


def unjournaled(folder: Path, known: set[str]) -> set[str]:
    """Videos whose file stands and which are not ``known``."""
    stands = StreamFolder.open(folder)
    ids = {
        stands.plan.shards[shard][position]
        for shard in set(range(len(stands.plan.shards))) - stands.final_shards()
        for position in stands.finished(shard)
    }
    return ids - known


def differences(folder: Path, whole: Path) -> list[str]:
    """Lines for all in which ``folder`` is not what the undisturbed ``whole`` is."""
    found = list(verify_stream(StreamFolder.open(folder)).problems)
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
        if event.event == "start" and event.video_id in done:
            found.append(f"{event.video_id} was committed and started again")
        if event.event == "committed":
            done.add(event.video_id)
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
    hits: Sequence[Hit] = HITS,
    count: int = 60,
) -> list[Kill]:
    """``times`` kills of extractions of ``count`` videos; ``folder`` is for all they make.

    An extraction is killed and run again until it has come to its end or was killed
    ``LONGEST_CHAIN`` times, and is then compared with the undisturbed one.
    """
    videos = make_videos(folder / "videos", count, more_frames=7)
    whole = folder / "whole"
    total = count * len(streams)
    seconds_per_video = undisturbed(whole, videos, streams) / total
    choose = random.Random(seed)
    drawn = list(itertools.islice(itertools.cycle(hits), times))
    choose.shuffle(drawn)
    kills: list[Kill] = []
    chain: list[Kill] = []
    for number, (part, hit) in enumerate(zip(moments(times, 1.0, seed), drawn, strict=True)):
        target = folder / f"killed-{number - len(chain)}"
        moment = part * LATEST * (total - (chain[-1].committed if chain else 0))
        chain.append(kill_once(target, videos, hit, moment, seconds_per_video, choose, streams))
        is_last = len(chain) == LONGEST_CHAIN or number == times - 1
        if is_last or hit.goes_on or chain[-1].finished or chain[-1].committed == total:
            chain[-1] = completed(chain, target, whole, videos, streams)
            shutil.rmtree(target)
        kills.append(chain[-1])
        print(_line(number, kills[-1]), flush=True)
        if not target.exists():
            chain = []
    agents = [each for kill in kills for each in kill.agents]
    psutil.wait_procs(agents, timeout=AGENT_SECONDS_TO_DIE)
    left = tuple(f"alive long after: {name}" for each in agents if (name := _name_if_alive(each)))
    return [*kills[:-1], replace(kills[-1], problems=kills[-1].problems + left)]


def completed(
    chain: Sequence[Kill], folder: Path, whole: Path, videos: Path, streams: Sequence[str]
) -> Kill:
    """The last of ``chain`` with what is wrong once the extraction has been run to its end."""
    extract_all(folder, videos, make_runner("process", streams=streams), streams)
    problems = list(chain[-1].problems)
    for name, path in stream_paths(folder, streams).items():
        problems += differences(path, stream_paths(whole, streams)[name])
        repeated = sum(kill.repeated_of[name] for kill in chain)
        if starts_too_many(path) != repeated:
            problems.append(f"{starts_too_many(path)} videos done again, {repeated} were in flight")
    return replace(chain[-1], problems=tuple(problems))


def _line(number: int, kill: Kill) -> str:
    how = "finished before" if kill.finished else kill.half_done
    result = "; ".join(kill.problems) or "as it should be"
    return (
        f"{number:4d}  {kill.hit.runner:8s} {kill.hit.target:8s} {kill.moment:6.2f}   "
        f"{kill.committed:10d} {kill.repeated:9d}  {result}  {how}"
    )


def main() -> int:
    """1 when a kill did harm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--streams", type=lambda text: text.split(","), default=RGB)
    options = parser.parse_args()
    print("kill  runner   target    moment   committed  repeated  result")
    with tempfile.TemporaryDirectory() as folder:
        kills = kill_many(Path(folder), options.times, options.seed, options.streams)
    hit = [kill for kill in kills if not kill.finished]
    harmed = [kill for kill in kills if kill.problems]
    print(
        f"{len(hit)} of {len(kills)} kills hit a running extraction, {len(harmed)} did harm; "
        f"{sum(kill.repeated for kill in hit)} videos in flight were done again, no committed one; "
        f"{sum(bool(kill.half_done) for kill in hit)} kills came amid the steps of a file or shard"
    )
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
