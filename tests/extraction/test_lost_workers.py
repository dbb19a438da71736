"""Workers that die or cannot be reached, on a scripted Ray."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from vadprep.core.records import Report, Task, Video
from vadprep.extraction import ray_runner
from vadprep.extraction.ray_runner import Pool, RayWorkers
from vadprep.features.shard import DONE

UNREACHABLE = ActorUnavailableError("no way", None)
DEAD = ActorDiedError()
READY = 1
"""The answer of a worker that is ready: how many videos it can have in progress."""


class ScriptedRay:
    """One node with one core. The calls of each worker are answered as its script says.

    After the end of its script, a worker is ready and every video is done.
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self._scripts = iter(scripts)
        self.log: list[str] = []
        """Calls and kills in their order, with the number of the worker."""
        self.count = 0

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, *about: object) -> Any:
        number, script = self.count, iter(next(self._scripts, []))
        self.count += 1

        def call(name: str, answer: Any) -> Any:
            self.log.append(f"{number}: {name}")
            return lambda: next(script, answer)

        def work(task: Task) -> Any:
            name = task.video.video_id
            return call(name, Report(name, DONE))

        return SimpleNamespace(
            number=number,
            ready=SimpleNamespace(remote=lambda: call("ready", READY)),
            work=SimpleNamespace(remote=work),
        )

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any, timeout: float | None = None) -> Any:
        answer = reference()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.log.append(f"{actor.number}: killed")

    def nodes(self) -> list[dict[str, Any]]:
        names = {"NodeManagerHostname": "h", "NodeManagerAddress": "1"}
        return [{"NodeID": "1f" * 28, "Alive": True, "Resources": {"CPU": 1}, **names}]

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1}


def run(
    monkeypatch: pytest.MonkeyPatch, names: str, *scripts: list[Any], videos: int = 1
) -> list[str]:
    """The log of a run over videos of one letter, all of which end well."""

    def forever(seconds: float) -> None:
        raise AssertionError("nobody has been asked for anything")

    scripted = ScriptedRay(*scripts)
    monkeypatch.setattr(ray_runner, "ray", scripted)
    monkeypatch.setattr(ray_runner.time, "sleep", forever)
    tasks = [Task(Video(name, name), {}) for name in names]
    pool = Pool(1, videos=videos, most_videos=videos)
    reports: Iterator[Report] = RayWorkers(lambda: None, pool, None).run(tasks, lambda _: None)
    assert sorted((each.video_id, each.status) for each in reports) == [(n, DONE) for n in names]
    return scripted.log


def test_a_worker_that_stays_out_of_reach_and_is_dead_in_the_end_is_replaced(monkeypatch):
    log = run(monkeypatch, "ab", [READY, UNREACHABLE, UNREACHABLE, DEAD])
    assert log == [
        *("0: ready", "0: a", "0: ready", "0: ready", "0: killed"),
        *("1: ready", "1: a", "1: b"),
    ]


def test_a_worker_that_was_out_of_reach_gives_way_to_one_without_old_work(monkeypatch):
    log = run(monkeypatch, "ab", [READY, UNREACHABLE, READY])
    assert log == ["0: ready", "0: a", "0: ready", "0: killed", "1: ready", "1: a", "1: b"]


def test_the_way_to_a_worker_with_a_suspect_is_lost(monkeypatch):
    log = run(monkeypatch, "ab", [READY, DEAD], [READY, UNREACHABLE, READY])
    assert log == [
        *("0: ready", "0: a", "0: killed", "1: ready", "1: a", "1: ready", "1: killed"),
        *("2: ready", "2: a", "2: b"),
    ]


def test_a_report_that_comes_as_its_worker_dies_counts(monkeypatch):
    log = run(monkeypatch, "ab", [2, DEAD, Report("b", DONE)], videos=2)
    assert log == ["0: ready", "0: a", "0: b", "0: killed", "1: ready", "1: a"]
