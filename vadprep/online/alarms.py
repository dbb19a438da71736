"""Alarms with hysteresis: on from one threshold, off below another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vadprep.core.errors import SettingError
from vadprep.online.records import AlarmRecord


@dataclass(frozen=True)
class AlarmRule:
    """An alarm begins at a clip that scores ``on`` or more and lasts until one below ``off``.

    It is reported once it has lasted ``least`` seconds; a shorter one is never reported. Raises
    SettingError unless 0 <= off <= on <= 1 and least >= 0.
    """

    on: float = 0.5
    off: float = 0.5
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.off <= self.on <= 1:
            raise SettingError(
                f"threshold = {self.on:g},{self.off:g}: expected ON,OFF with 0 <= OFF <= ON <= 1"
            )
        if not self.least >= 0:
            raise SettingError(f"least = {self.least:g}: expected 0 seconds or more")


class AlarmState:
    """The alarm of one source, clip by clip."""

    def __init__(self, source: str, rule: AlarmRule) -> None:
        self._source, self._rule = source, rule
        self._start: float | None = None
        """Second at which the scores rose, while they are high."""
        self._stop = self._highest = 0.0
        self.is_on = False

    def add(self, score: float, seconds: tuple[float, float], time: float) -> Iterator[AlarmRecord]:
        """The change that the next clip makes: at most one record."""
        if self._start is not None and score < self._rule.off:
            yield from self.end(time)
        elif self._start is None and score >= self._rule.on:
            self._start, self._highest = seconds[0], 0.0
        if self._start is None:
            return
        self._stop, self._highest = seconds[1], max(self._highest, score)
        if not self.is_on and self._stop - self._start >= self._rule.least:
            self.is_on = True
            yield self._record("on", time)

    def end(self, time: float) -> Iterator[AlarmRecord]:
        """The end of an alarm that is on, where the source is lost or ends, or scores fell."""
        if self.is_on:
            yield self._record("off", time)
        self._start, self.is_on = None, False

    def _record(self, state: str, time: float) -> AlarmRecord:
        assert self._start is not None
        span = round(self._start, 3), round(self._stop, 3)
        return AlarmRecord(self._source, time, state, span, self._highest)  # type: ignore[arg-type]
