"""Alarms, clocks, sources and records, each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vadprep.core.errors import SettingError
from vadprep.online import AlarmRecord, ScoreRecord, SourceRecord, as_json
from vadprep.online.alarms import AlarmRule, AlarmState
from vadprep.online.clock import StreamClock
from vadprep.online.source import parse_sources


def alarms_of(scores: list[float], rule: AlarmRule) -> list[AlarmRecord]:
    """Changes that clips of one second each make."""
    state = AlarmState("camera", rule)
    found = [
        record
        for second, score in enumerate(scores)
        for record in state.add(score, (second, second + 1), second + 1)
    ]
    return found + list(state.end(len(scores)))


def test_an_alarm_has_hysteresis() -> None:
    scores = [0.1, 0.5, 0.7, 0.5, 0.45, 0.3, 0.5, 0.1]
    found = alarms_of(scores, AlarmRule(0.6, 0.4))
    assert [(each.state, each.seconds) for each in found] == [("on", (2, 3)), ("off", (2, 5))]
    assert found[1].score == 0.7
    assert [each.time for each in found] == [3, 6]


def test_a_short_alarm_is_not_reported() -> None:
    scores = [0.9, 0.1, 0.9, 0.9, 0.8, 0.1, 0.9]
    found = alarms_of(scores, AlarmRule(0.5, 0.5, least=3))
    assert [(each.state, each.seconds) for each in found] == [("on", (2, 5)), ("off", (2, 5))]


def test_an_alarm_ends_with_its_source() -> None:
    found = alarms_of([0.9, 0.9], AlarmRule())
    assert [each.state for each in found] == ["on", "off"]


@pytest.mark.parametrize("values", [(0.4, 0.6, 0), (1.1, 0.5, 0), (0.5, -0.1, 0), (0.5, 0.5, -1)])
def test_a_rule_that_makes_no_sense_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(SettingError):
        AlarmRule(*values)


def test_the_clock_tells_late_missing_and_jumping_frames() -> None:
    clock = StreamClock(0.04)
    assert [clock.add(0.04 * k).kind for k in range(20)] == ["next"] * 20
    assert clock.add(0.70) == ("late", 0)
    assert clock.add(0.80) == ("next", 0)
    assert clock.add(0.96) == ("next", 3)
    assert clock.add(1000.0) == ("jump", 0)
    assert clock.add(1000.04) == ("next", 0)
    assert clock.add(2.0) == ("jump", 0)
    assert clock.add(2.04) == ("next", 0)


def test_the_clock_follows_another_rate() -> None:
    clock = StreamClock(0.04)
    for each in range(100):
        clock.add(each * 0.2)
    assert clock.step == pytest.approx(0.2) and clock.add(20.0) == ("next", 0)
    assert clock.other_step() == pytest.approx(0.2) and clock.other_step() is None


def test_a_varying_rate_has_no_holes() -> None:
    clock, at = StreamClock(0.04), 0.0
    verdicts = []
    for each in range(100):
        at += (0.03, 0.3)[each % 2]
        verdicts.append(clock.add(at))
    assert not any(verdict.missing for verdict in verdicts[50:]) and clock.other_step() is None


def test_names_of_sources_hold_no_credentials_and_differ(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.touch()
    urls = ["rtsp://bob:hunter2@cam/live?key=hunter2", "rtsp://al:hunter2@cam/live", str(file)]
    found = parse_sources(urls)
    assert [each.name for each in found] == ["rtsp://cam/live", "rtsp://cam/live (2)", str(file)]
    assert [each.kind for each in found] == ["stream", "stream", "file"]
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    "address", ["ftp://x/a.mp4", "file:///etc/passwd", "none.mp4", "concat://"]
)
def test_other_sources_are_refused(address: str) -> None:
    with pytest.raises(SettingError):
        parse_sources(address)


def test_a_record_is_one_line_of_json() -> None:
    score = ScoreRecord("cam", 1.5, (0, 16), (0.0, 0.64), 0.25, True, 0.5, 2, 1)
    fields = json.loads(as_json(score))
    assert list(fields)[:3] == ["kind", "source", "time"]
    assert fields["kind"] == "score" and fields["time"] == "1970-01-01T00:00:01.500Z"
    assert fields["frames"] == [0, 16] and fields["alarm"] is True
    lost = json.loads(as_json(SourceRecord("a\nb", 0, "lost", "why")))
    assert (lost["kind"], lost["source"]) == ("source", "a\nb")
    assert "\n" not in as_json(SourceRecord("a\nb", 0, "lost"))
