"""The lease of a run on its shards of a stream: two runs never work on one shard at once.

    FEATURES/rgb/lease-00003-of-00008-node7-x5f09c2de-41113.json    rank 3 of 8, process 41113 of
                                                                    node7

The name of a lease tells whether two runs have a shard in common. The word x5f09c2de is drawn by
each run, since containers may share a host name and each count its processes from 1. Runs of older
versions draw none, and take it for a part of the host name.

The file is created before the run looks for others: of two runs that begin at once at least one
sees the other, and whoever sees a living one stops. So two may both stop, but never both go on.

The file is a heartbeat, written again in place every few seconds. A lease of a dead process of
this machine is removed at once. Any other is watched, that of another container, too, since clocks
of hosts cannot be compared:
what stays the same for STALE_SECONDS is removed, and its run ends at its next heartbeat or commit.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vadprep.core.atomic import disk_errors, is_alive, names_in
from vadprep.core.errors import FeaturesError, LeaseError, OutputError, VadprepError
from vadprep.core.log import get_logger
from vadprep.core.untrusted import parse_json, read_regular

logger = get_logger(__name__)

BEAT_SECONDS = 2.0
"""Between two heartbeats."""
STALE_SECONDS = 30.0
"""How long a lease is watched before it counts as that of a dead run."""
LOOK_SECONDS = 0.5
"""Between two looks at the leases of others."""

NAME = re.compile(
    r"lease-(\d{1,9})-of-0*([1-9]\d{0,8})-(.+?)(?:-(x[0-9a-f]{8}))?-(\d{1,9})\.json", re.DOTALL
)
KINDS: dict[str, type | tuple[type, ...]] = dict(
    machine=str, began=int, job=str, since=(float, int), beat=int, videos=int, num_clips=int,
    num_frames=int, in_flight=list,
)  # fmt: skip
"""Types of what is read of a lease beside its name."""


@dataclass(frozen=True)
class Run:
    """A run as its lease describes it."""

    rank: int
    world_size: int
    host: str
    process: int
    machine: str = ""
    """Where the process number means something: boot and process name space."""
    began: int = 0
    """When the process began, in ticks of its machine: numbers of processes are used again."""
    job: str = ""
    """SLURM's, as ``scancel`` takes it."""
    since: float = 0.0
    """Seconds since 1970 when the run took the lease, by the clock of its host."""
    beat: int = 0
    videos: int = 0
    """Finished, failed or skipped by this run so far, with their clips and frames."""
    num_clips: int = 0
    num_frames: int = 0
    in_flight: tuple[str, ...] = ()
    """Ids of the videos that are being extracted."""
    word: str = ""
    """Drawn by the run, as ``x5f09c2de``; blank in leases of older versions."""
    silent_seconds: float = field(default=0.0, compare=False)
    """Since the file was last written; only known to its readers."""

    @classmethod
    def of_this_process(cls, rank: int, world_size: int) -> Run:
        """The run of this process."""
        process, known = os.getpid(), os.environ
        job = known.get("SLURM_JOB_ID", "")
        if "SLURM_ARRAY_JOB_ID" in known and "SLURM_ARRAY_TASK_ID" in known:
            job = f"{known['SLURM_ARRAY_JOB_ID']}_{known['SLURM_ARRAY_TASK_ID']}"
        place = socket.gethostname(), process, _machine(), _begin_of(process)
        word = f"x{secrets.token_hex(4)}"
        return cls(rank, world_size, *place, job, since=time.time(), word=word)

    @property
    def name(self) -> str:
        """Name of the file."""
        share = f"{self.rank:05d}-of-{self.world_size:05d}"
        owner = "-".join(filter(None, (self.host, self.word, str(self.process))))
        return f"lease-{share}-{owner}.json"

    @property
    def is_dead(self) -> bool:
        """True when it ran on this machine and does not any more."""
        return self.machine == _machine() != "" and _begin_of(self.process) not in (0, self.began)

    def meets(self, other: Run) -> bool:
        """True when both own one of the shards, of which there may be any number."""
        return (self.rank - other.rank) % math.gcd(self.world_size, other.world_size) == 0

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        share = f"rank {self.rank} of {self.world_size}"
        return f"{share} on host {self.host}, process {self.process}{job}"


def _machine() -> str:
    """The same for processes that can see each other; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _begin_of(process: int) -> int:
    """Start of a process in ticks since the boot; -1 when it is dead, a zombie too."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0 if is_alive(process) else -1  # 0: hidden from us
    return -1 if after_name[0] in "ZX" else int(after_name[19])


def running(folder: Path) -> list[Run]:
    """The runs that have a lease in the folder of a stream, by rank, without those known to be
    dead. Of a run on another machine only ``silent_seconds`` tells whether it lives."""
    return [run for run in _leases(folder) if not run.is_dead]


