"""Where the time of an extraction went, from its events, and what would make it faster."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vadprep.extraction.costs import Costs, Machines, bottleneck, gains

SLOWEST = 10

WAITING = "decode"
"""The stage in which a worker waits for frames."""
DECODING = "decoding"
"""Seconds of the decoder itself, which runs beside its worker."""
OTHER = "other"
"""Between the start and the end of a video in no stage: starting a decoder, waiting for a turn."""

MEANING = {
    WAITING: "waiting for the decoder",
    "resize": "resizing, cropping",
    "flow": "TV-L1, or reading saved flow",
    "compute": "the network",
    "write": "writing features",
    OTHER: "starting decoders, waiting for a turn",
}


@dataclass(frozen=True)
class Slow:
    """One of the videos that took longest."""

    video_id: str
    seconds: float
    num_clips: int


@dataclass(frozen=True)
class Stages:
    """Sums over the videos that are done and have been timed."""

    videos: int
    clips: int
    seconds: Mapping[str, float]
    """Of the workers, by stage."""
    decoding: float | None
    """Of the decoders; None when a video has none on record."""
    slowest: tuple[Slow, ...]
    machines: Machines | None
    """Of the last run that says so, all its ranks together."""

    @property
    def costs(self) -> Costs | None:
        """Of a clip; None without clips or without the decoders' seconds."""
        if not self.clips or self.decoding is None:
            return None
        stages = {
            name: seconds / self.clips
            for name, seconds in self.seconds.items()
            if name not in (WAITING, OTHER)
        }
        return Costs(self.decoding / self.clips, stages)


def stages_of(events: Iterable[Mapping[str, Any]]) -> Stages:
    """Sums over ``events``, those of a rank in their order."""
    seconds: Counter[str] = Counter()
    started: dict[str, float] = {}
    slowest: list[tuple[float, str, int]] = []
    runs: list[Mapping[str, Any]] = []
    videos = clips = 0
    decoding: float | None = 0.0
    for event in events:
        video_id = event["video_id"]
        if event["event"] == "run":
            runs.append(event)
        elif event["event"] == "start":
            started[video_id] = event["time"]
        elif event["event"] == "committed" and not event.get("recovered"):
            spent = dict(event["seconds"])
            own = spent.pop(DECODING, None)
            decoding = None if own is None or decoding is None else decoding + own
            whole = event["time"] - started.pop(video_id, event["time"])
            spent[OTHER] = max(0.0, whole - sum(spent.values()))
            seconds.update(spent)
            videos, clips = videos + 1, clips + event["num_clips"]
            entry = (max(whole, sum(spent.values())), video_id, event["num_clips"])
            keep = heapq.heappush if len(slowest) < SLOWEST else heapq.heappushpop
            keep(slowest, entry)
    return Stages(
        videos,
        clips,
        seconds,
        decoding if videos else None,
        tuple(Slow(each, took, count) for took, each, count in sorted(slowest, reverse=True)),
        _together(runs),
    )


def _together(runs: Iterable[Mapping[str, Any]]) -> Machines | None:
    """The machines of all ranks of the latest run, by the events that say what they are."""
    told = [each for each in runs if "workers" in each]
    if not told:
        return None
    latest = max(told, key=lambda each: each["time"])
    ranks = {each["rank"]: each for each in told if each["world_size"] == latest["world_size"]}
    return Machines(
        workers=sum(each["workers"] for each in ranks.values()),
        decoders=latest["decoders"],
        cores=sum(each["cores"] for each in ranks.values()),
        has_gpus=latest["device"] == "cuda",
    )


def rows(stages: Stages) -> list[tuple[object, ...]]:
    """A line for each stage of the workers, and one for the decoders beside them."""
    total = max(sum(stages.seconds.values()), 1e-9)
    clips = max(stages.clips, 1)
    head = ("stage", "seconds", "s a clip", "share", "what it is")
    lines = [
        (name, f"{spent:.1f}", f"{spent / clips:.4f}", f"{spent / total:.0%}", MEANING.get(name))
        for name, spent in sorted(stages.seconds.items(), key=lambda each: -each[1])
    ]
    if stages.decoding is not None:
        beside = f"{stages.decoding:.1f}", f"{stages.decoding / clips:.4f}", ""
        lines.append((DECODING, *beside, "the decoders, beside their workers"))
    return [head, *lines]


def as_json(stages: Stages) -> dict[str, Any]:
    """All of it for programs."""
    costs, machines = stages.costs, stages.machines
    return {
        "videos": stages.videos,
        "clips": stages.clips,
        "seconds": dict(stages.seconds),
        "decoding_seconds": stages.decoding,
        "limits": bottleneck(costs, machines) if costs and machines else None,
        "one_more": gains(costs, machines) if costs and machines else {},
        "slowest": [asdict(each) for each in stages.slowest],
        "machines": asdict(machines) if machines else None,
    }


def words(stages: Stages) -> list[str]:
    """What limits and what one more of each would bring, a line each."""
    costs, machines = stages.costs, stages.machines
    if costs is None or machines is None:
        return [
            "what limits is not known: the events do not tell what the decoders or machines did"
        ]
    waiting = stages.seconds.get(WAITING, 0.0) / max(sum(stages.seconds.values()), 1e-9)
    lines = [
        f"{bottleneck(costs, machines)} limits: a clip takes a worker {costs.working:.3f} s and "
        f"its decoder {costs.decoding:.3f} s; workers wait {waiting:.0%} of their time for frames"
    ]
    for name, gain in gains(costs, machines).items():
        lines.append(f"one more {name}: {gain:.2f} x as fast")
    return lines