def _leases(folder: Path) -> Iterator[Run]:
    """The runs of all leases; a file that is half written says no more than its name.

    Raises FeaturesError for what is no file or cannot be read.
    """
    for match in filter(None, map(NAME.fullmatch, sorted(names_in(folder)))):
        path, known = folder / match[0], dict[str, Any]()
        named = {"rank": int(match[1]), "world_size": int(match[2]), "host": match[3]}
        named |= {"word": match[4] or "", "process": int(match[5])}
        with suppress(FileNotFoundError):
            content = read_regular(path, FeaturesError)
            with suppress(VadprepError):
                values = parse_json(content, path, FeaturesError)
                known = {name: values[name] for name in values.keys() & KINDS.keys()}
                if not all(isinstance(each, KINDS[name]) for name, each in known.items()):
                    known = {}
            in_flight = [each for each in known.get("in_flight", ()) if isinstance(each, str)]
            known["in_flight"] = tuple(in_flight)
            known["silent_seconds"] = max(0.0, time.time() - path.stat().st_mtime)
            yield Run(**known | named)


class Lease:
    """This run's lease on its shards of the stream in ``folder``; see ``leased``."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.path = folder / run.name
        self._run = run  # changed by one thread alone, while another writes heartbeats
        self._beats = self._length = 0
        with disk_errors(self.path):
            open(self.path, "x").close()

    def started(self, video_id: str) -> None:
        """A video is being extracted."""
        in_flight = dict.fromkeys((*self._run.in_flight, video_id))  # once, if done again
        self._run = replace(self._run, in_flight=tuple(in_flight))

    def ended(self, video_id: str, num_clips: int, num_frames: int) -> None:
        """A video is not being extracted any more."""
        run = self._run
        self._run = replace(
            run,
            videos=run.videos + 1,
            num_clips=run.num_clips + num_clips,
            num_frames=run.num_frames + num_frames,
            in_flight=tuple(each for each in run.in_flight if each != video_id),
        )

    def check(self) -> None:
        """Raise LeaseError when another run has removed the lease. Called before a commit."""
        try:
            open(self.path).close()  # on NFS that asks the server
        except FileNotFoundError:
            raise LeaseError(
                f"{self.path}: another run has taken over this run's shards, since it gave no "
                f"sign of life for {STALE_SECONDS:g} s (suspended?): it ends here, and what it "
                "had committed is safe"
            ) from None
        except OSError:  # the disk is in trouble: no sign that it was removed
            pass

    def write(self) -> None:
        """Write it again, in place, filled up to cover the longest text so far."""
        self.check()
        self._beats += 1
        text = json.dumps(asdict(replace(self._run, beat=self._beats))).encode()
        self._length = max(self._length, len(text))
        with disk_errors(self.path), open(self.path, "r+b") as file:
            file.write(text.ljust(self._length))
            file.flush()
            os.fsync(file.fileno())

    def acquire(self) -> None:
        """Wait until no other run has a lease on one of the shards; LeaseError if one is alive."""
        folder, mine = self.path.parent, self._run
        seen: dict[str, tuple[Run, float]] = {}  # what a lease held, and when it was first seen
        while True:
            others = [run for run in _leases(folder) if run.name != mine.name and run.meets(mine)]
            for other in others:
                path, now = folder / other.name, time.monotonic()
                if other.name not in seen and not other.is_dead:
                    logger.warning("%s: another run? Watching it for %g s", path, STALE_SECONDS)
                before, since = seen.setdefault(other.name, (other, now))
                if other.is_dead:
                    path.unlink(missing_ok=True)
                elif other != before:
                    job, there = shlex.quote(other.job), f"kill {other.process} there"
                    end_it = f"scancel {job}" if other.job else there
                    raise LeaseError(
                        f"{folder}: another run works on shards of rank {mine.rank} of "
                        f"{mine.world_size}: {other}; wait for its end, or end it ({end_it})"
                    )
                elif now - since > STALE_SECONDS:
                    logger.warning("%s: no sign of life, its shards are taken over", path)
                    path.unlink(missing_ok=True)
            if not others:
                return self.check()
            time.sleep(LOOK_SECONDS)


@contextmanager
def leased(
    folder: Path, rank: int, world_size: int, on_loss: Callable[[], None]
) -> Iterator[Lease]:
    """Hold ``shards[rank::world_size]`` of the stream in ``folder`` for the time of the block.

    Raises LeaseError when another run does: at the start, or at the end of the block when another
    has taken them over meanwhile, in place of whatever error of ours that has led to. ``on_loss``
    is called from another thread as soon as that is known, to end the block.
    """
    lease = Lease(folder, Run.of_this_process(rank, world_size))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            try:
                lease.write()
            except LeaseError:
                return on_loss()
            except OutputError:  # a full disk: the next heartbeat may succeed
                pass

    thread = threading.Thread(target=beat, daemon=True)
    try:
        lease.write()
        thread.start()
        lease.acquire()
        yield lease
    except VadprepError:
        lease.check()
        raise
    finally:
        ended.set()
        if thread.ident:
            thread.join()
        with suppress(OSError):
            lease.path.unlink(missing_ok=True)
